//! `ingest synth`: writes a synthetic miniature raw tree.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::Context;
use serde_json::json;
use synth::Tree;
use util::{cli, outln};

use crate::decode::libav;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  ingest synth crema-d
  ingest synth ave --out /tmp/raw --samples 60 --seed 7

The test split of a tree of fewer than 2000 samples has 25 % of the samples instead of the
dataset's own share, because a score on fewer samples would mean little.";

/// Write a synthetic raw tree, a miniature in the layout of a dataset
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// food-101, mm-imdb, kinetics-sound, ave or crema-d
    #[arg(value_name = "DATASET")]
    dataset: String,
    /// Folder for the raw tree [default: data/raw/DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Number of samples [default: enough for several of each class]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print the result and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// The dataset is unknown, the folder holds files that this subcommand did not write, or a file
/// cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let tree = Tree::plan(&args.dataset, args.samples, args.seed)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| util::default_raw(&tree.info().name));
    let complete = tree.is_complete(&out)?;
    if !args.dry_run && !complete {
        // Masks the vector instructions that the user excluded, before any encoder exists.
        libav::init().context("cannot start libav")?;
        tree.prepare(&out)?;
        let progress = Mutex::new(Progress::start("samples", tree.jobs() as u64));
        tree.write_samples(&out, &|| {
            if let Ok(mut progress) = progress.lock() {
                progress.step(String::new);
            }
        })?;
        if let Ok(progress) = progress.lock() {
            progress.finish("");
        }
    }
    if args.json {
        let splits: serde_json::Map<_, _> = tree
            .splits()
            .iter()
            .map(|(name, count)| ((*name).to_owned(), json!(count)))
            .collect();
        return cli::print_json(
            &json!({"out": out, "samples": tree.samples(), "seed": args.seed, "splits": splits}),
        );
    }
    let counts: Vec<String> = tree
        .splits()
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let verb = match (args.dry_run, complete) {
        (_, true) => "already exists",
        (true, _) => "would be written",
        _ => "written",
    };
    outln!(
        "synthetic {} ({}) {verb}: {}",
        tree.info().title,
        counts.join(", "),
        out.display()
    )?;
    if tree.has_enlarged_test_split() {
        outln!(
            "the test split has a quarter of each class, more than in the real dataset, because a score on fewer samples would mean little"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
