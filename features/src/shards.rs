//! A folder of shards, opened: which samples it holds, where each lies, and single rows of it.
//!
//! Opening reads footers and the small columns only. Rows are fetched through the page index, one
//! page per media cell, so that a shuffled epoch reads what it uses and nothing else.

use crate::schema::{ShardSpec, content_column, has_column};
use crate::shard_name::ShardName;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Int32Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float16Array, Float32Array, RecordBatch,
};
use arrow_buffer::Buffer;
use arrow_schema::DataType;
use bytes::{Buf, Bytes};
use datasets::{Modality, Split};
use media::Error;
use media::mel::MEL_BINS;
use media::mel::Mel;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::serialized_reader::SerializedPageReader;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that one reader keeps open. A process may have 1024 as a rule, a machine 64 threads with a reader each, and a
/// dataset hundreds of shards.
const OPEN_FILES: usize = 8;

/// The samples of one split, in file order.
#[derive(Clone, Debug, Default)]
pub struct SplitIndex {
    /// Ids.
    pub ids: Vec<String>,
    /// Class indices: one for single-label data, any number for multi-label.
    pub labels: Vec<Vec<u32>>,
    /// Which of the two modalities each has.
    pub present: Vec<[bool; 2]>,
    /// Shard number and row of each.
    places: Vec<(u32, u32)>,
}

impl SplitIndex {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the split has no sample.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

struct Shard {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// First row of each row group, and the total.
    starts: Vec<u32>,
}

/// An opened shard folder.
pub struct Shards {
    folder: PathBuf,
    spec: ShardSpec,
    shards: Vec<Shard>,
    splits: BTreeMap<Split, SplitIndex>,
    fingerprint: String,
}

/// A modality's content as stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Log-mel frames.
    Mel(Mel),
    /// JPEG frames in time order, or the one picture: bytes, shared with what was read.
    Pictures(Vec<Buffer>),
    /// Cleaned text.
    Text(String),
}

/// One row, as far as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// In the order of the dataset's modalities.
    pub contents: [Option<Content>; 2],
}

fn parquet_error(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::unusable(
        format!("{}: cannot be read as Parquet: {error}", path.display()),
        "ingest this dataset again with --overwrite",
    )
}

