//! The page about runs: one HTML file that loads nothing and runs no script.

use crate::chart::{BarGroup, Series, bar_chart, line_chart};
use crate::run_folder::{EncoderSize, RunSummary, main_metric};
use crate::samples;
use crate::scores::{ScoreRow, score_table};
use crate::statistics::mean;
use anyhow::{Context, Result};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const STYLE: &str = concat!("\n", include_str!("style.css"));

/// Writes a page about runs: settings, scores, loss curves, per-class scores and test samples.
///
/// # Errors
/// The file cannot be written.
pub fn write_page(path: &Path, runs: &[RunSummary]) -> Result<()> {
    util::atomic::write(path, html_page(runs))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// Returns the page's HTML.
fn html_page(runs: &[RunSummary]) -> String {
    let title = runs.first().map_or("U2A".to_string(), |r| {
        format!("U2A on {}", r.config.dataset)
    });
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (run_table(runs))
                (scores(runs, &score_table(runs)))
                (scores_by_missing_rate(runs))
                h2 { "Training" }
                (loss_curves(runs))
                @for run in runs { (class_scores(run, runs.len() > 1)) }
                (samples::section(runs))
                h2 { "Settings" }
                @for run in runs {
                    details {
                        summary { (run.name()) }
                        pre { (run.config.text) }
                    }
                }
            }
        }
    };
    page.into_string() + "\n"
}

/// The head of a table.
fn table_head(names: &[&str]) -> Markup {
    html! { tr { @for name in names { th { (name) } } } }
}

/// A table of the settings in which runs differ.
fn run_table(runs: &[RunSummary]) -> Markup {
    html! {
        div.scroll {
            table {
                (table_head(&[
                    "run", "seed", "learns", "fusion", "missing token", "trained under", "encoders",
                    "steps",
                ]))
                @for run in runs {
                    @let settings = &run.config.settings;
                    @let encoders = run.config.encoders.iter();
                    @let sizes: Vec<String> = encoders.map(encoder_size).collect();
                    tr {
                        td { (run.name()) }
                        td { (settings.seed) }
                        td { (settings.adapt) }
                        td { (settings.fusion) }
                        td { (settings.missing_token) }
                        td { (settings.train_mask.as_deref().unwrap_or("all data")) }
                        td { (sizes.join(", ")) }
                        td { (run.losses.last().map_or(0, |l| l.0)) }
                    }
                }
            }
        }
    }
}

/// Formats an encoder's size, such as `Clip 12 x 768`.
fn encoder_size(size: &EncoderSize) -> String {
    let (first, rest) = size.kind.split_at_checked(1).unwrap_or(("", &size.kind));
    let kind = first.to_uppercase() + rest;
    format!("{kind} {} x {}", size.layers, size.hidden)
}

/// The table of scores.
fn scores(runs: &[RunSummary], rows: &[ScoreRow]) -> Markup {
    html! {
        h2 { "Scores" }
        div.scroll {
            table {
                tr {
                    th { "inputs" } th { "metric" } th { "mean" } th { "sd" }
                    @for run in runs { th { (run.name()) } }
                }
                @for row in rows {
                    tr {
                        td { (row.inputs) }
                        td { (row.metric) }
                        td { (format!("{:.4}", row.mean)) }
                        td { (format!("{:.4}", row.deviation)) }
                        @for value in &row.values {
                            td { (value.map_or("-".into(), |v| format!("{v:.4}"))) }
                        }
                    }
                }
            }
        }
        @if let Some(chance) = rows.first().and_then(|row| row.chance) {
            p.note { "Guessing gives " (format!("{chance:.3}")) "." }
        }
    }
}

/// A chart of scores by missing rate: one line per protocol, means over the runs. The complete test
/// split is rate 0 of each protocol; a modality missing in all samples is rate 1 of its protocol.
fn scores_by_missing_rate(runs: &[RunSummary]) -> Markup {
    // The scores, by protocol and by rate in thousandths, which is an ordered key.
    let mut by_protocol: BTreeMap<String, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    let mut complete = Vec::new();
    for run in runs {
        let metric = main_metric(run.config.multi_label);
        let trained_token = run.config.settings.missing_token.as_str();
        for json in run.evaluations.values() {
            let Some(score) = json["metrics"][metric].as_f64() else {
                continue;
            };
            if json["split"] != "test" || json["missing_token"] != trained_token {
                continue;
            }
            let key = |rate: f64| (1000.0 * rate).round() as u32;
            match (json["protocol"].as_str(), json["missing"].as_str()) {
                (None, None) => complete.push(score),
                (None, Some(missing)) => {
                    let scores = by_protocol.entry(format!("missing-{missing}")).or_default();
                    scores.entry(key(1.0)).or_default().push(score);
                }
                (Some(protocol), None) => {
                    let rate = key(json["rate"].as_f64().unwrap_or(0.0));
                    let scores = by_protocol.entry(protocol.to_string()).or_default();
                    scores.entry(rate).or_default().push(score);
                }
                _ => {}
            }
        }
    }
    let series: Vec<Series> = by_protocol
        .into_iter()
        .map(|(name, mut scores)| {
            if !complete.is_empty() {
                scores.entry(0).or_default().extend(&complete);
            }
            let percent = |rate: u32| f64::from(rate) / 10.0;
            let points = scores.iter();
            let points = points.filter_map(|(rate, all)| Some((percent(*rate), mean(all)?)));
            Series {
                name,
                points: points.collect(),
                deviations: Vec::new(),
            }
        })
        .filter(|s| s.points.len() > 1)
        .collect();
    if series.is_empty() {
        return html! {};
    }
    let metric = runs
        .first()
        .map_or("score", |r| main_metric(r.config.multi_label));
    html! {
        h2 { "Score by missing rate" }
        div.chart { (line_chart(["missing rate at test time, %", metric], &series)) }
    }
}

