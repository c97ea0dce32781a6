//! What the modules of the datasets share: options, places, and the report.

use std::path::{Path, PathBuf};

use datasets::sources::Sources;
use serde::Serialize;

use crate::archive::record::{self, Record};
use crate::archive::tar::Member;
use crate::archive::unpack::{Choice, Wanted, unpack};
use crate::client::Client;
use crate::error::{Error, Kind};
use crate::origin::{Base, Remote};
use crate::progress::Progress;

/// The beginning of [`Run::options`] without a limit.
pub const ALL: &str = "limit all,";

/// A run of `fetch` for one dataset.
pub struct Run<'a> {
    /// The client of all requests.
    pub client: &'a Client,
    /// Shows the progress.
    pub progress: &'a Progress,
    /// What is known of the dataset's sources.
    pub sources: &'static Sources,
    /// The raw folder.
    pub raw: &'a Path,
    /// The number of samples, or all.
    pub limit: Option<usize>,
    /// How many files are fetched at once.
    pub jobs: usize,
    /// Mirrors and folders that take the place of the publisher.
    pub mirrors: &'a [Base],
    /// The choice of a source, where a dataset has several.
    pub from: Option<&'a str>,
    /// Whether archives stay that had to be fetched as a whole.
    pub keep_archives: bool,
}

/// What a run has found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Files that are there now.
    pub files: usize,
    /// What could not be fetched.
    pub missing: Vec<Finding>,
}

/// Something that could not be fetched.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// A file or a clip.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Run<'_> {
    /// The places of a role, in the order in which they are tried: those of the user, else the known
    /// ones.
    pub fn bases(&self, role: &str) -> Vec<Base> {
        if !self.mirrors.is_empty() {
            return self.mirrors.to_vec();
        }
        let places = self.sources.places(role);
        places.map(|place| Base::parse(place.address)).collect()
    }

    /// A file in the folder of records.
    pub fn state(&self, name: &str) -> PathBuf {
        self.raw.join(record::FOLDER).join(name)
    }

    /// What the choice of files depends on, for records.
    pub fn options(&self) -> String {
        let limit = self
            .limit
            .map_or("all".to_owned(), |limit| limit.to_string());
        format!("limit {limit}, from {}", self.from.unwrap_or("default"))
    }

    /// Unpacks an archive into the raw folder while it is fetched. `key` names its record.
    ///
    /// # Errors
    /// Those of [`unpack`].
    pub fn unpack(
        &self,
        remote: &Remote,
        key: &str,
        choose: &mut dyn FnMut(&Member, &Record) -> Choice,
    ) -> Result<Record, Error> {
        let transfer = self.progress.transfer(key);
        let archive = Wanted {
            remote,
            key,
            raw: self.raw,
            options: &self.options(),
        };
        unpack(self.client, &archive, &transfer, choose)
    }

    /// An error of a file below the raw folder.
    pub fn local(&self, path: &Path, error: std::io::Error) -> Error {
        Error::local(self.sources.dataset, path, error)
    }
}

/// Calls `attempt` with one base after the other until one has what is wanted.
///
/// # Errors
/// That of the last base, or of one that fails on this machine.
pub fn first_working<T>(
    run: &Run,
    bases: &[Base],
    mut attempt: impl FnMut(&Base) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut last = None;
    for (number, base) in bases.iter().enumerate() {
        match attempt(base) {
            Ok(value) => return Ok(value),
            Err(error) if error.kind == Kind::Local => return Err(error),
            Err(error) if number + 1 < bases.len() => {
                let message = format!("{error}; trying the next source");
                run.progress.print("warning", &message);
                last = Some(error);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .unwrap_or_else(|| Error::new(run.sources.dataset, Kind::Refused, "has no known source")))
}
