//! The shard schema: the one definition that the writer (`ingest`) and the readers share.
//!
//! A shard is a plain Parquet file, one row per sample. A [`ShardSpec`] determines the columns and
//! is stored in every shard as Arrow schema metadata (keys `u2a.*`, and `huggingface` for the
//! `datasets` library), so that a shard describes itself. There are no Arrow extension types: Rust
//! polars panics on them.
//!
//! Rows become columns in [`crate::record_batch`] and are read back by [`crate::shards`].
//!
//! Invariants: equal specs and rows give equal bytes. A media cell is a page of its own, so that
//! one row can be read through the page index without its neighbours. A row has at least one
//! modality.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use datasets::{InputName, Modalities, Modality};
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde_json::{Value, json};

use media::Error;
use media::mel::{MEL_BINS, MEL_RECIPE};

/// The version of the shard format: the columns, and the bytes that given media become in them. Any
/// change of either raises it, so that no run mixes old and new bytes; `tests/format.rs` detects a
/// change of the bytes.
pub const SCHEMA_VERSION: u32 = 3;

/// The oldest version that can be read. All versions have the same columns. The JPEG files of
/// version 1 come from another encoder, with or without restart markers; versions 1 and 2 hold
/// small images enlarged.
const OLDEST_VERSION: u32 = 1;

/// How the stored frames are chosen and encoded. Part of the metadata, beside their number.
pub const FRAME_POLICY: &str =
    "evenly-spaced;libjpeg-turbo-q95-444-restart-rows-1;shorter-side-at-most-256";

/// The encoded bytes after which a row group is closed. They bound a writer's memory; readers fetch
/// single rows.
pub const ROW_GROUP_BYTES: usize = 64 << 20;

/// The zstd level of spectrograms and of the small columns. Higher levels gain under 2 % on
/// spectrograms and take several times as long.
pub const ZSTD_LEVEL: i32 = 1;

/// The number of texts per page: small enough to fetch a single one, large enough to compress.
pub const TEXTS_PER_PAGE: usize = 16;

/// The key that Hugging Face `datasets` reads in the Arrow schema metadata.
const HUGGINGFACE_KEY: &str = "huggingface";

/// The type of stored mel values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MelDtype {
    /// 4 bytes per value.
    #[default]
    F32,
    /// 2 bytes per value; rounds by at most 0.004, as values lie in -16..8.
    F16,
}

impl MelDtype {
    /// Returns "f32" or "f16".
    pub fn as_str(self) -> &'static str {
        match self {
            MelDtype::F32 => "f32",
            MelDtype::F16 => "f16",
        }
    }
}

impl std::str::FromStr for MelDtype {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "f32" => Ok(MelDtype::F32),
            "f16" => Ok(MelDtype::F16),
            _ => Err(Error::unusable(
                format!("no mel type '{s}'"),
                "use f32 or f16",
            )),
        }
    }
}

/// Everything that the columns of a shard depend on, and the tool and settings that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSpec {
    /// The dataset's name, such as "crema-d".
    pub dataset: String,
    /// The modalities, one or two.
    pub modalities: Modalities,
    /// The class names, which labels index.
    pub classes: Vec<String>,
    /// Whether the columns are `labels` and `label_names` instead of `label` and `label_name`.
    pub multi_label: bool,
    /// The type of the mel values.
    pub mel_dtype: MelDtype,
    /// The number of frames that are stored per clip; 0 for all of them.
    pub frame_pool: u32,
    /// Whether there are columns `event_start` and `event_end`.
    pub segment: bool,
    /// The version of the tool that wrote the shard.
    pub tool_version: String,
    /// The hash of the settings that change the output.
    pub settings_hash: String,
}

/// Returns the name of the column that holds whether a sample has an input, such as "has_audio".
pub fn has_column(input: InputName) -> String {
    format!("has_{input}")
}

/// Returns the name of the column with an input's content: `mel`, `frames`, `image` or `text`, with
/// the suffix of its view where there are two.
pub fn content_column(input: InputName) -> String {
    let content = match input.modality {
        Modality::Audio => "mel",
        Modality::Video => "frames",
        Modality::Image => "image",
        Modality::Text => "text",
    };
    format!("{content}{}", input.suffix())
}

/// Returns the name of the column with the times of a video's frames.
pub fn frame_times_column(input: InputName) -> String {
    format!("frame_times{}", input.suffix())
}

/// Returns the name of the column with the duration of a clip; images and texts have none.
pub fn seconds_column(input: InputName) -> Option<String> {
    match input.modality {
        Modality::Audio | Modality::Video => {
            Some(format!("{}_seconds{}", input.modality, input.suffix()))
        }
        Modality::Image | Modality::Text => None,
    }
}

impl ShardSpec {
    /// Returns whether the dataset has this modality.
    pub fn has(&self, modality: Modality) -> bool {
        self.modalities.has(modality)
    }

