//! Ranges of objects, from the cache where it has their blocks, and from the store otherwise.

use crate::cache::{BLOCK, Cache};
use crate::client::run;
use crate::object::Object;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use media::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The most bytes of one request.
const LONGEST: u64 = 8 << 20;
/// Without a cache, ranges with less than this between them are one request.
const GAP: u64 = 64 << 10;
/// The requests of one call that are in flight at once.
const AT_ONCE: usize = 16;

/// Ranges of an object.
pub(crate) type Wanted = (Arc<Object>, Vec<Range<u64>>);

/// A block: the position of its object among those of a call, and its number.
type Block = (usize, u64);

/// Reads ranges of objects; several requests are in flight at once. The result has the order of the
/// arguments.
///
/// # Errors
/// A range lies outside of its object, an object has changed, or the store does not answer.
pub(crate) fn read(wanted: &[Wanted]) -> Result<Vec<Vec<Bytes>>, Error> {
    for (object, ranges) in wanted {
        check(object, ranges)?;
    }
    match Cache::of_process()? {
        Some(cache) => read_blocks(cache, wanted),
        None => read_ranges(wanted),
    }
}

/// Brings the blocks of ranges into the cache, except for those that are there or that another
/// thread is just requesting. Does nothing without a cache. Returns the bytes of all these blocks.
///
/// # Errors
/// The errors of [`read`].
pub(crate) fn prefetch(wanted: &[Wanted]) -> Result<u64, Error> {
    let Some(cache) = Cache::of_process()? else {
        return Ok(0);
    };
    let mut blocks: BTreeSet<Block> = BTreeSet::new();
    for (at, (object, ranges)) in wanted.iter().enumerate() {
        check(object, ranges)?;
        let numbers = ranges.iter().flat_map(blocks_of);
        blocks.extend(numbers.map(|number| (at, number)));
    }
    let bytes = blocks.len() as u64 * BLOCK;
    blocks.retain(|(at, number)| !cache.contains(&wanted[*at].0.key, *number));
    let claim = Claim::of(wanted, &blocks);
    download(cache, wanted, &claim.blocks)?;
    Ok(bytes)
}

fn check(object: &Object, ranges: &[Range<u64>]) -> Result<(), Error> {
    match ranges
        .iter()
        .find(|range| range.end > object.bytes || range.start > range.end)
    {
        None => Ok(()),
        Some(range) => Err(Error::unusable(
            format!(
                "{}: has {} bytes and is read at {}..{}, so it is damaged",
                object.url, object.bytes, range.start, range.end
            ),
            "ingest this dataset again with --overwrite",
        )),
    }
}

/// Returns the numbers of the blocks that a range touches.
fn blocks_of(range: &Range<u64>) -> Range<u64> {
    match range.is_empty() {
        true => 0..0,
        false => range.start / BLOCK..range.end.div_ceil(BLOCK),
    }
}

/// Returns where a block lies in an object.
fn place(object: &Object, block: u64) -> Range<u64> {
    block * BLOCK..(block * BLOCK + BLOCK).min(object.bytes)
}

/// Returns the part of a range that lies in a block, from the block's start.
fn part(object: &Object, block: u64, range: &Range<u64>) -> Range<u64> {
    let place = place(object, block);
    range.start.max(place.start) - place.start..range.end.min(place.end) - place.start
}

fn slice(bytes: &Bytes, range: Range<u64>) -> Bytes {
    bytes.slice(range.start as usize..range.end as usize)
}

fn read_blocks(cache: &Cache, wanted: &[Wanted]) -> Result<Vec<Vec<Bytes>>, Error> {
    let cached = |(at, block): Block, range: Range<u64>| {
        let object = &wanted[at].0;
        let place = place(object, block);
        cache.read(&object.key, block, place.end - place.start, range)
    };
    // The cached parts first, so that all missing blocks are requested together.
    let mut parts: BTreeMap<(usize, usize, u64), Bytes> = BTreeMap::new();
    let mut missing: BTreeSet<Block> = BTreeSet::new();
    for (at, (object, ranges)) in wanted.iter().enumerate() {
        for (i, range) in ranges.iter().enumerate() {
            for block in blocks_of(range) {
                match cached((at, block), part(object, block, range)) {
                    Some(bytes) => drop(parts.insert((at, i, block), bytes)),
                    None => drop(missing.insert((at, block))),
                }
            }
        }
    }
    let mut fetched: BTreeMap<Block, Bytes> = BTreeMap::new();
    while !missing.is_empty() {
        let claim = Claim::of(wanted, &missing);
        if claim.blocks.is_empty() {
            // Other threads are requesting them all.
            claim.wait(wanted, &missing);
        }
        fetched.extend(download(cache, wanted, &claim.blocks)?);
        drop(claim);
        missing.retain(|block| !fetched.contains_key(block));
        for (at, block) in missing.clone() {
            let place = place(&wanted[at].0, block);
            if let Some(bytes) = cached((at, block), 0..place.end - place.start) {
                fetched.insert((at, block), bytes);
                missing.remove(&(at, block));
            }
        }
    }
    let assemble = |at: usize, i: usize, range: &Range<u64>| {
        let object = &wanted[at].0;
        let piece = |block| match parts.get(&(at, i, block)) {
            Some(bytes) => bytes.clone(),
            None => slice(&fetched[&(at, block)], part(object, block, range)),
        };
        join(blocks_of(range).map(piece))
    };
    let of_object = |(at, (_, ranges)): (usize, &Wanted)| {
        let ranges = ranges.iter().enumerate();
        ranges.map(|(i, range)| assemble(at, i, range)).collect()
    };
    Ok(wanted.iter().enumerate().map(of_object).collect())
}

