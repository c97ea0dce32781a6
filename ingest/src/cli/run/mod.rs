//! `ingest run`: raw tree to shards.
//!
//! The run is planned, finished shards are found, the others are decoded by child processes and
//! written in order, and the manifest is written when the last shard is finished. A run can be
//! interrupted at any moment, and the same command continues it.

mod args;
mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use datasets::{Info, Note, NoteKind};
use features::ShardName;
use util::{cli, exit_code, outln};

pub use self::args::Args;
use crate::contents::index;
use crate::manifest;
use crate::output::{Output, OutputLock, Scope};
use crate::plan::{self, Plan, Segment};
use crate::run::execute::{self, End};
use crate::run::existing::{self, StaleOptions};
use crate::run::signals;
use crate::shard_writer::{self, Finished};
use crate::source;

/// Runs the subcommand.
///
/// # Errors
/// The dataset cannot be listed, the folder holds other shards or is being written by another run,
/// too many samples in a row fail, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let args = &args.with_part_of_job()?;
    let source = source::open(&args.source)?;
    let info = source.dataset.info();
    let out = args.out.clone();
    let output = &Output::new(out.unwrap_or_else(|| util::default_shards(&info.name).into()));
    // Of shards in a store the footers are read, and only once.
    store::set_cache_size(0);
    output.check()?;
    if args.finish {
        return finish_only(args, info, output);
    }
    let choices = args.choices();
    let listing = source.dataset.list(&source.raw, &choices.listing)?;
    let mut notes: BTreeMap<NoteKind, usize> = BTreeMap::new();
    for note in &listing.notes {
        *notes.entry(note.kind).or_default() += 1;
    }
    let of_lists = |note: &&Note| note.kind == NoteKind::MissingList;
    let missing_lists: Vec<String> = listing
        .notes
        .iter()
        .filter(of_lists)
        .map(|note| format!("{}: {}", note.subject, note.message))
        .collect();
    for message in &missing_lists {
        cli::warn(message);
    }
    let layout = listing.layout.clone();
    let plan = plan::plan(info, listing, &choices);
    if plan.shards.is_empty() {
        bail!(
            "{}: the annotation lists no samples; run `ingest check` on it",
            source.raw.display()
        );
    }
    if args.segment == Segment::Event && !plan.spec.segment {
        bail!(
            "--segment event: the annotation of {} has no events; omit this option",
            info.name
        );
    }
    // Locked before the folder is read, and until the end.
    let _lock = if args.dry_run {
        None
    } else {
        create_and_lock(args, output)?
    };
    let (shards, stale) = shards_to_write(args, &plan, &source.raw, output)?;
    if args.dry_run {
        return report::print_plan(args, &source, &layout, output, &plan, &shards, &stale);
    }
    existing::claim(&plan, output, args.overwrite)?;
    remove_leftovers(args, &own_shards(args, &plan), output)?;
    let mut peak_cost = None;
    if !shards.is_empty() {
        manifest::remove(output)?;
        signals::catch().context("cannot catch signals")?;
        let options = args.execute_options();
        let end = execute::execute(&options, &source, &plan, &shards, output, &notes);
        // A shard that is complete is kept, also after a signal or an error.
        let uploaded = output.finish_uploads();
        let end = end?;
        uploaded?;
        match end {
            End::Done(cost) => peak_cost = Some(cost),
            End::Stopped(signal) => {
                cli::warn(&format!(
                    "stopped by signal {signal}; the same command continues the run"
                ));
                // The exit code that a shell gives to a program that a signal has killed.
                return Ok(exit_code::stopped(128u8.saturating_add(signal as u8)));
            }
        }
    }
    let planned = plan.shards_per_split();
    let cost = peak_cost.as_deref();
    report::conclude(args, info, &planned, output, cost, &missing_lists)
}

/// Creates the output folder and locks the part of it that this run writes.
fn create_and_lock(args: &Args, output: &Output) -> anyhow::Result<Option<OutputLock>> {
    output.create()?;
    let scope = args
        .part
        .map_or(Scope::Whole, |part| Scope::Part(part.index, part.of));
    output.lock(scope)
}

/// Returns the shards of the plan that this run has to write: those of its part that are not
/// finished, and with `--update` those whose raw data has changed. The latter are also returned by
/// themselves, with what has changed.
fn shards_to_write<'a>(
    args: &Args,
    plan: &'a Plan,
    raw: &Path,
    output: &Output,
) -> anyhow::Result<(Vec<&'a plan::Shard>, BTreeMap<ShardName, String>)> {
    let finished: Vec<Finished> = if args.overwrite {
        Vec::new()
    } else {
        existing::finished_shards(plan, output)?
    };
    let own = own_shards(args, plan);
    let is_own = |name: ShardName| own.iter().any(|shard| shard.name == name);
    let options = StaleOptions {
        update: args.update,
        dry_run: args.dry_run,
    };
    let stale = existing::stale(plan, &finished, raw, output, is_own, options)?;
    let is_finished = |name| finished.iter().any(|shard| shard.name == name);
    let shards = own
        .iter()
        .filter(|shard| stale.contains_key(&shard.name) || !is_finished(shard.name))
        .copied()
        .collect();
    Ok((shards, stale))
}

/// Returns the shards of this run's part.
fn own_shards<'a>(args: &Args, plan: &'a Plan) -> Vec<&'a plan::Shard> {
    let shards = plan.shards.iter().enumerate();
    let is_own = |number: usize| args.part.is_none_or(|part| number % part.of == part.index);
    shards
        .filter(|(number, _)| is_own(*number))
        .map(|(_, shard)| shard)
        .collect()
}

/// Removes the temporary files of a killed run, and with `--overwrite` all shards. With `--part`
/// only the temporary files of this part's shards, because the other parts may be writing theirs.
fn remove_leftovers(args: &Args, own: &[&plan::Shard], output: &Output) -> anyhow::Result<()> {
    let is_own = |name: &str| {
        let mut names = own.iter().map(|shard| shard.name);
        names.any(|shard| shard.file_name() == name || index::file_name(shard) == name)
    };
    match args.part {
        Some(_) => output.remove_leftovers(&["", index::FOLDER], is_own)?,
        None => output.remove_leftovers(&["", "masks", index::FOLDER], |_| true)?,
    }
    if args.overwrite {
        existing::remove_all(output)?;
    }
    Ok(())
}

/// `--finish`: writes the manifest alone.
fn finish_only(args: &Args, info: &Info, output: &Output) -> anyhow::Result<ExitCode> {
    let finished = shard_writer::read_summaries(output)?;
    let Some(first) = finished.first() else {
        bail!("{output}: no shards here; run the parts first");
    };
    if first.spec.dataset != info.name {
        bail!(
            "{output}: the shards are of dataset {}, not {}",
            first.spec.dataset,
            info.name
        );
    }
    let planned = first.summary.shards.clone();
    if args.dry_run {
        outln!(
            "would write {} and {} in {output}",
            features::MANIFEST_FILE,
            features::FAILURES_FILE
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let lock = output.lock(Scope::Whole)?;
    // In a store, where nothing is locked, a part may be uploading: `conclude` removes what is left
    // when no shard is missing.
    if lock.is_some() {
        remove_leftovers(args, &[], output)?;
    }
    report::conclude(args, info, &planned, output, None, &[])
}
