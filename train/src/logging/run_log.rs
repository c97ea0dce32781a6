//! The log of a run.

use super::StepRecord;
use super::tensorboard::EventWriter;
use super::throughput::Throughput;
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

/// The open log of a run.
pub struct RunLog {
    path: PathBuf,
    metrics: BufWriter<File>,
    events: EventWriter,
    progress: ProgressBar,
    throughput: Throughput,
}

impl RunLog {
    /// Opens the log of a run that has finished `step` of `total` steps. Lines of later steps,
    /// which were written before a crash and will be written again, are removed.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn open(run: &Path, step: u64, total: u64) -> Result<RunLog> {
        let path = run.join(METRICS_FILE);
        let problem = || format!("{}: cannot be written", path.display());
        if path.exists() {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{}: cannot be read", path.display()))?;
            let valid: String = text
                .lines()
                .filter(|line| line_step(line).is_some_and(|s| s <= step))
                .map(|line| format!("{line}\n"))
                .collect();
            if valid != text {
                util::atomic::write(&path, valid).with_context(problem)?;
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
            throughput: Throughput::default(),
        })
    }

    /// Logs a step. What depends on the machine goes only to TensorBoard and the progress line, so
    /// that equal runs have equal `metrics.jsonl`.
    pub fn step(&mut self, record: &StepRecord, losses: &Losses) -> Result<()> {
        let StepRecord {
            step, epoch, lr, ..
        } = *record;
        let Losses { loss, task, align } = *losses;
        self.write_line(&json!({"step": step, "epoch": epoch, "loss": loss, "task_loss": task, "align_loss": align, "lr": lr}))?;
        self.throughput.add(record);
        for (tag, value) in [
            ("train/loss", loss),
            ("train/task_loss", task),
            ("train/align_loss", align),
            ("train/lr", lr),
            (
                "pace/samples_per_second",
                self.throughput.samples_per_second(),
            ),
            ("pace/data_wait_share", self.throughput.data_wait_share()),
        ] {
            self.events.scalar(tag, step, value)?;
        }
        if !self.progress.is_hidden() {
            let memory = util::memory::resident().map_or_else(String::new, |bytes| {
                format!("  {:.1} GB", bytes as f64 / 1e9)
            });
            self.progress.set_message(format!(
                "loss {loss:.4} = {task:.4} task, {align:.4} align  {:.1} samples/s  {:.0} % data wait{memory}",
                self.throughput.samples_per_second(),
                100.0 * self.throughput.data_wait_share()
            ));
        }
        self.progress.set_position(step);
        Ok(())
    }

    /// Prints a line on stderr, above the progress line.
    pub(crate) fn print(&self, line: &str) {
        self.progress.suspend(|| eprintln!("{line}"));
    }

    /// Logs an evaluation.
    pub fn evaluation(
        &mut self,
        step: u64,
        epoch: u64,
        split: Split,
        metrics: &Metrics,
    ) -> Result<()> {
        self.write_line(&json!({"step": step, "epoch": epoch, "split": split.as_str(), "samples": metrics.samples, "metrics": metrics.values}))?;
        for (name, value) in &metrics.values {
            self.events
                .scalar(&format!("{split}/{name}"), step, *value)?;
        }
        Ok(())
    }

    /// Hands everything to the operating system. To be called after every step.
    pub fn flush(&mut self) -> Result<()> {
        self.metrics.flush().with_context(|| self.write_error())?;
        Ok(self.events.flush()?)
    }

    /// Writes everything to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        let file = self.metrics.get_ref();
        file.sync_data().with_context(|| self.write_error())
    }

    fn write_error(&self) -> String {
        let path = self.path.display();
        format!("{path}: cannot be written; is the disk full?")
    }

    fn write_line(&mut self, value: &Value) -> Result<()> {
        writeln!(self.metrics, "{value}").with_context(|| self.write_error())
    }
}

impl Drop for RunLog {
    fn drop(&mut self) {
        self.progress.finish_and_clear();
    }
}

/// The step of a line; `None` for a line that was cut off.
fn line_step(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?["step"].as_u64()
}
