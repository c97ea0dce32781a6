//! Crash safety: no sample and no training step is lost through disks that vanish, fill up or are
//! read-only, removed files, stopped processes, misbehaving decoders, changed bytes on disk, or two
//! runs on one folder. Killed runs are tested in `train_resume` and in `ingest`'s own tests.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    CremaD, EXIT_DONE, EXIT_FINDINGS, EXIT_USAGE, assert_same, binary, command, contents, names,
    process_usage, report_figure, run, send_signal, temp, weights,
};
use util::skip::{Missing, skip};

/// The longest wait for an event, on a busy machine.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < EVENT_TIMEOUT, "{what} did not appear");
        sleep(Duration::from_millis(5));
    }
}

/// Starts a command in the background; its standard error goes to the file `log`.
fn start_logged(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::create(log).unwrap();
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// A WAV file with a square wave of half a second.
fn wav(hertz: u32) -> Vec<u8> {
    let data: Vec<u8> = (0..8000u32)
        .flat_map(|i| {
            (if (i * hertz / 8000).is_multiple_of(2) {
                9_000i16
            } else {
                -9_000
            })
            .to_le_bytes()
        })
        .collect();
    let header = b"RIFF\xa4\x3e\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\x80\x3e\0\0";
    [header, data.as_slice()].concat()
}

/// Writes a dataset of `count` short audio files to `folder/raw`, each named by `name`; returns its
/// `.toml`.
fn audio_dataset(folder: &Path, count: usize, name: impl Fn(usize) -> String) -> PathBuf {
    fs::create_dir_all(folder.join("raw")).unwrap();
    let mut table = "id,label,file\n".to_owned();
    for number in 0..count {
        let name = name(number);
        fs::write(folder.join("raw").join(&name), wav(100 + number as u32)).unwrap();
        table += &format!("{number:04},{},{name}\n", ["cat", "dog"][number % 2]);
    }
    fs::write(folder.join("tones.csv"), table).unwrap();
    let toml = folder.join("tones.toml");
    let text = "name = \"tones\"\ntable = \"tones.csv\"\nraw = \"raw\"\n[columns]\nid = \"id\"\nlabel = \"label\"\naudio = \"file\"\nvideo = \"file\"\n[splits]\ntest = 0.0\n";
    fs::write(&toml, text).unwrap();
    toml
}

fn ingest(toml: &Path, out: &Path) -> Command {
    let mut ingest = command("ingest", ["run", "--json", "--shard-rows", "20"]);
    ingest
        .args(["--max-failures", "100%"])
        .arg(toml)
        .arg("--out")
        .arg(out);
    ingest
}

#[test]
fn misbehaving_decoder_fails_only_its_own_clip() {
    let folder = temp();
    let behaviours = [
        "good", "crash", "good", "hang", "good", "garbage", "exit", "good", "truncate", "lie",
    ];
    let toml = audio_dataset(folder.path(), behaviours.len(), |number| {
        format!("{}-{number}.wav", behaviours[number])
    });
    let out = folder.path().join("out");
    let mut ingest = ingest(&toml, &out);
    ingest
        .args(["--clip-timeout", "3", "--decoder"])
        .arg(binary("stand-in-decoder"));
    let report = run(&mut ingest).expect(EXIT_DONE).json();
    let totals = &report["manifest"]["totals"]["train"];
    assert_eq!(
        (&totals["rows"], &totals["quarantined"]),
        (&4.into(), &6.into()),
        "{report}"
    );
    let causes = &report["manifest"]["failures"]["causes"]["audio"];
    assert_eq!(
        (&causes["decoder crashed"], &causes["decoder took too long"]),
        (&5.into(), &1.into())
    );
    report_figure("sum faults injected", 6.0);
}

/// If the raw data vanish during a run, it ends with one error line, keeps its complete shards,
/// writes no shard full of failures, and continues when the data are back.
#[test]
fn vanished_raw_data_ends_the_run_without_loss() {
    let folder = temp();
    let toml = audio_dataset(folder.path(), 400, |number| format!("{number}.wav"));
    let (raw, moved_away) = (folder.path().join("raw"), folder.path().join("moved-away"));
    let (whole, out, log) = (
        folder.path().join("whole"),
        folder.path().join("out"),
        folder.path().join("log"),
    );
    run(&mut ingest(&toml, &whole)).expect(EXIT_DONE);
    let mut child = start_logged(
        ingest(&toml, &out).args(["--max-failures-in-a-row", "30"]),
        &log,
    );
    wait_until("a shard", || {
        out.is_dir() && names(&out).iter().any(|name| name.starts_with("train-"))
    });
    fs::rename(&raw, &moved_away).unwrap();
    let status = child.wait().unwrap();
    let stderr = fs::read_to_string(&log).unwrap();
    if status.success() {
        // Everything had been read before the folder was renamed.
        assert_same(&whole, &out);
        return;
    }
    assert_eq!(status.code(), Some(EXIT_USAGE), "{stderr}");
    let error = stderr
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap();
    for word in [
        "30 samples in a row",
        "no such file",
        "is the disk still mounted",
        "--max-failures-in-a-row",
    ] {
        assert!(error.contains(word), "{error}");
    }
    for (name, bytes) in contents(&out) {
        let same = bytes == fs::read(whole.join(&name)).unwrap();
        assert!(same, "{} differs", name.display());
    }
    assert!(names(&out).len() < names(&whole).len());
    fs::rename(&moved_away, &raw).unwrap();
    run(&mut ingest(&toml, &out)).expect(EXIT_DONE);
    assert_same(&whole, &out);
    report_figure("sum faults injected", 1.0);
}

#[test]
fn files_removed_after_listing_are_reported() {
    let folder = temp();
    let toml = audio_dataset(folder.path(), 200, |number| format!("{number}.wav"));
    let (out, log) = (folder.path().join("out"), folder.path().join("log"));
    let mut child = start_logged(ingest(&toml, &out).args(["--workers", "1"]), &log);
    wait_until("the lock", || out.join(".ingest.lock").exists());
    let lost = [190, 195, 199];
    for number in lost {
        fs::remove_file(folder.path().join(format!("raw/{number}.wav"))).unwrap();
    }
    assert!(
        child.wait().unwrap().success(),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
    let manifest: Value =
        serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let totals = &manifest["totals"]["train"];
    assert_eq!(
        (&totals["rows"], &totals["quarantined"]),
        (&197.into(), &3.into())
    );
    assert_eq!(manifest["failures"]["causes"]["audio"]["no such file"], 3);
    report_figure("sum faults injected", 3.0);
}

/// A pause (Ctrl-Z, a batch system, a closed laptop) that is longer than the time limit of a clip
/// gives up no clip.
#[test]
fn paused_ingest_loses_no_clip() {
    let folder = temp();
    let raw = folder.path().join("raw");
    run(command("ingest", ["synth", "crema-d", "--samples", "16", "--out"]).arg(&raw))
        .expect(EXIT_DONE);
    let ingest = |out: &Path| {
        let mut ingest = command(
            "ingest",
            ["run", "crema-d", "--shard-rows", "5", "--clip-timeout", "3"],
        );
        ingest.arg("--raw").arg(&raw).arg("--out").arg(out);
        ingest
    };
    let (whole, out, log) = (
        folder.path().join("whole"),
        folder.path().join("out"),
        folder.path().join("log"),
    );
    run(&mut ingest(&whole)).expect(EXIT_DONE);
    let mut parent = start_logged(&mut ingest(&out), &log);
    let mut children = Vec::new();
    wait_until("children", || {
        children = process_usage(parent.id())
            .map(|usage| usage.children)
            .unwrap_or_default();
        !children.is_empty()
    });
    // In the middle of a clip.
    sleep(Duration::from_millis(300));
    let processes: Vec<u32> = children.into_iter().chain([parent.id()]).collect();
    processes.iter().for_each(|&one| send_signal(one, "STOP"));
    sleep(Duration::from_secs(5));
    processes
        .iter()
        .rev()
        .for_each(|&one| send_signal(one, "CONT"));
    assert!(
        parent.wait().unwrap().success(),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
    assert_same(&whole, &out);
    report_figure("sum faults injected", 1.0);
}

fn train(shards: &Path, out: &Path) -> Command {
    let mut train = command(
        "train",
        [
            "run",
            "crema-d",
            "--batch-size",
            "4",
            "--checkpoint-every",
            "2",
            "--set",
            "keep_checkpoints=100",
            // With a named device, stderr has no line about the choice, and an error is its only
            // line.
            "--device",
            "cpu",
        ],
    );
    train
        .arg("--shards")
        .arg(shards)
        .arg("--weights")
        .arg(weights())
        .arg("--out")
        .arg(out);
    train
}

fn resume(out: &Path) -> Command {
    let mut train = command("train", ["run", "crema-d", "--resume"]);
    train.arg(out);
    train
}

/// The tensors that a run has saved, by file.
fn saved_tensors(run: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = tests::contents(run).into_iter();
    files
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "safetensors"))
        .collect()
}

/// A second trainer on a run folder is refused; SIGTERM ends a trainer with a checkpoint, from
/// which it continues to the same weights.
#[test]
fn second_trainer_is_refused_and_sigterm_leaves_a_checkpoint() {
    let data = CremaD::new(24);
    let folder = temp();
    let (whole, out, log) = (
        folder.path().join("whole"),
        folder.path().join("out"),
        folder.path().join("log"),
    );
    let epochs = ["--epochs", "25", "--set", "warmup_epochs=1"];
    run(train(&data.shards(), &whole).args(epochs)).expect(EXIT_DONE);
    let mut first = start_logged(train(&data.shards(), &out).args(epochs), &log);
    let checkpoints = |at_least: usize| {
        let found = if out.is_dir() {
            names(&out)
        } else {
            Vec::new()
        };
        found
            .iter()
            .filter(|name| name.starts_with("checkpoint-"))
            .count()
            >= at_least
    };
    wait_until("a checkpoint", || checkpoints(2));
    send_signal(first.id(), "STOP");
    let holder = format!("process {}", first.id());
    run(&mut resume(&out)).expect_usage(&["another train", &holder, "wait for it"]);
    run(&mut train(&data.shards(), &out)).expect_usage(&["is a run already"]);
    send_signal(first.id(), "CONT");
    send_signal(first.id(), "TERM");
    let start = Instant::now();
    let code = first.wait().unwrap().code();
    let stderr = fs::read_to_string(&log).unwrap();
    assert_eq!(
        code,
        Some(EXIT_FINDINGS),
        "it may have ended before the signal: {stderr}"
    );
    assert!(
        stderr.contains("stopped by a signal") && stderr.contains("--resume"),
        "{stderr}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(!out.join(".train.lock").exists());
    // The lock file of a killed run does not lock the folder.
    fs::write(out.join(".train.lock"), "1").unwrap();
    run(&mut resume(&out)).expect(EXIT_DONE);
    // The stopped run has one more checkpoint, that of the step at which it was stopped.
    let found = saved_tensors(&out);
    let same = saved_tensors(&whole)
        .iter()
        .all(|file| found.contains(file));
    assert!(same, "the stopped run has other weights");
    report_figure("sum faults injected", 4.0);
}

#[test]
fn changed_bytes_in_shards_are_found() {
    let data = CremaD::new(24);
    let shards = data.shards();
    let inspect = || {
        let mut inspect = command("ingest", ["inspect", "--verify", "--json"]);
        inspect.arg(&shards);
        run(&mut inspect)
    };
    assert_eq!(
        inspect().expect(EXIT_DONE).json()["damaged"],
        serde_json::json!({})
    );
    let out = shards.parent().unwrap().join("run");
    run(train(&shards, &out).args(["--max-steps", "1"])).expect(EXIT_DONE);
    let name = names(&shards)
        .into_iter()
        .find(|name| name.starts_with("train-"))
        .unwrap();
    let path = shards.join(&name);
    let good = fs::read(&path).unwrap();
    let (mut flipped, cut) = (good.clone(), &good[..good.len() - 1]);
    // In the middle of a spectrogram, where a Parquet reader does not notice it.
    flipped[good.len() / 3] ^= 0x10;
    for (bytes, word) in [(&flipped[..], "SHA-256"), (cut, "bytes")] {
        fs::write(&path, bytes).unwrap();
        let verdict = inspect().expect(EXIT_FINDINGS).json();
        assert!(
            verdict["damaged"][&name].as_str().unwrap().contains(word),
            "{verdict}"
        );
        let new = shards.parent().unwrap().join("new");
        run(&mut train(&shards, &new)).expect_usage(&[&name]);
        assert!(!new.exists());
        run(&mut resume(&out)).expect_usage(&[&name]);
        run(command("train", ["eval"]).arg(&out)).expect_usage(&[&name]);
    }
    // What the message advises.
    fs::remove_file(&path).unwrap();
    let mut ingest = command("ingest", ["run", "crema-d", "--raw"]);
    run(ingest.arg(data.raw()).arg("--out").arg(&shards)).expect(EXIT_DONE);
    assert!(fs::read(&path).unwrap() == good);
    run(resume(&out).args(["--max-steps", "2"])).expect(EXIT_DONE);
    report_figure("sum faults injected", 2.0);
}

/// A checkpoint with a truncated or missing file, as after a power cut, is refused by one line that
/// names it; the checkpoint before it works.
#[test]
fn truncated_checkpoint_is_refused_by_name() {
    let data = CremaD::new(24);
    let folder = temp();
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    let steps = ["--max-steps", "6"];
    run(train(&data.shards(), &whole).args(steps)).expect(EXIT_DONE);
    run(train(&data.shards(), &out).args(["--max-steps", "4"])).expect(EXIT_DONE);
    let last = out.join("checkpoint-00000004");
    let mut faults = 0;
    for (file, bytes) in tests::contents(&last) {
        let path = last.join(&file);
        for half in [bytes.len() / 2, 0] {
            fs::write(&path, &bytes[..half]).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap();
            run(resume(&out).args(steps)).expect_usage(&[name, "00000004"]);
            faults += 1;
        }
        fs::remove_file(&path).unwrap();
        run(resume(&out).args(steps)).expect_usage(&["00000004"]);
        fs::write(&path, bytes).unwrap();
    }
    // The files that a kill leaves while a checkpoint is written or replaced.
    fs::create_dir(out.join(".checkpoint-00000006.tmp")).unwrap();
    fs::write(
        out.join(".checkpoint-00000006.tmp/head.safetensors"),
        "half",
    )
    .unwrap();
    fs::remove_dir_all(&last).unwrap();
    run(resume(&out).args(steps)).expect(EXIT_DONE);
    assert!(saved_tensors(&whole) == saved_tensors(&out));
    assert!(
        names(&out).iter().all(|name| !name.starts_with('.')),
        "{:?}",
        names(&out)
    );
    report_figure("sum faults injected", f64::from(faults) + 1.0);
}

/// A mounted tmpfs of limited size.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, options: &str) -> Option<Disk> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            skip(Missing::Platform, "the user may not mount a tmpfs");
            return None;
        }
        Some(Disk(at.to_owned()))
    }

    fn change(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).status());
    }
}

