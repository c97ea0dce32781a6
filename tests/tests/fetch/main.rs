//! `fetch` against servers on loopback that behave as the publishers' do: each dataset ends in a tree
//! that `ingest check` calls as whole as the synthetic tree that was packed, although `fetch` was
//! killed ten times, and no byte crosses the network twice but the last part of what was on its way.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod ave;
mod crema_d;
mod food_101;
mod hostile;
mod killing;
mod kinetics_sound;
mod mm_imdb;
mod packing;
mod usage;
