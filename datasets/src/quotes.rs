//! Examines the quotes of CSV and TSV, because a quote that is never closed swallows rows.
//!
//! RFC 4180 lets a quoted cell hold line breaks, so a CSV reader takes everything up to the next
//! quote for one cell and reports nothing. What follows that next quote gives most of these faults
//! away: a quote that ends a cell is followed by a separator or the end of the line, and one that
//! begins another cell is followed by a word.

use std::path::Path;

use crate::error::Error;

/// What to do about a quote that is not closed.
const REMEDY: &str = "close it in its line; a quote that is part of a text is written twice, and the text between quotes";

/// A quoted cell that goes over several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LongCell<'a> {
    /// The line, counted from 1, on which the cell begins.
    pub(crate) first: usize,
    /// The line on which it ends.
    pub(crate) last: usize,
    /// The lines between these two.
    pub(crate) between: Vec<&'a str>,
}

/// Finds the quoted cells of a table that go over several lines.
///
/// # Errors
/// A quote is not closed: the table ends within a cell, or more than a separator follows the quote
/// that ends a cell of several lines. The message names the line of the opening quote.
pub(crate) fn long_cells<'a>(
    path: &Path,
    table: &'a str,
    separator: u8,
) -> Result<Vec<LongCell<'a>>, Error> {
    let bytes = table.as_bytes();
    let ends_cell = |byte: u8| byte == separator || matches!(byte, b'\r' | b'\n');
    let mut cells = Vec::new();
    let mut first = 1;
    let mut begins_cell = true;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'"' || !begins_cell {
            begins_cell = ends_cell(byte);
            first += usize::from(byte == b'\n');
            at += 1;
            continue;
        }
        let Some(end) = closing_quote(bytes, at + 1) else {
            let problem = "a quote opens here and is never closed";
            return Err(Error::annotation(path, Some(first), problem, REMEDY));
        };
        let lines: Vec<&str> = table[at + 1..end].split('\n').collect();
        let last = first + lines.len() - 1;
        if let [_, between @ .., _] = lines.as_slice() {
            let next = bytes[end + 1..].iter().find(|&&byte| byte != b' ');
            if next.is_some_and(|&byte| !ends_cell(byte)) {
                let problem =
                    format!("a quote opens here and is not closed before the next, in line {last}");
                return Err(Error::annotation(path, Some(first), problem, REMEDY));
            }
            cells.push(LongCell {
                first,
                last,
                between: between.to_vec(),
            });
        }
        first = last;
        begins_cell = false;
        at = end + 1;
    }
    Ok(cells)
}

/// Finds the quote that closes a cell which begins at `at`. Two quotes stand for one of the text.
fn closing_quote(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == b'"')?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: &str) -> Result<Vec<(usize, usize)>, String> {
        let cells = long_cells(Path::new("t.csv"), table, b',');
        let cells = cells.map_err(|error| error.to_string())?;
        Ok(cells.iter().map(|cell| (cell.first, cell.last)).collect())
    }

    #[test]
    fn closed_quotes_are_accepted() {
        let cases: [(&str, &[(usize, usize)]); 8] = [
            ("a,b\n1,\"x\"\n2,\"y, z\"\n", &[]),
            ("a,b\r\n1,\"x\r\ny\"\r\n2,z\r\n", &[(2, 3)]),
            ("a,b\n\"1\n2\n3\",z\n\"4\n5\",z", &[(2, 4), (5, 6)]),
            ("a,b\n1,\"\"\"x\"\"\ny\"\n", &[(2, 3)]),
            ("a,b\n1,\"x\ny\" \n", &[(2, 3)]),
            // A quote within a cell is a character like any other.
            ("a,b\n1,12\" pizza\n2,6' 2\"\n", &[]),
            // A slip within one line swallows no row.
            ("a,b\n1,\"x\"y\n", &[]),
            ("", &[]),
        ];
        for (table, expected) in cases {
            assert_eq!(found(table).as_deref(), Ok(expected), "{table:?}");
        }
    }

    #[test]
    fn quotes_that_are_not_closed_are_errors_with_their_line() {
        let cases = [
            (
                "a,b\n1,\"x\n2,y\n3,z\n",
                "t.csv, line 2: a quote opens here and is never",
            ),
            (
                "a,b\n1,\"x\n2,y\n3,\"z\n",
                "t.csv, line 2: a quote opens here and is not closed before the next, in line 4",
            ),
            (
                "a,b\n1,\"x\n2,\"y, z\"\n",
                "line 2: a quote opens here and is not closed before the next, in line 3",
            ),
            (
                "a,b\n1,\"x\n2,\"\"\n",
                "line 2: a quote opens here and is never",
            ),
            ("a,\"b\n1,x\n", "line 1: a quote opens here and is never"),
            ("a,b\n1,x\n\"", "line 3: a quote opens here and is never"),
            (
                "a,b\n1,\"x\ny\"\n3,\"z\n",
                "line 4: a quote opens here and is never",
            ),
        ];
        for (table, expected) in cases {
            let error = found(table).unwrap_err();
            assert!(error.contains(expected), "{table:?}: {error}");
        }
    }
}
