//! Reads the `.toml` that describes a user's own dataset, in the format of
//! [`custom`](crate::custom).
//!
//! The keys are read one by one and not by `derive`, so that every mistake gives an error of one
//! line that names the key.

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use util::suggest::did_you_mean;

use crate::encoding;
use crate::error::Error;
use crate::facts;
use crate::modalities::{InputName, Modalities, Modality, View};

/// The share of the rows that is drawn for the test by default.
const DEFAULT_TEST_SHARE: f64 = 0.2;

/// The share of the rows that is drawn for validation by default.
const DEFAULT_VAL_SHARE: f64 = 0.0;

const TOP_KEYS: [&str; 9] = [
    "name", "title", "license", "table", "raw", "encoding", "classes", "columns", "splits",
];
const COLUMN_KEYS: [&str; 5] = ["id", "label", "labels", "separator", "split"];
const SPLIT_KEYS: [&str; 2] = ["val", "test"];

/// A checked description; paths are relative to the working directory or absolute.
pub(super) struct Description {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) license: String,
    pub(super) table: PathBuf,
    pub(super) raw: PathBuf,
    /// The label of the encoding of texts that are no UTF-8.
    pub(super) encoding: Option<String>,
    pub(super) classes: Option<Vec<String>>,
    /// The column of the ids.
    pub(super) id: String,
    pub(super) labels: Labels,
    pub(super) splits: Splits,
    pub(super) modalities: Modalities,
    /// The source of each modality.
    pub(super) sources: Vec<Source>,
}

/// The column that holds the labels.
pub(super) enum Labels {
    /// Each cell holds one label.
    One(String),
    /// Each cell holds any number of labels between separators.
    Many { column: String, separator: String },
}

impl Labels {
    pub(super) fn column(&self) -> &str {
        match self {
            Labels::One(column) | Labels::Many { column, .. } => column,
        }
    }
}

/// Where the splits come from.
pub(super) enum Splits {
    /// The column with this name.
    Column(String),
    /// Shares of the rows, which are drawn.
    Drawn { val: f64, test: f64 },
}

/// Where the inputs of a modality come from.
pub(super) enum Source {
    /// The column with this name, which holds paths of media files.
    Path(String),
    /// The column with this name, which holds paths of text files.
    TextPath(String),
    /// The column with this name, which holds texts.
    Text(String),
    /// The audio track of the video, which has no column.
    VideoTrack,
}

impl Source {
    /// The name of the column, if there is one.
    pub(super) fn column(&self) -> Option<&str> {
        match self {
            Source::Path(column) | Source::TextPath(column) | Source::Text(column) => Some(column),
            Source::VideoTrack => None,
        }
    }
}

impl Description {
    /// Reads and checks a description.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or describes no dataset.
    pub(super) fn read(toml: &Path) -> Result<Description, Error> {
        let text = std::fs::read_to_string(toml).map_err(|error| Error::io(toml, error))?;
        let file = File { path: toml };
        let top: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| {
                1 + text[..span.start.min(text.len())].matches('\n').count()
            });
            let message = error.message().replace('\n', " ");
            file.error(
                format!("line {line} is no TOML: {message}"),
                "mend that line",
            )
        })?;
        file.known(&top, "", &TOP_KEYS)?;

        let name = file.text(&top, "name")?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty()
            || name.len() > 64
            || name.starts_with(['.', '-'])
            || !name.chars().all(fits)
        {
            return Err(file.error(
                format!("name = {name:?} cannot name folders"),
                "use up to 64 letters, digits, \"-\", \"_\" and \".\", a letter or digit first",
            ));
        }
        if facts::NAMES.contains(&name.as_str()) {
            return Err(file.error(
                format!("name = {name:?} is that of a dataset the tool knows itself"),
                "choose another name",
            ));
        }
        let table = beside(toml, &file.text(&top, "table")?);
        let raw = match file.text_if(&top, "raw")? {
            Some(raw) => beside(toml, &raw),
            None => folder_or_here(table.parent().unwrap_or(Path::new(""))),
        };

        let Some(columns) = top.get("columns") else {
            return Err(file.error("no [columns]", "say there which column holds what"));
        };
        let columns = file.table(columns, "columns")?;
        file.known(columns, "columns.", &column_keys())?;
        let (modalities, sources) = file.sources(columns)?;
        Ok(Description {
            title: file.text_if(&top, "title")?.unwrap_or_else(|| name.clone()),
            license: file
                .text_if(&top, "license")?
                .unwrap_or_else(|| "not stated".to_owned()),
            name,
            table,
            raw,
            encoding: file.encoding(&top)?,
            classes: file.classes(&top)?,
            id: file.text(columns, "id")?,
            labels: file.labels(columns)?,
            splits: file.splits(&top, columns)?,
            modalities,
            sources,
        })
    }
}

