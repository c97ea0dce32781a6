//! What a run says on stdout: the plan before, the sum after.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use datasets::{Info, Split};
use serde_json::json;

use super::{Args, Budget};
use crate::manifest::{self, Manifest};
use crate::plan::{self, Plan};
use crate::run::output_lock::{Claim, Lock};
use crate::shard_writer;
use crate::source::Source;
use crate::workers::pool::Effort;
use util::{cli, outln};

/// `--dry-run`.
pub fn plan(
    args: &Args,
    source: &Source,
    layout: &str,
    out: &Path,
    plan: &Plan,
    todo: &[&plan::Shard],
) -> anyhow::Result<ExitCode> {
    let entry = |shard: &plan::Shard| {
        let action = if todo.iter().any(|one| one.name == shard.name) {
            "make"
        } else {
            "keep"
        };
        (shard.name.file_name(), shard.samples.len(), action)
    };
    if args.json {
        let shards: Vec<_> = plan
            .shards
            .iter()
            .map(entry)
            .map(|(file, samples, action)| json!({"file": file, "samples": samples, "action": action}))
            .collect();
        return cli::print_json(&json!({
            "raw": source.raw, "layout": layout, "out": out, "settings": plan.settings, "settings_hash": plan.hash,
            "samples": plan.samples(), "shards": shards,
        }));
    }
    outln!(
        "{} from {} ({layout})",
        plan.settings.dataset,
        source.raw.display()
    )?;
    outln!("into {}, settings {}", out.display(), &plan.hash[..16])?;
    for (file, samples, action) in plan.shards.iter().map(entry) {
        outln!("  {action} {file}: {samples} samples")?;
    }
    let samples: usize = todo.iter().map(|shard| shard.samples.len()).sum();
    outln!(
        "{} of {} shards to make, {samples} of {} samples to decode",
        todo.len(),
        plan.shards.len(),
        plan.samples()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the manifest where all shards are there, and tells how it went.
pub fn conclude(
    args: &Args,
    info: &Info,
    expected: &BTreeMap<Split, usize>,
    out: &Path,
    effort: Option<&Effort>,
) -> anyhow::Result<ExitCode> {
    let finished = shard_writer::survey(out)?;
    if let Some(other) = finished.iter().find(|shard| shard.spec != finished[0].spec) {
        bail!(
            "{}: {} and {} were made with different settings; use --overwrite to begin anew",
            out.display(),
            finished[0].name.file_name(),
            other.name.file_name()
        );
    }
    let total: usize = expected.values().sum();
    let missing = total - finished.len().min(total);
    if missing > 0 {
        if args.finish {
            bail!(
                "{}: {missing} of {total} shards are still missing; run their parts first",
                out.display()
            );
        }
        if args.json {
            return cli::print_json(
                &json!({"out": out, "shards": finished.len(), "of": total, "manifest": null}),
            );
        }
        outln!(
            "{} of {total} shards in {}; the part that comes last writes the manifest",
            finished.len(),
            out.display()
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    // Two parts may both come last.
    let _lock = args
        .part
        .map(|_| Lock::acquire(out, Claim::Finish))
        .transpose()?;
    let Some(manifest) = manifest::write(out, info, &finished)? else {
        bail!("{}: no shards here", out.display());
    };
    report(args, out, &manifest, effort)
}

fn report(
    args: &Args,
    out: &Path,
    manifest: &Manifest,
    effort: Option<&Effort>,
) -> anyhow::Result<ExitCode> {
    let samples: usize = manifest.totals.values().map(|totals| totals.samples).sum();
    let failed = manifest.failures.incomplete + manifest.failures.quarantined;
    let allowed = args.max_failures.allows(failed, samples);
    if args.json {
        let cost = effort.map(|effort| {
            json!({"longest_clip_seconds": effort.seconds(), "largest_worker_mib": effort.mib()})
        });
        cli::print_json(&json!({
            "out": out, "within_budget": allowed, "effort": cost, "manifest": manifest,
        }))?;
    } else {
        for (split, totals) in &manifest.totals {
            let present: Vec<String> = totals
                .present
                .iter()
                .map(|(modality, n)| format!("{n} with {modality}"))
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
            "{} shards, {:.1} MB, in {}",
            manifest.shards.len(),
            bytes as f64 / 1e6,
            out.display()
        )?;
    }
    if !allowed {
        cli::warn(&format!(
            "{failed} of {samples} samples lack something that should be there (--max-failures {}); \
             see the error column and {}",
            match args.max_failures {
                Budget::Count(most) => most.to_string(),
                Budget::Percent(share) => format!("{share}%"),
            },
            features::FAILURES_FILE
        ));
        return Ok(ExitCode::from(cli::EXIT_FINDINGS));
    }
    Ok(ExitCode::SUCCESS)
}
