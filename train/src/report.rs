//! Runs as a page and as a table: learning curves, scores with each modality gone, per-class
//! scores, confusion. The page is one file that loads nothing.

use crate::evaluate::main_metric;
use crate::log::METRICS_FILE;
use crate::settings::RunConfig;
use crate::text::{put, putln};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a report knows of one run.
pub struct RunSummary {
    /// The run folder.
    pub run: PathBuf,
    /// Its configuration.
    pub config: RunConfig,
    /// (step, loss).
    pub losses: Vec<(u64, f64)>,
    /// Evaluations by name.
    pub evaluations: BTreeMap<String, Value>,
}

/// One line of the table: an evaluation over the runs that have it.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Name of the evaluation.
    pub evaluation: String,
    /// What the model saw, in words.
    pub seen: String,
    /// Which metric.
    pub metric: String,
    /// One value per run.
    pub values: Vec<Option<f64>>,
    /// Mean over the runs.
    pub mean: f64,
    /// Standard deviation over the runs (n - 1); 0 for one run.
    pub deviation: f64,
    /// Accuracy of guessing, for single-label data.
    pub chance: Option<f64>,
}

impl RunSummary {
    /// Reads `config.toml`, `metrics.jsonl` and every `eval-*.json` of a run.
    pub fn read(run: &Path) -> Result<RunSummary> {
        let config = RunConfig::read(run)?;
        let path = run.join(METRICS_FILE);
        let text = if path.exists() {
            fs::read_to_string(&path).with_context(|| path.display().to_string())?
        } else {
            String::new()
        };
        let losses = text
            .lines()
            .filter_map(|line| {
                let json: Value = serde_json::from_str(line).ok()?;
                Some((json["step"].as_u64()?, json["loss"].as_f64()?))
            })
            .collect();
        let mut evaluations = BTreeMap::new();
        for entry in fs::read_dir(run).with_context(|| run.display().to_string())? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file
                .strip_prefix("eval-")
                .and_then(|n| n.strip_suffix(".json"))
            else {
                continue;
            };
            let text = fs::read_to_string(entry.path())
                .with_context(|| entry.path().display().to_string())?;
            let json = serde_json::from_str(&text).with_context(|| {
                format!(
                    "{}: is not JSON; make it again with `train eval`",
                    entry.path().display()
                )
            })?;
            evaluations.insert(name.to_string(), json);
        }
        Ok(RunSummary {
            run: run.to_path_buf(),
            config,
            losses,
            evaluations,
        })
    }
}

/// The table over all runs, one line per kind of evaluation.
pub fn table(runs: &[RunSummary]) -> Vec<Line> {
    let mut names: Vec<&String> = runs.iter().flat_map(|r| r.evaluations.keys()).collect();
    names.sort();
    names.dedup();
    let mut lines: Vec<Line> = names
        .into_iter()
        .filter_map(|name| {
            let first = runs
                .iter()
                .find_map(|r| Some((r, r.evaluations.get(name)?)))?;
            let metric = main_metric(first.0.config.multi_label);
            let values: Vec<Option<f64>> = runs
                .iter()
                .map(|r| r.evaluations.get(name)?["metrics"][metric].as_f64())
                .collect();
            let known: Vec<f64> = values.iter().flatten().copied().collect();
            let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
            let spread = known.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            let deviation = if known.len() > 1 {
                (spread / (known.len() - 1) as f64).sqrt()
            } else {
                0.0
            };
            Some(Line {
                evaluation: name.clone(),
                seen: in_words(&first.0.config, first.1),
                metric: metric.to_string(),
                values,
                mean,
                deviation,
                chance: first.1["chance"].as_f64(),
            })
        })
        .collect();
    // Everything there first, then by what is gone; mask tokens before zeros.
    lines.sort_by_key(|l| {
        (
            l.evaluation.contains("-zeros"),
            l.evaluation.len(),
            l.evaluation.clone(),
        )
    });
    lines.sort_by_key(|l| l.seen.split(',').next() != Some("both"));
    lines
}

