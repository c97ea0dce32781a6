//! A decode worker as the pool sees it: a child process with a pipe to its stdin and one from its
//! stdout.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use util::cpu;

use super::protocol::{self, Handshake, ReadAccess, Reply, Request};
use super::timeout_reader::TimeoutReader;
use crate::failure::{self, Failure};

/// The least time that a worker gets to start: the machine may be busy with other work.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a worker is started that exits before its handshake.
const START_ATTEMPTS: usize = 5;

/// How long a worker that has closed its pipe may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How workers are run.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The program to start, with `decode-worker` as its first argument.
    pub program: PathBuf,
    /// The limit on each request, both of time and of processor time.
    pub timeout: Duration,
    /// The limit on the worker's address space in MiB.
    pub memory_mib: u64,
    /// The files that the worker may read.
    pub read_access: ReadAccess,
}

/// A running decode worker. It is killed when dropped.
pub struct WorkerProcess {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl WorkerProcess {
    /// Starts a worker and waits for its handshake. Also returns what the sandbox lacks on this
    /// kernel, as sentences.
    ///
    /// A worker that exits before its handshake is started again, because the machine may have been
    /// short of memory for a moment, or somebody may have killed it.
    ///
    /// # Errors
    /// Returns the error of the last attempt.
    pub fn start(settings: &WorkerSettings) -> anyhow::Result<(WorkerProcess, Vec<String>)> {
        for _attempt in 1..START_ATTEMPTS {
            if let Ok(started) = WorkerProcess::start_once(settings) {
                return Ok(started);
            }
        }
        WorkerProcess::start_once(settings)
    }

    fn start_once(settings: &WorkerSettings) -> anyhow::Result<(WorkerProcess, Vec<String>)> {
        let mut worker = WorkerProcess::spawn(settings)?;
        // A worker that has exited cannot be written to; then it sends no handshake either.
        let _result = protocol::send(&mut worker.input, &settings.read_access);
        let never = AtomicBool::new(false);
        let timeout = settings.timeout.max(START_TIMEOUT);
        let mut output = TimeoutReader::new(&mut worker.output, timeout, &never);
        match protocol::receive::<Handshake>(&mut output) {
            Ok(Some(handshake)) if handshake.version == env!("CARGO_PKG_VERSION") => {
                Ok((worker, handshake.sandbox_gaps))
            }
            Ok(Some(handshake)) => bail!(
                "the decode worker is version {} and this program {}; the program's file was replaced, start again",
                handshake.version,
                env!("CARGO_PKG_VERSION")
            ),
            other => {
                let error = other
                    .err()
                    .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                let reason = worker.exit_reason(&error, settings);
                bail!(
                    "a decode worker does not start: {reason}; give a larger --worker-memory than {} MiB",
                    settings.memory_mib
                )
            }
        }
    }

    fn spawn(settings: &WorkerSettings) -> anyhow::Result<WorkerProcess> {
        let seconds = settings.timeout.as_secs().max(1);
        let arguments: [OsString; 5] = [
            "decode-worker".into(),
            "--memory-mib".into(),
            settings.memory_mib.to_string().into(),
            "--cpu-seconds".into(),
            seconds.to_string().into(),
        ];
        let mut child = Command::new(&settings.program)
            .args(arguments)
            // A decoder needs nothing else of the user's environment.
            .env_clear()
            .envs(std::env::var_os(cpu::VARIABLE).map(|value| (cpu::VARIABLE, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal is sent to a process group, and only the parent handles it.
            .process_group(0)
            .spawn()
            .context("cannot start a decode worker; give a smaller --workers")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a decode worker started without its pipes");
        };
        Ok(WorkerProcess {
            child,
            input,
            output,
        })
    }

    /// The worker's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request, and appends the replies to `replies` as they come.
    ///
    /// # Errors
    /// The worker has exited, takes longer than the timeout or does not keep to the protocol, or
    /// `stop` is set. The worker cannot be used any more.
    pub fn exchange(
        &mut self,
        request: &Request,
        replies: &mut Vec<Reply>,
        timeout: Duration,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        protocol::send(&mut self.input, request)?;
        let mut output = TimeoutReader::new(&mut self.output, timeout, stop);
        for _task in &request.tasks {
            match protocol::receive_reply(&mut output)? {
                Some(reply) => replies.push(reply),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    }

    /// Ends a worker after an error and returns the reason of the error. It holds nothing that may
    /// differ from run to run, because it is written into the shard.
    pub fn exit_reason(mut self, error: &io::Error, settings: &WorkerSettings) -> Failure {
        let timed_out = || {
            Failure::with(
                failure::TIMED_OUT,
                format!("more than {} s", settings.timeout.as_secs()),
            )
        };
        match error.kind() {
            io::ErrorKind::TimedOut => return timed_out(),
            io::ErrorKind::InvalidData => return Failure::protocol_error(),
            _ => {}
        }
        // The pipe is closed, so the worker has exited or is about to.
        let deadline = Instant::now() + EXIT_TIMEOUT;
        let mut status = None;
        while status.is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            status = self.child.try_wait().unwrap_or_default();
        }
        match status.and_then(|status| status.signal()) {
            Some(libc::SIGXCPU) => timed_out(),
            Some(libc::SIGABRT) => {
                let detail = format!(
                    "aborted, as it does beyond {} MiB of memory",
                    settings.memory_mib
                );
                Failure::with(failure::CRASHED, detail)
            }
            Some(signal) => Failure::with(failure::CRASHED, format!("signal {signal}")),
            None => Failure::with(failure::CRASHED, "the worker exited"),
        }
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // Both calls fail only if the worker has exited already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
