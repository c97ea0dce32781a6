//! `ingest browse`: an HTML page that shows what shards hold.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use browse::{Browse, Choice, Sounds, Written};
use serde_json::json;
use util::{cli, outln};

use crate::progress::Progress;
use crate::sounds::RawSounds;
use crate::source::{self, Select};

const EXAMPLES: &str = "\
Examples:
  ingest browse ave
  ingest browse data/shards/crema-d --per-class 3 --out crema-d.html
  ingest browse s3://bucket/shards/ave
  ingest browse ave --raw data/raw/ave        # with sound
  ingest browse mm-imdb --all --page-size 50

Open the page in any browser; it loads nothing from elsewhere. A sample with 9 frames and a
spectrogram takes about 85 kB of it, and 55 kB more with 10 s of sound.";

/// Write an HTML page that shows shards: samples with frames, spectrograms, images and texts, and
/// charts of all rows
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of a dataset, or a folder of shards or its URL
    #[arg(value_name = "DATASET|DIR")]
    target: String,
    /// The page [default: browse-DATASET.html in the current folder]
    #[arg(long, value_name = "PAGE")]
    out: Option<PathBuf>,
    /// Samples of each class and split, and of each reason for which something is missing
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "all",
        value_parser = clap::value_parser!(u32).range(1..))]
    per_class: u32,
    /// Show every sample, on pages in a folder beside the page
    #[arg(long)]
    all: bool,
    /// Samples on each of these pages
    #[arg(long, value_name = "N", default_value_t = 100, requires = "all",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    page_size: u32,
    /// Folder of the shards, where they are not in the place of the dataset that is named
    #[arg(long, value_name = "DIR")]
    shards: Option<String>,
    /// Folder of the raw data: with it the samples can be heard
    #[arg(long, value_name = "DIR")]
    raw: Option<PathBuf>,
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
/// There are no such shards, one cannot be read, the raw data cannot be listed, or a page cannot be
/// written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = source::shards_folder(args.shards.as_ref().unwrap_or(&args.target))?;
    let browse = Browse::open(&folder)?;
    let dataset = &browse.spec().dataset;
    let page = match &args.out {
        Some(page) => page.clone(),
        None => PathBuf::from(format!("browse-{}.html", file_name(dataset))),
    };
    let choice = match args.all {
        true => Choice::All(args.page_size as usize),
        false => Choice::Examples(args.per_class as usize),
    };
    let planned = browse.describe(choice, &page)?;
    if args.dry_run {
        return print_result(args, &planned);
    }
    if let Some(folder) = page.parent() {
        std::fs::create_dir_all(folder).with_context(|| {
            format!("{}: cannot be made; choose another --out", folder.display())
        })?;
    }
    let mut sounds = match &args.raw {
        Some(raw) => Some(RawSounds::new(open_raw(args, dataset, raw)?, &folder)?),
        None => None,
    };
    let mut progress = Progress::start("samples", planned.samples as u64);
    let written = browse.write(
        choice,
        &page,
        sounds.as_mut().map(|sounds| sounds as &mut dyn Sounds),
        &mut || progress.step(String::new),
    )?;
    progress.finish("");
    print_result(args, &written)
}

/// Returns a dataset's name as part of a file name: that of a user's own data may be any text.
fn file_name(dataset: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    dataset
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect()
}

/// Opens the dataset that the shards were made from.
fn open_raw(args: &Args, dataset: &str, raw: &std::path::Path) -> anyhow::Result<source::Source> {
    let is_description = args.target.ends_with(".toml");
    let select = Select {
        dataset: if is_description {
            args.target.clone()
        } else {
            dataset.to_owned()
        },
        raw: Some(raw.to_owned()),
    };
    source::open(&select)
        .context(
        "--raw needs the dataset's name or its .toml; give it in place of the folder of the shards, \
         and the folder by --shards",
    )
}

fn print_result(args: &Args, written: &Written) -> anyhow::Result<ExitCode> {
    let [page, others @ ..] = &written.pages[..] else {
        return Ok(ExitCode::SUCCESS);
    };
    if args.json {
        return cli::print_json(&json!({
            "page": page,
            "pages": written.pages,
            "rows": written.rows,
            "samples": written.samples,
            "sounds": written.sounds,
            "sound_bytes": written.sound_bytes,
            "bytes": written.bytes,
            "written": !args.dry_run,
        }));
    }
    let beside = match others {
        [] => String::new(),
        [one, ..] => {
            let folder = one.parent().unwrap_or(one).display();
            format!(" and {} pages in {folder}", others.len())
        }
    };
    let (samples, rows) = (written.samples, written.rows);
    if args.dry_run {
        outln!(
            "would write {}{beside}: {samples} of {rows} rows",
            page.display()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let heard = match args.raw {
        Some(_) => format!(
            ", {} with sound ({:.1} MB)",
            written.sounds,
            megabytes(written.sound_bytes)
        ),
        None => String::new(),
    };
    outln!(
        "wrote {}{beside}: {samples} of {rows} rows{heard}, {:.1} MB",
        page.display(),
        megabytes(written.bytes)
    )?;
    Ok(ExitCode::SUCCESS)
}
