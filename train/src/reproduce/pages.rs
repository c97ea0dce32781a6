//! What a reproduction leaves: `NAME.md`, `NAME.csv`, `NAME.json`, and an SVG per figure and dataset.

use super::experiments::{Artefact, Line};
use super::paper::{PaperTable, plain};
use super::{Options, Plan};
use crate::chart::{self, Series};
use crate::settings::Settings;
use crate::text::putln;
use anyhow::{Context, Result};
use datasets::Modality;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// A line with our figures.
#[derive(Serialize)]
pub struct Outcome<'a> {
    #[serde(flatten)]
    line: &'a Line,
    /// One per finished seed, per cent.
    values: Vec<f64>,
    /// Their mean.
    mean: Option<f64>,
    /// Their standard deviation (n - 1); none for fewer than two.
    deviation: Option<f64>,
    /// Per class: name, mean over the seeds, fraction.
    #[serde(skip)]
    classes: Vec<(String, Option<f64>)>,
    #[serde(skip)]
    evaluations: Vec<Value>,
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values).filter(|_| values.len() > 1)?;
    let spread: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    Some((spread / (values.len() - 1) as f64).sqrt())
}

/// The mean over evaluations of one number per class, with the classes' names.
fn per_class(
    evaluations: &[Value],
    of: impl Fn(&Value, usize) -> Option<f64>,
) -> Vec<(String, Option<f64>)> {
    let Some(names) = evaluations.first().and_then(|e| e["classes"].as_array()) else {
        return Vec::new();
    };
    let name = |c: &Value| c["class"].as_str().unwrap_or("?").to_string();
    let value = |i: usize| {
        let all: Vec<f64> = evaluations.iter().filter_map(|e| of(e, i)).collect();
        mean(&all)
    };
    names
        .iter()
        .enumerate()
        .map(|(i, c)| (name(c), value(i)))
        .collect()
}

/// F1 for multi-label data, the class's accuracy otherwise; none for a class without samples.
fn class_score(evaluation: &Value, class: usize) -> Option<f64> {
    let scores = &evaluation["classes"][class]["scores"];
    if scores["support"].as_u64() == Some(0) {
        return None;
    }
    let key = match evaluation["main_metric"].as_str() {
        Some("f1_macro") => "f1",
        _ => "recall",
    };
    scores[key].as_f64()
}

fn outcomes<'a>(plan: &'a Plan) -> Result<Vec<Outcome<'a>>> {
    let mut all = Vec::new();
    for line in &plan.lines {
        let mut evaluations = Vec::new();
        for run in &plan.runs {
            let of_line = run.dataset == line.dataset && run.training == line.training;
            let Some(folder) = run.folder.as_ref().filter(|_| of_line && run.finished) else {
                continue;
            };
            let options = line
                .testing
                .options(run.seed, super::token_of(&line.training));
            let path = folder.join(format!("eval-{}.json", options.name()));
            if let Ok(text) = fs::read_to_string(&path) {
                let json: Value = serde_json::from_str(&text)
                    .with_context(|| format!("{}: is not JSON; remove it", path.display()))?;
                evaluations.push(json);
            }
        }
        let value = |e: &Value| Some(100.0 * e["metrics"][line.metric].as_f64()?);
        let values: Vec<f64> = evaluations.iter().filter_map(value).collect();
        all.push(Outcome {
            line,
            mean: mean(&values),
            deviation: deviation(&values),
            classes: per_class(&evaluations, class_score),
            values,
            evaluations,
        });
    }
    Ok(all)
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v:.2}"))
}

