//! The decode workers, seen from the parent: one thread per child process, requests in, replies out in any order.
//!
//! A clip that kills its child, hangs or makes it talk nonsense costs the modality that did it and nothing else: what
//! the child had answered before stays, the modalities it still owed are asked again, each alone, of a fresh child.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use util::cpu;

use super::process_limits;
use super::protocol::{self, Bounds, Hello, Reply, Request};
use crate::failure::{self, Failure};

/// Seconds that one clip may take by default. The slowest clip of the five datasets needs well under 10.
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 120;

/// Address space of a child by default, in MiB: a full clip of packets, a few 8K pictures and the program itself.
pub const DEFAULT_MEMORY_MIB: u64 = 4096;

/// How long a child may take to start, at least: the machine may have much else to do.
const START: Duration = Duration::from_secs(10);

/// How often a child is started anew that ends before its first word.
const START_ATTEMPTS: usize = 5;

/// How many fresh children one modality of one clip may cost before it is given up.
const LIVES: usize = 3;

/// How long a child that has closed its pipe may take to end.
const DYING: Duration = Duration::from_secs(10);

/// How often a waiting thread looks whether the run was given up.
const LOOK_UP: Duration = Duration::from_millis(200);

/// How children are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Children at a time.
    pub workers: usize,
    /// For one request, by the clock and in processor time.
    pub timeout: Duration,
    /// Address space of one child in MiB.
    pub memory_mib: u64,
    /// What the children may read.
    pub bounds: Bounds,
    /// Another program that decodes; this one where there is none.
    pub decoder: Option<PathBuf>,
}

/// What the most expensive clip has cost.
#[derive(Debug, Default)]
pub struct Effort {
    millis: AtomicU64,
    peak_bytes: AtomicU64,
    /// Whether the user was told what the sandbox lacks.
    told: AtomicBool,
}

impl Effort {
    /// Seconds of the longest request, restarts of children included.
    pub fn seconds(&self) -> f64 {
        self.millis.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// Resident memory of the largest child, in MiB.
    pub fn mib(&self) -> f64 {
        self.peak_bytes.load(Ordering::Relaxed) as f64 / f64::from(1 << 20)
    }

    /// Says once what this kernel lacks.
    fn tell(&self, gaps: &[String]) {
        if !gaps.is_empty() && !self.told.swap(true, Ordering::Relaxed) {
            util::cli::warn(&format!("decode workers: {}", gaps.join("; ")));
        }
    }
}

/// One clip's answers, in the order of its tasks.
pub type Replies = Vec<Reply>;

/// Threads, their children, and the pipes between.
pub struct Pool {
    jobs: Option<Sender<(usize, Request)>>,
    results: Receiver<(usize, anyhow::Result<Replies>)>,
    stop: Arc<AtomicBool>,
    effort: Arc<Effort>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads; each starts its child with its first clip.
    ///
    /// # Errors
    /// The system has no room for threads, or does not tell where this program lies.
    pub fn start(settings: &Settings) -> anyhow::Result<Pool> {
        let program = match &settings.decoder {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("cannot find this program's own file")?,
        };
        let effort = Arc::new(Effort::default());
        let (jobs, queue) = mpsc::channel::<(usize, Request)>();
        let (answers, results) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..settings.workers)
            .map(|number| {
                let mut client = Client {
                    program: program.clone(),
                    settings: settings.clone(),
                    stop: stop.clone(),
                    effort: effort.clone(),
                    worker: None,
                };
                let (queue, answers) = (queue.clone(), answers.clone());
                thread::Builder::new()
                    .name(format!("decode-{number}"))
                    .spawn(move || {
                        loop {
                            // A poisoned lock means a thread died holding it, and then the run is over anyway.
                            let Ok(Ok((index, request))) = queue.lock().map(|queue| queue.recv())
                            else {
                                break;
                            };
                            let start = Instant::now();
                            let replies = client.serve(&request);
                            client.measure(start.elapsed());
                            if answers.send((index, replies)).is_err() {
                                break;
                            }
                        }
                    })
            })
            .collect::<io::Result<_>>()
            .context("cannot start threads for the decode workers; give a smaller --workers")?;
        Ok(Pool {
            jobs: Some(jobs),
            results,
            stop,
            effort,
            threads,
        })
    }

