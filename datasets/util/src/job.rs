//! Jobs of a cluster: whether this process runs in one, and which part of the work is its own.
//!
//! | scheduler | part | number of parts |
//! |---|---|---|
//! | Slurm, a task of a job array | `SLURM_ARRAY_TASK_ID` | `SLURM_ARRAY_TASK_COUNT` |
//! | Slurm, a task of `srun` | `SLURM_PROCID` | `SLURM_STEP_NUM_TASKS` |
//! | Kubernetes, a pod of an Indexed Job | `JOB_COMPLETION_INDEX` | `JOB_COMPLETIONS` |
//!
//! Kubernetes does not set `JOB_COMPLETIONS`; the manifest of the Job has to.

use std::fmt;
use std::str::FromStr;

/// The environment variable that says whether this process runs in a job: `1` or `0`. If it is
/// unset or empty, it does if the environment names a part.
pub const VARIABLE: &str = "U2A_JOB";

/// The part of a piece of work that one process does: the items whose number modulo `of` is
/// `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The part's number, from 0.
    pub index: usize,
    /// The number of parts.
    pub of: usize,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let parsed = text
            .split_once('/')
            .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((index, of)) if index < of => Ok(Part { index, of }),
            _ => Err("must be I/N with I from 0 to N-1, such as 0/3".to_owned()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// A part that the environment names, and the variable that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// The part.
    pub part: Part,
    /// The name of the environment variable.
    pub variable: &'static str,
}

/// An environment from which no part can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclear(String);

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unclear {}

/// Returns the part that the environment of this process names, or `None` if it names none.
///
/// # Errors
/// The variables contradict each other, or those of a job array are not those of `0-(N-1)`.
pub fn assigned() -> Result<Option<Assigned>, Unclear> {
    assigned_in(|name| std::env::var(name).ok())
}

/// Whether this process runs in a job, so that a scheduler and not a person reads its exit code.
pub fn is_job() -> bool {
    match std::env::var(VARIABLE).as_deref() {
        Ok("1") => true,
        Ok("0") => false,
        _ => assigned() != Ok(None),
    }
}

/// Refuses a value of [`VARIABLE`] that means nothing. Programs call it when they start.
///
/// # Errors
/// The variable holds another value than `1` and `0`.
pub fn check() -> Result<(), Unclear> {
    match std::env::var_os(VARIABLE).unwrap_or_default().to_str() {
        Some("" | "0" | "1") => Ok(()),
        value => Err(Unclear(format!(
            "the environment variable {VARIABLE} is '{}'; set it to 1 in a job and to 0 elsewhere, or unset it",
            value.unwrap_or("not text")
        ))),
    }
}

/// [`assigned`] with the environment as a function.
fn assigned_in(get: impl Fn(&str) -> Option<String>) -> Result<Option<Assigned>, Unclear> {
    let get = |name: &str| get(name).filter(|value| !value.is_empty());
    let number = |name: &str| {
        get(name)
            .map(|value| {
                value.parse::<usize>().map_err(|_| {
                    Unclear(format!(
                        "the environment variable {name} is '{value}', which is no number; give --part I/N"
                    ))
                })
            })
            .transpose()
    };
    let step = step(get, number)?;
    if get("SLURM_ARRAY_TASK_ID").is_some() {
        if step.is_some_and(|step| step.part.of > 1) {
            return Err(Unclear(
                "several tasks of a step of srun share a task of a job array; give --part I/N"
                    .into(),
            ));
        }
        return array(number).map(Some);
    }
    match (step, number("JOB_COMPLETION_INDEX")?) {
        (Some(step), _) => Ok(Some(step)),
        (None, Some(index)) => indexed_job(index, number("JOB_COMPLETIONS")?).map(Some),
        (None, None) => Ok(None),
    }
}

type Number = Result<Option<usize>, Unclear>;

/// The task of a step of `srun` with several tasks. The script of a batch job has `SLURM_PROCID`
/// too, with the value 0; only a step has `SLURM_STEP_ID`.
fn step(
    get: impl Fn(&str) -> Option<String>,
    number: impl Fn(&str) -> Number,
) -> Result<Option<Assigned>, Unclear> {
    if get("SLURM_STEP_ID").is_none() {
        return Ok(None);
    }
    let of = match number("SLURM_STEP_NUM_TASKS")? {
        None => number("SLURM_NTASKS")?,
        some => some,
    };
    match (number("SLURM_PROCID")?, of) {
        (Some(index), Some(of)) if of > 1 => part("SLURM_PROCID", index, of).map(Some),
        _ => Ok(None),
    }
}

