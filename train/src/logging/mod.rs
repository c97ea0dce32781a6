//! What a run writes as it goes: `metrics.jsonl`, TensorBoard events, progress on stderr.

mod tensorboard;

use crate::evaluation::metrics::Metrics;
use anyhow::{Context, Result};
use datasets::Split;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::u2a::Losses;
use report::METRICS_FILE;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tensorboard::EventWriter;

/// What is told of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its number, from 1.
    pub step: u64,
    /// The epoch it belongs to, from 0.
    pub epoch: u64,
    /// Learning rate.
    pub lr: f64,
    /// Samples in it.
    pub samples: usize,
    /// Time from the end of the last step to the end of this one.
    pub took: Duration,
    /// Part of that spent waiting for data.
    pub waited: Duration,
}

/// How fast steps go: sums that forget the past slowly.
#[derive(Default)]
struct Pace {
    samples: f64,
    seconds: f64,
    waited: f64,
}

impl Pace {
    /// What is left of a sum after each step: about the last 50 steps count.
    const KEEP: f64 = 0.98;

    fn add(&mut self, step: &Step) {
        let add = |sum: &mut f64, value: f64| *sum = *sum * Self::KEEP + value;
        add(&mut self.samples, step.samples as f64);
        add(&mut self.seconds, step.took.as_secs_f64());
        add(&mut self.waited, step.waited.as_secs_f64());
    }

    fn rate(&self) -> f64 {
        self.samples / self.seconds.max(1e-9)
    }

    fn wait_share(&self) -> f64 {
        self.waited / self.seconds.max(1e-9)
    }
}

/// Steps that an estimate of a run's time is made from. Those before the first reading of the losses do not count:
/// they fill buffers and start threads.
const ESTIMATE_STEPS: u64 = 3;

/// A line about a run that waits for an estimate of the run's time.
pub struct Announcement {
    text: String,
    /// The run's last step.
    total: u64,
    /// So few steps are left that no estimate is worth waiting for.
    short: bool,
    /// The step that the measurement begins after, and when that step was done.
    begun: Option<(u64, Instant)>,
}

impl Announcement {
    /// For a run that stands at `step` of `total`.
    pub fn new(text: &str, step: u64, total: u64) -> Announcement {
        Announcement {
            text: text.to_string(),
            total,
            short: total - step <= ESTIMATE_STEPS,
            begun: None,
        }
    }

    /// The line, once it is due: `step` has just been done and its losses are known. The time is that of all the
    /// steps left, at the pace of those since the first call.
    pub fn line(&mut self, step: u64) -> Option<String> {
        if self.short || step >= self.total {
            return Some(self.text.clone());
        }
        let Some((first, begun)) = self.begun else {
            self.begun = Some((step, Instant::now()));
            return None;
        };
        let done = step - first;
        (done >= ESTIMATE_STEPS)
            .then(|| self.with_time(begun.elapsed().as_secs_f64() / done as f64, step))
    }

    fn with_time(&self, seconds_per_step: f64, step: u64) -> String {
        let left = self.total - step;
        let time = clock(seconds_per_step * left as f64);
        format!(
            "{}; about {time} for {} more steps",
            self.text,
            thousands(left)
        )
    }
}

/// A number with commas between its thousands.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in the two largest units that say something: `45 s`, `12 min`, `3 h 20 min`, `2 days 5 h`.
pub fn clock(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    let (days, hours) = (minutes / 1440, minutes / 60);
    if seconds < 90.0 {
        format!("{seconds:.0} s")
    } else if hours < 2 {
        format!("{minutes} min")
    } else if days < 2 {
        format!("{hours} h {} min", minutes % 60)
    } else {
        format!("{days} days {} h", hours % 24)
    }
}

/// The open log of a run.
pub struct RunLog {
    path: PathBuf,
    metrics: BufWriter<File>,
    events: EventWriter,
    progress: ProgressBar,
    pace: Pace,
}

