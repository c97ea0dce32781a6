//! The page: one HTML file that loads nothing and runs nothing.

use crate::chart::{self, Series};
use crate::run_folder::{EncoderSize, RunSummary, main_metric};
use crate::samples;
use crate::scores::{Line, table};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use std::collections::BTreeMap;

const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fbfbfa; --text: #1d1d1f; --line: #8885; --accent: #2f6fde; --soft: #2f6fde1a; --right: #1f7a45; --wrong: #b3372b; }
@media (prefers-color-scheme: dark) { :root { --ground: #151619; --text: #e4e4e6; --accent: #7aa7f5; --soft: #7aa7f522; --right: #63c48d; --wrong: #f0877b; } }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; background: var(--ground); color: var(--text); }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; } h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: right; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; min-width: 8.5rem; } article th:first-child { min-width: 0; } th { font-weight: 600; }
.scroll { overflow-x: auto; } .chart { overflow-x: auto; } .chart svg { width: 100%; min-width: 36rem; height: auto; display: block; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; border-radius: .4rem; } summary { cursor: pointer; padding: .2rem 0; }
.note { opacity: .75; } .right { color: var(--right); } .wrong { color: var(--wrong); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem; min-width: 0; } article table { width: 100%; margin-top: .5rem; } article td, article th { text-align: left; padding: .2rem .4rem; }
.frames { display: flex; gap: .3rem; } .frames img { flex: 1; min-width: 0; width: 0; border-radius: .25rem; } .mel { width: 100%; height: 5rem; margin-top: .4rem; border-radius: .25rem; image-rendering: pixelated; }
blockquote { margin: .5rem 0 0; padding-left: .7rem; border-left: 3px solid var(--line); font-size: .9em; overflow-wrap: anywhere; }
";

/// The whole page.
pub fn page(runs: &[RunSummary]) -> String {
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
                (what_ran(runs))
                (scores(runs, &table(runs)))
                (missing_rates(runs))
                h2 { "Training" }
                (curves(runs))
                @for run in runs { (classes(run, runs.len() > 1)) }
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

/// A table's head.
fn head(names: &[&str]) -> Markup {
    html! { tr { @for name in names { th { (name) } } } }
}

/// One row per run: what distinguishes it.
fn what_ran(runs: &[RunSummary]) -> Markup {
    html! {
        div.scroll {
            table {
                (head(&["run", "seed", "learns", "fusion", "missing token", "trained under", "encoders", "steps"]))
                @for run in runs {
                    @let s = &run.config.settings;
                    @let encoders = run.config.encoders.iter();
                    @let sizes: Vec<String> = encoders.map(encoder).collect();
                    tr {
                        td { (run.name()) }
                        td { (s.seed) }
                        td { (s.adapt) }
                        td { (s.fusion) }
                        td { (s.missing_token) }
                        td { (s.train_mask.as_deref().unwrap_or("all data")) }
                        td { (sizes.join(", ")) }
                        td { (run.losses.last().map_or(0, |l| l.0)) }
                    }
                }
            }
        }
    }
}

/// An encoder in words, such as `Clip 12 x 768`.
fn encoder(size: &EncoderSize) -> String {
    let (first, rest) = size.kind.split_at_checked(1).unwrap_or(("", &size.kind));
    let kind = first.to_uppercase() + rest;
    format!("{kind} {} x {}", size.layers, size.hidden)
}

fn scores(runs: &[RunSummary], lines: &[Line]) -> Markup {
    html! {
        h2 { "Scores" }
        div.scroll {
            table {
                tr {
                    th { "the model saw" } th { "metric" } th { "mean" } th { "sd" }
                    @for run in runs { th { (run.name()) } }
                }
                @for line in lines {
                    tr {
                        td { (line.seen) }
                        td { (line.metric) }
                        td { (format!("{:.4}", line.mean)) }
                        td { (format!("{:.4}", line.deviation)) }
                        @for value in &line.values {
                            td { (value.map_or("-".into(), |v| format!("{v:.4}"))) }
                        }
                    }
                }
            }
        }
        @if let Some(chance) = lines.first().and_then(|l| l.chance) {
            p.note { "Guessing gives " (format!("{chance:.3}")) "." }
        }
    }
}

/// Score by missing rate, a curve per protocol, the mean over the runs. A complete test split is
/// rate 0 of every protocol, a modality gone from every sample is rate 1 of its own.
fn missing_rates(runs: &[RunSummary]) -> Markup {
    let mut curves: BTreeMap<String, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    let mut complete = Vec::new();
    for run in runs {
        let metric = main_metric(run.config.multi_label);
        let own = run.config.settings.missing_token.as_str();
        for json in run.evaluations.values() {
            let Some(score) = json["metrics"][metric].as_f64() else {
                continue;
            };
            if json["split"] != "test" || json["missing_token"] != own {
                continue;
            }
            // Rates in thousandths: an ordered key.
            let key = |rate: f64| (1000.0 * rate).round() as u32;
            match (json["protocol"].as_str(), json["missing"].as_str()) {
                (None, None) => complete.push(score),
                (None, Some(gone)) => {
                    let curve = curves.entry(format!("missing-{gone}")).or_default();
                    curve.entry(key(1.0)).or_default().push(score);
                }
                (Some(protocol), None) => {
                    let rate = key(json["rate"].as_f64().unwrap_or(0.0));
                    let curve = curves.entry(protocol.to_string()).or_default();
                    curve.entry(rate).or_default().push(score);
                }
                _ => {}
            }
        }
    }
    let series: Vec<Series> = curves
        .into_iter()
        .map(|(name, mut points)| {
            if !complete.is_empty() {
                points.entry(0).or_default().extend(&complete);
            }
            let mean = |all: &Vec<f64>| all.iter().sum::<f64>() / all.len() as f64;
            Series {
                name,
                points: points
                    .iter()
                    .map(|(r, all)| (f64::from(*r) / 10.0, mean(all)))
                    .collect(),
                spread: Vec::new(),
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
        div.chart { (chart::lines(["missing rate at test time, %", metric], &series)) }
    }
}

/// Points of a curve: more only thicken the line.
const POINTS: usize = 300;

fn curves(runs: &[RunSummary]) -> Markup {
    let series: Vec<Series> = runs
        .iter()
        .map(|run| {
            let each = run.losses.len().div_ceil(POINTS).max(1);
            let points = run.losses.chunks(each).map(|c| {
                let mean = c.iter().map(|p| p.1).sum::<f64>() / c.len() as f64;
                (c[c.len() - 1].0 as f64, mean)
            });
            Series {
                name: run.name(),
                points: points.collect(),
                spread: Vec::new(),
            }
        })
        .collect();
    html! { div.chart { (chart::lines(["step", "loss"], &series)) } }
}

/// Per-class bars with and without mask tokens, distances, the table, the confusion.
fn classes(run: &RunSummary, folded: bool) -> Markup {
    let Some(test) = run.evaluations.get("test") else {
        return html! {};
    };
    let [m1, m2] = run.config.modalities;
    let key = if run.config.multi_label {
        "f1"
    } else {
        "recall"
    };
    let mut views: Vec<(String, &Value)> = vec![("both".into(), test)];
    for (kept, gone) in [(m1, m2), (m2, m1)] {
        for (suffix, words) in [("", "mask token"), ("-zeros", "zeros")] {
            if let Some(json) = run.evaluations.get(&format!("test-no-{gone}{suffix}")) {
                views.push((format!("{kept} only, {words}"), json));
            }
        }
    }
    let value = |json: &Value, class: usize| {
        let scores = &json["classes"][class]["scores"];
        scores[key].as_f64().filter(|_| scores["support"] != 0)
    };
    let groups: Vec<(String, Vec<Option<f64>>)> = run
        .config
        .classes
        .iter()
        .enumerate()
        .map(|(i, name)| {
            (
                name.clone(),
                views.iter().map(|(_, json)| value(json, i)).collect(),
            )
        })
        .collect();
    let names: Vec<&str> = views.iter().map(|(name, _)| name.as_str()).collect();
    let name = run.name();
    let tables = html! {
        (class_table(test))
        (confusion(&run.config.classes, &test["confusion"]))
        (distances(run, &test["alignment"]))
    };
    html! {
        h2 { "Classes, " (name) }
        p.note { (key) " per class, by what the model saw." }
        div.chart { (chart::bars("score per class", &names, &groups)) }
        @if folded {
            details { summary { "Table and confusion of " (name) } (tables) }
        } @else {
            (tables)
        }
    }
}

fn class_table(json: &Value) -> Markup {
    html! {
        div.scroll {
            table {
                (head(&["class", "samples", "precision", "recall", "F1"]))
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

fn confusion(names: &[String], matrix: &Value) -> Markup {
    let Some(rows) = matrix.as_array() else {
        return html! {};
    };
    html! {
        p.note { "Confusion: a row per true class, a column per predicted class, in the same order." }
        div.scroll {
            table {
                @for (name, row) in names.iter().zip(rows) {
                    @let counts: Vec<u64> = row.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
                    @let total = counts.iter().map(|&n| n as f64).sum::<f64>().max(1.0);
                    tr {
                        td { (name) }
                        @for count in counts {
                            td style=(format!("background:rgba(47,111,222,{:.2})", 0.65 * count as f64 / total)) { (count) }
                        }
                    }
                }
            }
        }
    }
}

/// Distances between mask tokens and the class tokens they stand for, per class.
fn distances(run: &RunSummary, json: &Value) -> Markup {
    let Some(all) = json["classes"].as_array() else {
        return html! {};
    };
    let [m1, m2] = run.config.modalities;
    let names = [format!("{m1} to {m2}"), format!("{m2} to {m1}")];
    let groups: Vec<(String, Vec<Option<f64>>)> = run
        .config
        .classes
        .iter()
        .zip(all)
        .map(|(name, pair)| (name.clone(), vec![pair[0].as_f64(), pair[1].as_f64()]))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    html! {
        p.note { "Mean squared distance of mask tokens from the tokens they stand for." }
        div.chart { (chart::bars("mean squared distance per class", &names, &groups)) }
    }
}
