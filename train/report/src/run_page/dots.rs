//! The data of dot plots: a row for each class, and a dot for each series.

use super::chapter::Availability;
use crate::statistics::Average;
use maud::{Markup, html};
use page::Figure;
use serde::Serialize;

/// The symbols in the legend, as `report.js` draws them.
const SYMBOLS: [&str; 3] = ["\u{25cf}", "\u{25a0}", "\u{25b2}"];

/// A dot plot.
#[derive(Serialize)]
pub struct Dots {
    /// The name of the axis.
    pub axis: String,
    /// Whether the values are fractions, to be shown in per cent.
    pub percent: bool,
    /// Whether each dot hangs on a line from zero.
    pub from_zero: bool,
    /// The series.
    pub series: Vec<Series>,
    /// The rows, from the top.
    pub rows: Vec<Row>,
}

/// What dots of one colour and symbol stand for, such as scores with audio alone.
#[derive(Clone, Serialize)]
pub struct Series {
    /// The name.
    pub name: String,
    /// The CSS colour.
    pub colour: String,
    /// The number of its symbol, below 3.
    pub symbol: usize,
}

/// The row of a class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The name of the class.
    pub class: String,
    /// A value for each series.
    pub values: Vec<Option<Average>>,
}

impl From<&Availability> for Series {
    fn from(availability: &Availability) -> Series {
        Series {
            name: availability.name.clone(),
            colour: availability.colour.to_string(),
            symbol: availability.symbol,
        }
    }
}

impl Dots {
    /// Makes a plot of `values(series, class)`, without the series that have none. The rows are
    /// sorted by the first of their values; classes without it come last.
    pub fn new(
        axis: &str,
        classes: &[String],
        series: Vec<Series>,
        values: impl Fn(usize, usize) -> Option<Average>,
    ) -> Dots {
        let kept = |s: &usize| (0..classes.len()).any(|c| values(*s, c).is_some());
        let kept: Vec<usize> = (0..series.len()).filter(kept).collect();
        let row = |(c, class): (usize, &String)| Row {
            class: class.clone(),
            values: kept.iter().map(|s| values(*s, c)).collect(),
        };
        let mut rows: Vec<Row> = classes.iter().enumerate().map(row).collect();
        let first = |row: &Row| row.values.first().and_then(|v| Some(v.as_ref()?.mean));
        rows.sort_by(|a, b| {
            let order = |row| first(row).unwrap_or(f64::NEG_INFINITY);
            order(b).total_cmp(&order(a))
        });
        Dots {
            axis: axis.to_string(),
            percent: true,
            from_zero: false,
            series: kept.iter().map(|s| series[*s].clone()).collect(),
            rows,
        }
    }

    /// Returns the figure with its legend; nothing if there is no value.
    pub fn markup(&self, label: &str) -> Markup {
        html! {
            @if !self.series.is_empty() {
                p.legend {
                    @for series in &self.series {
                        span {
                            b style={ "color:" (series.colour) } { (SYMBOLS[series.symbol]) }
                            " " (series.name)
                        }
                    }
                }
                (Figure { kind: "dots", label, data: self }.markup())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_the_first_series_that_has_values() {
        let classes = ["a", "b", "c"].map(String::from);
        let series = ["none", "first", "second"].map(|name| Series {
            name: name.into(),
            colour: "red".into(),
            symbol: 0,
        });
        let values = [[None; 3], [Some(0.2), None, Some(0.9)], [Some(1.0); 3]];
        let value = |s: usize, c: usize| Average::of(&[values[s][c]?]);
        let dots = Dots::new("accuracy", &classes, series.into(), value);
        let names: Vec<&str> = dots.series.iter().map(|s| &*s.name).collect();
        assert_eq!(names, ["first", "second"]);
        let order: Vec<&str> = dots.rows.iter().map(|r| &*r.class).collect();
        assert_eq!(order, ["c", "a", "b"]);
        assert_eq!(dots.rows[2].values[0], None);
    }
}
