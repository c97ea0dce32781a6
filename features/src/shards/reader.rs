//! Reads the media and texts of single rows.

use super::{Content, Shard, Shards, column, pages, parquet_error};
use crate::schema::{content_column, has_column};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type};
use arrow_array::{Array, BinaryArray, Float16Array, Float32Array, RecordBatch};
use arrow_buffer::Buffer;
use arrow_schema::DataType;
use datasets::{Modality, Split};
use media::Error;
use media::mel::Mel;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// The files that one reader keeps open. The usual limit of a process is 1024, a machine may have
/// 64 threads with a reader each, and a dataset hundreds of shards.
const OPEN_FILES: usize = 8;

/// The wanted contents of one row.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// The contents, in the order of the dataset's modalities.
    pub contents: [Option<Content>; 2],
}

/// Fetches rows. Each thread needs its own, because a file handle shares its position with its
/// clones.
pub struct RowReader<'a> {
    shards: &'a Shards,
    files: BTreeMap<u32, File>,
}

impl<'a> RowReader<'a> {
    /// Creates a reader; no file is open yet.
    pub fn new(shards: &'a Shards) -> Self {
        RowReader {
            shards,
            files: BTreeMap::new(),
        }
    }

    /// Fetches samples of a split by their numbers in its index; `wanted` says for each sample
    /// which modalities to read. The result has the order of `samples`, which must be distinct.
    ///
    /// # Errors
    /// A shard cannot be read, or lacks a content that its row says it has.
    pub fn fetch(
        &mut self,
        split: Split,
        samples: &[u32],
        wanted: &[[bool; 2]],
    ) -> Result<Vec<Fetched>, Error> {
        let index = self.shards.split(split);
        let mut fetched: Vec<Fetched> = samples.iter().map(|_| Fetched::default()).collect();
        for (m, modality) in self.shards.spec.modalities.into_iter().enumerate() {
            // The rows of one row group are read together.
            let mut groups: BTreeMap<(u32, usize), Vec<(u32, usize)>> = BTreeMap::new();
            for (slot, (sample, want)) in samples.iter().zip(wanted).enumerate() {
                if !want[m] {
                    continue;
                }
                let (shard, row) = index.places[*sample as usize];
                let starts = &self.shards.shards[shard as usize].starts;
                let group = starts.partition_point(|s| *s <= row) - 1;
                groups
                    .entry((shard, group))
                    .or_default()
                    .push((row - starts[group], slot));
            }
            for ((number, group), mut rows) in groups {
                rows.sort_unstable();
                let shard = &self.shards.shards[number as usize];
                let file = self.file(number)?;
                let stored = pages::read(shard, file, group, modality, &rows);
                let contents = match stored.map_err(|e| parquet_error(&shard.path, e))? {
                    Some(stored) => stored.into_iter().map(Ok).collect(),
                    None => contents(shard, self.file(number)?, group, modality, &rows)?,
                };
                for (content, (_, slot)) in contents.into_iter().zip(rows) {
                    let id = &index.ids[samples[slot] as usize];
                    let content = content.map_err(|error| error.at_sample(id))?;
                    fetched[slot].contents[m] = Some(content);
                }
            }
        }
        Ok(fetched)
    }

    /// Returns the file of a shard, opening it if necessary.
    fn file(&mut self, number: u32) -> Result<File, Error> {
        let path = &self.shards.shards[number as usize].path;
        match self.files.get(&number) {
            Some(file) => file.try_clone(),
            None => File::open(path).and_then(|f| {
                let clone = f.try_clone()?;
                // It does not matter which one is closed: a shuffled epoch uses all alike.
                if self.files.len() >= OPEN_FILES {
                    self.files.pop_first();
                }
                self.files.insert(number, f);
                Ok(clone)
            }),
        }
        .map_err(Error::io(path, "open"))
    }
}

/// Reads a modality's contents in the given rows of a row group with Arrow.
fn contents(
    shard: &Shard,
    file: File,
    group: usize,
    modality: Modality,
    rows: &[(u32, usize)],
) -> Result<Vec<Result<Content, Error>>, Error> {
    let path = &shard.path;
    let mut selectors = Vec::new();
    let mut at = 0;
    for (row, _) in rows {
        if *row > at {
            selectors.push(RowSelector::skip((*row - at) as usize));
        }
        selectors.push(RowSelector::select(1));
        at = *row + 1;
    }
    let len = shard.starts[group + 1] - shard.starts[group];
    if at < len {
        selectors.push(RowSelector::skip((len - at) as usize));
    }
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, shard.metadata.clone());
    let mask = ProjectionMask::columns(builder.parquet_schema(), [content_column(modality)]);
    let reader = builder
        .with_projection(mask)
        .with_row_groups(vec![group])
        .with_row_selection(RowSelection::from(selectors))
        .with_batch_size(1)
        .build()
        .map_err(|e| parquet_error(path, e))?;
    let mut contents = Vec::with_capacity(rows.len());
    for batch in reader {
        let batch = batch.map_err(|e| parquet_error(path, e))?;
        contents.push(content(&batch, modality, path));
    }
    if contents.len() != rows.len() {
        return Err(parquet_error(path, "it ends before its footer says"));
    }
    Ok(contents)
}

/// The error of a cell that is null although its row says that it is not.
fn empty(modality: Modality, path: &Path) -> Error {
    Error::unusable(
        format!(
            "{}: column {} is empty where {} is true",
            path.display(),
            content_column(modality),
            has_column(modality)
        ),
        "ingest this dataset again with --overwrite",
    )
}