/// The path of the description, for error messages.
struct File<'a> {
    path: &'a Path,
}

impl File<'_> {
    fn error(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Description {
            path: self.path.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// Checks that a table has no other keys than these.
    fn known<K: AsRef<str>>(&self, table: &Table, within: &str, keys: &[K]) -> Result<(), Error> {
        let keys: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
        match table.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let hint = did_you_mean(key, keys.iter().copied());
                Err(self.error(
                    format!("unknown key `{within}{}`{hint}", key.escape_debug()),
                    format!("the keys here are {}", keys.join(", ")),
                ))
            }
        }
    }

    fn table<'t>(&self, value: &'t Value, key: &str) -> Result<&'t Table, Error> {
        value.as_table().ok_or_else(|| {
            self.error(
                format!("`{key}` is no table"),
                format!("write it as [{key}]"),
            )
        })
    }

    fn text_if(&self, table: &Table, key: &str) -> Result<Option<String>, Error> {
        match table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(self.error(
                format!("`{key}` is no text, or empty"),
                format!("write {key} = \"...\""),
            )),
        }
    }

    fn text(&self, table: &Table, key: &str) -> Result<String, Error> {
        self.text_if(table, key)?.ok_or_else(|| {
            self.error(
                format!("`{key}` is not given"),
                format!("write {key} = \"...\""),
            )
        })
    }

    fn encoding(&self, top: &Table) -> Result<Option<String>, Error> {
        let label = self.text_if(top, "encoding")?;
        match label.as_deref().filter(|label| encoding::find(label).is_none()) {
            None => Ok(label),
            Some(unknown) => Err(self.error(
                format!("encoding = {unknown:?} is none that is known"),
                "use a name of the WHATWG Encoding Standard, such as windows-1252, gbk or shift_jis",
            )),
        }
    }

    fn classes(&self, top: &Table) -> Result<Option<Vec<String>>, Error> {
        let Some(value) = top.get("classes") else {
            return Ok(None);
        };
        let remedy = "write classes = [\"one\", \"other\"], each once";
        let wrong = || self.error("`classes` is no list of names", remedy);
        let mut classes: Vec<String> = Vec::new();
        for one in value.as_array().ok_or_else(wrong)? {
            let name = one.as_str().map(str::trim).unwrap_or_default();
            if name.is_empty() {
                return Err(wrong());
            }
            if classes.iter().any(|other| other == name) {
                return Err(self.error(format!("the class {name:?} is listed twice"), remedy));
            }
            classes.push(name.to_owned());
        }
        if classes.is_empty() {
            return Err(wrong());
        }
        Ok(Some(classes))
    }

    fn labels(&self, columns: &Table) -> Result<Labels, Error> {
        let one = self.text_if(columns, "label")?;
        let many = self.text_if(columns, "labels")?;
        let separator = match columns.get("separator") {
            None => None,
            // Blanks and tabs are separators too, so the text is not trimmed.
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(_) => {
                return Err(self.error(
                    "`separator` is no text, or empty",
                    "write separator = \"|\"",
                ));
            }
        };
        match (one, many, separator) {
            (Some(column), None, None) => Ok(Labels::One(column)),
            (None, Some(column), Some(separator)) => Ok(Labels::Many { column, separator }),
            (None, Some(_), None) => Err(self.error(
                "`labels` without a separator",
                "write separator = \"|\" (or whatever stands between two labels) below it",
            )),
            (Some(_), None, Some(_)) => Err(self.error(
                "`separator` with `label`, of which a sample has one",
                "write `labels` for several labels per sample, or drop the separator",
            )),
            (Some(_), Some(_), _) => {
                Err(self.error("both `label` and `labels`", "keep one of them"))
            }
            (None, None, _) => Err(self.error(
                "neither `label` nor `labels` in [columns]",
                "name the column that holds the class",
            )),
        }
    }

    fn splits(&self, top: &Table, columns: &Table) -> Result<Splits, Error> {
        let column = self.text_if(columns, "split")?;
        let shares = match top.get("splits") {
            None => None,
            Some(value) => Some(self.table(value, "splits")?),
        };
        match (column, shares) {
            (Some(_), Some(_)) => Err(self.error(
                "both a split column and [splits]",
                "keep one of them: [splits] draws a split where there is no column",
            )),
            (Some(column), None) => Ok(Splits::Column(column)),
            (None, None) => Ok(Splits::Drawn {
                val: DEFAULT_VAL_SHARE,
                test: DEFAULT_TEST_SHARE,
            }),
            (None, Some(shares)) => {
                self.known(shares, "splits.", &SPLIT_KEYS)?;
                let share = |key: &str, default: f64| match shares.get(key) {
                    None => Some(default),
                    Some(Value::Integer(0)) => Some(0.0),
                    Some(value) => value.as_float().filter(|share| (0.0..1.0).contains(share)),
                };
                match (share("val", DEFAULT_VAL_SHARE), share("test", DEFAULT_TEST_SHARE)) {
                    (Some(val), Some(test)) if val + test < 1.0 => Ok(Splits::Drawn { val, test }),
                    _ => Err(self.error(
                        "the shares in [splits] leave nothing for training",
                        "write shares from 0 to below 1 that stay below 1 together, as in test = 0.2",
                    )),
                }
            }
        }
    }

    /// Reads the modalities and where each comes from.
    fn sources(&self, columns: &Table) -> Result<(Modalities, Vec<Source>), Error> {
        let mut given: Vec<(InputName, Source)> = Vec::new();
        for name in InputName::all() {
            if let Some(source) = self.source(columns, name)? {
                given.push((name, source));
            }
        }
        let video = InputName::from(Modality::Video);
        let has_track = match columns.get("audio") {
            Some(Value::Boolean(_)) if !given.iter().any(|(name, _)| *name == video) => {
                return Err(self.error(
                    "`audio` is true or false, which says whether the track of `video` is used, and there is no `video`",
                    "write audio = \"...\", the column that holds the paths, or drop it",
                ));
            }
            Some(Value::Boolean(wanted)) => *wanted,
            _ => true,
        };
        if let [(only, _)] = given[..]
            && only == video
            && has_track
        {
            given.insert(0, (Modality::Audio.into(), Source::VideoTrack));
        }
        let (names, sources): (Vec<InputName>, Vec<Source>) = given.into_iter().unzip();
        self.check_views(&names)?;
        match Modalities::of_names(&names) {
            Ok(modalities) => Ok((modalities, sources)),
            Err(_) => Err(self.error(
                match names.is_empty() {
                    true => "[columns] names no input".to_owned(),
                    false => format!("[columns] names {} inputs", names.len()),
                },
                "name one or two of audio, video, image and text (or text_file)",
            )),
        }
    }

    /// Reads where an input comes from; `None` if there is none.
    fn source(&self, columns: &Table, name: InputName) -> Result<Option<Source>, Error> {
        let column = match columns.get(name.as_str()) {
            // Whether the track of the video is used.
            Some(Value::Boolean(_)) if name == Modality::Audio.into() => None,
            _ => self.text_if(columns, name.as_str())?,
        };
        if name.modality != Modality::Text {
            return Ok(column.map(Source::Path));
        }
        let file_key = text_file_key(name);
        match (column, self.text_if(columns, &file_key)?) {
            (Some(_), Some(_)) => Err(self.error(
                format!("both `{name}` and `{file_key}`"),
                "keep one of them",
            )),
            (Some(column), None) => Ok(Some(Source::Text(column))),
            (None, file) => Ok(file.map(Source::TextPath)),
        }
    }

    /// Checks that there are two views of a modality or none.
    fn check_views(&self, names: &[InputName]) -> Result<(), Error> {
        for modality in Modality::ALL {
            let has = |view| names.contains(&InputName { modality, view });
            let views = [has(Some(View::A)), has(Some(View::B))];
            if views != [true; 2] && views != [false; 2] {
                return Err(self.error(
                    format!("one of `{modality}_a` and `{modality}_b` without the other"),
                    format!("write `{modality}` for a single {modality}, or name both columns"),
                ));
            }
        }
        Ok(())
    }
}

/// Returns the keys of `[columns]`, those of every input included.
fn column_keys() -> Vec<String> {
    let inputs = InputName::all().flat_map(|name| {
        let is_text = name.modality == Modality::Text;
        [Some(name.to_string()), is_text.then(|| text_file_key(name))]
    });
    let others = COLUMN_KEYS.map(str::to_owned).into_iter();
    others.chain(inputs.flatten()).collect()
}

/// Returns the key of the column with the paths of an input's text files.
fn text_file_key(name: InputName) -> String {
    format!("text_file{}", name.suffix())
}

/// Joins a path in a description to the description's folder.
fn beside(toml: &Path, path: &str) -> PathBuf {
    let joined = toml.parent().unwrap_or(Path::new("")).join(path);
    folder_or_here(&joined)
}

/// Returns the path, or `.` for the empty path.
fn folder_or_here(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        path.to_owned()
    }
}
