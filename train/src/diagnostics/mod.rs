//! What a machine can do: its hardware and libraries, and a comparison of devices.

pub(crate) mod doctor;
pub(crate) mod selftest;
