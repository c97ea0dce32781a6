//! Signals that ask a run to stop.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// The signal that asked us to stop; 0 as long as none did.
static STOP: AtomicUsize = AtomicUsize::new(0);

/// From now on SIGTERM, SIGINT and SIGHUP are noted instead of killing ([`received`]), and a file size limit shows as an
/// error of the write instead of a signal.
pub fn catch() -> io::Result<()> {
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        flag::register_usize(signal, &STOP, signal as usize)?;
    }
    // A handler is enough for that; this one stores what nobody reads.
    static IGNORED: AtomicUsize = AtomicUsize::new(0);
    flag::register_usize(SIGXFSZ, &IGNORED, 0)?;
    Ok(())
}

/// The signal that asked us to stop, if one did.
pub fn received() -> Option<i32> {
    match STOP.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal as i32),
    }
}
