//! Which shards a folder holds, and whether any is missing.

use crate::shard_name::{MANIFEST_FILE, ShardName};
use crate::verify;
use datasets::Split;
use media::Error;
use store::{Entry, Folder};

/// Returns the shards in a folder, sorted; at least one, and of each split all or none.
pub(super) fn list(folder: &Folder) -> Result<Vec<(ShardName, Entry)>, Error> {
    if folder.local().is_some_and(|path| !path.is_dir()) {
        return Err(Error::unusable(
            format!("{folder}: there is no such folder of shards"),
            "run `ingest run` first, or give the folder they are in",
        ));
    }
    let entries = match folder.is_listable() {
        true => folder.list()?,
        false => listed_in_manifest(folder)?,
    };
    let name = |entry: Entry| Some((ShardName::parse(&entry.name)?, entry));
    let mut shards: Vec<(ShardName, Entry)> = entries.into_iter().filter_map(name).collect();
    shards.sort_by_key(|(name, _)| *name);
    if shards.is_empty() {
        return Err(Error::unusable(
            format!("{folder}: holds no shards (SPLIT-00000-of-00001.parquet)"),
            "run `ingest run` first",
        ));
    }
    let names: Vec<ShardName> = shards.iter().map(|(name, _)| *name).collect();
    for split in Split::ALL {
        check_complete(folder, split, &names)?;
    }
    Ok(shards)
}

/// Returns the shards on a web server, which has no list of its files.
fn listed_in_manifest(folder: &Folder) -> Result<Vec<Entry>, Error> {
    let Some(listed) = verify::listed(folder)? else {
        return Err(Error::unusable(
            format!("{folder}: has no {MANIFEST_FILE}, and a web server lists no files"),
            "put all files that `ingest run` has written on the server, or correct the URL",
        ));
    };
    let entry = |listed: &verify::Listed| {
        folder.entry(&listed.file)?.ok_or_else(|| {
            Error::unusable(
                format!(
                    "{}: is missing, {MANIFEST_FILE} lists it",
                    folder.path_of(&listed.file).display()
                ),
                "put all files that `ingest run` has written on the server",
            )
        })
    };
    folder.map(&listed, entry)
}

/// Checks that all shards of a split are there, and that they are of one run.
fn check_complete(folder: &Folder, split: Split, names: &[ShardName]) -> Result<(), Error> {
    let of_split: Vec<ShardName> = names.iter().copied().filter(|n| n.split == split).collect();
    let Some(first) = of_split.first() else {
        return Ok(());
    };
    if let Some(other) = of_split.iter().find(|n| n.of != first.of) {
        return Err(Error::unusable(
            format!(
                "{folder}: holds {split} shards of two runs, one of {} and one of {}",
                first.of, other.of
            ),
            "ingest into an empty folder",
        ));
    }
    for number in 0..first.of {
        if !of_split.iter().any(|n| n.number == number) {
            let missing = ShardName { number, ..*first };
            return Err(Error::unusable(
                format!("{folder}: shard {} is missing", missing.file_name()),
                "run `ingest run` again, it makes what is missing",
            ));
        }
    }
    Ok(())
}
