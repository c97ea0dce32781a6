//! The runs on one dataset, with the colour and the name that each group of them has in figures.

use crate::groups::{RunGroup, group_runs};
use crate::run_folder::{RunSummary, main_metric};
use datasets::{InputName, Modalities};
use maud::{Markup, html};

/// The longest name, in characters, that fits at the end of a line of a figure.
const MAX_LABEL: usize = 18;
/// The colours of groups that `report.css` names `--series-0` and so on.
const COLOURS: usize = 6;

/// The runs on one dataset.
pub struct Chapter<'a> {
    /// The name of the dataset.
    pub dataset: &'a str,
    /// Its modalities, in its order.
    pub modalities: Modalities,
    /// The names of its classes, in canonical order.
    pub classes: &'a [String],
    /// Whether a sample has several classes.
    pub multi_label: bool,
    /// The groups of runs that repeat one experiment.
    pub groups: Vec<Experiment<'a>>,
}

/// A group of runs that repeat one experiment, in the figures of a chapter.
pub struct Experiment<'a> {
    /// The runs.
    pub group: RunGroup<'a>,
    /// Its name: what its settings have that others have not, or a letter where that is too long
    /// for a figure; empty for the only group of a chapter.
    pub label: String,
    /// Its place among the groups, which chooses its colour, dash and marker.
    pub series: usize,
}

/// Returns the chapters, in the order in which the datasets come in the runs.
pub fn chapters(runs: &[RunSummary]) -> Vec<Chapter<'_>> {
    let mut chapters: Vec<Chapter> = Vec::new();
    for group in group_runs(runs) {
        let config = &group.runs[0].config;
        let at = chapters.iter().position(|c| c.dataset == config.dataset);
        let at = at.unwrap_or_else(|| {
            chapters.push(Chapter {
                dataset: &config.dataset,
                modalities: config.modalities,
                classes: &config.classes,
                multi_label: config.multi_label,
                groups: Vec::new(),
            });
            chapters.len() - 1
        });
        let groups = &mut chapters[at].groups;
        groups.push(Experiment {
            label: String::new(),
            series: groups.len(),
            group,
        });
    }
    chapters
        .iter_mut()
        .for_each(|chapter| label(&mut chapter.groups));
    chapters
}

/// Gives each of several groups its name.
fn label(groups: &mut [Experiment]) {
    if groups.len() < 2 {
        return;
    }
    let short = |e: &Experiment| (1..=MAX_LABEL).contains(&e.description().chars().count());
    let all_short = groups.iter().all(short);
    for experiment in groups {
        experiment.label = match all_short {
            true => experiment.description(),
            false => letters(experiment.series),
        };
    }
}

/// Returns A to Z, AA to AZ and so on.
fn letters(number: usize) -> String {
    let last = char::from(b'A' + (number % 26) as u8);
    match number / 26 {
        0 => last.to_string(),
        rest => letters(rest - 1) + &last.to_string(),
    }
}

impl Experiment<'_> {
    /// Returns the settings in which it differs from the other groups.
    pub fn description(&self) -> String {
        self.group.differences.join(", ")
    }

    /// Returns its label in its colour, with its settings where the label is a letter.
    pub fn key(&self) -> Markup {
        let description = self.description();
        html! {
            i style={ "background:" (self.colour()) } {}
            (self.label)
            // A long setting may be broken before its value.
            @if self.label != description {
                " " small { @for part in description.split_inclusive('=') { (part) wbr; } }
            }
        }
    }

    /// Returns the CSS colour of its lines.
    pub fn colour(&self) -> String {
        series_colour(self.series)
    }
}

/// Returns the CSS colour of a series.
pub fn series_colour(series: usize) -> String {
    format!("var(--series-{})", series % COLOURS)
}

impl Chapter<'_> {
    /// Returns the dataset's title, or its name if it is the user's own.
    pub fn dataset_title(&self) -> String {
        let title = datasets::names().contains(&self.dataset);
        let known = title.then(|| datasets::open(self.dataset).ok()).flatten();
        known.map_or_else(|| self.dataset.to_string(), |d| d.info().title.clone())
    }

    /// Returns the name of the main metric in words.
    pub fn metric_in_words(&self) -> &'static str {
        match main_metric(self.multi_label) {
            "accuracy" => "accuracy",
            _ => "macro F1",
        }
    }

    /// Returns the availabilities of inputs at test time: both, and each of them alone; where all
    /// runs use the same single input, that one.
    pub fn availabilities(&self) -> Vec<Availability> {
        let all = |name: String| Availability {
            name,
            colour: "var(--both)",
            symbol: 0,
            missing: None,
        };
        let runs = self.groups.iter().flat_map(|e| &e.group.runs);
        let mut used: Vec<_> = runs.map(|run| run.config.only_input()).collect();
        used.dedup();
        let [m1, m2] = match (&used[..], self.modalities.pair()) {
            ([Some(only)], _) => return vec![all(only.to_string())],
            (_, None) => return vec![all(self.modalities.to_string())],
            (_, Some(pair)) => pair,
        };
        let only = |symbol, shown: InputName, missing| Availability {
            name: format!("{shown} only"),
            colour: page::input_colour(shown),
            symbol,
            missing: Some(missing),
        };
        vec![all("both".to_string()), only(1, m1, m2), only(2, m2, m1)]
    }

    /// Returns the legend of the groups; empty if there is one.
    pub fn legend(&self) -> Markup {
        html! {
            @if self.groups.len() > 1 {
                p.legend {
                    @for experiment in &self.groups { span { (experiment.key()) } }
                }
            }
        }
    }
}

/// Which inputs the model is given.
pub struct Availability {
    /// In words: `both`, or such as `audio only`.
    pub name: String,
    /// Its CSS colour.
    pub colour: &'static str,
    /// The number of its symbol.
    pub symbol: usize,
    /// The input that is missing.
    pub missing: Option<InputName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_continue_after_z() {
        let all: Vec<String> = [0, 1, 25, 26, 27, 52].map(letters).into();
        assert_eq!(all, ["A", "B", "Z", "AA", "AB", "BA"]);
    }
}
