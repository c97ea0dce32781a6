//! `ingest check --verify`: decodes every sample as a run does, and reports what is wrong with the
//! files instead of writing shards.

use std::collections::BTreeSet;

use datasets::{InputName, Modalities, Sample, Split};
use serde::Serialize;

use super::execute::{self, Options};
use super::scheduler::Scheduler;
use crate::failure::Failure;
use crate::plan::{self, Plan};
use crate::progress::Progress;
use crate::source::Source;
use crate::workers::pool::Replies;

/// What decoding has found.
#[derive(Debug, Serialize)]
pub struct Verification {
    /// Number of samples that were decoded.
    pub samples: usize,
    /// What is wrong, in the order of the samples.
    pub findings: Vec<Finding>,
}

/// What is wrong with one input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The files of the input, best first, relative to the raw root.
    pub files: Vec<String>,
    /// The modality that was decoded.
    pub modality: InputName,
    /// See [`Failure::cause`].
    pub cause: String,
    /// See [`Failure::detail`].
    pub detail: String,
    /// Whether the modality is there all the same.
    pub usable: bool,
    /// The id of the first sample with these files.
    pub id: String,
    /// The split of that sample.
    pub split: Split,
}

/// Decodes all samples of a plan. Returns `None` if a signal was received.
///
/// # Errors
/// The raw folder cannot be read, or the workers cannot be started or have ended.
pub fn verify(
    options: &Options,
    source: &Source,
    plan: &Plan,
) -> anyhow::Result<Option<Verification>> {
    let samples = plan.shards.iter().flat_map(|shard| &shard.samples);
    let samples: Vec<&Sample> = samples.collect();
    let (pool, _) = execute::start_pool(options, source, &samples)?;
    let modalities = source.dataset.info().modalities;
    let mut progress = Progress::start("clips", samples.len() as u64);
    let mut scheduler = Scheduler::new(
        &pool,
        options.workers,
        &source.raw,
        modalities,
        &plan.settings,
        samples.clone(),
    )
    .all_packets();
    let mut findings = Vec::new();
    // Samples that share a file have the same findings.
    let mut known: BTreeSet<(Vec<String>, InputName, String, String)> = BTreeSet::new();
    for sample in &samples {
        let Some(replies) = scheduler.next_replies()? else {
            return Ok(None);
        };
        for finding in findings_of(sample, modalities, replies) {
            let Finding {
                files,
                modality,
                cause,
                detail,
                ..
            } = finding.clone();
            if known.insert((files, modality, cause, detail)) {
                findings.push(finding);
            }
        }
        progress.step(|| format!("{} findings", findings.len()));
    }
    progress.finish(&format!("{} findings", findings.len()));
    Ok(Some(Verification {
        samples: samples.len(),
        findings,
    }))
}

/// Returns what is wrong with the inputs of a sample. `replies` has one reply for each input that is
/// a file, in the order of the inputs.
fn findings_of(sample: &Sample, modalities: Modalities, replies: Replies) -> Vec<Finding> {
    let inputs = modalities.names().zip(&sample.inputs);
    let inputs = inputs.filter_map(|(modality, input)| {
        let files = plan::files(input)?.iter();
        let names: Vec<String> = files.map(|file| plan::name(input, file)).collect();
        Some((modality, names))
    });
    let mut findings = Vec::new();
    for ((modality, files), reply) in inputs.zip(replies) {
        let usable = reply.outcome.is_ok();
        let problems = reply.warnings.into_iter().chain(reply.outcome.err());
        findings.extend(problems.map(|Failure { cause, detail }| Finding {
            files: files.clone(),
            modality,
            cause,
            detail,
            usable,
            id: sample.id.clone(),
            split: sample.split,
        }));
    }
    findings
}