/// The task of a job array, whose indices have to be 0 to N-1.
fn array(number: impl Fn(&str) -> Number) -> Result<Assigned, Unclear> {
    let name = "SLURM_ARRAY_TASK_ID";
    let (index, count) = (number(name)?, number("SLURM_ARRAY_TASK_COUNT")?);
    let (first, last) = (
        number("SLURM_ARRAY_TASK_MIN")?,
        number("SLURM_ARRAY_TASK_MAX")?,
    );
    match (index, count, first, last) {
        // One task alone is the whole, whatever its index.
        (Some(_), Some(1), _, _) => part(name, 0, 1),
        (Some(index), Some(of), Some(0), Some(last)) if last + 1 == of => part(name, index, of),
        _ => {
            let shown = |value: Option<usize>| value.map_or("?".to_owned(), |n| n.to_string());
            Err(Unclear(format!(
                "this job array has {} tasks from {} to {}, and parts are taken only from --array=0-(N-1); \
                 give --part I/N",
                shown(count),
                shown(first),
                shown(last)
            )))
        }
    }
}

/// The pod of an Indexed Job.
fn indexed_job(index: usize, completions: Option<usize>) -> Result<Assigned, Unclear> {
    let name = "JOB_COMPLETION_INDEX";
    match completions {
        Some(of) => part(name, index, of),
        None => Err(Unclear(format!(
            "{name} is {index}, and nothing says of how many; set JOB_COMPLETIONS to the completions of the Job, \
             or give --part I/N"
        ))),
    }
}

fn part(variable: &'static str, index: usize, of: usize) -> Result<Assigned, Unclear> {
    if index < of {
        let part = Part { index, of };
        Ok(Assigned { part, variable })
    } else {
        Err(Unclear(format!(
            "{variable} is {index}, and there are {of} parts from 0 on; give --part I/N"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part or the error for an environment such as `A=1 B=2`.
    fn of(environment: &str) -> Result<Option<(usize, usize)>, String> {
        let get = |name: &str| {
            let mut pairs = environment
                .split(' ')
                .filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let found = assigned_in(get).map_err(|error| error.to_string())?;
        Ok(found.map(|assigned| (assigned.part.index, assigned.part.of)))
    }

    /// The variables as Slurm 22.05 sets them, with irrelevant ones left out.
    #[test]
    fn parts_are_those_of_the_scheduler() {
        let array = "SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3 \
                     SLURM_ARRAY_TASK_STEP=1 SLURM_PROCID=0 SLURM_NTASKS=1";
        let step = "SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8";
        let one_task = "SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_STEP_NUM_TASKS=1";
        assert_eq!(of(""), Ok(None));
        assert_eq!(of(array), Ok(Some((2, 4))));
        assert_eq!(of(&format!("{array} {one_task}")), Ok(Some((2, 4))));
        assert_eq!(of(step), Ok(Some((5, 8))));
        // A batch script of a job of 8 tasks, and a step of one.
        assert_eq!(of("SLURM_PROCID=0 SLURM_NTASKS=8"), Ok(None));
        assert_eq!(of(one_task), Ok(None));
        let pod = "JOB_COMPLETION_INDEX=3 JOB_COMPLETIONS=64";
        assert_eq!(of(pod), Ok(Some((3, 64))));
        let alone = "SLURM_ARRAY_TASK_ID=4 SLURM_ARRAY_TASK_COUNT=1 SLURM_ARRAY_TASK_MIN=4 SLURM_ARRAY_TASK_MAX=4";
        assert_eq!(of(alone), Ok(Some((0, 1))));
    }

    #[test]
    fn unclear_environments_are_refused_with_the_remedy() {
        let array = |id: usize, count: usize, first: usize, last: usize| {
            format!(
                "SLURM_ARRAY_TASK_ID={id} SLURM_ARRAY_TASK_COUNT={count} SLURM_ARRAY_TASK_MIN={first} SLURM_ARRAY_TASK_MAX={last}"
            )
        };
        for environment in [
            array(3, 2, 3, 5),
            array(1, 4, 1, 7),
            array(2, 4, 2, 5),
            array(0, 2, 0, 4),
            "SLURM_ARRAY_TASK_ID=2".to_owned(),
            "SLURM_ARRAY_TASK_ID=two".to_owned(),
            format!(
                "{} SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=2",
                array(0, 2, 0, 1)
            ),
            "SLURM_STEP_ID=0 SLURM_PROCID=9 SLURM_NTASKS=2".to_owned(),
            "JOB_COMPLETION_INDEX=3".to_owned(),
            "JOB_COMPLETION_INDEX=3 JOB_COMPLETIONS=3".to_owned(),
        ] {
            let error = of(&environment).unwrap_err();
            assert!(error.contains("--part"), "{environment}: {error}");
        }
    }

    #[test]
    fn part_is_written_as_a_fraction() {
        assert_eq!("0/3".parse(), Ok(Part { index: 0, of: 3 }));
        for wrong in ["3/3", "1", "a/2", "-1/2", ""] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }
}