/// The largest number of points of a loss curve; more would only make the line thicker.
const MAX_POINTS: usize = 300;

/// A chart of the loss by step, averaged over neighbouring steps.
fn loss_curves(runs: &[RunSummary]) -> Markup {
    let series: Vec<Series> = runs
        .iter()
        .map(|run| {
            let steps_per_point = run.losses.len().div_ceil(MAX_POINTS).max(1);
            let points = run.losses.chunks(steps_per_point).map(|steps| {
                let mean = steps.iter().map(|p| p.1).sum::<f64>() / steps.len() as f64;
                (steps[steps.len() - 1].0 as f64, mean)
            });
            Series {
                name: run.name(),
                points: points.collect(),
                deviations: Vec::new(),
            }
        })
        .collect();
    html! { div.chart { (line_chart(["step", "loss"], &series)) } }
}

/// The scores per class as a chart, with both modalities and with each alone, and the table, the
/// confusion matrix and the distances of mask tokens, which `folded` hides until they are asked
/// for.
fn class_scores(run: &RunSummary, folded: bool) -> Markup {
    let Some(test) = run.evaluations.get("test") else {
        return html! {};
    };
    let [m1, m2] = run.config.modalities;
    let key = if run.config.multi_label {
        "f1"
    } else {
        "recall"
    };
    let mut evaluations: Vec<(String, &Value)> = vec![("both".into(), test)];
    for (shown, missing) in [(m1, m2), (m2, m1)] {
        for (suffix, words) in [("", "mask token"), ("-zeros", "zeros")] {
            if let Some(json) = run.evaluations.get(&format!("test-no-{missing}{suffix}")) {
                evaluations.push((format!("{shown} only, {words}"), json));
            }
        }
    }
    let score = |json: &Value, class: usize| {
        let scores = &json["classes"][class]["scores"];
        scores[key].as_f64().filter(|_| scores["support"] != 0)
    };
    let groups: Vec<BarGroup> = run
        .config
        .classes
        .iter()
        .enumerate()
        .map(|(i, name)| {
            (
                name.clone(),
                evaluations.iter().map(|(_, json)| score(json, i)).collect(),
            )
        })
        .collect();
    let names: Vec<&str> = evaluations.iter().map(|(name, _)| name.as_str()).collect();
    let name = run.name();
    let tables = html! {
        (class_table(test))
        (confusion_matrix(&run.config.classes, &test["confusion"]))
        (mask_token_distances(run, &test["alignment"]))
    };
    html! {
        h2 { "Classes, " (name) }
        p.note { (key) " per class, by the inputs that the model was given." }
        div.chart { (bar_chart("score per class", &names, &groups)) }
        @if folded {
            details { summary { "Table and confusion of " (name) } (tables) }
        } @else {
            (tables)
        }
    }
}

/// A table of precision, recall and F1 per class.
fn class_table(json: &Value) -> Markup {
    html! {
        div.scroll {
            table {
                (table_head(&["class", "samples", "precision", "recall", "F1"]))
                @for class in json["classes"].as_array().map_or(&[][..], Vec::as_slice) {
                    tr {
                        td { (class["class"].as_str().unwrap_or("?")) }
                        td { (class["scores"]["support"].to_string()) }
                        @for key in ["precision", "recall", "f1"] {
                            td { (format!("{:.3}", class["scores"][key].as_f64().unwrap_or(0.0))) }
                        }
                    }
                }
            }
        }
    }
}

/// The confusion matrix of single-label data.
fn confusion_matrix(names: &[String], matrix: &Value) -> Markup {
    let Some(rows) = matrix.as_array() else {
        return html! {};
    };
    html! {
        p.note {
            "Confusion: a row per true class, a column per predicted class, in the same order."
        }
        div.scroll {
            table {
                @for (name, row) in names.iter().zip(rows) {
                    @let counts = row.as_array().into_iter().flatten();
                    @let counts: Vec<u64> = counts.filter_map(Value::as_u64).collect();
                    @let total = counts.iter().map(|&n| n as f64).sum::<f64>().max(1.0);
                    tr {
                        td { (name) }
                        @for count in counts {
                            @let opacity = 0.65 * count as f64 / total;
                            td style=(format!("background:rgba(47,111,222,{opacity:.2})")) { (count) }
                        }
                    }
                }
            }
        }
    }
}

/// A chart of the distances between mask tokens and the class tokens that they stand for, per
/// class.
fn mask_token_distances(run: &RunSummary, json: &Value) -> Markup {
    let Some(all) = json["classes"].as_array() else {
        return html! {};
    };
    let [m1, m2] = run.config.modalities;
    let names = [format!("{m1} to {m2}"), format!("{m2} to {m1}")];
    let groups: Vec<BarGroup> = run
        .config
        .classes
        .iter()
        .zip(all)
        .map(|(name, pair)| (name.clone(), vec![pair[0].as_f64(), pair[1].as_f64()]))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    html! {
        p.note { "Mean squared distance of mask tokens from the tokens they stand for." }
        div.chart { (bar_chart("mean squared distance per class", &names, &groups)) }
    }
}
