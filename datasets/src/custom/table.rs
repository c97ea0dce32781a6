//! A user's table: rows of CSV or TSV, and the parsing of cells.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use util::suggest::did_you_mean;

use super::cells::{Cell, is_missing, printed_list};
use super::description::Labels;
use crate::error::{Error, shorten};
use crate::quotes::long_cells;
use crate::types::{MAX_ID_BYTES, Split};

/// A table of texts and lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The column names.
    pub columns: Vec<String>,
    /// The rows, each with one cell per column; `None` is a null value.
    pub rows: Vec<Vec<Option<Cell>>>,
}

/// What is known of a table's text beside its cells.
pub(super) struct Lines {
    /// The line on which each row begins.
    pub(super) of_rows: Vec<usize>,
    /// The quoted cells that go over several lines.
    pub(super) long_cells: Vec<LongLines>,
}

/// A quoted cell that goes over several lines.
pub(super) struct LongLines {
    /// The line on which the cell begins.
    pub(super) first: usize,
    /// The line on which it ends.
    pub(super) last: usize,
    /// Those of the lines between these two that have as many cells as a row, as cells.
    pub(super) like_rows: Vec<Vec<String>>,
}

/// Reads a table of cells between separators, with a header. `path` is for messages.
///
/// # Errors
/// A quote is not closed, or a row has another number of cells than the header.
pub(super) fn read_csv(path: &Path, text: &str, delimiter: u8) -> Result<(Table, Lines), Error> {
    let cells = long_cells(path, text, delimiter)?;
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
        table.rows.push(
            cells
                .map(|cell| Some(Cell::Text(cell.to_owned())))
                .collect(),
        );
    }
    let long_cells = cells.iter().map(|cell| LongLines {
        first: cell.first,
        last: cell.last,
        like_rows: like_rows(&cell.between, delimiter, table.columns.len()),
    });
    let long_cells = long_cells.collect();
    let lines = Lines {
        of_rows: lines,
        long_cells,
    };
    Ok((table, lines))
}

/// Splits lines into cells, and returns those with as many cells as the table has columns.
fn like_rows(lines: &[&str], delimiter: u8, columns: usize) -> Vec<Vec<String>> {
    let cells = lines.iter().map(|line| {
        let cells = line.split(char::from(delimiter));
        cells.map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    });
    cells.filter(|cells| cells.len() == columns).collect()
}

/// A table with its path and the lines of its rows, for error messages.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) table: &'a Table,
    pub(super) lines: Option<&'a [usize]>,
}

