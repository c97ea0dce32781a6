//! The data of the charts: counts, which the page's script draws.

use std::collections::BTreeMap;

use datasets::{Modalities, Split};
use features::ShardSpec;
use serde_json::{Value, json};

use crate::rows::Row;

/// About how many bars a histogram has.
const BARS: f64 = 30.0;

/// Returns the rows of each class and split as a share of the split's rows in percent, the most
/// frequent class first. Classes without any row are there too.
pub fn class_balance(spec: &ShardSpec, rows: &[Row]) -> Value {
    let mut totals: BTreeMap<Split, usize> = BTreeMap::new();
    let mut counts: BTreeMap<(u32, Split), usize> = BTreeMap::new();
    for row in rows {
        *totals.entry(row.at.0).or_default() += 1;
        for label in &row.labels {
            *counts.entry((*label, row.at.0)).or_default() += 1;
        }
    }
    let count = |class: u32, split: Split| counts.get(&(class, split)).copied().unwrap_or(0);
    let mut classes: Vec<u32> = (0..spec.classes.len() as u32).collect();
    let all = |class: u32| {
        Split::ALL
            .map(|split| count(class, split))
            .iter()
            .sum::<usize>()
    };
    classes.sort_by_key(|&class| (std::cmp::Reverse(all(class)), class));
    let name = |class: u32| &spec.classes[class as usize];
    let dots: Vec<Value> = classes
        .iter()
        .flat_map(|&class| {
            totals
                .iter()
                .map(move |(&split, &total)| (class, split, total))
        })
        .map(|(class, split, total)| {
            let rows = count(class, split);
            let share = 100.0 * rows as f64 / total as f64;
            json!({"class": name(class), "split": split, "rows": rows, "share": round(share)})
        })
        .collect();
    json!({
        "classes": classes.iter().map(|&class| name(class)).collect::<Vec<_>>(),
        "splits": totals.keys().collect::<Vec<_>>(),
        "dots": dots,
    })
}

/// Returns the histogram of the durations of a modality (number `which`), by split. Returns `None`
/// if no row has a duration.
pub fn durations(rows: &[Row], which: usize) -> Option<Value> {
    let all = rows
        .iter()
        .filter_map(|row| Some((row.at.0, row.seconds[which]?)));
    let all: Vec<(Split, f64)> = all
        .filter(|(_, seconds)| seconds.is_finite())
        .map(|(split, seconds)| (split, f64::from(seconds)))
        .collect();
    let values = || all.iter().map(|(_, seconds)| *seconds);
    let (least, most) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let step = round_step((most - least) / BARS);
    let mut counts: BTreeMap<(i64, Split), usize> = BTreeMap::new();
    for (split, seconds) in &all {
        *counts
            .entry(((seconds / step).floor() as i64, *split))
            .or_default() += 1;
    }
    let bars = counts.into_iter().map(|((bar, split), rows)| {
        let edge = |bar: i64| round(bar as f64 * step);
        json!({"from": edge(bar), "to": edge(bar + 1), "split": split, "rows": rows})
    });
    Some(json!({"least": round(least), "most": round(most), "bars": bars.collect::<Vec<_>>()}))
}

/// Returns the least of 1, 2 and 5 times a power of ten that is not below `step`; at least 0.05.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(0.05).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|round| *round >= step.max(0.05) * 0.999)
        .unwrap_or(10.0 * power)
}

/// Returns how many rows of each split lack each modality, with their share in percent.
pub fn missing(modalities: Modalities, rows: &[Row]) -> Vec<Value> {
    let mut counts: BTreeMap<Split, (usize, [usize; 2])> = BTreeMap::new();
    for row in rows {
        let (total, lacks) = counts.entry(row.at.0).or_default();
        *total += 1;
        for (lacks, present) in lacks.iter_mut().zip(row.present) {
            *lacks += usize::from(!present);
        }
    }
    let bars = counts.into_iter().flat_map(|(split, (total, lacks))| {
        modalities.names().zip(lacks).map(move |(modality, rows)| {
            let share = round(100.0 * rows as f64 / total as f64);
            json!({
                "split": split,
                "modality": modality,
                "colour": page::input_colour(modality),
                "rows": rows,
                "share": share,
            })
        })
    });
    bars.collect()
}

/// Rounds to four digits after the point.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::tests::row;
    use datasets::Modality;

    #[test]
    fn class_balance_has_every_class_and_split() {
        let spec = ShardSpec {
            dataset: "toy".into(),
            modalities: Modalities::Two(Modality::Audio, Modality::Video),
            classes: ["a", "b", "c"].map(str::to_owned).into(),
            multi_label: true,
            mel_dtype: features::MelDtype::F32,
            frame_pool: 9,
            segment: false,
            tool_version: "0".into(),
            settings_hash: "00".into(),
        };
        let rows = [
            row(0, Split::Train, &[1], None),
            row(1, Split::Train, &[0, 1], None),
            row(0, Split::Test, &[0], None),
        ];
        let balance = class_balance(&spec, &rows);
        assert_eq!(balance["classes"], json!(["a", "b", "c"]));
        let dots = balance["dots"].as_array().unwrap().iter();
        let rows: Vec<Value> = dots.map(|dot| json!([dot["rows"], dot["share"]])).collect();
        assert_eq!(
            json!(rows),
            json!([
                [1, 50.0],
                [1, 100.0],
                [2, 100.0],
                [0, 0.0],
                [0, 0.0],
                [0, 0.0]
            ])
        );
    }

    #[test]
    fn histograms_count_every_row_in_round_bars() {
        let mut rows: Vec<Row> = (0..100).map(|i| row(i, Split::Train, &[0], None)).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            row.seconds = [Some(i as f32 / 10.0), None];
        }
        let histogram = durations(&rows, 0).unwrap();
        let bars = histogram["bars"].as_array().unwrap();
        let counts = bars.iter().map(|bar| bar["rows"].as_u64().unwrap());
        assert_eq!(counts.sum::<u64>(), 100);
        assert_eq!(
            (&bars[1]["from"], &bars[1]["to"]),
            (&json!(0.5), &json!(1.0))
        );
        assert_eq!(histogram["most"], json!(9.9));
        assert_eq!(durations(&rows, 1), None);
        // All of one duration.
        rows.iter_mut()
            .for_each(|row| row.seconds = [Some(10.0), None]);
        assert_eq!(
            durations(&rows, 0).unwrap()["bars"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn steps_are_round() {
        assert_eq!(
            [0.3, 0.5, 1.1, 4.0, 0.0].map(round_step),
            [0.5, 0.5, 2.0, 5.0, 0.05]
        );
    }
}
