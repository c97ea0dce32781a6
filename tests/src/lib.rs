//! Shared parts of the end-to-end tests: the built programs, commands with a time limit, paths and
//! TensorBoard files; [`modules`], which finds circles between the modules of a crate;
//! [`s3_server`] with a [`link`] to it; a [`web_server`] of a folder and a [`publisher`]'s server;
//! [`slurm`], which starts a Slurm; and [`browser`], which opens pages.
//!
//! The tests start `ingest` and `train` as a user does and read the files that they write; nothing
//! here links either. Commands run without network access, and with `U2A_DATA` in a folder that
//! does not exist.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod browser;
pub mod link;
pub mod modules;
pub mod publisher;
pub mod s3_server;
pub mod slurm;
pub mod tensorboard;
pub mod web_server;

/// The time after which a command is killed and its test fails.
pub const TIME_LIMIT: Duration = Duration::from_secs(300);

/// The exit code of a run that worked.
pub const EXIT_DONE: i32 = 0;
/// The exit code of a run that finished, but with findings that need attention.
pub const EXIT_FINDINGS: i32 = 1;
/// The exit code for wrong usage or unusable input.
pub const EXIT_USAGE: i32 = 2;
/// In a job: the exit code for wrong usage or unusable input.
pub const EXIT_PERMANENT: i32 = 42;
/// In a job: the exit code for an error that may be gone when the command is repeated.
pub const EXIT_TEMPORARY: i32 = 74;
/// In a job: the exit code of a run that a signal has stopped.
pub const EXIT_STOPPED: i32 = 75;

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// The folder of the small golden encoders in the hub's layout, as `--weights` takes it.
pub fn weights() -> PathBuf {
    workspace().join("tests/golden/models")
}

/// The path of a program of this workspace, built in the same profile as the running test.
///
/// # Panics
/// The program has not been built; cargo does not build it for the tests of another crate.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    // target/PROFILE/deps/TEST-HASH
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in target/PROFILE/deps");
    let path = profile
        .join(name)
        .with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        path.is_file(),
        "{}: no such program; run `cargo build --workspace --bins` first, or `just test`",
        path.display()
    );
    path
}

/// A Python with the packages of tests/golden/requirements.txt: `U2A_PYTHON`, or the environment
/// that `just test-python` makes in `.venv`.
pub fn python() -> Option<PathBuf> {
    match std::env::var_os("U2A_PYTHON") {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(workspace().join(".venv/bin/python")).filter(|path| path.is_file()),
    }
}

/// Assembles the Python package `u2a_features` in a folder, for `PYTHONPATH`.
///
/// # Panics
/// The compiled module has not been built.
pub fn python_package(folder: &Path) {
    let module = binary("ingest").with_file_name("libu2a_features.so");
    assert!(
        module.is_file(),
        "{}: no such module; run `cargo build --workspace --lib` first, or `just test-python`",
        module.display()
    );
    let package = folder.join("u2a_features");
    std::fs::create_dir(&package).expect("a folder can be made in the temporary folder");
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, package.join(name)).expect("a file can be copied");
    };
    copy(&module, "_native.abi3.so");
    let source = workspace().join("python/u2a_features");
    for name in names(&source).iter().filter(|name| name.ends_with(".py")) {
        copy(&source.join(name), name);
    }
}

/// A new temporary folder, which is removed when the value is dropped.
pub fn temp() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("u2a-test-")
        .tempdir()
        .expect("a folder can be made in the temporary folder")
}

/// The result of a command.
#[derive(Debug)]
pub struct CommandOutput {
    /// The command line, for messages.
    pub line: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// Asserts the exit code; returns the result itself.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "{}\n{}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts a usage error: exit code 2, and on standard error a single line that begins with
    /// `error: ` and contains all the words.
    #[track_caller]
    pub fn expect_usage(self, words: &[&str]) -> Self {
        let ran = self.expect(EXIT_USAGE);
        let lines: Vec<&str> = ran
            .stderr
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("error: "),
            "{}\none line `error: ...` expected on stderr:\n{}",
            ran.line,
            ran.stderr
        );
        for word in words {
            assert!(
                lines[0].contains(word),
                "{}\nno '{word}' in: {}",
                ran.line,
                lines[0]
            );
        }
        ran
    }

    /// Parses standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{}\nnot JSON ({e}):\n{}", self.line, self.stdout))
    }
}

/// A command of one of the programs that uses no network and no data of the user.
pub fn command<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary(name));
    command
        .args(arguments)
        .env("U2A_DATA", std::env::temp_dir().join("u2a-no-such-data"))
        .env("HF_HUB_OFFLINE", "1")
        // Servers of tests are on this machine, which no proxy reaches.
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env_remove("HF_HOME")
        .env_remove("RUST_BACKTRACE")
        // The tests may run in a job themselves.
        .env_remove("U2A_JOB")
        .env_remove("SLURM_ARRAY_TASK_ID")
        .env_remove("SLURM_STEP_ID")
        .env_remove("JOB_COMPLETION_INDEX")
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
///
/// # Panics
/// The command cannot be started, or takes longer than [`TIME_LIMIT`].
#[track_caller]
pub fn run(command: &mut Command) -> CommandOutput {
    let line = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{line}: {e}"));
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, TIME_LIMIT);
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("a reader does not panic")).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    let status =
        status.unwrap_or_else(|| panic!("{line}: longer than {TIME_LIMIT:?}\n{stdout}\n{stderr}"));
    CommandOutput {
        line,
        status,
        stdout,
        stderr,
    }
}

/// Reads a pipe to its end on a thread, so that a full pipe never blocks the child.
fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still shown.
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}