    /// What the clips have cost so far.
    pub fn effort(&self) -> Arc<Effort> {
        self.effort.clone()
    }

    /// Hands a clip in, under a number by which its replies will be known.
    pub fn submit(&self, index: usize, request: Request) -> anyhow::Result<()> {
        let gone = || anyhow!("the decode workers are gone");
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send((index, request))
            .map_err(|_| gone())
    }

    /// Waits for the next finished clip, whichever it is; `None` where none has come within the time.
    ///
    /// # Errors
    /// Children cannot be started at all.
    pub fn next(&self, wait: Duration) -> anyhow::Result<Option<(usize, Replies)>> {
        match self.results.recv_timeout(wait) {
            Ok((index, replies)) => Ok(Some((index, replies?))),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the decode workers are gone"),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to give.
            drop(thread.join());
        }
    }
}

/// One thread's side: a child that is started when needed and replaced when it dies.
struct Client {
    program: PathBuf,
    settings: Settings,
    stop: Arc<AtomicBool>,
    effort: Arc<Effort>,
    worker: Option<Worker>,
}

impl Client {
    /// Notes what a request has cost.
    fn measure(&self, time: Duration) {
        let millis = time.as_millis() as u64;
        self.effort.millis.fetch_max(millis, Ordering::Relaxed);
        let peak = self
            .worker
            .as_ref()
            .and_then(|worker| util::memory::peak(worker.child.id()));
        self.effort
            .peak_bytes
            .fetch_max(peak.unwrap_or_default(), Ordering::Relaxed);
    }

    fn serve(&mut self, request: &Request) -> anyhow::Result<Replies> {
        let mut replies: Replies = Vec::new();
        if self.ask(request, &mut replies)?.is_some() {
            for task in &request.tasks[replies.len()..] {
                let alone = Request {
                    pool: request.pool,
                    tasks: vec![task.clone()],
                };
                self.insist(&alone, &mut replies)?;
            }
        }
        Ok(replies)
    }

    /// Asks for one task until it is answered, or given up: after the first time-out, or when it has cost [`LIVES`]
    /// children that had done nothing before. Fewer may have died of something else, such as a want of memory in the
    /// whole machine, and that must not show in the output.
    fn insist(&mut self, request: &Request, replies: &mut Replies) -> anyhow::Result<()> {
        let mut lives = LIVES;
        loop {
            let fresh = self.worker.is_none();
            let Some(failure) = self.ask(request, replies)? else {
                return Ok(());
            };
            lives -= usize::from(fresh);
            if lives == 0 || failure.cause == failure::TIMED_OUT {
                replies.push(Reply {
                    outcome: Err(failure),
                    warnings: Vec::new(),
                });
                return Ok(());
            }
        }
    }

    /// Asks the child, collecting its replies as they come. `Some`: the child is lost, and why.
    ///
    /// # Errors
    /// No child can be started; the run is being given up.
    fn ask(&mut self, request: &Request, replies: &mut Replies) -> anyhow::Result<Option<Failure>> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => Worker::start(&self.program, &self.settings, &self.effort)?,
        };
        match worker.converse(request, replies, self.settings.timeout, &self.stop) {
            Ok(()) => {
                self.worker = Some(worker);
                Ok(None)
            }
            Err(_) if self.stop.load(Ordering::Relaxed) => bail!("stopped"),
            Err(error) => Ok(Some(worker.post_mortem(&error, &self.settings))),
        }
    }
}

