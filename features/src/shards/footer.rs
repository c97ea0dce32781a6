//! Opens shards: footers, and the small columns.

use super::index::{self, SplitIndex};
use super::ranges;
use super::shard::{Shard, unreadable};
use crate::schema::ShardSpec;
use crate::shard_name::ShardName;
use media::Error;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::PageIndexPolicy;
use store::{Entry, Folder, StoredFile};

/// A shard, what it says of the dataset, and its samples.
pub(super) struct Opened {
    pub shard: Shard,
    pub spec: ShardSpec,
    pub index: SplitIndex,
}

/// Opens shards, in the order of `entries`.
pub(super) fn open_all(
    folder: &Folder,
    entries: &[(ShardName, Entry)],
) -> Result<Vec<Opened>, Error> {
    folder.map(entries, |(name, entry)| open(folder, *name, entry))
}

/// Reads the footer of a shard, and its small columns.
fn open(folder: &Folder, name: ShardName, entry: &Entry) -> Result<Opened, Error> {
    let path = folder.path_of(&entry.name);
    let file = folder.open_entry(entry)?;
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let metadata = ArrowReaderMetadata::load(&file, options).map_err(|e| unreadable(&path, e))?;
    let spec = ShardSpec::from_schema(metadata.schema()).map_err(|e| e.in_file(&path))?;
    let mut starts = vec![0u32];
    for group in metadata.metadata().row_groups() {
        starts.push(starts[starts.len() - 1] + group.num_rows() as u32);
    }
    let remote = match &file {
        StoredFile::Local(_) => None,
        remote => Some(remote.try_clone().map_err(Error::io(&path, "open"))?),
    };
    let shard = Shard {
        name,
        path,
        entry: entry.clone(),
        remote,
        metadata,
        starts,
    };
    let file = match &shard.remote {
        None => file,
        Some(remote) => {
            let ranges = ranges::of_columns(&shard, &index::columns(&spec));
            let mut fetched = store::fetch(&[(remote, ranges)])?;
            fetched.pop().unwrap_or(file)
        }
    };
    let index = index::read(&shard, file, &spec)?;
    Ok(Opened { shard, spec, index })
}
