//! The overview of a folder of shards. It reads the small columns alone, so it is fast on folders
//! of any size.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use features::schema::{has_column, seconds_column};
use features::{FAILURES_FILE, ShardSpec};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use polars::prelude::*;
use serde_json::{Map, Value, json};
use util::outln;

use super::scan::{columns, count, scan};

/// Limit on the printed sentences of the error column. The most frequent ones are printed.
const MAX_ERRORS: usize = 20;

/// What the schema metadata of a shard says.
pub struct ShardSchema {
    /// The dataset, its classes and the ingest settings that the shard names.
    spec: ShardSpec,
    /// The version of the shard format that the shard was written in.
    version: u32,
}

/// Reads the schema metadata of a file. Returns `None` for a Parquet file that is no shard.
///
/// # Errors
/// The file is no Parquet file, or a shard that this program cannot read.
pub fn read_schema(file: &Path) -> anyhow::Result<Option<ShardSchema>> {
    let open = File::open(file).with_context(|| file.display().to_string())?;
    let metadata = ArrowReaderMetadata::load(&open, ArrowReaderOptions::new())
        .with_context(|| format!("{}: no Parquet file that can be read", file.display()))?;
    let schema = metadata.schema();
    let Some(version) = schema.metadata().get("u2a.schema_version") else {
        return Ok(None);
    };
    // Only shards have a column of sources.
    if schema.index_of("source").is_err() {
        return Ok(None);
    }
    let spec = ShardSpec::from_schema(schema).with_context(|| file.display().to_string())?;
    let version: u32 = version
        .parse()
        .map_err(|_| anyhow!("{}: schema version {version} is no number", file.display()))?;
    Ok(Some(ShardSchema { spec, version }))
}

/// Returns everything about shards as JSON. `folder` is the folder of the shards, if all of them
/// are in `files`.
///
/// # Errors
/// A shard or `failures.parquet` cannot be read as Parquet.
pub fn overview(
    files: &[PathBuf],
    folder: Option<&Path>,
    schema: &ShardSchema,
) -> anyhow::Result<Value> {
    let frame = scan(files)?;
    let spec = &schema.spec;
    let mut bytes = 0;
    for file in files {
        bytes += fs::metadata(file)
            .with_context(|| file.display().to_string())?
            .len();
    }
    let mut durations = Map::new();
    for input in spec.modalities.names() {
        if let Some(column) = seconds_column(input)
            && frame.clone().collect_schema()?.contains(&column)
        {
            durations.insert(input.to_string(), statistics(&frame, &column)?);
        }
    }
    let quarantined = match folder.map(|folder| folder.join(FAILURES_FILE)) {
        Some(file) if file.is_file() => json!(count(scan(&[file])?)?),
        _ => Value::Null,
    };
    Ok(json!({
        "dataset": spec.dataset,
        "schema_version": schema.version,
        "tool_version": spec.tool_version,
        "settings_hash": spec.settings_hash,
        "shards": files.len(),
        "bytes": bytes,
        "rows": count(frame.clone())?,
        "columns": columns(&frame)?,
        "splits": splits(&frame, spec)?,
        "classes": classes(&frame, spec)?,
        "seconds": durations,
        "errors": errors(&frame)?,
        "quarantined": quarantined,
    }))
}

/// Returns the number of rows of each split, of those with each modality, and of those with all.
fn splits(frame: &LazyFrame, spec: &ShardSpec) -> anyhow::Result<Map<String, Value>> {
    let names: Vec<String> = spec.modalities.names().map(has_column).collect();
    let number = |e: Expr, name: &str| e.cast(DataType::UInt64).alias(name);
    let has_all = names.iter().map(|name| col(name.as_str()));
    let has_all = has_all.reduce(Expr::and).context("no modality")?;
    let mut counts = vec![number(len(), "rows")];
    counts.extend(
        names
            .iter()
            .map(|name| number(col(name.as_str()).sum(), name)),
    );
    counts.push(number(has_all.sum(), "complete"));
    let table = frame
        .clone()
        .group_by([col("split")])
        .agg(counts)
        .collect()?;
    let mut found = Map::new();
    for split in datasets::Split::ALL {
        for row in 0..table.height() {
            if table.column("split")?.str()?.get(row) == Some(split.as_str()) {
                let mut entry = Map::new();
                let of_inputs = names.iter().map(String::as_str);
                for name in ["rows", "complete"].into_iter().chain(of_inputs) {
                    entry.insert(name.to_owned(), json!(table.column(name)?.u64()?.get(row)));
                }
                found.insert(split.to_string(), Value::Object(entry));
            }
        }
    }
    Ok(found)
}

