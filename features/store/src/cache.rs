//! A cache of blocks on the disk, of bounded size, that several processes may share.
//!
//! A block is a file: its bytes, then the CRC-32 of each [`CHUNK`] of them. Every read checks the
//! chunks that it touches, so a damaged or truncated block counts as missing and is removed. The
//! name contains a hash of URL, size and ETag of the object, so blocks of different versions never
//! mix. A block is written under a temporary name and renamed.
//!
//! The time of a file's last change stands for that of its last use. When the cache is full, the
//! blocks that have not been used for longest are removed. Each process looks at the folder again
//! after it has written a sixteenth of the limit, so several processes may exceed it by that much
//! each, for a short time.

use bytes::Bytes;
use media::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// The environment variable for the folder of the cache.
pub const CACHE_VARIABLE: &str = "U2A_CACHE";
/// The environment variable for the most bytes of the cache.
pub const SIZE_VARIABLE: &str = "U2A_CACHE_SIZE";
/// The most bytes of the cache by default.
const SIZE: u64 = 20_000_000_000;
/// The bytes of a block.
pub(crate) const BLOCK: u64 = 1 << 20;
/// The bytes that are checked together.
const CHUNK: u64 = 64 << 10;
/// The bytes of a CRC-32.
const SUM: u64 = 4;
/// A use is noted if the last one is as long ago.
const NOTED_EVERY: Duration = Duration::from_secs(60);

static SIZE_OF_FLAG: OnceLock<u64> = OnceLock::new();

/// Sets the most bytes of the cache, before its first use; 0 for no cache. Without this,
/// `U2A_CACHE_SIZE` says it, or it is 20 GB. Only the first call has an effect.
pub fn set_cache_size(bytes: u64) {
    SIZE_OF_FLAG.get_or_init(|| bytes);
}

/// Parses a size such as `20GB`, `512MiB` or `1000000`.
///
/// # Errors
/// The text is no number with such a unit.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 8] = [
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("TIB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let unit = UNITS.iter().find(|(unit, _)| upper.ends_with(unit));
    let (number, factor) = match unit {
        Some((unit, factor)) => (upper.trim_end_matches(unit).trim_end(), *factor),
        None => (upper.as_str(), 1),
    };
    let number: Option<f64> = number.parse().ok();
    match number.map(|number| number * factor as f64) {
        Some(bytes) if (0.0..1e18).contains(&bytes) => Ok(bytes as u64),
        _ => Err(format!(
            "'{text}' is no size; give one such as 20GB or 512MiB"
        )),
    }
}

/// A cache of blocks.
pub(crate) struct Cache {
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The bytes that this process may write before it looks at the folder again.
    allowance: u64,
    /// Whether a failure to write has been reported.
    reported: bool,
}

