//! The pages of a reproduced table or figure: `NAME.md`, `NAME.csv`, `NAME.json`, and an SVG file
//! for each chart.

mod charts;
mod hyperparameters;
mod results;
mod svg;

pub use hyperparameters::write_hyperparameters;

use crate::artefact::{Artefact, Row};
use crate::paper::{PaperScore, has_other_encoders, method_key};
use anyhow::{Context, Result};
use charts::charts;
use results::{RowResult, mask_token_distances};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};

/// A table or figure to write: its rows, and the evaluations that their scores are read from.
pub struct Reproduction<'a> {
    /// The table or figure.
    pub artefact: Artefact,
    /// The command that reproduces it.
    pub command: String,
    /// Whether the data are synthetic and the encoders small.
    pub small: bool,
    /// The rows.
    pub rows: &'a [Row],
    /// For each row the evaluation files of its finished runs; a file that does not exist is
    /// skipped.
    pub evaluations: Vec<Vec<PathBuf>>,
    /// The runs behind the rows, as the JSON page lists them.
    pub runs: Value,
    /// The datasets without data, each with the reason.
    pub missing: &'a BTreeMap<String, String>,
}

/// Writes pages into a folder and collects their paths.
struct Pages<'a> {
    folder: &'a Path,
    paths: Vec<PathBuf>,
}

impl<'a> Pages<'a> {
    fn create(folder: &'a Path) -> Result<Pages<'a>> {
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be created", folder.display()))?;
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

/// A bar of a chart per class: dataset, class, the name of the bar, and its value.
type ClassRow<'a> = (&'a str, String, String, Option<f64>);

impl Reproduction<'_> {
    /// Writes all pages into `folder` and returns their paths, the Markdown first.
    ///
    /// # Errors
    /// An evaluation is not JSON, or a page cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let name = self.artefact.name();
        let mut pages = Pages::create(folder)?;
        let results = self
            .rows
            .iter()
            .zip(&self.evaluations)
            .map(|(row, files)| RowResult::read(row, files))
            .collect::<Result<Vec<_>>>()?;
        let charts = charts(self.artefact, &results)?;
        let class_rows = class_rows(self.artefact, &results);
        pages.write(format!("{name}.md"), self.markdown(&results, &charts)?)?;
        pages.write(format!("{name}.csv"), self.csv(&results)?)?;
        if !class_rows.is_empty() {
            pages.write(format!("{name}-classes.csv"), class_csv(&class_rows)?)?;
        }
        let json = json!({
            "artefact": self.artefact,
            "title": self.artefact.title(),
            "command": self.command,
            "scale": self.scale(),
            "note": self.note(),
            "encoders": self.encoder_note(),
            "lines": results,
            "classes": class_rows,
            "runs": self.runs,
            "missing": self.missing,
        });
        pages.write(format!("{name}.json"), format!("{json:#}\n"))?;
        for (file, svg) in charts {
            pages.write(file, svg)?;
        }
        Ok(pages.paths)
    }

