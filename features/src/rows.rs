//! Samples as rows: what `ingest` passes to be written, and the columns that it becomes.
//!
//! A row is checked against its spec before it is written, so no shard contradicts its schema.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float16Array, Float32Array, Int32Array, ListArray,
    RecordBatch, StringArray, StructArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field};
use datasets::{Modality, Split};

use crate::schema::{
    MelDtype, ShardSpec, content_column, frame_times_column, has_column, image_fields, item,
    seconds_column,
};
use media::Error;
use media::mel::{MAX_MEL_FRAMES, MEL_BINS, Mel};

/// A sample, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The id, unique in the dataset.
    pub id: String,
    /// The split.
    pub split: Split,
    /// The class indices; exactly one where the dataset is single-label.
    pub labels: Vec<u32>,
    /// What the sample has of each modality.
    pub contents: [Option<RowContent>; 2],
    /// The start and end of the labelled event in seconds.
    pub segment: Option<(f32, f32)>,
    /// The path of the input, relative to the raw tree.
    pub source: String,
    /// The reason for which the sample lacks a modality that it should have, or a part of one.
    pub error: Option<String>,
}

impl Row {
    /// Returns a row without a modality.
    pub fn new(id: impl Into<String>, split: Split, labels: Vec<u32>) -> Self {
        Row {
            id: id.into(),
            split,
            labels,
            contents: [None, None],
            segment: None,
            source: String::new(),
            error: None,
        }
    }
}

/// What a sample has of one modality.
#[derive(Debug, Clone, PartialEq)]
pub enum RowContent {
    /// Audio.
    Mel {
        /// The log-mel spectrogram.
        mel: Mel,
        /// The decoded duration in seconds.
        seconds: Option<f32>,
    },
    /// Video.
    Frames {
        /// The frames in time order, as JPEG files.
        files: Vec<Vec<u8>>,
        /// The time of each frame, in seconds from the start of the clip.
        times: Vec<f32>,
        /// The decoded duration in seconds.
        seconds: Option<f32>,
    },
    /// An image as a JPEG file.
    Image(Vec<u8>),
    /// A cleaned text.
    Text(String),
}

impl RowContent {
    /// Returns the modality.
    pub fn modality(&self) -> Modality {
        match self {
            RowContent::Mel { .. } => Modality::Audio,
            RowContent::Frames { .. } => Modality::Video,
            RowContent::Image(_) => Modality::Image,
            RowContent::Text(_) => Modality::Text,
        }
    }

    /// Returns the spectrogram of audio.
    pub fn mel(&self) -> Option<&Mel> {
        match self {
            RowContent::Mel { mel, .. } => Some(mel),
            _ => None,
        }
    }

    /// Returns the frames of a video, as JPEG files.
    pub fn frames(&self) -> Option<&[Vec<u8>]> {
        match self {
            RowContent::Frames { files, .. } => Some(files),
            _ => None,
        }
    }

    /// Returns the decoded duration of audio or video in seconds.
    pub fn seconds(&self) -> Option<f32> {
        match self {
            RowContent::Mel { seconds, .. } | RowContent::Frames { seconds, .. } => *seconds,
            _ => None,
        }
    }
}

/// Turns rows into columns.
///
/// # Errors
/// [`Error::Invalid`] where a row does not fit the spec: a label out of range or too many, a
/// modality that the dataset does not have, no modality at all, an empty mel or frame list, times
/// that do not match the frames.
pub fn record_batch(spec: &ShardSpec, rows: &[Row]) -> Result<RecordBatch, Error> {
    for row in rows {
        check(spec, row).map_err(|problem| Error::Invalid(problem).at_sample(&row.id))?;
    }
    let schema = spec.arrow_schema();
    let columns = schema
        .fields()
        .iter()
        .map(|field| column(spec, rows, field))
        .collect();
    RecordBatch::try_new(schema, columns)
        .map_err(|e| Error::Invalid(format!("rows do not fit the schema: {e}")))
}

