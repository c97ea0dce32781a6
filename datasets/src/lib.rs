//! Reads the raw trees of five multimodal datasets, and of your own, into a list of samples.
//!
//! A dataset ([`Dataset`]) knows its classes, splits and published counts ([`Info`]), the folder
//! layouts that publishers use and the grammar of their annotations. From a raw folder it makes a
//! [`Listing`]: the samples, each with an id, a split, labels and the input of each modality, and
//! notes about everything that is unusual in the tree.
//!
//! This crate decodes no media, reads no Parquet and writes no files.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let raw = folder.path();
//! # for file in ["AudioWAV/1001_DFA_ANG_XX.wav", "VideoFlash/1001_DFA_ANG_XX.flv"] {
//! #     std::fs::create_dir_all(raw.join(file).parent().unwrap())?;
//! #     std::fs::write(raw.join(file), "media")?;
//! # }
//! use datasets::{ListOptions, Split};
//!
//! let dataset = datasets::open("crema-d")?;
//! assert_eq!(dataset.info().classes[0], "Anger");
//!
//! let listing = dataset.list(raw, &ListOptions::default())?;
//! for sample in listing.split(Split::Train) {
//!     println!("{} {:?} {:?}", sample.id, sample.labels, sample.inputs);
//! }
//! # assert_eq!(listing.count(Split::Train), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Three rules hold for every dataset:
//! - There is one sample per annotation row, whether its files exist or not; its [`Input`]s say
//!   what is missing.
//! - The listing depends on the names and contents below the raw root. It does not depend on where
//!   the root lies or on the order in which the system lists a folder.
//! - Text files may have LF or CRLF, a byte-order mark and no final newline.
//!
//! Your own data needs a `.toml` and no code, see [`custom`]. To add a dataset in code, implement
//! [`Dataset`] as `examples/add_dataset.rs` does.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ave;
mod check;
mod clean;
mod clip;
mod crema_d;
pub mod custom;
mod encoding;
mod error;
mod facts;
mod finder;
mod food_101;
mod hashes;
mod json;
mod kinetics_sound;
mod list_reader;
mod mm_imdb;
mod modalities;
mod near_names;
mod quotes;
pub mod sources;
mod stratify;
mod terms;
mod tree;
mod types;

pub use check::{
    CheckOptions, CheckReport, ClassCheck, MissingItem, SplitCheck, check, check_listing,
};
pub use custom::{Cell, Custom, Table, table_row};
pub use error::Error;
pub use hashes::{HashCheck, WrongFile};
pub use modalities::{InputName, Modalities, Modality, View};
pub use terms::{Terms, terms};
pub use tree::LFS_PREFIX;
pub use types::{
    AbsenceCause, Dataset, Info, Input, ListOptions, Listing, MAX_ID_BYTES, Note, NoteKind, Plot,
    PublishedCount, Sample, Split,
};

use std::path::Path;

/// The names of the five datasets, in the order in which the paper presents them.
pub fn names() -> &'static [&'static str] {
    &facts::NAMES
}

/// Opens a dataset by its name, or by the path of a `.toml` that describes the user's own (see
/// [`custom`] for the format).
///
/// # Errors
/// No dataset has this name, or the `.toml` cannot be read or is wrong.
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

/// Reads the text of an [`Input::TextFile`] and cleans it: it is decoded by its byte-order mark,
/// else as UTF-8, else in the encoding with this label, and whitespace and control characters between words become one blank. Returns
/// `None` if the text has no word. `path` is absolute or relative to the working directory.
///
/// # Errors
/// The file cannot be read, or its bytes do not fit the encoding.
pub fn read_text_file(path: &Path, encoding: Option<&str>) -> Result<Option<String>, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    let text = encoding::decode(path, &bytes, encoding)?;
    Ok(clean::squeeze(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_opened() {
        for name in names() {
            let dataset = open(name).unwrap();
            assert_eq!(dataset.info().name, *name);
        }
        let error = open("crema").err().unwrap().to_string();
        assert!(error.contains("did you mean \"crema-d\""), "{error}");
    }
}
