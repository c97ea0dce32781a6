//! `ingest publish`: a dataset card and Croissant metadata beside shards. The crate [`publish`]
//! writes the texts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use features::Folder;
use publish::{CARD_FILE, CROISSANT_FILE, Dataset, copy, marker};
use serde_json::json;
use util::cluster::quote;
use util::{cli, outln};

use crate::source;

const EXAMPLES: &str = "\
Examples:
  ingest publish data/shards/crema-d
  ingest publish crema-d --out published/crema-d     # a folder with nothing but the dataset
  ingest publish crema-d --out published/crema-d --push me/crema-d
  ingest publish data/shards/clips --licence cc-by-4.0

Nothing is sent: --push prints the command that does.";

/// Write a dataset card (README.md) and Croissant metadata (croissant.json) beside shards
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of a dataset, or a folder of shards or its URL
    #[arg(value_name = "DATASET|DIR")]
    target: String,
    /// Make a second folder, of the shards (as hard links, or as copies on another disk), card and
    /// metadata, without tables of failures and masks, whose every Parquet file is a shard
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Licence of your own data: an identifier of the Hugging Face hub, such as cc-by-4.0, or other
    #[arg(long, value_name = "ID")]
    licence: Option<String>,
    /// Print the command that uploads the folder to a repository of the Hugging Face hub; an error
    /// if the terms do not allow to pass the data on
    #[arg(long, value_name = "USER/NAME")]
    push: Option<String>,
    /// Replace a README.md or croissant.json that this command has not written, and with --out
    /// files of other shards that have the same names
    #[arg(long)]
    overwrite: bool,
    /// Print what would be written and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// The shards are not finished, the data may not be passed on and `--push` was given, a file of a
/// person would be replaced, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = source::shards_folder(&args.target)?;
    let dataset = Dataset::open(&folder, args.licence.as_deref())?;
    let target = args
        .out
        .as_ref()
        .map_or_else(|| folder.clone(), |out| Folder::from(out.clone()));
    target.check_writable()?;
    let push = match &args.push {
        Some(repository) => Some(upload_command(&dataset, &target, repository)?),
        None => None,
    };
    let croissant = publish::croissant::croissant(&dataset)?;
    let card = marker::mark(&publish::card::card(&dataset)?, &croissant);
    if !args.overwrite {
        check_foreign(&target)?;
    }
    if let Some(out) = &args.out {
        copy_shards(args, &dataset, &folder, out)?;
    }
    if !args.dry_run {
        // The card last: its line vouches for the metadata.
        target.write(CROISSANT_FILE, croissant.as_bytes())?;
        target.write(CARD_FILE, card.as_bytes())?;
    }
    print_result(args, &dataset, &target, push.as_deref())
}

/// Returns the command that uploads a folder.
fn upload_command(dataset: &Dataset, target: &Folder, repository: &str) -> anyhow::Result<String> {
    if let Some(refusal) = &dataset.licence.refusal {
        bail!(
            "--push {repository}: {} may not be passed on: {refusal}",
            dataset.title()
        );
    }
    let parts: Vec<&str> = repository.split('/').collect();
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if parts.len() != 2
        || parts
            .iter()
            .any(|part| part.is_empty() || !part.chars().all(fits))
    {
        bail!("--push {repository}: is no repository of the hub; give USER/NAME");
    }
    let Some(local) = target.local() else {
        bail!(
            "--push {repository}: the hub's program uploads from a disk; copy {target} there first"
        );
    };
    // What ingest remembers of the raw data lies in hidden files.
    Ok(format!(
        "hf upload {} {} . --repo-type dataset --exclude '.*'",
        quote(repository),
        quote(&local.to_string_lossy())
    ))
}

/// Refuses to replace files that a person has written or changed.
fn check_foreign(target: &Folder) -> anyhow::Result<()> {
    let (card, croissant) = (target.read(CARD_FILE)?, target.read(CROISSANT_FILE)?);
    let foreign = marker::foreign(card.as_deref(), croissant.as_deref());
    if let Some(name) = foreign.first() {
        bail!(
            "{}: is not as `ingest publish` writes it; move it away, or replace it with \
             --overwrite",
            target.path_of(name).display()
        );
    }
    Ok(())
}

fn copy_shards(args: &Args, dataset: &Dataset, folder: &Folder, out: &Path) -> anyhow::Result<()> {
    let source = folder.local().with_context(|| {
        format!("--out: {folder} is in a store; copy it onto a disk first, or leave the flag out")
    })?;
    copy::check(dataset, source, out, args.overwrite)?;
    if args.dry_run {
        return Ok(());
    }
    copy::copy(dataset, source, out)
}

fn print_result(
    args: &Args,
    dataset: &Dataset,
    target: &Folder,
    push: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let licence = &dataset.licence;
    let mut files: Vec<PathBuf> = match args.out {
        Some(_) => dataset.files().map(|file| target.path_of(file)).collect(),
        None => Vec::new(),
    };
    files.extend([CROISSANT_FILE, CARD_FILE].map(|name| target.path_of(name)));
    if args.json {
        return cli::print_json(&json!({
            "files": files,
            "written": !args.dry_run,
            "licence": licence.id,
            "may_be_passed_on": licence.may_be_passed_on(),
            "reason": licence.refusal,
            "push": push,
        }));
    }
    let verb = if args.dry_run { "would write" } else { "wrote" };
    for file in files {
        outln!("{verb} {}", file.display())?;
    }
    match (&licence.refusal, push) {
        (Some(refusal), _) => outln!("not to be passed on: {refusal}")?,
        (None, Some(push)) => outln!("nothing was sent; this uploads the folder:\n{push}")?,
        (None, None) => outln!("licence: {} ({})", licence.id, licence.words)?,
    }
    Ok(ExitCode::SUCCESS)
}
