//! `inspect`: shows what shards hold, read with polars as any user would read them.
//!
//! A program of its own, because polars takes longer to compile than everything else in the workspace together. The
//! overview reads the small columns alone, so it is fast on folders of any size. Nothing is changed; the images of
//! `--sample` go into a folder of their own.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod sample;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use features::schema::has_column;
use features::{FAILURES_FILE, MANIFEST_FILE, ShardName, ShardSpec, verify};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use polars::prelude::*;
use serde_json::{Map, Value, json};
use util::{cli, outln};

/// Rows printed of a table that is no shard.
const HEAD: u32 = 10;

/// Sentences printed of the error column, the most frequent ones.
const ERRORS: usize = 20;

const EXAMPLE: &str = "\
Examples:
  inspect crema-d
  inspect data/shards/ave --json | jq .splits
  inspect crema-d --verify
  inspect crema-d --sample 1041_TIE_NEU_XX --out /tmp/look";

/// What shards hold: schema, rows per split and class, availability, durations, failures
#[derive(Parser, Debug)]
#[command(name = "inspect", version, max_term_width = 100, after_help = EXAMPLE)]
struct Args {
    /// A dataset, a folder of shards, or one Parquet file
    #[arg(value_name = "DATASET|DIR|FILE")]
    target: String,
    /// Print this sample and write its frames and its mel spectrogram as PNG images
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    sample: Option<String>,
    /// Folder for the images of --sample [default: sample-ID]
    #[arg(long, value_name = "DIR", requires = "sample")]
    out: Option<PathBuf>,
    /// With --sample: name the images and write none
    #[arg(long, requires = "sample")]
    dry_run: bool,
    /// Read every shard and compare it with its hash in the manifest; exit with 1 where one has changed
    #[arg(long, conflicts_with = "sample")]
    verify: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => run(&args).unwrap_or_else(|error| cli::report_error(&error)),
        Err(error) => cli::report_usage(&error),
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let target = Path::new(&args.target);
    let (files, folder) = if target.is_file() {
        (vec![target.to_owned()], None)
    } else {
        let folder = shards_folder(&args.target)?;
        (shard_files(&folder)?, Some(folder))
    };
    if let Some(id) = &args.sample {
        return sample::run(&files, id, args.out.as_deref(), args.dry_run, args.json);
    }
    if args.verify {
        let Some(folder) = folder else {
            bail!("{}: --verify wants the folder of the shards", args.target);
        };
        return verify(&folder, args.json);
    }
    let Some(spec) = spec(&files[0])? else {
        return plain(&files[0], args.json);
    };
    let report = overview(&files, folder.as_deref(), &spec)?;
    if args.json {
        return cli::print_json(&report);
    }
    print(&report, &spec)?;
    Ok(ExitCode::SUCCESS)
}

/// `--verify`: the shards against their manifest.
fn verify(folder: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let Some(found) = verify::verify(folder, threads)? else {
        bail!(
            "{}: no {} to hold the shards against; `ingest run` writes it when all shards are there",
            folder.display(),
            MANIFEST_FILE
        );
    };
    if as_json {
        cli::print_json(&json!({
            "shards": found.shards, "bytes": found.bytes, "damaged": found.damaged,
        }))?;
    } else {
        for (file, problem) in &found.damaged {
            outln!("{file}: {problem}; delete it and run `ingest run` again")?;
        }
        let whole = found.shards - found.damaged.len();
        outln!(
            "{whole} of {} shards are the bytes that were written",
            found.shards
        )?;
    }
    Ok(match found.damaged.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(cli::EXIT_FINDINGS),
    })
}

/// The folder of shards that a word means: a folder as it is, or the default one of a dataset.
fn shards_folder(word: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(word);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if word.contains('/') && !word.ends_with(".toml") {
        bail!("{word}: no such folder; give a folder of shards or a dataset's name");
    }
    let name = datasets::open(word)?.info().name.clone();
    let folder = util::data_root().join("shards").join(name);
    if !folder.is_dir() {
        bail!(
            "{}: no shards there; run `ingest run {word}` first, or give the folder they are in",
            folder.display()
        );
    }
    Ok(folder)
}

