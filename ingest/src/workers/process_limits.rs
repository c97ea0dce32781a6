//! Limits of a decode worker on memory, files and processor time.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::set_no_new_privs;
use rustix::time::{ClockId, clock_gettime};

/// What a decode worker may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Address space in bytes.
    pub memory: u64,
}

/// Binds this process, for good: memory, no file may be written, few may be open, no core dump, and it dies with its parent.
pub fn confine(limits: Limits) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::As, limits.memory),
        (Resource::Fsize, 0),
        (Resource::Nofile, 64),
        (Resource::Core, 0),
    ] {
        let both = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(resource, both)?;
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(set_no_new_privs(true)?)
}

/// Lets this process run for so many more seconds of processor time before the kernel stops it.
pub fn allow_cpu(seconds: u64) -> io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
    let limit = Rlimit {
        current: Some(used + 1 + seconds),
        maximum: None,
    };
    Ok(setrlimit(Resource::Cpu, limit)?)
}

/// Waits until the pipe has something to read or is closed. `false`: the deadline has come first.
pub fn wait_readable(pipe: BorrowedFd, deadline: Instant) -> io::Result<bool> {
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
