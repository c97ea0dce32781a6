//! `ingest mask`: writes a missing-modality mask beside the shards. What a mask is stands in `features::mask`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use datasets::Split;
use features::Shards;
use features::mask::{self, Mask, Protocol};
use serde_json::json;

use crate::mask_import::{self, Values};
use crate::source;
use util::{cli, outln};

const EXAMPLE: &str = "\
Examples:
  ingest mask crema-d --protocol missing-audio
  ingest mask data/shards/ave --protocol missing-both --rate 0.5 --seed 7
  ingest mask food-101 --import missing_table.npy --split test

`ingest run` writes the masks of every protocol at rate 0.7 for the seeds 0, 1 and 2 by itself.";

/// Writes the missing-modality mask of one protocol beside the shards
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// A dataset, or a folder of shards
    #[arg(value_name = "DATASET|DIR")]
    target: String,
    /// missing-audio, missing-video, missing-image, missing-text or missing-both
    #[arg(long, value_name = "P", required_unless_present = "import")]
    protocol: Option<Protocol>,
    /// Share of the samples that lose something, 0 to 1
    #[arg(long, value_name = "R", default_value_t = mask::RATE)]
    rate: f64,
    /// Which draw
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Take the mask of one split from a .npy, .safetensors or .csv instead: per sample 0 complete, 1 second modality
    /// gone, 2 first modality gone
    #[arg(long, value_name = "FILE", requires = "split", conflicts_with_all = ["protocol", "rate", "seed"])]
    import: Option<PathBuf>,
    /// Which split an imported mask is of
    #[arg(
        long,
        value_name = "SPLIT",
        requires = "import",
        required_unless_present = "protocol"
    )]
    split: Option<Split>,
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
    let (mask, path) = match (&args.import, args.split, args.protocol) {
        (Some(file), Some(split), _) => imported(&shards, file, split)?,
        (_, _, Some(protocol)) => (
            Mask::draw(&shards, protocol, args.rate, args.seed)?,
            Mask::path_in(&folder, protocol, args.rate, args.seed),
        ),
        _ => bail!("give --protocol, or --import with --split"),
    };
    if !args.dry_run {
        mask.write(&path)
            .with_context(|| path.display().to_string())?;
    }
    let [first, second] = shards.spec().modalities;
    let splits = || {
        Split::ALL
            .into_iter()
            .filter(|&split| !shards.split(split).is_empty())
            .filter(|&split| args.split.is_none_or(|one| one == split))
    };
    if args.json {
        let counts: serde_json::Map<_, _> = splits()
            .map(|split| {
                let [one, two] = mask.gone(split);
                let count = json!({"samples": shards.split(split).len(), first.as_str(): one, second.as_str(): two});
                (split.to_string(), count)
            })
            .collect();
        return cli::print_json(&json!({"file": path, "written": !args.dry_run, "hidden": counts}));
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

/// The mask of a file, and where it belongs: `FOLDER/masks/import-STEM-SPLIT.parquet`.
fn imported(shards: &Shards, file: &Path, split: Split) -> anyhow::Result<(Mask, PathBuf)> {
    let ids = &shards.split(split).ids;
    let codes = match mask_import::read(file, split.as_str())? {
        Values::InOrder(codes) => codes,
        Values::ById(codes) => {
            let of = |id: &String| {
                codes.get(id).copied().with_context(|| {
                    format!(
                        "{}: lacks sample '{id}' of {split}; give every sample a value",
                        file.display()
                    )
                })
            };
            ids.iter().map(of).collect::<anyhow::Result<_>>()?
        }
    };
    if codes.len() != ids.len() {
        bail!(
            "{}: holds {} values, the {split} split in {} has {} samples; a csv with id and value needs no order",
            file.display(),
            codes.len(),
            shards.folder().display(),
            ids.len()
        );
    }
    let shown = codes.into_iter().map(mask_import::shown).collect();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let mask = Mask::imported(shards, split, shown, &file.display().to_string())?;
    let path = shards
        .folder()
        .join("masks")
        .join(format!("import-{stem}-{split}.parquet"));
    Ok((mask, path))
}
