//! Long runs: memory, open files and child processes do not grow over many samples, and training
//! that is killed many times ends with the weights of an undisturbed run. `just test-faults` runs
//! the long versions, `just test` short ones.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use datasets::Split;
use features::{ImageTransform, Loader, LoaderOptions, MelTransform, Shards, Transforms};
use tests::{
    CremaD, EXIT_DONE, binary, command, is_full_length, kill_when, names, process_usage,
    report_figure, run, temp, weights,
};
use util::rng::Rng;

/// The largest growth of resident memory, in MiB, between the second fifth of a run and its end.
const MAX_GROWTH: f64 = 48.0;

/// The number of hard links to one file; ext4 allows 65,000.
const LINKS: usize = 20_000;

/// The resources of a process, sampled while it runs.
#[derive(Default)]
struct Samples {
    mib: Vec<f64>,
    files: Vec<usize>,
    children: Vec<usize>,
}

impl Samples {
    /// Samples a command until it ends.
    fn watch(command: &mut Command) -> Samples {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut samples = Samples::default();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return samples;
            }
            samples.add(child.id());
            sleep(Duration::from_millis(50));
        }
    }

    /// Adds the resources that a process uses now.
    fn add(&mut self, process: u32) {
        if let Some(usage) = process_usage(process) {
            self.mib.push(usage.memory_mib);
            self.files.push(usage.open_files);
            self.children.push(usage.children.len());
        }
    }

    /// Asserts that memory does not grow after the second fifth, and that files and children stay
    /// few.
    fn assert_flat(&self, what: &str) {
        let fifth = self.mib.len() / 5;
        assert!(fifth > 2, "{what}: the run was too short to measure");
        fn largest<T: PartialOrd + Copy>(values: &[T]) -> T {
            values
                .iter()
                .copied()
                .reduce(|a, b| if b > a { b } else { a })
                .unwrap()
        }
        let (early, late) = (
            largest(&self.mib[fifth..2 * fifth]),
            largest(&self.mib[2 * fifth..]),
        );
        eprintln!(
            "{what}: {early:.0} MiB early, {late:.0} MiB late, at most {} files, {} children",
            largest(&self.files),
            largest(&self.children)
        );
        report_figure(
            &format!("max growth of memory in {what} in MiB"),
            late - early,
        );
        assert!(
            late < early + MAX_GROWTH,
            "{what}: from {early:.0} to {late:.0} MiB"
        );
        assert!(
            largest(&self.files) < 200 && largest(&self.children) <= 4,
            "{what}"
        );
    }
}

/// Writes a dataset of `count` clips, which are hard links to a few small files; returns its
/// `.toml`.
fn linked_dataset(folder: &Path, count: usize) -> PathBuf {
    let raw = folder.join("raw");
    let mut table = String::from("id,label,file\n");
    for number in 0..count {
        let part = raw.join((number / LINKS).to_string());
        let first = part.join(format!("{}.avi", number - number % LINKS));
        if number.is_multiple_of(LINKS) {
            fs::create_dir_all(&part).unwrap();
            fs::write(&first, "a stand-in").unwrap();
        } else {
            fs::hard_link(&first, part.join(format!("{number}.avi"))).unwrap();
        }
        let class = ["cat", "dog"][number % 2];
        table += &format!("clip-{number:06},{class},{}/{number}.avi\n", number / LINKS);
    }
    fs::write(folder.join("many.csv"), table).unwrap();
    let toml = folder.join("many.toml");
    fs::write(
        &toml,
        "name = \"many\"\ntable = \"many.csv\"\nraw = \"raw\"\n[columns]\nid = \"id\"\nlabel = \"label\"\nvideo = \"file\"\n[splits]\ntest = 0.0\n",
    )
    .unwrap();
    toml
}