/// A running child.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Worker {
    /// Starts a child. One that dies at once may have met a passing want of memory, or somebody's kill.
    fn start(program: &PathBuf, settings: &Settings, effort: &Effort) -> anyhow::Result<Worker> {
        for _attempt in 1..START_ATTEMPTS {
            if let Ok(worker) = Worker::start_once(program, settings, effort) {
                return Ok(worker);
            }
        }
        Worker::start_once(program, settings, effort)
    }

    fn start_once(
        program: &PathBuf,
        settings: &Settings,
        effort: &Effort,
    ) -> anyhow::Result<Worker> {
        let seconds = settings.timeout.as_secs().max(1);
        let arguments: [OsString; 5] = [
            "decode-worker".into(),
            "--memory-mib".into(),
            settings.memory_mib.to_string().into(),
            "--cpu-seconds".into(),
            seconds.to_string().into(),
        ];
        let mut child = Command::new(program)
            .args(arguments)
            // Nothing else of the user's environment concerns a decoder.
            .env_clear()
            .envs(std::env::var_os(cpu::VARIABLE).map(|value| (cpu::VARIABLE, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal is the parent's to handle.
            .process_group(0)
            .spawn()
            .context("cannot start a decode worker; give a smaller --workers")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a decode worker started without its pipes");
        };
        let mut worker = Worker {
            child,
            input,
            output,
        };
        let never = AtomicBool::new(false);
        let mut from = Patience {
            output: &mut worker.output,
            left: settings.timeout.max(START),
            stop: &never,
        };
        // One that is dead already does not take it; then it does not greet either.
        let _taken = protocol::send(&mut worker.input, &settings.bounds);
        match protocol::receive::<Hello>(&mut from) {
            Ok(Some(hello)) if hello.version == env!("CARGO_PKG_VERSION") => {
                effort.tell(&hello.sandbox_gaps);
                Ok(worker)
            }
            Ok(Some(hello)) => bail!(
                "the decode worker is version {} and this program {}; the program's file was replaced, start again",
                hello.version,
                env!("CARGO_PKG_VERSION")
            ),
            other => {
                let error = other
                    .err()
                    .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                let why = worker.post_mortem(&error, settings);
                bail!(
                    "a decode worker does not start: {why}; give a larger --worker-memory than {} MiB",
                    settings.memory_mib
                )
            }
        }
    }

    fn converse(
        &mut self,
        request: &Request,
        replies: &mut Replies,
        patience: Duration,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        protocol::send(&mut self.input, request)?;
        let mut from = Patience {
            output: &mut self.output,
            left: patience,
            stop,
        };
        for _task in &request.tasks {
            match protocol::receive_reply(&mut from)? {
                Some(reply) => replies.push(reply),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    }

    /// Ends a child that failed us, and finds out why it did. Says nothing that differs from run to run.
    fn post_mortem(mut self, error: &io::Error, settings: &Settings) -> Failure {
        let slow = || {
            Failure::with(
                failure::TIMED_OUT,
                format!("more than {} s", settings.timeout.as_secs()),
            )
        };
        match error.kind() {
            io::ErrorKind::TimedOut => return slow(),
            io::ErrorKind::InvalidData => {
                return Failure::with(failure::CRASHED, "it answered nonsense");
            }
            _ => {}
        }
        // The pipe is closed, so it is dead or about to be.
        let patience = Instant::now() + DYING;
        let mut status = None;
        while status.is_none() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(5));
            status = self.child.try_wait().unwrap_or_default();
        }
        match status.and_then(|status| status.signal()) {
            Some(libc::SIGXCPU) => slow(),
            Some(libc::SIGABRT) => {
                let detail = format!(
                    "aborted, as it does beyond {} MiB of memory",
                    settings.memory_mib
                );
                Failure::with(failure::CRASHED, detail)
            }
            Some(signal) => Failure::with(failure::CRASHED, format!("signal {signal}")),
            None => Failure::with(failure::CRASHED, "it ended itself"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only where it is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A child's output, read as long as patience lasts.
///
/// Patience is spent by waiting, not by the clock: where this process, and perhaps the child with it, was stopped and
/// continued (a terminal's Ctrl-Z, a batch system), the time in between costs one look at most.
struct Patience<'a> {
    output: &'a mut ChildStdout,
    left: Duration,
    stop: &'a AtomicBool,
}

impl Read for Patience<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (start, look) = (Instant::now(), self.left.min(LOOK_UP));
            let ready = process_limits::wait_readable(self.output.as_fd(), start + look)?;
            self.left = self.left.saturating_sub(start.elapsed().min(LOOK_UP));
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if ready {
                return self.output.read(buffer);
            }
            if self.left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}
