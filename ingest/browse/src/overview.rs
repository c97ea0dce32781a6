//! The charts and tables of all rows.

use std::collections::BTreeMap;

use datasets::{InputName, Split};
use features::ShardSpec;
use page::{Figure, Markup, html};
use serde_json::{Value, json};
use util::number::thousands;

use crate::charts;
use crate::failures::Failures;
use crate::rows::Row;

/// Returns the overview. `link` gives the page on which a split begins, if it has one.
pub fn markup(
    spec: &ShardSpec,
    rows: &[Row],
    failures: &Failures,
    link: impl Fn(Split) -> Option<String>,
) -> Markup {
    let balance = charts::class_balance(spec, rows);
    html! {
        section.grid {
            div {
                h2 { "Rows" }
                (splits(spec, rows, failures, link))
            }
            div {
                h2 { "Missing inputs" }
                (missing(spec, rows))
            }
        }
        section.grid {
            @for (which, modality) in spec.modalities.names().enumerate() {
                @if let Some(data) = charts::durations(rows, which) {
                    div {
                        h2 { "Durations of " (modality) }
                        (durations(modality, &data))
                    }
                }
            }
        }
        section {
            h2 { "Class balance" }
            // A list that scrolls must be reachable by the keyboard. Its height is kept free until
            // it is drawn, so that nothing below it moves.
            div.tall tabindex="0" role="group" aria-label="Class balance"
                style={ "min-height:min(36rem," (90 + 17 * spec.classes.len()) "px)" } {
                (Figure {
                    kind: "class-balance",
                    label: "Share of each class among the rows of each split, in percent",
                    data: &balance,
                }.markup())
            }
            @if spec.multi_label {
                p.note { "A row counts for each of its labels, so the shares of a split add up to more than 100 %." }
            }
            details {
                summary { "Rows of each class" }
                (class_counts(&balance))
            }
        }
        @if !failures.causes.is_empty() {
            section {
                h2 { "Why inputs are missing or damaged" }
                (causes(failures))
            }
        }
    }
}

/// The counts of one split.
#[derive(Default)]
struct Counts {
    rows: usize,
    complete: usize,
    present: [usize; 2],
}

fn splits(
    spec: &ShardSpec,
    rows: &[Row],
    failures: &Failures,
    link: impl Fn(Split) -> Option<String>,
) -> Markup {
    let mut counts: BTreeMap<Split, Counts> = BTreeMap::new();
    for row in rows {
        let counts = counts.entry(row.at.0).or_default();
        counts.rows += 1;
        counts.complete += usize::from(row.is_complete(spec.modalities.count()));
        for (count, present) in counts.present.iter_mut().zip(row.present) {
            *count += usize::from(present);
        }
    }
    let number = |count: usize| html! { td.number { (thousands(count as u64)) } };
    html! {
        table.counts {
            thead { tr {
                th scope="col" { "split" }
                th.number scope="col" { "rows" }
                th.number scope="col" { "complete" }
                @for modality in spec.modalities.names() { th.number scope="col" { "with " (modality) } }
                th.number scope="col" { "left out" }
            } }
            tbody {
                @for (split, counts) in counts {
                    tr {
                        th scope="row" {
                            @match link(split) {
                                Some(page) => a href=(page) { (split) },
                                None => (split),
                            }
                        }
                        (number(counts.rows)) (number(counts.complete))
                        @for count in counts.present.into_iter().take(spec.modalities.count()) { (number(count)) }
                        (number(failures.quarantined.get(&split).copied().unwrap_or_default()))
                    }
                }
            }
        }
        p.note { "Samples of which no input is left are left out of the shards; failures.parquet has their ids." }
    }
}

/// Returns the counts behind the chart of class balance.
fn class_counts(balance: &Value) -> Markup {
    let list = |name: &str| balance[name].as_array().map_or(&[][..], Vec::as_slice);
    let (splits, dots) = (list("splits"), list("dots"));
    html! {
        table.counts {
            thead { tr {
                th scope="col" { "class" }
                @for split in splits { th.number scope="col" { (split.as_str().unwrap_or_default()) } }
            } }
            tbody {
                // The chart has one dot for each class and split, in this order.
                @for (class, dots) in list("classes").iter().zip(dots.chunks(splits.len().max(1))) {
                    tr {
                        th scope="row" { (class.as_str().unwrap_or_default()) }
                        @for dot in dots {
                            td.number { (thousands(dot["rows"].as_u64().unwrap_or_default())) }
                        }
                    }
                }
            }
        }
    }
}

fn durations(modality: InputName, data: &Value) -> Markup {
    let seconds = |name: &str| format!("{:.2}", data[name].as_f64().unwrap_or_default());
    let (least, most) = (seconds("least"), seconds("most"));
    if least == most {
        return html! { p { "All last " (least) " s." } };
    }
    let label = format!("Histogram of the durations of {modality}, in seconds, by split");
    let figure = Figure {
        kind: "durations",
        label: &label,
        data,
    };
    html! {
        (figure.markup())
        p.note { "From " (least) " to " (most) " s." }
    }
}

fn missing(spec: &ShardSpec, rows: &[Row]) -> Markup {
    let count = spec.modalities.count();
    if rows.iter().all(|row| row.is_complete(count)) {
        let inputs = match count {
            1 => "its input",
            _ => "both inputs",
        };
        return html! { p { "Every row has " (inputs) "." } };
    }
    let figure = Figure {
        kind: "missing",
        label: "Share of the rows of each split that lack a modality, in percent",
        data: &json!({"modalities": spec.modalities, "bars": charts::missing(spec.modalities, rows)}),
    };
    html! { (figure.markup()) }
}

fn causes(failures: &Failures) -> Markup {
    let mut causes: Vec<(&(InputName, String), &[usize; 2])> = failures.causes.iter().collect();
    causes.sort_by_key(|(cause, [rows, left_out])| {
        (std::cmp::Reverse(rows + left_out), cause.0, cause.1.clone())
    });
    html! {
        table.counts {
            thead { tr {
                th scope="col" { "modality" }
                th scope="col" { "cause" }
                th.number scope="col" { "rows" }
                th.number scope="col" { "left out" }
            } }
            tbody {
                @for ((modality, cause), [rows, left_out]) in causes {
                    tr {
                        td { span.badge data-modality=(modality.modality) { (modality) } }
                        td { (cause) }
                        td.number { (thousands(*rows as u64)) }
                        td.number { (thousands(*left_out as u64)) }
                    }
                }
            }
        }
    }
}
