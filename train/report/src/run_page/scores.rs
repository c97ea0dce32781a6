//! What was trained, and the main scores.

use super::chapter::{Availability, Chapter, Experiment};
use super::number::{percent, percent_average};
use crate::run_folder::{EncoderSize, kept_samples, main_metric};
use crate::scores::score_rows;
use crate::statistics::Average;
use datasets::InputName;
use maud::{Markup, html};

/// The head of a chapter: what was trained on what, and the scores with each modality missing.
pub fn section(chapter: &Chapter) -> Markup {
    let has_scores = chapter
        .groups
        .iter()
        .any(|e| !score_rows(&e.group).is_empty());
    html! {
        p { (what_was_trained(chapter)) }
        @if has_scores {
            h2 { "Scores" }
            (main_table(chapter))
            details {
                summary { "All evaluations" }
                @for experiment in &chapter.groups { (all_evaluations(experiment)) }
            }
        } @else {
            p.note { "There are no scores yet: `train eval RUN` makes them." }
        }
    }
}

/// Says in one sentence what was trained on what.
fn what_was_trained(chapter: &Chapter) -> String {
    let classes = chapter.classes.len();
    // The encoder of a modality that a run does not use has no size; another run may tell it.
    let runs_of_all = || chapter.groups.iter().flat_map(|e| &e.group.runs);
    let size = |m: usize, input: InputName| {
        let uses = |only: InputName| only == input;
        let run = runs_of_all().find(|run| run.config.settings.modality.is_none_or(uses));
        let size = run.and_then(|run| run.config.encoders.get(m));
        size.map_or("not used".into(), encoder_size)
    };
    let inputs: Vec<String> = chapter
        .modalities
        .names()
        .enumerate()
        .map(|(m, input)| format!("{input} ({})", size(m, input)))
        .collect();
    let runs: usize = chapter.groups.iter().map(|e| e.group.runs.len()).sum();
    let encoders = format!("{classes} classes from {}", inputs.join(" and "));
    match &chapter.groups[..] {
        [experiment] => format!("{encoders}; {}.", repetitions(experiment)),
        groups => format!("{encoders}; {runs} runs of {} experiments.", groups.len()),
    }
}

/// Describes the runs of one experiment.
fn repetitions(experiment: &Experiment) -> String {
    let runs = &experiment.group.runs;
    let seeds: Vec<String> = runs
        .iter()
        .map(|r| r.config.settings.seed.to_string())
        .collect();
    let steps = runs.iter().filter_map(|r| Some(r.steps.last()?.step)).max();
    let settings = &runs[0].config.settings;
    let trained = match &settings.train_mask {
        Some(mask) => format!("trained under the mask {mask}"),
        None => "trained without a mask".to_string(),
    };
    let steps = steps.map_or_else(String::new, |steps| format!(" for {steps} steps"));
    let seeds = match &seeds[..] {
        [seed] => format!("one run, seed {seed}"),
        several => format!("{} runs, seeds {}", several.len(), several.join(", ")),
    };
    let adapt = match settings.adapt.as_str() {
        "lora" => "LoRA adapters",
        "full" => "all weights",
        "input-prompts" => "input-level prompts",
        "attention-prompts" => "attention-level prompts",
        other => other,
    };
    let method = match settings.method.as_str() {
        "u2a" if runs[0].config.only_input().is_some() => adapt.to_string(),
        "u2a" => format!("{adapt}, {} fusion", settings.fusion),
        // It trains all weights, then adapters.
        "mmlora" => "method mmlora".to_string(),
        method => format!("{adapt}, method {method}"),
    };
    format!("{method}, {trained}{steps}; {seeds}")
}

/// Formats an encoder's size.
fn encoder_size(size: &EncoderSize) -> String {
    let EncoderSize {
        kind,
        layers,
        hidden,
    } = size;
    format!("{}, {layers} blocks of width {hidden}", kind.to_uppercase())
}