/// Writes all pages and gives their paths, the Markdown first.
pub fn write(options: &Options, plan: &Plan) -> Result<Vec<PathBuf>> {
    let name = options.artefact.name();
    let folder = options.out.join(&name);
    fs::create_dir_all(&folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let mut paths = Vec::new();
    let mut save = |file: String, text: String| -> Result<()> {
        let path = folder.join(file);
        util::atomic::write(&path, text)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        paths.push(path);
        Ok(())
    };
    if options.artefact == Artefact::Table5 {
        let (markdown, csv, json) = hyperparameters()?;
        save(format!("{name}.md"), markdown)?;
        save(format!("{name}.csv"), csv)?;
        save(format!("{name}.json"), json)?;
        return Ok(paths);
    }
    let outcomes = outcomes(plan)?;
    let charts = charts(options.artefact, &outcomes);
    save(
        format!("{name}.md"),
        markdown(options, plan, &outcomes, &charts),
    )?;
    save(format!("{name}.csv"), csv(options, &outcomes))?;
    let rows = class_rows(options.artefact, &outcomes);
    if !rows.is_empty() {
        let mut text = "dataset,class,what,value\n".to_string();
        for (dataset, class, what, value) in &rows {
            let value = value.map_or_else(String::new, |v| v.to_string());
            putln!(text, "{dataset},{},{},{value}", quoted(class), quoted(what));
        }
        save(format!("{name}-classes.csv"), text)?;
    }
    let json = json!({
        "artefact": options.artefact,
        "title": options.artefact.title(),
        "command": options.command(),
        "scale": if options.small { "small" } else { "full" },
        "note": note(options),
        "lines": outcomes,
        "classes": rows,
        "runs": plan.runs,
        "missing": plan.missing,
    });
    save(format!("{name}.json"), format!("{json:#}\n"))?;
    for (file, svg) in charts {
        save(file, chart::standalone(&svg))?;
    }
    Ok(paths)
}

/// What every page of the small scale says.
fn note(options: &Options) -> Option<&'static str> {
    options.small.then_some(
        "SMALL SCALE: synthetic data and small encoders. These figures show that the plan runs; they say nothing about the method on the real data.",
    )
}

fn markdown(
    options: &Options,
    plan: &Plan,
    outcomes: &[Outcome],
    charts: &[(String, String)],
) -> String {
    let mut out = format!("# {}\n\n", options.artefact.title());
    if let Some(note) = note(options) {
        putln!(out, "**{note}**\n");
    }
    putln!(
        out,
        "Made by `{}`. Ours: mean and standard deviation over the seeds, per cent; the paper's own figures beside them.\n",
        options.command()
    );
    for (dataset, why) in &plan.missing {
        putln!(out, "Without {dataset}: {why}.\n");
    }
    out += "| dataset | trained on | tested on | method | metric | ours | sd | seeds | paper | sd | others in the paper |\n|---|---|---|---|---|---:|---:|---:|---:|---:|---|\n";
    for outcome in outcomes {
        let line = outcome.line;
        let method = plain(line.training.method);
        let same = line.paper.iter().find(|f| f.method == method);
        let others: Vec<String> = line
            .paper
            .iter()
            .filter(|f| f.method != method && line.training.method == "U2A")
            .map(|f| format!("{} {:.2}", f.method, f.value))
            .collect();
        putln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            line.dataset,
            line.trained_on,
            line.tested_on,
            line.training.method,
            line.metric,
            number(outcome.mean),
            number(outcome.deviation),
            outcome.values.len(),
            number(same.map(|f| f.value)),
            number(same.and_then(|f| f.deviation)),
            others.join(", ")
        );
    }
    let figure = matches!(
        options.artefact,
        Artefact::Figure2
            | Artefact::Figure3
            | Artefact::Figure4
            | Artefact::Figure5
            | Artefact::Figure6
    );
    if figure {
        out += "\nThe paper prints this one as a picture, without numbers.\n";
    }
    for (file, _) in charts {
        putln!(out, "\n![{}]({file})", options.artefact.title());
    }
    out
}