/// Waits for the child; kills it and returns `None` if the limit passes first.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if start.elapsed() > limit {
            drop(child.kill());
            drop(child.wait());
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a command and kills it with SIGKILL as soon as `when` returns true. Returns whether it
/// had ended with exit code 0 before that.
///
/// # Panics
/// The command ended by itself with another code.
#[track_caller]
pub fn kill_when(command: &mut Command, mut when: impl FnMut() -> bool) -> bool {
    let line = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{line}: {e}"));
    let stderr = drain(child.stderr.take());
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            let stderr = stderr.join().expect("a reader does not panic");
            assert!(
                status.success(),
                "{line}: {status}\n{}",
                String::from_utf8_lossy(&stderr)
            );
            return true;
        }
        if when() {
            drop(child.kill());
            drop(child.wait());
            return false;
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Parses every line of a JSON-lines file.
#[track_caller]
pub fn json_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()))
        })
        .collect()
}

/// The sorted names of a folder's entries.
#[track_caller]
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("a folder that opens can be listed")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// A synthetic CREMA-D: its raw tree and its shards.
pub struct CremaD {
    folder: PathBuf,
    /// Removes the folder when it is dropped.
    _owned: Option<tempfile::TempDir>,
}

impl CremaD {
    /// Synthesises and ingests `samples` clips, in a folder that is removed with the value.
    #[track_caller]
    pub fn new(samples: usize) -> Self {
        let owned = temp();
        Self::make(owned.path().to_owned(), Some(owned), samples)
    }

    /// The same for all tests of a test program, which never drop it: `folder` lies in cargo's
    /// folder for temporary files.
    #[track_caller]
    pub fn shared(folder: &Path, samples: usize) -> Self {
        // An earlier run of the program may have left it.
        drop(std::fs::remove_dir_all(folder));
        std::fs::create_dir_all(folder).expect("a folder can be made in cargo's folder");
        Self::make(folder.to_owned(), None, samples)
    }

    #[track_caller]
    fn make(folder: PathBuf, owned: Option<tempfile::TempDir>, samples: usize) -> Self {
        let data = CremaD {
            folder,
            _owned: owned,
        };
        let samples = samples.to_string();
        let (raw, shards) = (data.raw(), data.shards());
        run(command(
            "ingest",
            [
                "synth",
                "crema-d",
                "--samples",
                &samples,
                "--seed",
                "1",
                "--out",
            ],
        )
        .arg(&raw))
        .expect(EXIT_DONE);
        run(command("ingest", ["run", "crema-d", "--raw"])
            .arg(&raw)
            .arg("--out")
            .arg(&shards))
        .expect(EXIT_DONE);
        data
    }

    /// The folder of the raw tree.
    pub fn raw(&self) -> PathBuf {
        self.folder.join("raw")
    }

    /// The folder of the shards.
    pub fn shards(&self) -> PathBuf {
        self.folder.join("shards")
    }
}

/// Whether the long versions of the fault tests run, as in `just test-faults`.
pub fn is_full_length() -> bool {
    std::env::var_os("U2A_FAULTS").is_some()
}

/// Reports a figure on standard error, and as a line of the file from which `just test-faults`
/// makes its table. The name begins with `sum` or `max`, which says how figures of one name are
/// combined.
pub fn report_figure(name: &str, value: f64) {
    use std::io::Write;
    eprintln!("figure: {name} {value}");
    if let Some(path) = std::env::var_os("U2A_FIGURES") {
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path);
        let written = file.and_then(|mut file| writeln!(file, "{name}\t{value}"));
        written.expect("the file of figures can be written");
    }
}

/// Sends a signal, such as `STOP`, to a process that a test has started.
pub fn send_signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(process.to_string())
        .status();
    assert!(sent.is_ok(), "the program kill cannot be started");
}

/// The resources that a process uses, as `/proc` shows them.
#[derive(Debug)]
pub struct ProcessUsage {
    /// Resident memory in MiB.
    pub memory_mib: f64,
    /// The number of open files.
    pub open_files: usize,
    /// The ids of its child processes.
    pub children: Vec<u32>,
}

/// The resources that a process uses. Returns `None` if it has ended.
pub fn process_usage(process: u32) -> Option<ProcessUsage> {
    let proc = PathBuf::from(format!("/proc/{process}"));
    let status = std::fs::read_to_string(proc.join("status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    let open_files = std::fs::read_dir(proc.join("fd")).ok()?.count();
    let tasks = std::fs::read_dir(proc.join("task")).ok()?.flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children = lists
        .flat_map(|list| {
            let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect();
    Some(ProcessUsage {
        memory_mib: kib / 1024.0,
        open_files,
        children,
    })
}

/// The folder in which an ingest remembers times and inodes of the raw files, which differ from run
/// to run.
pub const SOURCES: &str = ".sources";

/// The bytes of every file below a folder, by its path relative to the folder, but for [`SOURCES`].
pub fn contents(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        if path.ends_with(SOURCES) {
            continue;
        }
        if path.is_dir() {
            left.extend(names(&path).into_iter().map(|name| path.join(name)));
        } else {
            let inner = path
                .strip_prefix(folder)
                .expect("the file lies in the folder")
                .to_owned();
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            found.insert(inner, bytes);
        }
    }
    found
}

/// Asserts that two folders have the same files with the same bytes, and reports the number of
/// files that differ.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    let differ = a.iter().filter(|(path, bytes)| b.get(*path) != Some(bytes));
    let differ: Vec<_> = differ.map(|(path, _)| path).collect();
    report_figure("sum bytes that differ", differ.len() as f64);
    assert!(differ.is_empty(), "{differ:?}");
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
}
