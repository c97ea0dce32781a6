//! Ingest and training as jobs of a real Slurm, which the tests start: the scripts that
//! `ingest cluster slurm` and `train cluster slurm` print, the jobs of `train reproduce --cluster`,
//! and the lines of the README.
//!
//! The tests are ignored because they start daemons as root; `just test-slurm` runs them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::slurm::{self, Slurm};
use tests::{
    EXIT_DONE, EXIT_USAGE, assert_same, binary, command, json_lines, kill_when, names, run,
    send_signal, temp, weights, workspace,
};
use util::skip::{Missing, skip};

/// The number of parts of each array.
const PARTS: usize = 8;

/// Starts a Slurm, or reports the test as skipped.
fn start() -> Option<Slurm> {
    if let Some(reason) = slurm::lacking() {
        skip(Missing::Platform, reason);
        return None;
    }
    Some(Slurm::start())
}

/// A synthetic CREMA-D in a folder whose name a script could misread.
struct Data {
    folder: tempfile::TempDir,
}

impl Data {
    fn new(samples: usize) -> Data {
        let data = Data { folder: temp() };
        fs::create_dir(data.path("it's a \"folder\"")).unwrap();
        let samples = samples.to_string();
        let synth = ["synth", "crema-d", "--samples", &samples, "--out"];
        run(command("ingest", synth).arg(data.raw())).expect(EXIT_DONE);
        data
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn raw(&self) -> PathBuf {
        self.path("it's a \"folder\"/raw $HOME")
    }

    /// Ingests everything in one process.
    fn ingest_whole(&self) -> PathBuf {
        let out = self.path("whole");
        run(command("ingest", ["run", "crema-d"])
            .args(SMALL)
            .arg("--raw")
            .arg(self.raw())
            .arg("--out")
            .arg(&out))
        .expect(EXIT_DONE);
        out
    }

    /// Prints the script of a job array into a file, and returns the file and the output folder.
    fn script(&self, name: &str, raw: &Path) -> (PathBuf, PathBuf) {
        let out = self.path(&format!("it's a \"folder\"/{name}"));
        let parts = PARTS.to_string();
        let mut print = command("ingest", ["cluster", "slurm", "crema-d", "--parts", &parts]);
        print.args(["--cpus", "1"]).args(SMALL);
        print.arg("--raw").arg(raw).arg("--out").arg(&out);
        // The data folder of the test does not exist; the script would give it to the job.
        print.env_remove("U2A_DATA").current_dir(self.folder.path());
        let printed = run(&mut print).expect(EXIT_DONE).stdout;
        let script = self.path(&format!("{name} it's.sh"));
        fs::write(&script, printed).unwrap();
        (script, out)
    }
}

/// Settings that make many small shards.
const SMALL: [&str; 4] = ["--shard-rows", "2", "--frame-pool", "3"];

/// Runs a printed script in a shell, which submits the array and the finishing job. Returns the ids
/// of both.
fn submit(slurm: &Slurm, script: &Path) -> (String, String) {
    let mut shell = slurm.command("sh");
    let submitted = run(shell.arg(script).current_dir(script.parent().unwrap())).expect(EXIT_DONE);
    let mut words = submitted.stderr.split_whitespace();
    let array = words.find(|word| word.parse::<u32>().is_ok()).unwrap();
    (array.to_owned(), submitted.stdout.trim().to_owned())
}

/// Whether a part is decoding: it has begun a shard. Returns its process.
fn decoding(out: &Path, part: usize) -> Option<u32> {
    let lock = out.join(format!(".ingest-{part}-of-{PARTS}.lock"));
    let process = fs::read_to_string(lock).ok()?.parse().ok()?;
    // The shards of a part are those whose number modulo the number of parts is its own, and the
    // training shards come first.
    let is_own = |name: &String| {
        let number = name.strip_prefix(".train-").and_then(|rest| rest.get(..5));
        let number = number.and_then(|number| number.parse::<usize>().ok());
        name.ends_with(".tmp") && number.is_some_and(|number| number % PARTS == part)
    };
    names(out).iter().any(is_own).then_some(process)
}

#[test]
#[ignore = "starts daemons as root: just test-slurm"]
fn interrupted_array_makes_the_bytes_of_one_run() {
    let Some(slurm) = start() else { return };
    let data = Data::new(96);
    let whole = data.ingest_whole();
    let (script, out) = data.script("array", &data.raw());
    run(slurm.command("sbatch").arg("--test-only").arg(&script)).expect(EXIT_DONE);
    let (array, finish) = submit(&slurm, &script);

    // One part gets the signal that Slurm sends before the time limit, another one is killed.
    let task = |part: usize| format!("{array}_{part}");
    slurm.wait_until("two parts decode", || {
        decoding(&out, 2).is_some() && decoding(&out, 5).is_some()
    });
    slurm
        .call("scancel", ["--signal=TERM", "--batch", &task(2)])
        .expect(EXIT_DONE);
    send_signal(decoding(&out, 5).expect("a part of seven shards"), "KILL");
    // The node is drained while the two wait in the queue and the others run.
    slurm.drain(true);
    for part in [2, 5] {
        slurm.wait_until("a part is back in the queue", || {
            slurm.job(&task(part)).state == "PENDING"
        });
    }
    for part in [0, 1, 3, 4, 6, 7] {
        let job = slurm.wait_for(&task(part));
        assert_eq!(
            (job.state.as_str(), job.restarts),
            ("COMPLETED", 0),
            "{part}"
        );
    }
    assert_eq!(slurm.job(&task(2)).state, "PENDING");
    assert!(!out.join("manifest.json").exists());
    slurm.drain(false);
    for part in [2, 5] {
        let job = slurm.wait_for(&task(part));
        assert_eq!(
            (job.state.as_str(), job.restarts),
            ("COMPLETED", 1),
            "{part}"
        );
    }
    let job = slurm.wait_for(&finish);
    assert_eq!(
        (job.state.as_str(), job.exit_code.as_str()),
        ("COMPLETED", "0:0")
    );
    assert_same(&whole, &out);

    // The same script again finds everything done.
    let (_, finish) = submit(&slurm, &script);
    assert_eq!(slurm.wait_for(&finish).state, "COMPLETED");
    assert_same(&whole, &out);
}

#[test]
#[ignore = "starts daemons as root: just test-slurm"]
fn exit_codes_reach_slurm() {
    let Some(slurm) = start() else { return };
    let data = Data::new(96);
    let (script, _) = data.script("no raw folder", &data.path("no such folder"));
    let (array, finish) = submit(&slurm, &script);
    let job = slurm.wait_for(&format!("{array}_3"));
    assert_eq!(
        (job.state.as_str(), job.exit_code.as_str()),
        ("FAILED", "42:0")
    );
    assert_eq!(job.restarts, 0);
    // What waits for the parts is ended, not kept in the queue for ever.
    assert_eq!(slurm.wait_for(&finish).state, "CANCELLED");

    // A script of the user's own, which leaves the rest to Slurm.
    let out = data.path("own");
    let own = data.path("own.sh");
    let line = format!(
        "#!/bin/sh\nexport U2A_JOB=1\nexec '{}' run crema-d {} --workers 1 --raw \"{}\" --out '{}'\n",
        binary("ingest").display(),
        SMALL.join(" "),
        data.path("raw").display(),
        out.display()
    );
    std::os::unix::fs::symlink(data.raw(), data.path("raw")).unwrap();
    fs::write(&own, line).unwrap();
    let id = slurm.submit(data.folder.path(), &["--no-requeue", own.to_str().unwrap()]);
    slurm.wait_until("the job decodes", || {
        out.is_dir() && names(&out).iter().any(|name| name.ends_with(".tmp"))
    });
    slurm
        .call("scancel", ["--signal=TERM", "--batch", &id])
        .expect(EXIT_DONE);
    let job = slurm.wait_for(&id);
    assert_eq!(
        (job.state.as_str(), job.exit_code.as_str()),
        ("FAILED", "75:0")
    );

    // A job that the user cancels stops by itself and does not come back.
    let (script, out) = data.script("cancelled", &data.raw());
    let (array, finish) = submit(&slurm, &script);
    slurm.wait_until("a part decodes", || decoding(&out, 1).is_some());
    slurm.call("scancel", [&array, &finish]).expect(EXIT_DONE);
    for id in [format!("{array}_1"), finish] {
        assert_eq!(slurm.wait_for(&id).state, "CANCELLED");
    }
    slurm.wait_until("the queue is empty", || {
        slurm.call("squeue", ["--noheader"]).stdout.is_empty()
    });
}

/// The tasks of `srun` are parts; the script of a batch job with several tasks is none.
#[test]
#[ignore = "starts daemons as root: just test-slurm"]
fn tasks_of_srun_are_parts() {
    let Some(slurm) = start() else { return };
    let data = Data::new(32);
    let whole = data.ingest_whole();
    let ingest = |command: &mut Command, out: &Path| {
        command.arg(binary("ingest")).args(["run", "crema-d"]);
        command.args(SMALL).arg("--raw").arg(data.raw());
        command.arg("--out").arg(out);
    };
    let out = data.path("tasks");
    let mut tasks = slurm.command("srun");
    ingest(tasks.arg("--ntasks=4"), &out);
    let ran = run(&mut tasks).expect(EXIT_DONE);
    assert!(
        ran.stderr.contains("part 3/4 of the shards"),
        "{}",
        ran.stderr
    );
    let mut finish = slurm.command("srun");
    ingest(&mut finish, &out);
    run(finish.arg("--finish")).expect(EXIT_DONE);
    assert_same(&whole, &out);

    let out = data.path("batch");
    let script = data.path("batch.sh");
    fs::write(&script, "#!/bin/sh\nexec \"$@\"\n").unwrap();
    let mut batch = slurm.command("sbatch");
    batch.args(["--wait", "--ntasks=8", "--output=batch.log"]);
    batch.current_dir(data.folder.path()).arg(&script);
    ingest(&mut batch, &out);
    run(&mut batch).expect(EXIT_DONE);
    assert_same(&whole, &out);
}

/// The indented lines of the README that begin with `just cluster` or use what such a line made.
fn readme_lines() -> Vec<String> {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    "));
    let of_clusters = lines.filter(|line| line.contains("just cluster") || line.contains("sbatch"));
    of_clusters.map(str::to_owned).collect()
}

/// Makes a folder in which `just cluster SCHEDULER PROGRAM` calls the programs of this test, as the
/// recipe calls those of a release.
fn just_of_this_build(folder: &Path) {
    let programs = binary("ingest");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = cluster ] || exit 9\nprogram=$3 scheduler=$2\nshift 3\nexec '{}'/\"$program\" cluster \"$scheduler\" \"$@\"\n",
        programs.parent().unwrap().display()
    );
    let path = folder.join("just");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Lays the golden encoders out as the cache of the Hugging Face hub.
