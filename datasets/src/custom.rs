//! The user's own dataset: a table with one row per sample, and a `.toml` that says what its columns mean.
//!
//! ```toml
//! name = "my-clips"             # names the default folders of shards and runs
//! table = "clips.csv"           # .csv, .tsv or .parquet with column names; relative to this file
//! raw = "media"                 # where the paths in the table start; relative to this file; default: the table's folder
//! title = "My clips"            # optional, as is license
//! classes = ["cat", "dog"]      # optional: the order of the classes; default: all labels in the table, sorted
//!
//! [columns]
//! id = "clip"                   # unique; no "/", no line breaks, at most 200 bytes
//! label = "animal"              # one class name per sample
//! video = "file"                # path of a video, relative to `raw`
//! audio = "sound"               # path of a sound file; without this line: the video's own track
//! split = "part"                # train, val (or valid, validation, dev) or test; optional
//!
//! [splits]                      # instead of a split column: shares to draw, of every class alike
//! val = 0.1                     # default 0
//! test = 0.2                    # default 0.2
//! ```
//!
//! Image and text instead of video and audio: `image = "photo"` (a path) with `text = "caption"` (the words
//! themselves) or `text_file = "page"` (a path). Several labels per sample: `labels = "genres"` instead of `label`,
//! with `separator = "|"` beside it. An empty cell means that the sample does not have that modality.
//!
//! Paths never leave the raw root. A Parquet table is read by whoever can and handed over with [`Custom::set_table`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::clean;
use crate::description::{Description, Labels, Source, Splits};
use crate::error::{Error, did_you_mean, shorten};
use crate::stratify;
use crate::tree::{Finder, Tree, note_shared_files};
use crate::types::{
    Dataset, Info, Input, ListOptions, Listing, MAX_ID_BYTES, Note, NoteKind, Sample, Split,
};

/// A table as text: column names and one cell per column and row, `None` where there is no value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Column names.
    pub columns: Vec<String>,
    /// Rows, each as long as `columns`.
    pub rows: Vec<Vec<Option<String>>>,
}

/// A dataset described in a `.toml`; see the module comment for the format.
pub struct Custom {
    description: Description,
    info: Info,
    rows: Option<Vec<Row>>,
}

/// A row of the table, checked.
struct Row {
    id: String,
    split: Split,
    labels: Vec<u32>,
    cells: [Option<String>; 2],
}

impl Custom {
    /// Reads a description, and its table unless that is Parquet.
    ///
    /// # Errors
    /// Anything in either file that does not fit, by name.
    pub fn open(toml: &Path) -> Result<Custom, Error> {
        let description = Description::read(toml)?;
        let info = Info {
            name: description.name.clone(),
            title: description.title.clone(),
            modalities: description.modalities,
            classes: description.classes.clone().unwrap_or_default(),
            multi_label: matches!(description.labels, Labels::Many { .. }),
            expected: [None; 3],
            license: description.license.clone(),
        };
        let mut custom = Custom {
            description,
            info,
            rows: None,
        };
        if !custom.table_is_parquet() {
            let (table, lines) = read_csv(&custom.description.table)?;
            custom.take(table, Some(&lines))?;
        }
        Ok(custom)
    }

    /// The table file, relative to the working directory or absolute.
    pub fn table_path(&self) -> &Path {
        &self.description.table
    }

    /// Whether the table has to be handed over with [`Custom::set_table`] before anything else.
    pub fn table_is_parquet(&self) -> bool {
        has_extension(&self.description.table, "parquet")
    }

    /// Hands over the contents of a table that this crate cannot read. Until then [`Dataset::info`] may lack the
    /// classes and [`Dataset::list`] fails.
    ///
    /// # Errors
    /// A column that is not there, a row that does not fit.
    pub fn set_table(&mut self, table: Table) -> Result<(), Error> {
        self.take(table, None)
    }

