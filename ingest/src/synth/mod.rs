//! `ingest synth`: a miniature raw tree in exactly a dataset's own layout, for demos and tests.
//!
//! Real containers and codecs, real annotation grammar with the dirt that the real files have, made-up contents. Both
//! modalities carry the class, neither carries all of it: see [`deal::Cue`]. What is made is a function of dataset, number
//! of samples and seed. At most one sample in a hundred lacks a modality, so that ingest's budget for failures holds.
//!
//! A folder is only ever written into when it is empty or was made by this command before: it may be somebody's data.

mod ave;
mod canvas;
mod crema_d;
mod deal;
mod encode;
mod food_101;
mod kinetics_sound;
mod mm_imdb;
mod picture;
mod scene;
mod sound;
mod still;
mod youtube;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use datasets::Info;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::progress::Progress;
use crate::source;
use util::{cli, outln};

/// Tells a folder that may be replaced from one that may not.
const MARKER: &str = "synth.json";

const EXAMPLE: &str = "\
Examples:
  ingest synth crema-d
  ingest synth ave --out /tmp/raw --samples 60 --seed 7

A tree of fewer than 2000 samples gets a test split of 25 % instead of the dataset's own share,
so that a score on it means something.";

/// A miniature raw tree in a dataset's own layout
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// food-101, mm-imdb, kinetics-sound, ave or crema-d
    #[arg(value_name = "DATASET")]
    dataset: String,
    /// Folder to make the tree in [default: data/raw/DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How many samples [default: enough for several of each class]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// What all randomness comes from
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Say what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// What stands in the marker file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Marker {
    about: String,
    version: String,
    dataset: String,
    samples: usize,
    seed: u64,
    complete: bool,
}

/// A dataset that can be synthesised: text files at once, and one job per sample.
struct Tree {
    /// Folders to make, below the root.
    folders: Vec<String>,
    /// Path and contents.
    texts: Vec<(String, String)>,
    /// Samples per split, for people.
    counts: Vec<(&'static str, usize)>,
    /// Each makes the media of one sample, or of one file.
    jobs: Vec<Job>,
}

type Job = Box<dyn Fn(&Path) -> anyhow::Result<()> + Send + Sync>;

/// Plans a tree of so many samples from a seed.
type Maker = fn(&Info, usize, u64) -> anyhow::Result<Tree>;

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Names the choices where there is no such dataset.
    let info = datasets::open(&args.dataset)?.info().clone();
    let (by_default, tree): (usize, Maker) = match info.name.as_str() {
        "food-101" => (505, food_101::tree),
        "mm-imdb" => (300, mm_imdb::tree),
        "kinetics-sound" => (248, kinetics_sound::tree),
        "ave" => (224, ave::tree),
        "crema-d" => (300, crema_d::tree),
        other => bail!(
            "{other} cannot be synthesised; choose one of food-101, mm-imdb, kinetics-sound, ave, crema-d"
        ),
    };
    let samples = args.samples.unwrap_or(by_default);
    let tree = tree(&info, samples, args.seed)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| source::default_raw(&info.name));
    let marker = |complete| Marker {
        about: "synthetic: made by `ingest synth`, which may replace this folder".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dataset: info.name.clone(),
        samples,
        seed: args.seed,
        complete,
    };
    let there = look(&out)?;
    let done = there.as_ref() == Some(&marker(true));
    if !args.dry_run && !done {
        if there.is_some() {
            fs::remove_dir_all(&out).with_context(|| out.display().to_string())?;
        }
        fs::create_dir_all(&out).with_context(|| {
            format!(
                "{}: cannot create this folder; choose another --out",
                out.display()
            )
        })?;
        write(
            &out.join(MARKER),
            &serde_json::to_string_pretty(&marker(false))?,
        )?;
        make(&tree, &out)?;
        write(
            &out.join(MARKER),
            &serde_json::to_string_pretty(&marker(true))?,
        )?;
    }
    if args.json {
        let splits: serde_json::Map<_, _> = tree
            .counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), json!(count)))
            .collect();
        return cli::print_json(
            &json!({"out": out, "samples": samples, "seed": args.seed, "splits": splits}),
        );
    }
    let counts: Vec<String> = tree
        .counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let verb = match (args.dry_run, done) {
        (_, true) => "is there already",
        (true, _) => "would be made",
        _ => "made",
    };
    outln!(
        "synthetic {} ({}) {verb}: {}",
        info.title,
        counts.join(", "),
        out.display()
    )?;
    if samples < deal::LARGE {
        outln!(
            "a quarter of each class is for testing, more than in the real dataset, so that a score means something"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The marker of a folder that this command made; `None` where there is nothing. Anything else is an error.
fn look(out: &Path) -> anyhow::Result<Option<Marker>> {
    let mut entries = match fs::read_dir(out) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(|| out.display().to_string())?,
    };
    if entries.next().is_none() {
        return Ok(None);
    }
    let marker = fs::read(out.join(MARKER))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if marker.is_none() {
        bail!(
            "{}: holds files that `synth` did not make; choose another --out",
            out.display()
        );
    }
    Ok(marker)
}

fn make(tree: &Tree, out: &Path) -> anyhow::Result<()> {
    crate::decode::libav::init().context("cannot start libav")?;
    for folder in &tree.folders {
        fs::create_dir_all(out.join(folder))
            .with_context(|| out.join(folder).display().to_string())?;
    }
    for (path, text) in &tree.texts {
        write(&out.join(path), text)?;
    }
    let progress = Mutex::new(Progress::start("samples", tree.jobs.len() as u64));
    let next = AtomicUsize::new(0);
    let work = || -> anyhow::Result<()> {
        while let Some(job) = tree.jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            job(out)?;
            if let Ok(mut progress) = progress.lock() {
                progress.step(String::new);
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join = |handle: std::thread::ScopedJoinHandle<_>| match handle.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a thread of synth broke down"),
        };
        handles.into_iter().try_for_each(join)
    })?;
    if let Ok(progress) = progress.lock() {
        progress.finish("");
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(look(folder.path()).unwrap().is_none());
        fs::write(folder.path().join("precious.mp4"), "x").unwrap();
        assert!(
            look(folder.path())
                .unwrap_err()
                .to_string()
                .contains("choose another --out")
        );
    }
}
