//! The user's annotation table in Parquet, read as text for `datasets`, which knows no Parquet.
//!
//! Read with polars, which takes every compression that other writers use.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, ensure};
use datasets::Table;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use polars::prelude::*;

/// Between the elements of a list column, as `datasets` expects several labels in one cell by default.
const SEPARATOR: &str = "|";

/// Refuses a Parquet file whose footer speaks of bytes that are not there: polars takes its word for where columns lie,
/// and reads out of bounds.
///
/// # Errors
/// No footer that can be read; a column that lies outside of the file.
pub fn check_bounds(path: &Path) -> anyhow::Result<()> {
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

/// Reads every column. A list becomes one cell, its elements joined by "|".
///
/// # Errors
/// No Parquet file, or one that polars cannot read.
pub fn read(path: &Path) -> anyhow::Result<Table> {
    check_bounds(path)?;
    let name = path.to_str().context("its name is not UTF-8")?;
    let options = ScanArgsParquet {
        glob: false,
        ..Default::default()
    };
    let frame = LazyFrame::scan_parquet(PlRefPath::from(name), options)?.collect()?;
    let columns = frame.columns();
    let mut rows = vec![Vec::with_capacity(columns.len()); frame.height()];
    for column in columns {
        let column = column.as_materialized_series();
        for (cells, value) in rows.iter_mut().zip(column.iter()) {
            cells.push(text(&value));
        }
    }
    Ok(Table {
        columns: columns
            .iter()
            .map(|column| column.name().to_string())
            .collect(),
        rows,
    })
}

fn text(value: &AnyValue) -> Option<String> {
    match value {
        AnyValue::Null => None,
        AnyValue::String(text) => Some((*text).to_owned()),
        AnyValue::StringOwned(text) => Some(text.to_string()),
        AnyValue::List(elements) => {
            let words: Vec<String> = elements
                .iter()
                .filter_map(|element| text(&element))
                .collect();
            Some(words.join(SEPARATOR))
        }
        other => Some(other.str_value().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
    use arrow::datatypes::Int32Type;
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn every_cell_becomes_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let lists = [Some(vec![Some(1), Some(2)]), Some(vec![])];
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(StringArray::from(vec![Some("-a"), None]))),
            ("n", Arc::new(Int64Array::from(vec![7, -1]))),
            ("labels", Arc::new(lists)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer =
            ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let table = read(&path).unwrap();
        assert_eq!(table.columns, ["id", "n", "labels"]);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(table.rows[0], [some("-a"), some("7"), some("1|2")]);
        assert_eq!(table.rows[1], [None, some("-1"), some("")]);
    }
}
