//! Missing-modality masks: which samples lose which modality under a protocol.
//!
//! A draw is a pure function of (protocol, rate, seed) and the set of each split's ids. The ids are
//! ranked by [`crate::order::rank`] under the key ("u2a-mask", protocol, seed), and the first
//! floor(rate x N) lose a modality. So neither the order of the rows nor the number of shards
//! matters, and what a lower rate hides, a higher one hides too.
//!
//! A mask holds what a protocol hides; which modalities a sample has is stored in the shards.
//! [`Mask::present`] combines the two. Where hiding would leave a sample without a modality, it
//! keeps what it has.
//!
//! Invariant: no sample of a mask has both modalities hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Metadata, Schema, SchemaRef};
use datasets::{InputName, Modalities, Split};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::ChunkReader;
use store::Folder;

use crate::order::by_rank;
use crate::schema::has_column;
use crate::shards::{Shards, SplitIndex};
use media::Error;

/// The missing rate of the paper's experiments.
pub const RATE: f64 = 0.7;

/// The folder of masks, in the folder of the shards.
pub const MASKS_FOLDER: &str = "masks";

/// Compensates for the rounding of a decimal rate to a double, so that 0.7 of 90 samples are 63,
/// not 62.
const RATE_ROUNDING: f64 = 1e-9;

/// A protocol: which modality is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// The given input of every chosen sample.
    Missing(InputName),
    /// The two modalities in turn: in rank order the second modality, the first, the second, ...
    MissingBoth,
}

impl Protocol {
    /// Returns the protocols of a dataset with these modalities: none if there is one modality,
    /// which cannot be missing.
    pub fn of(modalities: impl Into<Modalities>) -> Vec<Protocol> {
        let pair = modalities.into().pair();
        pair.map_or_else(Vec::new, |[first, second]| {
            vec![
                Protocol::Missing(first),
                Protocol::Missing(second),
                Protocol::MissingBoth,
            ]
        })
    }
}

/// The name: "missing-audio", ..., "missing-both".
impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Protocol::Missing(input) => f.pad(&format!("missing-{input}")),
            Protocol::MissingBoth => f.pad("missing-both"),
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let input = || name.strip_prefix("missing-")?.parse().ok();
        match name {
            "missing-both" => Some(Protocol::MissingBoth),
            _ => input().map(Protocol::Missing),
        }
        .ok_or_else(|| {
            Error::unusable(
                format!("no protocol '{name}'"),
                "use missing-audio, missing-video, missing-image, missing-text or missing-both",
            )
        })
    }
}

/// The modalities that each sample shows under a protocol, for every split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    inputs: [InputName; 2],
    /// The metadata of the file: dataset, protocol, rate, seed.
    origin: BTreeMap<String, String>,
    /// The file that the mask was read from, for messages.
    path: Option<PathBuf>,
    splits: BTreeMap<Split, BTreeMap<String, [bool; 2]>>,
}

/// Draws the mask of one split: which of the two modalities each id shows.
///
/// # Errors
/// The rate is outside 0..=1, the protocol hides an input that is none of the two, or there is one
/// input, which nothing can stand for.
pub fn draw(
    modalities: impl Into<Modalities>,
    protocol: Protocol,
    rate: f64,
    seed: u64,
    ids: &[impl AsRef<str>],
) -> Result<Vec<[bool; 2]>, Error> {
    if !(0.0..=1.0).contains(&rate) {
        return Err(Error::unusable(
            format!("a missing rate of {rate} is no share"),
            "give a number from 0 to 1",
        ));
    }
    let modalities = modalities.into();
    let inputs = both_inputs(modalities, protocol)?;
    let hidden = |rank: usize| match protocol {
        Protocol::Missing(input) => modalities.position(input),
        Protocol::MissingBoth => Some((rank + 1) % 2),
    };
    if hidden(0).is_none() {
        let [a, b] = inputs.map(Protocol::Missing);
        return Err(Error::unusable(
            format!("{protocol}: the samples have {modalities}"),
            format!("use {a}, {b} or {}", Protocol::MissingBoth),
        ));
    }
    let count = (rate * ids.len() as f64 + RATE_ROUNDING).floor() as usize;
    let mut shown = vec![[true; 2]; ids.len()];
    let key = ["u2a-mask", &protocol.to_string(), &seed.to_string()];
    for (rank, sample) in by_rank(&key, ids).into_iter().take(count).enumerate() {
        if let Some(modality) = hidden(rank) {
            shown[sample as usize][modality] = false;
        }
    }
    Ok(shown)
}

