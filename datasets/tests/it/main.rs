//! Listings of raw trees: the published annotation with placeholder media, and malformed trees.

#![allow(clippy::unwrap_used)]

mod ave;
mod check;
mod common;
mod crema_d;
mod custom;
mod food_101;
mod kinetics_sound;
mod mm_imdb;