fn in_words(config: &RunConfig, json: &Value) -> String {
    let mut seen = match json["missing"].as_str() {
        None => "both".to_string(),
        Some(gone) => {
            config
                .modalities
                .iter()
                .map(|m| m.as_str())
                .filter(|m| *m != gone)
                .collect::<Vec<_>>()
                .join("")
                + " only"
        }
    };
    if let Some(protocol) = json["protocol"].as_str() {
        put!(seen, ", {protocol} at {}", json["rate"]);
    }
    if json["missing"].is_string() || json["protocol"].is_string() {
        let zeros = json["missing_token"] == "zeros";
        seen += if zeros {
            ", zeros for the missing token"
        } else {
            ", mask token"
        };
    }
    if json["split"] != "test" {
        put!(seen, ", {} split", json["split"].as_str().unwrap_or("?"));
    }
    seen
}

/// The table for a terminal.
pub fn text_table(runs: &[RunSummary]) -> String {
    let lines = table(runs);
    let Some(first) = lines.first() else {
        return "no evaluations yet; run `train eval` first".to_string();
    };
    let width = lines
        .iter()
        .map(|l| l.seen.len())
        .max()
        .unwrap_or(0)
        .max(12);
    let mut out = format!(
        "{:<width$}  {:>7}  {:>7}  per run\n",
        format!("{} on", first.metric),
        "mean",
        "sd"
    );
    for line in &lines {
        let each: Vec<String> = line
            .values
            .iter()
            .map(|v| v.map_or("-".into(), |v| format!("{v:.3}")))
            .collect();
        putln!(
            out,
            "{:<width$}  {:>7.3}  {:>7.3}  {}",
            line.seen,
            line.mean,
            line.deviation,
            each.join(" ")
        );
    }
    if let Some(chance) = first.chance {
        put!(out, "{:<width$}  {chance:>7.3}", "chance");
    }
    out.trim_end().to_string()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --accent: #2f6fde; --soft: #2f6fde22; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; } .scroll { overflow-x: auto; }
svg { width: 100%; height: auto; } pre { overflow-x: auto; background: var(--soft); padding: .8rem; border-radius: .4rem; }
.bar { background: var(--accent); height: .7rem; border-radius: .2rem; min-width: 1px; } .note { opacity: .7; }
";

/// Colours of the curves, in order of the runs.
const COLOURS: [&str; 6] = [
    "#2f6fde", "#d9622b", "#2a9d5c", "#a24bcf", "#c2a000", "#d0417e",
];

/// Writes the page.
pub fn write(path: &Path, runs: &[RunSummary]) -> Result<()> {
    let temporary = path.with_extension("html.tmp");
    fs::write(&temporary, page(runs))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

fn page(runs: &[RunSummary]) -> String {
    let mut html = String::new();
    let title = runs.first().map_or("U2A".to_string(), |r| {
        format!("U2A on {}", r.config.dataset)
    });
    put!(
        html,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{0}</title><style>{STYLE}</style></head><body><h1>{0}</h1>",
        escape(&title)
    );
    html += "<h2>Scores</h2><div class=\"scroll\"><table><tr><th>the model saw</th><th>metric</th><th>mean</th><th>sd</th>";
    for run in runs {
        put!(html, "<th>{}</th>", escape(&run_name(run)));
    }
    html += "</tr>";
    let lines = table(runs);
    for line in &lines {
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
    html += "<h2>Training loss</h2>";
    html += &curves(runs);
    for run in runs {
        if let Some(json) = run.evaluations.get("test") {
            put!(html, "<h2>Classes, {}</h2>", escape(&run_name(run)));
            html += &classes(json);
            html += &confusion(&run.config.classes, &json["confusion"]);
        }
    }
    for run in runs {
        let text = run.config.to_toml().unwrap_or_default();
        put!(
            html,
            "<details><summary>Settings of {}</summary><pre>{}</pre></details>",
            escape(&run_name(run)),
            escape(&text)
        );
    }
    html + "</body></html>\n"
}

fn run_name(run: &RunSummary) -> String {
    run.run.file_name().map_or_else(
        || run.run.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    )
}

/// Points of a curve: more only thicken the line.
const POINTS: usize = 400;

fn curves(runs: &[RunSummary]) -> String {
    const W: f64 = 800.0;
    const H: f64 = 260.0;
    const PAD: f64 = 40.0;
    let all = || runs.iter().flat_map(|r| &r.losses);
    let last = all().map(|p| p.0).max().unwrap_or(1).max(1) as f64;
    let top = all().map(|p| p.1).fold(0.0, f64::max).max(1e-9);
    let mut svg =
        format!("<svg viewBox=\"0 0 {W} {H}\" role=\"img\" aria-label=\"training loss by step\">");
    for i in 0..=4 {
        let y = PAD / 2.0 + (H - 1.5 * PAD) * f64::from(i) / 4.0;
        let value = top * f64::from(4 - i) / 4.0;
        put!(
            svg,
            "<line x1=\"{PAD}\" x2=\"{W}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#8884\"/><text x=\"{}\" y=\"{}\" font-size=\"11\" text-anchor=\"end\" fill=\"currentColor\">{value:.2}</text>",
            PAD - 4.0,
            y + 4.0
        );
    }
    put!(
        svg,
        "<text x=\"{W}\" y=\"{}\" font-size=\"11\" text-anchor=\"end\" fill=\"currentColor\">step {last}</text>",
        H - 6.0
    );
    for (i, run) in runs.iter().enumerate() {
        let each = run.losses.len().div_ceil(POINTS).max(1);
        let points: Vec<String> = run
            .losses
            .chunks(each)
            .map(|c| {
                let mean = c.iter().map(|p| p.1).sum::<f64>() / c.len() as f64;
                let x = PAD + (W - PAD) * c[c.len() - 1].0 as f64 / last;
                format!(
                    "{x:.1},{:.1}",
                    PAD / 2.0 + (H - 1.5 * PAD) * (1.0 - mean / top)
                )
            })
            .collect();
        let colour = COLOURS[i % COLOURS.len()];
        put!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/><text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"{colour}\">{}</text>",
            points.join(" "),
            PAD + 8.0,
            PAD / 2.0 + 12.0 + 14.0 * i as f64,
            escape(&run_name(run))
        );
    }
    svg + "</svg>"
}

fn classes(json: &Value) -> String {
    let mut html = "<div class=\"scroll\"><table><tr><th>class</th><th>samples</th><th>precision</th><th>recall</th><th>F1</th><th></th></tr>".to_string();
    for class in json["classes"].as_array().map_or(&[][..], Vec::as_slice) {
        let score = |key: &str| class["scores"][key].as_f64().unwrap_or(0.0);
        put!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td><td style=\"width:8rem\"><div class=\"bar\" style=\"width:{:.0}%\"></div></td></tr>",
            escape(class["class"].as_str().unwrap_or("?")),
            class["scores"]["support"],
            score("precision"),
            score("recall"),
            score("f1"),
            100.0 * score("f1")
        );
    }
    html + "</table></div>"
}

fn confusion(names: &[String], matrix: &Value) -> String {
    let Some(rows) = matrix.as_array() else {
        return String::new();
    };
    let mut html = "<p class=\"note\">Confusion: a row per true class, a column per predicted class.</p><div class=\"scroll\"><table>".to_string();
    for (name, row) in names.iter().zip(rows) {
        let counts: Vec<u64> = row
            .as_array()
            .map_or_else(Vec::new, |r| r.iter().filter_map(Value::as_u64).collect());
        let total = counts.iter().sum::<u64>().max(1) as f64;
        put!(html, "<tr><td>{}</td>", escape(name));
        for count in counts {
            put!(
                html,
                "<td style=\"background:rgba(47,111,222,{:.2})\">{count}</td>",
                0.8 * count as f64 / total
            );
        }
        html += "</tr>";
    }
    html + "</table></div>"
}
