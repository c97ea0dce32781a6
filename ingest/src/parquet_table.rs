//! The user's annotation table in Parquet, read for `datasets`, which knows no Parquet. Of files that
//! lie in it only their places are read; [`crate::parquet_cell`] reads one of them.

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
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

/// The field of a struct that holds the bytes of a file, and the one that holds its name, as
/// Hugging Face `datasets` calls them.
const BYTES: &str = "bytes";
const PATH: &str = "path";

/// Rows that are read at a time.
const ROWS_PER_BATCH: usize = 1024;

/// The same where the rows hold files.
const FILES_PER_BATCH: usize = 16;

/// Reads the `wanted` columns of text, numbers, times, lists of these, and files; the cells of the
/// other columns are null. NaN is a missing value. Columns of other types are left out.
///
/// A file is a struct of its `bytes` and its `path`, as Hugging Face `datasets` writes images, or
/// bytes that are no text. A struct without bytes is its path. Where the statistics of the table
/// say that every row has its bytes, or none, they are not read, so that a table of many gigabytes
/// is listed at once; otherwise they are read a few rows at a time.
///
/// # Errors
/// The file is no Parquet file or is damaged.
pub fn read(path: &Path, wanted: &[&str]) -> anyhow::Result<Table> {
    // The parquet crate panics on some damaged pages. The hook suppresses its message, because the
    // error that is returned says the same in a clear sentence.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let table = panic::catch_unwind(|| read_columns(path, wanted));
    panic::set_hook(hook);
    table.unwrap_or_else(|_| bail!("its data is damaged"))
}

type Builder = ParquetRecordBatchReaderBuilder<File>;

/// Opens a table without the Arrow schema that its writer stored. Then string columns are Utf8 even
/// if they were written from dictionaries or views.
pub(crate) fn open(path: &Path) -> anyhow::Result<Builder> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    Ok(Builder::try_new_with_options(File::open(path)?, options)?)
}

fn read_columns(path: &Path, wanted: &[&str]) -> anyhow::Result<Table> {
    let builder = open(path)?;
    let fields = builder.schema().fields().clone();
    let usable = fields.iter().filter(|field| is_usable(field.data_type()));
    let names: Vec<String> = usable.map(|field| field.name().clone()).collect();
    let mut columns = Vec::with_capacity(names.len());
    for name in &names {
        columns.push(match wanted.contains(&name.as_str()) {
            true => Contents::of(name, &builder, path)?,
            false => Contents::Unused,
        });
    }
    let leaves = builder.parquet_schema().columns().iter().enumerate();
    let read = leaves.filter(|(_, leaf)| {
        let parts = leaf.path().parts();
        let column = names.iter().position(|name| name == &parts[0]);
        column.is_some_and(|column| match columns[column] {
            Contents::Read | Contents::Files => true,
            Contents::Paths => parts[1] == PATH,
            Contents::Unused | Contents::AllFiles => false,
        })
    });
    let read: Vec<usize> = read.map(|(leaf, _)| leaf).collect();
    let mask = ProjectionMask::leaves(builder.parquet_schema(), read);
    let batch_size = match columns.contains(&Contents::Files) {
        true => FILES_PER_BATCH,
        false => ROWS_PER_BATCH,
    };
    let mut rows = Vec::new();
    for batch in builder
        .with_projection(mask)
        .with_batch_size(batch_size)
        .build()?
    {
        let batch: RecordBatch = batch?;
        for row in 0..batch.num_rows() {
            let cells = names.iter().zip(&columns).map(|(name, contents)| {
                let column = match contents {
                    Contents::Unused => return Ok(None),
                    Contents::AllFiles => return Ok(Some(Cell::File)),
                    _ => batch.column_by_name(name).context("has lost a column")?,
                };
                if *contents == Contents::Files && column.data_type() == &DataType::Binary {
                    return Ok(column.is_valid(row).then_some(Cell::File));
                }
                cell(column, row).with_context(|| format!("column {name}, row {}", rows.len() + 1))
            });
            let cells = cells.collect::<anyhow::Result<Vec<_>>>()?;
            rows.push(cells);
        }
    }
    Ok(Table {
        columns: names,
        rows,
    })
}