/// A cell that may hold anything.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// What the per-class figures show: (dataset, class, which bar, value).
fn class_rows<'a>(
    artefact: Artefact,
    outcomes: &'a [Outcome],
) -> Vec<(&'a str, String, String, Option<f64>)> {
    let mut rows = Vec::new();
    for outcome in outcomes.iter().filter(|o| !o.evaluations.is_empty()) {
        let dataset = outcome.line.dataset.as_str();
        match artefact {
            Artefact::Figure3 | Artefact::Figure5 | Artefact::Figure6 => {
                let bar = &outcome.line.tested_on;
                let one = |(class, value): &(String, Option<f64>)| {
                    (dataset, class.clone(), bar.clone(), *value)
                };
                rows.extend(outcome.classes.iter().map(one));
            }
            Artefact::Figure4 => {
                let [first, second] = directions(&outcome.evaluations);
                for (name, values) in [first, second] {
                    let one = |(class, value)| (dataset, class, name.clone(), value);
                    rows.extend(values.into_iter().map(one));
                }
            }
            _ => {}
        }
    }
    rows
}

fn csv(options: &Options, outcomes: &[Outcome]) -> String {
    let mut out = "scale,dataset,trained_on,tested_on,method,metric,share,ours_mean,ours_sd,seeds,paper,paper_sd\n".to_string();
    for outcome in outcomes {
        let line = outcome.line;
        let method = plain(line.training.method);
        let same = line.paper.iter().find(|f| f.method == method);
        let cell = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v}"));
        putln!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{},{}",
            if options.small { "small" } else { "full" },
            line.dataset,
            quoted(&line.trained_on),
            quoted(&line.tested_on),
            quoted(line.training.method),
            line.metric,
            cell(line.share),
            cell(outcome.mean),
            cell(outcome.deviation),
            outcome.values.len(),
            cell(same.map(|f| f.value)),
            cell(same.and_then(|f| f.deviation)),
        );
    }
    out
}

/// (file name, SVG) of every chart; none where there is nothing to show yet.
fn charts(artefact: Artefact, outcomes: &[Outcome]) -> Vec<(String, String)> {
    let mut datasets: Vec<&str> = outcomes.iter().map(|o| o.line.dataset.as_str()).collect();
    datasets.dedup();
    let mut charts = Vec::new();
    for dataset in datasets {
        let of: Vec<&Outcome> = outcomes
            .iter()
            .filter(|o| o.line.dataset == dataset && !o.evaluations.is_empty())
            .collect();
        if of.is_empty() {
            continue;
        }
        let name = |what: &str| format!("{}-{dataset}{what}.svg", artefact.name());
        match artefact {
            Artefact::Figure2 => {
                let curve = Series {
                    name: "U2A, ours".into(),
                    points: of
                        .iter()
                        .filter_map(|o| Some((100.0 * o.line.share?, o.mean?)))
                        .collect(),
                    spread: of.iter().map(|o| o.deviation.unwrap_or(0.0)).collect(),
                };
                let axes = [
                    "share of the second modality at test time, %",
                    of[0].line.metric,
                ];
                charts.push((name(""), chart::lines(axes, &[curve])));
            }
            Artefact::Figure3 => {
                for (pair, part) in of.chunks(2).zip(["-a", "-b"]) {
                    charts.push((name(part), side_by_side("score per class", pair)));
                }
            }
            Artefact::Figure4 => charts.push((name(""), distances(&of[0].evaluations))),
            Artefact::Figure5 | Artefact::Figure6 => {
                charts.push((name(""), side_by_side("score per class", &of)));
            }
            _ => {}
        }
    }
    charts
}

/// Bars per class, one per outcome.
fn side_by_side(what: &str, outcomes: &[&Outcome]) -> String {
    let names: Vec<&str> = outcomes.iter().map(|o| o.line.tested_on.as_str()).collect();
    let classes = outcomes.first().map_or(&[][..], |o| &o.classes);
    let groups: Vec<(String, Vec<Option<f64>>)> = classes
        .iter()
        .enumerate()
        .map(|(i, (class, _))| {
            let value = |o: &&Outcome| o.classes.get(i).and_then(|(_, v)| *v);
            (class.clone(), outcomes.iter().map(value).collect())
        })
        .collect();
    chart::bars(what, &names, &groups)
}