    /// Checks the table and keeps what the description wants of it. `lines`: the line of each row in a text file.
    fn take(&mut self, table: Table, lines: Option<&[usize]>) -> Result<(), Error> {
        let description = &self.description;
        let reader = Reader {
            path: &description.table,
            table: &table,
            lines,
        };
        let id = reader.column(&description.id)?;
        let label = reader.column(description.labels.column())?;
        let split = match &description.splits {
            Splits::Column(name) => Some(reader.column(name)?),
            Splits::Drawn { .. } => None,
        };
        let mut sources = [None; 2];
        for (column, source) in sources.iter_mut().zip(&description.sources) {
            if let Some(name) = source.column() {
                *column = Some(reader.column(name)?);
            }
        }
        if table.rows.is_empty() {
            return Err(reader.table_error("the table has no rows"));
        }

        let mut words = Vec::with_capacity(table.rows.len());
        for index in 0..table.rows.len() {
            words.push(reader.labels(index, label, &description.labels)?);
        }
        let classes: Vec<String> = match &description.classes {
            Some(classes) => classes.clone(),
            None => {
                let distinct: BTreeSet<&str> = words.iter().flatten().copied().collect();
                distinct.into_iter().map(str::to_owned).collect()
            }
        };
        let numbers: BTreeMap<&str, u32> = classes
            .iter()
            .zip(0..)
            .map(|(name, number)| (name.as_str(), number))
            .collect();

        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        let mut rows = Vec::with_capacity(table.rows.len());
        for (index, words) in words.iter().enumerate() {
            let id = reader.id(index, id)?;
            if let Some(before) = first.insert(id, index) {
                let before = reader.place(before);
                let problem = format!("the id \"{}\" stands in {before} already", shorten(id));
                return Err(reader.error(index, &problem, "ids must differ"));
            }
            let mut labels = Vec::with_capacity(words.len());
            for word in words {
                let Some(&number) = numbers.get(word) else {
                    let hint = did_you_mean(word, numbers.keys().copied());
                    let problem = format!("\"{}\" is none of the classes{hint}", shorten(word));
                    return Err(reader.error(index, &problem, "mend it, or add it to `classes`"));
                };
                labels.push(number);
            }
            labels.sort_unstable();
            labels.dedup();
            let mut cells = [None, None];
            for ((cell, column), source) in cells.iter_mut().zip(sources).zip(&description.sources)
            {
                let text = column.and_then(|column| reader.cell(index, column));
                *cell = match (text, source) {
                    (Some(path), Source::Path(_) | Source::TextPath(_)) => {
                        Some(reader.path(index, path)?)
                    }
                    (text, _) => text.map(str::to_owned),
                };
            }
            let split = match split {
                Some(column) => reader.split(index, column)?,
                None => Split::Train,
            };
            rows.push(Row {
                id: id.to_owned(),
                split,
                labels,
                cells,
            });
        }
        if let Splits::Drawn { val, test } = description.splits {
            draw_splits(&description.name, &mut rows, val, test);
        }
        // Order of a listing: by split, then as the table has them.
        rows.sort_by_key(|row| row.split);
        for split in Split::ALL {
            let count = rows.iter().filter(|row| row.split == split).count();
            self.info.expected[split.index()] = (count > 0).then_some(count);
        }
        self.info.classes = classes;
        self.rows = Some(rows);
        Ok(())
    }

    fn input(&self, row: &Row, which: usize, finder: &mut Finder<'_>) -> Result<Input, Error> {
        let source = &self.description.sources[which];
        let cell = match source {
            // Sound without a column of its own comes with the picture, the second modality.
            Source::OwnTrack => &row.cells[1],
            _ => &row.cells[which],
        };
        let Some(cell) = cell else {
            return Ok(Input::NONE);
        };
        match source {
            Source::Words(_) => Ok(clean::squeeze(cell).map_or(Input::NONE, Input::Text)),
            Source::Path(_) | Source::OwnTrack => {
                let input = finder.input(&row.id, std::slice::from_ref(cell))?;
                Ok(input)
            }
            Source::TextPath(_) => {
                let input = finder.input(&row.id, std::slice::from_ref(cell))?;
                Ok(match input {
                    Input::Files(mut files) => Input::TextFile(files.swap_remove(0)),
                    other => other,
                })
            }
        }
    }
}

impl Dataset for Custom {
    fn info(&self) -> &Info {
        &self.info
    }

    fn default_raw(&self) -> Option<&Path> {
        Some(&self.description.raw)
    }

