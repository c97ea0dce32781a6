//! Scores by the missing rate at test time.

use super::chapter::{Chapter, Experiment, series_colour};
use super::number::rounded;
use crate::run_folder::{RunSummary, main_metric};
use crate::statistics::{Average, mean};
use maud::{Markup, html};
use page::Figure;
use serde::Serialize;
use std::collections::BTreeMap;

/// A chart of scores by missing rate.
#[derive(Serialize)]
struct Chart {
    /// The name of the score.
    metric: String,
    /// The lines.
    lines: Vec<Line>,
}

/// One line.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    /// The name at its end.
    label: String,
    /// The CSS colour.
    colour: String,
    /// Which dash and which marker it has.
    series: usize,
    /// Missing rate, mean and standard deviation, as fractions.
    points: Vec<(f64, f64, Option<f64>)>,
}

/// The charts of a chapter: one chart with a line for each protocol, or of several experiments a
/// chart for each protocol.
pub fn section(chapter: &Chapter) -> Markup {
    let mut charts: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    let several = chapter.groups.len() > 1;
    let mut left_out = false;
    for experiment in &chapter.groups {
        for (number, curve) in curves(experiment).into_iter().enumerate() {
            left_out |= curve.runs < experiment.group.runs.len();
            let (chart, line) = match several {
                true => (curve.protocol.clone(), experiment_line(experiment, curve)),
                false => (String::new(), protocol_line(number, curve)),
            };
            charts.entry(chart).or_default().push(line);
        }
    }
    let metric = format!("{}, %", chapter.metric_in_words());
    html! {
        @if !charts.is_empty() {
            h2 { "Missing rate" }
            p.note {
                "Score by the share of test samples that lose a modality. "
                "Bands are one standard deviation over the seeds to each side."
                @if left_out { " A curve leaves out the runs that lack some of its rates." }
            }
            (chapter.legend())
            div.thirds[several] {
                @for (protocol, lines) in charts {
                    @let label = format!("Line chart of the score by missing rate {protocol}");
                    @let chart = Chart { metric: metric.clone(), lines };
                    div {
                        @if several { h3 { (protocol) } }
                        (Figure { kind: "rates", label: label.trim_end(), data: &chart }.markup())
                    }
                }
            }
        }
    }
}

fn experiment_line(experiment: &Experiment, curve: Curve) -> Line {
    Line {
        label: experiment.label.clone(),
        colour: experiment.colour(),
        series: experiment.series,
        points: triples(curve.points),
    }
}

fn protocol_line(series: usize, curve: Curve) -> Line {
    Line {
        label: curve.protocol,
        colour: series_colour(series),
        series,
        points: triples(curve.points),
    }
}

fn triples(points: Vec<(f64, Average)>) -> Vec<(f64, f64, Option<f64>)> {
    let triple = |(rate, a): (f64, Average)| (rate, rounded(a.mean), a.sd.map(rounded));
    points.into_iter().map(triple).collect()
}

/// The mean over some runs at each missing rate.
struct Curve {
    protocol: String,
    /// The number of runs.
    runs: usize,
    points: Vec<(f64, Average)>,
}

/// Returns the curve of each protocol that an experiment has scores of at two rates or more. Each
/// point is a mean over the same runs: the most of them that have scores at the same rates.
fn curves(experiment: &Experiment) -> Vec<Curve> {
    let mut all: BTreeMap<String, BTreeMap<Vec<u32>, Vec<Vec<f64>>>> = BTreeMap::new();
    for run in &experiment.group.runs {
        for (protocol, scores) in scores_by_rate(run).into_iter().filter(|(_, s)| s.len() > 1) {
            let (rates, scores) = scores.into_iter().unzip();
            let by_rates = all.entry(protocol).or_default();
            by_rates.entry(rates).or_default().push(scores);
        }
    }
    let curve = |(protocol, by_rates): (String, BTreeMap<Vec<u32>, Vec<Vec<f64>>>)| {
        let (rates, runs) = by_rates
            .into_iter()
            .max_by_key(|(rates, runs)| (runs.len(), rates.len()))?;
        let points = rates.iter().enumerate().filter_map(|(i, rate)| {
            let scores: Vec<f64> = runs.iter().map(|run| run[i]).collect();
            Some((f64::from(*rate) / 1000.0, Average::of(&scores)?))
        });
        Some(Curve {
            protocol,
            runs: runs.len(),
            points: points.collect(),
        })
    };
    all.into_iter().filter_map(curve).collect()
}