/// A name and one value per class.
type Bars = (String, Vec<(String, Option<f64>)>);

/// Mean squared distances per class, from the first modality's mask token and from the second's.
fn directions(evaluations: &[Value]) -> [Bars; 2] {
    let names: Vec<String> = evaluations[0]["alignment"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_suffix("_class"))
        .map(|key| key.replace("_mask_to_", " to "))
        .collect();
    [0, 1].map(|d| {
        let value = move |e: &Value, class: usize| e["alignment"]["classes"][class][d].as_f64();
        let name = names.get(d).cloned().unwrap_or_default();
        (name, per_class(evaluations, value))
    })
}

/// Bars per class of the distance in both directions.
fn distances(evaluations: &[Value]) -> String {
    let [(forth, first), (back, second)] = directions(evaluations);
    let groups: Vec<(String, Vec<Option<f64>>)> = first
        .into_iter()
        .zip(second)
        .map(|((class, a), (_, b))| (class, vec![a, b]))
        .collect();
    chart::bars("mean squared distance per class", &[&forth, &back], &groups)
}

/// Table 5: the settings that runs start from, beside the paper's.
fn hyperparameters() -> Result<(String, String, String)> {
    let defaults = |name: &str, modalities| -> Result<Value> {
        Ok(serde_json::to_value(Settings::resolve(
            name,
            modalities,
            &[],
        )?)?)
    };
    let image_text = defaults("food-101", [Modality::Image, Modality::Text])?;
    let audio_video = defaults("ave", [Modality::Audio, Modality::Video])?;
    let title = Artefact::Table5.title();
    let mut markdown = format!(
        "# {title}\n\n| setting | image-text | paper | audio-video | paper |\n|---|---:|---:|---:|---:|\n"
    );
    let mut csv = "setting,image_text,image_text_paper,audio_video,audio_video_paper\n".to_string();
    let mut rows = Vec::new();
    for row in PaperTable::open(5)?.rows() {
        let [(_, key), (_, first), (_, second)] = row[..] else {
            continue;
        };
        let (a, b) = (&image_text[key], &audio_video[key]);
        putln!(markdown, "| {key} | {a} | {first} | {b} | {second} |");
        putln!(csv, "{key},{a},{first},{b},{second}");
        rows.push(json!({"setting": key, "image_text": a, "image_text_paper": first, "audio_video": b, "audio_video_paper": second}));
    }
    let json = json!({"artefact": "table5", "title": title, "rows": rows});
    Ok((markdown, csv, format!("{json:#}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations() {
        assert_eq!(mean(&[]), None);
        assert_eq!(deviation(&[3.0]), None);
        // By hand: mean 4, squares 4 + 0 + 4 over 2.
        assert_eq!(
            (mean(&[2.0, 4.0, 6.0]), deviation(&[2.0, 4.0, 6.0])),
            (Some(4.0), Some(2.0))
        );
    }

    #[test]
    fn a_class_scores_by_its_datas_kind() {
        let evaluation = |metric: &str| {
            json!({"main_metric": metric, "classes": [
                {"class": "a", "scores": {"support": 2, "recall": 0.5, "f1": 0.25}},
                {"class": "b", "scores": {"support": 0, "recall": 0.0, "f1": 0.0}},
            ]})
        };
        let single = per_class(&[evaluation("accuracy")], class_score);
        assert_eq!(single, [("a".into(), Some(0.5)), ("b".into(), None)]);
        let multi = per_class(&[evaluation("f1_macro")], class_score);
        assert_eq!(multi[0].1, Some(0.25));
    }
}
