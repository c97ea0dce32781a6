//! Labels for new media files.
//!
//! The files become a small dataset, which `ingest` writes as shards. The model then evaluates
//! these with whichever modalities each sample has.
//!
//! Files of one folder and one stem are one sample (`a.wav` with `a.flv`, `a.jpg` with `a.txt`).
//! The audio of a video without an audio file is that of the video.

use super::{EvalOptions, Evaluator};
use crate::ingest_process;
use crate::session::Session;
use crate::settings::RunConfig;
use anyhow::{Context, Result, bail};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use datasets::{Modality, Split};
use engine::Compute;
use features::Shards;
use model::u2a::U2a;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use report::predictions::{THRESHOLD, probabilities};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// File extensions of audio without video.
const AUDIO_EXTENSIONS: [&str; 12] = [
    "wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "wma", "aif", "aiff", "weba",
];
/// File extension of text.
const TEXT_EXTENSION: &str = "txt";

/// One sample to label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaSample {
    /// The files of the sample.
    pub files: Vec<PathBuf>,
    /// The inputs of the run's modalities.
    pub inputs: [Option<MediaInput>; 2],
}

/// The input of one modality.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaInput {
    /// A media file.
    File(PathBuf),
    /// A text.
    Text(String),
}

/// The labels of one sample.
#[derive(Clone, Debug, Serialize)]
pub struct Classification {
    /// The files of the sample; none for a text without files.
    pub files: Vec<PathBuf>,
    /// The modalities that the model got.
    #[serde(rename = "seen")]
    pub modalities: Vec<Modality>,
    /// The class with the largest probability. For multi-label data, all classes with a probability
    /// of at least one half.
    pub labels: Vec<String>,
    /// Every class with its probability, the largest first.
    pub probabilities: Vec<(String, f64)>,
    /// Why a modality, or the whole sample, could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Groups files into samples. Each sample without a text file gets `text`, if it is given.
///
/// # Errors
/// A file does not exist, or the run has no encoder for it.
pub fn group_files(
    files: &[PathBuf],
    text: Option<&str>,
    modalities: [Modality; 2],
) -> Result<Vec<MediaSample>> {
    let index = |modality: Modality| modalities.iter().position(|own| *own == modality);
    let mut samples: Vec<MediaSample> = Vec::new();
    let mut by_stem: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in files {
        let modality = modality_of(file, modalities)?;
        let Some(m) = index(modality) else {
            bail!(
                "{}: is {modality}; the run knows {} and {}",
                file.display(),
                modalities[0],
                modalities[1]
            );
        };
        let input = match modality {
            Modality::Text => MediaInput::Text(
                fs::read_to_string(file)
                    .with_context(|| format!("{}: cannot be read as text", file.display()))?,
            ),
            _ => MediaInput::File(file.clone()),
        };
        let same_stem = by_stem.get(&file.with_extension("")).copied();
        let at = match same_stem.filter(|at| samples[*at].inputs[m].is_none()) {
            Some(at) => at,
            None => {
                by_stem.insert(file.with_extension(""), samples.len());
                samples.push(MediaSample::default());
                samples.len() - 1
            }
        };
        samples[at].files.push(file.clone());
        samples[at].inputs[m] = Some(input);
    }
    if let Some(text) = text {
        let Some(m) = index(Modality::Text) else {
            bail!(
                "--text: the run knows {} and {}, no text",
                modalities[0],
                modalities[1]
            );
        };
        if samples.is_empty() {
            samples.push(MediaSample::default());
        }
        for sample in &mut samples {
            sample.inputs[m].get_or_insert(MediaInput::Text(text.to_string()));
        }
    }
    if let (Some(audio), Some(video)) = (index(Modality::Audio), index(Modality::Video)) {
        for sample in &mut samples {
            if sample.inputs[audio].is_none() {
                sample.inputs[audio] = sample.inputs[video].clone();
            }
        }
    }
    Ok(samples)
}

/// The modality of a file by its extension. What is neither text nor audio is video if the run has
/// video, else an image.
fn modality_of(file: &Path, modalities: [Modality; 2]) -> Result<Modality> {
    if !file.is_file() {
        bail!("{}: there is no such file", file.display());
    }
    let extension = file
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    Ok(if extension == TEXT_EXTENSION {
        Modality::Text
    } else if AUDIO_EXTENSIONS.contains(&extension.as_str()) {
        Modality::Audio
    } else if modalities.contains(&Modality::Video) {
        Modality::Video
    } else {
        Modality::Image
    })
}

/// Writes the samples as shards below `folder`. Returns them, or `None` if no sample could be read,
/// and the errors by sample.
fn ingest_samples(
    folder: &Path,
    samples: &[MediaSample],
    config: &RunConfig,
) -> Result<(Option<Shards>, BTreeMap<usize, String>)> {
    let description = write_raw_tree(folder, samples, config)?;
    let out = folder.join("shards");
    let arguments = ["--json", "--max-failures", "100%", "--out"];
    let mut all = vec!["run".into(), description.into_os_string()];
    all.extend(arguments.map(Into::into));
    all.push(out.clone().into_os_string());
    ingest_process::run(all)?;
    let mut errors = BTreeMap::new();
    let mut rows = 0;
    let mut files: Vec<PathBuf> = fs::read_dir(&out)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "parquet"))
    {
        let found = read_errors(file)?;
        if !file.ends_with("failures.parquet") {
            rows += found.len();
        }
        errors.extend(found.into_iter().filter_map(|(id, why)| Some((id, why?))));
    }
    let shards = match rows {
        0 => None,
        _ => Some(Shards::open(&out)?),
    };
    Ok((shards, errors))
}