impl Cache {
    /// Returns the cache of this process, or `None` if its size is 0.
    ///
    /// # Errors
    /// The settings in the environment are invalid.
    pub fn of_process() -> Result<Option<&'static Cache>, Error> {
        static CACHE: OnceLock<Result<Option<Cache>, String>> = OnceLock::new();
        match CACHE.get_or_init(from_environment) {
            Ok(cache) => Ok(cache.as_ref()),
            Err(problem) => Err(Error::unusable(
                problem.clone(),
                format!(
                    "set {CACHE_VARIABLE} to a folder and {SIZE_VARIABLE} to a size such as 20GB, or 0"
                ),
            )),
        }
    }

    /// Returns a cache in a folder, which is made when it is first written to.
    pub fn new(folder: PathBuf, limit: u64) -> Cache {
        Cache {
            folder,
            limit,
            state: Mutex::default(),
        }
    }

    /// Returns the most bytes that the cache holds.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    fn path(&self, key: &str, block: u64) -> PathBuf {
        self.folder.join(format!("{key}-{block}"))
    }

    /// Returns whether there is a block, which may turn out to be damaged.
    pub fn contains(&self, key: &str, block: u64) -> bool {
        self.path(key, block).exists()
    }

    /// Reads a range of a block of `length` bytes. `None` if the block is missing or damaged.
    pub fn read(&self, key: &str, block: u64, length: u64, range: Range<u64>) -> Option<Bytes> {
        let path = self.path(key, block);
        let file = File::open(&path).ok()?;
        match read_checked(&file, length, range) {
            Ok(Some(bytes)) => {
                note_use(&file);
                Some(bytes)
            }
            _ => {
                // Another process may have removed it already.
                drop(fs::remove_file(&path));
                None
            }
        }
    }

    /// Stores a block. A failure, as when the disk is full, is reported once and otherwise ignored:
    /// the block will be requested again.
    pub fn write(&self, key: &str, block: u64, bytes: &[u8]) {
        let size = bytes.len() as u64 + SUM * (bytes.len() as u64).div_ceil(CHUNK);
        if size > self.limit {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self
            .make_room(&mut state, size)
            .and_then(|()| self.write_file(key, block, bytes));
        if let Err(error) = written
            && !state.reported
        {
            state.reported = true;
            eprintln!(
                "note: {}: cannot be written ({error}), so shards are requested again each time; {CACHE_VARIABLE} names another folder",
                self.folder.display()
            );
        }
    }

    fn write_file(&self, key: &str, block: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(bytes)?;
        let sums: Vec<u8> = bytes
            .chunks(CHUNK as usize)
            .flat_map(|chunk| crc32fast::hash(chunk).to_le_bytes())
            .collect();
        file.write_all(&sums)?;
        file.persist(self.path(key, block))?;
        Ok(())
    }

    /// Removes blocks until another one of `size` bytes fits.
    fn make_room(&self, state: &mut State, size: u64) -> io::Result<()> {
        if let Some(left) = state.allowance.checked_sub(size) {
            state.allowance = left;
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let step = self.limit / 16;
        let target = self.limit.saturating_sub(step.max(size));
        let mut files = files(&self.folder)?;
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        if total > target {
            // Some more than necessary, so that the folder is not read for each block.
            let target = target.saturating_sub(step);
            files.sort_unstable();
            for (_, bytes, path) in files {
                if total <= target {
                    break;
                }
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => total -= bytes,
                }
            }
        }
        state.allowance = step.saturating_sub(size);
        Ok(())
    }
}

/// Returns the last use, the size and the path of every file in a folder.
fn files(folder: &Path) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Another process may have removed it meanwhile.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_file() {
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    Ok(files)
}

/// Reads a range of a block. `None` if its length or a sum is wrong.
fn read_checked(file: &File, length: u64, range: Range<u64>) -> io::Result<Option<Bytes>> {
    if file.metadata()?.len() != length + SUM * length.div_ceil(CHUNK) {
        return Ok(None);
    }
    let chunks = range.start / CHUNK..range.end.div_ceil(CHUNK);
    let start = chunks.start * CHUNK;
    let mut bytes = vec![0; ((chunks.end * CHUNK).min(length) - start) as usize];
    file.read_exact_at(&mut bytes, start)?;
    let mut sums = vec![0; (SUM * (chunks.end - chunks.start)) as usize];
    file.read_exact_at(&mut sums, length + SUM * chunks.start)?;
    let mut checked = bytes.chunks(CHUNK as usize).zip(sums.chunks(SUM as usize));
    if !checked.all(|(chunk, sum)| crc32fast::hash(chunk).to_le_bytes() == sum) {
        return Ok(None);
    }
    let bytes = Bytes::from(bytes);
    Ok(Some(bytes.slice(
        (range.start - start) as usize..(range.end - start) as usize,
    )))
}

/// Notes that a block was used. A cache on a disk that is read-only needs no such note.
fn note_use(file: &File) {
    let now = SystemTime::now();
    let last = file.metadata().and_then(|metadata| metadata.modified());
    let long_ago = |last| now.duration_since(last).is_ok_and(|age| age >= NOTED_EVERY);
    if last.is_ok_and(long_ago) {
        drop(file.set_modified(now));
    }
}