/// The scores with both modalities and with each alone: a row per experiment.
fn main_table(chapter: &Chapter) -> Markup {
    let availabilities = chapter.availabilities();
    let rows: Vec<Vec<Option<Average>>> = chapter
        .groups
        .iter()
        .map(|e| {
            availabilities
                .iter()
                .map(|a| score(chapter, e, a.missing))
                .collect()
        })
        .collect();
    let best = |column: usize| {
        let means = rows.iter().filter_map(|row| Some(row[column]?.mean));
        means
            .max_by(f64::total_cmp)
            .filter(|_| rows.len() > 1)
            .map(percent)
    };
    let several_runs = rows.iter().flatten().flatten().any(|a| a.count > 1);
    html! {
        table.scores {
            tr {
                th { (chapter.metric_in_words()) ", %" }
                @for availability in &availabilities { th.number { (availability.name) } }
            }
            @for (experiment, row) in chapter.groups.iter().zip(&rows) {
                tr {
                    td { (name(experiment)) }
                    @for (column, average) in row.iter().enumerate() {
                        @let text = average.as_ref().map(percent_average);
                        @let text = text.as_deref().unwrap_or("\u{2013}");
                        td.number {
                            @if average.is_some_and(|a| Some(percent(a.mean)) == best(column)) {
                                strong { (text) }
                            } @else { (text) }
                        }
                    }
                }
            }
        }
        p.note {
            "On the test split"
            @if several_runs { ", mean \u{b1} standard deviation over the seeds" }
            @if rows.len() > 1 { ", the best of each column in bold" }
            "."
            @if availabilities.len() > 1 { " " (missing_token(chapter)) "." }
            @for note in availabilities.iter().filter_map(|a| kept_note(chapter, a)) { (note) }
            @if !chapter.multi_label {
                " Guessing gives " (percent(1.0 / chapter.classes.len().max(1) as f64)) "."
            }
        }
    }
}

/// Says how many samples keep the input that is missing, because they have nothing else.
fn kept_note(chapter: &Chapter, availability: &Availability) -> Option<String> {
    let missing = availability.missing?;
    let runs = chapter.groups.iter().flat_map(|e| &e.group.runs);
    let kept = runs.filter_map(|run| {
        let token = &run.config.settings.missing_token;
        kept_samples(run.test_evaluation(Some(missing), token)?)
    });
    let (kept, all) = kept.max()?;
    Some(format!(
        " Under \u{201c}{}\u{201d}, {kept} of {all} samples keep {missing}, because they have nothing else.",
        availability.name
    ))
}

/// Says in a sentence what stands for a missing modality.
fn missing_token(chapter: &Chapter) -> &'static str {
    let runs = chapter.groups.iter().flat_map(|e| &e.group.runs);
    let mut tokens: Vec<&str> = runs.map(|r| r.config.stand_in()).collect();
    tokens.dedup();
    match tokens[..] {
        ["mask"] => "In place of a missing modality the model has the mask token",
        ["zeros"] => "In place of a missing modality the model has zeros",
        ["input"] => "In place of a missing modality the model has an empty input",
        ["nothing"] => "A missing modality is left out of the sums of the method",
        _ => "In place of a missing modality the model has what it was trained with",
    }
}

/// The name of a row: its letter, if it has one, and its settings.
fn name(experiment: &Experiment) -> Markup {
    let runs = experiment.group.runs.len();
    html! {
        @if experiment.label.is_empty() {
            @if runs == 1 { "1 run" } @else { (runs) " runs" }
        } @else {
            span.legend { (experiment.key()) }
        }
    }
}

/// The average over the runs of an experiment.
fn score(
    chapter: &Chapter,
    experiment: &Experiment,
    missing: Option<InputName>,
) -> Option<Average> {
    let metric = main_metric(chapter.multi_label);
    let runs = experiment.group.runs.iter();
    let scores = runs.filter_map(|run| {
        let token = &run.config.settings.missing_token;
        run.test_evaluation(missing, token)?["metrics"][metric].as_f64()
    });
    Average::of(&scores.collect::<Vec<_>>())
}

/// All evaluations of one experiment, with the score of each run.
fn all_evaluations(experiment: &Experiment) -> Markup {
    let rows = score_rows(&experiment.group);
    html! {
        @if !rows.is_empty() {
            @if !experiment.label.is_empty() { h3.legend { (experiment.key()) } }
            table {
                tr {
                    th { "inputs" }
                    th.number { "mean, %" }
                    th.number { "runs" }
                    th { "each run" }
                }
                @for row in &rows {
                    @let known: Vec<f64> = row.values.iter().flatten().copied().collect();
                    @let each = row.values.iter().map(|v| v.map_or("\u{2013}".into(), percent));
                    tr {
                        td { (row.inputs) }
                        td.number {
                            @if let Some(a) = Average::of(&known) { (percent_average(&a)) }
                        }
                        td.number { (row.count) }
                        td { (each.collect::<Vec<_>>().join(" ")) }
                    }
                }
            }
        }
    }
}
