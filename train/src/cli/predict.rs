//! `train predict`: labels new media files, once or as they arrive in a folder.

use super::shared::{ComputeArgs, print_device_of_run, stop_flag};
use crate::evaluation::predict::{Classification, MediaSample, classify, group_files, place};
use crate::ingest_process;
use crate::session;
use crate::settings::RunConfig;
use crate::training::checkpoint;
use anyhow::{Context, Result, bail};
use clap::Args;
use datasets::Modalities;
use engine::Compute;
use model::u2a::U2a;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use util::cli::EXIT_FINDINGS;
use util::cli::one_line;
use util::outln;

/// Time between two listings of a watched folder.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  train predict runs/first clip.mp4 voice.wav
  train predict runs/food photo.jpg --text 'a bowl of ramen'
  train predict runs/first --watch incoming/ --json";

/// Label new media files with the model of a run; any modality may be missing
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct PredictArgs {
    /// Run folder
    run: PathBuf,
    /// Media files; files that differ only in their extension are one sample
    files: Vec<PathBuf>,
    /// Text of each sample that has no text file
    #[arg(long)]
    text: Option<String>,
    /// Label the files of this folder, and each one that arrives later, until interrupted; a file
    /// waits for others of its sample that arrive within half a second
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// Classes that are printed for each sample
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// Name of a checkpoint's folder in the run folder [default: best, else the newest]
    #[arg(long)]
    checkpoint: Option<String>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Give the same numbers on every x86-64 processor with AVX2 and with any number of threads
    /// [default: as the training]
    #[arg(long)]
    reproducible: bool,
    /// Print the result as JSON: one list, or with --watch one line per sample
    #[arg(long)]
    json: bool,
}

/// A trained model with its configuration.
struct Predictor {
    config: RunConfig,
    model: U2a,
    compute: Compute,
}

impl Predictor {
    fn predict(&self, files: &[PathBuf], text: Option<&str>) -> Result<Vec<Classification>> {
        let samples = group_files(files, text, self.config.modalities)?;
        self.classify(&samples)
    }

    fn classify(&self, samples: &[MediaSample]) -> Result<Vec<Classification>> {
        let folder = TemporaryFolder::new()?;
        classify(samples, &self.config, &self.model, &folder.0, &self.compute)
    }
}

