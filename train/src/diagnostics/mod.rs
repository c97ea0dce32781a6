//! Checks of a machine: its hardware and libraries, the accuracy of its devices and their speed.

pub mod bench;
pub mod doctor;
pub mod selftest;
