//! The system calls that the standard library does not wrap: limits of a child, waiting on a pipe, signals.
//!
//! Each `unsafe` block is one libc call on plain values.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Sets both limits of one resource.
fn limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: passes a plain struct by reference.
    check(unsafe { libc::setrlimit(resource, &limit) })
}

fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What a decode worker may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Address space in bytes.
    pub memory: u64,
}

/// Binds this process, for good: memory, no file may be written, few may be open, no core dump, and it dies with its parent.
pub fn confine(limits: Limits) -> io::Result<()> {
    limit(libc::RLIMIT_AS, limits.memory, limits.memory)?;
    limit(libc::RLIMIT_FSIZE, 0, 0)?;
    limit(libc::RLIMIT_NOFILE, 64, 64)?;
    limit(libc::RLIMIT_CORE, 0, 0)?;
    // SAFETY: two plain calls. PDEATHSIG concerns this process alone.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    }
}

/// Lets this process run for so many more seconds of processor time before the kernel stops it.
pub fn allow_cpu(seconds: u64) -> io::Result<()> {
    // SAFETY: zero is a valid rusage, which the call fills.
    let used = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        check(libc::getrusage(libc::RUSAGE_SELF, &mut usage))?;
        usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
    };
    limit(
        libc::RLIMIT_CPU,
        used as u64 + 1 + seconds,
        libc::RLIM_INFINITY,
    )
}

/// From now on this thread, and every one it starts, makes only the system calls that the filter lets through.
pub fn filter_calls(steps: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: steps.len() as libc::c_ushort,
        // The kernel only reads it.
        filter: steps.as_ptr().cast_mut(),
    };
    let none: libc::c_ulong = 0;
    // SAFETY: two calls on plain values; the program and its steps outlive the second one, which copies them.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, none, none, none))?;
        check(libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &program,
        ))
    }
}

/// Waits until the pipe has something to read or is closed. `false`: the deadline has come first.
pub fn wait_readable(pipe: BorrowedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: pipe.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // Rounded up, so that the last millisecond does not spin.
        let millis = (left + Duration::from_micros(999)).as_millis().min(60_000) as libc::c_int;
        // SAFETY: one pollfd, passed with length 1; the descriptor is borrowed for the call.
        match unsafe { libc::poll(&mut poll, 1, millis) } {
            1 => return Ok(true),
            0 if Instant::now() >= deadline => return Ok(false),
            0 => {}
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// The signal that asked us to stop; 0 as long as none did.
static STOP: AtomicI32 = AtomicI32::new(0);

extern "C" fn note_signal(signal: libc::c_int) {
    STOP.store(signal, Ordering::Relaxed);
}

/// From now on SIGTERM, SIGINT and SIGHUP are noted instead of killing ([`stop_signal`]), and a file size limit shows as an
/// error of the write instead of a signal.
pub fn catch_signals() {
    let handler: extern "C" fn(libc::c_int) = note_signal;
    // SAFETY: the handler only stores into an atomic, which is safe in a signal handler.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::signal(signal, handler as libc::sighandler_t);
        }
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// The signal that asked us to stop, if one did.
pub fn stop_signal() -> Option<i32> {
    match STOP.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal),
    }
}
