//! Scores per class with each availability, the gain by the mask token, and the distances of mask
//! tokens.

use super::chapter::{Chapter, Experiment, series_colour};
use super::confusion;
use super::dots::{Dots, Series};
use super::number::{percent, percent_average};
use crate::run_folder::RunSummary;
use crate::statistics::{Average, mean};
use datasets::InputName;
use maud::{Markup, html};
use serde_json::Value;

/// The largest number of classes whose figures fit side by side.
const FEW_CLASSES: usize = 12;

/// The scores per class of each experiment; of several, all but the first are folded.
pub fn section(chapter: &Chapter) -> Markup {
    let with_scores: Vec<&Experiment> = chapter
        .groups
        .iter()
        .filter(|e| !scores(chapter, e).series.is_empty())
        .collect();
    html! {
        @if !with_scores.is_empty() {
            h2 { "Classes" }
            @if chapter.groups.len() == 1 {
                (figures(chapter, with_scores[0]))
            } @else {
                @for (i, experiment) in with_scores.iter().enumerate() {
                    details open[i == 0] {
                        summary { (experiment.label) }
                        (figures(chapter, experiment))
                    }
                }
            }
        }
    }
}

/// The figures and tables of one experiment.
fn figures(chapter: &Chapter, experiment: &Experiment) -> Markup {
    let runs = &experiment.group.runs;
    let over_runs = match experiment.group.evaluated() {
        1 => String::new(),
        n => format!(", mean over {n} runs; thin lines are one standard deviation to each side"),
    };
    let scores = scores(chapter, experiment);
    let (gain, distances) = (gain(chapter, runs), distances(chapter, runs));
    let side_by_side = (chapter.classes.len() <= FEW_CLASSES).then_some("grid");
    html! {
        h3 { (metric_in_words(chapter)) " per class" }
        p.note { "By the inputs that the model was given" (over_runs) "." }
        (scores.markup("Dot plot of the score of each class, by available modalities"))
        @if chapter.multi_label {
            h3 { "Precision, recall and F1" }
            p.note { "With all inputs" (over_runs) "." }
            (precision_and_recall(chapter, runs)
                .markup("Dot plot of precision, recall and F1 of each class"))
        } @else {
            (confusion::figures(chapter, experiment))
        }
        div class=[side_by_side] {
            @if !gain.series.is_empty() {
                div {
                    h3 { "Gain by the mask token" }
                    p.note {
                        (metric_in_words(chapter)) " with the mask token in place of the missing "
                        "modality minus that with zeros."
                    }
                    (gain.markup("Dot plot of the gain of each class by the mask token"))
                }
            }
            @if !distances.series.is_empty() {
                div {
                    h3 { "Distance of the mask token" }
                    p.note {
                        "Mean squared distance of the mask token from the class token that it "
                        "stands for."
                    }
                    (distances.markup("Dot plot of the distance of the mask tokens of each class"))
                }
            }
        }
        details {
            summary { "Numbers per class" }
            (score_table(&scores))
            (support_table(chapter, runs))
        }
    }
}

/// The name of the score of a class.
fn metric_in_words(chapter: &Chapter) -> &'static str {
    if chapter.multi_label {
        "F1"
    } else {
        "Accuracy"
    }
}

/// Returns a score of a class, by its key in an evaluation; `None` for a class without samples.
fn class_score(evaluation: &Value, class: usize, key: &str) -> Option<f64> {
    let scores = &evaluation["classes"][class]["scores"];
    scores[key].as_f64().filter(|_| scores["support"] != 0)
}

/// The key of the score of a class: its accuracy is its recall.
fn score_key(chapter: &Chapter) -> &'static str {
    if chapter.multi_label { "f1" } else { "recall" }
}

/// Averages a value over the runs that have it.
fn average(runs: &[&RunSummary], value: impl Fn(&RunSummary) -> Option<f64>) -> Option<Average> {
    let values: Vec<f64> = runs.iter().filter_map(|run| value(run)).collect();
    Average::of(&values)
}

/// The scores by availability, with the missing token of the training.
fn scores(chapter: &Chapter, experiment: &Experiment) -> Dots {
    let availabilities = chapter.availabilities();
    let series = availabilities.iter().map(Series::from).collect();
    let axis = format!("{}, %", metric_in_words(chapter));
    Dots::new(&axis, chapter.classes, series, |s, class| {
        average(&experiment.group.runs, |run| {
            let token = &run.config.settings.missing_token;
            let evaluation = run.test_evaluation(availabilities[s].missing, token)?;
            class_score(evaluation, class, score_key(chapter))
        })
    })
}

/// The scores with the mask token minus those with zeros.
fn gain(chapter: &Chapter, runs: &[&RunSummary]) -> Dots {
    let alone = chapter.availabilities().split_off(1);
    let series = alone.iter().map(Series::from).collect();
    let mut dots = Dots::new(
        "gain, percentage points",
        chapter.classes,
        series,
        |s, class| {
            average(runs, |run| {
                class_gain(chapter, run, alone[s].missing, class)
            })
        },
    );
    dots.from_zero = true;
    let total = |values: &[Option<Average>]| {
        let known: Vec<f64> = values.iter().flatten().map(|a| a.mean).collect();
        mean(&known).unwrap_or(f64::NEG_INFINITY)
    };
    dots.rows
        .sort_by(|a, b| total(&b.values).total_cmp(&total(&a.values)));
    dots
}

