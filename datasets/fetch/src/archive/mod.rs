//! Archives: tar and gzip that are unpacked while they are fetched and go on after an interruption,
//! zip that is fetched first. Nothing of them is written outside of the target.

pub mod gzip;
pub mod names;
pub mod record;
pub mod tar;
pub mod unpack;
pub mod zip;
