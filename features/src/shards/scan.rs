//! Columns of all rows.

use super::shard::{Shard, parquet_error, unreadable};
use super::{Shards, ranges};
use arrow_array::RecordBatch;
use datasets::Split;
use media::Error;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use store::StoredFile;

impl Shards {
    /// Reads columns of all rows and calls `each` with one batch after the other: split by split,
    /// and in a split in the order of its [`SplitIndex`](super::SplitIndex). Meant for small
    /// columns, as those of an object store are fetched shard by shard.
    ///
    /// # Errors
    /// A shard cannot be read, or `each` returns an error.
    pub fn scan<E: From<Error>>(
        &self,
        columns: &[&str],
        mut each: impl FnMut(Split, &RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        for shard in &self.shards {
            let file = self.file_of(shard, columns)?;
            let builder =
                ParquetRecordBatchReaderBuilder::new_with_metadata(file, shard.metadata.clone());
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            let reader = builder.with_projection(mask).build();
            for batch in reader.map_err(|e| unreadable(&shard.path, e))? {
                let batch = batch.map_err(|e| parquet_error(&shard.path, e))?;
                each(shard.name.split, &batch)?;
            }
        }
        Ok(())
    }

    /// Opens a shard, with these columns in memory if it lies in a store.
    fn file_of(&self, shard: &Shard, columns: &[&str]) -> Result<StoredFile, Error> {
        match &shard.remote {
            None => self.folder.open_entry(&shard.entry),
            Some(remote) => {
                let wanted = ranges::of_columns(shard, columns);
                let fetched = store::fetch(&[(remote, wanted)])?.pop();
                fetched.ok_or_else(|| parquet_error(&shard.path, "nothing was fetched"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::{clip, spec, write};
    use crate::writer_properties;
    use arrow_array::cast::AsArray;
    use datasets::Modality;

    #[test]
    fn rows_come_in_the_order_of_the_index() {
        let spec = spec([Modality::Audio, Modality::Video], false);
        let folder = tempfile::tempdir().unwrap();
        for (name, rows) in [
            ("train-00001-of-00002", 3..5),
            ("test-00000-of-00001", 5..9),
            ("train-00000-of-00002", 0..3),
        ] {
            let rows: Vec<_> = rows.map(clip).collect();
            let bytes = write(&spec, &rows, writer_properties(&spec));
            std::fs::write(folder.path().join(format!("{name}.parquet")), bytes).unwrap();
        }
        let shards = Shards::open(&folder.path().into()).unwrap();
        let mut ids = Vec::new();
        let each = |split, batch: &RecordBatch| -> Result<(), Error> {
            assert_eq!(batch.num_columns(), 2);
            let own = batch.column_by_name("id").unwrap().as_string::<i32>();
            ids.extend(own.iter().flatten().map(|id| (split, id.to_owned())));
            Ok(())
        };
        shards.scan(&["id", "frame_times"], each).unwrap();
        let of = |split| {
            shards
                .split(split)
                .ids
                .iter()
                .map(move |id| (split, id.clone()))
        };
        let expected: Vec<_> = [Split::Train, Split::Test]
            .into_iter()
            .flat_map(of)
            .collect();
        assert_eq!(ids, expected);
    }
}
