//! Rows of a shard, built from a sample and the replies of the decode workers.

use std::collections::BTreeMap;

use datasets::{Input, InputName, Modalities, Modality, Sample};
use features::mel::{MAX_MEL_FRAMES, MEL_BINS};
use features::{Mel, Row, RowContent};

use crate::failure::Failure;
use crate::shard_writer::{Outcome, Quarantined, Warning};
use crate::workers::pool::Replies;
use crate::workers::protocol::Content;

/// Builds what a shard holds of a sample. `replies` has one reply for each input that is a file, in
/// the order of the inputs.
pub fn assemble(
    sample: &Sample,
    modalities: Modalities,
    replies: Replies,
) -> (Outcome, Vec<Warning>) {
    let mut row = Row::new(&sample.id, sample.split, sample.labels.clone());
    row.source = sample.source.clone();
    row.segment = sample.segment;
    let mut failures: BTreeMap<InputName, Failure> = BTreeMap::new();
    let mut warnings: Vec<Warning> = Vec::new();
    let mut replies = replies.into_iter();
    let inputs = modalities.names().zip(&sample.inputs);
    for (slot, (modality, input)) in row.contents.iter_mut().zip(inputs) {
        match input {
            Input::Text(text) => *slot = Some(RowContent::Text(text.clone())),
            Input::None => {}
            Input::Absent(cause) => {
                failures.insert(modality, Failure::listed(cause));
            }
            Input::Files(_) | Input::TextFile { .. } | Input::TableCell { .. } => {
                let Some(reply) = replies.next() else {
                    continue;
                };
                let warn = |problem| Warning {
                    id: sample.id.clone(),
                    modality,
                    problem,
                };
                warnings.extend(reply.warnings.into_iter().map(warn));
                match reply
                    .outcome
                    .and_then(|content| row_content(modality.modality, content))
                {
                    Ok(content) => *slot = Some(content),
                    Err(failure) => {
                        failures.insert(modality, failure);
                    }
                }
            }
        }
    }
    if row.contents.iter().all(Option::is_none) {
        let quarantined = Quarantined {
            id: row.id,
            source: row.source,
            labels: row.labels,
            failures,
        };
        return (Outcome::Quarantined(quarantined), warnings);
    }
    let partial = warnings
        .iter()
        .filter(|warning| warning.problem.is_partial());
    let mut problems: Vec<(InputName, &Failure)> = partial
        .map(|warning| (warning.modality, &warning.problem))
        .chain(
            failures
                .iter()
                .map(|(modality, failure)| (*modality, failure)),
        )
        .collect();
    // Stable, so that the problems of one modality keep their order.
    problems.sort_by_key(|(modality, _)| *modality);
    let sentences: Vec<String> = problems
        .iter()
        .map(|(modality, problem)| format!("{modality}: {problem}"))
        .collect();
    row.error = (!sentences.is_empty()).then(|| sentences.join("; "));
    (Outcome::Row(Box::new(row), failures), warnings)
}

/// Turns the features of one modality into what a row holds. Refuses what the schema would refuse,
/// because a worker that a hostile clip has taken over can send any bytes.
fn row_content(modality: Modality, content: Content) -> Result<RowContent, Failure> {
    let mut blobs = content.blobs;
    let seconds = content.seconds;
    Ok(match modality {
        Modality::Audio => {
            let blob = blobs.first().ok_or_else(Failure::protocol_error)?;
            let mel = parse_mel(blob).ok_or_else(Failure::protocol_error)?;
            RowContent::Mel { mel, seconds }
        }
        Modality::Video => {
            if blobs.is_empty() || blobs.len() != content.times.len() {
                return Err(Failure::protocol_error());
            }
            RowContent::Frames {
                files: blobs,
                times: content.times,
                seconds,
            }
        }
        Modality::Image => RowContent::Image(blobs.pop().ok_or_else(Failure::protocol_error)?),
        Modality::Text => {
            let text = blobs.pop().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.filter(|text| !text.is_empty());
            RowContent::Text(text.ok_or_else(Failure::protocol_error)?)
        }
    })
}

/// Parses mel values, which are little-endian f32. `None` if they are not finite or not 1 to
/// [`MAX_MEL_FRAMES`] whole frames.
fn parse_mel(bytes: &[u8]) -> Option<Mel> {
    let (values, rest) = bytes.as_chunks::<4>();
    let values: Vec<f32> = values
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let frames = values.len() / MEL_BINS;
    let is_whole = rest.is_empty() && values.len().is_multiple_of(MEL_BINS);
    let is_valid =
        (1..=MAX_MEL_FRAMES).contains(&frames) && values.iter().all(|value| value.is_finite());
    (is_whole && is_valid).then_some(Mel {
        bins: MEL_BINS,
        values,
    })
}