/// Returns the scores of one run by protocol and by missing rate in thousandths, which is an
/// ordered key; several masks of one rate are averaged.
///
/// The complete test split is rate 0 of each protocol, and a modality missing in all samples is
/// rate 1 of its protocol.
fn scores_by_rate(run: &RunSummary) -> BTreeMap<String, BTreeMap<u32, f64>> {
    let metric = main_metric(run.config.multi_label);
    let token = &run.config.settings.missing_token;
    let score = |json: &serde_json::Value| json["metrics"][metric].as_f64();
    let mut all: BTreeMap<String, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    for json in run.evaluations.values() {
        let ours = json["split"] == "test"
            && json["missing"].is_null()
            && json["missing_token"] == **token
            && json["default_checkpoint"] != false;
        if let (true, Some(protocol), Some(score)) = (ours, json["protocol"].as_str(), score(json))
        {
            let rate = (1000.0 * json["rate"].as_f64().unwrap_or(0.0)).round() as u32;
            let scores = all.entry(protocol.to_string()).or_default();
            scores.entry(rate).or_default().push(score);
        }
    }
    for missing in run.config.modalities.pair().into_iter().flatten() {
        if let Some(score) = run.test_evaluation(Some(missing), token).and_then(score) {
            let scores = all.entry(format!("missing-{missing}")).or_default();
            scores.insert(1000, vec![score]);
        }
    }
    if let Some(score) = run.test_evaluation(None, token).and_then(score) {
        all.values_mut()
            .for_each(|scores| drop(scores.insert(0, vec![score])));
    }
    let averaged = |scores: BTreeMap<u32, Vec<f64>>| {
        let means = scores
            .into_iter()
            .filter_map(|(rate, all)| Some((rate, mean(&all)?)));
        means.collect()
    };
    all.into_iter()
        .map(|(protocol, scores)| (protocol, averaged(scores)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::chapter::chapters;
    use super::*;
    use crate::test_runs::{TestRun, evaluation, masked};

    #[test]
    fn curves_begin_with_complete_data_and_average_the_same_runs() {
        let folder = tempfile::tempdir().unwrap();
        let run = |seed, complete: f64, half: f64, more: &[(&str, serde_json::Value)]| {
            let mut evaluations = vec![
                ("test", evaluation(None, "mask", [complete; 2])),
                ("half", masked("missing-audio", 0.5, half)),
                (
                    "test-no-audio",
                    evaluation(Some("audio"), "mask", [0.25; 2]),
                ),
            ];
            evaluations.extend_from_slice(more);
            let run = TestRun {
                seed,
                evaluations: &evaluations,
                ..TestRun::default()
            };
            run.write(folder.path(), &seed.to_string())
        };
        let runs = [
            // Two masks of one rate are averaged.
            run(0, 1.0, 0.5, &[("half1", masked("missing-audio", 0.5, 1.0))]),
            run(1, 0.5, 0.5, &[]),
            // Its rates are others.
            run(2, 0.0, 0.0, &[("third", masked("missing-audio", 0.3, 0.0))]),
        ];
        let chapter = &chapters(&runs)[0];
        let [curve] = &curves(&chapter.groups[0])[..] else {
            panic!("one protocol");
        };
        assert_eq!((&*curve.protocol, curve.runs), ("missing-audio", 2));
        let points: Vec<_> = curve
            .points
            .iter()
            .map(|(rate, a)| (*rate, a.mean, a.count))
            .collect();
        assert_eq!(points, [(0.0, 0.75, 2), (0.5, 0.625, 2), (1.0, 0.25, 2)]);
    }
}
