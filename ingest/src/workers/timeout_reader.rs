//! A reader with a timeout, for the output of a process that may hang.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ChildStdout;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often a waiting thread checks whether the run was stopped.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Reads a worker's output until the timeout has passed.
///
/// The timeout is the time spent waiting and not the time that a clock shows: where this process,
/// and perhaps the worker with it, is stopped and continued (by Ctrl-Z, or by a batch system), the
/// pause counts as one [`POLL_INTERVAL`] at most.
pub struct TimeoutReader<'a> {
    output: &'a mut ChildStdout,
    time_left: Duration,
    stop: &'a AtomicBool,
}

impl<'a> TimeoutReader<'a> {
    /// Reads `output` for at most `timeout`, and no longer than until `stop` is set.
    pub fn new(output: &'a mut ChildStdout, timeout: Duration, stop: &'a AtomicBool) -> Self {
        TimeoutReader {
            output,
            time_left: timeout,
            stop,
        }
    }
}

impl Read for TimeoutReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (start, interval) = (Instant::now(), self.time_left.min(POLL_INTERVAL));
            let ready = wait_readable(self.output.as_fd(), start + interval)?;
            self.time_left = self
                .time_left
                .saturating_sub(start.elapsed().min(POLL_INTERVAL));
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if ready {
                return self.output.read(buffer);
            }
            if self.time_left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// Waits until the pipe can be read or is closed. Returns `false` if the deadline has passed
/// before.
fn wait_readable(pipe: BorrowedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}
