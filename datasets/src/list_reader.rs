//! Reads annotation lists of one row per line, which may begin with a header.

use crate::error::{Error, shorten};
use crate::finder::Finder;
use crate::tree::{Tree, lines};
use crate::types::NoteKind;

/// The form of a list's rows, in words for error messages.
pub(crate) struct ListForm {
    /// The kind of list, such as `CREMA-D list`.
    pub(crate) name: &'static str,
    /// What a row should be, with an example.
    pub(crate) expected: &'static str,
}

impl ListForm {
    /// Reads a list. `parse` gets the number of a line and its text, and returns `None` if the
    /// line is no row.
    ///
    /// # Errors
    /// The file cannot be read; a line other than the first is no row; `parse` fails.
    pub(crate) fn read<T>(
        &self,
        tree: &Tree,
        file: &str,
        finder: &mut Finder<'_>,
        mut parse: impl FnMut(usize, &str) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        let text = tree.read(file)?;
        let mut rows = Vec::new();
        for (number, line) in lines(&text) {
            match parse(number, line)? {
                Some(row) => rows.push(row),
                None => self.skip_header(tree, file, finder, (number, line))?,
            }
        }
        Ok(rows)
    }

    /// Skips a line that is no row if it is the first, which a note says.
    ///
    /// # Errors
    /// The line is not the first.
    pub(crate) fn skip_header(
        &self,
        tree: &Tree,
        file: &str,
        finder: &mut Finder<'_>,
        (number, line): (usize, &str),
    ) -> Result<(), Error> {
        if number == 1 {
            let message = "the first line is taken for a header";
            finder.note(NoteKind::Repaired, file, message);
            return Ok(());
        }
        Err(Error::annotation(
            &tree.path(file),
            Some(number),
            format!("\"{}\" is no row of a {}", shorten(line), self.name),
            self.expected,
        ))
    }
}