fn shard_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        names.extend(entry?.file_name().to_str().and_then(ShardName::parse));
    }
    names.sort();
    if names.is_empty() {
        bail!(
            "{}: holds no shards; run `ingest run` first, or give another folder",
            folder.display()
        );
    }
    Ok(names
        .into_iter()
        .map(|name| folder.join(name.file_name()))
        .collect())
}

/// The spec of a shard; `None` for any other Parquet file.
fn spec(file: &Path) -> anyhow::Result<Option<ShardSpec>> {
    let open = File::open(file).with_context(|| file.display().to_string())?;
    let metadata = ArrowReaderMetadata::load(&open, ArrowReaderOptions::new())
        .with_context(|| format!("{}: no Parquet file that can be read", file.display()))?;
    if !metadata
        .schema()
        .metadata()
        .contains_key("u2a.schema_version")
        || metadata.schema().index_of("source").is_err()
    {
        return Ok(None);
    }
    Ok(Some(
        ShardSpec::from_schema(metadata.schema()).with_context(|| file.display().to_string())?,
    ))
}

/// Refuses a Parquet file whose footer describes columns outside of the file: polars trusts the offsets and would read
/// out of bounds.
fn check_bounds(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    for group in metadata.metadata().row_groups() {
        for column in group.columns() {
            let start = column.data_page_offset();
            let start = column
                .dictionary_page_offset()
                .map_or(start, |at| at.min(start));
            let end = u64::try_from(start)
                .ok()
                .zip(u64::try_from(column.compressed_size()).ok())
                .and_then(|(start, size)| start.checked_add(size));
            ensure!(
                end.is_some_and(|end| end <= length) && column.num_values() >= 0,
                "column {} lies outside of the file",
                column.column_path().string()
            );
        }
    }
    Ok(())
}

/// A scan over files, nothing read yet.
fn scan(files: &[PathBuf]) -> anyhow::Result<LazyFrame> {
    let paths: anyhow::Result<Vec<PlRefPath>> = files
        .iter()
        .map(|file| match file.to_str() {
            Some(path) => {
                check_bounds(file).with_context(|| {
                    format!("{}: no Parquet file that can be read", file.display())
                })?;
                Ok(PlRefPath::from(path))
            }
            None => bail!("{}: polars wants a name in UTF-8; move it", file.display()),
        })
        .collect();
    let options = ScanArgsParquet {
        glob: false,
        ..Default::default()
    };
    Ok(LazyFrame::scan_parquet_files(
        paths?.into_iter().collect(),
        options,
    )?)
}

/// A Parquet file that is no shard: a mask, the failures, a user's table.
fn plain(file: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let frame = scan(&[file.to_owned()])?;
    let schema = columns(&frame)?;
    let rows = count(frame.clone())?;
    if as_json {
        return cli::print_json(&json!({"file": file, "rows": rows, "columns": schema}));
    }
    outln!("{}: {rows} rows", file.display())?;
    outln!("{}", frame.limit(HEAD).collect()?)?;
    Ok(ExitCode::SUCCESS)
}

/// Column names and types.
fn columns(frame: &LazyFrame) -> anyhow::Result<Map<String, Value>> {
    let schema = frame.clone().collect_schema()?;
    Ok(schema
        .iter()
        .map(|(name, kind)| (name.to_string(), json!(kind.to_string())))
        .collect())
}

fn count(frame: LazyFrame) -> anyhow::Result<u64> {
    let counted = frame.select([len().cast(DataType::UInt64)]).collect()?;
    Ok(counted.columns()[0].u64()?.get(0).unwrap_or(0))
}

