//! `ingest mask`: writes a missing-modality mask beside the shards. What a mask is stands in `features::mask`.

use std::process::ExitCode;

use anyhow::Context;
use datasets::Split;
use features::Shards;
use features::mask::{self, Mask, Protocol};
use serde_json::json;

use crate::output::{self, outln};
use crate::source;

const EXAMPLE: &str = "\
Examples:
  ingest mask crema-d --protocol missing-audio
  ingest mask data/shards/ave --protocol missing-both --rate 0.5 --seed 7

`ingest run` writes the masks of every protocol at rate 0.7 for the seeds 0, 1 and 2 by itself.";

/// Writes the missing-modality mask of one protocol beside the shards
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// A dataset, or a folder of shards
    #[arg(value_name = "DATASET|DIR")]
    target: String,
    /// missing-audio, missing-video, missing-image, missing-text or missing-both
    #[arg(long, value_name = "P")]
    protocol: Protocol,
    /// Share of the samples that lose something, 0 to 1
    #[arg(long, value_name = "R", default_value_t = mask::RATE)]
    rate: f64,
    /// Which draw
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Draw, say what comes out, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = source::shards(&args.target)?;
    let shards = Shards::open(&folder)?;
    let mask = Mask::draw(&shards, args.protocol, args.rate, args.seed)?;
    let path = Mask::path_in(&folder, args.protocol, args.rate, args.seed);
    if !args.dry_run {
        mask.write(&path)
            .with_context(|| path.display().to_string())?;
    }
    let [first, second] = shards.spec().modalities;
    let splits = || {
        Split::ALL
            .into_iter()
            .filter(|&split| !shards.split(split).is_empty())
    };
    if args.json {
        let counts: serde_json::Map<_, _> = splits()
            .map(|split| {
                let [one, two] = mask.gone(split);
                let count = json!({"samples": shards.split(split).len(), first.as_str(): one, second.as_str(): two});
                (split.to_string(), count)
            })
            .collect();
        return output::json(&json!({"file": path, "written": !args.dry_run, "hidden": counts}));
    }
    for split in splits() {
        let [one, two] = mask.gone(split);
        outln!(
            "{split:<5} {} samples: {one} lose {first}, {two} lose {second}",
            shards.split(split).len()
        )?;
    }
    outln!(
        "{} {}",
        if args.dry_run { "would write" } else { "wrote" },
        path.display()
    )?;
    Ok(ExitCode::SUCCESS)
}
