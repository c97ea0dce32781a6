//! Labels for new media: files become a small dataset of their own that `ingest` turns into shards,
//! and the run's model scores it with whichever modality each has.
//!
//! Files of one folder and one stem are one sample (`a.wav` with `a.flv`, `a.jpg` with `a.txt`). A
//! video without a sound file brings its own track.

use crate::evaluation::{self, EvalOptions};
use crate::ingest_process;
use crate::session::Session;
use crate::settings::RunConfig;
use anyhow::{Context, Result, bail};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use datasets::{Modality, Split};
use features::Shards;
use model::u2a::U2a;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use report::predictions::{THRESHOLD, probabilities};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Endings of files that hold sound alone.
const SOUND: [&str; 12] = [
    "wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "wma", "aif", "aiff", "weba",
];
/// Ending of files that hold text.
const TEXT: &str = "txt";

/// One sample to label.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// What each of the run's modalities is read from: a file, or the words themselves.
    pub sources: [Option<Source>; 2],
}

/// Where a modality comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A media file.
    File(PathBuf),
    /// Words.
    Words(String),
}

/// What the model says of one sample.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// The sample's files; none where it is text alone.
    pub files: Vec<PathBuf>,
    /// Modalities that the model saw.
    pub seen: Vec<Modality>,
    /// The likeliest class, or for multi-label data all with a probability of at least one half.
    pub labels: Vec<String>,
    /// Every class with its probability, the likeliest first.
    pub probabilities: Vec<(String, f64)>,
    /// Why a modality, or all of it, could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Sorts files (and a text for all of them) into samples.
///
/// # Errors
/// A file that is not there, or that the run's modalities have no use for.
pub fn subjects(
    files: &[PathBuf],
    text: Option<&str>,
    modalities: [Modality; 2],
) -> Result<Vec<Subject>> {
    let place = |m: Modality| modalities.iter().position(|own| *own == m);
    let mut subjects: Vec<Subject> = Vec::new();
    let mut by_stem: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in files {
        if !file.is_file() {
            bail!("{}: there is no such file", file.display());
        }
        let ending = file
            .extension()
            .map(|e| e.to_string_lossy().to_lowercase())
            .unwrap_or_default();
        let modality = if ending == TEXT {
            Modality::Text
        } else if SOUND.contains(&ending.as_str()) {
            Modality::Audio
        } else if place(Modality::Video).is_some() {
            Modality::Video
        } else {
            Modality::Image
        };
        let Some(m) = place(modality) else {
            bail!(
                "{}: is {modality}; the run knows {} and {}",
                file.display(),
                modalities[0],
                modalities[1]
            );
        };
        let source = match modality {
            Modality::Text => Source::Words(
                fs::read_to_string(file)
                    .with_context(|| format!("{}: cannot be read as text", file.display()))?,
            ),
            _ => Source::File(file.clone()),
        };
        let known = by_stem.get(&file.with_extension("")).copied();
        let at = match known.filter(|at| subjects[*at].sources[m].is_none()) {
            Some(at) => at,
            None => {
                by_stem.insert(file.with_extension(""), subjects.len());
                subjects.push(Subject {
                    files: Vec::new(),
                    sources: [None, None],
                });
                subjects.len() - 1
            }
        };
        subjects[at].files.push(file.clone());
        subjects[at].sources[m] = Some(source);
    }
    if let Some(words) = text {
        let Some(m) = place(Modality::Text) else {
            bail!(
                "--text: the run knows {} and {}, no text",
                modalities[0],
                modalities[1]
            );
        };
        if subjects.is_empty() {
            subjects.push(Subject {
                files: Vec::new(),
                sources: [None, None],
            });
        }
        for subject in &mut subjects {
            subject.sources[m].get_or_insert(Source::Words(words.to_string()));
        }
    }
    if let (Some(audio), Some(video)) = (place(Modality::Audio), place(Modality::Video)) {
        for subject in &mut subjects {
            if subject.sources[audio].is_none() {
                subject.sources[audio] = subject.sources[video].clone();
            }
        }
    }
    Ok(subjects)
}

