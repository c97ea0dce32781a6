//! The user's annotation table in Parquet, read as text for `datasets`, which knows no Parquet.

use std::fs::File;
use std::panic;
use std::path::Path;

use anyhow::{Context, bail};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use datasets::{Cell, Table};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

/// Reads the columns of text, numbers, times and lists of these. NaN is a missing value. Columns of other types, such as structs, are left out.
///
/// # Errors
/// The file is no Parquet file or is damaged, or a column holds bytes that are no text.
pub fn read(path: &Path) -> anyhow::Result<Table> {
    // The parquet crate panics on some damaged pages. The hook suppresses its message, because the
    // error that is returned says the same in a clear sentence.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let table = panic::catch_unwind(|| read_columns(path));
    panic::set_hook(hook);
    table.unwrap_or_else(|_| bail!("its data is damaged"))
}

fn read_columns(path: &Path) -> anyhow::Result<Table> {
    // Without the Arrow schema of the file, string columns are Utf8 even if they were written from
    // dictionaries or views.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder =
        ParquetRecordBatchReaderBuilder::try_new_with_options(File::open(path)?, options)?;
    let fields = builder.schema().fields().clone();
    let usable: Vec<usize> = (0..fields.len())
        .filter(|&column| is_text(fields[column].data_type()))
        .collect();
    let mut table = Table::default();
    for &column in &usable {
        table.columns.push(fields[column].name().clone());
    }
    for batch in builder.build()? {
        let batch: RecordBatch = batch?;
        for row in 0..batch.num_rows() {
            let cells = usable.iter().map(|&column| {
                cell(batch.column(column), row).with_context(|| {
                    let name = fields[column].name();
                    format!("column {name}, row {}", table.rows.len() + 1)
                })
            });
            let cells = cells.collect::<anyhow::Result<Vec<_>>>()?;
            table.rows.push(cells);
        }
    }
    Ok(table)
}

/// Whether [`cell`] can read cells of this type.
fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::List(field) => is_single(field.data_type()),
        other => is_single(other),
    }
}

/// Whether [`cell_text`] can read cells of this type.
fn is_single(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8
        | DataType::Binary
        | DataType::Boolean
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Decimal128(..) => true,
        DataType::Timestamp(unit, _) => *unit != TimeUnit::Second,
        other => other.is_integer(),
    }
}

/// Returns a text or a list, or `None` if it is null. Null elements of a list are left out.
fn cell(column: &dyn Array, row: usize) -> anyhow::Result<Option<Cell>> {
    if !matches!(column.data_type(), DataType::List(_)) {
        return Ok(cell_text(column, row)?.map(Cell::Text));
    }
    if column.is_null(row) {
        return Ok(None);
    }
    let elements = column.as_list::<i32>().value(row);
    let words = (0..elements.len()).map(|element| cell_text(&elements, element));
    let words = words.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Some(Cell::List(words.into_iter().flatten().collect())))
}

/// Returns a cell as text, or `None` if it is null or NaN.
fn cell_text(column: &dyn Array, row: usize) -> anyhow::Result<Option<String>> {
    if column.is_null(row) {
        return Ok(None);
    }
    macro_rules! number {
        ($kind:ty) => {
            column.as_primitive::<$kind>().value(row).to_string()
        };
    }
    // A whole number is written with its point, as 2.0. Pandas writes a missing value as NaN.
    macro_rules! float {
        ($kind:ty) => {{
            let number = column.as_primitive::<$kind>().value(row);
            if number.is_nan() {
                return Ok(None);
            }
            format!("{number:?}")
        }};
    }
    macro_rules! time {
        ($kind:ty) => {{
            let time = column.as_primitive::<$kind>().value_as_datetime(row);
            time.context("holds a time that is out of range")?
                .to_string()
        }};
    }
    Ok(Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        // Some writers set no logical type, so that text is marked as bytes.
        DataType::Binary => match std::str::from_utf8(column.as_binary::<i32>().value(row)) {
            Ok(text) => text.to_owned(),
            Err(_) => bail!("holds bytes that are no UTF-8 text; write it as strings"),
        },
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => float!(Float32Type),
        DataType::Float64 => float!(Float64Type),
        DataType::Decimal128(..) => {
            let decimals = column.as_primitive::<Decimal128Type>();
            decimals.value_as_string(row)
        }
        DataType::Date32 => {
            let date = column.as_primitive::<Date32Type>().value_as_date(row);
            date.context("holds a date that is out of range")?
                .to_string()
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => time!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => time!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => time!(TimestampNanosecondType),
        other => bail!("is of type {other}, which has no text; write it as strings"),
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    use parquet::file::properties::WriterProperties;

    use super::*;

    /// Writes a table of two rows and returns its bytes.
    fn table(compression: Compression) -> Vec<u8> {
        let lists = [Some(vec![Some(1), Some(2)]), Some(vec![])];
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(StringArray::from(vec![Some("-a"), None]))),
            ("n", Arc::new(Int64Array::from(vec![7, -1]))),
            ("x", Arc::new(Float64Array::from(vec![2.0, f64::NAN]))),
            ("labels", Arc::new(lists)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn cells_are_read_as_text_with_every_compression() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::LZ4_RAW,
            Compression::BROTLI(BrotliLevel::default()),
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            std::fs::write(&path, table(compression)).unwrap();
            let table = read(&path).unwrap();
            assert_eq!(table.columns, ["id", "n", "x", "labels"]);
            let some = |text: &str| Some(Cell::Text(text.to_owned()));
            let list = |words: &[&str]| {
                Some(Cell::List(
                    words.iter().map(|&word| word.to_owned()).collect(),
                ))
            };
            let first = [some("-a"), some("7"), some("2.0"), list(&["1", "2"])];
            assert_eq!(table.rows[0], first, "{compression}");
            assert_eq!(table.rows[1], [None, some("-1"), None, list(&[])]);
        }
    }

    /// A flipped byte anywhere must not cause a panic.
    #[test]
    fn damaged_tables_do_not_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let whole = table(Compression::SNAPPY);
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                std::fs::write(&path, bytes).unwrap();
                // A flipped value may still be a value, so both results are right.
                drop(read(&path));
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).is_err(), "{at} of {} bytes", whole.len());
        }
    }
}
