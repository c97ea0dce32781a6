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
use std::path::{Path, PathBuf};

use util::suggest::did_you_mean;

use crate::clean;
use crate::description::{Description, Labels, Source, Splits};
use crate::error::{Error, shorten};
use crate::finder::{Finder, note_shared_files};
use crate::stratify;
pub use crate::table::Table;
use crate::table::{Reader, has_extension, read_csv};
use crate::tree::Tree;
use crate::types::{Dataset, Info, Input, ListOptions, Listing, Note, NoteKind, Sample, Split};

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