/// Lays the samples out as a dataset in `folder` and lets `ingest` decode it. Gives the shards, none
/// where no sample could be read, and what went wrong per sample.
fn decode(
    folder: &Path,
    subjects: &[Subject],
    config: &RunConfig,
) -> Result<(Option<Shards>, BTreeMap<usize, String>)> {
    let media = folder.join("media");
    fs::create_dir_all(&media)?;
    let [m1, m2] = config.modalities;
    let mut table = format!("id,label,split,{m1},{m2}\n");
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    for (i, subject) in subjects.iter().enumerate() {
        let mut cells = Vec::new();
        for (m, source) in subject.sources.iter().enumerate() {
            cells.push(match source {
                None => String::new(),
                Some(Source::Words(words)) => quoted(words),
                Some(Source::File(file)) => {
                    let ending = file.extension().map(|e| e.to_string_lossy().into_owned());
                    let name = format!("{i}-{m}.{}", ending.as_deref().unwrap_or("media"));
                    link(&std::path::absolute(file)?, &media.join(&name))?;
                    name
                }
            });
        }
        let label = quoted(&config.classes[0]);
        table += &format!("{i},{label},test,{}\n", cells.join(","));
    }
    fs::write(folder.join("table.csv"), table)?;
    let classes = config.classes.iter().cloned().map(toml::Value::String);
    let description = format!(
        "name = \"predict\"\ntable = \"table.csv\"\nraw = \"media\"\nclasses = {}\n[columns]\nid = \"id\"\nlabel = \"label\"\nsplit = \"split\"\n{m1} = \"{m1}\"\n{m2} = \"{m2}\"\n",
        toml::Value::Array(classes.collect())
    );
    let toml = folder.join("predict.toml");
    fs::write(&toml, description)?;
    let out = folder.join("shards");
    let arguments = ["--json", "--max-failures", "100%", "--out"];
    let mut all = vec!["run".into(), toml.into_os_string()];
    all.extend(arguments.map(Into::into));
    all.push(out.clone().into_os_string());
    ingest_process::run(all)?;
    let mut problems = BTreeMap::new();
    let mut rows = 0;
    let mut files: Vec<PathBuf> = fs::read_dir(&out)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "parquet"))
    {
        let found = read_problems(file)?;
        if !file.ends_with("failures.parquet") {
            rows += found.len();
        }
        problems.extend(found.into_iter().filter_map(|(id, why)| Some((id, why?))));
    }
    let shards = match rows {
        0 => None,
        _ => Some(Shards::open(&out)?),
    };
    Ok((shards, problems))
}

/// A symbolic link, or a copy where there are none.
fn link(from: &Path, to: &Path) -> Result<()> {
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(from, to);
    #[cfg(not(unix))]
    let made = fs::copy(from, to).map(drop);
    made.with_context(|| format!("{}: cannot be linked to", from.display()))
}

/// (sample, why something of it is missing) of every row of a shard or of `failures.parquet`.
fn read_problems(path: &Path) -> Result<Vec<(usize, Option<String>)>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)
        .with_context(|| path.display().to_string())?;
    let wanted = |name: &str| name == "id" || name == "error" || name.ends_with("_error");
    let columns: Vec<usize> = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| wanted(field.name()))
        .map(|(i, _)| i)
        .collect();
    let mask = parquet::arrow::ProjectionMask::roots(builder.parquet_schema(), columns);
    let mut all = Vec::new();
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let (mut ids, mut reasons) = (None, Vec::new());
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let Some(column) = column.as_string_opt::<i32>() else {
                bail!("{}: column {} is no text", path.display(), field.name());
            };
            match field.name().as_str() {
                "id" => ids = Some(column.clone()),
                _ => reasons.push(column.clone()),
            }
        }
        let Some(ids) = ids else {
            bail!("{}: lacks the column id", path.display());
        };
        for row in 0..batch.num_rows() {
            let given = reasons.iter().filter(|c| c.is_valid(row));
            let mut why: Vec<&str> = given.map(|c| c.value(row)).collect();
            why.dedup();
            let why = (!why.is_empty()).then(|| why.join("; "));
            all.push((ids.value(row).parse()?, why));
        }
    }
    Ok(all)
}

