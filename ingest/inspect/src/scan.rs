//! Scans of Parquet files with polars.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use polars::prelude::*;
use serde_json::{Map, Value, json};

/// Creates a scan over files, which are read when the scan is collected.
///
/// # Errors
/// A file is no Parquet file, describes columns outside of itself, or has a name that is not UTF-8.
pub fn scan(files: &[PathBuf]) -> anyhow::Result<LazyFrame> {
    let paths: anyhow::Result<Vec<PlRefPath>> = files
        .iter()
        .map(|file| match file.to_str() {
            Some(path) => {
                check_bounds(file).with_context(|| {
                    format!("{}: no Parquet file that can be read", file.display())
                })?;
                Ok(PlRefPath::from(path))
            }
            None => bail!(
                "{}: polars needs a file name in UTF-8; rename the file",
                file.display()
            ),
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

/// Refuses a Parquet file whose footer describes columns outside of the file. polars trusts the
/// offsets and would read out of bounds.
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

/// Returns the names and types of the columns.
pub fn columns(frame: &LazyFrame) -> anyhow::Result<Map<String, Value>> {
    let schema = frame.clone().collect_schema()?;
    Ok(schema
        .iter()
        .map(|(name, kind)| (name.to_string(), json!(kind.to_string())))
        .collect())
}

/// Returns the number of rows.
pub fn count(frame: LazyFrame) -> anyhow::Result<u64> {
    let counted = frame.select([len().cast(DataType::UInt64)]).collect()?;
    Ok(counted.columns()[0].u64()?.get(0).unwrap_or(0))
}