/// Lays the samples out as the raw tree of a dataset: links to the media files, a CSV table with
/// the number of each sample as its id, and a description. Returns the path of the description.
fn write_raw_tree(folder: &Path, samples: &[MediaSample], config: &RunConfig) -> Result<PathBuf> {
    let media = folder.join("media");
    fs::create_dir_all(&media)?;
    let [m1, m2] = config.modalities;
    let mut table = format!("id,label,split,{m1},{m2}\n");
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    // Ingest wants a label; that of new samples is not used.
    let label = quoted(&config.classes[0]);
    for (i, sample) in samples.iter().enumerate() {
        let mut cells = Vec::new();
        for (m, input) in sample.inputs.iter().enumerate() {
            cells.push(match input {
                None => String::new(),
                Some(MediaInput::Text(text)) => quoted(text),
                Some(MediaInput::File(file)) => {
                    let extension = file.extension().map(|e| e.to_string_lossy().into_owned());
                    let name = format!("{i}-{m}.{}", extension.as_deref().unwrap_or("media"));
                    link(&std::path::absolute(file)?, &media.join(&name))?;
                    name
                }
            });
        }
        table += &format!("{i},{label},test,{}\n", cells.join(","));
    }
    fs::write(folder.join("table.csv"), table)?;
    let classes = config.classes.iter().cloned().map(toml::Value::String);
    let description = format!(
        "name = \"predict\"\ntable = \"table.csv\"\nraw = \"media\"\nclasses = {}\n[columns]\nid = \"id\"\nlabel = \"label\"\nsplit = \"split\"\n{m1} = \"{m1}\"\n{m2} = \"{m2}\"\n",
        toml::Value::Array(classes.collect())
    );
    let path = folder.join("predict.toml");
    fs::write(&path, description)?;
    Ok(path)
}

/// Makes a symbolic link, or a copy on a system without symbolic links.
fn link(from: &Path, to: &Path) -> Result<()> {
    #[cfg(unix)]
    let result = std::os::unix::fs::symlink(from, to);
    #[cfg(not(unix))]
    let result = fs::copy(from, to).map(drop);
    result.with_context(|| format!("{}: cannot be linked to", from.display()))
}

/// Reads a shard or `failures.parquet`. For each row, returns the number of the sample and the
/// errors of its modalities, if there are any.
fn read_errors(path: &Path) -> Result<Vec<(usize, Option<String>)>> {
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
    let mut rows = Vec::new();
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let (mut ids, mut errors) = (None, Vec::new());
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let Some(column) = column.as_string_opt::<i32>() else {
                bail!(
                    "{}: column {} does not hold text",
                    path.display(),
                    field.name()
                );
            };
            match field.name().as_str() {
                "id" => ids = Some(column.clone()),
                _ => errors.push(column.clone()),
            }
        }
        let Some(ids) = ids else {
            bail!("{}: lacks the column id", path.display());
        };
        for row in 0..batch.num_rows() {
            let given = errors.iter().filter(|c| c.is_valid(row));
            let mut errors: Vec<&str> = given.map(|c| c.value(row)).collect();
            errors.dedup();
            let errors = (!errors.is_empty()).then(|| errors.join("; "));
            rows.push((ids.value(row).parse()?, errors));
        }
    }
    Ok(rows)
}

