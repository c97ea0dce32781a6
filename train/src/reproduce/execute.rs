//! Trains and evaluates the runs of a plan.

use super::{Options, Plan, PlannedRun};
use crate::evaluation::{self, Evaluator};
use crate::session;
use crate::training::checkpoint;
use crate::training::job::{Job, claim};
use crate::training::ranks::Ranks;
use crate::training::trainer::Outcome;
use anyhow::{Context, Result, bail};
use report::CONFIG_FILE;
use report::artefact::Training;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A part of the work on a run, as jobs of a cluster do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStage {
    /// Training to the end.
    Train,
    /// The evaluations that are still to do, of a run that is trained.
    Evaluate,
}

impl Options {
    /// Trains and evaluates the runs that are not finished, one after the other. Returns whether
    /// all of them are finished now, which they are not if a signal set `stop`.
    ///
    /// # Errors
    /// A run cannot be trained or evaluated.
    pub fn execute(&self, plan: &mut Plan, stop: &AtomicBool) -> Result<bool> {
        let stages = [RunStage::Train, RunStage::Evaluate];
        for number in 0..plan.runs.len() {
            if !self.execute_run(plan, number, &stages, stop)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does the given stages of one run of the plan, as far as they are still to do. Returns
    /// `false` if a signal set `stop` before that was finished.
    ///
    /// # Errors
    /// The run cannot be trained, or it is to be evaluated and is not trained.
    pub fn execute_run(
        &self,
        plan: &mut Plan,
        number: usize,
        stages: &[RunStage],
        stop: &AtomicBool,
    ) -> Result<bool> {
        let total = plan.runs.len();
        let run = plan.runs.get_mut(number).with_context(|| {
            format!("--run {number}: the plan has {total} runs, with numbers from 0")
        })?;
        let Some(folder) = run.folder.clone() else {
            return Ok(true);
        };
        let title = format!("run {} of {total}: {}", number + 1, title(run));
        if run.is_done() {
            eprintln!("{title}: finished already");
            return Ok(true);
        }
        match run.finished {
            true => eprintln!("{title}: {} evaluations", run.evaluations.len()),
            false => eprintln!("{title}: {} steps", run.steps),
        }
        let job = self.job(&run.dataset, &run.training, run.seed)?;
        if !run.finished && stages.contains(&RunStage::Train) {
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
        if !stages.contains(&RunStage::Evaluate) {
            return Ok(true);
        }
        if !run.finished {
            bail!("{}: is not trained to its end yet", folder.display());
        }
        evaluate(run, &folder, &job, stop)
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
