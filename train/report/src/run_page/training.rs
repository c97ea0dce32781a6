//! The curves of training: losses, learning rate, and the score on the validation split.

use super::chapter::{Chapter, Experiment};
use super::number::rounded;
use crate::run_folder::{RunSummary, Step};
use crate::statistics::{Average, mean};
use maud::{Markup, html};
use page::Figure;
use serde::Serialize;
use std::collections::BTreeMap;

/// The largest number of points of a line; more would make a page large and a line no finer.
const MAX_POINTS: usize = 300;
/// The share of a run's steps over which its losses are averaged.
const SMOOTHED_SHARE: f64 = 0.02;
/// The least number of steps over which losses are averaged.
const MIN_SMOOTHED_STEPS: f64 = 5.0;

/// A value of each step that has it.
type Values = Vec<(u64, f64)>;

/// Steps, each with a mean and a standard deviation over runs.
type Points = Vec<(u64, f64, Option<f64>)>;

/// A chart with the curves of all experiments.
#[derive(Serialize)]
struct Chart {
    /// Whether the values are fractions, to be shown in per cent.
    percent: bool,
    /// Whether each point is marked.
    dots: bool,
    /// The curves.
    curves: Vec<Curve>,
}

/// The curve of an experiment.
#[derive(Debug, PartialEq, Serialize)]
struct Curve {
    /// The name of the experiment; empty for the only one.
    label: String,
    /// The CSS colour.
    colour: String,
    /// Which dash it has.
    series: usize,
    /// The number of runs.
    runs: usize,
    /// Step, mean over the runs, and standard deviation over the runs.
    points: Points,
    /// Step and mean over the runs before smoothing; empty if nothing was smoothed.
    raw: Values,
}

/// A chart of each loss, of the learning rate and of the validation score.
pub fn section(chapter: &Chapter) -> Markup {
    let runs = || chapter.groups.iter().flat_map(|e| &e.group.runs);
    let longest = runs().map(|run| run.steps.len()).max().unwrap_or(0);
    let smoothed_steps = (SMOOTHED_SHARE * longest as f64)
        .max(MIN_SMOOTHED_STEPS)
        .round();
    let weight = 1.0 - 1.0 / smoothed_steps;
    let step = |value: fn(&Step) -> Option<f64>, weight: Option<f64>| {
        chart(chapter, weight, |run| {
            run.steps
                .iter()
                .filter_map(|s| Some((s.step, value(s)?)))
                .collect()
        })
    };
    let mut validation = chart(chapter, None, |run| run.validation.clone());
    validation.percent = true;
    validation.dots = true;
    let score = format!("validation {}, %", chapter.metric_in_words());
    let charts = [
        ("loss", step(|s| Some(s.loss), Some(weight))),
        ("task loss", step(|s| s.task_loss, Some(weight))),
        ("alignment loss", step(|s| s.align_loss, Some(weight))),
        ("learning rate", step(|s| s.lr, None)),
        (&*score, validation),
    ];
    let bands = runs().count() > chapter.groups.len();
    // Without alignment its loss is 0, and the task loss is the loss.
    let aligns = |step: &Step| step.align_loss.is_some_and(|loss| loss != 0.0);
    let aligned = runs().any(|run| run.steps.iter().any(aligns));
    let is_shown = |name: &str| aligned || !["task loss", "alignment loss"].contains(&name);
    html! {
        h2 { "Training" }
        @if longest == 0 {
            p.note { "No steps have been logged." }
        } @else {
            p.note {
                "Losses are smoothed by an exponential moving average over about " (smoothed_steps)
                " steps (weight " (format!("{weight:.3}"))
                ", corrected for its start, as in TensorBoard); "
                "the thin line is the loss itself."
                @if bands {
                    " Lines are means over the seeds, bands one standard deviation to each side."
                }
            }
            @for note in unfinished(chapter) { p.note { (note) } }
            (chapter.legend())
            div.grid {
                @for (name, chart) in charts.iter().filter(|(name, chart)| is_shown(name) && !chart.curves.is_empty()) {
                    @let label = format!("Line chart of the {name} by step");
                    div {
                        h3 { (name) }
                        (Figure { kind: "curves", label: &label, data: chart }.markup())
                    }
                }
            }
        }
    }
}

/// Names the runs that have fewer steps than another run of their experiment.
fn unfinished(chapter: &Chapter) -> Vec<String> {
    let last = |run: &RunSummary| run.steps.last().map_or(0, |step| step.step);
    let of_experiment = |experiment: &Experiment| {
        let runs = &experiment.group.runs;
        let most = runs.iter().map(|run| last(run)).max().unwrap_or(0);
        let ended = runs.iter().filter(move |run| last(run) < most);
        let note = |run: &RunSummary| {
            format!(
                "{} has {} of {most} steps; behind them the lines are those of the other runs.",
                run.folder.display(),
                last(run)
            )
        };
        ended.map(|run| note(run)).collect::<Vec<_>>()
    };
    chapter.groups.iter().flat_map(of_experiment).collect()
}

