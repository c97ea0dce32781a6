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

use crate::schema::{MelDtype, ShardSpec, has_column, image_fields, item};
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
    /// The log-mel spectrogram of the audio, if the sample has it.
    pub mel: Option<Mel>,
    /// The frames of the video in time order, as JPEG files, if the sample has it.
    pub frames: Option<Vec<Vec<u8>>>,
    /// The time of each frame, in seconds from the start of the clip.
    pub frame_times: Vec<f32>,
    /// The image as a JPEG file, if the sample has it.
    pub image: Option<Vec<u8>>,
    /// The cleaned text, if the sample has it.
    pub text: Option<String>,
    /// The decoded duration of the audio in seconds.
    pub audio_seconds: Option<f32>,
    /// The decoded duration of the video in seconds.
    pub video_seconds: Option<f32>,
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
            mel: None,
            frames: None,
            frame_times: Vec::new(),
            image: None,
            text: None,
            audio_seconds: None,
            video_seconds: None,
            segment: None,
            source: String::new(),
            error: None,
        }
    }

    /// Returns whether the sample has this modality.
    pub fn has(&self, modality: Modality) -> bool {
        match modality {
            Modality::Audio => self.mel.is_some(),
            Modality::Video => self.frames.is_some(),
            Modality::Image => self.image.is_some(),
            Modality::Text => self.text.is_some(),
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
    if let Some(other) = Modality::ALL
        .into_iter()
        .find(|&m| row.has(m) && !spec.has(m))
    {
        return Err(format!("has {other}, which {} does not have", spec.dataset));
    }
    if !spec.modalities.into_iter().any(|m| row.has(m)) {
        return Err("has no modality at all; it belongs into the failures".into());
    }
    if let Some(mel) = &row.mel {
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
    let frames = row.frames.as_ref().map_or(0, Vec::len);
    if row.frames.is_some() && frames == 0 {
        return Err("has video without a frame".into());
    }
    if row.frame_times.len() != frames {
        return Err(format!(
            "{} frame times for {frames} frames",
            row.frame_times.len()
        ));
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
        "mel" => mel_column(spec, rows, field),
        "frames" => frames_column(rows, field),
        "frame_times" => {
            let times = rows.iter().flat_map(|row| &row.frame_times);
            let values: Float32Array = times.map(|&t| Some(t)).collect();
            let lengths = rows.iter().map(|row| row.frame_times.len());
            list(field, lengths, Arc::new(values), None)
        }
        "image" => images(rows.iter().map(|row| row.image.as_ref())),
        "text" => text(&|row| row.text.as_deref()),
        "audio_seconds" => float(&|row| row.audio_seconds),
        "video_seconds" => float(&|row| row.video_seconds),
        "event_start" => float(&|row| row.segment.map(|(start, _)| start)),
        "event_end" => float(&|row| row.segment.map(|(_, end)| end)),
        "source" => text(&|row| Some(&row.source)),
        "error" => text(&|row| row.error.as_deref()),
        other => {
            let mut modalities = spec.modalities.into_iter();
            let Some(modality) = modalities.find(|&m| has_column(m) == other) else {
                unreachable!("no column is called {other}")
            };
            let has = rows.iter().map(|row| Some(row.has(modality)));
            Arc::new(has.collect::<BooleanArray>())
        }
    }
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
fn frames_column(rows: &[Row], field: &Field) -> ArrayRef {
    let frames = rows.iter().flat_map(|row| row.frames.iter().flatten());
    let frame_counts = rows
        .iter()
        .map(|row| row.frames.as_ref().map_or(0, Vec::len));
    let present = rows.iter().map(|row| row.frames.is_some()).collect();
    list(field, frame_counts, images(frames.map(Some)), Some(present))
}

/// Returns the column of spectrograms: a list of frames per row, null where a row has no audio.
fn mel_column(spec: &ShardSpec, rows: &[Row], field: &Field) -> ArrayRef {
    let values = rows
        .iter()
        .filter_map(|row| row.mel.as_ref())
        .flat_map(|mel| mel.values.iter());
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
    let lengths = rows
        .iter()
        .map(|row| row.mel.as_ref().map_or(0, Mel::frames));
    list(
        field,
        lengths,
        Arc::new(frames),
        Some(rows.iter().map(|row| row.mel.is_some()).collect()),
    )
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
    use arrow_schema::Schema;
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    use parquet::file::properties::WriterProperties;

    pub(crate) fn spec(modalities: [Modality; 2], multi_label: bool) -> ShardSpec {
        ShardSpec {
            dataset: "toy".into(),
            modalities,
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
            row.mel = Some(Mel {
                bins: MEL_BINS,
                values: values.collect(),
            });
            row.audio_seconds = Some(0.5);
        }
        if i % 4 != 2 {
            row.frames = Some((0..1 + i % 10).map(|k| vec![k as u8; 30_000 + k]).collect());
            row.frame_times = (0..1 + i % 10).map(|k| k as f32).collect();
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
        refuse(&|row| row.text = Some(String::new()), "does not have");
        refuse(&|row| row.frame_times = vec![], "0 frame times");
        refuse(
            &|row| {
                row.mel = Some(Mel {
                    bins: 128,
                    values: vec![],
                })
            },
            "1 to 1024 frames",
        );
        refuse(
            &|row| {
                row.mel = Some(Mel {
                    bins: 128,
                    values: vec![f32::NAN; 128],
                })
            },
            "not finite",
        );
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