/// Returns the number of rows of each class in each split, in the order of the classes.
fn classes(frame: &LazyFrame, spec: &ShardSpec) -> anyhow::Result<Map<String, Value>> {
    let names = if spec.multi_label {
        col("label_names")
            .explode(ExplodeOptions {
                empty_as_null: false,
                keep_nulls: false,
            })
            .alias("name")
    } else {
        col("label_name").alias("name")
    };
    let mut found: Map<String, Value> = spec
        .classes
        .iter()
        .map(|name| (name.clone(), json!({})))
        .collect();
    for split in datasets::Split::ALL {
        let table = frame
            .clone()
            .filter(col("split").eq(lit(split.as_str())))
            .select([names.clone()])
            .group_by([col("name")])
            .agg([len().cast(DataType::UInt64).alias("rows")])
            .collect()?;
        for row in 0..table.height() {
            let name = table.column("name")?.str()?.get(row).unwrap_or_default();
            if let Some(entry) = found.get_mut(name) {
                entry[split.as_str()] = json!(table.column("rows")?.u64()?.get(row));
            }
        }
    }
    Ok(found)
}

/// Returns minimum, mean and maximum of a column of seconds, and the sum in hours.
fn statistics(frame: &LazyFrame, column: &str) -> anyhow::Result<Value> {
    let wide = |e: Expr, name: &str| e.cast(DataType::Float64).alias(name);
    let column = || col(column).cast(DataType::Float64);
    let table = frame
        .clone()
        .select([
            wide(column().min(), "min"),
            wide(column().mean(), "mean"),
            wide(column().max(), "max"),
            wide(column().sum() / lit(3600.0), "hours"),
        ])
        .collect()?;
    let mut entry = Map::new();
    for name in ["min", "mean", "max", "hours"] {
        let value = table.column(name)?.f64()?.get(0);
        entry.insert(
            name.to_owned(),
            json!(value.map(|value| (value * 1000.0).round() / 1000.0)),
        );
    }
    Ok(Value::Object(entry))
}

/// Returns the sentences of the error column with their number of rows, the most frequent first.
fn errors(frame: &LazyFrame) -> anyhow::Result<Vec<Value>> {
    let table = frame
        .clone()
        .filter(col("error").is_not_null())
        .group_by([col("error")])
        .agg([len().cast(DataType::UInt64).alias("rows")])
        .sort_by_exprs(
            [col("rows"), col("error")],
            SortMultipleOptions::default().with_order_descending_multi([true, false]),
        )
        .collect()?;
    let rows = 0..table.height();
    rows.map(|row| {
        let error = table.column("error")?.str()?.get(row);
        Ok(json!({"error": error, "rows": table.column("rows")?.u64()?.get(row)}))
    })
    .collect()
}

/// Prints an overview as tables.
pub fn print(report: &Value, schema: &ShardSchema) -> anyhow::Result<()> {
    print_head(report, &schema.spec)?;
    print_splits(report, &schema.spec)?;
    print_classes(report)?;
    print_seconds(report)?;
    print_errors(report)
}

fn print_head(report: &Value, spec: &ShardSpec) -> anyhow::Result<()> {
    let megabytes = report["bytes"].as_f64().unwrap_or(0.0) / 1e6;
    outln!(
        "{}: {} rows in {} shards, {megabytes:.1} MB (schema {}, tool {}, settings {})",
        spec.dataset,
        report["rows"],
        report["shards"],
        report["schema_version"],
        spec.tool_version,
        spec.settings_hash.get(..16).unwrap_or(&spec.settings_hash)
    )?;
    outln!("\ncolumns")?;
    for (name, kind) in entries(&report["columns"]) {
        outln!("  {name:<16} {}", text(kind))?;
    }
    Ok(())
}

