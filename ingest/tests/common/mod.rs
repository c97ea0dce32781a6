//! Helpers for the tests of the program `ingest`: they start it, and read what it wrote without its
//! own code.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use util::skip::{Missing, skip};

/// Returns a command that starts the program. Its environment does not move the data folder and
/// names no part of a job.
pub fn ingest() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingest"));
    for name in [
        "U2A_DATA",
        "U2A_JOB",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_STEP_ID",
        "JOB_COMPLETION_INDEX",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs ffmpeg in a folder, with arguments that are separated by blanks.
#[track_caller]
pub fn ffmpeg(folder: &Path, arguments: &str) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y"]);
    command.args(arguments.split_whitespace());
    let status = command.current_dir(folder).status().unwrap();
    assert!(status.success(), "{arguments}");
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Outcome {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Outcome {
        code: status.code(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// The exit code and the output of a command.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Returns the only line of the error. Fails unless the exit code is 2.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert_eq!(self.code, Some(2), "{self:?}");
        let lines: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| !line.starts_with('{'))
            .collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines[0].strip_prefix("error: ").unwrap()
    }

    /// Fails unless the exit code is 0.
    #[track_caller]
    pub fn ok(&self) -> &Outcome {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// Returns the folder of real media beside the checkout. Without it the test is reported as
/// skipped.
#[track_caller]
pub fn media() -> Option<PathBuf> {
    util::skip::shared("media")
}

/// Whether a program is installed. Without it the test is reported as skipped.
#[track_caller]
pub fn is_installed(program: &str) -> bool {
    let installed = Command::new(program)
        .arg("-version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !installed {
        skip(
            Missing::Platform,
            format_args!("{program} is not installed"),
        );
    }
    installed
}

/// Writes the description of a user's own dataset of video files: `clips.toml` and its table in
/// `folder`. Rows are (id, split, path).
pub fn describe_dataset(folder: &Path, raw: &Path, rows: &[(&str, &str, &str)]) -> PathBuf {
    let mut table = "clip,part,animal,file\n".to_owned();
    for (number, (id, split, file)) in rows.iter().enumerate() {
        table += &format!("{id},{split},{},{file}\n", ["cat", "dog"][number % 2]);
    }
    fs::write(folder.join("clips.csv"), table).unwrap();
    let toml = folder.join("clips.toml");
    let text = format!(
        "name = \"clips\"\ntable = \"clips.csv\"\nraw = {:?}\n[columns]\nid = \"clip\"\nlabel = \"animal\"\nsplit = \"part\"\nvideo = \"file\"\n",
        raw.to_str().unwrap()
    );
    fs::write(&toml, text).unwrap();
    toml
}

/// Writes a synthetic CREMA-D below `folder`, and returns its raw folder.
pub fn synth(folder: &Path, samples: usize) -> PathBuf {
    let raw = folder.join("raw");
    let mut command = ingest();
    command
        .args([
            "synth",
            "crema-d",
            "--samples",
            &samples.to_string(),
            "--out",
        ])
        .arg(&raw);
    run(&mut command).ok();
    raw
}

/// Returns a command that ingests CREMA-D in shards of 5 samples and with few frames, which is
/// fast.
pub fn run_crema(raw: &Path, out: &Path) -> Command {
    let mut command = ingest();
    command.args(["run", "crema-d", "--shard-rows", "5", "--frame-pool", "3"]);
    command.arg("--raw").arg(raw).arg("--out").arg(out);
    command
}

/// The folder in which a run remembers times and inodes of the raw files, which differ from run to
/// run.
pub const SOURCES: &str = ".sources";

/// Returns the bytes of every file below a folder by its path, hidden files included, but for
/// [`SOURCES`].
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with(SOURCES) {
                    folders.push(path);
                }
            } else {
                found.insert(
                    path.strip_prefix(folder).unwrap().to_owned(),
                    fs::read(path).unwrap(),
                );
            }
        }
    }
    found
}

/// Fails with the name of the first file that differs between two folders.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(bytes == &b[path], "{} differs", path.display());
    }
}

/// A row of a shard, read with arrow-rs alone.
#[derive(Debug)]
pub struct Row {
    pub id: String,
    pub split: String,
    pub label: i32,
    pub has_audio: bool,
    pub has_video: bool,
    pub mel: Option<Vec<f32>>,
    pub frames: Option<Vec<Vec<u8>>>,
    pub times: Vec<f32>,
    pub audio_seconds: Option<f32>,
    pub video_seconds: Option<f32>,
    pub error: Option<String>,
}

/// Returns all rows of all shards in a folder, by id.
pub fn rows(folder: &Path) -> BTreeMap<String, Row> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().contains("-of-") {
            for batch in batches(&path) {
                for row in 0..batch.num_rows() {
                    let row = read_row(&batch, row);
                    assert!(found.insert(row.id.clone(), row).is_none());
                }
            }
        }
    }
    found
}

/// Reads the record batches of a Parquet file.
pub fn batches(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap())
        .unwrap()
        .build()
        .unwrap();
    reader.map(Result::unwrap).collect()
}

fn read_row(batch: &RecordBatch, row: usize) -> Row {
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let text = |name: &str| {
        let cells = column(name).as_string::<i32>();
        (!cells.is_null(row)).then(|| cells.value(row).to_owned())
    };
    let seconds = |name: &str| {
        let cells = column(name).as_primitive::<Float32Type>();
        (!cells.is_null(row)).then(|| cells.value(row))
    };
    let list = |name: &str| {
        let cells = column(name).as_list::<i32>();
        (!cells.is_null(row)).then(|| cells.value(row))
    };
    let floats = |values: &dyn Array| values.as_primitive::<Float32Type>().values().to_vec();
    Row {
        id: text("id").unwrap(),
        split: text("split").unwrap(),
        label: column("label").as_primitive::<Int32Type>().value(row),
        has_audio: column("has_audio").as_boolean().value(row),
        has_video: column("has_video").as_boolean().value(row),
        mel: list("mel")
            .map(|frames| floats(&frames.as_fixed_size_list().value_slice(0, frames.len()))),
        frames: list("frames").map(|frames| {
            let bytes = frames.as_struct().column(0).as_binary::<i32>().clone();
            bytes.iter().map(|one| one.unwrap().to_vec()).collect()
        }),
        times: floats(&list("frame_times").unwrap()),
        audio_seconds: seconds("audio_seconds"),
        video_seconds: seconds("video_seconds"),
        error: text("error"),
    }
}

/// Access to the values of consecutive lists of fixed size.
trait ValueSlice {
    fn value_slice(&self, from: usize, count: usize) -> arrow_array::ArrayRef;
}

impl ValueSlice for arrow_array::FixedSizeListArray {
    fn value_slice(&self, from: usize, count: usize) -> arrow_array::ArrayRef {
        let width = self.value_length() as usize;
        self.values()
            .slice(self.value_offset_at(from), width * count)
    }
}

/// Whether the fault tests run at full length (`just test-faults`).
pub fn is_full_length() -> bool {
    std::env::var_os("U2A_FAULTS").is_some()
}

/// Reports a figure on stderr, and as a line of the file that `just test-faults` evaluates.
pub fn report_figure(name: &str, value: f64) {
    use std::io::Write;
    eprintln!("figure: {name} {value}");
    if let Some(path) = std::env::var_os("U2A_FIGURES") {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        writeln!(file, "{name}\t{value}").unwrap();
    }
}
