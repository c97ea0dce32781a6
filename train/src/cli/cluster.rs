//! `train cluster`: prints what makes a cluster train a run, and continue it after every
//! interruption.

use super::run::{RunArgs, default_out};
use super::shared::dataset_name;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use report::CONFIG_FILE;
use std::path::Path;
use std::process::ExitCode;
use util::cluster::kubernetes::{self, KubernetesOptions};
use util::cluster::slurm::{self, SlurmOptions};
use util::cluster::{self, Keep};
use util::outln;

const EXAMPLES: &str = "\
Examples:
  train cluster slurm crema-d --out runs/first > train.sh
  sbatch train.sh
  train cluster k8s crema-d --image registry/u2a --volume data --gpus 1 | kubectl apply -f -";

const SLURM_EXAMPLES: &str = "\
Examples:
  train cluster slurm crema-d --out runs/first > train.sh
  sbatch train.sh
  train cluster slurm ave --sbatch=--gres=gpu:1 --sbatch=--time=08:00:00 --epochs 20

Paths are those of the current folder, and the program is this one: both have to exist on the nodes.";

const K8S_EXAMPLES: &str = "\
Examples:
  train cluster k8s crema-d --image registry/u2a --volume data --gpus 1 > train.yaml
  kubectl apply -f train.yaml

Paths are those in the container.";

/// The flags that a run takes when it is continued.
const RESUME_FLAGS: [&str; 8] = [
    "shards",
    "device",
    "no-verify",
    "threads",
    "loader-threads",
    "json",
    "max-steps",
    "dry-run",
];

/// Print a job that trains a run: a script for Slurm, or a manifest for Kubernetes
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ClusterArgs {
    #[command(subcommand)]
    scheduler: Scheduler,
}

#[derive(Subcommand)]
enum Scheduler {
    /// Print a script for sbatch, with further flags of `train run`
    #[command(after_help = SLURM_EXAMPLES)]
    Slurm(Box<ForSlurm>),
    /// Print a manifest for kubectl, with further flags of `train run`
    #[command(after_help = K8S_EXAMPLES)]
    K8s(Box<ForKubernetes>),
}

#[derive(Args)]
struct ForSlurm {
    #[command(flatten)]
    options: SlurmOptions,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
struct ForKubernetes {
    #[command(flatten)]
    options: KubernetesOptions,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs the subcommand.
pub fn run(args: &ClusterArgs) -> Result<ExitCode> {
    let text = match &args.scheduler {
        Scheduler::Slurm(args) => for_slurm(args)?,
        Scheduler::K8s(args) => for_kubernetes(args)?,
    };
    outln!("{}", text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn for_slurm(args: &ForSlurm) -> Result<String> {
    let program = std::env::current_exe()?;
    let program = program.to_str();
    let program = program.context("the path of this program is not UTF-8; move it")?;
    let name = dataset_name(&args.run.dataset)?;
    let out = default_out(&name);
    let commands = Commands::new::<ForSlurm, SlurmOptions>(
        &[program, "run"],
        &args.run,
        &out,
        args.options.cpus,
    )?;
    let body = format!(
        "if [ -e {} ]; then\n    attempt {}\nelse\n    attempt {}\nfi",
        cluster::quote(&commands.config),
        cluster::command_line(&commands.resume),
        cluster::command_line(&commands.start),
    );
    slurm::job(&args.options, &commands.name, &commands.title, body)
}

fn for_kubernetes(args: &ForKubernetes) -> Result<String> {
    // The file that describes a dataset lies in the container.
    let name = cluster::job_name("", &args.run.dataset);
    let out = Path::new(&args.options.mount).join(default_out(&name));
    let commands = Commands::new::<ForKubernetes, KubernetesOptions>(
        &["train", "run"],
        &args.run,
        &out,
        args.options.cpus,
    )?;
    // The shell is replaced, so that the program gets the pod's signals.
    let script = format!(
        "if [ -e {} ]; then exec {}; else exec {}; fi",
        cluster::quote(&commands.config),
        cluster::command_line(&commands.resume),
        cluster::command_line(&commands.start),
    );
    let command = ["/bin/sh".to_owned(), "-c".to_owned(), script];
    Ok(kubernetes::job(
        &args.options,
        &commands.name,
        &commands.title,
        &command,
    ))
}

/// The commands that begin a run and continue it.
struct Commands {
    name: String,
    title: String,
    /// The file that a run folder has once the run has begun.
    config: String,
    start: Vec<String>,
    resume: Vec<String>,
}

impl Commands {
    /// The commands of `program` with what was typed for the arguments `A`, without the flags of
    /// `Options`. The run folder is `out` if none was typed.
    fn new<A: Args, Options: Args>(
        program: &[&str],
        args: &RunArgs,
        out: &Path,
        cpus: u16,
    ) -> Result<Commands> {
        if args.describe {
            bail!("--describe: a job has nobody who reads it; call `train run` with it");
        }
        let run = args.resume.as_deref().or(args.out.as_deref());
        let run = run.unwrap_or(out).to_str();
        let run = run.context("--out: is not UTF-8; choose another folder")?;
        let (typed, definition) = (cluster::typed_words(3)?, cluster::definition::<A>());
        let mut left_out = cluster::flags::<Options>();
        left_out.extend(["out", "resume"].map(str::to_owned));
        let start = cluster::select(&typed, &definition, Keep::AllBut(&left_out));
        let resume_flags = RESUME_FLAGS.map(str::to_owned);
        let resume = cluster::select(&typed, &definition, Keep::Only(&resume_flags));
        let threads = args
            .threads
            .is_none()
            .then(|| ["--threads".to_owned(), cpus.to_string()]);
        let command = |typed: Vec<String>, flag: &str| {
            let mut words: Vec<String> = program.iter().map(|&word| word.to_owned()).collect();
            words.extend(typed);
            words.extend([flag.to_owned(), run.to_owned()]);
            words.extend(threads.iter().flatten().cloned());
            words
        };
        let dataset = &args.dataset;
        let resume = command(resume, "--resume");
        let start = match args.resume {
            Some(_) => resume.clone(),
            None => command(start, "--out"),
        };
        Ok(Commands {
            name: cluster::job_name("train", dataset),
            title: format!("Trains on {}", cluster::one_line(dataset)),
            config: format!("{run}/{CONFIG_FILE}"),
            start,
            resume,
        })
    }
}
