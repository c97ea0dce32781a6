//! Reads the media and texts of single rows.

use super::shard::{Shard, column, parquet_error, unreadable};
use super::{Content, Shards, pages, ranges};
use crate::schema::{content_column, has_column};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type};
use arrow_array::{Array, BinaryArray, Float16Array, Float32Array, RecordBatch};
use arrow_buffer::Buffer;
use arrow_schema::DataType;
use datasets::{InputName, Modality, Split};
use media::Error;
use media::mel::Mel;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use store::StoredFile;

/// The local files that one reader keeps open. The usual limit of a process is 1024, a machine may
/// have 64 threads with a reader each, and a dataset hundreds of shards.
const OPEN_FILES: usize = 8;

/// The wanted contents of one row.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// The contents, in the order of the dataset's modalities.
    pub contents: [Option<Content>; 2],
}

/// A modality's number, a shard and a row group of it.
type Place = (usize, u32, usize);
/// The rows that are read of each place, ascending, and the position of each among the samples.
type Rows = BTreeMap<Place, Vec<(u32, usize)>>;

impl Shards {
    /// Returns whether the shards lie in an object store.
    pub fn is_remote(&self) -> bool {
        self.folder.local().is_none()
    }

    /// Brings what [`RowReader::fetch`] reads of these samples into the cache on the disk. Does
    /// nothing for shards on a disk. Returns the bytes that the samples take in the cache.
    ///
    /// # Errors
    /// The store does not answer, or a shard has changed.
    pub fn prefetch(
        &self,
        split: Split,
        samples: &[u32],
        wanted: &[[bool; 2]],
    ) -> Result<u64, Error> {
        let requests = self.requests(&self.rows(split, samples, wanted));
        store::prefetch(&requests.into_values().collect::<Vec<_>>())
    }

    /// Returns where samples lie. The rows of one row group are read together.
    fn rows(&self, split: Split, samples: &[u32], wanted: &[[bool; 2]]) -> Rows {
        let index = self.split(split);
        let mut rows = Rows::new();
        for (slot, (sample, want)) in samples.iter().zip(wanted).enumerate() {
            let (shard, row) = index.places[*sample as usize];
            let starts = &self.shards[shard as usize].starts;
            let group = starts.partition_point(|s| *s <= row) - 1;
            for m in (0..self.spec.modalities.count()).filter(|m| want[*m]) {
                let rows = rows.entry((m, shard, group)).or_default();
                rows.push((row - starts[group], slot));
            }
        }
        rows.values_mut().for_each(|rows| rows.sort_unstable());
        rows
    }

    /// Returns what to read of each shard that lies in a store, by the shard's number.
    fn requests(&self, rows: &Rows) -> BTreeMap<u32, (&StoredFile, Vec<Range<u64>>)> {
        let mut requests = BTreeMap::new();
        for ((m, number, group), rows) in rows {
            let shard = &self.shards[*number as usize];
            let Some(remote) = &shard.remote else {
                continue;
            };
            let name = content_column(self.spec.modalities.name(*m));
            let rows = rows.iter().map(|(row, _)| *row);
            let (_, ranges) = requests
                .entry(*number)
                .or_insert_with(|| (remote, Vec::new()));
            ranges.extend(ranges::of_rows(shard, *group, &name, rows));
        }
        requests
    }
}

