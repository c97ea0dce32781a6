//! The output of `ingest run` on stdout: the plan before, and a summary after.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::bail;
use datasets::{Info, Split};
use features::ShardName;
use serde_json::json;
use util::exit_code::Temporary;
use util::{cli, job, outln};

use super::args::Args;
use crate::manifest::{self, Manifest};
use crate::output::{Output, Scope};
use crate::plan::{self, Plan};
use crate::shard_writer;
use crate::source::Source;
use crate::workers::pool::PeakCost;

/// `--dry-run`: prints the plan, and for each shard whether it would be written. `stale` are the
/// finished shards whose raw data has changed, with what has changed.
pub fn print_plan(
    args: &Args,
    source: &Source,
    layout: &str,
    output: &Output,
    plan: &Plan,
    shards: &[&plan::Shard],
    stale: &BTreeMap<ShardName, String>,
) -> anyhow::Result<ExitCode> {
    let entry = |shard: &plan::Shard| {
        let is_written = shards.iter().any(|one| one.name == shard.name);
        let reason = stale.get(&shard.name).filter(|_| is_written);
        let action = match (is_written, reason) {
            (true, Some(_)) => "remake",
            (true, None) => "make",
            (false, _) => "keep",
        };
        let file = shard.name.file_name();
        (file, shard.samples.len(), action, reason.cloned())
    };
    if args.json {
        let entries: Vec<_> = plan
            .shards
            .iter()
            .map(entry)
            .map(|(file, samples, action, reason)| {
                json!({"file": file, "samples": samples, "action": action, "reason": reason})
            })
            .collect();
        return cli::print_json(&json!({
            "raw": source.raw, "layout": layout, "out": output.to_string(), "settings": plan.settings, "settings_hash": plan.hash,
            "samples": plan.samples(), "shards": entries,
        }));
    }
    outln!(
        "{} from {} ({layout})",
        plan.settings.dataset,
        source.raw.display()
    )?;
    outln!("into {output}, settings {}", &plan.hash[..16])?;
    for (file, samples, action, reason) in plan.shards.iter().map(entry) {
        let reason = reason.map_or_else(String::new, |reason| format!(", because {reason}"));
        outln!("  {action} {file}: {samples} samples{reason}")?;
    }
    let samples: usize = shards.iter().map(|shard| shard.samples.len()).sum();
    outln!(
        "{} of {} shards to write, {samples} of {} samples to decode",
        shards.len(),
        plan.shards.len(),
        plan.samples()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the manifest if all `planned` shards are finished, and prints the result of the run. A
/// part of a job leaves both to `--finish`, which runs once and judges all parts.
/// `missing_lists` are the notes about lists of the annotation that are not there.
///
/// # Errors
/// Shards are missing with `--finish`, were made with different settings, or a file cannot be
/// written.
pub fn conclude(
    args: &Args,
    info: &Info,
    planned: &BTreeMap<Split, usize>,
    output: &Output,
    peak_cost: Option<&PeakCost>,
    missing_lists: &[String],
) -> anyhow::Result<ExitCode> {
    let finished = shard_writer::read_summaries(output)?;
    if let Some(other) = finished.iter().find(|shard| shard.spec != finished[0].spec) {
        bail!(
            "{output}: {} and {} were made with different settings; use --overwrite to start over",
            finished[0].name.file_name(),
            other.name.file_name()
        );
    }
    let total: usize = planned.values().sum();
    let missing = total - finished.len().min(total);
    if missing > 0 && args.finish {
        return Err(Temporary::error(format!(
            "{output}: {missing} of {total} shards are still missing; run their parts first"
        )));
    }
    let is_part_of_job = args.part.is_some() && job::is_job();
    if missing > 0 || is_part_of_job {
        if args.json {
            return cli::print_json(
                &json!({"out": output.to_string(), "shards": finished.len(), "of": total, "manifest": null}),
            );
        }
        let who = if is_part_of_job {
            "--finish writes the manifest once all are done"
        } else {
            "the last part to finish writes the manifest"
        };
        outln!("{} of {total} shards in {output}; {who}", finished.len())?;
        return Ok(ExitCode::SUCCESS);
    }
    // Two parts may both find all shards finished.
    let _lock = args.part.map(|_| output.lock(Scope::Finish)).transpose()?;
    // Whichever part they were of.
    output.abort_uploads(|_| true)?;
    let Some(manifest) = manifest::write(output, info, &finished)? else {
        bail!("{output}: no shards here");
    };
    print_result(args, output, &manifest, peak_cost, missing_lists)
}

/// Prints the totals of a finished run. The exit code says whether the failures are within the
/// budget and every list of the annotation was there.
fn print_result(
    args: &Args,
    output: &Output,
    manifest: &Manifest,
    peak_cost: Option<&PeakCost>,
    missing_lists: &[String],
) -> anyhow::Result<ExitCode> {
    let samples: usize = manifest.totals.values().map(|totals| totals.samples).sum();
    let failed = manifest.failures.incomplete + manifest.failures.quarantined;
    let allowed = args.max_failures.allows(failed, samples);
    if args.json {
        let cost = peak_cost.map(|cost| {
            json!({"longest_clip_seconds": cost.seconds(), "largest_worker_mib": cost.mib()})
        });
        cli::print_json(&json!({
            "out": output.to_string(), "within_budget": allowed, "effort": cost, "missing_lists": missing_lists,
            "manifest": manifest,
        }))?;
    } else {
        print_totals(output, manifest)?;
    }
    if !allowed {
        cli::warn(&format!(
            "{failed} of {samples} samples lack a modality that should be there (--max-failures {}); \
             see the error column and {}",
            args.max_failures,
            features::FAILURES_FILE
        ));
    }
    Ok(if allowed && missing_lists.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(cli::EXIT_FINDINGS)
    })
}

fn print_totals(output: &Output, manifest: &Manifest) -> anyhow::Result<()> {
    for (split, totals) in &manifest.totals {
        let present: Vec<String> = totals
            .present
            .iter()
            .map(|(modality, rows)| format!("{rows} with {modality}"))
            .collect();
        outln!(
            "{split:<5} {} rows of {} samples: {}",
            totals.rows,
            totals.samples,
            present.join(", ")
        )?;
    }
    for (modality, causes) in &manifest.failures.causes {
        for (cause, count) in causes {
            outln!("  {count} x {modality}: {cause}")?;
        }
    }
    for (cause, count) in &manifest.warnings.causes {
        outln!(
            "  {count} x {cause} (kept; see \"warnings\" in {})",
            features::MANIFEST_FILE
        )?;
    }
    let bytes: u64 = manifest.shards.iter().map(|shard| shard.bytes).sum();
    outln!(
        "{} shards, {:.1} MB, in {output}",
        manifest.shards.len(),
        bytes as f64 / 1e6
    )?;
    Ok(())
}
