//! Listings of whole trees: the real annotation over stand-in media, and trees with every kind of dirt.

#![allow(clippy::unwrap_used)]

mod ave;
mod check;
mod common;
mod crema_d;
mod custom;
mod food_101;
mod kinetics_sound;
mod mm_imdb;