    /// Returns the columns in order, with the metadata. There are no columns for modalities that
    /// the dataset does not have.
    pub fn arrow_schema(&self) -> SchemaRef {
        let required = |name: &str, kind: DataType| Field::new(name, kind, false);
        let optional = |name: &str, kind: DataType| Field::new(name, kind, true);
        let mut fields = vec![
            required("id", DataType::Utf8),
            required("split", DataType::Utf8),
        ];
        if self.multi_label {
            fields.push(required("labels", DataType::List(item(DataType::Int32))));
            fields.push(required(
                "label_names",
                DataType::List(item(DataType::Utf8)),
            ));
        } else {
            fields.push(required("label", DataType::Int32));
            fields.push(required("label_name", DataType::Utf8));
        }
        for input in self.modalities.names() {
            fields.push(required(&has_column(input), DataType::Boolean));
        }
        for input in self.modalities.names() {
            let content = match input.modality {
                Modality::Audio => DataType::List(item(self.mel_frame_type())),
                Modality::Video => DataType::List(item(image_type())),
                Modality::Image => image_type(),
                Modality::Text => DataType::Utf8,
            };
            fields.push(optional(&content_column(input), content));
            if input.modality == Modality::Video {
                fields.push(required(
                    &frame_times_column(input),
                    DataType::List(item(DataType::Float32)),
                ));
            }
        }
        for input in self.modalities.names() {
            if let Some(name) = seconds_column(input) {
                fields.push(optional(&name, DataType::Float32));
            }
        }
        if self.segment {
            fields.push(optional("event_start", DataType::Float32));
            fields.push(optional("event_end", DataType::Float32));
        }
        fields.push(required("source", DataType::Utf8));
        fields.push(optional("error", DataType::Utf8));
        let metadata = self.metadata(&fields);
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }

    fn mel_frame_type(&self) -> DataType {
        let value = match self.mel_dtype {
            MelDtype::F32 => DataType::Float32,
            MelDtype::F16 => DataType::Float16,
        };
        DataType::FixedSizeList(item(value), MEL_BINS as i32)
    }

    fn metadata(&self, fields: &[Field]) -> HashMap<String, String> {
        let names = self.modalities.names().map(InputName::as_str);
        let names: Vec<&str> = names.collect();
        let mut metadata = HashMap::new();
        let mut put = |key: &str, value: String| metadata.insert(key.to_owned(), value);
        put("u2a.schema_version", SCHEMA_VERSION.to_string());
        put("u2a.dataset", self.dataset.clone());
        put("u2a.modalities", names.join(","));
        put("u2a.classes", json!(self.classes).to_string());
        put("u2a.multi_label", self.multi_label.to_string());
        put("u2a.segment", self.segment.to_string());
        put("u2a.tool_version", self.tool_version.clone());
        put("u2a.settings_hash", self.settings_hash.clone());
        if self.has(Modality::Audio) {
            put("u2a.mel_recipe", MEL_RECIPE.to_owned());
            put("u2a.mel_dtype", self.mel_dtype.as_str().to_owned());
        }
        if self.has(Modality::Video) {
            put("u2a.frame_policy", FRAME_POLICY.to_owned());
            put("u2a.frame_pool", self.frame_pool.to_string());
        }
        put(HUGGINGFACE_KEY, self.huggingface(fields).to_string());
        metadata
    }

    /// Returns the features that Hugging Face `datasets` should read the columns as. It uses a
    /// feature only where its Arrow type is the column's own, as it is for images. Its class labels
    /// are int64 and ours int32, so labels appear as numbers beside their names unless the user
    /// casts them (`ds.cast_column("label", ClassLabel(names=...))`).
    fn huggingface(&self, fields: &[Field]) -> Value {
        let mut features = serde_json::Map::new();
        for field in fields {
            let class = json!({"names": self.classes, "_type": "ClassLabel"});
            let feature = match field.name().as_str() {
                "label" => class,
                "labels" => json!({"feature": class, "_type": "Sequence"}),
                _ => feature_of(field.data_type()),
            };
            features.insert(field.name().clone(), feature);
        }
        json!({"info": {"features": features}})
    }

