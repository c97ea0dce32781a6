//! Confusion matrices of single-label data: a heat map for each availability, and the classes that
//! are taken for each other most often.

use super::chapter::{Availability, Chapter, Experiment};
use super::number::percent;
use crate::run_folder::RunSummary;
use maud::{Markup, html};
use page::Figure;
use serde::Serialize;

/// The largest number of classes whose matrices fit side by side.
const FEW_CLASSES: usize = 12;
/// The number of confusions that the table names.
const MOST_FREQUENT: usize = 8;

/// A confusion matrix.
#[derive(Serialize)]
struct Matrix<'a> {
    /// The names of the classes.
    classes: &'a [String],
    /// A row for each true class, with the number of samples of each predicted class.
    counts: Vec<Vec<u64>>,
}

/// The heat maps of an experiment, and a table of the most frequent confusions.
pub fn figures(chapter: &Chapter, experiment: &Experiment) -> Markup {
    let runs = &experiment.group.runs;
    let evaluated = experiment.group.evaluated();
    let matrices: Vec<(Availability, Matrix)> = chapter
        .availabilities()
        .into_iter()
        .filter_map(|availability| {
            let counts = summed_counts(runs, &availability)?;
            let classes = chapter.classes;
            Some((availability, Matrix { classes, counts }))
        })
        .collect();
    let Some((complete, first)) = matrices.first() else {
        return html! {};
    };
    // Of its tabs one is chosen, which must not depend on those of other experiments.
    let tabs = format!("confusion {} {}", chapter.dataset, experiment.series);
    html! {
        h3 { "Confusion" }
        p.note {
            "Each row is a true class, each column a predicted one; the colour is the share of "
            "the row"
            @if evaluated > 1 { ", over the samples of " (evaluated) " runs" }
            "."
        }
        @if chapter.classes.len() <= FEW_CLASSES {
            div.thirds {
                @for (availability, matrix) in &matrices {
                    div { h4 { (availability.name) } (heat_map(availability, matrix)) }
                }
            }
        } @else {
            div.tabs {
                @for (i, (availability, matrix)) in matrices.iter().enumerate() {
                    label {
                        input type="radio" name=(tabs) checked[i == 0];
                        (availability.name)
                    }
                    div { (heat_map(availability, matrix)) }
                }
            }
        }
        details {
            summary { "Most frequent confusions, " (complete.name) }
            (frequent_table(first))
        }
    }
}

/// Sums the matrices of an evaluation over the runs that have it.
fn summed_counts(runs: &[&RunSummary], availability: &Availability) -> Option<Vec<Vec<u64>>> {
    let mut sum: Option<Vec<Vec<u64>>> = None;
    for run in runs {
        let token = &run.config.settings.missing_token;
        let Some(json) = run.test_evaluation(availability.missing, token) else {
            continue;
        };
        let counts: Option<Vec<Vec<u64>>> = serde_json::from_value(json["confusion"].clone()).ok();
        let Some(counts) = counts else { continue };
        match &mut sum {
            None => sum = Some(counts),
            Some(sum) => {
                let cells = sum.iter_mut().flatten().zip(counts.iter().flatten());
                cells.for_each(|(total, count)| *total += count);
            }
        }
    }
    sum
}

fn heat_map(availability: &Availability, matrix: &Matrix) -> Markup {
    let label = format!("Heat map of the confusion matrix, {}", availability.name);
    Figure {
        kind: "confusion",
        label: &label,
        data: matrix,
    }
    .markup()
}

/// A table of the cells off the diagonal with the largest shares of their rows.
fn frequent_table(matrix: &Matrix) -> Markup {
    html! {
        table {
            tr { th { "true" } th { "predicted" } th.number { "samples" } th.number { "share, %" } }
            @for (truth, predicted, count, share) in most_frequent(&matrix.counts) {
                tr {
                    td { (matrix.classes[truth]) }
                    td { (matrix.classes[predicted]) }
                    td.number { (count) }
                    td.number { (percent(share)) }
                }
            }
        }
    }
}

/// Returns true class, predicted class, count and share of the row, the largest shares first.
fn most_frequent(counts: &[Vec<u64>]) -> Vec<(usize, usize, u64, f64)> {
    let mut cells = Vec::new();
    for (truth, row) in counts.iter().enumerate() {
        let total: u64 = row.iter().sum();
        for (predicted, count) in row.iter().enumerate() {
            if truth != predicted && *count > 0 {
                cells.push((truth, predicted, *count, *count as f64 / total as f64));
            }
        }
    }
    cells.sort_by(|a, b| b.3.total_cmp(&a.3).then(b.2.cmp(&a.2)));
    cells.truncate(MOST_FREQUENT);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusions_are_ordered_by_their_share_of_the_true_class() {
        // 2 of 4, 10 of 100, and the diagonal, which is no confusion.
        let counts = vec![vec![2, 2, 0], vec![10, 90, 0], vec![0, 0, 5]];
        let found = most_frequent(&counts);
        assert_eq!(found, [(0, 1, 2, 0.5), (1, 0, 10, 0.1)]);
    }
}
