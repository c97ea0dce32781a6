//! Trains and evaluates the runs of a plan.

use super::{Options, Plan, PlannedRun};
use crate::evaluation::{self, Evaluator};
use crate::session;
use crate::training::checkpoint;
use crate::training::job::{Job, claim};
use crate::training::ranks::Ranks;
use crate::training::trainer::Outcome;
use anyhow::Result;
use report::CONFIG_FILE;
use report::artefact::Training;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

impl Options {
    /// Trains and evaluates the runs that are not finished, one after the other. Returns whether
    /// all of them are finished now, which they are not if a signal set `stop`.
    ///
    /// # Errors
    /// A run cannot be trained or evaluated.
    pub fn execute(&self, plan: &mut Plan, stop: &AtomicBool) -> Result<bool> {
        let total = plan.runs.len();
        for (i, run) in plan.runs.iter_mut().enumerate() {
            let Some(folder) = run.folder.clone() else {
                continue;
            };
            let title = format!("run {} of {total}: {}", i + 1, title(run));
            if run.finished && run.evaluations.is_empty() {
                eprintln!("{title}: finished already");
                continue;
            }
            match run.finished {
                true => eprintln!("{title}: {} evaluations", run.evaluations.len()),
                false => eprintln!("{title}: {} steps", run.steps),
            }
            let job = self.job(&run.dataset, &run.training, run.seed)?;
            if !run.finished {
                let (outcome, _) = if folder.join(CONFIG_FILE).is_file() {
                    let _lock = claim(&folder)?;
                    job.resume(&folder, stop, &Ranks::single())?
                } else {
                    job.start(&folder, stop, &Ranks::single())?
                };
                if outcome == Outcome::Stopped {
                    return Ok(false);
                }
                run.finished = true;
            }
            if !evaluate(run, &folder, &job, stop)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Describes a run by its method, dataset, seed and training mask.
fn title(run: &PlannedRun) -> String {
    let Training { method, settings } = &run.training;
    let mut title = format!("{method} on {}, seed {}", run.dataset, run.seed);
    for setting in settings.iter().filter(|s| s.starts_with("train_mask=")) {
        title += &format!(", {setting}");
    }
    title
}

/// Evaluates a trained run as far as that is still to do. Returns `false` if a signal set `stop`.
fn evaluate(run: &mut PlannedRun, folder: &Path, job: &Job, stop: &AtomicBool) -> Result<bool> {
    let best = checkpoint::best_or_latest(folder)?;
    let mut model = session::build_model(&job.config, &job.compute)?;
    checkpoint::read_model(&best, &mut model)?;
    for options in &run.options {
        let name = options.name();
        if !run.evaluations.contains(&name) {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let result = Evaluator::new(&job.session, &job.config, options)?.run(&model)?;
        evaluation::write(folder, &job.config, options, &best, &result)?;
        run.evaluations.retain(|left| *left != name);
    }
    Ok(true)
}
