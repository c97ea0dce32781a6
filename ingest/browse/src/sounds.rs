//! Sounds, which come from the caller.

use crate::rows::RowId;

/// A sound that a browser can play.
pub struct Sound {
    /// Its media type, such as "audio/mpeg".
    pub media_type: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Where sounds come from.
pub trait Sounds {
    /// Returns the sounds of rows, which have these ids, or the reason why a row has none.
    ///
    /// # Errors
    /// No further row can have a sound.
    fn of(&mut self, rows: &[(RowId, &str)]) -> anyhow::Result<Vec<Result<Sound, String>>>;
}