impl RunLog {
    /// Opens the log of a run that stands at `step`: lines of later steps, written before a crash
    /// and about to be made again, are removed.
    pub fn open(run: &Path, step: u64, total: u64) -> Result<RunLog> {
        let path = run.join(METRICS_FILE);
        let problem = || format!("{}: cannot be written", path.display());
        if path.exists() {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{}: cannot be read", path.display()))?;
            let kept: String = text
                .lines()
                .filter(|line| line_step(line).is_some_and(|s| s <= step))
                .map(|line| format!("{line}\n"))
                .collect();
            if kept != text {
                util::atomic::write(&path, kept).with_context(problem)?;
            }
        }
        let metrics = BufWriter::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(problem)?,
        );
        let folder = run.join("tensorboard");
        let events = EventWriter::create(&folder)
            .with_context(|| format!("{}: cannot be written", folder.display()))?;
        let progress = if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{bar:20} step {pos}/{len}  {msg}  {eta} left")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
                .with_style(style)
                .with_position(step)
        } else {
            ProgressBar::hidden()
        };
        progress.reset_eta();
        Ok(RunLog {
            path,
            metrics,
            events,
            progress,
            pace: Pace::default(),
        })
    }

    /// Logs one step. What depends on the machine goes to TensorBoard and the live line alone:
    /// equal runs have equal `metrics.jsonl`.
    pub fn step(&mut self, line: &Step, losses: &Losses) -> Result<()> {
        let Step {
            step, epoch, lr, ..
        } = *line;
        let Losses { loss, task, align } = *losses;
        self.line(&json!({"step": step, "epoch": epoch, "loss": loss, "task_loss": task, "align_loss": align, "lr": lr}))?;
        self.pace.add(line);
        for (tag, value) in [
            ("train/loss", loss),
            ("train/task_loss", task),
            ("train/align_loss", align),
            ("train/lr", lr),
            ("pace/samples_per_second", self.pace.rate()),
            ("pace/data_wait_share", self.pace.wait_share()),
        ] {
            self.events.scalar(tag, step, value)?;
        }
        if !self.progress.is_hidden() {
            let memory = util::memory::resident().map_or_else(String::new, |bytes| {
                format!("  {:.1} GB", bytes as f64 / 1e9)
            });
            self.progress.set_message(format!(
                "loss {loss:.4} = {task:.4} task, {align:.4} align  {:.1} samples/s  {:.0} % data wait{memory}",
                self.pace.rate(),
                100.0 * self.pace.wait_share()
            ));
        }
        self.progress.set_position(step);
        Ok(())
    }

    /// Prints a line to stderr, above the live line where there is one.
    pub fn note(&self, line: &str) {
        self.progress.suspend(|| eprintln!("{line}"));
    }

    /// Logs one evaluation.
    pub fn evaluation(
        &mut self,
        step: u64,
        epoch: u64,
        split: Split,
        metrics: &Metrics,
    ) -> Result<()> {
        self.line(&json!({"step": step, "epoch": epoch, "split": split.as_str(), "samples": metrics.samples, "metrics": metrics.values}))?;
        for (name, value) in &metrics.values {
            self.events
                .scalar(&format!("{split}/{name}"), step, *value)?;
        }
        Ok(())
    }

    /// Hands everything to the operating system. Call it after every step.
    pub fn flush(&mut self) -> Result<()> {
        self.metrics.flush().with_context(|| self.unwritable())?;
        Ok(self.events.flush()?)
    }

    /// Brings everything to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        let file = self.metrics.get_ref();
        file.sync_data().with_context(|| self.unwritable())
    }

    fn unwritable(&self) -> String {
        let path = self.path.display();
        format!("{path}: cannot be written; is the disk full?")
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        writeln!(self.metrics, "{value}").with_context(|| self.unwritable())
    }
}

impl Drop for RunLog {
    fn drop(&mut self) {
        self.progress.finish_and_clear();
    }
}

/// The step of a line; none for a line that was cut off.
fn line_step(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?["step"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_waits_for_steps_to_measure() {
        let mut one = Announcement::new("device: cpu", 10, 1000);
        assert_eq!(one.line(11), None);
        assert_eq!(one.line(12), None);
        assert_eq!(one.line(13), None);
        let line = one.line(14).unwrap();
        assert_eq!(line, "device: cpu; about 0 s for 986 more steps");
        assert_eq!(
            Announcement::new("x", 0, 20_001).with_time(0.6, 1),
            "x; about 3 h 20 min for 20,000 more steps"
        );
        // Too few for an estimate: the line comes at once.
        assert_eq!(Announcement::new("x", 0, 3).line(1).as_deref(), Some("x"));
    }

    #[test]
    fn times_in_words() {
        for (seconds, words) in [
            (0.4, "0 s"),
            (89.0, "89 s"),
            (90.0, "2 min"),
            (7169.0, "119 min"),
            (12_000.0, "3 h 20 min"),
            (2.0 * 86_400.0 + 5.4 * 3600.0, "2 days 5 h"),
        ] {
            assert_eq!(clock(seconds), words);
        }
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(123), "123");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn pace_forgets_a_slow_start() {
        let step = |took, waited| Step {
            step: 1,
            epoch: 0,
            lr: 0.0,
            samples: 8,
            took: Duration::from_millis(took),
            waited: Duration::from_millis(waited),
        };
        let mut pace = Pace::default();
        pace.add(&step(9000, 9000));
        assert_eq!(pace.wait_share(), 1.0);
        (0..400).for_each(|_| pace.add(&step(100, 25)));
        assert!((pace.rate() - 80.0).abs() < 2.0, "{}", pace.rate());
        assert!((pace.wait_share() - 0.25).abs() < 0.02);
    }
}
