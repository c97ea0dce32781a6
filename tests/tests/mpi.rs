//! Training in several processes that `mpirun` starts: the losses of one process, runs that lose a
//! rank and go on with another number of ranks, one message for an error. `just test-mpi` builds
//! `train` with MPI for these tests.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::slurm::{self, Slurm};
use tests::{
    CremaD, EXIT_DONE, EXIT_FINDINGS, EXIT_USAGE, TIME_LIMIT, assert_same, binary, command,
    json_lines, names, process_usage, run, send_signal, temp, weights,
};
use util::skip::{Missing, skip};

/// The largest relative difference of a loss from that of one process.
const TOLERANCE: f64 = 1e-5;

/// Whether there are an `mpirun` and a `train` that was built with MPI. If not, the calling test is
/// reported as skipped; `just test-mpi` has built it, so that this is a failure there.
#[track_caller]
fn has_mpi() -> bool {
    static LACKING: OnceLock<Option<&str>> = OnceLock::new();
    let lacking = LACKING.get_or_init(|| {
        let mut mpirun = Command::new("mpirun");
        let started = mpirun.arg("--version").stdout(Stdio::null()).status();
        if !started.is_ok_and(|status| status.success()) {
            return Some("there is no mpirun; `./setup test-mpi` installs it");
        }
        let doctor = run(&mut command("train", ["doctor", "--json"])).expect(EXIT_DONE);
        doctor.json()["mpi"]
            .is_null()
            .then_some("train was built without MPI; `just test-mpi` builds it with")
    });
    if let Some(reason) = lacking {
        assert!(std::env::var_os("U2A_MPI").is_none(), "{reason}");
        skip(Missing::Platform, reason);
    }
    lacking.is_none()
}

/// `mpirun` without its own limits to the number of ranks and to the user.
fn mpirun() -> Command {
    let mut mpirun = Command::new("mpirun");
    mpirun
        .args(["--oversubscribe", "--bind-to", "none"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdin(Stdio::null());
    mpirun
}

/// Adds a part of the ranks, each of which runs `program`.
fn add_ranks(mpirun: &mut Command, count: usize, program: &Command) {
    mpirun
        .args(["-n", &count.to_string()])
        .arg(program.get_program())
        .args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => mpirun.env(name, value),
            None => mpirun.env_remove(name),
        };
    }
}

/// The command that runs `program` as `count` ranks, or alone.
fn ranks(count: usize, program: Command) -> Command {
    if count == 1 {
        return program;
    }
    let mut mpirun = mpirun();
    add_ranks(&mut mpirun, count, &program);
    mpirun
}

/// Shards, and the flags of a training on them.
struct Data {
    _folder: tempfile::TempDir,
    shards: PathBuf,
    dataset: &'static str,
    flags: &'static str,
}

impl Data {
    fn audio_video(samples: usize) -> Data {
        let folder = temp();
        let data = CremaD::shared(&folder.path().join("crema-d"), samples);
        Data {
            shards: data.shards(),
            _folder: folder,
            dataset: "crema-d",
            flags: "--lr 1e-3 --seed 11",
        }
    }

    fn image_text(samples: usize) -> Data {
        let folder = temp();
        let (raw, shards) = (folder.path().join("raw"), folder.path().join("shards"));
        let samples = samples.to_string();
        let synth = ["synth", "mm-imdb", "--samples", &samples, "--out"];
        run(command("ingest", synth).arg(&raw)).expect(EXIT_DONE);
        let mut ingest = command("ingest", ["run", "mm-imdb", "--raw"]);
        run(ingest.arg(&raw).arg("--out").arg(&shards)).expect(EXIT_DONE);
        Data {
            shards,
            _folder: folder,
            dataset: "mm-imdb",
            // Samples without a text or an image, whose inputs are empty ones.
            flags: "--lr 1e-3 --seed 11 --missing-token input --train-mask missing-both \
                    --set text_length=40",
        }
    }

    fn training(&self, out: &Path, batch_size: usize) -> Command {
        let mut train = command("train", ["run", self.dataset]);
        train
            .args(self.flags.split_whitespace())
            .args(["--epochs", "2", "--checkpoint-every", "1"])
            .args(["--batch-size", &batch_size.to_string(), "--shards"])
            .arg(&self.shards)
            .arg("--weights")
            .arg(weights())
            .arg("--out")
            .arg(out);
        train
    }

