//! `ingest`: raw media to Parquet shards, and what belongs to that.
//!
//! [`cli`] has one module per subcommand. A run plans its shards ([`plan`]), has the media decoded
//! by child processes ([`workers`], which use [`decode`]), and writes the shards in order ([`run`],
//! [`shard_writer`], [`manifest`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;
mod decode;
mod failure;
mod manifest;
mod mask_import;
mod plan;
mod progress;
mod run;
mod shard_writer;
mod source;
mod table;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
