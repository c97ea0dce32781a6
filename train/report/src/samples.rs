//! A few test samples: frames, spectrogram, text, true classes, and the model's predictions with both modalities and with
//! each alone.

use crate::embed;
use crate::predictions::{self, Prediction, argmax, probabilities};
use crate::run_folder::RunSummary;
use anyhow::Result;
use datasets::{Modality, Split};
use features::Shards;
use features::shards::{Content, RowReader};
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::path::Path;

/// Samples that a page shows.
const SAMPLES: usize = 4;
/// Frames of a video that it shows.
const FRAMES: usize = 3;
/// Characters of a text that it shows.
const WORDS: usize = 500;

/// Predictions by the sample's id.
fn by_id(path: &Path, modalities: [Modality; 2]) -> Result<BTreeMap<String, Prediction>> {
    let predictions = predictions::read(path, modalities)?.into_iter();
    Ok(predictions.map(|p| (p.id.clone(), p)).collect())
}

/// The samples of the first run that has predictions on the test split, or why they cannot be shown.
pub fn section(runs: &[RunSummary]) -> Markup {
    let made = runs
        .iter()
        .find(|run| run.run.join("predictions-test.parquet").is_file())
        .map(cards);
    match made {
        None => html! {},
        Some(Ok(html)) => html,
        Some(Err(error)) => html! { p.note { "No samples: " (format!("{error:#}")) "." } },
    }
}

fn cards(run: &RunSummary) -> Result<Markup> {
    let config = &run.config;
    let [m1, m2] = config.modalities;
    let mut views = vec![(
        "both".to_string(),
        by_id(&run.run.join("predictions-test.parquet"), config.modalities)?,
    )];
    for (kept, gone) in [(m1, m2), (m2, m1)] {
        let path = run.run.join(format!("predictions-test-no-{gone}.parquet"));
        if path.is_file() {
            views.push((format!("{kept} only"), by_id(&path, config.modalities)?));
        }
    }
    let shards = Shards::open(&config.shards)?;
    let index = shards.split(Split::Test);
    // One of each class in turn, in file order; of those, samples that have both modalities.
    let mut chosen: Vec<u32> = Vec::new();
    let mut seen = Vec::new();
    for (i, labels) in index.labels.iter().enumerate() {
        let new = labels.iter().any(|l| !seen.contains(l));
        if new && index.present[i] == [true, true] && chosen.len() < SAMPLES {
            seen.extend(labels);
            chosen.push(i as u32);
        }
    }
    let fetched =
        RowReader::new(&shards).fetch(Split::Test, &chosen, &vec![[true, true]; chosen.len()])?;
    let class = |c: usize| config.classes.get(c).map_or("?", String::as_str);
    Ok(html! {
        h2 { "Test samples" }
        div.cards {
            @for (sample, row) in chosen.iter().zip(fetched) {
                @let id = &index.ids[*sample as usize];
                @let truth = views[0].1.get(id).map_or(&[][..], |prediction| &prediction.labels);
                @let names: Vec<&str> = truth.iter().map(|c| class(*c as usize)).collect();
                article {
                    h3 { (id) }
                    @for content in row.contents.iter().flatten() { (input(content)) }
                    table {
                        tr { th { "truth" } td colspan="2" { (names.join(", ")) } }
                        @for (view, all) in &views {
                            @if let Some(prediction) = all.get(id) {
                                @let best = argmax(&prediction.logits);
                                @let p = probabilities(&prediction.logits, config.multi_label)[best];
                                tr {
                                    th { (view) }
                                    td class=(if truth.contains(&(best as u32)) { "right" } else { "wrong" }) { (class(best)) }
                                    td { (format!("{:.0} %", 100.0 * p)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// One modality of a sample.
fn input(content: &Content) -> Markup {
    match content {
        Content::Mel(mel) => html! {
            img.mel alt="log-mel spectrogram" src=(embed::spectrogram(mel));
        },
        Content::Pictures(all) => {
            let shown = FRAMES.min(all.len());
            // The centres of equal parts, as in evaluation.
            let middle = |i: usize| (2 * i + 1) * all.len() / (2 * shown);
            html! {
                div.frames {
                    @for at in (0..shown).map(middle) {
                        img alt={ "frame " (at + 1) } src=(embed::jpeg(&all[at]));
                    }
                }
            }
        }
        Content::Text(text) => {
            let short: String = text.chars().take(WORDS).collect();
            let more = if short.len() < text.len() { " ..." } else { "" };
            html! { blockquote { (short) (more) } }
        }
    }
}
