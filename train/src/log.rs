//! What a run writes as it goes: `metrics.jsonl`, TensorBoard events, progress on stderr.

use crate::metrics::Metrics;
use crate::tensorboard::EventWriter;
use anyhow::{Context, Result};
use datasets::Split;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// One line per step and per evaluation.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// The open log of a run.
pub struct RunLog {
    path: PathBuf,
    metrics: BufWriter<File>,
    events: EventWriter,
    progress: ProgressBar,
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
                let temporary = run.join(".metrics.jsonl.tmp");
                fs::write(&temporary, kept).with_context(problem)?;
                File::open(&temporary)
                    .and_then(|f| f.sync_all())
                    .with_context(problem)?;
                fs::rename(&temporary, &path).with_context(problem)?;
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
            let style = ProgressStyle::with_template(
                "{bar:30} step {pos}/{len}  {per_sec}  {eta} left  {msg}",
            )
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
        })
    }

    /// Logs one step.
    pub fn step(
        &mut self,
        step: u64,
        epoch: u64,
        loss: f64,
        task: f64,
        align: f64,
        lr: f64,
    ) -> Result<()> {
        self.line(&json!({"step": step, "epoch": epoch, "loss": loss, "task_loss": task, "align_loss": align, "lr": lr}))?;
        for (tag, value) in [
            ("train/loss", loss),
            ("train/task_loss", task),
            ("train/align_loss", align),
            ("train/lr", lr),
        ] {
            self.events.scalar(tag, step, value)?;
        }
        self.progress.set_position(step);
        self.progress.set_message(format!("loss {loss:.4}"));
        Ok(())
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

    /// Brings everything to the disk. Call it before a checkpoint: a run goes on after the step
    /// that the checkpoint holds, and the lines up to that step are not made again.
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