impl Shards {
    /// Opens `SPLIT-NNNNN-of-MMMMM.parquet` below `folder`.
    ///
    /// Errors: no shards, a missing one, one of another schema version or dataset, a damaged footer.
    pub fn open(folder: &Path) -> Result<Shards, Error> {
        if !folder.is_dir() {
            return Err(Error::unusable(
                format!("{}: there is no such folder of shards", folder.display()),
                "run `ingest run` first, or give the folder they are in",
            ));
        }
        let mut names: Vec<ShardName> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
            let file_name = entry.map_err(Error::io(folder, "list"))?.file_name();
            names.extend(file_name.to_str().and_then(ShardName::parse));
        }
        names.sort();
        if names.is_empty() {
            return Err(Error::unusable(
                format!(
                    "{}: holds no shards (SPLIT-00000-of-00001.parquet)",
                    folder.display()
                ),
                "run `ingest run` first",
            ));
        }
        for split in Split::ALL {
            check_complete(folder, split, &names)?;
        }
        let mut spec: Option<ShardSpec> = None;
        let mut shards = Vec::new();
        let mut splits: BTreeMap<Split, SplitIndex> = Split::ALL
            .iter()
            .map(|s| (*s, SplitIndex::default()))
            .collect();
        for name in &names {
            let path = folder.join(name.file_name());
            let file = File::open(&path).map_err(Error::io(&path, "open"))?;
            let options =
                ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
            let metadata =
                ArrowReaderMetadata::load(&file, options).map_err(|e| parquet_error(&path, e))?;
            let own = ShardSpec::from_schema(metadata.schema()).map_err(|e| e.in_file(&path))?;
            match &spec {
                None => spec = Some(own),
                Some(first) if *first != own => {
                    return Err(Error::unusable(
                        format!(
                            "{}: was made from another dataset or with other settings than {}",
                            path.display(),
                            names[0].file_name()
                        ),
                        "ingest into an empty folder",
                    ));
                }
                Some(_) => {}
            }
            let mut starts = vec![0u32];
            for group in metadata.metadata().row_groups() {
                starts.push(starts[starts.len() - 1] + group.num_rows() as u32);
            }
            let shard = Shard {
                path,
                metadata,
                starts,
            };
            if let Some(spec) = &spec {
                let index = splits.entry(name.split).or_default();
                read_index(&shard, file, spec, shards.len() as u32, index)?;
            }
            shards.push(shard);
        }
        // `names` is not empty, so a shard was read and set it.
        let Some(spec) = spec else {
            return Err(Error::Invalid("no shard was read".into()));
        };
        let fingerprint = fingerprint(&spec, &splits);
        Ok(Shards {
            folder: folder.to_owned(),
            spec,
            shards,
            splits,
            fingerprint,
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What all shards share.
    pub fn spec(&self) -> &ShardSpec {
        &self.spec
    }

    /// The samples of a split.
    pub fn split(&self, split: Split) -> &SplitIndex {
        &self.splits[&split]
    }

    /// Identifies the samples, their labels and their modalities, not the bytes: hex SHA-256.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

fn check_complete(folder: &Path, split: Split, names: &[ShardName]) -> Result<(), Error> {
    let of_split: Vec<ShardName> = names.iter().copied().filter(|n| n.split == split).collect();
    let Some(first) = of_split.first() else {
        return Ok(());
    };
    if let Some(other) = of_split.iter().find(|n| n.of != first.of) {
        return Err(Error::unusable(
            format!(
                "{}: holds {split} shards of two runs, one of {} and one of {}",
                folder.display(),
                first.of,
                other.of
            ),
            "ingest into an empty folder",
        ));
    }
    for number in 0..first.of {
        if !of_split.iter().any(|n| n.number == number) {
            let missing = ShardName { number, ..*first };
            return Err(Error::unusable(
                format!(
                    "{}: shard {} is missing",
                    folder.display(),
                    missing.file_name()
                ),
                "run `ingest run` again, it makes what is missing",
            ));
        }
    }
    Ok(())
}

fn read_index(
    shard: &Shard,
    file: File,
    spec: &ShardSpec,
    number: u32,
    index: &mut SplitIndex,
) -> Result<(), Error> {
    let label = if spec.multi_label { "labels" } else { "label" };
    let columns = [
        "id",
        label,
        has_column(spec.modalities[0]),
        has_column(spec.modalities[1]),
    ];
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, shard.metadata.clone());
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|e| parquet_error(&shard.path, e))?;
    let mut row = 0;
    for batch in reader {
        let batch = batch.map_err(|e| parquet_error(&shard.path, e))?;
        let ids = column(&batch, "id", &shard.path)?
            .as_string::<i32>()
            .clone();
        let has: Vec<BooleanArray> = spec
            .modalities
            .iter()
            .map(|m| {
                Ok(column(&batch, has_column(*m), &shard.path)?
                    .as_boolean()
                    .clone())
            })
            .collect::<Result<_, Error>>()?;
        let labels = column(&batch, label, &shard.path)?;
        for i in 0..batch.num_rows() {
            let of = match labels.data_type() {
                DataType::Int32 => vec![labels.as_primitive::<Int32Type>().value(i)],
                _ => labels
                    .as_list::<i32>()
                    .value(i)
                    .as_primitive::<Int32Type>()
                    .values()
                    .to_vec(),
            };
            let of = of.into_iter().map(|l| match u32::try_from(l) {
                Ok(l) if (l as usize) < spec.classes.len() => Ok(l),
                _ => Err(Error::unusable(
                    format!(
                        "{}: sample {} has label {l}, there are {} classes",
                        shard.path.display(),
                        ids.value(i),
                        spec.classes.len()
                    ),
                    "ingest this dataset again with --overwrite",
                )),
            });
            index.labels.push(of.collect::<Result<_, Error>>()?);
            index.ids.push(ids.value(i).to_owned());
            index.present.push([has[0].value(i), has[1].value(i)]);
            index.places.push((number, row));
            row += 1;
        }
    }
    Ok(())
}

fn column<'a>(batch: &'a RecordBatch, name: &str, path: &Path) -> Result<&'a ArrayRef, Error> {
    batch.column_by_name(name).ok_or_else(|| {
        Error::unusable(
            format!("{}: column {name} is missing", path.display()),
            "ingest this dataset again with --overwrite",
        )
    })
}

fn fingerprint(spec: &ShardSpec, splits: &BTreeMap<Split, SplitIndex>) -> String {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{}\0{:?}\0{:?}\0",
        spec.dataset, spec.modalities, spec.classes
    ));
    for (split, index) in splits {
        for ((id, labels), present) in index.ids.iter().zip(&index.labels).zip(&index.present) {
            hash.update(format!("{split}\0{id}\0{labels:?}\0{present:?}\0"));
        }
    }
    hex::encode(hash.finalize())
}

