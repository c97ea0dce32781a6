//! The user's annotation table in Parquet, read as text for `datasets`, which knows no Parquet.

use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datasets::Table;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Between the elements of a list column, as `datasets` expects several labels in one cell by default.
const SEPARATOR: &str = "|";

/// Reads every column. A list becomes one cell, its elements joined by "|".
pub fn read(path: &Path) -> anyhow::Result<Table> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
    let mut table = Table::default();
    for batch in reader {
        let batch = batch?;
        table.columns = batch
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let start = table.rows.len();
        table.rows.resize(start + batch.num_rows(), Vec::new());
        for column in batch.columns() {
            for (row, cell) in table.rows[start..].iter_mut().enumerate() {
                cell.push(text(column, row)?);
            }
        }
    }
    Ok(table)
}

fn text(column: &dyn Array, row: usize) -> anyhow::Result<Option<String>> {
    if column.is_null(row) {
        return Ok(None);
    }
    let elements = match column.as_list_opt::<i32>() {
        Some(lists) => lists.value(row),
        None => match column.as_list_opt::<i64>() {
            Some(lists) => lists.value(row),
            None => return Ok(Some(display(column, row)?)),
        },
    };
    let words: anyhow::Result<Vec<String>> =
        (0..elements.len()).map(|i| display(&elements, i)).collect();
    Ok(Some(words?.join(SEPARATOR)))
}

fn display(column: &dyn Array, row: usize) -> anyhow::Result<String> {
    let options = FormatOptions::default().with_display_error(false);
    Ok(ArrayFormatter::try_new(column, &options)?
        .value(row)
        .try_to_string()?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
    use arrow::datatypes::Int32Type;
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn every_cell_becomes_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), Some(2)]),
            Some(vec![]),
        ]);
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
