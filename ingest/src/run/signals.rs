//! Signals that ask a run to stop.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// The number of the signal that was received; 0 if none was.
static RECEIVED: AtomicUsize = AtomicUsize::new(0);

/// Makes SIGTERM, SIGINT and SIGHUP set a flag ([`received`]) instead of killing this process, and
/// makes a write beyond the file size limit fail instead of raising a signal.
///
/// # Errors
/// A handler cannot be set.
pub fn catch() -> io::Result<()> {
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        flag::register_usize(signal, &RECEIVED, signal as usize)?;
    }
    // Any handler is enough for SIGXFSZ. This one sets a value that is never read.
    static IGNORED: AtomicUsize = AtomicUsize::new(0);
    flag::register_usize(SIGXFSZ, &IGNORED, 0)?;
    Ok(())
}

/// Returns the number of the signal that was received, if one was.
pub fn received() -> Option<i32> {
    match RECEIVED.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal as i32),
    }
}
