//! Which bytes of a shard hold certain columns, and certain rows of them.

use super::shard::Shard;
use parquet::file::metadata::ColumnChunkMetaData;
use std::ops::Range;

/// Returns the ranges of whole columns, by their names, in all row groups.
pub(super) fn of_columns(shard: &Shard, names: &[impl AsRef<str>]) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    for group in shard.metadata.metadata().row_groups() {
        for column in group.columns() {
            let name = top_level_name(column);
            if names.iter().any(|wanted| wanted.as_ref() == name) {
                ranges.push(chunk(column));
            }
        }
    }
    ranges
}

/// Returns the ranges that hold some rows of a column of a row group: the pages of the rows, and the
/// dictionary if there is one; the whole column if its pages have no index.
pub(super) fn of_rows(
    shard: &Shard,
    group: usize,
    name: &str,
    rows: impl Iterator<Item = u32> + Clone,
) -> Vec<Range<u64>> {
    let metadata = shard.metadata.metadata();
    let index = metadata.page_index_for_row_group(group);
    let mut ranges = Vec::new();
    for (leaf, column) in metadata.row_group(group).columns().iter().enumerate() {
        if top_level_name(column) != name {
            continue;
        }
        let chunk = chunk(column);
        let Some(pages) = index.page_locations(leaf).filter(|pages| !pages.is_empty()) else {
            ranges.push(chunk);
            continue;
        };
        let first = pages[0].offset as u64;
        if chunk.start < first {
            ranges.push(chunk.start..first);
        }
        let mut last = None;
        for row in rows.clone() {
            let after = pages.partition_point(|page| page.first_row_index <= i64::from(row));
            let page = after.saturating_sub(1);
            if last.replace(page) == Some(page) {
                continue;
            }
            let start = pages[page].offset as u64;
            ranges.push(start..start + pages[page].compressed_page_size as u64);
        }
    }
    ranges
}

fn chunk(column: &ColumnChunkMetaData) -> Range<u64> {
    let (start, length) = column.byte_range();
    start..start.saturating_add(length)
}

/// Returns the name of the column that a leaf belongs to.
fn top_level_name(column: &ColumnChunkMetaData) -> &str {
    column
        .column_path()
        .parts()
        .first()
        .map_or("", String::as_str)
}
