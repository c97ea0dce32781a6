//! The worker pool: one thread for each decode worker. Requests are handed in, and replies come
//! back in any order.
//!
//! A clip that crashes its worker, hangs or breaks the protocol loses the modality that did it and
//! nothing else: replies that have come before are kept, and each of the tasks without a reply is
//! sent to a new worker by itself.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use super::protocol::{Reply, Request};
use super::worker_process::{WorkerProcess, WorkerSettings};
use crate::failure::{self, Failure};

/// Default limit on the time that one clip may take, in seconds. The slowest clip of the five
/// datasets needs well under 10.
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 120;

/// Default limit on the address space of a worker, in MiB. It is enough for the packets of a full
/// clip, a few 8K images and the program itself.
pub const DEFAULT_MEMORY_MIB: u64 = 4096;

/// The retry limit: how many new workers a task may crash before its input is given up.
const MAX_CRASHES: usize = 3;

/// The highest cost of a clip so far.
#[derive(Debug, Default)]
pub struct PeakCost {
    millis: AtomicU64,
    bytes: AtomicU64,
}

impl PeakCost {
    /// Seconds that the longest request took, restarts of workers included.
    pub fn seconds(&self) -> f64 {
        self.millis.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// The most resident memory that a worker had, in MiB.
    pub fn mib(&self) -> f64 {
        self.bytes.load(Ordering::Relaxed) as f64 / f64::from(1 << 20)
    }
}

/// The replies to one request, in the order of its tasks.
pub type Replies = Vec<Reply>;

/// A pool of decode workers.
pub struct Pool {
    requests: Option<Sender<(usize, Request)>>,
    results: Receiver<(usize, anyhow::Result<Replies>)>,
    stop: Arc<AtomicBool>,
    peak_cost: Arc<PeakCost>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts one thread for each of `workers` workers. Each thread starts its worker with its
    /// first request.
    ///
    /// # Errors
    /// The system refuses to start the threads.
    pub fn start(workers: usize, settings: &WorkerSettings) -> anyhow::Result<Pool> {
        let peak_cost = Arc::new(PeakCost::default());
        let (requests, queue) = mpsc::channel::<(usize, Request)>();
        let (answers, results) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let stop = Arc::new(AtomicBool::new(false));
        let warned = Arc::new(AtomicBool::new(false));
        let threads = (0..workers)
            .map(|number| {
                let mut client = Client {
                    settings: settings.clone(),
                    stop: stop.clone(),
                    warned: warned.clone(),
                    peak_cost: peak_cost.clone(),
                    worker: None,
                };
                let (queue, answers) = (queue.clone(), answers.clone());
                thread::Builder::new()
                    .name(format!("decode-{number}"))
                    .spawn(move || {
                        loop {
                            // The lock is poisoned only if a thread panicked, and then the run
                            // fails.
                            let Ok(Ok((number, request))) = queue.lock().map(|queue| queue.recv())
                            else {
                                break;
                            };
                            let start = Instant::now();
                            let replies = client.serve(&request);
                            client.record_cost(start.elapsed());
                            if answers.send((number, replies)).is_err() {
                                break;
                            }
                        }
                    })
            })
            .collect::<io::Result<_>>()
            .context("cannot start threads for the decode workers; give a smaller --workers")?;
        Ok(Pool {
            requests: Some(requests),
            results,
            stop,
            peak_cost,
            threads,
        })
    }

    /// The highest cost of a clip so far.
    pub fn peak_cost(&self) -> Arc<PeakCost> {
        self.peak_cost.clone()
    }

    /// Queues a request. Its replies come with the same number.
    ///
    /// # Errors
    /// All threads have ended.
    pub fn submit(&self, number: usize, request: Request) -> anyhow::Result<()> {
        let ended = || anyhow!("the decode workers have ended");
        self.requests
            .as_ref()
            .ok_or_else(ended)?
            .send((number, request))
            .map_err(|_| ended())
    }

