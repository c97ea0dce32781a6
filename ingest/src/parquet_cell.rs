//! Files that lie in the cells of a Parquet table, read one by one in a decode worker.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowSelector,
};

use crate::failure::{self, Failure};

/// Reads cells. It keeps its place in the column that it read last, because a worker is asked for
/// rows that ascend, and a row can only be found by reading the pages before it.
#[derive(Default)]
pub struct CellReader {
    column: Option<OpenColumn>,
}

/// A column of a table.
struct OpenColumn {
    table: PathBuf,
    name: String,
    file: File,
    metadata: ArrowReaderMetadata,
    /// The column, or the bytes of its structs.
    mask: ProjectionMask,
    /// The rows from [`OpenColumn::next`] on, up to the end of their row group, one at a time.
    rows: Option<ParquetRecordBatchReader>,
    /// The number of the next row.
    next: usize,
    /// The end of the row group that is open.
    end: usize,
}

impl CellReader {
    /// Reads the file in a cell of a table. Rows are counted from 0.
    ///
    /// # Errors
    /// The table cannot be read, has changed since it was listed, or is damaged.
    pub fn read(&mut self, table: &Path, column: &str, row: usize) -> Result<Vec<u8>, Failure> {
        let mut open = match self.column.take() {
            Some(open) if open.table == table && open.name == column => open,
            _ => OpenColumn::open(table, column)?,
        };
        let bytes = open.read(row)?;
        self.column = Some(open);
        bytes.ok_or_else(|| Failure::with(failure::NO_FILE, "the cell is empty"))
    }
}

impl OpenColumn {
    fn open(table: &Path, name: &str) -> Result<OpenColumn, Failure> {
        let file = File::open(table).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::new(failure::NO_FILE),
            kind => Failure::with(failure::UNREADABLE, kind),
        })?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(damaged)?;
        let schema = metadata.parquet_schema();
        let mut leaves = schema.columns().iter();
        let leaf = leaves.position(|leaf| {
            let parts = leaf.path().parts();
            parts[0] == name && (parts.len() == 1 || parts[1] == "bytes")
        });
        let leaf = leaf.ok_or_else(|| damaged("it has no such column"))?;
        Ok(OpenColumn {
            table: table.to_owned(),
            name: name.to_owned(),
            mask: ProjectionMask::leaves(schema, [leaf]),
            file,
            metadata,
            rows: None,
            next: 0,
            end: 0,
        })
    }

    /// Reads the cell of a row. `None` if it is null.
    fn read(&mut self, row: usize) -> Result<Option<Vec<u8>>, Failure> {
        if self.rows.is_none() || row < self.next || row >= self.end {
            self.seek(row)?;
        }
        let rows = self
            .rows
            .as_mut()
            .ok_or_else(|| damaged("it has no rows"))?;
        while self.next < row {
            rows.next().transpose().map_err(damaged)?;
            self.next += 1;
        }
        let batch = rows.next().transpose().map_err(damaged)?;
        self.next += 1;
        let batch = batch.filter(|batch| batch.num_rows() == 1);
        let batch = batch.ok_or_else(|| damaged("it ends too early"))?;
        let mut cells = batch.column(0);
        if let DataType::Struct(_) = cells.data_type() {
            cells = cells.as_struct().column(0);
        }
        let cells = cells
            .as_binary_opt::<i32>()
            .ok_or_else(|| damaged("the column holds no bytes"))?;
        Ok(cells.is_valid(0).then(|| cells.value(0).to_vec()))
    }

    /// Opens the row group that holds a row, at that row.
    fn seek(&mut self, row: usize) -> Result<(), Failure> {
        let mut start = 0;
        for (number, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let rows = usize::try_from(group.num_rows()).map_err(damaged)?;
            if row < start + rows {
                let before = row - start;
                let selection = vec![
                    RowSelector::skip(before),
                    RowSelector::select(rows - before),
                ];
                let file = self.file.try_clone().map_err(damaged)?;
                let metadata = self.metadata.clone();
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
                    .with_projection(self.mask.clone())
                    .with_row_groups(vec![number])
                    .with_row_selection(selection.into())
                    .with_batch_size(1);
                self.rows = Some(builder.build().map_err(damaged)?);
                (self.next, self.end) = (row, start + rows);
                return Ok(());
            }
            start += rows;
        }
        Err(damaged("it has fewer rows than when it was listed"))
    }
}

/// The failure of a table that cannot be read.
fn damaged(problem: impl std::fmt::Display) -> Failure {
    Failure::with(
        failure::UNDECODABLE,
        format!("the table is damaged: {problem}"),
    )
}
