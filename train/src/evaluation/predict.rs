//! Labels for new media files.
//!
//! The files become a small dataset, which `ingest` writes as shards. The model then evaluates
//! these with whichever modalities each sample has.
//!
//! Files of one folder and one stem are one sample (`a.wav` with `a.flv`, `a.jpg` with `a.txt`).
//! The audio of a video without an audio file is that of the video, also in a run without video.

use super::{EvalOptions, Evaluator};
use crate::ingest_process;
use crate::session::Session;
use crate::settings::RunConfig;
use anyhow::{Context, Result, bail};
use arrow_array::Array;
use arrow_array::cast::AsArray;
use datasets::{InputName, Modalities, Modality, Split};
use engine::Compute;
use features::Shards;
use model::u2a::U2a;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use report::predictions::{THRESHOLD, probabilities};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use util::cli::one_line;

/// File extensions of audio without video.
const AUDIO_EXTENSIONS: [&str; 12] = [
    "wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "wma", "aif", "aiff", "weba",
];
/// File extensions of images.
const IMAGE_EXTENSIONS: [&str; 12] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "webp", "tif", "tiff", "avif", "heic",
];
/// File extensions of video; its sound is the audio of a run without video.
const VIDEO_EXTENSIONS: [&str; 15] = [
    "mp4", "mkv", "webm", "avi", "mov", "m4v", "flv", "mpg", "mpeg", "wmv", "3gp", "ogv", "ts",
    "mts", "m2ts",
];
/// File extensions of text.
const TEXT_EXTENSIONS: [&str; 3] = ["txt", "text", "md"];
/// The longest ending of a file's name that counts as its extension.
const MAX_EXTENSION: usize = 5;

/// One sample to label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MediaSample {
    /// The files of the sample.
    pub files: Vec<PathBuf>,
    /// The inputs of the run's modalities.
    pub inputs: [Option<MediaInput>; 2],
    /// What is wrong with those of its files that give no input.
    pub problems: Vec<String>,
}