    /// Waits for the next request that is done, whichever it is. Returns `None` if none is done
    /// within `timeout`.
    ///
    /// # Errors
    /// A worker cannot be started, or all threads have ended.
    pub fn next(&self, timeout: Duration) -> anyhow::Result<Option<(usize, Replies)>> {
        match self.results.recv_timeout(timeout) {
            Ok((number, replies)) => Ok(Some((number, replies?))),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the decode workers have ended"),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.requests = None;
        for thread in self.threads.drain(..) {
            // The result of a thread that panicked is of no use any more.
            drop(thread.join());
        }
    }
}

/// The state of one thread: a worker that is started when needed and replaced when it crashes.
struct Client {
    settings: WorkerSettings,
    stop: Arc<AtomicBool>,
    /// Whether the user was warned of gaps in the sandbox. Shared by all threads.
    warned: Arc<AtomicBool>,
    peak_cost: Arc<PeakCost>,
    worker: Option<WorkerProcess>,
}

impl Client {
    /// Computes the replies to a request.
    ///
    /// # Errors
    /// No worker can be started, or the run was stopped.
    fn serve(&mut self, request: &Request) -> anyhow::Result<Replies> {
        let mut replies: Replies = Vec::new();
        if self.send(request, &mut replies)?.is_some() {
            for task in &request.tasks[replies.len()..] {
                let single = Request {
                    tasks: vec![task.clone()],
                    ..*request
                };
                self.run_with_retries(&single, &mut replies)?;
            }
        }
        Ok(replies)
    }

    /// Sends a request of one task until there is a reply, or until the task is given up: after the
    /// first timeout, or when it has crashed [`MAX_CRASHES`] workers that had done nothing before.
    /// Fewer crashes may have another cause, such as a lack of memory in the whole machine, and
    /// such a cause must not show in the output.
    fn run_with_retries(&mut self, request: &Request, replies: &mut Replies) -> anyhow::Result<()> {
        let mut crashes = 0;
        loop {
            let is_new = self.worker.is_none();
            let Some(failure) = self.send(request, replies)? else {
                return Ok(());
            };
            crashes += usize::from(is_new);
            if crashes == MAX_CRASHES || failure.cause == failure::TIMED_OUT {
                replies.push(Reply {
                    outcome: Err(failure),
                    warnings: Vec::new(),
                });
                return Ok(());
            }
        }
    }

    /// Sends a request to the worker and collects the replies. Returns the reason if the worker was
    /// lost on the way.
    ///
    /// # Errors
    /// No worker can be started, or the run was stopped.
    fn send(
        &mut self,
        request: &Request,
        replies: &mut Replies,
    ) -> anyhow::Result<Option<Failure>> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start_worker()?,
        };
        match worker.exchange(request, replies, self.settings.timeout, &self.stop) {
            Ok(()) => {
                self.worker = Some(worker);
                Ok(None)
            }
            Err(_) if self.stop.load(Ordering::Relaxed) => bail!("stopped"),
            Err(error) => Ok(Some(worker.exit_reason(&error, &self.settings))),
        }
    }

    /// Starts a worker. Warns the user of gaps in its sandbox, once for all threads.
    fn start_worker(&self) -> anyhow::Result<WorkerProcess> {
        let (worker, sandbox_gaps) = WorkerProcess::start(&self.settings)?;
        if !sandbox_gaps.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            util::cli::warn(&format!("decode workers: {}", sandbox_gaps.join("; ")));
        }
        Ok(worker)
    }

    /// Records the cost of a request that took `time`.
    fn record_cost(&self, time: Duration) {
        let millis = time.as_millis() as u64;
        self.peak_cost.millis.fetch_max(millis, Ordering::Relaxed);
        let worker = self.worker.as_ref();
        let bytes = worker.and_then(|worker| util::memory::peak(worker.id()));
        self.peak_cost
            .bytes
            .fetch_max(bytes.unwrap_or_default(), Ordering::Relaxed);
    }
}
