//! One opened shard, and the errors of reading it.

use crate::shard_name::ShardName;
use arrow_array::{ArrayRef, RecordBatch};
use media::Error;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::errors::ParquetError;
use std::path::{Path, PathBuf};
use store::{Entry, StoredFile};

/// One shard, its footer read.
pub(super) struct Shard {
    pub name: ShardName,
    /// The path or URL, for messages.
    pub path: PathBuf,
    pub entry: Entry,
    /// The opened file, if it lies in a store. A process may open any number of these.
    pub remote: Option<StoredFile>,
    pub metadata: ArrowReaderMetadata,
    /// The first row of each row group, then the number of rows.
    pub starts: Vec<u32>,
}

/// Returns the error of a file that cannot be read as Parquet.
pub(super) fn parquet_error(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::unusable(
        format!("{}: cannot be read as Parquet: {error}", path.display()),
        "ingest this dataset again with --overwrite",
    )
}

/// Returns the error of a file that cannot be read: that of its store, or that of its content.
pub(super) fn unreadable(path: &Path, error: ParquetError) -> Error {
    let ParquetError::External(inner) = error else {
        return parquet_error(path, error);
    };
    // Parquet reads footers through `std::io::Read`, whose errors hold those of the store.
    let inner = match inner.downcast::<std::io::Error>() {
        Ok(error) => match error.into_inner() {
            Some(inner) => inner,
            None => return parquet_error(path, "it ends too soon"),
        },
        Err(inner) => inner,
    };
    match inner.downcast::<Error>() {
        Ok(error) => *error,
        Err(inner) => parquet_error(path, inner),
    }
}

/// Returns a column of a batch by its name.
pub(super) fn column<'a>(
    batch: &'a RecordBatch,
    name: &str,
    path: &Path,
) -> Result<&'a ArrayRef, Error> {
    batch.column_by_name(name).ok_or_else(|| {
        Error::unusable(
            format!("{}: column {name} is missing", path.display()),
            "ingest this dataset again with --overwrite",
        )
    })
}
