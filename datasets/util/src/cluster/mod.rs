//! Scripts and manifests for clusters: what `ingest cluster` and `train cluster` print.
//!
//! The user runs the scheduler; nothing here talks to one. The texts are the template files beside
//! this module, with `{{NAME}}` in the places that differ. They act on the exit codes of
//! [`exit_code`](crate::exit_code): 0, 1 and 42 are final, after 75 the job goes back into the queue,
//! and after any other code it is repeated a limited number of times.

pub mod kubernetes;
pub mod slurm;

use std::ffi::OsString;

use anyhow::bail;

/// How often a job is repeated after an error that may be gone then. Being stopped by a signal does
/// not count on Kubernetes; Slurm counts every restart.
const RETRIES: u32 = 5;

/// The number of cores of each task, with the value that both schedulers get by default.
const DEFAULT_CPUS: u16 = 4;

/// An array of tasks that each do one part, and a job that finishes when all of them are done.
#[derive(Debug)]
pub struct JobArray {
    /// The name of the job, as [`job_name`] returns it.
    pub name: String,
    /// What the jobs do, in a few words, without a line break.
    pub title: String,
    /// The number of tasks.
    pub parts: u16,
    /// The command of each task, which knows its part from the environment.
    pub part: Vec<String>,
    /// The command of the finishing job.
    pub finish: Vec<String>,
}

/// Returns a word as the shell reads it: unchanged, or in quotes if a character of it means
/// something to the shell.
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+,-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns a command as the shell reads it.
pub fn command_line<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| quote(word)).collect();
    quoted.join(" ")
}

/// Returns a name that Slurm and Kubernetes take for a job: a verb and a dataset, of whose path only
/// the name of the file counts.
pub fn job_name(verb: &str, dataset: &str) -> String {
    /// Kubernetes appends the number of the pod, and a suffix is added here; names have at most 63
    /// characters.
    const LONGEST: usize = 40;
    let file = dataset.rsplit('/').next().unwrap_or_default();
    let stem = file.strip_suffix(".toml").unwrap_or(file);
    let name: String = format!("{verb}-{stem}")
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => c,
            _ => '-',
        })
        .take(LONGEST)
        .collect();
    name.trim_matches('-').to_owned()
}

/// Returns a text for a comment: on one line.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Which of the flags on a command line to keep.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// All but these, which are written without `--`.
    AllBut(&'a [String]),
    /// Words that belong to no flag, and these flags.
    Only(&'a [String]),
}

/// Returns those words of a command line that are to be kept, as they were typed. `command` has read
/// them without an error.
pub fn select(words: &[String], command: &clap::Command, keep: Keep) -> Vec<String> {
    let is_kept = |name: &str| match keep {
        Keep::AllBut(names) => !names.iter().any(|one| one == name),
        Keep::Only(names) => names.iter().any(|one| one == name),
    };
    let takes_value = |name: &str| {
        let mut arguments = command.get_arguments();
        let argument = arguments.find(|argument| argument.get_long() == Some(name));
        argument.is_some_and(|argument| argument.get_action().takes_values())
    };
    let mut selected = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty()) else {
            selected.push(word.clone());
            continue;
        };
        let name = flag.split('=').next().unwrap_or(flag);
        let value = (!flag.contains('=') && takes_value(name)).then(|| words.next());
        if is_kept(name) {
            selected.push(word.clone());
            selected.extend(value.flatten().cloned());
        }
    }
    selected
}

/// The words of this process's command line after the first `skip` ones, of which the program is
/// one: 3 for `PROGRAM cluster SCHEDULER`.
///
/// # Errors
/// A word is not UTF-8, which a manifest cannot hold.
pub fn typed_words(skip: usize) -> anyhow::Result<Vec<String>> {
    let words = std::env::args_os().skip(skip).map(OsString::into_string);
    words
        .map(|word| word.or_else(|word| bail!("{}: is not UTF-8; rename the file", word.display())))
        .collect()
}