impl<'a> Reader<'a> {
    /// Finds a column by its name, which must be unique.
    pub(super) fn column(&self, name: &str) -> Result<usize, Error> {
        let columns = &self.table.columns;
        let mut found = (0..columns.len()).filter(|&index| columns[index] == name);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (Some(_), Some(_)) => {
                Err(self.table_error(&format!("two columns are called \"{name}\"")))
            }
            (None, _) => {
                let mut hint = did_you_mean(name, columns.iter().map(String::as_str));
                if let Some(same) = columns.iter().find(|one| one.eq_ignore_ascii_case(name)) {
                    hint = format!(" (did you mean \"{same}\"? upper and lower case differ)");
                }
                if let ([one], false) = (columns.as_slice(), name.contains([';', '\t']))
                    && let Some(other) = [';', '\t'].into_iter().find(|&other| one.contains(other))
                {
                    let word = if other == ';' {
                        "semicolons"
                    } else {
                        "tabs (name it .tsv)"
                    };
                    hint = format!(" (the cells are separated by {word}, not commas)");
                }
                let existing = shorten(&columns.join(", "));
                Err(self.table_error(&format!(
                    "no column is called \"{name}\"{hint}; there are: {existing}"
                )))
            }
        }
    }

    pub(super) fn table_error(&self, problem: &str) -> Error {
        Error::annotation(
            self.path,
            None,
            problem,
            "mend the table or its description",
        )
    }

    /// Names a row in words: its line, or its number if there are no lines.
    pub(super) fn place(&self, index: usize) -> String {
        match self.lines {
            Some(lines) => format!("line {}", lines[index]),
            None => format!("row {}", index + 1),
        }
    }

    pub(super) fn error(&self, index: usize, problem: &str, remedy: &str) -> Error {
        match self.lines {
            Some(lines) => Error::annotation(self.path, Some(lines[index]), problem, remedy),
            None => {
                let problem = format!("row {}: {problem}", index + 1);
                Error::annotation(self.path, None, problem, remedy)
            }
        }
    }

    /// The trimmed text of a cell, or the only element of a list; `None` if it is empty.
    ///
    /// # Errors
    /// The cell holds a list of several values.
    pub(super) fn cell(&self, index: usize, column: usize) -> Result<Option<&'a str>, Error> {
        let text = match self.table.rows[index].get(column).and_then(Option::as_ref) {
            None => return Ok(None),
            Some(Cell::Text(text)) => text,
            Some(Cell::List(values)) => match values.as_slice() {
                [] => return Ok(None),
                [one] => one,
                several => {
                    let name = &self.table.columns[column];
                    let count = several.len();
                    let problem = format!("the column \"{name}\" holds a list of {count} values");
                    return Err(self.error(index, &problem, "one value belongs there"));
                }
            },
            Some(Cell::File) => return Err(self.file_error(index, column)),
        };
        let text = text.trim();
        Ok((!text.is_empty()).then_some(text))
    }

    /// Whether a cell holds a file.
    pub(super) fn is_file(&self, index: usize, column: usize) -> bool {
        matches!(self.table.rows[index].get(column), Some(Some(Cell::File)))
    }

    /// The error of a cell that holds a file where a text belongs.
    fn file_error(&self, index: usize, column: usize) -> Error {
        let name = &self.table.columns[column];
        let problem = format!("the column \"{name}\" holds bytes that are no UTF-8 text");
        let remedy = "write texts as strings; only images may lie in the table themselves";
        self.error(index, &problem, remedy)
    }

    /// Parses an id.
    pub(super) fn id(&self, index: usize, column: usize) -> Result<&'a str, Error> {
        let remedy = "ids are short names";
        let Some(id) = self.cell(index, column)? else {
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

    /// Parses a split.
    pub(super) fn split(&self, index: usize, column: usize) -> Result<Split, Error> {
        let word = self.cell(index, column)?.unwrap_or_default();
        Split::from_spelling(word).ok_or_else(|| {
            let problem = format!("\"{}\" is no split", shorten(word));
            self.error(index, &problem, "write train, val or test")
        })
    }

    /// Parses the labels in a cell. A spelling of a missing value, or of a list, is a label only if
    /// the description names it as a class.
    ///
    /// # Errors
    /// The cell begins as a printed list and is none; a sample that needs one label has none or
    /// several.
    pub(super) fn labels(
        &self,
        index: usize,
        column: usize,
        labels: &Labels,
        classes: &[String],
    ) -> Result<Vec<String>, Error> {
        let is_class = |word: &str| classes.iter().any(|class| class == word);
        let words: Vec<String> = match self.table.rows[index].get(column).and_then(Option::as_ref) {
            None => Vec::new(),
            Some(Cell::List(words)) => words.clone(),
            Some(Cell::File) => return Err(self.file_error(index, column)),
            Some(Cell::Text(text)) => {
                let text = text.trim();
                let list = (!is_class(text)).then(|| printed_list(text)).flatten();
                match (list, labels) {
                    (Some(Ok(words)), _) => words,
                    (Some(Err(())), _) => {
                        let problem = format!("\"{}\" is no complete list", shorten(text));
                        return Err(self.error(
                            index,
                            &problem,
                            "mend it, or name it in `classes`",
                        ));
                    }
                    (None, Labels::One(_)) => vec![text.to_owned()],
                    (None, Labels::Many { separator, .. }) => {
                        text.split(separator.as_str()).map(str::to_owned).collect()
                    }
                }
            }
        };
        let trimmed = words.iter().map(|word| word.trim().to_owned());
        let present = |word: &String| !word.is_empty() && (is_class(word) || !is_missing(word));
        let found: Vec<String> = trimmed.filter(present).collect();
        if matches!(labels, Labels::Many { .. }) || found.len() == 1 {
            return Ok(found);
        }
        let (problem, remedy) = match (found.len(), words.first()) {
            (0, Some(word)) if !word.trim().is_empty() => (
                format!(
                    "the label \"{}\" means that the value is missing",
                    shorten(word)
                ),
                "every sample needs its class; if it is one, name it in `classes`",
            ),
            (0, _) => (
                "the label is empty".to_owned(),
                "every sample needs its class",
            ),
            (several, _) => (
                format!("{several} labels where a sample has one"),
                "write `labels` in the description for several labels per sample",
            ),
        };
        Err(self.error(index, &problem, remedy))
    }

    /// Counts the texts of a column that are spellings of a missing value, by spelling.
    pub(super) fn missing_spellings(&self, column: usize) -> BTreeMap<&'a str, usize> {
        let mut counts = BTreeMap::new();
        for row in &self.table.rows {
            if let Some(Some(Cell::Text(text))) = row.get(column)
                && is_missing(text.trim())
            {
                *counts.entry(text.trim()).or_default() += 1;
            }
        }
        counts
    }

    /// Normalizes a path, which must lie below the raw root.
    pub(super) fn path(&self, index: usize, path: &str) -> Result<String, Error> {
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
