//! The user's own dataset: a table with one row per sample, and a `.toml` that describes its
//! columns.
//!
//! ```toml
//! name = "my-clips"             # names the default folders of shards and runs
//! table = "clips.csv"           # .csv, .tsv, .jsonl (each also as .gz) or .parquet; relative to this file
//! raw = "media"                 # the folder that paths in the table are relative to; itself relative to
//!                               # this file; default: the table's folder
//! encoding = "windows-1252"     # of a table of text and text files that are no UTF-8; optional
//! title = "My clips"            # optional, as is license
//! classes = ["cat", "dog"]      # optional: the order of the classes; default: all labels in the table, sorted
//!
//! [columns]
//! id = "clip"                   # unique; no "/", no line breaks, at most 200 bytes
//! label = "animal"              # one class name per sample
//! video = "file"                # path of a video, relative to `raw`
//! audio = "sound"               # path of an audio file; default: the video's audio track
//! split = "part"                # train, val (or valid, validation, dev) or test; optional
//!
//! [splits]                      # instead of a split column: shares to draw from every class
//! val = 0.1                     # default 0
//! test = 0.2                    # default 0.2
//! ```
//!
//! The inputs may be any two of `audio`, `video`, `image` and text: `image = "photo"` (a path),
//! `text = "caption"` (the text itself) or `text_file = "page"` (a path). Two of a kind are written
//! as `image_a = "front"` and `image_b = "back"`. A single one is enough, but `video` alone takes
//! its audio track as well unless `audio = false` stands beside it. For several labels per sample,
//! write `labels = "genres"` instead of `label`, with `separator = "|"`. An empty cell means that
//! the sample lacks that modality.
//!
//! The column `image` of a Parquet table may also hold the image files themselves, as bytes or as
//! the struct of `bytes` and `path` that Hugging Face `datasets` writes. JSON lines have one object
//! per row, whose keys are the columns.
//!
//! Lists of a Parquet table or of JSON lines, and lists that a program has printed into a cell as `['cat', 'dog']`,
//! are read as lists of labels whatever the separator is. The words that pandas takes for a missing
//! value, such as `nan` and `N/A`, are read as an empty cell in the columns of labels and inputs; a
//! label that is in `classes` is always that class.
//!
//! Paths never leave the raw root. This crate does not read Parquet: a caller reads the table and
//! passes it to [`Custom::set_table`].

mod cells;
mod description;
mod form;
mod json_lines;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use util::suggest::did_you_mean;

pub use self::cells::Cell;
use self::cells::is_missing;
use self::description::{Description, Labels, Source, Splits};
use self::form::has_extension;
pub use self::table::Table;
use self::table::{Lines, Reader};
use crate::clean;
use crate::error::{Error, shorten};
use crate::finder::{Finder, note_shared_files};
use crate::modalities::Modality;
use crate::near_names;
use crate::stratify;
use crate::tree::Tree;
use crate::types::{Dataset, Info, Input, ListOptions, Listing, Note, NoteKind, Sample, Split};

/// A dataset that a `.toml` describes; the module's documentation has the format.
pub struct Custom {
    description: Description,
    info: Info,
    rows: Option<Vec<Row>>,
    /// What was found in the table.
    notes: Vec<Note>,
}

/// A parsed row of the table.
struct Row {
    id: String,
    split: Split,
    labels: Vec<u32>,
    /// The number of the row in the table, from 0.
    number: usize,
    /// What the table holds of each modality; `None` for an empty cell.
    cells: Vec<Option<Content>>,
}

/// The cell of an input.
enum Content {
    /// A path or a text.
    Text(String),
    /// A file.
    File,
}

