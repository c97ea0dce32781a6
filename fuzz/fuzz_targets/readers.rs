//! Runs one reader of foreign files under libFuzzer: `U2A_READER=shard cargo +nightly fuzz run readers`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static READER: LazyLock<&readers::Reader> = LazyLock::new(|| {
    let name = std::env::var("U2A_READER").expect("U2A_READER names a reader");
    let found = readers::READERS.iter().find(|reader| reader.name == name);
    found.expect("one of readers::READERS")
});

fuzz_target!(|bytes: &[u8]| {
    (READER.read)(bytes);
});
