//! The forms of a user's table: which are read, and what the others are.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::json_lines::read_json_lines;
use super::table::{Lines, Table, read_csv};
use crate::encoding::decode;
use crate::error::Error;

/// The form of a table of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Rows of cells with this separator.
    Csv(u8),
    /// An object in each line.
    JsonLines,
}

/// Limit on the bytes of a table that is compressed.
const MAX_TABLE_BYTES: u64 = 4 << 30;

/// What to do about a table in another form.
const REMEDY: &str = "save the table as .csv, .tsv, .jsonl or .parquet";

/// Forms of tables that people have and that would be taken for CSV, by the end of the name.
const OTHER_NAMES: [(&str, &str); 17] = [
    ("xlsx", "an Excel workbook"),
    ("xlsm", "an Excel workbook"),
    ("xls", "an Excel workbook"),
    ("xlsb", "an Excel workbook"),
    ("ods", "an OpenDocument spreadsheet"),
    ("numbers", "a Numbers spreadsheet"),
    ("json", "a table in JSON"),
    ("feather", "a Feather file"),
    ("arrow", "an Arrow file"),
    ("pkl", "a pickled table"),
    ("pickle", "a pickled table"),
    ("h5", "an HDF5 file"),
    ("sqlite", "a database"),
    ("zip", "a ZIP archive"),
    ("bz2", "a table compressed by bzip2"),
    ("xz", "a table compressed by xz"),
    ("zst", "a table compressed by zstd"),
];

/// The same by the first bytes, which are those of the form whatever the name is.
const OTHER_CONTENTS: [(&[u8], &str); 8] = [
    (b"PK\x03\x04", "an Excel workbook or a ZIP archive"),
    (b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "an Excel workbook"),
    (b"ARROW1", "an Arrow or Feather file"),
    (b"FEA1", "a Feather file"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"SQLite format 3\0", "a database"),
    (b"PAR1", "a Parquet table under another name"),
    (b"version https://git-lfs", "a Git LFS pointer"),
];

/// Whether the end of a file's name is this extension, in any letter case.
pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension()
        .is_some_and(|one| one.eq_ignore_ascii_case(extension))
}

/// Reads a table of text: CSV, TSV or JSON lines, each as it is or compressed by gzip.
///
/// # Errors
/// The file cannot be read, is of another form, or is malformed.
pub(super) fn read(path: &Path, encoding: Option<&str>) -> Result<(Table, Lines), Error> {
    let other = |form: &str, remedy: &str| {
        Error::annotation(path, None, format!("{form} is not read"), remedy)
    };
    for (extension, form) in OTHER_NAMES {
        if has_extension(path, extension) {
            return Err(other(form, REMEDY));
        }
    }
    let mut bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    if bytes.starts_with(b"\x1F\x8B") {
        bytes = unzipped(path, &bytes)?;
    }
    for (start, form) in OTHER_CONTENTS {
        if bytes.starts_with(start) {
            let remedy = match form {
                "a Git LFS pointer" => "run git lfs pull",
                "a Parquet table under another name" => "name it .parquet",
                _ => REMEDY,
            };
            return Err(other(form, remedy));
        }
    }
    let text = decode(path, &bytes, encoding)?;
    let text = text.trim_start_matches('\u{feff}');
    match form(path) {
        Form::Csv(separator) => read_csv(path, text, separator),
        Form::JsonLines => read_json_lines(path, text),
    }
}

/// Returns the form that a file's name gives. `.gz` at its end says nothing of the form.
fn form(path: &Path) -> Form {
    let inner = match has_extension(path, "gz") {
        true => path.with_extension(""),
        false => path.to_owned(),
    };
    let is = |extension| has_extension(&inner, extension);
    if is("jsonl") || is("ndjson") {
        Form::JsonLines
    } else if is("tsv") || is("tab") {
        Form::Csv(b'\t')
    } else {
        Form::Csv(b',')
    }
}

/// Decompresses a table.
fn unzipped(path: &Path, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let mut decoder = MultiGzDecoder::new(bytes).take(MAX_TABLE_BYTES + 1);
    let problem = match decoder.read_to_end(&mut text) {
        Ok(length) if length as u64 <= MAX_TABLE_BYTES => return Ok(text),
        Ok(_) => format!("more than {} GiB once decompressed", MAX_TABLE_BYTES >> 30),
        Err(error) => format!("its gzip data cannot be decompressed ({error})"),
    };
    let remedy = "fetch it again, or save the table uncompressed";
    Err(Error::annotation(path, None, problem, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_the_form() {
        let cases = [
            ("a.csv", Form::Csv(b',')),
            ("a", Form::Csv(b',')),
            ("a.txt", Form::Csv(b',')),
            ("a.TSV", Form::Csv(b'\t')),
            ("a.tsv.gz", Form::Csv(b'\t')),
            ("a.gz", Form::Csv(b',')),
            ("a.jsonl", Form::JsonLines),
            ("a.ndjson.GZ", Form::JsonLines),
            ("a.jsonl.csv", Form::Csv(b',')),
        ];
        for (name, expected) in cases {
            assert_eq!(form(Path::new(name)), expected, "{name}");
        }
    }
}