    fn scale(&self) -> &'static str {
        if self.small { "small" } else { "full" }
    }

    /// The warning on each page of the small scale.
    fn note(&self) -> Option<&'static str> {
        self.small.then_some(
            "SMALL SCALE: synthetic data and small encoders. These figures show that the plan \
             runs; they say nothing about the method on the real data.",
        )
    }

    /// Names the methods whose scores in the paper are those of other encoders, if there is one.
    fn encoder_note(&self) -> Option<String> {
        let mut methods: Vec<&str> = Vec::new();
        for row in self.rows {
            let method = row.training.method;
            if has_other_encoders(method) && !methods.contains(&method) {
                methods.push(method);
            }
        }
        (!methods.is_empty()).then(|| {
            format!(
                "Ours are all trained on U2A's encoders. The paper's figures of {} come from \
                 their publications, on other encoders, so that the two do not compare like with \
                 like; docs/method.md says what else differs.",
                methods.join(", ")
            )
        })
    }

    fn markdown(
        &self,
        results: &[RowResult],
        charts: &[(String, String)],
    ) -> Result<String, fmt::Error> {
        let title = self.artefact.title();
        let mut out = format!("# {title}\n\n");
        if let Some(note) = self.note() {
            writeln!(out, "**{note}**\n")?;
        }
        writeln!(
            out,
            "Made by `{}`. Ours: mean and standard deviation over the seeds, per cent; \
             the paper's own figures beside them.\n",
            self.command
        )?;
        if let Some(note) = self.encoder_note() {
            writeln!(out, "{note}\n")?;
        }
        for (dataset, reason) in self.missing {
            writeln!(out, "Without {dataset}: {reason}.\n")?;
        }
        out += "| dataset | trained on | tested on | method | metric | ours | sd | seeds \
                | paper | sd | others in the paper |\n\
                |---|---|---|---|---|---:|---:|---:|---:|---:|---|\n";
        for result in results {
            writeln!(out, "{}", markdown_row(result))?;
        }
        if self.artefact.is_figure() {
            out += "\nThe paper prints this one as a figure, without numbers.\n";
        }
        for (file, _) in charts {
            writeln!(out, "\n![{title}]({file})")?;
        }
        Ok(out)
    }

    fn csv(&self, results: &[RowResult]) -> Result<String, fmt::Error> {
        let mut out = "scale,dataset,trained_on,tested_on,method,metric,share,\
                       ours_mean,ours_sd,seeds,paper,paper_sd\n"
            .to_string();
        let cell = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
        for result in results {
            let row = result.row;
            let paper = reported_score(row);
            writeln!(
                out,
                "{},{},{},{},{},{},{},{},{},{},{},{}",
                self.scale(),
                row.dataset,
                quoted(&row.trained_on),
                quoted(&row.tested_on),
                quoted(row.training.method),
                row.metric,
                cell(row.share),
                cell(result.mean),
                cell(result.deviation),
                result.values.len(),
                cell(paper.map(|score| score.value)),
                cell(paper.and_then(|score| score.deviation)),
            )?;
        }
        Ok(out)
    }
}

/// Returns the score that the paper reports for the method of a row.
fn reported_score(row: &Row) -> Option<&PaperScore> {
    let method = method_key(row.training.method);
    row.paper.iter().find(|score| score.method == method)
}

fn markdown_row(result: &RowResult) -> String {
    let row = result.row;
    let paper = reported_score(row);
    let method = method_key(row.training.method);
    let others: Vec<String> = row
        .paper
        .iter()
        .filter(|score| score.method != method && row.training.method == "U2A")
        .map(|score| format!("{} {:.2}", score.method, score.value))
        .collect();
    let number = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.2}"));
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        row.dataset,
        row.trained_on,
        row.tested_on,
        row.training.method,
        row.metric,
        number(result.mean),
        number(result.deviation),
        result.values.len(),
        number(paper.map(|score| score.value)),
        number(paper.and_then(|score| score.deviation)),
        others.join(", ")
    )
}

/// Quotes a CSV field.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Returns the bars of the charts per class.
fn class_rows<'a>(artefact: Artefact, results: &'a [RowResult]) -> Vec<ClassRow<'a>> {
    let mut rows = Vec::new();
    for result in results.iter().filter(|r| !r.evaluations.is_empty()) {
        let dataset = result.row.dataset.as_str();
        let bars = match artefact {
            Artefact::Figure3 | Artefact::Figure5 | Artefact::Figure6 => {
                vec![(result.row.tested_on.clone(), result.classes.clone())]
            }
            Artefact::Figure4 => mask_token_distances(&result.evaluations).into(),
            _ => Vec::new(),
        };
        for (bar, classes) in bars {
            let row = |(class, value)| (dataset, class, bar.clone(), value);
            rows.extend(classes.into_iter().map(row));
        }
    }
    rows
}

fn class_csv(rows: &[ClassRow]) -> Result<String, fmt::Error> {
    let mut text = "dataset,class,what,value\n".to_string();
    for (dataset, class, bar, value) in rows {
        let value = value.map_or_else(String::new, |v| v.to_string());
        writeln!(text, "{dataset},{},{},{value}", quoted(class), quoted(bar))?;
    }
    Ok(text)
}
