//! Test samples that were got wrong: the inputs that the model was given, the true classes, and the
//! probabilities of its answer.

use super::chapter::{Availability, Chapter};
use super::number::percent;
use crate::predictions::{self, Prediction, THRESHOLD, argmax, probabilities};
use crate::run_folder::{RunSummary, predictions_file};
use anyhow::{Context, Result};
use datasets::Split;
use features::Shards;
use features::shards::{Content, RowReader};
use maud::{Markup, html};
use page::{Input, Sample, SampleInput};
use std::collections::BTreeSet;

/// The number of samples of each availability.
const SAMPLES: usize = 3;
/// The largest number of classes whose probabilities a sample shows.
const GUESSES: usize = 6;

/// A sample that was got wrong.
#[derive(Debug, PartialEq)]
struct Mistake {
    /// The place of the sample among the predictions.
    sample: usize,
    /// The true class that was not predicted, or of multi-label data the class that was decided
    /// wrongly with the most confidence.
    class: usize,
    /// The probability of the wrong answer.
    confidence: f64,
}

/// The mistakes of one availability.
struct View {
    availability: Availability,
    predictions: Vec<Prediction>,
    mistakes: Vec<Mistake>,
}

/// Shows the mistakes of the first run that has predictions of the test split, or says why it
/// cannot.
pub fn section(chapter: &Chapter) -> Markup {
    let runs = chapter.groups.iter().flat_map(|e| &e.group.runs);
    let Some((run, views)) = runs
        .map(|run| (run, views(chapter, run)))
        .find(|(_, views)| views.as_ref().map_or(true, |views| !views.is_empty()))
    else {
        return html! {};
    };
    let cards = views.and_then(|views| {
        let shards = Shards::open(&run.config.shards)?;
        views
            .iter()
            .map(|view| cards(run, &shards, view))
            .collect::<Result<Vec<_>>>()
    });
    html! {
        h2 { "Mistakes" }
        @match cards {
            Err(error) => p.note { "No samples are shown: " (format!("{error:#}")) "." },
            Ok(cards) => {
                p.note {
                    "Test samples that " (run.name()) " got wrong, with what it was given: those "
                    "of which it was most sure, of different classes."
                }
                @for part in cards { (part) }
            }
        }
    }
}

/// Reads the predictions of each availability that there are.
fn views(chapter: &Chapter, run: &RunSummary) -> Result<Vec<View>> {
    let mut views = Vec::new();
    for availability in chapter.availabilities() {
        let token = &run.config.settings.missing_token;
        let Some((name, _)) = run.find_test_evaluation(availability.missing, token) else {
            continue;
        };
        let path = run.folder.join(predictions_file(name));
        if path.is_file() {
            let predictions = predictions::read(&path, run.config.modalities)?;
            views.push(View {
                availability,
                mistakes: most_confident(&predictions, run.config.multi_label),
                predictions,
            });
        }
    }
    Ok(views)
}

/// Returns [`SAMPLES`] mistakes, the most confident first: of different classes, as long as there
/// are any. Equally confident ones come in the order of their ids.
fn most_confident(predictions: &[Prediction], multi_label: bool) -> Vec<Mistake> {
    let all = predictions.iter().enumerate();
    let mut all: Vec<Mistake> = all
        .filter_map(|(i, p)| mistake(i, p, multi_label))
        .collect();
    all.sort_by(|a, b| {
        let id = |m: &Mistake| &predictions[m.sample].id;
        b.confidence
            .total_cmp(&a.confidence)
            .then_with(|| id(a).cmp(id(b)))
    });
    let mut shown = BTreeSet::new();
    let (mut chosen, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|m| shown.insert(m.class));
    chosen.extend(others);
    chosen.truncate(SAMPLES);
    chosen
}

/// Returns the mistake of a prediction; `None` if it is right.
fn mistake(sample: usize, prediction: &Prediction, multi_label: bool) -> Option<Mistake> {
    let Prediction { labels, logits, .. } = prediction;
    let p = probabilities(logits, multi_label);
    let is_true = |class: usize| labels.contains(&(class as u32));
    let (class, confidence) = if multi_label {
        let wrong = |class: &usize| (p[*class] >= THRESHOLD) != is_true(*class);
        let sure = |class: usize| {
            if is_true(class) {
                1.0 - p[class]
            } else {
                p[class]
            }
        };
        let wrong = (0..p.len()).filter(wrong).map(|class| (class, sure(class)));
        // The first among equals.
        wrong.reduce(|best, other| if other.1 > best.1 { other } else { best })?
    } else {
        let answer = argmax(logits);
        let truth = labels.first().filter(|_| !is_true(answer))?;
        (*truth as usize, p[answer])
    };
    Some(Mistake {
        sample,
        class,
        confidence,
    })
}

