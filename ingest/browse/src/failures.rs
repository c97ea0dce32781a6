//! Why inputs are missing, by cause: from the column `error` of the rows, and from
//! `failures.parquet`, which has the samples of which nothing is left.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use datasets::{InputName, Split};
use features::{FAILURES_FILE, Folder, ShardSpec};
use page::problems;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::rows::Row;

/// The problems of all samples.
#[derive(Default)]
pub struct Failures {
    /// The samples of each split of which nothing is left.
    pub quarantined: BTreeMap<Split, usize>,
    /// By modality and cause: how many rows have the problem, and how many samples of which nothing
    /// is left.
    pub causes: BTreeMap<(InputName, String), [usize; 2]>,
}

impl Failures {
    /// Counts the problems of rows and those in `failures.parquet`, if there is one.
    ///
    /// # Errors
    /// The file is damaged or cannot be read.
    pub fn read(folder: &Folder, spec: &ShardSpec, rows: &[Row]) -> anyhow::Result<Failures> {
        let mut failures = Failures::default();
        for row in rows {
            for (modality, problem) in problems(row.error.as_deref().unwrap_or_default()) {
                failures.count(modality, problem, 0);
            }
        }
        let Some(file) = folder.open(FAILURES_FILE)? else {
            return Ok(failures);
        };
        let path = folder.path_of(FAILURES_FILE);
        let place = || format!("{}: cannot be read as Parquet", path.display());
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).with_context(place)?;
        for batch in reader.build().with_context(place)? {
            failures.add(&batch.with_context(place)?, spec).ok_or_else(|| {
                anyhow!(
                    "{}: has not the columns of a table of failures; ingest this dataset again with --overwrite",
                    path.display()
                )
            })?;
        }
        Ok(failures)
    }

    /// Counts the samples of a batch. Returns `None` if it lacks a column.
    fn add(&mut self, batch: &RecordBatch, spec: &ShardSpec) -> Option<()> {
        let splits = batch.column_by_name("split")?.as_string_opt::<i32>()?;
        for split in splits.iter() {
            let split = Split::from_spelling(split?)?;
            *self.quarantined.entry(split).or_default() += 1;
        }
        for modality in spec.modalities.names() {
            let problems = batch.column_by_name(&format!("{modality}_error"))?;
            for problem in problems.as_string_opt::<i32>()?.iter().flatten() {
                self.count(modality, problem, 1);
            }
        }
        Some(())
    }

    fn count(&mut self, modality: InputName, problem: &str, which: usize) {
        let cause = cause(problem).to_owned();
        self.causes.entry((modality, cause)).or_default()[which] += 1;
    }
}

/// Returns the cause of a problem without its details, which stand in parentheses behind it.
pub fn cause(problem: &str) -> &str {
    problem.split_once(" (").map_or(problem, |(cause, _)| cause)
}