/// Returns the cache that the environment describes.
fn from_environment() -> Result<Option<Cache>, String> {
    let limit = match (SIZE_OF_FLAG.get(), std::env::var(SIZE_VARIABLE)) {
        (Some(bytes), _) => *bytes,
        (None, Ok(text)) => parse_size(&text).map_err(|e| format!("{SIZE_VARIABLE}: {e}"))?,
        (None, Err(_)) => SIZE,
    };
    if limit == 0 {
        return Ok(None);
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = match (variable(CACHE_VARIABLE), variable("XDG_CACHE_HOME")) {
        (Some(folder), _) => Some(PathBuf::from(folder)),
        (None, Some(caches)) => Some(PathBuf::from(caches).join("u2a")),
        (None, None) => std::env::home_dir().map(|home| home.join(".cache/u2a")),
    };
    match folder {
        Some(folder) => Ok(Some(Cache::new(folder.join("shards"), limit))),
        None => Err("there is no home folder for the cache of shards".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64) -> Vec<u8> {
        (0..BLOCK)
            .map(|i| ((i * 7) ^ (i >> 8) ^ number) as u8)
            .collect()
    }

    #[test]
    fn damaged_and_truncated_blocks_count_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("shards"), 1 << 30);
        let (bytes, length) = (block(1), BLOCK);
        assert_eq!(cache.read("key", 1, length, 0..10), None);
        cache.write("key", 1, &bytes);
        for range in [
            0..1,
            65_535..65_537,
            0..BLOCK,
            BLOCK - 3..BLOCK,
            70_000..200_000,
        ] {
            let read = cache.read("key", 1, length, range.clone()).unwrap();
            assert_eq!(read, bytes[range.start as usize..range.end as usize]);
        }
        // A block of another version or length is another block.
        assert_eq!(cache.read("other", 1, length, 0..1), None);
        let path = cache.path("key", 1);
        let whole = fs::read(&path).unwrap();
        for damaged in [
            &whole[..whole.len() - 1],
            &[&whole[..], b"x"].concat()[..],
            b"",
        ] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.read("key", 1, length, 0..10), None);
            assert!(!path.exists());
        }
        let mut flipped = whole.clone();
        flipped[100_000] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(cache.read("key", 1, length, 0..65_536).is_some());
        assert_eq!(cache.read("key", 1, length, 65_536..65_537), None);
        assert!(!path.exists());
    }

    #[test]
    fn the_least_recently_used_blocks_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let limit = 40 * BLOCK;
        let cache = Cache::new(folder.path().to_owned(), limit);
        let size = || -> u64 { files(folder.path()).unwrap().iter().map(|f| f.1).sum() };
        let old = SystemTime::now() - Duration::from_secs(3600);
        for number in 0..30 {
            cache.write("a", number, &block(number));
            let file = File::open(cache.path("a", number)).unwrap();
            file.set_modified(old + Duration::from_secs(number))
                .unwrap();
        }
        // A use makes the oldest block the newest.
        assert!(cache.read("a", 0, BLOCK, 0..1).is_some());
        for number in 30..60 {
            cache.write("a", number, &block(number));
            assert!(size() <= limit, "{number}");
        }
        assert!(cache.contains("a", 0) && !cache.contains("a", 1));
        assert!(cache.contains("a", 59) && size() > limit / 2);
        // One that does not fit at all is not kept.
        let small = Cache::new(folder.path().join("small"), BLOCK);
        small.write("a", 0, &block(0));
        assert!(!small.contains("a", 0));
    }

    #[test]
    fn sizes_are_parsed() {
        for (text, bytes) in [
            ("20GB", 20_000_000_000),
            ("1.5 MiB", 3 << 19),
            ("4096", 4096),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GB", "-1", "many", "1PB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
