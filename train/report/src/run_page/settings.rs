//! The settings in which runs differ, and the whole configuration of each.

use crate::groups::differing_settings;
use crate::run_folder::RunSummary;
use maud::{Markup, html};
use std::collections::BTreeSet;

/// A table of the settings in which runs differ, and each run's `config.toml`, folded.
pub fn section(runs: &[RunSummary]) -> Markup {
    let differing = differing_settings(runs);
    let names = distinct_names(runs);
    html! {
        h2 { "Settings" }
        @if !differing.is_empty() {
            table {
                tr { th { "setting" } th { "value" } th { "runs" } }
                @for (key, values) in &differing {
                    @for (i, (value, of)) in values.iter().enumerate() {
                        tr {
                            @if i == 0 {
                                td rowspan=(values.len()) {
                                    (key.strip_prefix("settings.").unwrap_or(key))
                                }
                            }
                            td { (value) }
                            @let of: Vec<&str> = of.iter().map(|run| &*names[*run]).collect();
                            td { (of.join(", ")) }
                        }
                    }
                }
            }
        }
        @for (run, name) in runs.iter().zip(&names) {
            details {
                summary { (name) }
                pre { (run.config.text) }
            }
        }
    }
}

/// Returns the names of runs, or their paths if two folders have the same name.
fn distinct_names(runs: &[RunSummary]) -> Vec<String> {
    let names: Vec<String> = runs.iter().map(RunSummary::name).collect();
    match names.iter().collect::<BTreeSet<_>>().len() == names.len() {
        true => names,
        false => runs
            .iter()
            .map(|run| run.folder.display().to_string())
            .collect(),
    }
}
