//! The filters of a page, and what its script needs to know of each row.

use std::collections::BTreeMap;

use datasets::Split;
use features::ShardSpec;
use page::{Markup, html};
use util::number::thousands;

use crate::rows::Row;

/// Bits of a row: it has the first modality, it has the second one, and its column `error` is not
/// empty.
const FIRST: u32 = 1;
const SECOND: u32 = 2;
const PROBLEM: u32 = 4;

/// Returns the bits that the script filters by.
pub fn bits(row: &Row) -> u32 {
    let bit = |is_set, bit| if is_set { bit } else { 0 };
    bit(row.present[0], FIRST) | bit(row.present[1], SECOND) | bit(row.error.is_some(), PROBLEM)
}

/// Returns the filters of these rows: by split, class, availability and part of the id. A choice
/// that would leave nothing is not offered.
pub fn markup<'a>(spec: &ShardSpec, rows: impl Iterator<Item = &'a Row> + Clone) -> Markup {
    let mut splits: BTreeMap<Split, usize> = BTreeMap::new();
    let mut classes: BTreeMap<u32, usize> = BTreeMap::new();
    let (mut total, mut complete, mut problem, mut lacks) = (0, 0, 0, [0, 0]);
    for row in rows {
        total += 1;
        *splits.entry(row.at.0).or_default() += 1;
        for label in &row.labels {
            *classes.entry(*label).or_default() += 1;
        }
        complete += usize::from(row.present == [true; 2]);
        problem += usize::from(row.error.is_some());
        for (lacks, present) in lacks.iter_mut().zip(row.present) {
            *lacks += usize::from(!present);
        }
    }
    let option = |value: String, text: &str, count: usize| {
        html! {
            @if count > 0 { option value=(value) { (text) " (" (thousands(count as u64)) ")" } }
        }
    };
    let all = || option(String::new(), "all", total);
    html! {
        form.filters role="search" aria-label="Filter the samples" {
            label { "Split " select name="split" {
                (all())
                @for (split, count) in splits { (option(split.to_string(), split.as_str(), count)) }
            } }
            label { "Class " select name="class" {
                (all())
                @for (class, count) in classes {
                    (option(class.to_string(), &spec.classes[class as usize], count))
                }
            } }
            label { "Availability " select name="has" {
                (all())
                (option("complete".into(), "complete", complete))
                @for (i, (modality, lacks)) in spec.modalities.names().zip(lacks).enumerate() {
                    (option(format!("no{i}"), &format!("no {modality}"), lacks))
                }
                (option("problem".into(), "with a problem", problem))
            } }
            label { "Id " input type="search" name="id" size="12" autocomplete="off"; }
            output aria-live="polite" {}
        }
    }
}