/// Returns the gain of one class in one run, if the run was trained with mask tokens and has both
/// evaluations.
fn class_gain(
    chapter: &Chapter,
    run: &RunSummary,
    missing: Option<InputName>,
    class: usize,
) -> Option<f64> {
    let score = |token| {
        class_score(
            run.test_evaluation(missing, token)?,
            class,
            score_key(chapter),
        )
    };
    let trained = run.config.settings.missing_token == "mask";
    trained
        .then(|| Some(score("mask")? - score("zeros")?))
        .flatten()
}

/// Precision, recall and F1 with both modalities.
fn precision_and_recall(chapter: &Chapter, runs: &[&RunSummary]) -> Dots {
    let kinds = [
        ("F1", "f1"),
        ("precision", "precision"),
        ("recall", "recall"),
    ];
    let series = kinds.iter().enumerate().map(|(i, (name, _))| Series {
        name: name.to_string(),
        colour: series_colour(i),
        symbol: i,
    });
    Dots::new("%", chapter.classes, series.collect(), |s, class| {
        average(runs, |run| class_score(complete(run)?, class, kinds[s].1))
    })
}

/// Returns the evaluation with both modalities.
fn complete(run: &RunSummary) -> Option<&Value> {
    run.test_evaluation(None, &run.config.settings.missing_token)
}

/// The distances of mask tokens from class tokens.
fn distances(chapter: &Chapter, runs: &[&RunSummary]) -> Dots {
    let alone = chapter.availabilities().split_off(1);
    let series = alone.iter().filter_map(|alone| {
        Some(Series {
            name: format!("for {}, {}", alone.missing?, alone.name),
            colour: alone.colour.to_string(),
            symbol: alone.symbol,
        })
    });
    let mut dots = Dots::new(
        "mean squared distance",
        chapter.classes,
        series.collect(),
        |s, class| {
            average(runs, |run| {
                complete(run)?["alignment"]["classes"][class][s].as_f64()
            })
        },
    );
    dots.percent = false;
    dots.from_zero = true;
    dots
}

/// The numbers of a dot plot.
fn score_table(dots: &Dots) -> Markup {
    html! {
        table {
            tr {
                th { (dots.axis) }
                @for series in &dots.series { th.number { (series.name) } }
            }
            @for row in &dots.rows {
                tr {
                    td { (row.class) }
                    @for value in &row.values {
                        td.number { (value.as_ref().map_or("\u{2013}".into(), percent_average)) }
                    }
                }
            }
        }
    }
}

/// A table of samples, precision, recall and F1 of each class, with both modalities.
fn support_table(chapter: &Chapter, runs: &[&RunSummary]) -> Markup {
    let cell = |class: usize, key: &str| {
        let average = average(runs, |run| class_score(complete(run)?, class, key));
        average.map_or("\u{2013}".to_string(), |a| percent(a.mean))
    };
    let support = |class: usize| {
        let counts = runs
            .iter()
            .filter_map(|run| Some(&complete(run)?["classes"][class]["scores"]));
        counts
            .filter_map(|scores| scores["support"].as_u64())
            .next()
    };
    html! {
        table {
            tr {
                th { "both, %" }
                @for name in ["samples", "precision", "recall", "F1"] { th.number { (name) } }
            }
            @for (i, name) in chapter.classes.iter().enumerate() {
                tr {
                    td { (name) }
                    td.number { (support(i).map_or("\u{2013}".to_string(), |n| n.to_string())) }
                    @for key in ["precision", "recall", "f1"] { td.number { (cell(i, key)) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chapter::chapters;
    use super::*;
    use crate::test_runs::{TestRun, evaluation};

    #[test]
    fn gain_is_the_score_with_the_mask_token_minus_that_with_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let run = |seed, mask: [f64; 2], zeros: [f64; 2]| {
            let run = TestRun {
                seed,
                evaluations: &[
                    ("test-no-audio", evaluation(Some("audio"), "mask", mask)),
                    (
                        "test-no-audio-zeros",
                        evaluation(Some("audio"), "zeros", zeros),
                    ),
                    // Without its counterpart it gives no gain.
                    ("test-no-video", evaluation(Some("video"), "mask", [0.9; 2])),
                ],
                ..TestRun::default()
            };
            run.write(folder.path(), &seed.to_string())
        };
        let runs = [
            run(0, [0.5, 0.75], [0.25, 0.25]),
            run(1, [0.5, 0.75], [0.5, 0.25]),
        ];
        let chapter = &chapters(&runs)[0];
        let gain = gain(chapter, &chapter.groups[0].group.runs);
        let names: Vec<&str> = gain.series.iter().map(|s| &*s.name).collect();
        assert_eq!(names, ["video only"]);
        // By hand: 0.5 in both runs for b<; 0.25 and 0 for a.
        let rows: Vec<_> = gain
            .rows
            .iter()
            .map(|r| (&*r.class, r.values[0].unwrap()))
            .collect();
        assert_eq!(
            (rows[0].0, rows[0].1.mean, rows[0].1.sd),
            ("b<", 0.5, Some(0.0))
        );
        assert_eq!((rows[1].0, rows[1].1.mean), ("a", 0.125));
        assert!((rows[1].1.sd.unwrap() - 0.25 / 2f64.sqrt()).abs() < 1e-12);
    }
}
