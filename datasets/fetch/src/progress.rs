//! The progress of downloads, on stderr: bars on a terminal, JSON lines otherwise.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// Time between two JSON lines.
const INTERVAL: Duration = Duration::from_secs(2);

/// The line of a job whose size is known, and of one whose size is not.
const TOTAL: &str = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}";
const TOTAL_UNKNOWN: &str = "{prefix} {spinner} {bytes} {bytes_per_sec} {msg}";

/// The progress of a job of several downloads.
pub struct Progress {
    job: String,
    is_silent: bool,
    bars: Option<MultiProgress>,
    total: Option<ProgressBar>,
    started: Instant,
    bytes: AtomicU64,
    expected: AtomicU64,
    last: Mutex<Instant>,
}

/// The progress of one file, which counts towards its job.
pub struct Transfer<'a> {
    job: &'a Progress,
    name: String,
    bar: Option<ProgressBar>,
    position: AtomicU64,
    length: AtomicU64,
}

impl Progress {
    /// Starts a job of `bytes` bytes, as far as that is known.
    pub fn start(job: &str, bytes: Option<u64>) -> Progress {
        Progress::new(job, bytes, false)
    }

    /// Starts a job that shows its messages alone.
    pub fn silent(job: &str) -> Progress {
        Progress::new(job, None, true)
    }

    fn new(job: &str, bytes: Option<u64>, is_silent: bool) -> Progress {
        let bars = (stderr().is_terminal() && !is_silent).then(MultiProgress::new);
        let expected = bytes.unwrap_or(0);
        let total = bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(expected));
            bar.set_style(style(match bytes {
                Some(_) => TOTAL,
                None => TOTAL_UNKNOWN,
            }));
            bar.set_prefix(job.to_owned());
            bar
        });
        let now = Instant::now();
        if bars.is_none() && !is_silent {
            print_line(&json!({"event": "start", "job": job, "bytes": bytes}));
        }
        Progress {
            job: job.to_owned(),
            is_silent,
            bars,
            total,
            started: now,
            bytes: AtomicU64::new(0),
            expected: AtomicU64::new(expected),
            last: Mutex::new(now),
        }
    }

    /// Changes how many bytes the job has in all.
    pub fn set_expected(&self, bytes: u64) {
        self.expected.store(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.total {
            bar.set_length(bytes);
            bar.set_style(style(TOTAL));
        }
    }

    /// The bytes that are there.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that an earlier run has fetched.
    pub fn skip(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.total {
            bar.set_position(self.bytes.load(Ordering::Relaxed));
        }
    }

    /// Shows a note beside the figures, such as how many files are done.
    pub fn set_note(&self, note: &str) {
        if let Some(bar) = &self.total {
            bar.set_message(note.to_owned());
        }
    }

    /// Prints a message on a line of its own. `event` is the kind of message in JSON.
    pub fn print(&self, event: &str, message: &str) {
        match &self.bars {
            // If stderr is closed, nobody can read it.
            Some(bars) => drop(bars.println(message)),
            None => print_line(&json!({"event": event, "message": message})),
        }
    }

    /// Starts a file of the job.
    pub fn transfer(&self, name: &str) -> Transfer<'_> {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(style(
                "  {bytes:>11}/{total_bytes:11} {bytes_per_sec:>13} {msg}",
            ));
            bar.set_message(name.to_owned());
            bar
        });
        Transfer {
            job: self,
            name: name.to_owned(),
            bar,
            position: AtomicU64::new(0),
            length: AtomicU64::new(0),
        }
    }

    /// Ends the job.
    pub fn finish(&self, note: &str) {
        if let Some(bar) = &self.total {
            bar.finish_and_clear();
        }
        let bytes = self.bytes.load(Ordering::Relaxed);
        match &self.bars {
            Some(bars) => drop(bars.println(format!("{} {note}", self.job))),
            None => print_line(&json!({
                "event": "done", "job": self.job, "bytes": bytes,
                "seconds": tenths(self.started.elapsed()), "note": note,
            })),
        }
    }

    /// Prints a JSON line, unless the last one was printed just now.
    fn report(&self, transfer: &Transfer) {
        // A panic while the time was held left a time.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_silent || last.elapsed() < INTERVAL {
            return;
        }
        *last = Instant::now();
        let known = |bytes: &AtomicU64| match bytes.load(Ordering::Relaxed) {
            0 => Value::Null,
            bytes => json!(bytes),
        };
        print_line(&json!({
            "event": "progress", "job": self.job,
            "bytes": self.bytes.load(Ordering::Relaxed), "of": known(&self.expected),
            "file": transfer.name,
            "file_bytes": transfer.position.load(Ordering::Relaxed), "file_of": known(&transfer.length),
            "seconds": tenths(self.started.elapsed()),
        }));
    }
}

impl Transfer<'_> {
    /// Sets the size of the file.
    pub fn set_length(&self, bytes: Option<u64>) {
        self.length.store(bytes.unwrap_or(0), Ordering::Relaxed);
        if let (Some(bar), Some(bytes)) = (&self.bar, bytes) {
            bar.set_length(bytes);
        }
    }

    /// Sets how much of the file is there.
    pub fn set_position(&self, position: u64) {
        let before = self.position.swap(position, Ordering::Relaxed);
        if position >= before {
            self.job
                .bytes
                .fetch_add(position - before, Ordering::Relaxed);
        } else {
            self.job
                .bytes
                .fetch_sub(before - position, Ordering::Relaxed);
        }
        self.show();
    }

    /// Counts bytes that have arrived.
    pub fn advance(&self, bytes: u64) {
        self.position.fetch_add(bytes, Ordering::Relaxed);
        self.job.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.show();
    }

    fn show(&self) {
        match (&self.bar, &self.job.total) {
            (Some(bar), Some(total)) => {
                bar.set_position(self.position.load(Ordering::Relaxed));
                total.set_position(self.job.bytes.load(Ordering::Relaxed));
            }
            _ => self.job.report(self),
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants, which a run on a terminal shows to be valid.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

fn print_line(value: &Value) {
    // If stderr is closed, nobody can read it.
    drop(writeln!(stderr(), "{value}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_terminal_are_valid() {
        for template in [TOTAL, TOTAL_UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
