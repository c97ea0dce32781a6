//! Submits the work behind a page to Slurm: a job array that trains, one that evaluates each run
//! once it is trained, and a job that writes the page.
//!
//! A task of an array is the run with that number in the plan, which is the same plan in every
//! process. Runs that are finished get no task.

use super::{Options, Plan, PlannedRun};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use util::exit_code::Temporary;

/// The script of all jobs, in the folder of the page. Its argument is the stage.
const SCRIPT_FILE: &str = "jobs.sh";
/// The jobs of the last submission, in the folder of the page.
const JOBS_FILE: &str = "jobs.json";

/// The jobs of one submission.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Submission {
    /// The array that trains, if there is anything to train.
    pub train: Option<Array>,
    /// The arrays that evaluate: of runs that the array above trains, and of runs that are trained
    /// already.
    pub evaluate: Vec<Array>,
    /// The id of the job that writes the page.
    pub page: String,
}

/// A submitted job array.
#[derive(Debug, Serialize, Deserialize)]
pub struct Array {
    /// The id of the job.
    pub id: String,
    /// The numbers of its runs in the plan.
    pub runs: Vec<usize>,
}

impl Submission {
    /// The ids of all jobs.
    fn ids(&self) -> Vec<&str> {
        let arrays = self.train.iter().chain(&self.evaluate);
        let mut ids: Vec<&str> = arrays.map(|array| array.id.as_str()).collect();
        ids.extend(Some(self.page.as_str()).filter(|id| !id.is_empty()));
        ids
    }
}

impl Options {
    /// Submits what is still to do of a plan. `script` is the text of the script of all jobs, which
    /// takes the stage as its argument and finds the number of the run in `SLURM_ARRAY_TASK_ID`.
    ///
    /// # Errors
    /// There is no Slurm, it refuses a job, or jobs of the last submission are still in its queue.
    pub fn submit_to_slurm(&self, plan: &Plan, script: &str) -> Result<Submission> {
        let folder = self.out.join(self.artefact.name());
        fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        refuse_second_submission(&folder.join(JOBS_FILE))?;
        let path = folder.join(SCRIPT_FILE);
        util::atomic::write(&path, script).with_context(|| path.display().to_string())?;
        let queue = Queue {
            script: std::path::absolute(&path)?,
            name: self.artefact.name(),
        };
        let mut submission = Submission::default();
        if let Err(error) = queue.submit(plan, &mut submission) {
            // Jobs without those that follow them are of no use.
            let ids = submission.ids();
            if !ids.is_empty() {
                call("scancel", &ids).ok();
            }
            return Err(error);
        }
        let path = folder.join(JOBS_FILE);
        util::atomic::write(&path, serde_json::to_vec_pretty(&submission)?)
            .with_context(|| path.display().to_string())?;
        Ok(submission)
    }
}

/// Where jobs are submitted, and what they have in common.
struct Queue {
    script: PathBuf,
    name: String,
}

impl Queue {
    fn submit(&self, plan: &Plan, submission: &mut Submission) -> Result<()> {
        let numbers = |wanted: fn(&PlannedRun) -> bool| -> Vec<usize> {
            let runs = plan.runs.iter().enumerate();
            let wanted = runs.filter(|(_, run)| run.folder.is_some() && wanted(run));
            wanted.map(|(number, _)| number).collect()
        };
        submission.train = self.array("train", numbers(|run| !run.finished), None)?;
        if let Some(train) = &submission.train {
            // Each run is evaluated once it is trained, whatever becomes of the others.
            let after = format!("aftercorr:{}", train.id);
            let evaluate = self.array("eval", train.runs.clone(), Some(&after))?;
            submission.evaluate.extend(evaluate);
        }
        let trained = numbers(|run| run.finished && !run.is_done());
        submission
            .evaluate
            .extend(self.array("eval", trained, None)?);
        let after = format!("afterany:{}", submission.ids().join(":"));
        submission.page = self.job("page", &[format!("--dependency={after}")])?;
        Ok(())
    }

    /// Submits a task for each of the runs; none if there are no runs.
    fn array(&self, stage: &str, runs: Vec<usize>, after: Option<&str>) -> Result<Option<Array>> {
        if runs.is_empty() {
            return Ok(None);
        }
        let numbers: Vec<String> = runs.iter().map(ToString::to_string).collect();
        let mut options = vec![format!("--array={}", numbers.join(","))];
        if let Some(after) = after {
            options.push(format!("--dependency={after}"));
            // The evaluation of a run whose training failed would wait for ever.
            options.push("--kill-on-invalid-dep=yes".to_owned());
        }
        let id = self.job(stage, &options)?;
        Ok(Some(Array { id, runs }))
    }

    /// Submits a job and returns its id.
    fn job(&self, stage: &str, options: &[String]) -> Result<String> {
        let mut sbatch = vec![
            "--parsable".to_owned(),
            format!("--job-name={}-{stage}", self.name),
        ];
        sbatch.extend_from_slice(options);
        let script = self.script.to_str();
        sbatch.push(
            script
                .context("the folder of the page is not UTF-8")?
                .into(),
        );
        sbatch.push(stage.to_owned());
        let output = call("sbatch", &sbatch)?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!("sbatch refuses the job {stage}: {}", reason.trim());
        }
        // With several clusters, the name of the cluster follows the id.
        let printed = String::from_utf8_lossy(&output.stdout);
        Ok(printed.trim().split(';').next().unwrap_or_default().into())
    }
}

/// Refuses to submit work that the jobs of the last submission are still to do.
fn refuse_second_submission(jobs: &Path) -> Result<()> {
    let Ok(last) = fs::read(jobs) else {
        return Ok(());
    };
    let last: Submission = serde_json::from_slice(&last).with_context(|| {
        format!(
            "{}: cannot be read; delete it if its jobs have ended",
            jobs.display()
        )
    })?;
    let ids = last.ids();
    let queued = call(
        "squeue",
        &["--noheader", "--format=%i", "--jobs", &ids.join(",")],
    )?;
    // Slurm forgets jobs, and then calls their ids invalid.
    if queued.status.success() && !queued.stdout.trim_ascii().is_empty() {
        return Err(Temporary::error(format!(
            "jobs {} of the last submission are still in the queue; wait for them, or end them with `scancel {}`",
            ids.join(", "),
            ids.join(" ")
        )));
    }
    Ok(())
}

/// Calls one of Slurm's programs.
fn call<S: AsRef<std::ffi::OsStr>>(program: &str, arguments: &[S]) -> Result<Output> {
    let output = Command::new(program).args(arguments).output();
    output.with_context(|| {
        format!("{program}: cannot be started; --cluster slurm needs a machine that can submit jobs to Slurm")
    })
}