fn fill_hub_cache(home: &Path) {
    let commit = "0".repeat(40);
    for owned in [
        "openai/clip-vit-base-patch16",
        "MIT/ast-finetuned-audioset-10-10-0.4593",
    ] {
        let (_, name) = owned.split_once('/').unwrap();
        let cached = home.join(format!("hub/models--{}", owned.replace('/', "--")));
        let snapshot = cached.join("snapshots").join(&commit);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(cached.join("refs")).unwrap();
        fs::write(cached.join("refs/main"), &commit).unwrap();
        for file in names(&weights().join(name)) {
            fs::copy(weights().join(name).join(&file), snapshot.join(&file)).unwrap();
        }
    }
}

/// The lines of the README, as they stand there: ingest as an array, then a training that waits for
/// it, is stopped and continues.
#[test]
#[ignore = "starts daemons as root: just test-slurm"]
fn lines_of_the_readme_work() {
    let Some(slurm) = start() else { return };
    let lines = readme_lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let folder = temp();
    let (data, programs) = (folder.path().join("data"), folder.path().join("bin"));
    fs::create_dir(&programs).unwrap();
    just_of_this_build(&programs);
    fill_hub_cache(&folder.path().join("hub home"));
    let synth = ["synth", "crema-d", "--samples", "24", "--out"];
    run(command("ingest", synth).arg(data.join("raw/crema-d"))).expect(EXIT_DONE);

    let path = std::env::var("PATH").unwrap();
    let mut shell = slurm.command("sh");
    shell
        .args(["-euc", &lines.join("\n")])
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}:/usr/sbin", programs.display()))
        .env("U2A_DATA", &data)
        .env("HF_HOME", folder.path().join("hub home"));
    let submitted = run(&mut shell).expect(EXIT_DONE);
    let id = submitted.stdout.split_whitespace().last().unwrap();
    // Pre-empted once it has a checkpoint to continue from: Slurm itself requeues the job.
    let trained = folder.path().join("runs/first");
    slurm.wait_until("the training has a checkpoint", || {
        trained.is_dir()
            && names(&trained)
                .iter()
                .any(|name| name.starts_with("checkpoint-"))
    });
    slurm.call("scontrol", ["requeue", id]).expect(EXIT_DONE);
    let job = slurm.wait_for(id);
    let log = fs::read_to_string(folder.path().join(format!("slurm-{id}.out"))).unwrap();
    assert_eq!(
        (job.state.as_str(), job.restarts),
        ("COMPLETED", 1),
        "{log}"
    );
    let steps: Vec<u64> = json_lines(&trained.join("metrics.jsonl"))
        .iter()
        .filter(|line| line["loss"].is_number())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    let all: Vec<u64> = (1..=steps.len() as u64).collect();
    assert_eq!(steps, all, "every step is logged once");
    assert!(data.join("shards/crema-d/manifest.json").is_file());
}