#[test]
fn full_or_read_only_disk_is_one_error_line() {
    let folder = temp();
    let at = folder.path().join("disk");
    let Some(disk) = Disk::mount(&at, "size=2m") else {
        return;
    };
    let data = CremaD::new(24);
    let (whole, out) = (folder.path().join("whole"), at.join("run"));
    let steps = ["--max-steps", "12"];
    run(train(&data.shards(), &whole).args(steps)).expect(EXIT_DONE);
    // Room for four checkpoints.
    let checkpoint_bytes: u64 = tests::contents(&whole.join("checkpoint-00000012"))
        .values()
        .map(|bytes| bytes.len() as u64 + 8192)
        .sum();
    disk.change(&format!("size={}k", 4 * checkpoint_bytes / 1024 + 100));
    let full = run(train(&data.shards(), &out).args(steps)).expect_usage(&["disk"]);
    assert!(
        full.stderr.contains("checkpoint") || full.stderr.contains("best"),
        "{}",
        full.stderr
    );
    disk.change("size=64m");
    run(resume(&out).args(steps)).expect(EXIT_DONE);
    assert!(saved_tensors(&whole) == saved_tensors(&out));

    disk.change("ro");
    run(resume(&out).args(["--max-steps", "13"])).expect_usage(&["run"]);
    run(&mut train(&data.shards(), &at.join("new"))).expect_usage(&["new"]);
    let mut ingest = command("ingest", ["run", "crema-d", "--raw"]);
    run(ingest.arg(data.raw()).arg("--out").arg(at.join("shards")))
        .expect_usage(&["shards", "choose another --out"]);
    report_figure("sum faults injected", 4.0);
}

