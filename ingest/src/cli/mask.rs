//! `ingest mask`: writes a missing-modality mask beside the shards. [`features::mask`] defines
//! masks.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use datasets::Split;
use features::Shards;
use features::mask::{self, Mask, Protocol};
use serde_json::json;
use util::{cli, outln};

use crate::mask_import::{self, Values};
use crate::source;

const EXAMPLES: &str = "\
Examples:
  ingest mask crema-d --protocol missing-audio
  ingest mask data/shards/ave --protocol missing-both --rate 0.5 --seed 7
  ingest mask s3://bucket/shards/ave --protocol missing-video
  ingest mask food-101 --import missing_table.npy --split test

`ingest run` writes the masks of all protocols with rate 0.7 and the seeds 0, 1 and 2.";

/// Write the missing-modality mask of a protocol beside the shards
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of a dataset, or a folder of shards or its URL
    #[arg(value_name = "DATASET|DIR")]
    target: String,
    /// How the mask is drawn: missing-audio, missing-video, missing-image, missing-text or
    /// missing-both
    #[arg(long, value_name = "P", required_unless_present = "import")]
    protocol: Option<Protocol>,
    /// Share of the samples that lose a modality, from 0 to 1
    #[arg(long, value_name = "R", default_value_t = mask::RATE)]
    rate: f64,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Import the mask of one split from a .npy, .safetensors or .csv file: for each sample 0 if it
    /// is complete, 1 if it lacks the second modality, 2 if it lacks the first
    #[arg(long, value_name = "FILE", requires = "split", conflicts_with_all = ["protocol", "rate", "seed"])]
    import: Option<PathBuf>,
    /// Split of the imported mask
    #[arg(
        long,
        value_name = "SPLIT",
        requires = "import",
        required_unless_present = "protocol"
    )]
    split: Option<Split>,
    /// Print the result and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// There are no such shards, they lack the protocol's modality, the imported mask does not fit
/// them, or the file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = source::shards_folder(&args.target)?;
    let shards = Shards::open(&folder)?;
    let (mask, name) = match (&args.import, args.split, args.protocol) {
        (Some(file), Some(split), _) => import(&shards, file, split)?,
        (_, _, Some(protocol)) => (
            Mask::draw(&shards, protocol, args.rate, args.seed)?,
            Mask::name(protocol, args.rate, args.seed),
        ),
        _ => bail!("give --protocol, or --import with --split"),
    };
    folder.check_writable()?;
    if !args.dry_run {
        folder.write(&name, &mask.encode()?)?;
    }
    print_result(args, &shards, &mask, &folder.path_of(&name))
}

fn print_result(
    args: &Args,
    shards: &Shards,
    mask: &Mask,
    path: &Path,
) -> anyhow::Result<ExitCode> {
    let names = || shards.spec().modalities.names();
    let splits = || {
        Split::ALL
            .into_iter()
            .filter(|&split| !shards.split(split).is_empty())
            .filter(|&split| args.split.is_none_or(|one| one == split))
    };
    if args.json {
        let counts: serde_json::Map<_, _> = splits()
            .map(|split| {
                let hidden = names().zip(mask.hidden_counts(split));
                let hidden = hidden.map(|(input, count)| (input.to_string(), json!(count)));
                let mut counts: serde_json::Map<_, _> = hidden.collect();
                counts.insert("samples".into(), json!(shards.split(split).len()));
                (split.to_string(), json!(counts))
            })
            .collect();
        return cli::print_json(&json!({"file": path, "written": !args.dry_run, "hidden": counts}));
    }
    for split in splits() {
        let hidden = names().zip(mask.hidden_counts(split));
        let hidden = hidden.map(|(input, count)| format!("{count} lose {input}"));
        outln!(
            "{split:<5} {} samples: {}",
            shards.split(split).len(),
            hidden.collect::<Vec<_>>().join(", ")
        )?;
    }
    outln!(
        "{} {}",
        if args.dry_run { "would write" } else { "wrote" },
        path.display()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a mask of another program. Also returns the name of the mask to write in the folder of the
/// shards, `masks/import-STEM-SPLIT.parquet`.
fn import(shards: &Shards, file: &Path, split: Split) -> anyhow::Result<(Mask, String)> {
    let ids = &shards.split(split).ids;
    let codes = match mask_import::read(file, split.as_str())? {
        Values::InOrder(codes) => codes,
        Values::ById(codes) => {
            let code = |id: &String| {
                codes.get(id).copied().with_context(|| {
                    format!(
                        "{}: lacks sample '{id}' of {split}; give every sample a value",
                        file.display()
                    )
                })
            };
            ids.iter().map(code).collect::<anyhow::Result<_>>()?
        }
    };
    if codes.len() != ids.len() {
        bail!(
            "{}: holds {} values, the {split} split in {} has {} samples; a csv with id and value needs no order",
            file.display(),
            codes.len(),
            shards.folder(),
            ids.len()
        );
    }
    let present = codes.into_iter().map(mask_import::present).collect();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let imported = Mask::imported(shards, split, present, &file.display().to_string())?;
    let name = format!("{}/import-{stem}-{split}.parquet", mask::MASKS_FOLDER);
    Ok((imported, name))
}