/// Checks a row against its spec; the error is the problem.
fn check(spec: &ShardSpec, row: &Row) -> Result<(), String> {
    if !spec.multi_label && row.labels.len() != 1 {
        return Err(format!(
            "{} labels where there must be exactly one",
            row.labels.len()
        ));
    }
    if let Some(label) = row
        .labels
        .iter()
        .find(|&&l| l as usize >= spec.classes.len())
    {
        return Err(format!(
            "label {label} is none of the {} classes",
            spec.classes.len()
        ));
    }
    for (i, content) in row.contents.iter().enumerate() {
        let Some(content) = content else { continue };
        let expected = spec.modalities.names().nth(i).map(|input| input.modality);
        if expected != Some(content.modality()) {
            return Err(format!(
                "has {} as input {i}, which {} does not have there",
                content.modality(),
                spec.dataset
            ));
        }
        check_content(content)?;
    }
    if row.contents.iter().all(Option::is_none) {
        return Err("has no modality at all; it belongs into the failures".into());
    }
    Ok(())
}

/// Checks what a row has of one modality; the error is the problem.
fn check_content(content: &RowContent) -> Result<(), String> {
    match content {
        RowContent::Mel { mel, .. } => {
            let whole = mel.bins == MEL_BINS && mel.values.len() % MEL_BINS == 0;
            if !whole || !(1..=MAX_MEL_FRAMES).contains(&mel.frames()) {
                return Err(format!(
                    "mel of {} values in {} bins is not 1 to {MAX_MEL_FRAMES} frames of {MEL_BINS}",
                    mel.values.len(),
                    mel.bins
                ));
            }
            if mel.values.iter().any(|v| !v.is_finite()) {
                return Err("mel holds a value that is not finite".into());
            }
        }
        RowContent::Frames { files, times, .. } => {
            if files.is_empty() {
                return Err("has video without a frame".into());
            }
            if times.len() != files.len() {
                return Err(format!(
                    "{} frame times for {} frames",
                    times.len(),
                    files.len()
                ));
            }
        }
        RowContent::Image(_) | RowContent::Text(_) => {}
    }
    Ok(())
}

/// Returns the column of a field of the schema.
fn column(spec: &ShardSpec, rows: &[Row], field: &Field) -> ArrayRef {
    let text = |get: &dyn Fn(&Row) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(get).collect::<StringArray>())
    };
    let float = |get: &dyn Fn(&Row) -> Option<f32>| -> ArrayRef {
        Arc::new(rows.iter().map(get).collect::<Float32Array>())
    };
    match field.name().as_str() {
        "id" => text(&|row| Some(&row.id)),
        "split" => text(&|row| Some(row.split.as_str())),
        "label" | "label_name" | "labels" | "label_names" => label_column(spec, rows, field),
        "event_start" => float(&|row| row.segment.map(|(start, _)| start)),
        "event_end" => float(&|row| row.segment.map(|(_, end)| end)),
        "source" => text(&|row| Some(&row.source)),
        "error" => text(&|row| row.error.as_deref()),
        name => input_column(spec, rows, field)
            .unwrap_or_else(|| unreachable!("no column is called {name}")),
    }
}

/// Returns the column of a field that belongs to one of the inputs.
fn input_column(spec: &ShardSpec, rows: &[Row], field: &Field) -> Option<ArrayRef> {
    let name = field.name();
    for (i, input) in spec.modalities.names().enumerate() {
        let contents = || rows.iter().map(move |row| row.contents[i].as_ref());
        if *name == has_column(input) {
            let has = contents().map(|content| Some(content.is_some()));
            return Some(Arc::new(has.collect::<BooleanArray>()));
        }
        if *name == content_column(input) {
            return Some(match input.modality {
                Modality::Audio => mel_column(spec, contents(), field),
                Modality::Video => frames_column(contents(), field),
                Modality::Image => images(contents().map(|content| match content {
                    Some(RowContent::Image(file)) => Some(file),
                    _ => None,
                })),
                Modality::Text => {
                    let texts = contents().map(|content| match content {
                        Some(RowContent::Text(text)) => Some(text.as_str()),
                        _ => None,
                    });
                    Arc::new(texts.collect::<StringArray>())
                }
            });
        }
        if input.modality == Modality::Video && *name == frame_times_column(input) {
            return Some(frame_times(contents(), field));
        }
        if seconds_column(input).as_ref() == Some(name) {
            let seconds = contents().map(|content| content.and_then(RowContent::seconds));
            return Some(Arc::new(seconds.collect::<Float32Array>()));
        }
    }
    None
}

