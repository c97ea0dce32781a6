//! The raw data of the five datasets, one module each.

mod ave;
mod crema_d;
mod drive;
mod food_101;
mod kaggle;
mod kinetics_sound;
mod lfs;
mod lists;
mod mm_imdb;
mod pairs;
mod run;
mod zipped;

pub use run::{Report, Run};

use std::io;

use crate::archive::record;
use crate::error::{Error, Kind};

/// Fetches a dataset, as far as it is not there.
///
/// # Errors
/// A server or a file of this machine fails for good; `--limit` would shorten the lists of a whole
/// tree.
pub fn fetch(dataset: &str, run: &Run) -> Result<Report, Error> {
    if run.limit.is_some()
        && was_fetched_without_limit(run).map_err(|error| run.local(run.raw, error))?
    {
        let message = format!(
            "{} holds the dataset without a limit, and --limit would shorten its lists; leave it out, or \
             choose another folder by --raw",
            run.raw.display()
        );
        return Err(Error::new(dataset, Kind::Refused, message));
    }
    match dataset {
        "food-101" => food_101::fetch(run),
        "mm-imdb" => mm_imdb::fetch(run),
        "kinetics-sound" => kinetics_sound::fetch(run),
        "ave" => ave::fetch(run),
        _ => crema_d::fetch(run),
    }
}

/// Whether an earlier run without `--limit` has finished an archive, or CREMA-D's tables of hashes.
fn was_fetched_without_limit(run: &Run) -> io::Result<bool> {
    let mut tables = crema_d::FOLDERS.map(crema_d::table).into_iter();
    Ok(tables.any(|table| run.raw.join(table).is_file())
        || record::any_done(run.raw, |options| options.starts_with(run::ALL))?)
}
