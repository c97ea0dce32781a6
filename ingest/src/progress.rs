//! The progress of a job, on stderr: a bar with rate and time left on a terminal, JSON lines
//! otherwise.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::{Value, json};

/// Time between two JSON lines.
const INTERVAL: Duration = Duration::from_secs(2);

/// Reports the progress of one job.
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    last: Instant,
    done: u64,
    total: u64,
}

impl Progress {
    /// Starts a job of `total` steps.
    pub fn start(job: &str, total: u64) -> Progress {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = "{prefix} {bar:30} {pos}/{len} {rate} {eta} left {msg}";
            let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                // Writing into a string cannot fail.
                write!(out, "{:.1}/s", state.per_sec()).ok();
            };
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.with_key("rate", rate));
            }
            bar.set_prefix(job.to_owned());
            bar
        });
        let now = Instant::now();
        let progress = Progress {
            bar,
            started: now,
            last: now,
            done: 0,
            total,
        };
        if progress.bar.is_none() {
            print_line(&json!({"event": "start", "job": job, "total": total}));
        }
        progress
    }

    /// Counts one step. `note` is shown beside the figures, such as the number of failures.
    pub fn step(&mut self, note: impl FnOnce() -> String) {
        self.done += 1;
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                if self.last.elapsed() > INTERVAL / 10 {
                    bar.set_message(note());
                    self.last = Instant::now();
                }
            }
            None if self.last.elapsed() >= INTERVAL => {
                self.last = Instant::now();
                print_line(&self.figures("progress", &note()));
            }
            None => {}
        }
    }

    /// Prints a message on a line of its own. `event` is the kind of message in JSON.
    pub fn print(&self, event: &str, message: &str) {
        match &self.bar {
            Some(bar) => bar.println(message),
            None => print_line(&json!({"event": event, "message": message})),
        }
    }

    /// Ends the job. `note` is the last one.
    pub fn finish(&self, note: &str) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => print_line(&self.figures("done", note)),
        }
    }

    fn figures(&self, event: &str, note: &str) -> Value {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds.max(1e-9);
        let left = (self.total - self.done.min(self.total)) as f64 / rate.max(1e-9);
        let round = |value: f64| (value * 10.0).round() / 10.0;
        json!({
            "event": event,
            "done": self.done,
            "total": self.total,
            "per_second": round(rate),
            "seconds": round(seconds),
            "seconds_left": if self.done == 0 { Value::Null } else { json!(round(left)) },
            "note": note,
        })
    }
}

/// Prints a message on stderr outside of any job: as it is on a terminal, otherwise as a JSON line
/// whose `event` is the kind of message.
pub fn announce(event: &str, message: &str) {
    if stderr().is_terminal() {
        // A closed stderr is no reason to stop.
        drop(writeln!(stderr(), "{event}: {message}"));
    } else {
        print_line(&json!({"event": event, "message": message}));
    }
}

/// Prints a line of JSON on stderr.
fn print_line(value: &Value) {
    // A closed stderr is no reason to stop.
    drop(writeln!(stderr(), "{value}"));
}