/// A folder that is removed when the value is dropped.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> Result<TemporaryFolder> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("u2a-predict-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("{}: cannot be made", path.display()))?;
        Ok(TemporaryFolder(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Nothing can be done about a temporary folder that cannot be removed.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Runs the subcommand.
pub fn run(args: &PredictArgs) -> Result<ExitCode> {
    let mut config = RunConfig::read(&args.run)?;
    let trained_in = config.settings.precision;
    if args.files.is_empty() && args.text.is_none() && args.watch.is_none() {
        bail!("{}: give files, --text or --watch DIR", args.run.display());
    }
    // Wrong files are reported before the model is built, which may take a minute.
    let samples = group_files(&args.files, args.text.as_deref(), config.modalities)?;
    if let Some(first) = samples.iter().flat_map(|sample| &sample.problems).next()
        && args.watch.is_none()
        && !samples.iter().any(MediaSample::has_input)
    {
        match samples.len() {
            1 => bail!("{first}"),
            n => bail!("{first}; none of the {n} samples can be used"),
        }
    }
    ingest_process::program()?;
    let compute = args.compute.open_for_run(args.reproducible, &mut config)?;
    let checkpoint = checkpoint::named_or_default(&args.run, args.checkpoint.as_deref())?;
    let mut model = session::build_model(&config, &compute)?;
    checkpoint::read_model(&checkpoint, &mut model).map_err(checkpoint::with_remedy(
        &args.run,
        &checkpoint,
        false,
    ))?;
    print_device_of_run(&compute, trained_in, &config.settings);
    let predictor = Predictor {
        config,
        model,
        compute,
    };
    let mut unreadable = false;
    if !args.files.is_empty() || args.text.is_some() {
        let classifications = predictor.classify(&samples)?;
        unreadable = classifications.iter().any(|c| c.modalities.is_empty());
        if args.json && args.watch.is_none() {
            outln!("{}", json!(classifications))?;
        } else {
            print(&classifications, args)?;
        }
    }
    if let Some(folder) = &args.watch {
        watch(folder, &predictor, args)?;
    }
    Ok(match unreadable {
        true => ExitCode::from(EXIT_FINDINGS),
        false => ExitCode::SUCCESS,
    })
}

/// Prints one line per sample.
fn print(classifications: &[Classification], args: &PredictArgs) -> Result<()> {
    for classification in classifications {
        if args.json {
            outln!("{}", json!(classification))?;
            continue;
        }
        let name = match &classification.files[..] {
            [] => "(text)".to_string(),
            files => files
                .iter()
                .map(|file| file.display().to_string())
                .collect::<Vec<_>>()
                .join(" + "),
        };
        if classification.modalities.is_empty() {
            let problem = classification.problem.as_deref();
            let problem = problem.unwrap_or("it holds none of the run's modalities");
            outln!("{name}  cannot be read: {problem}")?;
            continue;
        }
        let modalities: Vec<&str> = classification
            .modalities
            .iter()
            .map(|m| m.as_str())
            .collect();
        let top: Vec<String> = classification
            .probabilities
            .iter()
            .take(args.top.max(1))
            .map(|(label, p)| format!("{label} {:.1} %", 100.0 * p))
            .collect();
        let problem = classification
            .problem
            .as_ref()
            .map_or_else(String::new, |problem| format!("  ({problem})"));
        outln!(
            "{name}  {}  {}{problem}",
            modalities.join("+"),
            top.join(", ")
        )?;
    }
    Ok(())
}

/// Labels the files of a folder until interrupted. A file is complete once its size is the same in
/// two listings and no other file of its sample is new or has grown, and is labelled once.
fn watch(folder: &Path, predictor: &Predictor, args: &PredictArgs) -> Result<()> {
    let stop = stop_flag()?;
    let mut states = BTreeMap::new();
    eprintln!("watching {}; interrupt to stop", folder.display());
    while !stop.load(Ordering::Relaxed) {
        let modalities = predictor.config.modalities;
        let complete = complete_files(folder, modalities, &mut states)?;
        if !complete.is_empty() {
            match predictor.predict(&complete, args.text.as_deref()) {
                Ok(classifications) => print(&classifications, args)?,
                Err(error) => eprintln!("error: {}", one_line(&error)),
            }
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
    Ok(())
}

/// What is known of a file in a watched folder.
enum FileState {
    /// The file may still be growing; it had this size in the last listing.
    Growing(u64),
    /// The file has been returned as complete.
    Complete,
}

/// Lists a folder, and returns the files that have become complete since the last listing.
fn complete_files(
    folder: &Path,
    modalities: Modalities,
    states: &mut BTreeMap<PathBuf, FileState>,
) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{}: cannot be listed", folder.display()))?;
    let mut files: Vec<(PathBuf, u64)> = Vec::new();
    for entry in entries {
        let entry = entry?;
        // A file may be removed after it was listed.
        let Ok(metadata) = std::fs::metadata(entry.path()) else {
            continue;
        };
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if metadata.is_file() && !hidden {
            files.push((entry.path(), metadata.len()));
        }
    }
    files.sort();
    // Files that did not change since the last listing, and the samples of those that did.
    let (mut still, mut changing) = (Vec::new(), BTreeSet::new());
    let sample = |path: &Path| place(path, modalities).0;
    for (path, size) in files {
        match states.get(&path) {
            Some(FileState::Complete) => {}
            Some(FileState::Growing(last)) if *last == size => {
                if size > 0 {
                    still.push(path);
                }
            }
            _ => {
                changing.insert(sample(&path));
                states.insert(path, FileState::Growing(size));
            }
        }
    }
    still.retain(|path| !changing.contains(&sample(path)));
    states.extend(still.iter().map(|path| (path.clone(), FileState::Complete)));
    Ok(still)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::Modality;
    use std::fs;

    #[test]
    fn watched_files_of_one_sample_wait_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut states = BTreeMap::new();
        let mut list = || -> Vec<String> {
            let modalities = [Modality::Audio, Modality::Image].into();
            let files = complete_files(folder.path(), modalities, &mut states).unwrap();
            let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
            files.iter().map(name).collect()
        };
        let write = |name: &str, content: &str| fs::write(folder.path().join(name), content);
        let none: [&str; 0] = [];
        write("a.jpg", "1").unwrap();
        write("b.jpg", "1").unwrap();
        assert_eq!(list(), none);
        write("a.wav", "1").unwrap();
        assert_eq!(list(), ["b.jpg"], "the sound of a is new");
        write("a.wav", "12").unwrap();
        assert_eq!(list(), none, "the sound of a grows");
        assert_eq!(list(), ["a.jpg", "a.wav"]);
        // A file that stays empty keeps no other waiting.
        write("c.jpg", "1").unwrap();
        write("c.wav", "").unwrap();
        assert_eq!(list(), none);
        assert_eq!(list(), ["c.jpg"]);
        assert_eq!(list(), none, "each file is labelled once");
    }
}