/// Returns the column of class indices or class names, one or a list per row.
fn label_column(spec: &ShardSpec, rows: &[Row], field: &Field) -> ArrayRef {
    let labels = || rows.iter().flat_map(|row| &row.labels);
    let indices = || Arc::new(labels().map(|&label| label as i32).collect::<Int32Array>());
    let names = || {
        let names = labels().map(|&label| Some(spec.classes[label as usize].as_str()));
        Arc::new(names.collect::<StringArray>())
    };
    let lengths = rows.iter().map(|row| row.labels.len());
    match field.name().as_str() {
        // Single-label rows have exactly one label.
        "label" => indices(),
        "label_name" => names(),
        "labels" => list(field, lengths, indices(), None),
        _ => list(field, lengths, names(), None),
    }
}

/// Returns the column of videos: a list of JPEG files per row, null where a row has no video.
fn frames_column<'a>(
    contents: impl Iterator<Item = Option<&'a RowContent>>,
    field: &Field,
) -> ArrayRef {
    let videos: Vec<_> = contents
        .map(|content| content.and_then(RowContent::frames))
        .collect();
    let counts = videos.iter().map(|files| files.map_or(0, <[_]>::len));
    let present = videos.iter().map(Option::is_some).collect();
    let files = videos.iter().flatten().copied().flatten();
    list(field, counts, images(files.map(Some)), Some(present))
}

/// Returns the column of the times of a video's frames: a list per row, empty where a row has no
/// video.
fn frame_times<'a>(
    contents: impl Iterator<Item = Option<&'a RowContent>>,
    field: &Field,
) -> ArrayRef {
    let times: Vec<&[f32]> = contents
        .map(|content| match content {
            Some(RowContent::Frames { times, .. }) => times.as_slice(),
            _ => &[],
        })
        .collect();
    let values: Float32Array = times.iter().copied().flatten().map(|t| Some(*t)).collect();
    list(field, times.iter().map(|t| t.len()), Arc::new(values), None)
}

/// Returns the column of spectrograms: a list of frames per row, null where a row has no audio.
fn mel_column<'a>(
    spec: &ShardSpec,
    contents: impl Iterator<Item = Option<&'a RowContent>>,
    field: &Field,
) -> ArrayRef {
    let mels: Vec<_> = contents
        .map(|content| content.and_then(RowContent::mel))
        .collect();
    let values = mels.iter().flatten().flat_map(|mel| mel.values.iter());
    let values: ArrayRef = match spec.mel_dtype {
        MelDtype::F32 => Arc::new(Float32Array::from_iter_values(values.copied())),
        MelDtype::F16 => Arc::new(Float16Array::from_iter_values(
            values.map(|&v| half::f16::from_f32(v)),
        )),
    };
    let frames = FixedSizeListArray::new(
        item(values.data_type().clone()),
        MEL_BINS as i32,
        values,
        None,
    );
    let lengths = mels.iter().map(|mel| mel.map_or(0, Mel::frames));
    let present = mels.iter().map(Option::is_some).collect();
    list(field, lengths, Arc::new(frames), Some(present))
}

/// Returns a list column. The field is one of the schema's list fields, so its parts always fit
/// together.
fn list(
    field: &Field,
    lengths: impl IntoIterator<Item = usize>,
    values: ArrayRef,
    present: Option<Vec<bool>>,
) -> ArrayRef {
    let DataType::List(element) = field.data_type() else {
        unreachable!("{} is a list", field.name())
    };
    let nulls = present.map(NullBuffer::from);
    Arc::new(ListArray::new(
        element.clone(),
        OffsetBuffer::from_lengths(lengths),
        values,
        nulls,
    ))
}

