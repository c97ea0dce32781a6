//! `U2A_READER=shard cargo +nightly fuzz run readers`: one reader of foreign files under libFuzzer.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static READER: LazyLock<&fuzz::Entry> = LazyLock::new(|| {
    let name = std::env::var("U2A_READER").expect("U2A_READER names a reader");
    let found = fuzz::ENTRIES.iter().find(|entry| entry.name == name);
    found.expect("one of fuzz::ENTRIES")
});

fuzz_target!(|bytes: &[u8]| {
    (READER.run)(bytes);
});