/// Returns a command with the arguments of `A`, for [`select`].
pub fn definition<A: clap::Args>() -> clap::Command {
    A::augment_args(clap::Command::new(""))
}

/// Returns the names of the flags of `A`, without `--`.
pub fn flags<A: clap::Args>() -> Vec<String> {
    let command = definition::<A>();
    let names = command.get_arguments().filter_map(clap::Arg::get_long);
    names.map(str::to_owned).collect()
}

/// Fills in a template: `{{NAME}}` becomes its value, in which no name is looked for. A line that
/// consists of a name with an empty value is left out.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut filled = String::new();
    for line in template.lines() {
        let mut text = String::new();
        let mut rest = line;
        while let Some((before, name, after)) = next_name(rest) {
            text += before;
            let value = values.iter().find(|(one, _)| *one == name);
            text += value.map_or("", |(_, value)| value);
            rest = after;
        }
        text += rest;
        let is_left_out = text.trim().is_empty() && !line.trim().is_empty();
        if !is_left_out {
            filled += &text;
            filled.push('\n');
        }
    }
    filled
}

/// Splits a line at the first `{{NAME}}`.
fn next_name(line: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = line.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    Some((before, name, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Words that a shell, a comment or a template could misread.
    pub(super) const ODD: [&str; 7] = [
        "a b",
        "it's",
        "$HOME `id`",
        "\"quoted\"\\",
        "",
        "two\nlines",
        "{{NAME}} # {{COMMAND}}",
    ];

    #[test]
    fn the_shell_reads_quoted_words_as_they_were() {
        let words = ODD.map(str::to_owned);
        let script = format!("printf '%s\\0' {}", command_line(&words));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        let read: Vec<&str> = read.split_terminator('\0').collect();
        assert_eq!(read, ODD);
        assert_eq!(quote("/data/CREMA-D"), "/data/CREMA-D");
    }

    #[test]
    fn names_of_jobs_are_labels_of_kubernetes() {
        assert_eq!(job_name("ingest", "crema-d"), "ingest-crema-d");
        assert_eq!(
            job_name("train", "../My data/Clips 2.toml"),
            "train-clips-2"
        );
        let long = job_name("ingest", &"x".repeat(99));
        assert!(long.len() == 40, "{long}");
        assert_eq!(job_name("ingest", "ü.toml"), "ingest");
    }

    #[derive(clap::Args)]
    struct Own {
        #[arg(long)]
        parts: u16,
    }

    #[derive(clap::Args)]
    struct All {
        #[command(flatten)]
        own: Own,
        #[arg(long)]
        raw: String,
        #[arg(long)]
        update: bool,
        dataset: String,
    }

    #[test]
    fn flags_are_selected_with_their_values() {
        let command = definition::<All>();
        let own = flags::<Own>();
        let typed = ["--parts", "8", "x.toml", "--raw", "a b", "--update"].map(str::to_owned);
        let rest = select(&typed, &command, Keep::AllBut(&own));
        assert_eq!(rest, ["x.toml", "--raw", "a b", "--update"]);
        let joined = ["--parts=8", "--update", "x.toml", "--raw=a=b"].map(str::to_owned);
        let rest = select(&joined, &command, Keep::AllBut(&own));
        assert_eq!(rest, ["--update", "x.toml", "--raw=a=b"]);
        let raw = ["raw".to_owned()];
        let rest = select(&joined, &command, Keep::Only(&raw));
        assert_eq!(rest, ["x.toml", "--raw=a=b"]);
    }

    #[test]
    fn lines_without_a_value_are_left_out() {
        let values = [("A", "1".to_owned()), ("B", String::new())];
        assert_eq!(fill("x {{A}}\n{{B}}\n\ny\n", &values), "x 1\n\ny\n");
        let nested = [("A", "{{B}}".to_owned()), ("B", "2".to_owned())];
        assert_eq!(fill("{{A}} {{B}}", &nested), "{{B}} 2\n");
    }
}
