//! Limits that a decode worker sets for its own process: memory, files and processor time.

use std::io;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::set_no_new_privs;
use rustix::time::{ClockId, clock_gettime};

/// Open files that a worker may have.
const MAX_OPEN_FILES: u64 = 64;

/// Limits this process until it exits: its address space has at most `memory` bytes, it cannot
/// write files, open many of them, leave a core dump or gain privileges, and it is killed when its
/// parent exits.
pub fn apply(memory: u64) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::As, memory),
        (Resource::Fsize, 0),
        (Resource::Nofile, MAX_OPEN_FILES),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(resource, limit)?;
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(set_no_new_privs(true)?)
}

/// Lets this process use `seconds` more of processor time before the kernel stops it with SIGXCPU.
pub fn limit_cpu_time(seconds: u64) -> io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
    let limit = Rlimit {
        current: Some(used + 1 + seconds),
        maximum: None,
    };
    Ok(setrlimit(Resource::Cpu, limit)?)
}