impl Mask {
    /// Draws the masks of all splits of a folder of shards.
    ///
    /// # Errors
    /// The errors of [`draw`].
    pub fn draw(shards: &Shards, protocol: Protocol, rate: f64, seed: u64) -> Result<Mask, Error> {
        let spec = shards.spec();
        let mut splits = BTreeMap::new();
        for split in Split::ALL {
            let ids = &shards.split(split).ids;
            let shown = draw(spec.modalities, protocol, rate, seed, ids)?;
            splits.insert(split, ids.iter().cloned().zip(shown).collect());
        }
        let origin = [
            ("u2a.dataset", spec.dataset.clone()),
            ("u2a.mask_protocol", protocol.to_string()),
            ("u2a.mask_rate", rate.to_string()),
            ("u2a.mask_seed", seed.to_string()),
        ];
        Ok(Mask {
            inputs: both_inputs(shards.spec().modalities, shards.folder())?,
            origin: origin.map(|(key, value)| (key.to_owned(), value)).into(),
            path: None,
            splits,
        })
    }

    /// Returns the mask of one split from another program: the modalities that each sample shows,
    /// in file order. `from` names the source.
    ///
    /// # Errors
    /// The number of samples is not that of the split, or a sample shows no modality.
    pub fn imported(
        shards: &Shards,
        split: Split,
        shown: Vec<[bool; 2]>,
        from: &str,
    ) -> Result<Mask, Error> {
        let (spec, ids) = (shards.spec(), &shards.split(split).ids);
        if shown.len() != ids.len() || shown.contains(&[false; 2]) {
            return Err(Error::unusable(
                format!("{from}: does not say for each sample of {split} which modality it shows"),
                "give every sample of the split at least one",
            ));
        }
        let origin = [
            ("u2a.dataset", spec.dataset.clone()),
            ("u2a.mask_imported_from", from.to_owned()),
        ];
        Ok(Mask {
            inputs: both_inputs(shards.spec().modalities, shards.folder())?,
            origin: origin.map(|(key, value)| (key.to_owned(), value)).into(),
            path: None,
            splits: [(split, ids.iter().cloned().zip(shown).collect())].into(),
        })
    }

    /// Returns the name of a mask in the folder of its shards:
    /// `masks/PROTOCOL-RATE-seedS.parquet`.
    pub fn name(protocol: Protocol, rate: f64, seed: u64) -> String {
        format!("{MASKS_FOLDER}/{protocol}-{rate}-seed{seed}.parquet")
    }

    /// Returns the path of a mask in a folder of shards on a disk.
    pub fn path_in(folder: &Path, protocol: Protocol, rate: f64, seed: u64) -> PathBuf {
        folder.join(Mask::name(protocol, rate, seed))
    }

    /// Returns how many samples of a split lose their first and their second modality.
    pub fn hidden_counts(&self, split: Split) -> [usize; 2] {
        let shown = || {
            self.splits
                .get(&split)
                .into_iter()
                .flat_map(BTreeMap::values)
        };
        [0, 1].map(|m| shown().filter(|shown| !shown[m]).count())
    }