/// Labels the samples, in their order.
pub fn predict(
    subjects: &[Subject],
    config: &RunConfig,
    model: &U2a,
    folder: &Path,
    threads: usize,
) -> Result<Vec<Answer>> {
    let (shards, problems) = decode(folder, subjects, config)?;
    let mut answers: Vec<Answer> = subjects
        .iter()
        .enumerate()
        .map(|(i, subject)| Answer {
            files: subject.files.clone(),
            seen: Vec::new(),
            labels: Vec::new(),
            probabilities: Vec::new(),
            problem: problems.get(&i).cloned(),
        })
        .collect();
    let Some(shards) = shards else {
        return Ok(answers);
    };
    let mut config = config.clone();
    // The mask is about the samples of the training.
    config.settings.train_mask = None;
    let session = Session::of(shards, &config, threads)?;
    let options = EvalOptions {
        split: Split::Test,
        missing_token: config.settings.missing_token,
        ..EvalOptions::default()
    };
    let scored = evaluation::evaluate(&session, &config, model, &options)?;
    for p in scored.predictions {
        let Some(answer) = p.id.parse().ok().and_then(|i: usize| answers.get_mut(i)) else {
            bail!("sample {} was never asked for: a bug", p.id);
        };
        let shown = config.modalities.iter().zip(p.present);
        answer.seen = shown.filter(|(_, has)| *has).map(|(m, _)| *m).collect();
        let mut all: Vec<(String, f64)> = config
            .classes
            .iter()
            .cloned()
            .zip(probabilities(&p.logits, config.multi_label))
            .collect();
        // Stable: equal probabilities keep the order of the classes.
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let chosen = if config.multi_label {
            all.iter().take_while(|(_, p)| *p >= THRESHOLD).count()
        } else {
            1
        };
        answer.labels = all.iter().take(chosen).map(|(l, _)| l.clone()).collect();
        answer.probabilities = all;
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_stem_are_one_sample() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "some words").unwrap();
            path
        };
        let (flv, wav, mp4) = (file("a.flv"), file("a.WAV"), file("b.mp4"));
        let media = |path: &PathBuf| Some(Source::File(path.clone()));
        let av = [Modality::Audio, Modality::Video];
        let got = subjects(&[flv.clone(), mp4.clone(), wav.clone()], None, av).unwrap();
        assert_eq!(got[0].sources, [media(&wav), media(&flv)]);
        assert_eq!(got[1].sources, [media(&mp4), media(&mp4)]);
        assert_eq!(got.len(), 2);
        let alone = subjects(std::slice::from_ref(&wav), None, av).unwrap();
        assert_eq!(alone[0].sources, [media(&wav), None]);

        let it = [Modality::Image, Modality::Text];
        let (jpg, txt) = (file("c.jpg"), file("c.txt"));
        let words = |w: &str| Some(Source::Words(w.into()));
        let got = subjects(&[jpg.clone(), txt], Some("others"), it).unwrap();
        assert_eq!(got[0].sources, [media(&jpg), words("some words")]);
        let got = subjects(std::slice::from_ref(&jpg), Some("others"), it).unwrap();
        assert_eq!(got[0].sources, [media(&jpg), words("others")]);
        assert_eq!(
            subjects(&[], Some("alone"), it).unwrap()[0].sources,
            [None, words("alone")]
        );
        let refused =
            |files: &[PathBuf], text, m| format!("{:#}", subjects(files, text, m).unwrap_err());
        assert!(refused(&[wav], None, it).contains("image and text"));
        assert!(refused(&[jpg], Some("x"), av).contains("no text"));
        assert!(refused(&["gone.mp4".into()], None, av).contains("gone.mp4"));
    }
}