impl MediaSample {
    /// Whether any file of the sample can be used.
    pub fn has_input(&self) -> bool {
        self.inputs.iter().any(Option::is_some)
    }
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
    #[serde(serialize_with = "serialize_paths")]
    pub files: Vec<PathBuf>,
    /// The modalities that the model got.
    #[serde(rename = "seen")]
    pub modalities: Vec<InputName>,
    /// The class with the largest probability. For multi-label data, all classes with a probability
    /// of at least one half.
    pub labels: Vec<String>,
    /// Every class with its probability, the largest first.
    pub probabilities: Vec<(String, f64)>,
    /// Why a modality, or the whole sample, could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Writes paths as text. A name that is not UTF-8 must not keep the others from being printed.
fn serialize_paths<S: Serializer>(files: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(files.iter().map(|file| file.to_string_lossy()))
}

/// Groups files into samples. Each sample without a text file gets `text`, if it is given. A file
/// that cannot be used is a sample of its own, or a problem of the sample that it belongs to, so
/// that it does not keep the others from being labelled.
///
/// # Errors
/// The text is empty, or the run has no encoder for text.
pub fn group_files(
    files: &[PathBuf],
    text: Option<&str>,
    modalities: impl Into<Modalities>,
) -> Result<Vec<MediaSample>> {
    let modalities = modalities.into();
    let mut samples: Vec<MediaSample> = Vec::new();
    let mut by_stem: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in files {
        let input = read_input(file, modalities);
        let (stem, m) = place(file, modalities);
        let same_stem = by_stem.get(&stem).copied();
        let is_free = |at: &usize| m.is_some_and(|m| samples[*at].inputs[m].is_none());
        let at = match same_stem.filter(is_free) {
            Some(at) => at,
            None => {
                // A file of a modality that the run does not know joins no sample.
                if m.is_some() {
                    by_stem.insert(stem, samples.len());
                }
                samples.push(MediaSample::default());
                samples.len() - 1
            }
        };
        let sample = &mut samples[at];
        sample.files.push(file.clone());
        match (input, m) {
            (Ok(input), Some(m)) => sample.inputs[m] = Some(input),
            (Ok(_), None) => {}
            (Err(problem), _) => sample
                .problems
                .push(format!("{}: {problem}", file.display())),
        }
    }
    if let Some(text) = text {
        let Some(m) = modalities.position_of(Modality::Text) else {
            bail!("--text: the run knows {modalities}, no text");
        };
        if is_empty_text(text) {
            bail!("--text: the text is empty; give some words, or leave it out");
        }
        if samples.is_empty() {
            samples.push(MediaSample::default());
        }
        for sample in &mut samples {
            sample.inputs[m].get_or_insert(MediaInput::Text(text.to_string()));
        }
    }
    let position = |modality| modalities.position_of(modality);
    if let (Some(audio), Some(video)) = (position(Modality::Audio), position(Modality::Video)) {
        for sample in &mut samples {
            if sample.inputs[audio].is_none() {
                sample.inputs[audio] = sample.inputs[video].clone();
            }
        }
    }
    Ok(samples)
}

/// The extension of a file in lower case; empty if there is none. What follows a dot within a name
/// (`Dr. Smith, take 2`, `v1.2`) is none.
fn extension(file: &Path) -> String {
    let extension = file.extension().and_then(|extension| extension.to_str());
    extension
        .filter(|e| e.len() <= MAX_EXTENSION && e.chars().all(|c| c.is_ascii_alphanumeric()))
        .filter(|e| e.chars().any(|c| c.is_ascii_alphabetic()))
        .map(str::to_lowercase)
        .unwrap_or_default()
}

/// The path of a file without its extension.
fn stem(file: &Path) -> PathBuf {
    match extension(file).is_empty() {
        true => file.to_path_buf(),
        false => file.with_extension(""),
    }
}

/// The name of the sample that a file belongs to, and the position of the input that it is; `None`
/// if the run has no such input. Of two views of a modality, files whose names end in `_b` are the
/// second, and `_a` or nothing the first.
pub(crate) fn place(file: &Path, modalities: Modalities) -> (PathBuf, Option<usize>) {
    let stem = stem(file);
    let modality = modality_of(file, modalities);
    let Some(first) = modality.and_then(|modality| modalities.position_of(modality)) else {
        return (stem, None);
    };
    if modalities.name(first).view.is_none() {
        return (stem, Some(first));
    }
    let name = stem.to_string_lossy().into_owned();
    match (name.strip_suffix("_a"), name.strip_suffix("_b")) {
        (_, Some(sample)) => (sample.into(), Some(1)),
        (Some(sample), _) => (sample.into(), Some(0)),
        (None, None) => (stem, Some(0)),
    }
}

/// The modality that a file is taken for by its extension; `None` if the extension is not known and
/// the run has text alone. A run with video takes any other file as video, one with images as an
/// image, and one with audio as audio.
fn modality_of(file: &Path, modalities: Modalities) -> Option<Modality> {
    let extension = extension(file);
    let is_one_of = |extensions: &[&str]| extensions.contains(&extension.as_str());
    let first_of = |known: &[Modality]| known.iter().copied().find(|m| modalities.has(*m));
    if is_one_of(&TEXT_EXTENSIONS) {
        Some(Modality::Text)
    } else if is_one_of(&AUDIO_EXTENSIONS) {
        Some(Modality::Audio)
    } else if is_one_of(&IMAGE_EXTENSIONS) {
        first_of(&[Modality::Image, Modality::Video]).or(Some(Modality::Image))
    } else if is_one_of(&VIDEO_EXTENSIONS) {
        first_of(&[Modality::Video, Modality::Audio]).or(Some(Modality::Video))
    } else {
        first_of(&[Modality::Video, Modality::Image, Modality::Audio])
    }
}

/// Why a file is no input of a run.
fn not_known(file: &Path, modalities: Modalities) -> String {
    let what = match modality_of(file, modalities) {
        Some(Modality::Audio) => "audio",
        Some(Modality::Video) => "video",
        Some(Modality::Image) => "images",
        Some(Modality::Text) => "text",
        None => "not known",
    };
    match &extension(file)[..] {
        "" => format!("has no extension; the run knows {modalities}"),
        extension => format!(".{extension} files are {what}; the run knows {modalities}"),
    }
}

/// The input that a file is, or what is wrong with the file.
fn read_input(file: &Path, modalities: Modalities) -> Result<MediaInput, String> {
    if file.is_dir() {
        return Err("is a folder; give its files, or label all of them with --watch".into());
    }
    if !file.is_file() {
        return Err("there is no such file".into());
    }
    let modality = modality_of(file, modalities);
    let Some(modality) = modality.filter(|modality| modalities.has(*modality)) else {
        return Err(not_known(file, modalities));
    };
    if modality != Modality::Text {
        return Ok(MediaInput::File(file.to_path_buf()));
    }
    let bytes = fs::read(file).map_err(|e| format!("cannot be read: {e}"))?;
    let text = decode_text(&bytes)?;
    if is_empty_text(&text) {
        return Err("the text is empty".into());
    }
    Ok(MediaInput::Text(text))
}

/// Decodes UTF-8, and UTF-16 with a byte-order mark. Any other encoding would be a guess.
fn decode_text(bytes: &[u8]) -> Result<String, String> {
    let wide = |read: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes[2..].as_chunks::<2>();
        let units: Vec<u16> = units.iter().copied().map(read).collect();
        let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
        text.ok_or_else(|| "is not whole UTF-16; save it as UTF-8".to_string())
    };
    match bytes {
        [0xFF, 0xFE, ..] => wide(u16::from_le_bytes),
        [0xFE, 0xFF, ..] => wide(u16::from_be_bytes),
        _ => {
            let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            let text = std::str::from_utf8(bytes).map_err(|e| {
                let line = 1 + bytes[..e.valid_up_to()]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count();
                format!("is not UTF-8 (line {line}); save it as UTF-8")
            })?;
            Ok(text.to_string())
        }
    }
}

