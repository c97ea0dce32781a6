//! Scripts for Slurm.

use std::path::Path;

use anyhow::{Context, bail};

use super::{DEFAULT_CPUS, JobArray, RETRIES, command_line, fill, quote};

const ARRAY: &str = include_str!("slurm_array.sh");
const JOB: &str = include_str!("slurm_job.sh");
const ATTEMPT: &str = include_str!("slurm_attempt.sh");

/// The options of a script for Slurm.
#[derive(clap::Args, Debug, Clone)]
pub struct SlurmOptions {
    /// Cores of each task
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CPUS, value_parser = clap::value_parser!(u16).range(1..))]
    pub cpus: u16,
    /// Further options of sbatch, such as --sbatch=--partition=long; may be repeated
    #[arg(long, value_name = "OPTION")]
    pub sbatch: Vec<String>,
}

/// Returns the script of a job array. `sbatch` takes it as it is; run by a shell it submits the
/// array and the finishing job, and prints the id of the latter.
///
/// # Errors
/// An option has a line break, or there is no current folder.
pub fn array(options: &SlurmOptions, array: &JobArray) -> anyhow::Result<String> {
    let mut values = common(options, &array.name, &array.title)?;
    values.extend([
        ("PARTS", array.parts.to_string()),
        ("LAST", (array.parts - 1).to_string()),
        ("PART", command_line(&array.part)),
        ("FINISH", command_line(&array.finish)),
    ]);
    Ok(fill(ARRAY, &values))
}

/// Returns the script of a job that is no array. `body` is shell code that calls the shell function
/// `attempt` with the command to run.
///
/// # Errors
/// An option has a line break, or there is no current folder.
pub fn job(
    options: &SlurmOptions,
    name: &str,
    title: &str,
    body: String,
) -> anyhow::Result<String> {
    let mut values = common(options, name, title)?;
    values.push(("BODY", body));
    Ok(fill(JOB, &values))
}

fn common(
    options: &SlurmOptions,
    name: &str,
    title: &str,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut lines = Vec::new();
    for option in &options.sbatch {
        if !option.starts_with('-') || option.contains(['\n', '\r']) {
            bail!("--sbatch {option:?}: is no option of sbatch; write --sbatch=--partition=NAME");
        }
        lines.push(format!("#SBATCH {option}"));
    }
    let folder = std::env::current_dir().context("the current folder")?;
    let attempt = fill(ATTEMPT, &[("RETRIES", RETRIES.to_string())]);
    Ok(vec![
        ("NAME", name.to_owned()),
        ("TITLE", title.to_owned()),
        ("CPUS", options.cpus.to_string()),
        ("OPTIONS", lines.join("\n")),
        ("ATTEMPT", attempt.trim_end().to_owned()),
        ("FOLDER", quote(utf8(&folder)?)),
        ("DATA", exported_data()),
    ])
}

/// The line that gives the job the data folder of this process, if that is not the default.
fn exported_data() -> String {
    match std::env::var(crate::DATA_VARIABLE) {
        Ok(value) if !value.is_empty() => {
            format!("export {}={}", crate::DATA_VARIABLE, quote(&value))
        }
        _ => String::new(),
    }
}

fn utf8(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{}: is not UTF-8; rename the folder", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::ODD;
    use super::*;
    use std::process::Command;

    fn options() -> SlurmOptions {
        SlurmOptions {
            cpus: 2,
            sbatch: vec!["--partition=long".into()],
        }
    }

    /// What the script of a task prints if its command is `printf` with odd words.
    #[test]
    fn commands_get_odd_words_as_they_were() {
        let mut words: Vec<String> = ["printf", r"%s\0"].map(str::to_owned).into();
        words.extend(ODD.map(str::to_owned));
        let script = array(
            &options(),
            &JobArray {
                name: "ingest-x".into(),
                title: "Ingests x".into(),
                parts: 8,
                part: words.to_vec(),
                finish: vec!["false".to_owned()],
            },
        )
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.sh");
        std::fs::write(&path, script).unwrap();
        let mut task = Command::new("sh");
        task.arg(&path).env("SLURM_ARRAY_TASK_ID", "1");
        task.env("SLURM_ARRAY_JOB_ID", "7");
        let output = task.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.split_terminator('\0').collect::<Vec<_>>(), ODD);
    }

    #[test]
    fn options_stand_before_the_first_command() {
        let script = job(&options(), "train-x", "Trains x", "attempt true".into()).unwrap();
        let mut lines = script.lines();
        assert_eq!(lines.next(), Some("#!/bin/sh"));
        let head: Vec<&str> = lines.take_while(|line| line.starts_with('#')).collect();
        for option in ["--partition=long", "--cpus-per-task=2", "--requeue"] {
            assert!(head.contains(&&*format!("#SBATCH {option}")), "{head:?}");
        }
        assert!(!script.contains("{{"), "{script}");
        let mut wrong = options();
        wrong.sbatch.push("--time=1\nrm -r x".into());
        assert!(job(&wrong, "x", "x", String::new()).is_err());
    }
}