/// Fetches rows; one per thread, because a file handle's position is shared by its clones.
pub struct RowReader<'a> {
    shards: &'a Shards,
    files: BTreeMap<u32, File>,
}

impl<'a> RowReader<'a> {
    /// A reader with no file open yet.
    pub fn new(shards: &'a Shards) -> Self {
        RowReader {
            shards,
            files: BTreeMap::new(),
        }
    }

    /// Fetches samples of a split by their numbers in its index; `wanted` says per sample which
    /// modalities to read. The result is in the order of `samples`, of which no two are the same.
    pub fn fetch(
        &mut self,
        split: Split,
        samples: &[u32],
        wanted: &[[bool; 2]],
    ) -> Result<Vec<Fetched>, Error> {
        let index = self.shards.split(split);
        let mut fetched: Vec<Fetched> = samples.iter().map(|_| Fetched::default()).collect();
        for (m, modality) in self.shards.spec.modalities.into_iter().enumerate() {
            // Rows of one row group are read in one go.
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
                let stored = stored(shard, file, group, modality, &rows);
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

    /// The file of a shard.
    fn file(&mut self, number: u32) -> Result<File, Error> {
        let path = &self.shards.shards[number as usize].path;
        match self.files.get(&number) {
            Some(file) => file.try_clone(),
            None => File::open(path).and_then(|f| {
                let clone = f.try_clone()?;
                // Which one goes matters little: the order of an epoch has no favourites.
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

/// A modality's contents in the given rows of a row group.
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

/// As [`contents`], of spectrograms and pictures, straight from the pages; `None` where these are not as
/// [`crate::schema::writer_properties`] has them: a page per row, without a dictionary, in one encoding. Arrow makes lists of
/// lists value by value and copies every picture, which takes several times as long.
fn stored(
    shard: &Shard,
    file: File,
    group: usize,
    modality: Modality,
    rows: &[(u32, usize)],
) -> Result<Option<Vec<Content>>, ParquetError> {
    let metadata = shard.metadata.metadata();
    let columns = metadata.file_metadata().schema_descr();
    let name = content_column(modality);
    let (kind, stored_as) = match modality {
        Modality::Audio => (Type::FLOAT, Encoding::BYTE_STREAM_SPLIT),
        Modality::Video | Modality::Image => (Type::BYTE_ARRAY, Encoding::PLAIN),
        Modality::Text => return Ok(None),
    };
    // Of a picture that is its bytes; its path follows.
    let leaf = (0..columns.num_columns())
        .find(|i| columns.column(*i).path().parts()[0] == name)
        .filter(|i| columns.column(*i).physical_type() == kind);
    let count = (shard.starts[group + 1] - shard.starts[group]) as usize;
    let locations = leaf.and_then(|leaf| {
        let index = metadata.page_index_for_row_group(group);
        Some((leaf, index.page_locations(leaf)?.clone()))
    });
    let Some((leaf, locations)) = locations.filter(|(_, locations)| locations.len() == count)
    else {
        return Ok(None);
    };
    let (column, chunk) = (columns.column(leaf), metadata.row_group(group).column(leaf));
    if locations[0].offset as u64 != chunk.byte_range().0 {
        return Ok(None);
    }
    let levels = [column.max_rep_level(), column.max_def_level()];
    let mut pages = SerializedPageReader::new(Arc::new(file), chunk, count, Some(locations))?;
    let (mut contents, mut at) = (Vec::with_capacity(rows.len()), 0);
    for (row, _) in rows {
        for _ in at..*row {
            pages.skip_next_page()?;
        }
        at = *row + 1;
        let Some(Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            ..
        }) = pages.get_next_page()?
        else {
            return Ok(None);
        };
        let content = without_levels(buf, levels).filter(|_| encoding == stored_as);
        let content = content.and_then(|bytes| match modality {
            Modality::Audio => mel(&bytes, num_values as usize),
            _ => pictures(&bytes, num_values as usize),
        });
        let Some(content) = content else {
            return Ok(None);
        };
        contents.push(content);
    }
    Ok(Some(contents))
}

/// What follows a page's levels: each kind that the column has, after its length.
fn without_levels(mut page: Bytes, levels: [i16; 2]) -> Option<Bytes> {
    for _ in levels.into_iter().filter(|highest| *highest > 0) {
        let length = u32::from_le_bytes(*page.first_chunk()?) as usize;
        if page.len() - 4 < length {
            return None;
        }
        page.advance(4 + length);
    }
    Some(page)
}

/// So many numbers: the first bytes of all, the second ones, and so on. `None` where not all of them are there.
fn mel(bytes: &[u8], count: usize) -> Option<Content> {
    if bytes.len() != 4 * count || !count.is_multiple_of(MEL_BINS) {
        return None;
    }
    let (lower, upper) = bytes.split_at(2 * count);
    let ((a, b), (c, d)) = (lower.split_at(count), upper.split_at(count));
    let numbers = a.iter().zip(b).zip(c.iter().zip(d));
    let numbers = numbers.map(|((a, b), (c, d))| f32::from_le_bytes([*a, *b, *c, *d]));
    Some(Content::Mel(Mel {
        bins: MEL_BINS,
        values: numbers.collect(),
    }))
}

/// So many pictures, each after its length. `None` where not all of them are there.
fn pictures(bytes: &Bytes, count: usize) -> Option<Content> {
    let (mut pictures, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = u32::from_le_bytes(*bytes[at..].first_chunk()?) as usize;
        let end = (at + 4).checked_add(length)?;
        if end > bytes.len() {
            return None;
        }
        pictures.push(Buffer::from(bytes.slice(at + 4..end)));
        at = end;
    }
    (pictures.len() == count).then_some(Content::Pictures(pictures))
}

fn empty(modality: Modality, path: &Path) -> Error {
    Error::unusable(
        format!(
            "{}: column {} is empty where {} says it is there",
            path.display(),
            content_column(modality),
            has_column(modality)
        ),
        "ingest this dataset again with --overwrite",
    )
}

/// The bytes of one cell, not copied.
fn cell(cells: &BinaryArray, at: usize) -> Buffer {
    let (start, end) = (cells.value_offsets()[at], cells.value_offsets()[at + 1]);
    cells
        .values()
        .slice_with_length(start as usize, (end - start) as usize)
}

/// The content of a one-row batch.
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
            Content::Pictures((0..bytes.len()).map(|i| cell(bytes, i)).collect())
        }
        Modality::Image => Content::Pictures(vec![cell(
            array.as_struct().column(0).as_binary::<i32>(),
            0,
        )]),
        Modality::Text => Content::Text(array.as_string::<i32>().value(0).to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::{clip, spec, write};
    use crate::{MelDtype, Row, writer_properties};
    use parquet::file::properties::WriterProperties;

    const SOUND: [Modality; 2] = [Modality::Audio, Modality::Video];
    const WORDS: [Modality; 2] = [Modality::Image, Modality::Text];
    /// Clips that have both modalities.
    const WHOLE: [u32; 4] = [0, 4, 7, 11];

    fn entry(i: usize) -> Row {
        let mut row = Row::new(format!("entry{i}"), Split::Train, vec![]);
        row.image = Some(vec![i as u8; 1000 + i]);
        row.text = Some(format!("text {i}"));
        row
    }

    /// What is read from the pages, and what Arrow reads, of [`WHOLE`].
    fn both(
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
        let rows = WHOLE.map(|row| (row, 0));
        let arrow = contents(shard, file(), 0, modality, &rows).unwrap();
        (
            stored(shard, file(), 0, modality, &rows).unwrap(),
            arrow.into_iter().map(Result::unwrap).collect(),
        )
    }

    #[test]
    fn pages_hold_what_arrow_reads_from_them() {
        for modality in SOUND.into_iter().chain(WORDS) {
            let multi_label = WORDS.contains(&modality);
            let spec = spec(if multi_label { WORDS } else { SOUND }, multi_label);
            let (pages, arrow) = both(&spec, modality, writer_properties(&spec));
            assert_eq!(arrow.len(), WHOLE.len());
            match modality {
                Modality::Text => assert_eq!(pages, None),
                _ => assert!(pages == Some(arrow), "{modality}"),
            }
        }
    }

    /// Many rows a page, dictionaries, no page index, half precision.
    #[test]
    fn pages_of_another_kind_are_left_to_arrow() {
        let own = spec(SOUND, false);
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
            let (pages, arrow) = both(spec, modality, properties);
            assert_eq!(pages, None);
            for (content, i) in arrow.into_iter().zip(WHOLE) {
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
                    Content::Pictures(pictures) => {
                        let own = row.frames.unwrap();
                        assert!(pictures.iter().map(|p| p.as_slice()).eq(own));
                    }
                    Content::Text(_) => unreachable!("there is no text"),
                }
            }
        }
    }
}
