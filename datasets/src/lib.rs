//! What each dataset IS: raw layouts, annotation grammar, classes in canonical order, splits, known-bad items and
//! expected counts. A raw folder goes in, a plain list of samples comes out ([`Listing`]).
//!
//! Not here: media (no file is decoded) and Parquet. Nothing is written anywhere.
//!
//! What holds for every dataset:
//! - One sample per annotation row, whether its files are there or not; what is missing is said in its [`Input`].
//! - The listing depends on the names and contents below the raw root, not on where it lies or in which order a
//!   folder gives its entries.
//! - Text files are read in LF and CRLF, with and without byte-order mark and final newline.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ave;
mod check;
mod clean;
mod clip;
mod crema_d;
pub mod custom;
mod error;
mod facts;
mod finder;
mod food_101;
mod hashes;
mod kinetics_sound;
mod list_reader;
mod mm_imdb;
mod stratify;
mod tree;
mod types;

pub use check::{CheckOptions, CheckReport, ClassCheck, MissingItem, SplitCheck, check};
pub use custom::{Custom, Table};
pub use error::Error;
pub use hashes::{HashCheck, WrongFile};
pub use types::{
    AbsenceCause, Dataset, Info, Input, ListOptions, Listing, MAX_ID_BYTES, Modality, Note,
    NoteKind, Plot, Sample, Split,
};

use std::path::Path;

/// The names that [`open`] knows, in the order in which the paper presents them.
pub fn names() -> &'static [&'static str] {
    &facts::NAMES
}

/// Finds a dataset by registry name, or reads the `.toml` that describes the user's own ([`custom`] tells the format).
///
/// # Errors
/// No such name; a `.toml` that cannot be read or is wrong.
pub fn open(name_or_toml: &str) -> Result<Box<dyn Dataset>, Error> {
    Ok(match name_or_toml {
        "food-101" => Box::new(food_101::Food101::new()),
        "mm-imdb" => Box::new(mm_imdb::MmImdb::new()),
        "kinetics-sound" => Box::new(kinetics_sound::KineticsSound::new()),
        "ave" => Box::new(ave::Ave::new()),
        "crema-d" => Box::new(crema_d::CremaD::new()),
        path if path.ends_with(".toml") => Box::new(Custom::open(Path::new(path))?),
        name => {
            return Err(Error::UnknownDataset {
                hint: util::suggest::did_you_mean(name, facts::NAMES),
                name: name.to_owned(),
                choices: facts::NAMES.join(", "),
            });
        }
    })
}

/// Reads the text behind [`Input::TextFile`] at `path` (absolute, or relative to the working directory) and cleans it:
/// byte-order mark and carriage returns gone, bytes that are no UTF-8 replaced, blanks squeezed. `None` where
/// nothing is left.
///
/// # Errors
/// The file cannot be read.
pub fn read_text_file(path: &Path) -> Result<Option<String>, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(clean::squeeze(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_opens() {
        for name in names() {
            let dataset = open(name).unwrap();
            assert_eq!(dataset.info().name, *name);
        }
        let error = open("crema").err().unwrap().to_string();
        assert!(error.contains("did you mean \"crema-d\""), "{error}");
    }
}