/// The cards of one availability.
fn cards(run: &RunSummary, shards: &Shards, view: &View) -> Result<Markup> {
    let index = shards.split(Split::Test);
    let given: Vec<&Prediction> = view
        .mistakes
        .iter()
        .map(|m| &view.predictions[m.sample])
        .collect();
    let rows = given.iter().map(|prediction| {
        let row = index.ids.iter().position(|id| *id == prediction.id);
        let row = row.with_context(|| {
            format!(
                "{}: has no test sample {}",
                run.config.shards, prediction.id
            )
        });
        Ok(row? as u32)
    });
    let rows: Vec<u32> = rows.collect::<Result<_>>()?;
    let wanted: Vec<[bool; 2]> = given.iter().map(|prediction| prediction.present).collect();
    let fetched = RowReader::new(shards).fetch(Split::Test, &rows, &wanted)?;
    let name = &view.availability.name;
    Ok(html! {
        h3 { (name) }
        @if given.is_empty() { p.note { "No sample was got wrong." } }
        div.cards {
            @for (prediction, row) in given.iter().zip(fetched) {
                @let frames = run.config.settings.frames;
                @let contents = row.contents.map(|content| Some(as_given(content?, frames)));
                article {
                    h4 { (prediction.id) }
                    (guesses(run, prediction))
                    (inputs(run, view, prediction, &contents).markup())
                }
            }
        }
    })
}

/// Keeps of a video the frames that an evaluation takes: the centres of equal parts of the clip.
fn as_given(content: Content, frames: usize) -> Content {
    match content {
        Content::Images(all) => {
            let count = frames.clamp(1, all.len().max(1));
            let centre = |i: usize| (2 * i + 1) * all.len() / (2 * count);
            let given = (0..count).filter_map(|i| all.get(centre(i)).cloned());
            Content::Images(given.collect())
        }
        other => other,
    }
}

/// The inputs that the model was given.
fn inputs<'a>(
    run: &RunSummary,
    view: &View,
    prediction: &'a Prediction,
    contents: &'a [Option<Content>; 2],
) -> Sample<'a> {
    let names = run.config.modalities.names().zip(contents);
    let inputs = names.map(|(name, content)| SampleInput {
        name,
        content: match content {
            Some(content) => Input::Present(content),
            None if view.availability.missing == Some(name) => {
                Input::Missing(Some("hidden from the model"))
            }
            None => Input::Missing(Some("the sample has none")),
        },
        frame_times: &[],
        seconds: None,
    });
    Sample {
        id: &prediction.id,
        inputs: inputs.collect(),
        error: None,
    }
}

/// A table of the true and the predicted classes, with their probabilities as bars.
fn guesses(run: &RunSummary, prediction: &Prediction) -> Markup {
    let config = &run.config;
    let p = probabilities(&prediction.logits, config.multi_label);
    let is_true = |class: usize| prediction.labels.contains(&(class as u32));
    let is_answer = |class: usize| match config.multi_label {
        true => p[class] >= THRESHOLD,
        false => class == argmax(&prediction.logits),
    };
    let mut shown: Vec<usize> = (0..p.len())
        .filter(|c| is_true(*c) || is_answer(*c))
        .collect();
    shown.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    shown.truncate(GUESSES);
    html! {
        table.guess {
            @for class in shown {
                tr class=(if is_true(class) { "right" } else { "wrong" }) {
                    td {
                        (config.classes.get(class).map_or("?", String::as_str)) " "
                        span.note {
                            (match (is_true(class), is_answer(class)) {
                                (true, true) => "true, predicted",
                                (true, false) => "true",
                                (false, _) => "predicted",
                            })
                        }
                    }
                    td.bar { i style=(format!("width:{:.0}%", 100.0 * p[class])) {} }
                    td.number { (percent(p[class])) " %" }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(id: &str, labels: &[u32], logits: &[f32]) -> Prediction {
        Prediction {
            id: id.into(),
            labels: labels.into(),
            present: [true, true],
            logits: logits.into(),
        }
    }

    #[test]
    fn the_most_confident_mistakes_of_different_classes_are_shown() {
        let predictions = [
            prediction("right", &[0], &[9.0, 0.0, 0.0]),
            prediction("unsure", &[0], &[0.0, 0.5, 0.0]),
            prediction("sure", &[0], &[0.0, 8.0, 0.0]),
            prediction("b", &[2], &[3.0, 0.0, 0.0]),
            prediction("a", &[2], &[3.0, 0.0, 0.0]),
        ];
        let ids = |mistakes: Vec<Mistake>| -> Vec<&str> {
            mistakes
                .iter()
                .map(|m| &*predictions[m.sample].id)
                .collect()
        };
        // One of each class first, then the others; of equals the lesser id.
        let chosen = ids(most_confident(&predictions, false));
        assert_eq!(chosen, ["sure", "a", "b"]);
        assert!(most_confident(&predictions[..1], false).is_empty());
    }

    #[test]
    fn a_multi_label_mistake_is_the_worst_decision() {
        // Class 0 is missed with 1 - sigmoid(-1), class 2 is predicted with sigmoid(2).
        let found = mistake(7, &prediction("a", &[0, 1], &[-1.0, 5.0, 2.0]), true).unwrap();
        assert_eq!((found.sample, found.class), (7, 2));
        assert!((found.confidence - 0.880_797).abs() < 1e-6);
        let right = prediction("a", &[0, 1], &[1.0, 5.0, -2.0]);
        assert_eq!(mistake(0, &right, true), None);
    }
}