    fn resumed(&self, run: &Path) -> Command {
        let mut train = command("train", ["run", self.dataset, "--resume"]);
        train.arg(run);
        train
    }

    /// A small batch size that leaves one sample for the last batch, fewer than any number of ranks.
    fn uneven_batch_size(&self) -> usize {
        let mut plan = self.training(&self.shards.join("none"), 4);
        let plan = run(plan.args(["--dry-run", "--json"])).expect(EXIT_DONE);
        let samples = plan.json()["train_samples"].as_u64().unwrap() as usize;
        let fitting = (4..7).find(|size| samples % size == 1);
        fitting.unwrap_or_else(|| panic!("no such batch size for {samples} samples"))
    }
}

/// The losses of each step, in the order of the steps.
fn losses(run: &Path) -> Vec<[f64; 3]> {
    let lines = json_lines(&run.join("metrics.jsonl"));
    let steps = lines.iter().filter(|line| line.get("task_loss").is_some());
    let losses = |(i, line): (usize, &Value)| {
        assert_eq!(line["step"], i + 1, "every step once, in order");
        ["loss", "task_loss", "align_loss"].map(|key| line[key].as_f64().unwrap())
    };
    steps.enumerate().map(losses).collect()
}

#[track_caller]
fn assert_near(found: &[[f64; 3]], wanted: &[[f64; 3]], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (step, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        for (a, b) in found.iter().zip(wanted) {
            let difference = (a - b).abs();
            assert!(
                difference <= TOLERANCE * b.abs() + 1e-9,
                "{what}, step {}: {found:?} for {wanted:?}",
                step + 1
            );
        }
    }
}

fn assert_losses_of_one_process(data: &Data, cases: &[(&str, usize, &[&str])]) {
    let folder = temp();
    let batch_size = data.uneven_batch_size();
    let trained = |name: &str, count: usize, flags: &[&str]| {
        let out = folder.path().join(name);
        let mut program = data.training(&out, batch_size);
        program.args(flags);
        run(&mut ranks(count, program)).expect(EXIT_DONE);
        losses(&out)
    };
    let alone = trained("alone", 1, &[]);
    assert!(alone.len() >= 4 && alone.iter().any(|[_, _, align]| *align > 0.0));
    for (name, count, flags) in cases {
        assert_near(&trained(name, *count, flags), &alone, name);
    }
}

#[test]
fn ranks_have_the_losses_of_one_process_on_audio_and_video() {
    if !has_mpi() {
        return;
    }
    let micro_batches = &["--micro-batch", "1"][..];
    let cases = [
        ("two ranks", 2, &[][..]),
        ("three ranks", 3, &[]),
        ("four ranks", 4, &[]),
        ("three ranks, micro-batches", 3, micro_batches),
    ];
    assert_losses_of_one_process(&Data::audio_video(22), &cases);
}

#[test]
fn ranks_have_the_losses_of_one_process_on_images_and_texts() {
    if !has_mpi() {
        return;
    }
    let cases = [
        ("two ranks", 2, &[][..]),
        ("three ranks", 3, &[]),
        ("four ranks", 4, &[]),
    ];
    assert_losses_of_one_process(&Data::image_text(32), &cases);
}

/// The sums of the all-reduce have the same bits in every rank: those of an addition in the order of
/// the ranks, also of fewer numbers than ranks.
#[test]
fn sums_are_added_in_the_order_of_the_ranks() {
    if !has_mpi() {
        return;
    }
    for (count, numbers) in [(2, 10_007), (3, 10_007), (4, 10_007), (4, 5), (4, 1)] {
        let mut program = Command::new(binary("examples/all_reduce"));
        program.arg(numbers.to_string());
        let measured = run(&mut ranks(count, program)).expect(EXIT_DONE).stdout;
        let ours = measured.lines().find(|line| line.starts_with("train "));
        // Whether the ranks have the same bits, and whether these are of an addition in order.
        assert!(
            ours.unwrap().ends_with(" yes yes"),
            "{count} ranks: {measured}"
        );
    }
}