fn print_splits(report: &Value, spec: &ShardSpec) -> anyhow::Result<()> {
    let names = || spec.modalities.names();
    let heads: String = names().map(|input| format!(" {input:>8}")).collect();
    outln!("\n{:<28} {:>8} {:>8}{heads}", "split", "rows", "complete")?;
    for (split, entry) in entries(&report["splits"]) {
        let counts = names().map(|input| text(&entry[has_column(input)]));
        let counts: String = counts.map(|count| format!(" {count:>8}")).collect();
        outln!(
            "{split:<28} {:>8} {:>8}{counts}",
            text(&entry["rows"]),
            text(&entry["complete"])
        )?;
    }
    Ok(())
}

fn print_classes(report: &Value) -> anyhow::Result<()> {
    let splits: Vec<&String> = entries(&report["splits"]).map(|(split, _)| split).collect();
    let heads: String = splits.iter().map(|split| format!(" {split:>8}")).collect();
    outln!("\n{:<28}{heads}", "class")?;
    for (class, entry) in entries(&report["classes"]) {
        let count = |split: &&String| entry.get(split.as_str()).map_or("0".to_owned(), text);
        let counts: String = splits
            .iter()
            .map(|split| format!(" {:>8}", count(split)))
            .collect();
        outln!("{class:<28}{counts}")?;
    }
    Ok(())
}

fn print_seconds(report: &Value) -> anyhow::Result<()> {
    let mut seconds = entries(&report["seconds"]).peekable();
    if seconds.peek().is_some() {
        outln!(
            "\n{:<28} {:>8} {:>8} {:>8} {:>8}",
            "seconds",
            "min",
            "mean",
            "max",
            "hours"
        )?;
    }
    for (modality, entry) in seconds {
        let [min, mean, max, hours] = ["min", "mean", "max", "hours"].map(|key| text(&entry[key]));
        outln!("{modality:<28} {min:>8} {mean:>8} {max:>8} {hours:>8}")?;
    }
    Ok(())
}

fn print_errors(report: &Value) -> anyhow::Result<()> {
    let errors = report["errors"].as_array().map_or(&[][..], Vec::as_slice);
    if errors.is_empty() {
        outln!("\nno row lacks a modality or a part of one")?;
    } else {
        outln!("\nrows that lack a modality or a part of one")?;
    }
    for entry in errors.iter().take(MAX_ERRORS) {
        outln!("  {:>6} x {}", text(&entry["rows"]), text(&entry["error"]))?;
    }
    if errors.len() > MAX_ERRORS {
        outln!(
            "  and {} other sentences (--json has them all)",
            errors.len() - MAX_ERRORS
        )?;
    }
    match report["quarantined"].as_u64() {
        Some(0) | None => {}
        Some(count) => outln!("{count} samples without any modality are in {FAILURES_FILE}")?,
    }
    Ok(())
}

/// Returns the entries of a JSON object.
fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

/// A JSON value as a cell of a printed table.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datasets::Modality;
    use features::MelDtype;
    use parquet::arrow::ArrowWriter;

    use super::*;

    /// A shard of an older format is described by its own version, not by that of this program.
    #[test]
    fn schema_version_is_read_from_the_shard() {
        let spec = ShardSpec {
            dataset: "clips".into(),
            modalities: [Modality::Audio, Modality::Video].into(),
            classes: vec!["one".into()],
            multi_label: false,
            mel_dtype: MelDtype::F32,
            frame_pool: 10,
            segment: false,
            tool_version: "0.1.0".into(),
            settings_hash: "0".into(),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("train-00000-of-00001.parquet");
        for version in [features::SCHEMA_VERSION, 1] {
            let mut schema = spec.arrow_schema().as_ref().clone();
            let metadata = &mut schema.metadata;
            metadata.insert("u2a.schema_version", version.to_string());
            let output = File::create(&file).unwrap();
            let writer = ArrowWriter::try_new(output, Arc::new(schema), None).unwrap();
            writer.close().unwrap();
            let schema = read_schema(&file).unwrap().unwrap();
            assert_eq!(schema.version, version);
            assert_eq!(schema.spec, spec);
        }
    }
}
