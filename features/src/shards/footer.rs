//! Opens shards: footers, and the small columns. Those in an object store are opened several at
//! once, because each request takes a while.

use super::index::{self, SplitIndex};
use super::ranges;
use super::shard::{Shard, unreadable};
use crate::schema::ShardSpec;
use crate::shard_name::ShardName;
use media::Error;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::PageIndexPolicy;
use std::sync::Mutex;
use store::{Entry, Folder, StoredFile};

/// The shards of an object store that are opened at once.
const AT_ONCE: usize = 16;

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
    in_parallel(folder, entries, |(name, entry)| open(folder, *name, entry))
}

/// Calls a function for each item, in a store's folder on several threads. Returns the results in
/// the order of the items, or the first error of that order.
pub(super) fn in_parallel<T: Sync, R: Send>(
    folder: &Folder,
    items: &[T],
    call: impl Fn(&T) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    if folder.local().is_some() {
        return items.iter().map(call).collect();
    }
    let (queue, done) = (Mutex::new(items.iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
            scope.spawn(|| {
                // A poisoned lock means that another thread panicked, which the scope passes on.
                while let Some((i, item)) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    let result = call(item);
                    let Ok(mut done) = done.lock() else { break };
                    done.push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
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