/// Starts a command whose processes are looked at while it runs.
fn start(command: &mut Command) -> Child {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

/// The process of a rank that `mpirun` has started.
fn process_of(mpirun: &Child, rank: usize) -> u32 {
    let own = format!("OMPI_COMM_WORLD_RANK={rank}");
    let children = process_usage(mpirun.id()).unwrap().children;
    let is_rank = |process: &u32| {
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|v| v == own.as_bytes())
    };
    children.into_iter().find(is_rank).expect("a running rank")
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < TIME_LIMIT, "{what}");
        sleep(Duration::from_millis(2));
    }
}

fn has_checkpoint(run: &Path, step: u64) -> bool {
    let checkpoint = format!("checkpoint-{step:08}");
    run.is_dir()
        && names(run)
            .iter()
            .any(|name| *name >= checkpoint && name.starts_with("checkpoint-"))
}

/// Waits for a command that was started, and returns exit code, stdout and stderr.
fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A rank that is killed ends the run; it goes on with another number of ranks, also with one. The
/// losses are those of a process that was never disturbed, and the same from run to run.
#[test]
fn run_that_loses_a_rank_goes_on_with_another_number_of_ranks() {
    if !has_mpi() {
        return;
    }
    let data = Data::audio_video(24);
    let folder = temp();
    let path = |name: &str| folder.path().join(name);
    run(&mut data.training(&path("alone"), 2)).expect(EXIT_DONE);

    let out = path("killed");
    let mut attempt = ranks(3, data.training(&out, 2));
    for (killed, next, step) in [(1, 2, 2), (0, 4, 5), (3, 1, 8)] {
        let mpirun = start(&mut attempt);
        wait_until("a checkpoint is written", || has_checkpoint(&out, step));
        let rank = process_of(&mpirun, killed);
        send_signal(rank, "KILL");
        let (code, _, stderr) = ended(mpirun);
        assert!(code != Some(EXIT_DONE), "{stderr}");
        wait_until("no rank is left", || process_usage(rank).is_none());
        attempt = ranks(next, data.resumed(&out));
    }
    run(&mut attempt).expect(EXIT_DONE);
    assert_near(&losses(&out), &losses(&path("alone")), "killed");
    run(command("train", ["eval", "--json"]).arg(&out)).expect(EXIT_DONE);
}

#[test]
fn ranks_give_the_same_bits_from_run_to_run() {
    if !has_mpi() {
        return;
    }
    let data = Data::audio_video(12);
    let folder = temp();
    let mut tensors = ["first", "second"].map(|name| {
        let out = folder.path().join(name);
        run(&mut ranks(3, data.training(&out, 4))).expect(EXIT_DONE);
        // What depends on the clock or names the folder.
        std::fs::remove_dir_all(out.join("tensorboard")).unwrap();
        out
    });
    tensors.sort();
    assert_same(&tensors[0], &tensors[1]);
}

/// A signal to any rank stops all of them after a common checkpoint.
#[test]
fn signal_to_any_rank_stops_all_after_a_checkpoint() {
    if !has_mpi() {
        return;
    }
    let data = Data::audio_video(24);
    let folder = temp();
    let out = folder.path().join("run");
    let mpirun = start(&mut ranks(2, data.training(&out, 2)));
    wait_until("a step is made", || has_checkpoint(&out, 1));
    send_signal(process_of(&mpirun, 1), "TERM");
    let (code, stdout, stderr) = ended(mpirun);
    assert_eq!(code, Some(EXIT_FINDINGS), "{stderr}");
    assert_eq!(stderr.matches("stopped by a signal").count(), 1, "{stderr}");
    assert_eq!(
        stdout.lines().count(),
        1,
        "only the first rank prints: {stdout}"
    );
    let done = losses(&out).len() as u64;
    assert!(has_checkpoint(&out, done), "{done}: {:?}", names(&out));
    run(&mut ranks(3, data.resumed(&out))).expect(EXIT_DONE);
    assert!(losses(&out).len() as u64 > done);
}

