//! A few test samples: frames, spectrogram or text, the true classes, and the model's predictions
//! with both modalities and with each alone.

use crate::data_url;
use crate::predictions::{self, Prediction, argmax, probabilities};
use crate::run_folder::{RunSummary, predictions_file};
use anyhow::Result;
use datasets::{Modality, Split};
use features::Shards;
use features::shards::{Content, RowReader};
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::path::Path;

/// The number of samples on a page.
const SAMPLES: usize = 4;
/// The number of frames that a page shows of a video.
const FRAMES: usize = 3;
/// The number of characters that a page shows of a text.
const TEXT_LENGTH: usize = 500;

/// Reads predictions, by the sample's id.
fn read_by_id(path: &Path, modalities: [Modality; 2]) -> Result<BTreeMap<String, Prediction>> {
    let predictions = predictions::read(path, modalities)?.into_iter();
    Ok(predictions.map(|p| (p.id.clone(), p)).collect())
}

/// Shows samples of the first run that has predictions on the test split, or says why it cannot.
pub fn section(runs: &[RunSummary]) -> Markup {
    let file = predictions_file("test");
    let run = runs.iter().find(|run| run.folder.join(&file).is_file());
    let cards = run.map(sample_cards);
    match cards {
        None => html! {},
        Some(Ok(html)) => html,
        Some(Err(error)) => html! { p.note { "No samples: " (format!("{error:#}")) "." } },
    }
}

/// One card for each of a few samples.
fn sample_cards(run: &RunSummary) -> Result<Markup> {
    let config = &run.config;
    let [m1, m2] = config.modalities;
    let mut views = vec![(
        "both".to_string(),
        read_by_id(
            &run.folder.join(predictions_file("test")),
            config.modalities,
        )?,
    )];
    for (shown, missing) in [(m1, m2), (m2, m1)] {
        let file = predictions_file(&format!("test-no-{missing}"));
        let path = run.folder.join(file);
        if path.is_file() {
            views.push((
                format!("{shown} only"),
                read_by_id(&path, config.modalities)?,
            ));
        }
    }
    let shards = Shards::open(&config.shards)?;
    let index = shards.split(Split::Test);
    // In file order the first samples that have both modalities and a class not yet shown.
    let mut chosen: Vec<u32> = Vec::new();
    let mut shown_classes = Vec::new();
    for (i, labels) in index.labels.iter().enumerate() {
        let new = labels.iter().any(|l| !shown_classes.contains(l));
        if new && index.present[i] == [true, true] && chosen.len() < SAMPLES {
            shown_classes.extend(labels);
            chosen.push(i as u32);
        }
    }
    let fetched =
        RowReader::new(&shards).fetch(Split::Test, &chosen, &vec![[true, true]; chosen.len()])?;
    let class_name = |c: usize| config.classes.get(c).map_or("?", String::as_str);
    Ok(html! {
        h2 { "Test samples" }
        div.cards {
            @for (sample, row) in chosen.iter().zip(fetched) {
                @let id = &index.ids[*sample as usize];
                @let truth = views[0].1.get(id).map_or(&[][..], |prediction| &prediction.labels);
                @let names: Vec<&str> = truth.iter().map(|c| class_name(*c as usize)).collect();
                article {
                    h3 { (id) }
                    @for content in row.contents.iter().flatten() { (show_input(content)) }
                    table {
                        tr { th { "truth" } td colspan="2" { (names.join(", ")) } }
                        @for (view, all) in &views {
                            @if let Some(prediction) = all.get(id) {
                                @let best = argmax(&prediction.logits);
                                @let p = probabilities(&prediction.logits, config.multi_label);
                                tr {
                                    th { (view) }
                                    @let right = truth.contains(&(best as u32));
                                    td class=(if right { "right" } else { "wrong" }) {
                                        (class_name(best))
                                    }
                                    td { (format!("{:.0} %", 100.0 * p[best])) }
                                }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// Shows the input of one modality.
fn show_input(content: &Content) -> Markup {
    match content {
        Content::Mel(mel) => html! {
            img.mel alt="log-mel spectrogram" src=(data_url::spectrogram(mel));
        },
        Content::Images(all) => {
            let count = FRAMES.min(all.len());
            // The centres of equal parts of the clip, as in evaluation.
            let centre = |i: usize| (2 * i + 1) * all.len() / (2 * count);
            html! {
                div.frames {
                    @for at in (0..count).map(centre) {
                        img alt={ "frame " (at + 1) } src=(data_url::jpeg(&all[at]));
                    }
                }
            }
        }
        Content::Text(text) => {
            let short: String = text.chars().take(TEXT_LENGTH).collect();
            let more = if short.len() < text.len() { " ..." } else { "" };
            html! { blockquote { (short) (more) } }
        }
    }
}