/// Every command that reads shards, masks or tables ends with a documented exit code on damaged
/// ones, and with a single line if that is an error; never with a panic.
#[test]
fn damaged_tables_never_panic() {
    let data = CremaD::new(24);
    let folder = temp();
    let shards = folder.path().join("shards");
    fs::create_dir(&shards).unwrap();
    let good = tests::contents(&data.shards());
    let (name, bytes) = good
        .iter()
        .find(|(path, _)| path.starts_with("train-00000-of-00001.parquet"))
        .unwrap();
    for (other, bytes) in good
        .iter()
        .filter(|(path, _)| path.components().count() == 1 && !path.ends_with("manifest.json"))
    {
        fs::write(shards.join(other), bytes).unwrap();
    }
    let table = folder.path().join("table.toml");
    let text = "name = \"own\"\ntable = \"shards/train-00000-of-00001.parquet\"\nraw = \".\"\n[columns]\nid = \"id\"\nlabel = \"label_name\"\nvideo = \"source\"\nsplit = \"split\"\n";
    fs::write(&table, text).unwrap();
    let rounds = if tests::is_full_length() { 100 } else { 6 };
    let mut panics = Vec::new();
    for round in 0..rounds {
        let mut rng = util::rng::Rng::new(9, &[round]);
        let mut damaged = bytes.clone();
        for _ in 0..1 + rng.below(8) {
            // Most of the time in the footer or the page headers before it.
            let near_end = rng.below(4) > 0;
            let range = if near_end {
                damaged.len().min(6000)
            } else {
                damaged.len()
            } as u32;
            let at = damaged.len() - 1 - rng.below(range) as usize;
            damaged[at] = match rng.below(3) {
                0 => 0xff,
                1 => damaged[at] ^ (1 << rng.below(8)),
                _ => rng.below(256) as u8,
            };
        }
        if round % 5 == 4 {
            damaged.truncate(rng.below(damaged.len() as u32) as usize);
        }
        let path = shards.join(name);
        fs::write(&path, &damaged).unwrap();
        let shard = path.to_str().unwrap();
        let (all, toml) = (shards.to_str().unwrap(), table.to_str().unwrap());
        let raw = data.raw();
        let out = folder.path().join("run");
        let commands: [(&str, &[&str]); 7] = [
            ("ingest", &["inspect", all]),
            ("ingest", &["inspect", shard, "--json"]),
            ("ingest", &["inspect", all, "--sample", "nobody"]),
            (
                "ingest",
                &[
                    "mask",
                    all,
                    "--protocol",
                    "missing-both",
                    "--rate",
                    "0.5",
                    "--seed",
                    "9",
                ],
            ),
            (
                "ingest",
                &[
                    "run",
                    "crema-d",
                    "--raw",
                    raw.to_str().unwrap(),
                    "--out",
                    all,
                    "--dry-run",
                ],
            ),
            ("ingest", &["check", toml]),
            (
                "train",
                &[
                    "run",
                    "crema-d",
                    "--shards",
                    all,
                    "--random-weights",
                    "0",
                    "--encoders",
                    "tiny",
                    "--max-steps",
                    "1",
                    "--dry-run",
                    "--out",
                    out.to_str().unwrap(),
                ],
            ),
        ];
        for (program, arguments) in commands {
            let ran = run(&mut command(program, arguments));
            let code = ran.status.code();
            let errors = ran
                .stderr
                .lines()
                .filter(|line| line.starts_with("error: "))
                .count();
            if !matches!(code, Some(EXIT_DONE | EXIT_FINDINGS))
                && (code, errors, ran.stderr.lines().count()) != (Some(EXIT_USAGE), 1, 1)
            {
                panics.push(format!(
                    "round {round}: {}\n{code:?}: {}",
                    ran.line, ran.stderr
                ));
            }
        }
    }
    report_figure("sum bad inputs tried", f64::from(rounds) * 7.0);
    assert!(
        panics.is_empty(),
        "{} panics or unclear errors:\n{}",
        panics.len(),
        panics.join("\n")
    );
}