/// Everything about a folder of shards, as JSON.
fn overview(files: &[PathBuf], folder: Option<&Path>, spec: &ShardSpec) -> anyhow::Result<Value> {
    let frame = scan(files)?;
    let mut bytes = 0;
    for file in files {
        bytes += fs::metadata(file)
            .with_context(|| file.display().to_string())?
            .len();
    }
    let mut durations = Map::new();
    for modality in spec.modalities {
        let column = format!("{modality}_seconds");
        if frame.clone().collect_schema()?.contains(&column) {
            durations.insert(modality.to_string(), spread(&frame, col(column.as_str()))?);
        }
    }
    let quarantined = match folder.map(|folder| folder.join(FAILURES_FILE)) {
        Some(file) if file.is_file() => json!(count(scan(&[file])?)?),
        _ => Value::Null,
    };
    Ok(json!({
        "dataset": spec.dataset,
        "schema_version": features::SCHEMA_VERSION,
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

/// Rows per split, and how many of them have which modality.
fn splits(frame: &LazyFrame, spec: &ShardSpec) -> anyhow::Result<Map<String, Value>> {
    let [first, second] = spec.modalities.map(has_column);
    let number = |e: Expr, name: &str| e.cast(DataType::UInt64).alias(name);
    let table = frame
        .clone()
        .group_by([col("split")])
        .agg([
            number(len(), "rows"),
            number(col(first).sum(), first),
            number(col(second).sum(), second),
            number(col(first).and(col(second)).sum(), "complete"),
        ])
        .collect()?;
    let mut found = Map::new();
    for split in datasets::Split::ALL {
        for row in 0..table.height() {
            if table.column("split")?.str()?.get(row) == Some(split.as_str()) {
                let mut entry = Map::new();
                for name in ["rows", first, second, "complete"] {
                    entry.insert(name.to_owned(), json!(table.column(name)?.u64()?.get(row)));
                }
                found.insert(split.to_string(), Value::Object(entry));
            }
        }
    }
    Ok(found)
}

/// Rows per class and split, in canonical order.
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

/// Least, mean, greatest of a column of seconds, and their sum in hours.
fn spread(frame: &LazyFrame, column: Expr) -> anyhow::Result<Value> {
    let wide = |e: Expr, name: &str| e.cast(DataType::Float64).alias(name);
    let column = || column.clone().cast(DataType::Float64);
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

/// The error column's sentences, the most frequent first.
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

fn print(report: &Value, spec: &ShardSpec) -> anyhow::Result<()> {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
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
    for (name, kind) in report["columns"].as_object().into_iter().flatten() {
        outln!("  {name:<16} {}", text(kind))?;
    }
    let [first, second] = spec.modalities;
    outln!(
        "\n{:<28} {:>8} {:>8} {first:>8} {second:>8}",
        "split",
        "rows",
        "complete"
    )?;
    for (split, entry) in report["splits"].as_object().into_iter().flatten() {
        let [one, two] = spec
            .modalities
            .map(|modality| text(&entry[has_column(modality)]));
        outln!(
            "{split:<28} {:>8} {:>8} {one:>8} {two:>8}",
            text(&entry["rows"]),
            text(&entry["complete"])
        )?;
    }
    let splits: Vec<&String> = report["splits"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(split, _)| split)
        .collect();
    let heads: String = splits.iter().map(|split| format!(" {split:>8}")).collect();
    outln!("\n{:<28}{heads}", "class")?;
    for (class, entry) in report["classes"].as_object().into_iter().flatten() {
        let count = |split: &&String| entry.get(split.as_str()).map_or("0".to_owned(), text);
        let counts: String = splits
            .iter()
            .map(|split| format!(" {:>8}", count(split)))
            .collect();
        outln!("{class:<28}{counts}")?;
    }
    let seconds = report["seconds"].as_object();
    if seconds.is_some_and(|seconds| !seconds.is_empty()) {
        outln!(
            "\n{:<28} {:>8} {:>8} {:>8} {:>8}",
            "seconds",
            "least",
            "mean",
            "most",
            "hours"
        )?;
    }
    for (modality, entry) in seconds.into_iter().flatten() {
        let [least, mean, most, hours] =
            ["min", "mean", "max", "hours"].map(|key| text(&entry[key]));
        outln!("{modality:<28} {least:>8} {mean:>8} {most:>8} {hours:>8}")?;
    }
    let errors = report["errors"].as_array().map_or(&[][..], Vec::as_slice);
    if errors.is_empty() {
        outln!("\nno row lacks anything that should be there")?;
    } else {
        outln!("\nrows that lack something that should be there")?;
    }
    for entry in errors.iter().take(ERRORS) {
        outln!("  {:>6} x {}", text(&entry["rows"]), text(&entry["error"]))?;
    }
    if errors.len() > ERRORS {
        outln!(
            "  and {} other sentences (--json has them all)",
            errors.len() - ERRORS
        )?;
    }
    match report["quarantined"].as_u64() {
        Some(0) | None => {}
        Some(count) => outln!(
            "{count} samples of which nothing is left are in {}",
            FAILURES_FILE
        )?,
    }
    Ok(())
}