    /// Returns, for each sample of the split in file order, the modalities that it both has and
    /// shows. Where that is none, the sample keeps what it has.
    ///
    /// # Errors
    /// The mask has other modalities than the shards, or lacks ids of the split.
    pub fn present(&self, shards: &Shards, split: Split) -> Result<Vec<[bool; 2]>, Error> {
        let name = || match &self.path {
            Some(path) => path.display().to_string(),
            None => "the mask".into(),
        };
        let remedy = "draw a mask for these shards with `ingest mask`";
        let wanted = both_inputs(shards.spec().modalities, shards.folder())?;
        let column = wanted.map(|one| self.inputs.iter().position(|&own| own == one));
        let [Some(first), Some(second)] = column else {
            return Err(Error::unusable(
                format!(
                    "{}: is about {} and {}, the shards hold {} and {}",
                    name(),
                    self.inputs[0],
                    self.inputs[1],
                    wanted[0],
                    wanted[1]
                ),
                remedy,
            ));
        };
        let SplitIndex { ids, present, .. } = shards.split(split);
        let none = BTreeMap::new();
        let shown = self.splits.get(&split).unwrap_or(&none);
        let lacking: Vec<&String> = ids.iter().filter(|id| !shown.contains_key(*id)).collect();
        if let Some(example) = lacking.first() {
            return Err(Error::unusable(
                format!(
                    "{}: lacks {} of the {} samples of {split} in {}, such as '{example}'",
                    name(),
                    lacking.len(),
                    ids.len(),
                    shards.folder()
                ),
                remedy,
            ));
        }
        Ok(ids
            .iter()
            .zip(present)
            .map(|(id, has)| join(*has, [shown[id][first], shown[id][second]]))
            .collect())
    }

    /// Writes the mask, see [`Mask::encode`], whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        util::atomic::write(path, self.encode()?).map_err(Error::io(path, "write"))
    }

    /// Returns the mask as a Parquet file: `id`, `split`, one bool per modality, sorted by split
    /// and id. Equal masks give equal bytes.
    ///
    /// # Errors
    /// The mask cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by("u2a".into())
            .build();
        let refused = |e: parquet::errors::ParquetError| Error::Invalid(format!("a mask: {e}"));
        let rows = self.rows()?;
        let mut writer =
            ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).map_err(refused)?;
        writer.write(&rows).map_err(refused)?;
        writer.into_inner().map_err(refused)
    }

    fn rows(&self) -> Result<RecordBatch, Error> {
        let all = || {
            self.splits.iter().flat_map(|(split, shown)| {
                shown
                    .iter()
                    .map(move |(id, shown)| (split.as_str(), id.as_str(), shown))
            })
        };
        let column = |m: usize| -> ArrayRef {
            Arc::new(
                all()
                    .map(|(_, _, shown)| Some(shown[m]))
                    .collect::<BooleanArray>(),
            )
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(all().map(|(_, id, _)| id))),
            Arc::new(StringArray::from_iter_values(
                all().map(|(split, _, _)| split),
            )),
            column(0),
            column(1),
        ];
        RecordBatch::try_new(self.schema(), columns)
            .map_err(|e| Error::Invalid(format!("a mask does not fit its schema: {e}")))
    }

    fn schema(&self) -> SchemaRef {
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        let flag = |input| Field::new(has_column(input), DataType::Boolean, false);
        let fields = vec![
            text("id"),
            text("split"),
            flag(self.inputs[0]),
            flag(self.inputs[1]),
        ];
        let mut metadata = Metadata::default();
        for (key, value) in &self.origin {
            metadata.insert(key, value);
        }
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }

    /// Reads a mask that [`Mask::write`] wrote, or the user's own with the same columns.
    ///
    /// # Errors
    /// The file is no Parquet file, a column is missing, of another type or null, an id is listed
    /// twice, or a sample has both modalities hidden.
    pub fn read(path: &Path) -> Result<Mask, Error> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        named(read(file), path)
    }

    /// Reads a mask in a folder, which may lie in an object store; see [`Mask::read`].
    ///
    /// # Errors
    /// There is no such file, the store does not answer, or the errors of [`Mask::read`].
    pub fn read_in(folder: &Folder, name: &str) -> Result<Mask, Error> {
        let path = folder.path_of(name);
        let bytes = folder.read(name)?.ok_or_else(|| {
            let problem = format!("{}: there is no such file", path.display());
            Error::unusable(problem, "draw it with `ingest mask`, or correct the name")
        })?;
        named(read(bytes), &path)
    }
}

