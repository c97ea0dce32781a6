//! The user's annotation table in Parquet, read as text for `datasets`, which knows no Parquet.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, bail};
use datasets::Table;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

/// Between the elements of a list column, as `datasets` expects several labels in one cell by default.
const SEPARATOR: &str = "|";

/// Reads every column. A list becomes one cell, its elements joined by "|".
///
/// # Errors
/// No Parquet file, a damaged one, or a column that holds bytes that are no text.
pub fn read(path: &Path) -> anyhow::Result<Table> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns = schema.get_fields();
    let columns: Vec<String> = columns.iter().map(|c| c.name().to_owned()).collect();
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let cells = row.get_column_iter().map(|(name, field)| {
            text(field).with_context(|| format!("column {name}, row {}", rows.len() + 1))
        });
        rows.push(cells.collect::<anyhow::Result<Vec<_>>>()?);
    }
    Ok(Table { columns, rows })
}

/// A cell as text; `None` where it is null.
fn text(field: &Field) -> anyhow::Result<Option<String>> {
    Ok(match field {
        Field::Null => None,
        Field::Str(text) => Some(text.clone()),
        // Writers without logical types mark text as bytes.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Some(text.to_owned()),
            Err(_) => bail!("holds bytes that are no UTF-8 text; write it as strings"),
        },
        Field::ListInternal(list) => {
            let cells: anyhow::Result<Vec<_>> = list.elements().iter().map(text).collect();
            let words: Vec<String> = cells?.into_iter().flatten().collect();
            Some(words.join(SEPARATOR))
        }
        other => Some(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::Int32Type;
    use arrow_array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
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
            ("x", Arc::new(Float64Array::from(vec![0.5, 2.0]))),
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
    fn every_cell_becomes_text_whatever_the_compression() {
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
            let some = |text: &str| Some(text.to_owned());
            let first = [some("-a"), some("7"), some("0.5"), some("1|2")];
            assert_eq!(table.rows[0], first, "{compression}");
            assert_eq!(table.rows[1], [None, some("-1"), some("2.0"), some("")]);
        }
    }

    /// A table of a user may be damaged anywhere: it is read or refused, and nothing panics.
    #[test]
    fn damaged_tables_are_refused_without_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let whole = table(Compression::SNAPPY);
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                std::fs::write(&path, bytes).unwrap();
                // Both outcomes are right: a flipped value may still be a value.
                drop(read(&path));
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).is_err(), "{at} of {} bytes", whole.len());
        }
    }
}
