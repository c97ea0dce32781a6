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

use crate::error::Error;

/// Fetches a dataset, as far as it is not there.
///
/// # Errors
/// A server or a file of this machine fails for good.
pub fn fetch(dataset: &str, run: &Run) -> Result<Report, Error> {
    match dataset {
        "food-101" => food_101::fetch(run),
        "mm-imdb" => mm_imdb::fetch(run),
        "kinetics-sound" => kinetics_sound::fetch(run),
        "ave" => ave::fetch(run),
        _ => crema_d::fetch(run),
    }
}
