//! `ingest`: the program that turns raw media into Parquet shards, checks raw trees and draws masks.
//!
//! [`cli`] has one module per subcommand. A run plans its shards ([`plan`]), has the media decoded
//! by child processes ([`workers`], which use [`decode`]), and writes the shards in order ([`run`],
//! [`shard_writer`], [`manifest`]) into a folder ([`output`]). What the files held then ([`contents`]) tells a later run which
//! of them have changed.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;
mod contents;
mod decode;
mod failure;
mod manifest;
mod mask_import;
mod output;
mod parquet_cell;
mod parquet_table;
mod plan;
mod progress;
mod run;
mod shard_writer;
mod sounds;
mod source;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
