//! Fills a second folder with what is published and nothing else: the shards, `manifest.json` and
//! the samples that were left out, as JSON lines.
//!
//! In such a folder every Parquet file is a shard, so that `DIR/**/*.parquet` means the dataset to
//! every reader. The names are those of a folder of shards, which the programs here read as well.
//! Masks are left out: they are functions of the ids, and `ingest mask` draws them again.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use features::{FAILURES_FILE, Folder, MANIFEST_FILE};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use util::hash::sha256_of_file;

use crate::dataset::Dataset;
use crate::manifest::Manifest;

/// The file name of the samples that were left out, one JSON object a line.
pub const FAILURES_LINES: &str = "failures.jsonl";

/// Checks that the target holds no other Parquet file, and that it does not lie in the source.
/// Without `overwrite` it holds no other file either that [`copy`] would replace.
///
/// # Errors
/// It holds such a file or lies in the source, or it cannot be read.
pub fn check(
    dataset: &Dataset,
    source: &Path,
    target: &Path,
    overwrite: bool,
) -> anyhow::Result<()> {
    // In a folder below, the shards would be found twice by patterns that look into folders.
    if place_of(target)?.starts_with(place_of(source)?) {
        bail!(
            "--out {}: lies in the folder of the shards; give another one, or leave the flag out",
            target.display()
        );
    }
    let shards: Vec<PathBuf> = dataset.files().map(|file| target.join(file)).collect();
    for file in parquet_files(target)? {
        if !shards.contains(&file) {
            bail!(
                "{}: is not one of these shards; give an empty folder as --out",
                file.display()
            );
        }
    }
    match overwrite {
        true => Ok(()),
        false => check_replaced(dataset, source, target),
    }
}

/// Returns the Parquet files in a folder and in the folders below it, in the order of their paths.
fn parquet_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("{}: cannot be read", folder.display()));
            }
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "parquet") {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Refuses to replace shards with other content, and files of another dataset.
fn check_replaced(dataset: &Dataset, source: &Path, target: &Path) -> anyhow::Result<()> {
    let replaced = |name: &str, what: &str| {
        anyhow!(
            "{}: {what}; give an empty folder as --out, or replace it with --overwrite",
            target.join(name).display()
        )
    };
    for shard in &dataset.manifest.shards {
        let path = target.join(&shard.file);
        if path.exists() && sha256_of_file(&path)?.1 != shard.sha256 {
            return Err(replaced(&shard.file, "has another content than this shard"));
        }
    }
    let folder = Folder::from(target);
    if let Some(manifest) = folder.read(MANIFEST_FILE)? {
        let manifest = serde_json::from_slice(&manifest);
        let same = manifest.is_ok_and(|found: Manifest| found.dataset == dataset.manifest.dataset);
        if !same {
            return Err(replaced(MANIFEST_FILE, "is of another dataset"));
        }
    } else if let Some(found) = folder.read(FAILURES_LINES)?
        && failures(&source.join(FAILURES_FILE))?.is_none_or(|lines| found != lines.as_bytes())
    {
        return Err(replaced(FAILURES_LINES, "is of another dataset"));
    }
    Ok(())
}

/// Returns the absolute path of a folder that need not exist, without links in the part that does.
fn place_of(folder: &Path) -> std::io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    for existing in folder.ancestors() {
        if let (Ok(real), Ok(rest)) = (existing.canonicalize(), folder.strip_prefix(existing)) {
            return Ok(real.join(rest));
        }
    }
    Ok(folder)
}

/// Puts shards, manifest and the list of left out samples into the target. Shards are hard links
/// where both folders lie on one file system, and copies elsewhere. Writing of `ingest run` never
/// changes a shard in place, so that a link keeps its bytes.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy(dataset: &Dataset, source: &Path, target: &Path) -> anyhow::Result<()> {
    let making = || format!("{}: cannot be made", target.display());
    fs::create_dir_all(target).with_context(making)?;
    for shard in &dataset.manifest.shards {
        let (from, to) = (source.join(&shard.file), target.join(&shard.file));
        link_or_copy(&from, &to, &shard.sha256)
            .with_context(|| format!("{}: cannot be written", to.display()))?;
    }
    let (from, to) = (Folder::from(source), Folder::from(target));
    if let Some(failures) = failures(&source.join(FAILURES_FILE))? {
        to.write(FAILURES_LINES, failures.as_bytes())?;
    }
    let manifest = from
        .read(MANIFEST_FILE)?
        .context("the manifest has vanished")?;
    to.write(MANIFEST_FILE, &manifest)?;
    Ok(())
}

/// Puts a file at `to`, unless one with this hash is there.
fn link_or_copy(from: &Path, to: &Path, sha256: &str) -> std::io::Result<()> {
    if to.exists() {
        if sha256_of_file(to)?.1 == sha256 {
            return Ok(());
        }
        fs::remove_file(to)?;
    }
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let mut copy = util::atomic::AtomicFile::create(to)?;
    std::io::copy(&mut fs::File::open(from)?, &mut copy)?;
    copy.publish()
}

/// Returns the table of failures, whose columns are all of text, as JSON lines. `None` if there is
/// no table.
fn failures(path: &Path) -> anyhow::Result<Option<String>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("{}: cannot be read", path.display()));
        }
    };
    let read = || -> anyhow::Result<String> {
        let mut lines = String::new();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
            add_lines(&mut lines, &batch?)?;
        }
        Ok(lines)
    };
    let lines = read().with_context(|| {
        format!(
            "{}: is no table of failures; run `ingest run` again, which writes a new one",
            path.display()
        )
    })?;
    Ok(Some(lines))
}

fn add_lines(lines: &mut String, batch: &RecordBatch) -> anyhow::Result<()> {
    let schema = batch.schema();
    let mut columns = Vec::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let column = column.as_string_opt::<i32>();
        columns.push((field.name(), column.context("a column holds no text")?));
    }
    for row in 0..batch.num_rows() {
        let mut object = Map::new();
        for (name, column) in &columns {
            let value = match column.is_null(row) {
                true => Value::Null,
                false => Value::from(column.value(row)),
            };
            object.insert((*name).clone(), value);
        }
        lines.push_str(&serde_json::to_string(&object)?);
        lines.push('\n');
    }
    Ok(())
}