/// Whether a text has nothing that a tokenizer would see.
fn is_empty_text(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c.is_control())
}

/// Writes the samples that have an input as shards below `folder`. Returns them, or `None` if no
/// sample could be read, and the errors by sample.
fn ingest_samples(
    folder: &Path,
    samples: &[MediaSample],
    config: &RunConfig,
) -> Result<(Option<Shards>, BTreeMap<usize, String>)> {
    if !samples.iter().any(MediaSample::has_input) {
        return Ok((None, BTreeMap::new()));
    }
    let description = write_raw_tree(folder, samples, config)?;
    let out = folder.join("shards");
    let arguments = [
        "--json",
        "--max-failures",
        "100%",
        // Many bad files before the first good one are no lost disk.
        "--max-failures-in-a-row",
        "0",
        "--out",
    ];
    let mut all = vec!["run".into(), description.into_os_string()];
    all.extend(arguments.map(Into::into));
    all.push(out.clone().into_os_string());
    let renamed = |text: String| with_user_names(text, folder, samples);
    if let Err(error) = ingest_process::run(all) {
        bail!("{}", renamed(one_line(&error)));
    }
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
        errors.extend(
            found
                .into_iter()
                .filter_map(|(id, why)| Some((id, renamed(why?)))),
        );
    }
    let shards = match rows {
        0 => None,
        _ => Some(Shards::open(&out.as_path().into())?),
    };
    Ok((shards, errors))
}