/// Joins pieces, without a copy if there is one.
fn join(mut pieces: impl Iterator<Item = Bytes>) -> Bytes {
    let first = pieces.next().unwrap_or_default();
    let Some(second) = pieces.next() else {
        return first;
    };
    let mut joined = BytesMut::from(&first[..]);
    joined.extend_from_slice(&second);
    pieces.for_each(|piece| joined.extend_from_slice(&piece));
    joined.freeze()
}

/// Requests blocks, neighbours together, and stores them in the cache.
fn download(
    cache: &Cache,
    wanted: &[Wanted],
    blocks: &BTreeSet<Block>,
) -> Result<BTreeMap<Block, Bytes>, Error> {
    let mut runs: Vec<(usize, Range<u64>)> = Vec::new();
    for &(at, block) in blocks {
        let place = place(&wanted[at].0, block);
        match runs.last_mut() {
            Some((of, run))
                if *of == at && run.end == place.start && place.end - run.start <= LONGEST =>
            {
                run.end = place.end;
            }
            _ => runs.push((at, place)),
        }
    }
    let mut fetched = BTreeMap::new();
    for (run, bytes) in runs.iter().zip(request(wanted, &runs)?) {
        let (at, range) = run;
        let object = &wanted[*at].0;
        for block in blocks_of(range) {
            let place = place(object, block);
            let own = slice(&bytes, place.start - range.start..place.end - range.start);
            cache.write(&object.key, block, &own);
            fetched.insert((*at, block), own);
        }
    }
    Ok(fetched)
}

/// Requests ranges, several at once.
fn request(wanted: &[Wanted], runs: &[(usize, Range<u64>)]) -> Result<Vec<Bytes>, Error> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let requests = runs
        .iter()
        .map(|(at, range)| wanted[*at].0.get(range.clone()));
    run(stream::iter(requests).buffered(AT_ONCE).try_collect())?
}

/// Reads ranges without a cache; neighbours are one request.
fn read_ranges(wanted: &[Wanted]) -> Result<Vec<Vec<Bytes>>, Error> {
    let mut runs: Vec<(usize, Range<u64>)> = Vec::new();
    for (at, (_, ranges)) in wanted.iter().enumerate() {
        let mut ranges: Vec<Range<u64>> = ranges.clone();
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| (range.start, range.end));
        for range in ranges {
            match runs.last_mut() {
                Some((of, run))
                    if *of == at
                        && range.start <= run.end + GAP
                        && (range.end <= run.end || range.end - run.start <= LONGEST) =>
                {
                    run.end = run.end.max(range.end);
                }
                _ => runs.push((at, range)),
            }
        }
    }
    let fetched = request(wanted, &runs)?;
    let find = |at: usize, range: &Range<u64>| {
        let holds = |(of, run): &(usize, Range<u64>)| {
            *of == at && run.start <= range.start && range.end <= run.end
        };
        match runs.iter().position(holds) {
            Some(i) => slice(
                &fetched[i],
                range.start - runs[i].1.start..range.end - runs[i].1.start,
            ),
            // Only an empty range belongs to no request.
            None => Bytes::new(),
        }
    };
    let of_object =
        |(at, (_, ranges)): (usize, &Wanted)| ranges.iter().map(|range| find(at, range)).collect();
    Ok(wanted.iter().enumerate().map(of_object).collect())
}

/// The blocks that threads of this process are requesting: the object's key and the number.
static REQUESTED: Mutex<BTreeSet<(String, u64)>> = Mutex::new(BTreeSet::new());
static RELEASED: Condvar = Condvar::new();

fn requested() -> MutexGuard<'static, BTreeSet<(String, u64)>> {
    // The set is whole after each change.
    REQUESTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks that this thread requests, so that no other one does at the same time.
struct Claim {
    blocks: BTreeSet<Block>,
    names: Vec<(String, u64)>,
}

impl Claim {
    /// Claims those of the blocks that no other thread has claimed.
    fn of(wanted: &[Wanted], blocks: &BTreeSet<Block>) -> Claim {
        let mut requested = requested();
        let mut claim = Claim {
            blocks: BTreeSet::new(),
            names: Vec::new(),
        };
        for &(at, block) in blocks {
            let name = (wanted[at].0.key.clone(), block);
            if requested.insert(name.clone()) {
                claim.blocks.insert((at, block));
                claim.names.push(name);
            }
        }
        claim
    }

    /// Waits until another thread has released one of the blocks.
    fn wait(&self, wanted: &[Wanted], blocks: &BTreeSet<Block>) {
        let all_claimed = |requested: &mut BTreeSet<(String, u64)>| {
            blocks
                .iter()
                .all(|&(at, block)| requested.contains(&(wanted[at].0.key.clone(), block)))
        };
        let guard = RELEASED.wait_while(requested(), all_claimed);
        drop(guard.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut requested = requested();
        for name in &self.names {
            requested.remove(name);
        }
        drop(requested);
        RELEASED.notify_all();
    }
}