/// Returns the bytes of one cell, without a copy.
fn cell(cells: &BinaryArray, at: usize) -> Buffer {
    let (start, end) = (cells.value_offsets()[at], cells.value_offsets()[at + 1]);
    cells
        .values()
        .slice_with_length(start as usize, (end - start) as usize)
}

/// Returns the content of a batch of one row.
fn content(batch: &RecordBatch, modality: Modality, path: &Path) -> Result<Content, Error> {
    let name = content_column(modality);
    let array = column(batch, name, path)?;
    if array.is_null(0) {
        return Err(empty(modality, path));
    }
    Ok(match modality {
        Modality::Audio => {
            let frames = array.as_list::<i32>().value(0);
            let frames = frames.as_fixed_size_list();
            let bins = frames.value_length() as usize;
            let start = frames.value_offset_at(0);
            let values = frames.values().slice(start, frames.len() * bins);
            let values = match values.data_type() {
                DataType::Float16 => values
                    .as_primitive_opt::<Float16Type>()
                    .map(|v: &Float16Array| v.values().iter().map(|x| x.to_f32()).collect()),
                _ => values
                    .as_primitive_opt::<Float32Type>()
                    .map(|v: &Float32Array| v.values().to_vec()),
            };
            let values =
                values.ok_or_else(|| parquet_error(path, "the mel column holds no numbers"))?;
            Content::Mel(Mel { bins, values })
        }
        Modality::Video => {
            let frames = array.as_list::<i32>().value(0);
            let bytes = frames.as_struct().column(0);
            let bytes = bytes.as_binary::<i32>();
            Content::Images((0..bytes.len()).map(|i| cell(bytes, i)).collect())
        }
        Modality::Image => Content::Images(vec![cell(
            array.as_struct().column(0).as_binary::<i32>(),
            0,
        )]),
        Modality::Text => Content::Text(array.as_string::<i32>().value(0).to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardSpec;
    use crate::rows::tests::{clip, spec, write};
    use crate::{MelDtype, Row, writer_properties};
    use parquet::file::properties::WriterProperties;

    const AUDIO_VIDEO: [Modality; 2] = [Modality::Audio, Modality::Video];
    const IMAGE_TEXT: [Modality; 2] = [Modality::Image, Modality::Text];
    /// Clips that have both modalities.
    const COMPLETE: [u32; 4] = [0, 4, 7, 11];

    fn entry(i: usize) -> Row {
        let mut row = Row::new(format!("entry{i}"), Split::Train, vec![]);
        row.image = Some(vec![i as u8; 1000 + i]);
        row.text = Some(format!("text {i}"));
        row
    }

    /// Returns what is read from the pages of [`COMPLETE`], and what Arrow reads of them.
    fn read_by_pages_and_by_arrow(
        spec: &ShardSpec,
        modality: Modality,
        properties: WriterProperties,
    ) -> (Option<Vec<Content>>, Vec<Content>) {
        let row = if spec.multi_label { entry } else { clip };
        let rows: Vec<Row> = (0..12).map(row).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train-00000-of-00001.parquet");
        std::fs::write(path, write(spec, &rows, properties)).unwrap();
        let shards = Shards::open(folder.path()).unwrap();
        let shard = &shards.shards[0];
        let file = || File::open(&shard.path).unwrap();
        let rows = COMPLETE.map(|row| (row, 0));
        let arrow = contents(shard, file(), 0, modality, &rows).unwrap();
        (
            pages::read(shard, file(), 0, modality, &rows).unwrap(),
            arrow.into_iter().map(Result::unwrap).collect(),
        )
    }

    #[test]
    fn pages_equal_what_arrow_reads() {
        for modality in AUDIO_VIDEO.into_iter().chain(IMAGE_TEXT) {
            let multi_label = IMAGE_TEXT.contains(&modality);
            let spec = spec(
                if multi_label { IMAGE_TEXT } else { AUDIO_VIDEO },
                multi_label,
            );
            let (pages, arrow) =
                read_by_pages_and_by_arrow(&spec, modality, writer_properties(&spec));
            assert_eq!(arrow.len(), COMPLETE.len());
            match modality {
                Modality::Text => assert_eq!(pages, None),
                _ => assert!(pages == Some(arrow), "{modality}"),
            }
        }
    }

    /// Several rows in a page, dictionaries, no page index, half precision.
    #[test]
    fn dictionary_pages_fall_back_to_arrow() {
        let own = spec(AUDIO_VIDEO, false);
        let half = ShardSpec {
            mel_dtype: MelDtype::F16,
            ..own.clone()
        };
        let no_index = WriterProperties::builder().set_offset_index_disabled(true);
        for (spec, modality, properties) in [
            (&own, Modality::Audio, WriterProperties::default()),
            (&own, Modality::Video, WriterProperties::default()),
            (&own, Modality::Video, no_index.build()),
            (&half, Modality::Audio, writer_properties(&half)),
        ] {
            let (pages, arrow) = read_by_pages_and_by_arrow(spec, modality, properties);
            assert_eq!(pages, None);
            for (content, i) in arrow.into_iter().zip(COMPLETE) {
                let row = clip(i as usize);
                match content {
                    Content::Mel(mel) => {
                        let exact = row.mel.unwrap().values;
                        assert_eq!(mel.values.len(), exact.len());
                        assert!(
                            mel.values
                                .iter()
                                .zip(exact)
                                .all(|(a, b)| (a - b).abs() < 1e-2)
                        );
                    }
                    Content::Images(images) => {
                        let own = row.frames.unwrap();
                        assert!(images.iter().map(|p| p.as_slice()).eq(own));
                    }
                    Content::Text(_) => unreachable!("there is no text"),
                }
            }
        }
    }
}