/// Lays the samples out as the raw tree of a dataset: links to the media files, a CSV table with
/// the number of each sample as its id, and a description. Returns the path of the description.
fn write_raw_tree(folder: &Path, samples: &[MediaSample], config: &RunConfig) -> Result<PathBuf> {
    let media = folder.join("media");
    fs::create_dir_all(&media)?;
    let names = || config.modalities.names();
    let columns: String = names().map(|input| format!(",{input}")).collect();
    let mut table = format!("id,label,split{columns}\n");
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    // Ingest wants a label; that of new samples is not used.
    let label = quoted(&config.classes[0]);
    let usable = samples.iter().enumerate();
    for (i, sample) in usable.filter(|(_, sample)| sample.has_input()) {
        let mut cells = Vec::new();
        for (m, input) in sample.inputs.iter().enumerate().take(names().len()) {
            cells.push(match input {
                None => String::new(),
                Some(MediaInput::Text(text)) => quoted(text),
                Some(MediaInput::File(file)) => {
                    let name = staged_name(i, m, file);
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
        "name = \"predict\"\ntable = \"table.csv\"\nraw = \"media\"\nclasses = {}\n[columns]\nid = \"id\"\nlabel = \"label\"\nsplit = \"split\"\n",
        toml::Value::Array(classes.collect())
    );
    let inputs: String = names()
        .map(|input| format!("{input} = \"{input}\"\n"))
        .collect();
    // A video alone would be taken with its audio track.
    let no_track = match config.modalities {
        Modalities::One(Modality::Video) => "audio = false\n",
        _ => "",
    };
    let description = description + &inputs + no_track;
    let path = folder.join("predict.toml");
    fs::write(&path, description)?;
    Ok(path)
}

/// The name under which a sample's file is given to `ingest`. The user's own name may hold anything,
/// commas and line ends included.
fn staged_name(sample: usize, m: usize, file: &Path) -> String {
    let extension = match extension(file) {
        none if none.is_empty() => "media".to_string(),
        extension => extension,
    };
    format!("sample-{sample}-{m}.{extension}")
}

/// A message of `ingest` with the user's names for the files.
fn with_user_names(text: String, folder: &Path, samples: &[MediaSample]) -> String {
    let mut text = text;
    for (i, sample) in samples.iter().enumerate() {
        for (m, input) in sample.inputs.iter().enumerate() {
            let Some(MediaInput::File(file)) = input else {
                continue;
            };
            let name = staged_name(i, m, file);
            if text.contains(&name) {
                let path = folder.join("media").join(&name);
                let own = file.display().to_string();
                text = text.replace(&path.display().to_string(), &own);
                text = text.replace(&name, &own);
            }
        }
    }
    text.replace(&format!("{}/", folder.display()), "")
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
        problem: {
            let problems = sample.problems.iter().chain(errors.get(&i));
            let problems: Vec<&str> = problems.map(String::as_str).collect();
            (!problems.is_empty()).then(|| problems.join("; "))
        },
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
        let inputs = config.modalities.names().zip(prediction.present);
        classification.modalities = inputs
            .filter(|(_, present)| *present)
            .map(|(input, _)| input)
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
        let views = [Modality::Image, Modality::Image];
        let (front, back) = (file("d_a.png"), file("d_b.png"));
        let got = group_files(&[back.clone(), front.clone(), jpg.clone()], None, views).unwrap();
        assert_eq!(got[0].inputs, [media(&front), media(&back)]);
        assert_eq!(got[1].inputs, [media(&jpg), None]);
        let got = group_files(std::slice::from_ref(&mp4), None, Modality::Video).unwrap();
        assert_eq!(got[0].inputs, [media(&mp4), None]);
        let vi = [Modality::Video, Modality::Image];
        let got = group_files(&[jpg.clone(), file("c.mp4")], None, vi).unwrap();
        assert_eq!(got[0].inputs[1], media(&jpg));
        let refused = |text, m| format!("{:#}", group_files(&[], Some(text), m).unwrap_err());
        assert!(refused("x", av).contains("no text"));
        assert!(refused(" \n", it).contains("--text: the text is empty"));
    }

    /// The modality that is taken, by the inputs of a run; of those that are refused the message.
    #[test]
    fn files_are_taken_by_their_extensions() {
        use Modality::{Audio, Image, Text, Video};
        let folder = tempfile::tempdir().unwrap();
        let two = Modalities::Two;
        for (name, modalities, expected) in [
            ("m.mp4", two(Audio, Text), Ok(0)),
            ("m.mkv", two(Audio, Image), Ok(0)),
            ("m.mp4", Audio.into(), Ok(0)),
            ("m.amr", Audio.into(), Ok(0)),
            ("m", two(Audio, Image), Ok(1)),
            ("m.jpg", two(Audio, Image), Ok(1)),
            ("m.mp4", two(Audio, Video), Ok(1)),
            ("m.gif", Video.into(), Ok(0)),
            ("m.md", two(Audio, Text), Ok(1)),
            (
                "m.md",
                two(Audio, Image),
                Err(".md files are text; the run"),
            ),
            ("m.png", two(Audio, Text), Err(".png files are images; the")),
            ("m.mp4", Text.into(), Err(".mp4 files are video; the run")),
            ("m.mp4", two(Image, Text), Err(".mp4 files are video; the")),
            ("m.doc", Text.into(), Err(".doc files are not known; the")),
            (
                "m",
                Text.into(),
                Err("has no extension; the run knows text"),
            ),
        ] {
            let file = folder.path().join(name);
            fs::write(&file, "some words").unwrap();
            let sample = group_files(&[file], None, modalities).unwrap().remove(0);
            match expected {
                Ok(input) => assert!(sample.inputs[input].is_some(), "{name}, {modalities}"),
                Err(problem) => {
                    let problems = &sample.problems;
                    assert!(!sample.has_input(), "{name}, {modalities}");
                    assert!(problems[0].contains(problem), "{problems:?}");
                }
            }
        }
    }

    /// Each of these files is beside a good one, which keeps its input.
    #[test]
    fn unusable_files_are_problems_of_their_own_sample() {
        let folder = tempfile::tempdir().unwrap();
        let it = [Modality::Image, Modality::Text];
        let good = folder.path().join("good.txt");
        fs::write(&good, "some words").unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        for (name, content, problem) in [
            ("latin.txt", Some(&b"ok\ncaf\xE9"[..]), "not UTF-8 (line 2)"),
            ("half.txt", Some(b"\xFF\xFEa"), "not whole UTF-16"),
            ("empty.txt", Some(b""), "the text is empty"),
            ("blank.txt", Some(b"\xEF\xBB\xBF \r\n"), "the text is empty"),
            (
                "voice.wav",
                Some(b"RIFF"),
                ".wav files are audio; the run knows image and text",
            ),
            ("gone.jpg", None, "no such file"),
            ("folder", None, "is a folder"),
        ] {
            let bad = folder.path().join(name);
            if let Some(content) = content {
                fs::write(&bad, content).unwrap();
            }
            let got = group_files(&[bad.clone(), good.clone()], None, it).unwrap();
            assert_eq!(got.len(), 2, "{name}");
            assert_eq!((&got[0].files[..], got[0].has_input()), (&[bad][..], false));
            let problem_of = &got[0].problems[..];
            assert!(
                problem_of.len() == 1 && problem_of[0].contains(name),
                "{problem_of:?}"
            );
            assert!(problem_of[0].contains(problem), "{problem_of:?}");
            assert!(got[1].has_input() && got[1].problems.is_empty(), "{name}");
        }
        // The image of a sample with a bad text is labelled without it.
        let (jpg, txt) = (
            folder.path().join("latin.jpg"),
            folder.path().join("latin.txt"),
        );
        fs::write(&jpg, "").unwrap();
        let got = group_files(&[jpg, txt], None, it).unwrap();
        assert_eq!((got.len(), got[0].problems.len()), (1, 1));
        assert!(got[0].inputs[0].is_some() && got[0].inputs[1].is_none());
    }

    #[test]
    fn text_files_are_utf_8_or_have_a_byte_order_mark() {
        for bytes in [
            &b"caf\xC3\xA9"[..],
            b"\xEF\xBB\xBFcaf\xC3\xA9",
            b"\xFF\xFEc\0a\0f\0\xE9\0",
            b"\xFE\xFF\0c\0a\0f\0\xE9",
        ] {
            assert_eq!(decode_text(bytes).unwrap(), "caf\u{e9}", "{bytes:?}");
        }
    }

    #[test]
    fn names_with_dots_and_commas_are_given_to_ingest_under_plain_ones() {
        for (name, extension_of, staged) in [
            ("Dr. Smith, take 2", "", "sample-7-1.media"),
            ("take v1.2", "", "sample-7-1.media"),
            ("a, \"b\".MP4", "mp4", "sample-7-1.mp4"),
            ("line\nend.wav", "wav", "sample-7-1.wav"),
            ("odd.m,p", "", "sample-7-1.media"),
        ] {
            let file = Path::new(name);
            assert_eq!(extension(file), extension_of, "{name:?}");
            assert_eq!(staged_name(7, 1, file), staged);
        }
        let own = |path: &str| MediaSample {
            inputs: [Some(MediaInput::File(path.into())), None],
            ..MediaSample::default()
        };
        let samples = [own("a.mp3"), own("b, c.mp3")];
        let text = "/tmp/x/media/sample-1-0.mp3 and sample-0-0.mp3 by /tmp/x/table.csv";
        assert_eq!(
            with_user_names(text.into(), Path::new("/tmp/x"), &samples),
            "b, c.mp3 and a.mp3 by table.csv"
        );
    }

    /// `serde_json` refuses paths that are not UTF-8.
    #[cfg(unix)]
    #[test]
    fn file_names_that_are_not_utf_8_are_printed() {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"caf\xE9.wav");
        let classification = Classification {
            files: vec![name.into()],
            modalities: Vec::new(),
            labels: Vec::new(),
            probabilities: Vec::new(),
            problem: None,
        };
        let json = serde_json::to_value(&classification).unwrap();
        assert_eq!(json["files"][0], "caf\u{fffd}.wav");
    }
}
