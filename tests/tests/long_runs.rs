//! Days of work in minutes: memory, open files and children stay flat over many samples, and training that is killed again
//! and again becomes what it would have become. `just test-faults` runs the long versions, the ordinary tests short ones.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use datasets::Split;
use features::stream::{MelTransform, StreamConfig, Transforms};
use features::{ImageTransform, Shards, Stream};
use tests::{
    CremaD, DONE, binary, command, figure, full, kill_when, names, run, temp, usage, weights,
};
use util::rng::Rng;

/// MiB by which resident memory may grow between a fifth of the way and the end.
const GROWTH: f64 = 48.0;

/// Names that one file may have: ext4 allows 65,000.
const LINKS: usize = 20_000;

/// What was seen of a process on its way.
#[derive(Default)]
struct Seen {
    mib: Vec<f64>,
    files: Vec<usize>,
    children: Vec<usize>,
}

impl Seen {
    /// Looks at a process until it ends.
    fn watch(command: &mut Command) -> Seen {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut seen = Seen::default();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return seen;
            }
            seen.look(child.id());
            sleep(Duration::from_millis(50));
        }
    }

    fn look(&mut self, process: u32) {
        if let Some((mib, files, children)) = usage(process) {
            self.mib.push(mib);
            self.files.push(files);
            self.children.push(children.len());
        }
    }

    /// Neither memory nor files nor children grow behind the first fifth.
    fn assert_flat(&self, what: &str) {
        let rest = self.mib.len() / 5;
        assert!(rest > 2, "{what}: too short to tell");
        fn most<T: PartialOrd + Copy>(values: &[T]) -> T {
            values
                .iter()
                .copied()
                .reduce(|a, b| if b > a { b } else { a })
                .unwrap()
        }
        let (early, late) = (most(&self.mib[rest..2 * rest]), most(&self.mib[2 * rest..]));
        eprintln!(
            "{what}: {early:.0} MiB early, {late:.0} MiB late, at most {} files, {} children",
            most(&self.files),
            most(&self.children)
        );
        figure(
            &format!("max growth of memory in {what} in MiB"),
            late - early,
        );
        assert!(
            late < early + GROWTH,
            "{what}: from {early:.0} to {late:.0} MiB"
        );
        assert!(
            most(&self.files) < 200 && most(&self.children) <= 4,
            "{what}"
        );
    }
}

/// A dataset of so many clips, all of them links to a few small files.
fn links(folder: &Path, count: usize) -> PathBuf {
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
    let samples = if full() { 100_000 } else { 5_000 };
    let folder = temp();
    let toml = links(folder.path(), samples);
    let out = folder.path().join("out");
    let start = Instant::now();
    let mut ingest = command("ingest", ["run", "--workers", "2", "--decoder"]);
    ingest
        .arg(binary("stand-in-decoder"))
        .arg(&toml)
        .arg("--out")
        .arg(&out);
    Seen::watch(&mut ingest).assert_flat("ingest");
    eprintln!("ingest: {samples} samples in {:.0?}", start.elapsed());

    let start = Instant::now();
    let shards = Arc::new(Shards::open(&out).unwrap());
    assert_eq!(shards.split(Split::Train).len(), samples);
    let config = StreamConfig {
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
        present: None,
    };
    let (mut seen, mut streamed) = (Seen::default(), 0);
    for batch in Stream::new(&shards, config, 0, 0).unwrap() {
        streamed += batch.unwrap().ids.len();
        seen.look(std::process::id());
    }
    assert_eq!(streamed, samples);
    seen.assert_flat("the stream");
    eprintln!("stream: {samples} samples in {:.0?}", start.elapsed());
    figure(
        "sum samples through ingest and stream",
        2.0 * samples as f64,
    );
}

/// The step of a run's newest checkpoint.
fn newest(run: &Path) -> Option<u32> {
    let found = if run.is_dir() { names(run) } else { Vec::new() };
    let steps = found
        .iter()
        .filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok());
    steps.max()
}

/// Ten thousand steps, a checkpoint every fifty, thirty kills at random moments: the weights of an undisturbed run.
#[test]
fn a_long_training_killed_thirty_times() {
    let (steps, kills): (u32, u32) = if full() { (10_000, 30) } else { (150, 2) };
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
        // Small steps: one sample, one frame.
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
    run(&mut train(&whole)).expect(DONE);
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
    let mut deaths = 0;
    for kill in 0..kills {
        // One kill in every part of the way, some time after a checkpoint has appeared.
        let mut rng = Rng::new(seed, &[kill]);
        let part = (f64::from(kill) + rng.uniform()) / f64::from(kills);
        let far = (part * f64::from(steps - 100)) as u32;
        let delay = Duration::from_secs_f64(0.3 * rng.uniform());
        let mut reached = None;
        deaths += u32::from(!kill_when(&mut attempt(), || {
            sleep(Duration::from_millis(2));
            if newest(&killed) >= Some(far) {
                return reached.get_or_insert_with(Instant::now).elapsed() > delay;
            }
            false
        }));
    }
    run(&mut attempt()).expect(DONE);
    assert!(deaths > 0, "never killed");
    figure("sum faults injected", f64::from(deaths));
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
    figure("sum bytes that differ", differ.len() as f64);
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