/// Labels samples, in their order. `folder` takes temporary files.
///
/// # Errors
/// `ingest` fails, or its shards cannot be read. A sample that cannot be read is no error: its
/// [`Classification`] names the problem.
pub fn classify(
    samples: &[MediaSample],
    config: &RunConfig,
    model: &U2a,
    folder: &Path,
    compute: &Compute,
) -> Result<Vec<Classification>> {
    let (shards, errors) = ingest_samples(folder, samples, config)?;
    let unread = |(i, sample): (usize, &MediaSample)| Classification {
        files: sample.files.clone(),
        modalities: Vec::new(),
        labels: Vec::new(),
        probabilities: Vec::new(),
        problem: errors.get(&i).cloned(),
    };
    let mut classifications: Vec<_> = samples.iter().enumerate().map(unread).collect();
    let Some(shards) = shards else {
        return Ok(classifications);
    };
    let mut config = config.clone();
    // The mask is one of the training samples.
    config.settings.train_mask = None;
    let session = Session::from_config(shards, &config, compute)?;
    let options = EvalOptions {
        split: Split::Test,
        missing_token: config.settings.missing_token,
        ..EvalOptions::default()
    };
    let evaluation = Evaluator::new(&session, &config, &options)?.run(model)?;
    for prediction in evaluation.predictions {
        let sample = prediction.id.parse::<usize>().ok();
        let Some(classification) = sample.and_then(|i| classifications.get_mut(i)) else {
            bail!("sample {} was never asked for: a bug", prediction.id);
        };
        let modalities = config.modalities.iter().zip(prediction.present);
        classification.modalities = modalities
            .filter(|(_, present)| *present)
            .map(|(modality, _)| *modality)
            .collect();
        let ranked = rank_classes(&config, &prediction.logits);
        let predicted = match config.multi_label {
            true => ranked.iter().take_while(|(_, p)| *p >= THRESHOLD).count(),
            false => 1,
        };
        let labels = ranked.iter().take(predicted).map(|(label, _)| label);
        classification.labels = labels.cloned().collect();
        classification.probabilities = ranked;
    }
    Ok(classifications)
}

/// All classes with their probabilities, the largest first.
fn rank_classes(config: &RunConfig, logits: &[f32]) -> Vec<(String, f64)> {
    let mut ranked: Vec<(String, f64)> = config
        .classes
        .iter()
        .cloned()
        .zip(probabilities(logits, config.multi_label))
        .collect();
    // The sort is stable: equal probabilities keep the order of the classes.
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked
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
        let media = |path: &PathBuf| Some(MediaInput::File(path.clone()));
        let av = [Modality::Audio, Modality::Video];
        let got = group_files(&[flv.clone(), mp4.clone(), wav.clone()], None, av).unwrap();
        assert_eq!(got[0].inputs, [media(&wav), media(&flv)]);
        assert_eq!(got[1].inputs, [media(&mp4), media(&mp4)]);
        assert_eq!(got.len(), 2);
        let alone = group_files(std::slice::from_ref(&wav), None, av).unwrap();
        assert_eq!(alone[0].inputs, [media(&wav), None]);

        let it = [Modality::Image, Modality::Text];
        let (jpg, txt) = (file("c.jpg"), file("c.txt"));
        let words = |w: &str| Some(MediaInput::Text(w.into()));
        let got = group_files(&[jpg.clone(), txt], Some("others"), it).unwrap();
        assert_eq!(got[0].inputs, [media(&jpg), words("some words")]);
        let got = group_files(std::slice::from_ref(&jpg), Some("others"), it).unwrap();
        assert_eq!(got[0].inputs, [media(&jpg), words("others")]);
        assert_eq!(
            group_files(&[], Some("alone"), it).unwrap()[0].inputs,
            [None, words("alone")]
        );
        let refused =
            |files: &[PathBuf], text, m| format!("{:#}", group_files(files, text, m).unwrap_err());
        assert!(refused(&[wav], None, it).contains("image and text"));
        assert!(refused(&[jpg], Some("x"), av).contains("no text"));
        assert!(refused(&["gone.mp4".into()], None, av).contains("gone.mp4"));
    }
}
