//! The page: one HTML file that loads nothing and runs nothing.

use super::{Line, RunSummary, run_name, samples, table};
use crate::chart::{self, Series, escape};
use crate::text::put;
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
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><link rel=\"icon\" href=\"data:,\"><title>{0}</title><style>{STYLE}</style></head><body><h1>{0}</h1>",
        escape(&title)
    );
    html += &what_ran(runs);
    let lines = table(runs);
    html += &scores(runs, &lines);
    html += &missing_rates(runs);
    html += "<h2>Training</h2>";
    html += &curves(runs);
    for run in runs {
        html += &classes(run, runs.len() > 1);
    }
    html += &samples::section(runs);
    html += "<h2>Settings</h2>";
    for run in runs {
        let text = run.config.to_toml().unwrap_or_default();
        put!(
            html,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            escape(&run_name(run)),
            escape(&text)
        );
    }
    html + "</body></html>\n"
}

/// One row per run: what distinguishes it.
fn what_ran(runs: &[RunSummary]) -> String {
    let mut html = "<div class=\"scroll\"><table><tr><th>run</th><th>seed</th><th>learns</th><th>fusion</th><th>missing token</th><th>trained under</th><th>encoders</th><th>steps</th></tr>".to_string();
    for run in runs {
        let s = &run.config.settings;
        let sizes: Vec<String> = run
            .config
            .encoders
            .iter()
            .map(|e| format!("{:?} {} x {}", e.kind, e.layers, e.hidden))
            .collect();
        put!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&run_name(run)),
            s.seed,
            named(&s.adapt),
            named(&s.fusion),
            named(&s.missing_token),
            escape(s.train_mask.as_deref().unwrap_or("all data")),
            escape(&sizes.join(", ")),
            run.losses.last().map_or(0, |l| l.0)
        );
    }
    html + "</table></div>"
}

/// A setting by the name that `--set` gives it.
fn named(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value
        .and_then(|v| Some(v.as_str()?.to_string()))
        .unwrap_or_default()
}

fn scores(runs: &[RunSummary], lines: &[Line]) -> String {
    let mut html = "<h2>Scores</h2><div class=\"scroll\"><table><tr><th>the model saw</th><th>metric</th><th>mean</th><th>sd</th>".to_string();
    for run in runs {
        put!(html, "<th>{}</th>", escape(&run_name(run)));
    }
    html += "</tr>";
    for line in lines {
        put!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{:.4}</td><td>{:.4}</td>",
            escape(&line.seen),
            line.metric,
            line.mean,
            line.deviation
        );
        for value in &line.values {
            put!(
                html,
                "<td>{}</td>",
                value.map_or("-".into(), |v| format!("{v:.4}"))
            );
        }
        html += "</tr>";
    }
    html += "</table></div>";
    if let Some(chance) = lines.first().and_then(|l| l.chance) {
        put!(html, "<p class=\"note\">Guessing gives {chance:.3}.</p>");
    }
    html
}

/// Score by missing rate, a curve per protocol, the mean over the runs. A complete test split is
/// rate 0 of every protocol, a modality gone from every sample is rate 1 of its own.
fn missing_rates(runs: &[RunSummary]) -> String {
    let mut curves: BTreeMap<String, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    let mut complete = Vec::new();
    for run in runs {
        let metric = crate::evaluate::main_metric(run.config.multi_label);
        let own = serde_json::to_value(run.config.settings.missing_token).unwrap_or_default();
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
        return String::new();
    }
    let metric = runs.first().map_or("score", |r| {
        crate::evaluate::main_metric(r.config.multi_label)
    });
    let svg = chart::lines(["missing rate at test time, %", metric], &series);
    format!("<h2>Score by missing rate</h2><div class=\"chart\">{svg}</div>")
}

/// Points of a curve: more only thicken the line.
const POINTS: usize = 300;

fn curves(runs: &[RunSummary]) -> String {
    let series: Vec<Series> = runs
        .iter()
        .map(|run| {
            let each = run.losses.len().div_ceil(POINTS).max(1);
            let points = run.losses.chunks(each).map(|c| {
                let mean = c.iter().map(|p| p.1).sum::<f64>() / c.len() as f64;
                (c[c.len() - 1].0 as f64, mean)
            });
            Series {
                name: run_name(run),
                points: points.collect(),
                spread: Vec::new(),
            }
        })
        .collect();
    format!(
        "<div class=\"chart\">{}</div>",
        chart::lines(["step", "loss"], &series)
    )
}

/// Per-class bars with and without mask tokens, distances, the table, the confusion.
fn classes(run: &RunSummary, folded: bool) -> String {
    let Some(test) = run.evaluations.get("test") else {
        return String::new();
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
    let name = escape(&run_name(run));
    let mut html = format!("<h2>Classes, {name}</h2>");
    put!(
        html,
        "<p class=\"note\">{key} per class, by what the model saw.</p>"
    );
    put!(
        html,
        "<div class=\"chart\">{}</div>",
        chart::bars("score per class", &names, &groups)
    );
    let (open, close) = match folded {
        true => (
            format!("<details><summary>Table and confusion of {name}</summary>"),
            "</details>",
        ),
        false => (String::new(), ""),
    };
    html += &open;
    html += &class_table(test);
    html += &confusion(&run.config.classes, &test["confusion"]);
    html += &distances(run, &test["alignment"]);
    html + close
}

fn class_table(json: &Value) -> String {
    let mut html = "<div class=\"scroll\"><table><tr><th>class</th><th>samples</th><th>precision</th><th>recall</th><th>F1</th></tr>".to_string();
    for class in json["classes"].as_array().map_or(&[][..], Vec::as_slice) {
        let score = |key: &str| class["scores"][key].as_f64().unwrap_or(0.0);
        put!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td></tr>",
            escape(class["class"].as_str().unwrap_or("?")),
            class["scores"]["support"],
            score("precision"),
            score("recall"),
            score("f1")
        );
    }
    html + "</table></div>"
}

fn confusion(names: &[String], matrix: &Value) -> String {
    let Some(rows) = matrix.as_array() else {
        return String::new();
    };
    let mut html = "<p class=\"note\">Confusion: a row per true class, a column per predicted class, in the same order.</p><div class=\"scroll\"><table>".to_string();
    for (name, row) in names.iter().zip(rows) {
        let counts: Vec<u64> = row
            .as_array()
            .map_or_else(Vec::new, |r| r.iter().filter_map(Value::as_u64).collect());
        let total = counts.iter().map(|&n| n as f64).sum::<f64>().max(1.0);
        put!(html, "<tr><td>{}</td>", escape(name));
        for count in counts {
            put!(
                html,
                "<td style=\"background:rgba(47,111,222,{:.2})\">{count}</td>",
                0.65 * count as f64 / total
            );
        }
        html += "</tr>";
    }
    html + "</table></div>"
}

/// Distances between mask tokens and the class tokens they stand for, per class.
fn distances(run: &RunSummary, json: &Value) -> String {
    let Some(all) = json["classes"].as_array() else {
        return String::new();
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
    format!(
        "<p class=\"note\">Mean squared distance of mask tokens from the tokens they stand for.</p><div class=\"chart\">{}</div>",
        chart::bars("mean squared distance per class", &names, &groups)
    )
}