/// Returns the chart of a value, smoothed if there is a weight.
fn chart(chapter: &Chapter, weight: Option<f64>, values: impl Fn(&RunSummary) -> Values) -> Chart {
    let curve = |experiment: &Experiment| {
        let runs = experiment.group.runs.iter().map(|run| values(run));
        let runs: Vec<Values> = runs.filter(|values| !values.is_empty()).collect();
        let (points, raw) = means(&runs, weight);
        (!points.is_empty()).then(|| Curve {
            label: experiment.label.clone(),
            colour: experiment.colour(),
            series: experiment.series,
            runs: runs.len(),
            points,
            raw,
        })
    };
    Chart {
        percent: false,
        dots: false,
        curves: chapter.groups.iter().filter_map(curve).collect(),
    }
}

/// Returns mean and standard deviation over the runs that have a step, after smoothing each, and the
/// mean before smoothing. Both are thinned out to [`MAX_POINTS`].
fn means(runs: &[Values], weight: Option<f64>) -> (Points, Values) {
    let mut steps: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    for run in runs {
        let values: Vec<f64> = run.iter().map(|(_, value)| *value).collect();
        let smoothed = smooth(&values, weight.unwrap_or(0.0));
        for ((step, raw), smoothed) in run.iter().zip(smoothed) {
            steps.entry(*step).or_default().push((*raw, smoothed));
        }
    }
    let (mut points, mut raw) = (Vec::new(), Vec::new());
    for (step, values) in steps {
        let (before, after): (Vec<f64>, Vec<f64>) = values.into_iter().unzip();
        if let (Some(mean), Some(average)) = (mean(&before), Average::of(&after)) {
            points.push((step, rounded(average.mean), average.sd.map(rounded)));
            raw.push((step, rounded(mean)));
        }
    }
    let every = points.len().div_ceil(MAX_POINTS).max(1);
    let last = points
        .last()
        .copied()
        .filter(|_| (points.len() - 1) % every != 0);
    let points = points.into_iter().step_by(every).chain(last).collect();
    let raw = weight.map_or_else(Vec::new, |_| extremes(&raw, every));
    (points, raw)
}

/// Smooths by an exponential moving average that is corrected for its start at 0: TensorBoard's
/// smoothing, and the bias correction of Adam. The weight is that of the past.
fn smooth(values: &[f64], weight: f64) -> Vec<f64> {
    let (mut sum, mut share_of_start) = (0.0, 1.0);
    let next = |value: &f64| {
        sum = weight * sum + (1.0 - weight) * value;
        share_of_start *= weight;
        sum / (1.0 - share_of_start)
    };
    values.iter().map(next).collect()
}

/// Returns the least and the largest of each `2 * every` neighbours, in their order: a line through
/// them covers the same heights as one through all.
fn extremes(values: &[(u64, f64)], every: usize) -> Values {
    if every == 1 {
        return values.to_vec();
    }
    let pair = |part: &[(u64, f64)]| {
        let least = part.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let largest = part.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut pair: Values = least.into_iter().chain(largest).copied().collect();
        pair.sort_by_key(|(step, _)| *step);
        pair.dedup();
        pair
    };
    values.chunks(2 * every).flat_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_starts_without_bias() {
        // By hand, with weight 1/2: 1; (1/4 + 2/2) / (3/4); (1/8 + 2/4 + 4/2) / (7/8).
        let smoothed = smooth(&[1.0, 2.0, 4.0], 0.5);
        for (got, want) in smoothed.iter().zip([1.0, 5.0 / 3.0, 3.0]) {
            assert!((got - want).abs() < 1e-12, "{smoothed:?}");
        }
        assert_eq!(smooth(&[3.0, 1.0], 0.0), [3.0, 1.0]);
        // A constant stays what it is.
        let constant = smooth(&[0.7; 50], 0.98);
        assert!(constant.iter().all(|v| (v - 0.7).abs() < 1e-12));
    }

    #[test]
    fn bands_are_mean_and_deviation_of_the_smoothed_runs() {
        let runs = [vec![(1, 2.0), (2, 4.0)], vec![(1, 5.0), (2, 8.0), (3, 1.0)]];
        let (points, raw) = means(&runs, Some(0.5));
        // By hand. Step 1: 2 and 5, with deviation 3 / sqrt 2. Step 2: (2/4 + 4/2) / (3/4) = 10/3
        // and (5/4 + 8/2) / (3/4) = 7, with deviation (11/3) / sqrt 2. Step 3 is of one run alone:
        // (5/8 + 8/4 + 1/2) / (7/8) = 25/7.
        let wanted = [
            (1, 3.5, Some(2.12132)),
            (2, 5.16667, Some(2.59272)),
            (3, 3.57143, None),
        ];
        assert_eq!(points, wanted);
        assert_eq!(raw, [(1, 3.5), (2, 6.0), (3, 1.0)]);
        let (single, raw) = means(&runs[..1], None);
        assert_eq!(single, [(1, 2.0, None), (2, 4.0, None)]);
        assert!(raw.is_empty());
    }

    #[test]
    fn long_curves_keep_their_last_point_and_their_peaks() {
        let mut run: Values = (1..=10_000).map(|step| (step, 1.0)).collect();
        run[5432].1 = 9.0;
        let (points, raw) = means(&[run], Some(0.9));
        assert!(points.len() <= MAX_POINTS + 1, "{}", points.len());
        assert_eq!(points.last().unwrap().0, 10_000);
        assert!(raw.len() <= MAX_POINTS + 2, "{}", raw.len());
        assert!(raw.contains(&(5433, 9.0)));
    }
}
