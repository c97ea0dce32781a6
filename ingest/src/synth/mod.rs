//! `ingest synth`: a miniature raw tree in exactly a dataset's own layout, for demos and tests.
//!
//! Real containers and codecs, real annotation grammar, made-up contents. Both modalities carry the class, neither carries
//! all of it: see [`Cue`]. What is made is a function of dataset, number of samples and seed.
//!
//! A folder is only ever written into when it is empty or was made by this command before: it may be somebody's data.

mod crema_d;
mod encode;
mod scene;
mod sound;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use features::rng::Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::output::{self, outln};
use crate::progress::Progress;
use crate::source;

/// Samples made by default: a demo's worth.
const DEFAULT_SAMPLES: usize = 300;

/// Tells a folder that may be replaced from one that may not.
const MARKER: &str = "synth.json";

/// From here on a tree is large enough for the real dataset's share of test samples.
const LARGE: usize = 2000;

const EXAMPLE: &str = "\
Examples:
  ingest synth crema-d
  ingest synth crema-d --out /tmp/raw --samples 60 --seed 7

A tree of fewer than 2000 samples gets a test split of 25 % instead of the dataset's own share,
so that a score on it means something.";

/// A miniature raw tree in a dataset's own layout
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// crema-d
    #[arg(value_name = "DATASET")]
    dataset: String,
    /// Folder to make the tree in [default: data/raw/DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How many samples
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SAMPLES)]
    samples: usize,
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

/// Which modalities of a sample show its class. The other one then shows something that goes with every class alike, so
/// that two modalities can tell every sample and one alone three quarters of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cue {
    /// Both do.
    Both,
    /// Only the first (m1: audio, or the image).
    First,
    /// Only the second (m2: video, or the text).
    Second,
}

impl Cue {
    /// Shares of `Both` and of `First`; `Second` has the rest.
    const SHARES: (f64, f64) = (0.4, 0.3);

    /// Whether the first modality shows the class.
    pub fn in_first(self) -> bool {
        self != Cue::Second
    }

    /// Whether the second modality shows the class.
    pub fn in_second(self) -> bool {
        self != Cue::First
    }

    /// Cues for `n` samples of one class and split, in the shares above as nearly as whole numbers can be, shuffled.
    pub fn deal(n: usize, rng: &mut Rng) -> Vec<Cue> {
        // Rounded with a random offset, so that many small groups get the shares right on the whole.
        let offset = rng.uniform();
        let cut = |share: f64| ((share * n as f64 + offset).floor() as usize).min(n);
        let (both, first) = (cut(Cue::SHARES.0), cut(Cue::SHARES.0 + Cue::SHARES.1));
        let mut cues: Vec<Cue> = (0..n)
            .map(|i| match i {
                i if i < both => Cue::Both,
                i if i < first => Cue::First,
                _ => Cue::Second,
            })
            .collect();
        shuffle(&mut cues, rng);
        cues
    }
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.below(i as u32 + 1) as usize);
    }
}

/// Test samples among `n` of one class: a quarter in a small tree, else the dataset's own share; at least one of two.
fn test_share(n: usize, total: usize, own: f64) -> usize {
    let share = if total < LARGE { 0.25 } else { own };
    ((n as f64 * share).round() as usize).clamp(usize::from(n > 1), n)
}

/// A dataset that can be synthesised: text files at once, and one job per sample.
struct Tree {
    /// Folders to make, below the root.
    folders: Vec<&'static str>,
    /// Path and contents.
    texts: Vec<(String, String)>,
    /// Samples per split, for people.
    counts: Vec<(&'static str, usize)>,
    /// Makes the media of one sample.
    jobs: Vec<Job>,
}

type Job = Box<dyn Fn(&Path) -> anyhow::Result<()> + Send + Sync>;

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Names the choices where there is no such dataset.
    let info = datasets::open(&args.dataset)?.info().clone();
    let tree = match info.name.as_str() {
        "crema-d" => crema_d::tree(args.samples, args.seed)?,
        other => bail!("{other} cannot be synthesised yet; choose crema-d"),
    };
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| source::default_raw(&info.name));
    let marker = |complete| Marker {
        about: "synthetic: made by `ingest synth`, which may replace this folder".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dataset: info.name.clone(),
        samples: args.samples,
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
        return output::json(
            &json!({"out": out, "samples": args.samples, "seed": args.seed, "splits": splits}),
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
    if args.samples < LARGE {
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
    fn cues_keep_their_shares() {
        let mut rng = Rng::new(1, &[]);
        let many: Vec<Cue> = (0..500).flat_map(|_| Cue::deal(7, &mut rng)).collect();
        let share = |cue| many.iter().filter(|&&one| one == cue).count() as f64 / many.len() as f64;
        assert!((share(Cue::Both) - 0.4).abs() < 0.02);
        assert!((share(Cue::First) - 0.3).abs() < 0.02);
        let ten = Cue::deal(10, &mut rng);
        assert_eq!(ten.iter().filter(|cue| cue.in_first()).count(), 7);
    }

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
