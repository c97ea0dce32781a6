//! The charts of a reproduced figure, one or two for each dataset.

use super::results::{RowResult, mask_token_distances};
use crate::artefact::Artefact;
use crate::chart::{BarGroup, Series, bar_chart, line_chart};
use maud::Markup;
use serde_json::Value;

/// Returns the file name and the SVG of each chart; none for a table, or for a dataset without
/// results.
pub fn charts(artefact: Artefact, results: &[RowResult]) -> Vec<(String, Markup)> {
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
            Artefact::Figure2 => charts.push((file(""), score_by_share(&results))),
            Artefact::Figure3 => {
                for (pair, part) in results.chunks(2).zip(["-a", "-b"]) {
                    charts.push((file(part), class_scores(pair)));
                }
            }
            Artefact::Figure4 => charts.push((file(""), distances(&results[0].evaluations))),
            Artefact::Figure5 | Artefact::Figure6 => {
                charts.push((file(""), class_scores(&results)));
            }
            _ => {}
        }
    }
    charts
}

/// The score by the share of the second modality at test time.
fn score_by_share(results: &[&RowResult]) -> Markup {
    let point = |r: &&RowResult| Some((100.0 * r.row.share?, r.mean?));
    let series = Series {
        name: "U2A, ours".into(),
        points: results.iter().filter_map(point).collect(),
        deviations: results.iter().map(|r| r.deviation.unwrap_or(0.0)).collect(),
    };
    let axes = [
        "share of the second modality at test time, %",
        results[0].row.metric,
    ];
    line_chart(axes, &[series])
}

/// The scores per class, with one bar for each row.
fn class_scores(results: &[&RowResult]) -> Markup {
    let names: Vec<&str> = results.iter().map(|r| r.row.tested_on.as_str()).collect();
    let classes = results.first().map_or(&[][..], |r| &r.classes);
    let groups: Vec<BarGroup> = classes
        .iter()
        .enumerate()
        .map(|(i, (class, _))| {
            let score = |r: &&RowResult| r.classes.get(i).and_then(|(_, v)| *v);
            (class.clone(), results.iter().map(score).collect())
        })
        .collect();
    bar_chart("score per class", &names, &groups)
}

/// The distances of mask tokens per class, with one bar for each of the two.
fn distances(evaluations: &[Value]) -> Markup {
    let [(first_name, first), (second_name, second)] = mask_token_distances(evaluations);
    let groups: Vec<BarGroup> = first
        .into_iter()
        .zip(second)
        .map(|((class, a), (_, b))| (class, vec![a, b]))
        .collect();
    let names = [first_name.as_str(), second_name.as_str()];
    bar_chart("mean squared distance per class", &names, &groups)
}
