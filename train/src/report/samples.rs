//! A few test samples: frames, spectrogram, text, true classes, and the model's predictions with both modalities and with
//! each alone.

use super::RunSummary;
use super::embed;
use crate::evaluation::predict::probabilities;
use anyhow::{Context, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type};
use datasets::Split;
use features::Shards;
use features::shards::{Content, RowReader};
use maud::{Markup, html};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Samples that a page shows.
const SAMPLES: usize = 4;
/// Frames of a video that it shows.
const FRAMES: usize = 3;
/// Characters of a text that it shows.
const WORDS: usize = 500;

/// One row of a `predictions-*.parquet`.
struct Prediction {
    labels: Vec<usize>,
    logits: Vec<f32>,
}

fn read(path: &Path) -> Result<BTreeMap<String, Prediction>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut all = BTreeMap::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        let batch = batch?;
        let column = |name: &str| {
            let column = batch.column_by_name(name);
            column.with_context(|| format!("{}: lacks {name}", path.display()))
        };
        let ids = column("id")?.as_string::<i32>();
        let (labels, logits) = (
            column("labels")?.as_list::<i32>(),
            column("logits")?.as_list::<i32>(),
        );
        for row in 0..batch.num_rows() {
            let (label, logit) = (labels.value(row), logits.value(row));
            let label = label.as_primitive::<Int32Type>().values().iter();
            let prediction = Prediction {
                labels: label.map(|l| *l as usize).collect(),
                logits: logit.as_primitive::<Float32Type>().values().to_vec(),
            };
            all.insert(ids.value(row).to_string(), prediction);
        }
    }
    Ok(all)
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
        read(&run.run.join("predictions-test.parquet"))?,
    )];
    for (kept, gone) in [(m1, m2), (m2, m1)] {
        let path = run.run.join(format!("predictions-test-no-{gone}.parquet"));
        if path.is_file() {
            views.push((format!("{kept} only"), read(&path)?));
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
                @let names: Vec<&str> = truth.iter().map(|c| class(*c)).collect();
                article {
                    h3 { (id) }
                    @for content in row.contents.iter().flatten() { (input(content)) }
                    table {
                        tr { th { "truth" } td colspan="2" { (names.join(", ")) } }
                        @for (view, all) in &views {
                            @if let Some(prediction) = all.get(id) {
                                @let best = crate::evaluation::metrics::argmax(&prediction.logits);
                                @let p = probabilities(&prediction.logits, config.multi_label)[best];
                                tr {
                                    th { (view) }
                                    td class=(if truth.contains(&best) { "right" } else { "wrong" }) { (class(best)) }
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