/// Returns the inputs of a dataset that has two.
///
/// # Errors
/// It has one; `subject` is what the message is about.
fn both_inputs(modalities: Modalities, subject: impl Display) -> Result<[InputName; 2], Error> {
    modalities.pair().ok_or_else(|| {
        Error::unusable(
            format!("{subject}: the samples have {modalities} alone, and nothing stands for it"),
            "use masks with datasets of two modalities",
        )
    })
}

/// Adds the name of its file to a mask that was read, or to the problem.
fn named(read: Result<Mask, String>, path: &Path) -> Result<Mask, Error> {
    match read {
        Ok(mask) => Ok(Mask {
            path: Some(path.to_owned()),
            ..mask
        }),
        Err(problem) => {
            let remedy = "draw it with `ingest mask`, or give it `id`, `split` and two of \
                          has_audio, has_video, has_image, has_text";
            Err(Error::unusable(problem, remedy).in_file(path))
        }
    }
}

/// Returns the modalities that a sample has and shows, or all that it has if there is no such one.
fn join(has: [bool; 2], shown: [bool; 2]) -> [bool; 2] {
    let present = [has[0] && shown[0], has[1] && shown[1]];
    if present == [false; 2] { has } else { present }
}

fn read(file: impl ChunkReader + 'static) -> Result<Mask, String> {
    let not_parquet = |e| format!("cannot be read as Parquet ({e})");
    let metadata =
        ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(not_parquet)?;
    let schema = metadata.schema().clone();
    // Without the writer's own Arrow schema every string column is Utf8, even if it is a dictionary
    // or a view there.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .map_err(not_parquet)?;
    let input_of = |name: &str| InputName::all().find(|input| has_column(*input) == name);
    let inputs: Vec<InputName> = schema
        .fields()
        .iter()
        .filter_map(|field| input_of(field.name()))
        .collect();
    let inputs: [InputName; 2] = inputs
        .try_into()
        .map_err(|found: Vec<_>| format!("is about {} modalities, not two", found.len()))?;
    let origin = schema
        .metadata()
        .iter()
        .filter(|(key, _)| key.starts_with("u2a."))
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    let mut mask = Mask {
        inputs,
        origin,
        path: None,
        splits: BTreeMap::new(),
    };
    let mut listed = BTreeSet::new();
    for batch in builder.build().map_err(not_parquet)? {
        let batch = batch.map_err(|e| format!("cannot be read as Parquet ({e})"))?;
        let column = |name: &str, kind: DataType| {
            let column = batch
                .column_by_name(name)
                .ok_or(format!("lacks the column {name}"))?;
            if *column.data_type() != kind {
                return Err(format!("column {name} is no {kind}"));
            }
            match column.null_count() {
                0 => Ok(column),
                nulls => Err(format!("column {name} has {nulls} nulls")),
            }
        };
        let (ids, splits) = (
            column("id", DataType::Utf8)?,
            column("split", DataType::Utf8)?,
        );
        let flags = [
            column(&has_column(inputs[0]), DataType::Boolean)?,
            column(&has_column(inputs[1]), DataType::Boolean)?,
        ];
        for row in 0..batch.num_rows() {
            let id = ids.as_string::<i32>().value(row);
            let split = splits.as_string::<i32>().value(row);
            let split = Split::from_spelling(split).ok_or(format!("no split '{split}'"))?;
            let shown = [0, 1].map(|m| flags[m].as_boolean().value(row));
            if shown == [false; 2] {
                return Err(format!("sample '{id}' has both modalities hidden"));
            }
            if !listed.insert((split, id.to_owned())) {
                return Err(format!("sample '{id}' is listed twice"));
            }
            mask.splits
                .entry(split)
                .or_default()
                .insert(id.to_owned(), shown);
        }
    }
    Ok(mask)
}