    fn list(&self, raw: &Path, _options: &ListOptions) -> Result<Listing, Error> {
        let table = self.description.table.display();
        let remedy = format!("the paths in {table} start there");
        let Some(rows) = &self.rows else {
            return Err(Error::Unsupported {
                path: self.description.table.clone(),
                problem: "a Parquet table that nobody has read yet".to_owned(),
                remedy: "use `ingest`, which reads it, or save the table as .csv".to_owned(),
            });
        };
        let tree = Tree::unwalked(raw, &remedy)?;
        let mut finder = Finder::new(&tree);
        let mut samples = Vec::with_capacity(rows.len());
        for row in rows {
            // The second modality first: it is the one that names the sample.
            let second = self.input(row, 1, &mut finder)?;
            let first = self.input(row, 0, &mut finder)?;
            let source = [1, 0]
                .iter()
                .filter(|&&which| !matches!(self.description.sources[which], Source::Words(_)))
                .find_map(|&which| row.cells[which].clone())
                .unwrap_or_else(|| row.id.clone());
            samples.push(Sample {
                id: row.id.clone(),
                split: row.split,
                labels: row.labels.clone(),
                inputs: [first, second],
                source,
                segment: None,
            });
        }
        note_shared_files(&samples, &mut finder);
        let mut notes = finder.finish(&samples, &remedy)?;
        if let Splits::Drawn { val, test } = self.description.splits {
            let message =
                format!("no split column: {val} of every class drawn for val, {test} for test");
            notes.push(Note::new(
                NoteKind::Choice,
                self.info.name.as_str(),
                message,
            ));
        }
        Ok(Listing {
            layout: format!("{} rows of {table}", rows.len()),
            samples,
            notes,
        })
    }
}

/// Draws test from all rows, then val from the rest, of every class alike; several labels: by the first.
fn draw_splits(name: &str, rows: &mut [Row], val: f64, test: f64) {
    let all = rows.len() as f64;
    for (split, share) in [(Split::Test, test), (Split::Val, val)] {
        let left: Vec<usize> = (0..rows.len())
            .filter(|&index| rows[index].split == Split::Train)
            .collect();
        let items: Vec<(&str, u32)> = left
            .iter()
            .map(|&index| {
                let row = &rows[index];
                (
                    row.id.as_str(),
                    row.labels.first().copied().unwrap_or(u32::MAX),
                )
            })
            .collect();
        let total = (all * share).round() as usize;
        let drawn = stratify::draw(&format!("{name}/{split}"), &items, total);
        for (&index, _) in left.iter().zip(&drawn).filter(|(_, drawn)| **drawn) {
            rows[index].split = split;
        }
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension()
        .is_some_and(|one| one.eq_ignore_ascii_case(extension))
}

/// Reads a CSV (or TSV) file with a header: the table, and the line on which each row begins.
fn read_csv(path: &Path) -> Result<(Table, Vec<usize>), Error> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        Error::annotation(
            path,
            Some(line),
            "a byte that is no UTF-8",
            "save the table as UTF-8",
        )
    })?;
    let text = text.trim_start_matches('\u{feff}');
    let delimiter = if has_extension(path, "tsv") {
        b'\t'
    } else {
        b','
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(text.as_bytes());
    let fail = |error: csv::Error| {
        let line = error.position().map(|position| position.line() as usize);
        let problem = match error.kind() {
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => format!("{len} fields where the header has {expected_len}"),
            _ => error.to_string(),
        };
        Error::annotation(
            path,
            line,
            problem,
            "mend that line (quote fields that hold the separator)",
        )
    };
    let columns: Vec<String> = reader
        .headers()
        .map_err(fail)?
        .iter()
        .map(|name| name.trim().to_owned())
        .collect();
    let mut table = Table {
        columns,
        rows: Vec::new(),
    };
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(fail)?;
        lines.push(
            record
                .position()
                .map_or(0, |position| position.line() as usize),
        );
        let cells = record.iter();
        table
            .rows
            .push(cells.map(|cell| Some(cell.to_owned())).collect());
    }
    Ok((table, lines))
}

/// A table with the name of its file, for messages that tell where.
struct Reader<'a> {
    path: &'a Path,
    table: &'a Table,
    lines: Option<&'a [usize]>,
}

