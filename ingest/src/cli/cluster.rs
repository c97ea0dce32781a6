//! `ingest cluster`: prints what makes a cluster ingest a dataset as an array of parts.

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use util::cluster::kubernetes::{self, KubernetesOptions};
use util::cluster::slurm::{self, SlurmOptions};
use util::cluster::{self, JobArray, Keep};
use util::outln;

use super::run;
use crate::source;

const EXAMPLES: &str = "\
Examples:
  ingest cluster slurm crema-d --raw /data/CREMA-D --parts 8 > ingest.sh
  sh ingest.sh
  ingest cluster k8s crema-d --parts 8 --image registry/u2a --volume data | kubectl apply -f -";

const SLURM_EXAMPLES: &str = "\
Examples:
  ingest cluster slurm crema-d --raw /data/CREMA-D --parts 8 > ingest.sh
  sh ingest.sh                                     # submits the array and the finishing job
  ingest cluster slurm ave --cpus 16 --sbatch=--partition=long --sbatch=--time=08:00:00

Paths are those of the current folder, and the program is this one: both have to exist on the nodes.";

const K8S_EXAMPLES: &str = "\
Examples:
  ingest cluster k8s crema-d --parts 8 --image registry/u2a --volume data > ingest.yaml
  kubectl apply -f ingest.yaml                     # its first lines say how to finish

Paths are those in the container.";

/// Print a job array that ingests a dataset: a script for Slurm, or a manifest for Kubernetes
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = false)]
pub struct Args {
    #[command(subcommand)]
    scheduler: Scheduler,
}

#[derive(Subcommand, Debug)]
enum Scheduler {
    /// Print a script for sbatch, with further flags of `ingest run`
    #[command(after_help = SLURM_EXAMPLES)]
    Slurm(Box<ForSlurm>),
    /// Print a manifest for kubectl, with further flags of `ingest run`
    #[command(after_help = K8S_EXAMPLES)]
    K8s(Box<ForKubernetes>),
}

/// The number of parts, and how a part is named.
#[derive(clap::Args, Debug)]
struct Parts {
    /// Number of parts, each a task of the array
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    parts: u16,
}

#[derive(clap::Args, Debug)]
struct ForSlurm {
    #[command(flatten)]
    parts: Parts,
    #[command(flatten)]
    options: SlurmOptions,
    #[command(flatten)]
    run: run::Args,
}

#[derive(clap::Args, Debug)]
struct ForKubernetes {
    #[command(flatten)]
    parts: Parts,
    #[command(flatten)]
    options: KubernetesOptions,
    #[command(flatten)]
    run: run::Args,
}

/// Runs the subcommand.
///
/// # Errors
/// A flag makes no sense for parts, or a path cannot be written into a script.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = match &args.scheduler {
        Scheduler::Slurm(args) => for_slurm(args)?,
        Scheduler::K8s(args) => for_kubernetes(args)?,
    };
    outln!("{}", text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn for_slurm(args: &ForSlurm) -> anyhow::Result<String> {
    // Before a job waits for nodes only to fail.
    source::open(&args.run.source)?;
    let own = own_flags::<SlurmOptions>();
    let program = std::env::current_exe()?;
    let Some(program) = program.to_str() else {
        bail!("{}: is not UTF-8; move this program", program.display());
    };
    let typed = typed::<ForSlurm>(&own)?;
    let array = job_array(&args.parts, program, typed, &args.run, args.options.cpus)?;
    slurm::array(&args.options, &array)
}

fn for_kubernetes(args: &ForKubernetes) -> anyhow::Result<String> {
    // A description lies in the container.
    if !args.run.source.dataset.ends_with(".toml") {
        source::open(&args.run.source)?;
    }
    let own = own_flags::<KubernetesOptions>();
    let typed = typed::<ForKubernetes>(&own)?;
    let array = job_array(&args.parts, "ingest", typed, &args.run, args.options.cpus)?;
    Ok(kubernetes::array(&args.options, &array))
}

/// The flags that are not those of `ingest run`.
fn own_flags<Options: clap::Args>() -> Vec<String> {
    let mut flags = cluster::flags::<Parts>();
    flags.extend(cluster::flags::<Options>());
    flags
}

/// What was typed for `ingest run`.
fn typed<A: clap::Args>(own: &[String]) -> anyhow::Result<Vec<String>> {
    let definition = cluster::definition::<A>();
    let words = cluster::typed_words(3)?;
    Ok(cluster::select(&words, &definition, Keep::AllBut(own)))
}

/// The array of parts that run `program run TYPED`. A part starts as many decode workers as its task
/// has cores, if nothing else was typed.
fn job_array(
    parts: &Parts,
    program: &str,
    typed: Vec<String>,
    args: &run::Args,
    cpus: u16,
) -> anyhow::Result<JobArray> {
    let (finish, overwrite) = (args.finish, args.overwrite);
    for (flag, is_given) in [("--part", args.part.is_some()), ("--finish", finish)] {
        if is_given {
            bail!(
                "{flag}: the scheduler numbers the parts, and a job of its own finishes; omit this flag"
            );
        }
    }
    if overwrite {
        bail!(
            "--overwrite: a part would remove the shards of the others; remove the output folder first"
        );
    }
    let dataset = &args.source.dataset;
    let mut part = vec![program.to_owned(), "run".to_owned()];
    part.extend(typed);
    let mut finish = part.clone();
    finish.push("--finish".to_owned());
    if args.workers.is_none() {
        part.extend(["--workers".to_owned(), cpus.to_string()]);
    }
    Ok(JobArray {
        name: cluster::job_name("ingest", dataset),
        title: format!("Ingests {}", cluster::one_line(dataset)),
        parts: parts.parts,
        part,
        finish,
    })
}