/// What is read of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contents {
    /// Nothing: nobody wants it.
    Unused,
    /// Its cells, which are small.
    Read,
    /// Its cells, which hold files unless they are null or a path.
    Files,
    /// Nothing: every row is known to hold a file.
    AllFiles,
    /// The paths of its structs, none of which holds a file.
    Paths,
}

impl Contents {
    fn of(name: &str, builder: &Builder, path: &Path) -> anyhow::Result<Contents> {
        let Some((_, field)) = builder.schema().fields().find(name) else {
            return Ok(Contents::Unused);
        };
        let is_struct = matches!(field.data_type(), DataType::Struct(_));
        if !is_struct && field.data_type() != &DataType::Binary {
            return Ok(Contents::Read);
        }
        let parts: &[&str] = if is_struct { &[name, BYTES] } else { &[name] };
        let mut leaves = builder.parquet_schema().columns().iter();
        let leaf = leaves.position(|leaf| leaf.path().parts() == parts);
        let leaf = leaf.context("has lost a column")?;
        let groups = builder.metadata().row_groups().iter();
        let nulls = groups.map(|group| group.column(leaf).statistics()?.null_count_opt());
        let nulls: Option<u64> = nulls.sum();
        let rows = builder.metadata().file_metadata().num_rows();
        if !is_struct && !begins_with_file(path, leaf)? {
            return Ok(Contents::Read);
        }
        Ok(match nulls {
            Some(0) => Contents::AllFiles,
            Some(nulls) if is_struct && i64::try_from(nulls) == Ok(rows) => Contents::Paths,
            _ => Contents::Files,
        })
    }
}

/// Whether the first cell of a column of bytes that is not null is no text. Then none is.
fn begins_with_file(path: &Path, leaf: usize) -> anyhow::Result<bool> {
    let builder = open(path)?;
    let mask = ProjectionMask::leaves(builder.parquet_schema(), [leaf]);
    for batch in builder.with_projection(mask).with_batch_size(1).build()? {
        let batch: RecordBatch = batch?;
        if batch.num_rows() > 0 && batch.column(0).is_valid(0) {
            return Ok(cell(batch.column(0), 0)? == Some(Cell::File));
        }
    }
    Ok(false)
}

/// Whether a column is read.
fn is_usable(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(fields) => {
            let field = |name, kind| {
                fields
                    .find(name)
                    .is_some_and(|(_, one)| one.data_type() == kind)
            };
            fields.len() == 2 && field(BYTES, &DataType::Binary) && field(PATH, &DataType::Utf8)
        }
        other => is_text(other),
    }
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

/// Returns a text, a list or a file, or `None` if it is null. Null elements of a list are left out.
fn cell(column: &dyn Array, row: usize) -> anyhow::Result<Option<Cell>> {
    if column.is_null(row) {
        return Ok(None);
    }
    match column.data_type() {
        DataType::List(_) => {}
        DataType::Struct(_) => {
            let of = |name| column.as_struct().column_by_name(name);
            if of(BYTES).is_some_and(|bytes| bytes.is_valid(row)) {
                return Ok(Some(Cell::File));
            }
            return of(PATH).map_or(Ok(None), |path| cell(path, row));
        }
        // Some writers set no logical type, so that text is marked as bytes.
        DataType::Binary if std::str::from_utf8(column.as_binary::<i32>().value(row)).is_err() => {
            return Ok(Some(Cell::File));
        }
        _ => return Ok(cell_text(column, row)?.map(Cell::Text)),
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
            let table = read(&path, &["id", "n", "x", "labels"]).unwrap();
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
                drop(read(&path, &["id", "n", "x", "labels"]));
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(
                read(&path, &["id", "n", "x", "labels"]).is_err(),
                "{at} of {} bytes",
                whole.len()
            );
        }
    }
}
