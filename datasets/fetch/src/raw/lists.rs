//! Split lists: fetched, and shortened to the samples that `--limit` has left.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use datasets::sources::KnownFile;

use super::run::{Run, first_working};
use crate::archive::names::base;
pub use crate::archive::record::ORIGINALS;
use crate::archive::record::Record;
use crate::error::{Error, Kind};

/// Fetches lists; those of a mirror, whose content is not known beforehand, each time anew. Returns
/// their texts, or `None` if the source does not have them.
///
/// # Errors
/// A list cannot be fetched, differs from the known one, or has no line that `is_row` accepts.
pub fn fetch(
    run: &Run,
    lists: &[KnownFile],
    is_row: &dyn Fn(&str) -> bool,
) -> Result<Option<Vec<String>>, Error> {
    let mut texts = Vec::new();
    for list in lists {
        let name = base(list.path);
        let state = run.state(name);
        let transfer = run.progress.transfer(name);
        let fetched = first_working(run, &run.bases("lists"), |place| {
            // A mirror has the lists beside its other files, and perhaps in another version.
            let is_mirror = !run.mirrors.is_empty();
            let remote = place.file(if is_mirror { name } else { list.path });
            let (size, sha256) = match is_mirror {
                true => (None, None),
                false => (Some(list.size), Some(list.sha256)),
            };
            let remove = || match fs::remove_file(&state) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(run.local(&state, error))
                }
                _ => Ok(()),
            };
            if is_mirror {
                remove()?;
            }
            remote.save(run.client, &state, size, sha256, &transfer)?;
            let text = fs::read(&state).map_err(|error| run.local(&state, error))?;
            let text = String::from_utf8_lossy(&text).into_owned();
            if !text.lines().any(is_row) {
                remove()?;
                let message =
                    "is no such list: no line names a clip; does the address lead to a web page?";
                return Err(Error::new(&remote.address(), Kind::Mismatch, message));
            }
            Ok(text)
        });
        match fetched {
            Err(error) if error.kind == Kind::NotFound && !run.mirrors.is_empty() => {
                return Ok(None);
            }
            fetched => texts.push(fetched?),
        }
    }
    Ok(Some(texts))
}

/// Writes the lists of an archive to their places in the tree, without the lines that `is_kept` does
/// not accept.
///
/// # Errors
/// A list cannot be read or written.
pub fn publish(run: &Run, record: &Record, is_kept: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    for path in record.kept.keys() {
        let Some(place) = path.strip_prefix(ORIGINALS) else {
            continue;
        };
        let from = run.raw.join(path);
        let bytes = fs::read(&from).map_err(|error| run.local(&from, error))?;
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let kept = lines.filter(|line| is_kept(String::from_utf8_lossy(line).trim_end()));
        write(run, place, &kept.collect::<Vec<_>>().concat())?;
    }
    Ok(())
}

/// Writes a file of the tree.
///
/// # Errors
/// It cannot be written.
pub fn write(run: &Run, place: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = run.raw.join(place);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| run.local(folder, error))?;
    }
    util::atomic::write(&path, bytes).map_err(|error| run.local(&path, error))
}

/// Chooses `limit` of the samples of several splits: the same number of each, evenly spaced, and more
/// of one where another has too few.
pub fn choose<T: Clone + Ord>(splits: &[Vec<T>], limit: usize) -> BTreeSet<T> {
    let mut counts = vec![0; splits.len()];
    let mut left = limit;
    while left > 0 {
        let before = left;
        for (count, split) in counts.iter_mut().zip(splits) {
            if left > 0 && *count < split.len() {
                *count += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    let spaced = splits.iter().zip(counts).flat_map(|(split, count)| {
        (0..count).map(move |number| split[number * split.len() / count].clone())
    });
    spaced.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_takes_the_same_number_of_each_split() {
        let splits = [(0..100).collect::<Vec<u32>>(), (100..103).collect()];
        assert_eq!(choose(&splits, 4), BTreeSet::from([0, 50, 100, 101]));
        assert_eq!(choose(&splits, 10).len(), 10);
        assert_eq!(choose(&splits, 1000).len(), 103);
    }
}
