//! Runs one reader of foreign files under libFuzzer: `U2A_READER=shard cargo +nightly fuzz run readers`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static READER: LazyLock<&readers::Entry> = LazyLock::new(|| {
    let name = std::env::var("U2A_READER").expect("U2A_READER names a reader");
    let found = readers::ENTRIES.iter().find(|entry| entry.name == name);
    found.expect("one of readers::ENTRIES")
});

fuzz_target!(|bytes: &[u8]| {
    (READER.run)(bytes);
});
