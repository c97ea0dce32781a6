//! Metrics of predictions, by the definitions of scikit-learn. A ratio with a denominator of zero
//! is 0.

use report::predictions::{above_threshold, argmax};
use serde::Serialize;
use std::collections::BTreeMap;

/// Counts and metrics of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClassScore {
    /// Samples that have the class.
    pub support: usize,
    /// Samples that are predicted to have the class.
    pub predicted: usize,
    /// Samples that have the class and are predicted to have it.
    pub correct: usize,
    /// `correct / predicted`.
    pub precision: f64,
    /// `correct / support`. For single-label data this is the accuracy of the class.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
    /// The area under the precision-recall curve; `None` for single-label data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
}

/// The metrics of a set of predictions.
#[derive(Clone, Debug, Serialize)]
pub struct Metrics {
    /// The number of samples.
    pub samples: usize,
    /// The values by name: `accuracy`, `balanced_accuracy`, `f1_macro`, `f1_micro`, `f1_weighted`,
    /// and for multi-label data `f1_samples`, `average_precision_macro` and `accuracy` as exact
    /// match.
    pub values: BTreeMap<&'static str, f64>,
    /// The metrics of each class, in canonical order.
    pub classes: Vec<ClassScore>,
    /// The confusion matrix, a row for each true class and a column for each predicted one; `None`
    /// for multi-label data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Vec<Vec<usize>>>,
}

fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// The mean, or 0 without a value.
fn mean(x: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = x.fold((0.0, 0usize), |(sum, n), v| (sum + v, n + 1));
    ratio(sum, n as f64)
}

/// The metrics of classes with these counts: support, predicted, correct.
fn class_scores(counts: Vec<(usize, usize, usize)>) -> Vec<ClassScore> {
    counts
        .into_iter()
        .map(|(support, predicted, correct)| ClassScore {
            support,
            predicted,
            correct,
            precision: ratio(correct as f64, predicted as f64),
            recall: ratio(correct as f64, support as f64),
            f1: ratio(2.0 * correct as f64, (support + predicted) as f64),
            average_precision: None,
        })
        .collect()
}

/// The F1 averages of both kinds of data. `counted` says which classes count in the macro average:
/// scikit-learn leaves out single-label classes that are neither true nor predicted.
fn f1_averages(
    classes: &[ClassScore],
    counted: impl Fn(&ClassScore) -> bool,
) -> BTreeMap<&'static str, f64> {
    let total = |f: fn(&ClassScore) -> usize| classes.iter().map(f).sum::<usize>() as f64;
    let (support, predicted, correct) = (
        total(|c| c.support),
        total(|c| c.predicted),
        total(|c| c.correct),
    );
    BTreeMap::from([
        (
            "f1_macro",
            mean(classes.iter().filter(|c| counted(c)).map(|c| c.f1)),
        ),
        ("f1_micro", ratio(2.0 * correct, support + predicted)),
        (
            "f1_weighted",
            ratio(
                classes.iter().map(|c| c.f1 * c.support as f64).sum(),
                support,
            ),
        ),
    ])
}

/// Computes the metrics of single-label predictions. `logits` has one number per class for each
/// sample.
pub fn single_label(logits: &[Vec<f32>], labels: &[u32], classes: usize) -> Metrics {
    let mut confusion = vec![vec![0usize; classes]; classes];
    for (logits, label) in logits.iter().zip(labels) {
        confusion[*label as usize][argmax(logits)] += 1;
    }
    let counts = (0..classes)
        .map(|c| {
            (
                confusion[c].iter().sum(),
                confusion.iter().map(|row| row[c]).sum(),
                confusion[c][c],
            )
        })
        .collect();
    let scores = class_scores(counts);
    let mut values = f1_averages(&scores, |c| c.support + c.predicted > 0);
    let correct: usize = scores.iter().map(|c| c.correct).sum();
    values.insert("accuracy", ratio(correct as f64, labels.len() as f64));
    values.insert(
        "balanced_accuracy",
        mean(scores.iter().filter(|c| c.support > 0).map(|c| c.recall)),
    );
    Metrics {
        samples: labels.len(),
        values,
        classes: scores,
        confusion: Some(confusion),
    }
}