/// Runs ranks that fail, and returns the one line that reports it.
#[track_caller]
fn one_error(mpirun: &mut Command) -> String {
    let ran = run(mpirun).expect(EXIT_USAGE);
    let errors: Vec<_> = ran
        .stderr
        .lines()
        .filter(|l| l.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{}", ran.stderr);
    errors[0].to_owned()
}

#[test]
fn error_is_reported_once_and_ends_all_ranks() {
    if !has_mpi() {
        return;
    }
    let data = Data::audio_video(12);
    let folder = temp();
    let out = folder.path().join("run");
    run(data.training(&out, 4).args(["--max-steps", "0"])).expect(EXIT_DONE);

    // The same error in every rank, one of the first rank, and one of another rank.
    let nowhere = folder.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let failing = |flags: &[&str]| {
        let mut program = data.training(&folder.path().join("new"), 4);
        program.args(flags);
        program
    };
    let error = one_error(&mut ranks(3, failing(&["--modality", "text"])));
    assert!(!error.contains("rank "), "{error}");
    let error = one_error(&mut ranks(3, data.training(&out, 4)));
    assert!(error.contains("is a run already"), "{error}");
    let mut two = mpirun();
    add_ranks(&mut two, 1, &failing(&[]));
    two.arg(":");
    add_ranks(
        &mut two,
        1,
        &failing(&["--set", &format!("train_mask={nowhere}")]),
    );
    let error = one_error(&mut two);
    assert!(
        error.contains("rank 1 of 2: ") && error.contains(nowhere),
        "{error}"
    );

    let mut other_settings = mpirun();
    add_ranks(&mut other_settings, 2, &failing(&[]));
    other_settings.arg(":");
    add_ranks(
        &mut other_settings,
        1,
        &failing(&["--set", "weight_decay=0.5"]),
    );
    let error = one_error(&mut other_settings);
    assert!(error.contains("rank 2 has other settings"), "{error}");
}

#[test]
fn error_of_one_rank_in_the_middle_ends_all_ranks() {
    if !has_mpi() {
        return;
    }
    let data = Data::audio_video(24);
    let folder = temp();
    let shards = names(&data.shards);
    let shard = shards
        .iter()
        .find(|name| name.starts_with("train-"))
        .unwrap();
    let path = data.shards.join(shard);
    let mut bytes = std::fs::read(&path).unwrap();
    // All pages but the first, and not the footer.
    let pages = bytes.len() / 8..bytes.len() * 7 / 8;
    bytes[pages].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let mut program = data.training(&folder.path().join("run"), 4);
    program.arg("--no-verify");
    let ran = run(&mut ranks(3, program)).expect(EXIT_USAGE);
    assert!(ran.stderr.contains("error: "), "{}", ran.stderr);
    assert!(
        ran.stderr.contains(shard.as_str()) || ran.stderr.contains("sample"),
        "{}",
        ran.stderr
    );
}

/// `srun` starts ranks too. Without its MPI each would train the whole run.
#[test]
fn srun_starts_ranks_that_find_each_other() {
    if !has_mpi() {
        return;
    }
    if let Some(reason) = slurm::lacking() {
        skip(Missing::Platform, reason);
        return;
    }
    let data = Data::audio_video(12);
    let folder = temp();
    let path = |name: &str| folder.path().join(name);
    run(&mut data.training(&path("alone"), 4)).expect(EXIT_DONE);
    let slurm = Slurm::start();
    let srun = |mpi: &str| {
        let program = data.training(&path("srun"), 4);
        let mut srun = slurm.command("srun");
        srun.args([mpi, "--kill-on-bad-exit", "-n", "3"])
            .arg(program.get_program())
            .args(program.get_args());
        run(&mut srun)
    };
    let refused = srun("--mpi=none");
    assert_ne!(refused.status.code(), Some(EXIT_DONE));
    assert!(
        refused.stderr.contains("srun has started 3 processes"),
        "{}",
        refused.stderr
    );
    assert!(!path("srun").exists());
    srun("--mpi=pmix").expect(EXIT_DONE);
    assert_near(&losses(&path("srun")), &losses(&path("alone")), "srun");
}

/// Describing and planning are done once, by the first rank.
#[test]
fn only_the_first_rank_describes_and_plans() {
    if !has_mpi() {
        return;
    }
    let data = Data::audio_video(12);
    let folder = temp();
    for flag in ["--describe", "--dry-run"] {
        let program = || {
            let mut program = data.training(&folder.path().join("run"), 4);
            program.args([flag, "--json"]);
            program
        };
        let alone = run(&mut program()).expect(EXIT_DONE);
        let together = run(&mut ranks(3, program())).expect(EXIT_DONE);
        assert_eq!(together.json(), alone.json(), "{flag}");
    }
}