impl<'a> Reader<'a> {
    fn column(&self, name: &str) -> Result<usize, Error> {
        let columns = &self.table.columns;
        let mut found = (0..columns.len()).filter(|&index| columns[index] == name);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (Some(_), Some(_)) => {
                Err(self.table_error(&format!("two columns are called \"{name}\"")))
            }
            (None, _) => {
                let hint = did_you_mean(name, columns.iter().map(String::as_str));
                let there = shorten(&columns.join(", "));
                Err(self.table_error(&format!(
                    "no column is called \"{name}\"{hint}; there are: {there}"
                )))
            }
        }
    }

    fn table_error(&self, problem: &str) -> Error {
        Error::annotation(
            self.path,
            None,
            problem,
            "mend the table or its description",
        )
    }

    fn place(&self, index: usize) -> String {
        match self.lines {
            Some(lines) => format!("line {}", lines[index]),
            None => format!("row {}", index + 1),
        }
    }

    fn error(&self, index: usize, problem: &str, remedy: &str) -> Error {
        match self.lines {
            Some(lines) => Error::annotation(self.path, Some(lines[index]), problem, remedy),
            None => {
                let problem = format!("row {}: {problem}", index + 1);
                Error::annotation(self.path, None, problem, remedy)
            }
        }
    }

    /// The trimmed cell; `None` where it is empty.
    fn cell(&self, index: usize, column: usize) -> Option<&'a str> {
        let cell = self.table.rows[index].get(column)?.as_deref()?.trim();
        (!cell.is_empty()).then_some(cell)
    }

    fn id(&self, index: usize, column: usize) -> Result<&'a str, Error> {
        let remedy = "ids are short names";
        let Some(id) = self.cell(index, column) else {
            return Err(self.error(index, "the id is empty", remedy));
        };
        let problem = if id.len() > MAX_ID_BYTES {
            format!("the id has {} bytes, more than {MAX_ID_BYTES}", id.len())
        } else if id.contains(['/', '\\']) {
            "the id holds a slash".to_owned()
        } else if id.contains(char::is_control) {
            "the id holds a line break or another control character".to_owned()
        } else if id == "." || id == ".." {
            "the id is a folder's name".to_owned()
        } else {
            return Ok(id);
        };
        Err(self.error(index, &format!("\"{}\": {problem}", shorten(id)), remedy))
    }

    fn split(&self, index: usize, column: usize) -> Result<Split, Error> {
        let word = self.cell(index, column).unwrap_or_default();
        Split::from_spelling(word).ok_or_else(|| {
            let problem = format!("\"{}\" is no split", shorten(word));
            self.error(index, &problem, "write train, val or test")
        })
    }

    fn labels(&self, index: usize, column: usize, labels: &Labels) -> Result<Vec<&'a str>, Error> {
        let cell = self.cell(index, column);
        match labels {
            Labels::One(_) => cell.map(|one| vec![one]).ok_or_else(|| {
                self.error(index, "the label is empty", "every sample needs its class")
            }),
            Labels::Many { separator, .. } => Ok(cell
                .unwrap_or_default()
                .split(separator.as_str())
                .map(str::trim)
                .filter(|one| !one.is_empty())
                .collect()),
        }
    }

    /// A path, which must name something below the raw root, in its shortest spelling.
    fn path(&self, index: usize, path: &str) -> Result<String, Error> {
        let mut parts = Vec::new();
        let mut problem = None;
        for part in Path::new(path).components() {
            match part {
                Component::Normal(name) => parts.push(name.to_str().unwrap_or_default()),
                Component::CurDir => {}
                _ => problem = Some("leaves the raw folder"),
            }
        }
        if path.contains(char::is_control) {
            problem = Some("holds a line break or another control character");
        }
        match problem {
            None => Ok(parts.join("/")),
            Some(problem) => Err(self.error(
                index,
                &format!("the path \"{}\" {problem}", shorten(path)),
                "write paths relative to the raw folder, without \"..\"",
            )),
        }
    }
}

/// Joins a path from a description to the folder of the description.
pub(crate) fn beside(toml: &Path, path: &str) -> PathBuf {
    let joined = toml.parent().unwrap_or(Path::new("")).join(path);
    folder_or_here(&joined)
}

/// The path itself, or `.` for the empty one.
pub(crate) fn folder_or_here(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        path.to_owned()
    }
}
