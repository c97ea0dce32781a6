//! The charts of a reproduced figure, one or two for each dataset.

use super::results::{RowResult, mask_token_distances};
use super::svg::{DotRow, Point, dot_chart, line_chart};
use crate::artefact::Artefact;
use anyhow::Result;
use serde_json::Value;

/// Returns the file name and the SVG of each chart; none for a table, or for a dataset without
/// results.
///
/// # Errors
/// A chart cannot be drawn.
pub fn charts(artefact: Artefact, results: &[RowResult]) -> Result<Vec<(String, String)>> {
    let mut datasets: Vec<&str> = results.iter().map(|r| r.row.dataset.as_str()).collect();
    datasets.dedup();
    let mut charts = Vec::new();
    for dataset in datasets {
        let results: Vec<&RowResult> = results
            .iter()
            .filter(|r| r.row.dataset == dataset && !r.evaluations.is_empty())
            .collect();
        if results.is_empty() {
            continue;
        }
        let file = |part: &str| format!("{}-{dataset}{part}.svg", artefact.name());
        match artefact {
            Artefact::Figure2 => charts.push((file(""), score_by_share(&results)?)),
            Artefact::Figure3 => {
                for (pair, part) in results.chunks(2).zip(["-a", "-b"]) {
                    charts.push((file(part), class_scores(pair)?));
                }
            }
            Artefact::Figure4 => charts.push((file(""), distances(&results[0].evaluations)?)),
            Artefact::Figure5 | Artefact::Figure6 => {
                charts.push((file(""), class_scores(&results)?));
            }
            _ => {}
        }
    }
    Ok(charts)
}

/// The score by the share of the second modality at test time.
fn score_by_share(results: &[&RowResult]) -> Result<String> {
    let point = |r: &&RowResult| Some((100.0 * r.row.share?, r.mean?, r.deviation));
    let points: Vec<Point> = results.iter().filter_map(point).collect();
    let score = format!("{}, %", results[0].row.metric);
    let axes = ["share of the second modality at test time, %", &score];
    line_chart(axes, "U2A, ours", &points)
}

/// The scores per class, with one dot for each row.
fn class_scores(results: &[&RowResult]) -> Result<String> {
    let names: Vec<&str> = results.iter().map(|r| r.row.tested_on.as_str()).collect();
    let classes = results.first().map_or(&[][..], |r| &r.classes);
    let score = |r: &&RowResult, i: usize| Some(100.0 * r.classes.get(i)?.1?);
    let row = |(i, (class, _)): (usize, &(String, Option<f64>))| {
        (class.clone(), results.iter().map(|r| score(r, i)).collect())
    };
    let rows: Vec<DotRow> = classes.iter().enumerate().map(row).collect();
    dot_chart("score per class, %", &names, &rows)
}

/// The distances of mask tokens per class, with one dot for each of the two.
fn distances(evaluations: &[Value]) -> Result<String> {
    let [(first_name, first), (second_name, second)] = mask_token_distances(evaluations);
    let rows: Vec<DotRow> = first
        .into_iter()
        .zip(second)
        .map(|((class, a), (_, b))| (class, vec![a, b]))
        .collect();
    let names = [first_name.as_str(), second_name.as_str()];
    dot_chart("mean squared distance per class", &names, &rows)
}