/// Computes the metrics of multi-label predictions. `logits` has one number per class for each
/// sample.
pub fn multi_label(logits: &[Vec<f32>], labels: &[Vec<u32>], classes: usize) -> Metrics {
    let mut counts = vec![(0, 0, 0); classes];
    let (mut exact, mut sample_f1) = (0usize, 0.0);
    for (logits, labels) in logits.iter().zip(labels) {
        let predicted = above_threshold(logits);
        let mut correct = 0;
        for c in 0..classes as u32 {
            let (is_true, is_predicted) = (labels.contains(&c), predicted.contains(&c));
            let count = &mut counts[c as usize];
            count.0 += usize::from(is_true);
            count.1 += usize::from(is_predicted);
            count.2 += usize::from(is_true && is_predicted);
            correct += usize::from(is_true && is_predicted);
        }
        exact += usize::from(correct == labels.len() && correct == predicted.len());
        sample_f1 += ratio(
            2.0 * correct as f64,
            (labels.len() + predicted.len()) as f64,
        );
    }
    let mut scores = class_scores(counts);
    for (c, score) in scores.iter_mut().enumerate() {
        let column: Vec<(f32, bool)> = logits
            .iter()
            .zip(labels)
            .map(|(x, l)| (x[c], l.contains(&(c as u32))))
            .collect();
        score.average_precision = Some(average_precision(column));
    }
    let n = labels.len() as f64;
    let mut values = f1_averages(&scores, |_| true);
    values.insert("accuracy", ratio(exact as f64, n));
    values.insert("f1_samples", ratio(sample_f1, n));
    values.insert(
        "average_precision_macro",
        mean(scores.iter().map(|c| c.average_precision.unwrap_or(0.0))),
    );
    Metrics {
        samples: labels.len(),
        values,
        classes: scores,
        confusion: None,
    }
}

/// Computes the sum over thresholds of the precision times the increase in recall. Equal scores are
/// one threshold. `column` has the score of each sample and whether it has the class.
fn average_precision(mut column: Vec<(f32, bool)>) -> f64 {
    column.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = column.iter().filter(|c| c.1).count() as f64;
    let (mut hits, mut predicted, mut area, mut i) = (0.0, 0.0, 0.0, 0);
    while i < column.len() {
        let threshold = column[i].0;
        let before = hits;
        while i < column.len() && column[i].0 == threshold {
            hits += f64::from(u8::from(column[i].1));
            predicted += 1.0;
            i += 1;
        }
        area += (hits - before) * hits / predicted;
    }
    ratio(area, positives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn single_label_metrics_computed_by_hand() {
        // The true classes are 0 0 1 2, the predicted ones 0 1 1 0. Class 3 does not occur.
        let logits = [
            [1., 0., 0., 0.],
            [0., 1., 0., 0.],
            [0., 1., 0., 0.],
            [1., 0., 0., 0.],
        ]
        .map(|r: [f32; 4]| r.to_vec());
        let m = single_label(&logits, &[0, 0, 1, 2], 4);
        near(m.values["accuracy"], 0.5);
        near(m.values["balanced_accuracy"], (0.5 + 1.0 + 0.0) / 3.0);
        near(m.values["f1_macro"], (0.5 + 2.0 / 3.0 + 0.0) / 3.0);
        near(m.values["f1_micro"], 0.5);
        near(m.values["f1_weighted"], (0.5 * 2.0 + 2.0 / 3.0) / 4.0);
        assert_eq!(m.confusion.unwrap()[0], [1, 1, 0, 0]);
        assert_eq!(single_label(&[], &[], 3).values["accuracy"], 0.0);
    }

    #[test]
    fn multi_label_metrics_computed_by_hand() {
        let logits = vec![
            vec![2.0, -1.0, 0.5],
            vec![-3.0, 1.0, -0.5],
            vec![0.5, -2.0, -1.0],
        ];
        let m = multi_label(&logits, &[vec![0], vec![1, 2], vec![0]], 3);
        near(m.values["accuracy"], 1.0 / 3.0);
        near(m.values["f1_micro"], 2.0 * 3.0 / (4.0 + 4.0));
        near(m.values["f1_macro"], (1.0 + 1.0 + 0.0) / 3.0);
        near(m.values["f1_samples"], (2.0 / 3.0 + 2.0 / 3.0 + 1.0) / 3.0);
        // The scores of class 2 in order are 0.5 (wrong), -0.5 (right), -1.0 (wrong), so that the
        // precision at the only hit is 1/2.
        near(m.classes[2].average_precision.unwrap(), 0.5);
    }
}