/// Fetches rows. Each thread needs its own, because a file handle shares its position with its
/// clones.
pub struct RowReader<'a> {
    shards: &'a Shards,
    files: BTreeMap<u32, StoredFile>,
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
        let ids = &self.shards.split(split).ids;
        let mut fetched: Vec<Fetched> = samples.iter().map(|_| Fetched::default()).collect();
        let rows = self.shards.rows(split, samples, wanted);
        let remote = self.remote_files(&rows)?;
        for ((m, number, group), rows) in rows {
            let shard = &self.shards.shards[number as usize];
            let input = self.shards.spec.modalities.name(m);
            let mut file = || match remote.get(&number) {
                Some(file) => file.try_clone().map_err(Error::io(&shard.path, "open")),
                None => self.file(number),
            };
            let stored = pages::read(shard, file()?, group, input, &rows);
            let contents = match stored.map_err(|e| unreadable(&shard.path, e))? {
                Some(stored) => stored.into_iter().map(Ok).collect(),
                None => contents(shard, file()?, group, input, &rows)?,
            };
            for (content, (_, slot)) in contents.into_iter().zip(rows) {
                let id = &ids[samples[slot] as usize];
                let content = content.map_err(|error| error.at_sample(id))?;
                fetched[slot].contents[m] = Some(content);
            }
        }
        Ok(fetched)
    }

    /// Requests what is to be read of shards in a store, all at once, and returns these files with
    /// it in memory.
    fn remote_files(&self, rows: &Rows) -> Result<BTreeMap<u32, StoredFile>, Error> {
        let (numbers, requests): (Vec<_>, Vec<_>) = self.shards.requests(rows).into_iter().unzip();
        Ok(numbers.into_iter().zip(store::fetch(&requests)?).collect())
    }

    /// Returns the file of a shard on a disk, opening it if necessary.
    fn file(&mut self, number: u32) -> Result<StoredFile, Error> {
        let shard = &self.shards.shards[number as usize];
        if !self.files.contains_key(&number) {
            let file = self.shards.folder.open_entry(&shard.entry)?;
            // It does not matter which one is closed: a shuffled epoch uses all alike.
            if self.files.len() >= OPEN_FILES {
                self.files.pop_first();
            }
            self.files.insert(number, file);
        }
        let clone = self.files[&number].try_clone();
        clone.map_err(Error::io(&shard.path, "open"))
    }
}

/// Reads an input's contents in the given rows of a row group with Arrow.
fn contents(
    shard: &Shard,
    file: StoredFile,
    group: usize,
    input: InputName,
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
    let name = content_column(input);
    let mask = ProjectionMask::columns(builder.parquet_schema(), [name.as_str()]);
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
        contents.push(content(&batch, input, path));
    }
    if contents.len() != rows.len() {
        return Err(parquet_error(path, "it ends before its footer says"));
    }
    Ok(contents)
}

/// The error of a cell that is null although its row says that it is not.
fn empty(input: InputName, path: &Path) -> Error {
    Error::unusable(
        format!(
            "{}: column {} is empty where {} is true",
            path.display(),
            content_column(input),
            has_column(input)
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
fn content(batch: &RecordBatch, input: InputName, path: &Path) -> Result<Content, Error> {
    let name = content_column(input);
    let array = column(batch, &name, path)?;
    if array.is_null(0) {
        return Err(empty(input, path));
    }
    Ok(match input.modality {
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
    use crate::{MelDtype, Row, RowContent, writer_properties};
    use parquet::file::properties::WriterProperties;

    const AUDIO_VIDEO: [Modality; 2] = [Modality::Audio, Modality::Video];
    const IMAGE_TEXT: [Modality; 2] = [Modality::Image, Modality::Text];
    /// Clips that have both modalities.
    const COMPLETE: [u32; 4] = [0, 4, 7, 11];

    fn entry(i: usize) -> Row {
        let mut row = Row::new(format!("entry{i}"), Split::Train, vec![]);
        row.contents = [
            Some(RowContent::Image(vec![i as u8; 1000 + i])),
            Some(RowContent::Text(format!("text {i}"))),
        ];
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
        let shards = Shards::open(&folder.path().into()).unwrap();
        let shard = &shards.shards[0];
        let file = || shards.folder.open_entry(&shard.entry).unwrap();
        let rows = COMPLETE.map(|row| (row, 0));
        let arrow = contents(shard, file(), 0, modality.into(), &rows).unwrap();
        (
            pages::read(shard, file(), 0, modality.into(), &rows).unwrap(),
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
                        let exact = &row.contents[0].as_ref().unwrap().mel().unwrap().values;
                        assert_eq!(mel.values.len(), exact.len());
                        assert!(
                            mel.values
                                .iter()
                                .zip(exact)
                                .all(|(a, b)| (a - b).abs() < 1e-2)
                        );
                    }
                    Content::Images(images) => {
                        let own = row.contents[1].as_ref().unwrap().frames().unwrap();
                        assert!(images.iter().map(|p| p.as_slice()).eq(own));
                    }
                    Content::Text(_) => unreachable!("there is no text"),
                }
            }
        }
    }
}