/// The work behind a table as jobs: what is finished gets no job, what failed is submitted
/// again, and the table is that of one process.
#[test]
#[ignore = "starts daemons as root: just test-slurm"]
fn jobs_reproduce_a_table() {
    let Some(slurm) = start() else { return };
    let folder = temp();
    let (alone, jobs) = (folder.path().join("alone"), folder.path().join("it's jobs"));
    let reproduce = |out: &Path| {
        let mut train = slurm.command(binary("train"));
        train.args(["reproduce", "table4", "--scale", "small", "--samples", "32"]);
        train.args(["--seeds", "1", "--dataset", "crema-d", "--set", "epochs=2"]);
        train.arg("--out").arg(out).current_dir(folder.path());
        train
    };
    run(&mut reproduce(&alone)).expect(EXIT_DONE);

    // One run is trained before, by a process that is stopped in the second.
    let runs = jobs.join("runs");
    let two = || runs.is_dir() && names(&runs).len() == 2;
    let mut first = reproduce(&jobs);
    assert!(!kill_when(&mut first, two));

    let submit = || {
        let mut train = reproduce(&jobs);
        train.args(["--cluster", "slurm", "--cpus", "2", "--json"]);
        run(&mut train)
    };
    let submitted = submit().expect(EXIT_DONE).json()["jobs"].clone();
    let id = |array: &Value| array["id"].as_str().unwrap().to_owned();
    let train = id(&submitted["train"]);
    assert_eq!(
        submitted["train"]["runs"],
        json!([1, 2, 3, 4, 5]),
        "{submitted}"
    );
    // The same command again would do the same work twice.
    submit().expect_usage(&["still in the queue", "scancel"]);

    // One training is killed with its script: its evaluation never begins, and the page says so.
    let task = format!("{train}_3");
    slurm.wait_until("a run trains", || slurm.job(&task).state == "RUNNING");
    let kill = ["--signal=KILL", "--full", &task];
    slurm.call("scancel", kill).expect(EXIT_DONE);
    let page = |submitted: &Value| {
        let job = slurm.wait_for(submitted["page"].as_str().unwrap());
        (job.state, job.exit_code)
    };
    let ended = |state: &str, code: &str| (state.to_owned(), code.to_owned());
    assert_eq!(page(&submitted), ended("FAILED", "1:0"));

    // The same command again submits what is left.
    let submitted = submit().expect(EXIT_DONE).json()["jobs"].clone();
    assert_eq!(submitted["train"]["runs"], json!([3]), "{submitted}");
    assert_eq!(page(&submitted), ended("COMPLETED", "0:0"));
    for file in ["table4/table4.csv", "table4/table4.md"] {
        let read = |out: &Path| fs::read_to_string(out.join(file)).unwrap();
        assert_eq!(read(&alone), read(&jobs), "{file}");
    }
    // Nothing is left to submit: the page is written at once.
    let again = submit().expect(EXIT_DONE);
    assert!(again.json()["files"].is_array(), "{}", again.stdout);
}

/// Printing needs no Slurm.
#[test]
fn wrong_flags_are_refused_before_a_job_waits_for_nodes() {
    let refused = |program: &str, line: &str, words: &[&str]| {
        run(&mut command(program, line.split(' '))).expect_usage(words);
    };
    refused("ingest", "cluster slurm crema", &["crema-d"]);
    refused(
        "ingest",
        "cluster slurm crema-d --overwrite",
        &["--overwrite"],
    );
    refused("ingest", "cluster slurm crema-d --part 0/2", &["--part"]);
    refused(
        "ingest",
        "cluster slurm crema-d --wrokers 2",
        &["--wrokers"],
    );
    refused("ingest", "cluster slurm crema-d --parts 0", &["--parts"]);
    refused("ingest", "cluster k8s crema-d --volume data", &["--image"]);
    refused("ingest", "cluster pbs crema-d", &["pbs"]);
    refused("train", "cluster slurm crema-d --epohcs 2", &["--epohcs"]);
    let option = "cluster slurm crema-d --sbatch=partition=long";
    refused("train", option, &["--sbatch"]);
    let ran = run(&mut command(
        "ingest",
        ["cluster", "slurm", "crema-d", "--finish"],
    ));
    ran.expect(EXIT_USAGE);
}
