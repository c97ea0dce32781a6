//! What a reproduction leaves: `NAME.md`, `NAME.csv`, `NAME.json`, and an SVG per figure and dataset.

use crate::artefact::{Artefact, Line};
use crate::chart::{self, Series};
use crate::paper::{PaperTable, plain};
use anyhow::{Context, Result};
use maud::Markup;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};

/// A reproduced table or figure of the paper: its lines, and where their evaluations lie.
pub struct Reproduction<'a> {
    /// The table or figure.
    pub artefact: Artefact,
    /// The command that makes the same again.
    pub command: String,
    /// Whether the data are synthetic and the encoders small.
    pub small: bool,
    /// The lines.
    pub lines: &'a [Line],
    /// For each line the evaluation files of its finished runs; a file that does not exist is
    /// skipped.
    pub evaluations: Vec<Vec<PathBuf>>,
    /// The runs behind the lines, as the JSON page lists them.
    pub runs: Value,
    /// Datasets that are not there, and why.
    pub missing: &'a BTreeMap<String, String>,
}

/// A line with our figures.
#[derive(Serialize)]
struct Outcome<'a> {
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

fn outcomes<'a>(reproduction: &Reproduction<'a>) -> Result<Vec<Outcome<'a>>> {
    let mut all = Vec::new();
    for (line, files) in reproduction.lines.iter().zip(&reproduction.evaluations) {
        let mut evaluations = Vec::new();
        for path in files {
            if let Ok(text) = fs::read_to_string(path) {
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

/// Writes pages into a folder and collects their paths.
struct Pages<'a> {
    folder: &'a Path,
    paths: Vec<PathBuf>,
}

impl<'a> Pages<'a> {
    fn create(folder: &'a Path) -> Result<Pages<'a>> {
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        let paths = Vec::new();
        Ok(Pages { folder, paths })
    }

    fn write(&mut self, file: String, text: String) -> Result<()> {
        let path = self.folder.join(file);
        util::atomic::write(&path, text)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        self.paths.push(path);
        Ok(())
    }
}

impl Reproduction<'_> {
    /// Writes all pages into `folder` and returns their paths, the Markdown first.
    ///
    /// # Errors
    /// An evaluation is not JSON, or a page cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let name = self.artefact.name();
        let mut pages = Pages::create(folder)?;
        let outcomes = outcomes(self)?;
        let charts = charts(self.artefact, &outcomes);
        pages.write(format!("{name}.md"), markdown(self, &outcomes, &charts)?)?;
        pages.write(format!("{name}.csv"), csv(self, &outcomes)?)?;
        let rows = class_rows(self.artefact, &outcomes);
        if !rows.is_empty() {
            let mut text = "dataset,class,what,value\n".to_string();
            for (dataset, class, what, value) in &rows {
                let value = value.map_or_else(String::new, |v| v.to_string());
                writeln!(text, "{dataset},{},{},{value}", quoted(class), quoted(what))?;
            }
            pages.write(format!("{name}-classes.csv"), text)?;
        }
        let json = json!({
            "artefact": self.artefact,
            "title": self.artefact.title(),
            "command": self.command,
            "scale": if self.small { "small" } else { "full" },
            "note": note(self),
            "lines": outcomes,
            "classes": rows,
            "runs": self.runs,
            "missing": self.missing,
        });
        pages.write(format!("{name}.json"), format!("{json:#}\n"))?;
        for (file, svg) in charts {
            pages.write(file, chart::standalone(&svg))?;
        }
        Ok(pages.paths)
    }
}

/// What every page of the small scale says.
fn note(options: &Reproduction) -> Option<&'static str> {
    options.small.then_some(
        "SMALL SCALE: synthetic data and small encoders. These figures show that the plan runs; they say nothing about the method on the real data.",
    )
}

fn markdown(
    options: &Reproduction,
    outcomes: &[Outcome],
    charts: &[(String, Markup)],
) -> Result<String, fmt::Error> {
    let mut out = format!("# {}\n\n", options.artefact.title());
    if let Some(note) = note(options) {
        writeln!(out, "**{note}**\n")?;
    }
    writeln!(
        out,
        "Made by `{}`. Ours: mean and standard deviation over the seeds, per cent; the paper's own figures beside them.\n",
        options.command
    )?;
    for (dataset, why) in options.missing {
        writeln!(out, "Without {dataset}: {why}.\n")?;
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
        writeln!(
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
        )?;
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
        out += "\nThe paper prints this one as a figure, without numbers.\n";
    }
    for (file, _) in charts {
        writeln!(out, "\n![{}]({file})", options.artefact.title())?;
    }
    Ok(out)
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

fn csv(options: &Reproduction, outcomes: &[Outcome]) -> Result<String, fmt::Error> {
    let mut out = "scale,dataset,trained_on,tested_on,method,metric,share,ours_mean,ours_sd,seeds,paper,paper_sd\n".to_string();
    for outcome in outcomes {
        let line = outcome.line;
        let method = plain(line.training.method);
        let same = line.paper.iter().find(|f| f.method == method);
        let cell = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v}"));
        writeln!(
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
        )?;
    }
    Ok(out)
}

/// (file name, SVG) of every chart; none where there is nothing to show yet.
fn charts(artefact: Artefact, outcomes: &[Outcome]) -> Vec<(String, Markup)> {
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
fn side_by_side(what: &str, outcomes: &[&Outcome]) -> Markup {
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
fn distances(evaluations: &[Value]) -> Markup {
    let [(forth, first), (back, second)] = directions(evaluations);
    let groups: Vec<(String, Vec<Option<f64>>)> = first
        .into_iter()
        .zip(second)
        .map(|((class, a), (_, b))| (class, vec![a, b]))
        .collect();
    chart::bars("mean squared distance per class", &[&forth, &back], &groups)
}

/// Writes the pages of Table 5, the settings that runs start from beside the paper's, and returns
/// their paths. `image_text` and `audio_video` are the default settings of a dataset of each kind.
///
/// # Errors
/// A page cannot be written.
pub fn write_hyperparameters(
    folder: &Path,
    image_text: &Value,
    audio_video: &Value,
) -> Result<Vec<PathBuf>> {
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
        writeln!(markdown, "| {key} | {a} | {first} | {b} | {second} |")?;
        writeln!(csv, "{key},{a},{first},{b},{second}")?;
        rows.push(json!({"setting": key, "image_text": a, "image_text_paper": first, "audio_video": b, "audio_video_paper": second}));
    }
    let json = json!({"artefact": "table5", "title": title, "rows": rows});
    let mut pages = Pages::create(folder)?;
    pages.write("table5.md".to_string(), markdown)?;
    pages.write("table5.csv".to_string(), csv)?;
    pages.write("table5.json".to_string(), format!("{json:#}\n"))?;
    Ok(pages.paths)
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