/// Returns a column of encoded images, in the struct that Hugging Face `datasets` reads.
fn images<'a>(encoded: impl Iterator<Item = Option<&'a Vec<u8>>>) -> ArrayRef {
    let (mut bytes, mut paths, mut present) =
        (BinaryBuilder::new(), StringBuilder::new(), Vec::new());
    for image in encoded {
        bytes.append_option(image);
        paths.append_null();
        present.push(image.is_some());
    }
    let children: Vec<ArrayRef> = vec![Arc::new(bytes.finish()), Arc::new(paths.finish())];
    Arc::new(StructArray::new(
        image_fields(),
        children,
        Some(NullBuffer::from(present)),
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::schema::writer_properties;
    use arrow_array::cast::AsArray;
    use arrow_schema::Schema;
    use bytes::Bytes;
    use datasets::Modalities;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    use parquet::file::properties::WriterProperties;

    pub(crate) fn spec(modalities: impl Into<Modalities>, multi_label: bool) -> ShardSpec {
        ShardSpec {
            dataset: "toy".into(),
            modalities: modalities.into(),
            classes: vec!["angry".into(), "sad".into(), "\"quoted\"".into()],
            multi_label,
            mel_dtype: MelDtype::F32,
            frame_pool: 10,
            segment: false,
            tool_version: "0.1.0".into(),
            settings_hash: "00".into(),
        }
    }

    pub(crate) fn clip(i: usize) -> Row {
        let mut row = Row::new(format!("clip{i}"), Split::Train, vec![i as u32 % 3]);
        if i % 4 != 1 {
            let frames = 1 + i * 37 % MAX_MEL_FRAMES;
            let values = (0..frames * MEL_BINS).map(|k| -((k * (i + 3)) as f32 * 0.37).sin() * 9.0);
            let mel = Mel {
                bins: MEL_BINS,
                values: values.collect(),
            };
            row.contents[0] = Some(RowContent::Mel {
                mel,
                seconds: Some(0.5),
            });
        }
        if i % 4 != 2 {
            row.contents[1] = Some(RowContent::Frames {
                files: (0..1 + i % 10).map(|k| vec![k as u8; 30_000 + k]).collect(),
                times: (0..1 + i % 10).map(|k| k as f32).collect(),
                seconds: None,
            });
        }
        row
    }

    pub(crate) fn write(spec: &ShardSpec, rows: &[Row], properties: WriterProperties) -> Bytes {
        let mut bytes = Vec::new();
        let schema = spec.arrow_schema();
        let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties)).unwrap();
        for row in rows {
            writer
                .write(&record_batch(spec, std::slice::from_ref(row)).unwrap())
                .unwrap();
        }
        writer.close().unwrap();
        bytes.into()
    }

    fn written(spec: &ShardSpec, rows: &[Row]) -> Bytes {
        write(spec, rows, writer_properties(spec))
    }

    #[test]
    fn shard_reads_back_with_its_spec() {
        let spec = ShardSpec {
            segment: true,
            ..spec([Modality::Audio, Modality::Video], false)
        };
        let rows: Vec<Row> = (0..9).map(clip).collect();
        let reader = ParquetRecordBatchReaderBuilder::try_new(written(&spec, &rows)).unwrap();
        assert_eq!(ShardSpec::from_schema(reader.schema()).unwrap(), spec);
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let all = arrow_select::concat::concat_batches(&spec.arrow_schema(), &batches).unwrap();
        assert_eq!(all, record_batch(&spec, &rows).unwrap());
    }

    #[test]
    fn two_views_of_a_modality_read_back() {
        let spec = spec([Modality::Image, Modality::Image], false);
        let row = |i: u8| {
            let mut row = Row::new(format!("image{i}"), Split::Train, vec![0]);
            row.contents[0] = (i != 1).then(|| RowContent::Image(vec![i; 10]));
            row.contents[1] = (i != 2).then(|| RowContent::Image(vec![i + 100; 20]));
            row
        };
        let rows: Vec<Row> = (0..4).map(row).collect();
        let reader = ParquetRecordBatchReaderBuilder::try_new(written(&spec, &rows)).unwrap();
        let found = ShardSpec::from_schema(reader.schema()).unwrap();
        assert_eq!(found.modalities, spec.modalities);
        let batch = record_batch(&spec, &rows).unwrap();
        let has = |name| batch.column_by_name(name).unwrap().as_boolean().clone();
        let [a, b] = ["has_image_a", "has_image_b"].map(has);
        assert!(!a.value(1) && a.value(2) && b.value(1) && !b.value(2));
        let images = batch.column_by_name("image_b").unwrap().as_struct();
        assert_eq!(images.column(0).as_binary::<i32>().value(3), [103; 20]);
    }

    #[test]
    fn equal_spec_and_rows_give_equal_bytes() {
        let spec = spec([Modality::Audio, Modality::Video], false);
        let rows: Vec<Row> = (0..5).map(clip).collect();
        assert_eq!(written(&spec, &rows), written(&spec.clone(), &rows));
    }

    #[test]
    fn every_media_cell_is_one_page() {
        for dtype in [MelDtype::F32, MelDtype::F16] {
            let spec = ShardSpec {
                mel_dtype: dtype,
                ..spec([Modality::Audio, Modality::Video], false)
            };
            let rows: Vec<Row> = (0..40).map(clip).collect();
            let bytes = written(&spec, &rows);
            let metadata = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Required)
                .parse_and_finish(&bytes)
                .unwrap();
            let group = metadata.row_group(0);
            for (i, column) in group.columns().iter().enumerate() {
                let top = &column.column_path().parts()[0];
                if top == "mel" || top == "frames" {
                    let index = metadata.page_index_for_row_group(0);
                    let pages = index.page_locations(i).unwrap();
                    assert_eq!(pages.len(), rows.len(), "{}", column.column_path());
                    assert!(column.dictionary_page_offset().is_none());
                    assert!(column.statistics().is_none());
                }
            }
        }
    }

    #[test]
    fn columns_depend_on_the_modalities() {
        let names = |spec: &ShardSpec| -> String {
            let schema = spec.arrow_schema();
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            names.join(" ")
        };
        assert_eq!(
            names(&spec([Modality::Audio, Modality::Video], false)),
            "id split label label_name has_audio has_video mel frames frame_times audio_seconds \
             video_seconds source error"
        );
        assert_eq!(
            names(&spec([Modality::Image, Modality::Text], true)),
            "id split labels label_names has_image has_text image text source error"
        );
        assert_eq!(
            names(&spec([Modality::Video, Modality::Video], false)),
            "id split label label_name has_video_a has_video_b frames_a frame_times_a frames_b \
             frame_times_b video_seconds_a video_seconds_b source error"
        );
        assert_eq!(
            names(&spec(Modality::Text, false)),
            "id split label label_name has_text text source error"
        );
    }

    #[test]
    fn rows_that_contradict_the_spec_are_refused() {
        let spec = spec([Modality::Audio, Modality::Video], false);
        let refuse = |change: &dyn Fn(&mut Row), expect: &str| {
            let mut row = clip(3);
            change(&mut row);
            let message = record_batch(&spec, &[row]).unwrap_err().to_string();
            assert!(message.contains(expect), "{message}");
        };
        refuse(&|row| row.labels = vec![3], "none of the 3 classes");
        refuse(&|row| row.labels = vec![], "exactly one");
        let text = RowContent::Text(String::new());
        refuse(&|row| row.contents[0] = Some(text.clone()), "does not have");
        let untimed = RowContent::Frames {
            files: vec![vec![1]],
            times: vec![],
            seconds: None,
        };
        refuse(
            &|row| row.contents[1] = Some(untimed.clone()),
            "0 frame times",
        );
        let mel = |values| RowContent::Mel {
            mel: Mel { bins: 128, values },
            seconds: None,
        };
        for (values, problem) in [
            (vec![], "1 to 1024 frames"),
            (vec![f32::NAN; 128], "not finite"),
        ] {
            refuse(&|row| row.contents[0] = Some(mel(values.clone())), problem);
        }
        refuse(
            &|row| *row = Row::new("x", Split::Test, vec![0]),
            "no modality at all",
        );
    }

    #[test]
    fn other_schema_versions_are_refused_with_a_remedy() {
        let spec = spec([Modality::Image, Modality::Text], true);
        let schema = spec.arrow_schema();
        let mut metadata = schema.metadata().clone();
        metadata.insert("u2a.schema_version", "7");
        let other = Schema::new_with_metadata(schema.fields().clone(), metadata);
        let message = ShardSpec::from_schema(&other).unwrap_err().to_string();
        assert!(
            message.contains("version 7") && message.contains("ingest"),
            "{message}"
        );
        let bare = Schema::new(schema.fields().clone());
        assert!(
            ShardSpec::from_schema(&bare)
                .unwrap_err()
                .to_string()
                .contains("not a shard")
        );
    }
}