impl Custom {
    /// Reads a description, and its table unless that is Parquet.
    ///
    /// # Errors
    /// One of the two files cannot be read or is malformed; the message names the key or the line.
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
            notes: Vec::new(),
        };
        if !custom.table_is_parquet() {
            let (table, lines) = form::read(
                &custom.description.table,
                custom.description.encoding.as_deref(),
            )?;
            custom.parse_table(&table, Some(&lines))?;
        }
        Ok(custom)
    }

    /// The columns of the table that are used.
    pub fn columns(&self) -> Vec<&str> {
        let Description {
            id,
            labels,
            splits,
            sources,
            ..
        } = &self.description;
        let mut columns = vec![id.as_str(), labels.column()];
        if let Splits::Column(name) = splits {
            columns.push(name);
        }
        columns.extend(sources.iter().filter_map(Source::column));
        columns
    }

    /// The path of the table, absolute or relative to the working directory.
    pub fn table_path(&self) -> &Path {
        &self.description.table
    }

    /// Whether the caller has to read the table and pass it to [`Custom::set_table`].
    pub fn table_is_parquet(&self) -> bool {
        has_extension(&self.description.table, "parquet")
    }

    /// Sets the contents of a table that this crate cannot read. Before, [`Dataset::info`] may lack
    /// the classes, and [`Dataset::list`] fails.
    ///
    /// # Errors
    /// A column is missing, or a row is malformed.
    pub fn set_table(&mut self, table: Table) -> Result<(), Error> {
        self.parse_table(&table, None)
    }

    /// Parses the table into rows, classes and counts. `lines` is known of a text file.
    fn parse_table(&mut self, table: &Table, lines: Option<&Lines>) -> Result<(), Error> {
        let description = &self.description;
        let reader = Reader {
            path: &description.table,
            table,
            lines: lines.map(|lines| lines.of_rows.as_slice()),
        };
        let columns = Columns::find(&reader, description)?;
        if table.rows.is_empty() {
            return Err(reader.table_error("the table has no rows"));
        }
        let known = description.classes.as_deref().unwrap_or_default();
        let mut labels = Vec::with_capacity(table.rows.len());
        for index in 0..table.rows.len() {
            labels.push(reader.labels(index, columns.label, &description.labels, known)?);
        }
        let classes: Vec<String> = match &description.classes {
            Some(classes) => classes.clone(),
            None => {
                let distinct: BTreeSet<&String> = labels.iter().flatten().collect();
                distinct.into_iter().cloned().collect()
            }
        };
        let mut rows = parse_rows(&reader, description, &columns, &labels, &classes)?;
        if let Splits::Drawn { val, test } = description.splits {
            draw_splits(&description.name, &mut rows, val, test);
        }
        // Like every listing: by split, then in the order of the table.
        rows.sort_by_key(|row| row.split);
        for split in Split::ALL {
            let count = rows.iter().filter(|row| row.split == split).count();
            self.info.expected[split.index()] = (count > 0).then_some(count);
        }
        self.notes = lines.map_or_else(Vec::new, |lines| {
            long_cell_notes(&reader, lines, &columns, &classes)
        });
        self.notes.extend(missing_notes(&reader, &columns, known));
        self.notes.extend(alike_notes(&reader, &classes));
        self.info.classes = classes;
        self.rows = Some(rows);
        Ok(())
    }

    /// Names a row of the table.
    fn row_name(&self, row: &Row) -> String {
        let table = self.description.table.file_name().unwrap_or_default();
        table_row(&table.to_string_lossy(), row.number)
    }

    fn input(&self, row: &Row, which: usize, table_path: &Path, finder: &mut Finder<'_>) -> Input {
        let source = &self.description.sources[which];
        let cell = match source {
            // Audio without a column of its own is the track of the video, the second modality.
            Source::VideoTrack => &row.cells[1],
            _ => &row.cells[which],
        };
        let cell = match cell {
            None => return Input::None,
            Some(Content::Text(cell)) => cell,
            Some(Content::File) => {
                return Input::TableCell {
                    table: table_path.to_owned(),
                    column: source.column().unwrap_or_default().to_owned(),
                    row: row.number,
                };
            }
        };
        match source {
            Source::Text(_) => clean::squeeze(cell).into(),
            Source::Path(_) | Source::VideoTrack => {
                finder.input(&row.id, std::slice::from_ref(cell))
            }
            Source::TextPath(_) => match finder.input(&row.id, std::slice::from_ref(cell)) {
                Input::Files(mut files) => Input::TextFile {
                    path: files.swap_remove(0),
                    encoding: self.description.encoding.clone(),
                },
                other => other,
            },
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
        let table_path = path_from(raw, &self.description.table);
        let mut finder = Finder::new(&tree);
        let mut samples = Vec::with_capacity(rows.len());
        for row in rows {
            // The last modality comes first, because the sample is named after its file.
            let last_first = (0..self.description.sources.len()).rev();
            let inputs = last_first.clone();
            let inputs = inputs.map(|which| self.input(row, which, &table_path, &mut finder));
            let mut inputs: Vec<Input> = inputs.collect();
            inputs.reverse();
            let source = last_first
                .filter(|&which| !matches!(self.description.sources[which], Source::Text(_)))
                .find_map(|which| match row.cells[which].as_ref()? {
                    Content::Text(path) => Some(path.clone()),
                    Content::File => Some(self.row_name(row)),
                })
                .unwrap_or_else(|| row.id.clone());
            samples.push(Sample {
                id: row.id.clone(),
                split: row.split,
                labels: row.labels.clone(),
                inputs,
                source,
                segment: None,
            });
        }
        note_shared_files(&samples, &mut finder);
        let mut notes = self.notes.clone();
        notes.extend(finder.finish(&samples, &remedy)?);
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

/// Returns the path of a file relative to a folder, with ".." where it lies outside, so that it is
/// the same wherever both lie together. Links in the paths of both folders are resolved, because
/// ".." is the folder above the one that a link leads to.
fn path_from(folder: &Path, file: &Path) -> PathBuf {
    let parent = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let (Ok(from), Ok(to)) = (folder.canonicalize(), parent.canonicalize()) else {
        return file.to_owned();
    };
    let shared = from.components().zip(to.components());
    let shared = shared.take_while(|(one, other)| one == other).count();
    let mut path = PathBuf::new();
    path.extend(from.components().skip(shared).map(|_| Component::ParentDir));
    path.extend(to.components().skip(shared));
    path.join(file.file_name().unwrap_or_default())
}

/// Names a row of a table, which is counted from 0 and named from 1.
pub fn table_row(table: &str, row: usize) -> String {
    format!("{table}, row {}", row + 1)
}

/// The indices of the table's columns.
struct Columns {
    id: usize,
    label: usize,
    split: Option<usize>,
    /// The column of each modality, if it has one.
    inputs: Vec<Option<usize>>,
}

impl Columns {
    fn find(reader: &Reader<'_>, description: &Description) -> Result<Columns, Error> {
        let id = reader.column(&description.id)?;
        let label = reader.column(description.labels.column())?;
        let split = match &description.splits {
            Splits::Column(name) => Some(reader.column(name)?),
            Splits::Drawn { .. } => None,
        };
        let inputs = description.sources.iter().map(Source::column);
        let inputs = inputs
            .map(|name| name.map(|name| reader.column(name)).transpose())
            .collect::<Result<_, _>>()?;
        Ok(Columns {
            id,
            label,
            split,
            inputs,
        })
    }
}

/// Returns a note about the table, which is known by the name of its file.
fn table_note(reader: &Reader<'_>, kind: NoteKind, message: String) -> Note {
    let table = reader.path.file_name().unwrap_or_default();
    Note::new(kind, table.to_string_lossy(), message)
}

/// Returns a note for each pair of classes that are probably one: they differ in letter case or
/// Unicode form alone, or are the same number.
fn alike_notes(reader: &Reader<'_>, classes: &[String]) -> Vec<Note> {
    let mut first: BTreeMap<String, &str> = BTreeMap::new();
    let mut notes = Vec::new();
    for class in classes {
        let same = match class.parse::<f64>() {
            Ok(number) => number.to_string(),
            Err(_) => near_names::key(class),
        };
        if let Some(before) = first.get(&same) {
            let message = format!(
                "\"{before}\" and \"{class}\" are two classes; write them alike if they are one"
            );
            notes.push(table_note(reader, NoteKind::Choice, message));
        } else {
            first.insert(same, class);
        }
    }
    notes
}

/// Returns a note for each spelling of a missing value in a column of labels or inputs.
fn missing_notes(reader: &Reader<'_>, columns: &Columns, known: &[String]) -> Vec<Note> {
    let mut notes = Vec::new();
    let inputs = columns.inputs.iter().flatten().copied();
    for column in [columns.label].into_iter().chain(inputs) {
        for (spelling, count) in reader.missing_spellings(column) {
            if column == columns.label && known.iter().any(|class| class == spelling) {
                continue;
            }
            let name = &reader.table.columns[column];
            let message = format!(
                "\"{spelling}\" in the column \"{name}\" is read as a missing value, in {count} rows"
            );
            notes.push(table_note(reader, NoteKind::Choice, message));
        }
    }
    notes
}

/// Returns notes about quoted cells of several lines. Such a cell is a valid text, but where a line
/// within it is a row, with a split or a class in its column, a quote is missing before that line
/// and the row would be lost.
fn long_cell_notes(
    reader: &Reader<'_>,
    lines: &Lines,
    columns: &Columns,
    classes: &[String],
) -> Vec<Note> {
    let is_row = |cells: &Vec<String>| {
        let split = columns.split.map(|column| &cells[column]);
        split.is_some_and(|split| Split::from_spelling(split).is_some())
            || classes.contains(&cells[columns.label])
    };
    let mut notes = Vec::new();
    for cell in &lines.long_cells {
        let rows = cell.like_rows.iter().filter(|cells| is_row(cells)).count();
        if rows > 0 {
            let message = format!(
                "a quoted cell goes from line {} to line {}, and {rows} of the lines in it look like rows, which are \
                 lost; close the quote in line {}",
                cell.first, cell.last, cell.first
            );
            notes.push(table_note(reader, NoteKind::Dropped, message));
        }
    }
    if let Some(cell) = lines.long_cells.first() {
        let message = format!(
            "quoted cells that go over several lines: {}, the first from line {} to line {}",
            lines.long_cells.len(),
            cell.first,
            cell.last
        );
        notes.push(table_note(reader, NoteKind::Choice, message));
    }
    notes
}

/// Parses the rows of the table, whose label cells have been parsed into `labels`. Rows without a
/// split column get [`Split::Train`].
///
/// # Errors
/// A cell is malformed, an id occurs twice, a label is none of the classes.
fn parse_rows(
    reader: &Reader<'_>,
    description: &Description,
    columns: &Columns,
    labels: &[Vec<String>],
    classes: &[String],
) -> Result<Vec<Row>, Error> {
    let class_indices: BTreeMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let mut first_uses: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows = Vec::with_capacity(labels.len());
    for (index, names) in labels.iter().enumerate() {
        let id = reader.id(index, columns.id)?;
        if let Some(before) = first_uses.insert(id, index) {
            let before = reader.place(before);
            let problem = format!("the id \"{}\" stands in {before} already", shorten(id));
            return Err(reader.error(index, &problem, "ids must differ"));
        }
        let mut labels = Vec::with_capacity(names.len());
        for name in names {
            let Some(&class) = class_indices.get(name.as_str()) else {
                let hint = did_you_mean(name, class_indices.keys().copied());
                let problem = format!("\"{}\" is none of the classes{hint}", shorten(name));
                return Err(reader.error(index, &problem, "mend it, or add it to `classes`"));
            };
            labels.push(class);
        }
        labels.sort_unstable();
        labels.dedup();
        let mut cells = Vec::with_capacity(description.sources.len());
        let sources = columns.inputs.iter().zip(&description.sources);
        for ((column, source), input) in sources.zip(description.modalities.names()) {
            let modality = input.modality;
            if let (Some(column), Source::Path(_)) = (column, source)
                && reader.is_file(index, *column)
            {
                if modality != Modality::Image {
                    let problem = format!(
                        "the column \"{}\" holds {modality} files",
                        reader.table.columns[*column]
                    );
                    let remedy = "write each to a file, and its path into the table";
                    return Err(reader.error(index, &problem, remedy));
                }
                cells.push(Some(Content::File));
                continue;
            }
            let text = match column {
                Some(column) => reader
                    .cell(index, *column)?
                    .filter(|text| !is_missing(text)),
                None => None,
            };
            cells.push(match (text, source) {
                (Some(path), Source::Path(_) | Source::TextPath(_)) => {
                    Some(Content::Text(reader.path(index, path)?))
                }
                (text, _) => text.map(|text| Content::Text(text.to_owned())),
            });
        }
        let split = match columns.split {
            Some(column) => reader.split(index, column)?,
            None => Split::Train,
        };
        rows.push(Row {
            id: id.to_owned(),
            split,
            labels,
            number: index,
            cells,
        });
    }
    Ok(rows)
}

/// Draws the test split from all rows, then val from the rest, with the same share of every class.
/// A row with several labels counts for the class of the first.
fn draw_splits(name: &str, rows: &mut [Row], val: f64, test: f64) {
    let count = rows.len() as f64;
    for (split, share) in [(Split::Test, test), (Split::Val, val)] {
        let remaining: Vec<usize> = (0..rows.len())
            .filter(|&index| rows[index].split == Split::Train)
            .collect();
        let items: Vec<(&str, u32)> = remaining
            .iter()
            .map(|&index| {
                let row = &rows[index];
                (
                    row.id.as_str(),
                    row.labels.first().copied().unwrap_or(u32::MAX),
                )
            })
            .collect();
        let total = (count * share).round() as usize;
        let drawn = stratify::draw(&format!("{name}/{split}"), &items, total);
        for (&index, _) in remaining.iter().zip(&drawn).filter(|(_, drawn)| **drawn) {
            rows[index].split = split;
        }
    }
}
