//! The page about runs: one HTML file that loads nothing and runs no script.

use crate::chart::{BarGroup, Series, bar_chart, line_chart};
use crate::groups::{RunGroup, group_runs};
use crate::run_folder::{EncoderSize, RunSummary, main_metric};
use crate::samples;
use crate::scores::score_rows;
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
    let groups = group_runs(runs);
    let mut datasets: Vec<&str> = runs.iter().map(|r| r.config.dataset.as_str()).collect();
    datasets.dedup();
    let title = match datasets.is_empty() {
        true => "U2A".to_string(),
        false => format!("U2A on {}", datasets.join(", ")),
    };
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
                @for group in &groups { (scores(group, groups.len() > 1)) }
                @for group in &groups { (scores_by_missing_rate(group, groups.len() > 1)) }
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
                    "run", "dataset", "seed", "learns", "fusion", "missing token", "trained under", "encoders",
                    "steps",
                ]))
                @for run in runs {
                    @let settings = &run.config.settings;
                    @let encoders = run.config.encoders.iter();
                    @let sizes: Vec<String> = encoders.map(encoder_size).collect();
                    tr {
                        td { (run.name()) }
                        td { (run.config.dataset) }
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

/// The table of scores of one group of runs, which is named if there are `several`.
fn scores(group: &RunGroup, several: bool) -> Markup {
    let rows = score_rows(group);
    html! {
        h2 { "Scores" @if several { ", " (group.name) } }
        div.scroll {
            table {
                tr {
                    th { "inputs" } th { "metric" } th { "mean" } th { "sd" } th { "runs" }
                    @for run in &group.runs { th { (run.name()) } }
                }
                @for row in &rows {
                    tr {
                        td { (row.inputs) }
                        td { (row.metric) }
                        td { (format!("{:.4}", row.mean)) }
                        td { (format!("{:.4}", row.deviation)) }
                        td { (row.count) }
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

/// The scores of one run by protocol and by missing rate in thousandths, which is an ordered key.
/// The complete test split is rate 0 of each protocol; a modality missing in all samples is rate 1
/// of its protocol.
fn rates(run: &RunSummary) -> BTreeMap<String, BTreeMap<u32, f64>> {
    let metric = main_metric(run.config.multi_label);
    let mut by_protocol: BTreeMap<String, BTreeMap<u32, f64>> = BTreeMap::new();
    let mut complete = None;
    for json in run.evaluations.values() {
        let Some(score) = json["metrics"][metric].as_f64() else {
            continue;
        };
        // A curve is of one checkpoint. Evaluations of earlier versions do not say which.
        if json["default_checkpoint"] == false {
            continue;
        }
        if json["split"] != "test" || json["missing_token"] != *run.config.settings.missing_token {
            continue;
        }
        match (json["protocol"].as_str(), json["missing"].as_str()) {
            (None, None) => complete = Some(score),
            (None, Some(missing)) => {
                let scores = by_protocol.entry(format!("missing-{missing}")).or_default();
                scores.insert(1000, score);
            }
            (Some(protocol), None) => {
                let rate = (1000.0 * json["rate"].as_f64().unwrap_or(0.0)).round() as u32;
                let scores = by_protocol.entry(protocol.to_string()).or_default();
                scores.insert(rate, score);
            }
            _ => {}
        }
    }
    if let Some(score) = complete {
        for scores in by_protocol.values_mut() {
            scores.insert(0, score);
        }
    }
    by_protocol
}

/// A chart of the scores of one group of runs by missing rate. Each point of a line is a mean over
/// the same runs: those that have scores at the same rates of one protocol.
fn scores_by_missing_rate(group: &RunGroup, several: bool) -> Markup {
    let mut lines: BTreeMap<(String, Vec<u32>), Vec<Vec<f64>>> = BTreeMap::new();
    for run in &group.runs {
        for (protocol, scores) in rates(run) {
            let (at, scores) = scores.into_iter().unzip();
            lines.entry((protocol, at)).or_default().push(scores);
        }
    }
    let series: Vec<Series> = lines
        .into_iter()
        .filter(|((_, at), _)| at.len() > 1)
        .map(|((protocol, at), runs)| {
            let points = at.iter().enumerate().filter_map(|(i, rate)| {
                let scores: Vec<f64> = runs.iter().map(|run| run[i]).collect();
                Some((f64::from(*rate) / 10.0, mean(&scores)?))
            });
            Series {
                points: points.collect(),
                name: match runs.len() {
                    1 => protocol,
                    n => format!("{protocol}, mean of {n} runs"),
                },
                deviations: Vec::new(),
            }
        })
        .collect();
    if series.is_empty() {
        return html! {};
    }
    let metric = main_metric(group.runs[0].config.multi_label);
    html! {
        h2 { "Score by missing rate" @if several { ", " (group.name) } }
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
