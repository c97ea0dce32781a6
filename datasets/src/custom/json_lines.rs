//! Reads a user's table from JSON lines: one object per row, whose keys are the columns.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::cells::Cell;
use super::table::{Lines, Table};
use crate::error::Error;
use crate::json::without_nan;

/// Reads a table of JSON lines. A row that lacks a key has a null value there. Values keep their
/// type: lists are lists, `null` and Python's `NaN` are missing values.
///
/// # Errors
/// A line is no object.
pub(super) fn read_json_lines(path: &Path, text: &str) -> Result<(Table, Lines), Error> {
    let mut table = Table::default();
    let mut columns: BTreeMap<String, usize> = BTreeMap::new();
    let mut of_rows = Vec::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
    {
        if line.trim().is_empty() {
            continue;
        }
        let object = parse(line).map_err(|problem| {
            let remedy = match line.trim_start().starts_with('[') {
                true => "write one object per line, as pandas does with to_json(path, orient=\"records\", lines=True)",
                false => "mend that line; every row is an object, as in {\"id\": \"a\", \"label\": \"cat\"}",
            };
            Error::annotation(path, Some(number), problem, remedy)
        })?;
        let mut row = vec![None; table.columns.len()];
        for (key, value) in &object {
            let column = match columns.get(key) {
                Some(&column) => column,
                None => {
                    columns.insert(key.clone(), table.columns.len());
                    table.columns.push(key.clone());
                    row.push(None);
                    table.columns.len() - 1
                }
            };
            row[column] = cell(value);
        }
        of_rows.push(number);
        table.rows.push(row);
    }
    // Columns that come up later are missing in the rows before.
    for row in &mut table.rows {
        row.resize(table.columns.len(), None);
    }
    let lines = Lines {
        of_rows,
        long_cells: Vec::new(),
    };
    Ok((table, lines))
}

/// Parses a line.
fn parse(line: &str) -> Result<Map<String, Value>, String> {
    let value = match serde_json::from_str(line) {
        Ok(value) => value,
        Err(error) => serde_json::from_str(&without_nan(line))
            .map_err(|_| format!("no JSON: {}", without_place(&error)))?,
    };
    match value {
        Value::Object(object) => Ok(object),
        Value::Array(_) => Err("a list where an object should be".to_owned()),
        _ => Err("no object".to_owned()),
    }
}

/// Returns an error's message without the line, which is always 1.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let words = text.split(" at line ").next().unwrap_or_default();
    format!("{words} in column {}", error.column())
}

/// Returns a cell, as the reader of Parquet tables does. `None` if it is null.
fn cell(value: &Value) -> Option<Cell> {
    match value {
        Value::Array(values) => Some(Cell::List(values.iter().filter_map(word).collect())),
        other => word(other).map(Cell::Text),
    }
}

/// Returns a value as text. `None` if it is null.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Table, Lines), String> {
        read_json_lines(Path::new("t.jsonl"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn objects_become_rows_with_their_types() {
        let text = "{\"id\": \"a\", \"n\": 7, \"x\": 2.0, \"ok\": true}\r\n\n\
                    {\"id\": \"b\\n\", \"x\": NaN, \"labels\": [\"NaN\", null, 1, 0.5]}\n\
                    {\"n\": null, \"labels\": [], \"id\": \"c\"}";
        let (table, lines) = read(text).unwrap();
        assert_eq!(table.columns, ["id", "n", "x", "ok", "labels"]);
        let text = |text: &str| Some(Cell::Text(text.to_owned()));
        let list = |words: &[&str]| {
            Some(Cell::List(
                words.iter().map(|&one| one.to_owned()).collect(),
            ))
        };
        let expected = [
            [text("a"), text("7"), text("2.0"), text("true"), None],
            [text("b\n"), None, None, None, list(&["NaN", "1", "0.5"])],
            [text("c"), None, None, None, list(&[])],
        ];
        assert_eq!(table.rows, expected);
        assert_eq!(lines.of_rows, [1, 3, 4]);
    }

    #[test]
    fn lines_that_are_no_objects_are_errors_with_their_number() {
        let cases = [
            (
                "{\"id\": 1}\n{\"id\": 2",
                "t.jsonl, line 2: no JSON: EOF while parsing",
            ),
            (
                "[{\"id\": 1}]",
                "line 1: a list where an object should be; write one object per line",
            ),
            (
                "[\n{\"id\": 1},\n]",
                "line 1: no JSON: EOF while parsing a list in column 1; write one",
            ),
            ("{\"id\": 1}\n\"x\"", "line 2: no object; mend that line"),
            (
                "id,label\n",
                "line 1: no JSON: expected value in column 1; mend",
            ),
            (
                "{\"id\": 1} {\"id\": 2}",
                "line 1: no JSON: trailing characters in column 11",
            ),
        ];
        for (text, expected) in cases {
            let error = read(text).err().unwrap();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
