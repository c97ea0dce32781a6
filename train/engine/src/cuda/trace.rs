//! Times of single kernels and matrix products on a device, for `train bench --trace`.
//!
//! Every launch and every product between [`start`] and [`finish`] gets a mark before and one after
//! it. On a GPU a mark is an event on the stream of the launches, so that a trace also works where
//! profilers are refused. Events take time themselves, about a microsecond each, and keep kernels
//! from overlapping: a traced step is slower than others.

use super::launch::{Launch, Mark};
use candle_core::{Result, bail};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// All launches of one kernel, or all products of one shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceRow {
    /// The kernel's name, or `product` with the rows, inner dimension and columns.
    pub name: String,
    /// How often it ran.
    pub count: u64,
    /// The time of all of them together.
    pub microseconds: f64,
}

/// A launch or product, with the marks before and after it.
struct Traced {
    name: String,
    marks: [Mark; 2],
}

thread_local! {
    /// What was traced on this thread, if a trace is running.
    static RUNNING: RefCell<Option<Vec<Traced>>> = const { RefCell::new(None) };
}

/// Begins to trace this thread's launches and products.
pub fn start() {
    RUNNING.set(Some(Vec::new()));
}

/// Ends the trace and returns a row for each name, the longest time first. Waits for the device.
///
/// # Errors
/// No trace was started on this thread.
pub fn finish() -> Result<Vec<TraceRow>> {
    let Some(all) = RUNNING.take() else {
        bail!("no trace was started")
    };
    let mut sums: BTreeMap<String, (u64, f64)> = BTreeMap::new();
    for Traced { name, marks } in all {
        let (count, microseconds) = sums.entry(name).or_default();
        *count += 1;
        *microseconds += marks[0].microseconds_until(&marks[1])?;
    }
    let rows = sums
        .into_iter()
        .map(|(name, (count, microseconds))| TraceRow {
            name,
            count,
            microseconds,
        });
    let mut rows: Vec<TraceRow> = rows.collect();
    rows.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
    Ok(rows)
}

/// Does `work`, which launches on `launcher`, and adds it to the running trace, if there is one.
pub(super) fn record<R>(
    launcher: &dyn Launch,
    name: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<R>,
) -> Result<R> {
    if RUNNING.with_borrow(Option::is_none) {
        return work();
    }
    let before = launcher.mark()?;
    let result = work()?;
    let after = launcher.mark()?;
    RUNNING.with_borrow_mut(|running| {
        running.get_or_insert_default().push(Traced {
            name: name(),
            marks: [before, after],
        });
    });
    Ok(result)
}