#[test]
fn memory_is_flat_over_many_samples() {
    let samples = if is_full_length() { 100_000 } else { 5_000 };
    let folder = temp();
    let toml = linked_dataset(folder.path(), samples);
    let out = folder.path().join("out");
    let start = Instant::now();
    let mut ingest = command("ingest", ["run", "--workers", "2", "--decoder"]);
    ingest
        .arg(binary("stand-in-decoder"))
        .arg(&toml)
        .arg("--out")
        .arg(&out);
    Samples::watch(&mut ingest).assert_flat("ingest");
    eprintln!("ingest: {samples} samples in {:.0?}", start.elapsed());

    let start = Instant::now();
    let shards = Arc::new(Shards::open(&out.as_path().into()).unwrap());
    assert_eq!(shards.split(Split::Train).len(), samples);
    let config = LoaderOptions {
        split: Split::Train,
        shuffle: true,
        augment: true,
        seed: 0,
        batch_size: 32,
        threads: 2,
        byte_budget: 16 << 20,
        transforms: Transforms {
            frames: 2,
            image: ImageTransform::clip(32),
            mel: MelTransform::ast(16),
            text: None,
        },
        ..LoaderOptions::default()
    };
    let (mut usage, mut streamed) = (Samples::default(), 0);
    for batch in Loader::new(&shards, config, 0, 0).unwrap() {
        streamed += batch.unwrap().ids.len();
        usage.add(std::process::id());
    }
    assert_eq!(streamed, samples);
    usage.assert_flat("the stream");
    eprintln!("stream: {samples} samples in {:.0?}", start.elapsed());
    report_figure(
        "sum samples through ingest and stream",
        2.0 * samples as f64,
    );
}

/// The step of a run's newest checkpoint, if it has one.
fn newest_checkpoint(run: &Path) -> Option<u32> {
    let found = if run.is_dir() { names(run) } else { Vec::new() };
    let steps = found
        .iter()
        .filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok());
    steps.max()
}

/// A run of ten thousand steps with a checkpoint every fifty, killed thirty times at random
/// moments, ends with the weights of an undisturbed one.
#[test]
fn training_killed_many_times_gives_the_same_weights() {
    let (steps, kills): (u32, u32) = if is_full_length() {
        (10_000, 30)
    } else {
        (150, 2)
    };
    let data = CremaD::new(24);
    let folder = temp();
    let train = |out: &Path| {
        let mut train = command(
            "train",
            [
                "run",
                "crema-d",
                "--checkpoint-every",
                "50",
                "--batch-size",
                "1",
                "--epochs",
                "1000",
            ],
        );
        // Each step is short: one sample, one frame.
        train.args([
            "--set",
            "frames=1",
            "--set",
            "warmup_epochs=1",
            "--threads",
            "1",
            "--max-steps",
        ]);
        train
            .arg(steps.to_string())
            .arg("--shards")
            .arg(data.shards());
        train.arg("--weights").arg(weights()).arg("--out").arg(out);
        train
    };
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let start = Instant::now();
    run(&mut train(&whole)).expect(EXIT_DONE);
    eprintln!("{steps} steps in {:.0?}", start.elapsed());
    let attempt = || {
        if !killed.join("config.toml").exists() {
            return train(&killed);
        }
        let mut resume = command("train", ["run", "crema-d", "--threads", "1", "--max-steps"]);
        resume.arg(steps.to_string()).arg("--resume").arg(&killed);
        resume
    };
    let seed = u64::from(std::process::id());
    let mut kills_done = 0;
    for kill in 0..kills {
        // The run is cut into parts, with one kill in each, some time after a checkpoint has
        // appeared.
        let mut rng = Rng::new(seed, &[kill]);
        let part = (f64::from(kill) + rng.uniform()) / f64::from(kills);
        let step = (part * f64::from(steps - 100)) as u32;
        let delay = Duration::from_secs_f64(0.3 * rng.uniform());
        let mut reached = None;
        kills_done += u32::from(!kill_when(&mut attempt(), || {
            sleep(Duration::from_millis(2));
            if newest_checkpoint(&killed) >= Some(step) {
                return reached.get_or_insert_with(Instant::now).elapsed() > delay;
            }
            false
        }));
    }
    run(&mut attempt()).expect(EXIT_DONE);
    assert!(kills_done > 0, "no kill reached a live process");
    report_figure("sum faults injected", f64::from(kills_done));
    let last = format!("checkpoint-{steps:08}");
    assert!(names(&whole).contains(&last) && names(&killed).contains(&last));
    let (wanted, found) = (
        tests::contents(&whole.join(&last)),
        tests::contents(&killed.join(&last)),
    );
    let differ: Vec<_> = wanted
        .iter()
        .filter(|(path, bytes)| found.get(*path) != Some(bytes))
        .collect();
    report_figure("sum bytes that differ", differ.len() as f64);
    assert!(
        differ.is_empty(),
        "seed {seed}: {:?}",
        differ.iter().map(|(path, _)| path).collect::<Vec<_>>()
    );
    let leftovers: Vec<_> = names(&killed)
        .into_iter()
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}