    /// Reads the spec back from a shard's schema.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the metadata is missing, of another version, or does not fit the
    /// columns.
    pub fn from_schema(schema: &Schema) -> Result<ShardSpec, Error> {
        let remedy = "ingest the dataset again with this tool";
        let optional = |key: &str| schema.metadata().get(&format!("u2a.{key}"));
        let get = |key: &str| {
            optional(key).ok_or_else(|| {
                Error::unusable(
                    format!("not a shard: its schema metadata lacks u2a.{key}"),
                    remedy,
                )
            })
        };
        check_version(get("schema_version")?)?;
        let wrong = |key: &str| {
            Error::unusable(
                format!("schema metadata u2a.{key} cannot be understood"),
                remedy,
            )
        };
        let flag = |key: &str| get(key)?.parse::<bool>().map_err(|_| wrong(key));
        let spec = ShardSpec {
            dataset: get("dataset")?.clone(),
            modalities: get("modalities")?
                .parse()
                .map_err(|_| wrong("modalities"))?,
            classes: serde_json::from_str(get("classes")?).map_err(|_| wrong("classes"))?,
            multi_label: flag("multi_label")?,
            mel_dtype: match optional("mel_dtype") {
                Some(word) => word.parse().map_err(|_| wrong("mel_dtype"))?,
                None => MelDtype::F32,
            },
            frame_pool: match optional("frame_pool") {
                Some(word) => word.parse().map_err(|_| wrong("frame_pool"))?,
                None => 0,
            },
            segment: flag("segment")?,
            tool_version: get("tool_version")?.clone(),
            settings_hash: get("settings_hash")?.clone(),
        };
        if spec.has(Modality::Audio) && get("mel_recipe")? != MEL_RECIPE {
            return Err(Error::unusable(
                format!(
                    "mel recipe '{}', but this tool's is '{MEL_RECIPE}'",
                    get("mel_recipe")?
                ),
                remedy,
            ));
        }
        let expected = spec.arrow_schema();
        if expected.fields() != schema.fields() {
            let columns = |schema: &Schema| {
                schema
                    .fields()
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect::<Vec<_>>()
                    .join(",")
            };
            return Err(Error::unusable(
                format!(
                    "columns [{}] are not the [{}] that its metadata promises (names, types or order)",
                    columns(schema),
                    columns(&expected)
                ),
                remedy,
            ));
        }
        Ok(spec)
    }
}

/// Checks that this tool can read shards of a schema version.
fn check_version(version: &str) -> Result<(), Error> {
    let readable = OLDEST_VERSION..=SCHEMA_VERSION;
    match version.parse().is_ok_and(|v| readable.contains(&v)) {
        true => Ok(()),
        false => Err(Error::unusable(
            format!(
                "schema version {version}, but this tool reads versions {OLDEST_VERSION} to \
                 {SCHEMA_VERSION}"
            ),
            "ingest the dataset again with this tool, or read it with the tool that wrote it",
        )),
    }
}

/// Returns the element field of a list. Its name and nullability are those of other writers, so
/// that types compare equal in pyarrow.
pub(crate) fn item(kind: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", kind, true))
}

/// Returns the struct of encoded bytes and a path that Hugging Face reads as an image. The path is
/// null.
fn image_type() -> DataType {
    DataType::Struct(image_fields())
}

pub(crate) fn image_fields() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ])
}

/// Returns the Hugging Face feature of an Arrow type.
fn feature_of(kind: &DataType) -> Value {
    let value = |name: &str| json!({"dtype": name, "_type": "Value"});
    match kind {
        DataType::Utf8 => value("string"),
        DataType::Int32 => value("int32"),
        DataType::Boolean => value("bool"),
        DataType::Float32 => value("float32"),
        DataType::Float16 => value("float16"),
        DataType::Struct(_) => json!({"_type": "Image"}),
        // "Sequence" is read by every version of datasets, "List" by 4 and later only.
        DataType::List(of) => json!({"feature": feature_of(of.data_type()), "_type": "Sequence"}),
        DataType::FixedSizeList(of, length) => {
            json!({"feature": feature_of(of.data_type()), "length": length, "_type": "Sequence"})
        }
        other => unreachable!("no column has type {other}"),
    }
}

/// Returns the encoding of a shard, which the module's documentation describes.
///
/// Pages do not depend on the batches that rows are written in. Row groups do a little, because the
/// writer checks [`ROW_GROUP_BYTES`] per batch: write one row per batch for equal bytes.
pub fn writer_properties(spec: &ShardSpec) -> WriterProperties {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default());
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("u2a {}", spec.tool_version))
        .set_compression(zstd)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        // Page limits are checked once per write batch, and a batch never splits a row: with 1 they
        // are checked after every row.
        .set_write_batch_size(1);
    let columns = ArrowSchemaConverter::new()
        .convert(&spec.arrow_schema())
        .expect("every column type of the schema exists in Parquet");
    for column in columns.columns() {
        let path = column.path().clone();
        let name = path.parts()[0].as_str();
        let mut inputs = spec.modalities.names();
        let Some(input) = inputs.find(|input| content_column(*input) == name) else {
            continue;
        };
        let (rows_per_page, compression, encoding) = match input.modality {
            Modality::Audio => match spec.mel_dtype {
                MelDtype::F32 => (1, zstd, Encoding::BYTE_STREAM_SPLIT),
                // DuckDB refuses byte-stream-split for 2-byte values.
                MelDtype::F16 => (1, zstd, Encoding::PLAIN),
            },
            // JPEG does not compress any further.
            Modality::Video | Modality::Image => (1, Compression::UNCOMPRESSED, Encoding::PLAIN),
            Modality::Text => (TEXTS_PER_PAGE, zstd, Encoding::PLAIN),
        };
        builder = builder
            .set_column_data_page_row_count_limit(path.clone(), rows_per_page)
            // Pages are never split by size: a row's bytes stay in one page.
            .set_column_data_page_size_limit(path.clone(), usize::MAX)
            .set_column_compression(path.clone(), compression)
            .set_column_encoding(path.clone(), encoding)
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    builder.build()
}
