//! Charts as SVG text, for pages and for files of their own: curves, and bars per class.
//!
//! Text and axes take the surrounding text's colour, so that a chart suits light and dark pages.

use maud::{Markup, html};

/// Colours of the series, in order; distinct on light and on dark ground.
pub const COLOURS: [&str; 6] = [
    "#2f6fde", "#d9622b", "#2a9d5c", "#a24bcf", "#b08c00", "#d0417e",
];

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 280.0;
/// Room for the numbers on the left and the words below.
const PAD: f64 = 44.0;
const FONT: f64 = 12.0;

/// One curve.
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// (x, y).
    pub points: Vec<(f64, f64)>,
    /// Standard deviation of each point's y; empty for none.
    pub spread: Vec<f64>,
}

/// A text at a place; `anchor` is its `start`, `middle` or `end`.
fn text(x: f64, y: f64, anchor: &str, words: &str) -> Markup {
    html! {
        text x=(one(x)) y=(one(y)) font-size=(FONT as u32) text-anchor=(anchor) fill="currentColor" { (words) }
    }
}

/// A coordinate to a tenth of a unit.
fn one(value: f64) -> String {
    format!("{value:.1}")
}

/// A vertical or horizontal line of a grid.
fn grid(x: [f64; 2], y: [f64; 2]) -> Markup {
    html! { line x1=(one(x[0])) x2=(one(x[1])) y1=(one(y[0])) y2=(one(y[1])) stroke="#8886" {} }
}

/// A number in as few digits as tell it from its neighbours.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 10.0 || v == 0.0 => 0,
        v if v >= 1.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Curves over a shared axis; y starts at 0. `axes` names x and y.
pub fn lines(axes: [&str; 2], series: &[Series]) -> Markup {
    let all = || series.iter().flat_map(|s| &s.points);
    let (left, right) = all().fold((f64::MAX, f64::MIN), |(l, r), p| (l.min(p.0), r.max(p.0)));
    let (left, right) = if left < right {
        (left, right)
    } else {
        (0.0, all().map(|p| p.0).fold(1.0, f64::max))
    };
    let top = all().map(|p| p.1).fold(0.0, f64::max).max(1e-9) * 1.05;
    let legend = FONT * 1.4 * series.len() as f64;
    let (floor, ceiling) = (HEIGHT - PAD + legend, 12.0 + legend);
    let height = HEIGHT + legend;
    let x = |v: f64| PAD + (WIDTH - PAD - 12.0) * (v - left) / (right - left);
    let y = |v: f64| floor - (floor - ceiling) * v / top;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" aria-label={ (axes[1]) " by " (axes[0]) } {
            @for i in 0..=4 {
                @let value = top * f64::from(i) / 4.0;
                (grid([PAD, WIDTH], [y(value); 2]))
                (text(PAD - 5.0, y(value) + 4.0, "end", &short(value)))
                @let value = left + (right - left) * f64::from(i) / 4.0;
                (text(x(value), floor + 16.0, if i == 4 { "end" } else { "middle" }, &short(value)))
            }
            (text(WIDTH, floor + 34.0, "end", axes[0]))
            (text(4.0, floor + 34.0, "start", axes[1]))
            @for (i, curve) in series.iter().enumerate() {
                @let colour = COLOURS[i % COLOURS.len()];
                @for (p, sd) in curve.points.iter().zip(&curve.spread).filter(|(_, sd)| **sd > 0.0) {
                    line x1=(one(x(p.0))) x2=(one(x(p.0))) y1=(one(y((p.1 - sd).max(0.0)))) y2=(one(y((p.1 + sd).min(top))))
                        stroke=(colour) stroke-width="1" {}
                }
                @let points: Vec<String> = curve.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
                polyline fill="none" stroke=(colour) stroke-width="2" stroke-linejoin="round" points=(points.join(" ")) {}
                @let baseline = FONT * 1.4 * (i as f64 + 0.8);
                rect x=(one(PAD)) y=(one(baseline - 6.0)) width="18" height="4" fill=(colour) {}
                (text(PAD + 24.0, baseline, "start", &curve.name))
            }
        }
    }
}

/// Grouped horizontal bars: per group a name and one value per series; all values at least 0.
pub fn bars(what: &str, series: &[&str], groups: &[(String, Vec<Option<f64>>)]) -> Markup {
    const BAR: f64 = 9.0;
    const LABEL: f64 = 170.0;
    const NUMBER: f64 = 48.0;
    let top = groups
        .iter()
        .flat_map(|g| g.1.iter().flatten())
        .fold(0.0f64, |m, v| m.max(*v))
        .max(1e-9);
    let each = BAR * series.len() as f64 + 8.0;
    let legend = FONT * 1.6 * series.len() as f64 + 6.0;
    let floor = legend + each * groups.len() as f64;
    let height = floor + FONT + 8.0;
    let span = WIDTH - LABEL - NUMBER;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" aria-label=(what) {
            @for (i, name) in series.iter().enumerate() {
                @let baseline = FONT * 1.6 * (i as f64 + 0.75);
                rect x="4" y=(one(baseline - BAR)) width="14" height=(one(BAR)) fill=(COLOURS[i % COLOURS.len()]) {}
                (text(24.0, baseline, "start", name))
            }
            @for (share, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
                @let x = LABEL + span * share;
                (grid([x; 2], [legend, floor]))
                (text(x, floor + FONT + 2.0, anchor, &short(top * share)))
            }
            @for (g, (name, values)) in groups.iter().enumerate() {
                @let start = legend + each * g as f64;
                @let middle = start + BAR * series.len() as f64 / 2.0 + FONT * 0.35;
                @let label: String = name.chars().take(24).collect();
                (text(LABEL - 8.0, middle, "end", &label))
                @for (i, value) in values.iter().enumerate() {
                    @if let Some(value) = value {
                        rect x=(one(LABEL)) y=(one(start + BAR * i as f64)) width=(one(span * value / top))
                            height=(one(BAR - 1.0)) fill=(COLOURS[i % COLOURS.len()]) {
                            title { (series[i]) ": " (format!("{value:.4}")) }
                        }
                    }
                }
            }
        }
    }
}

/// A chart as a file of its own, readable on light and on dark ground.
pub fn standalone(svg: &Markup) -> String {
    let head = "<svg xmlns=\"http://www.w3.org/2000/svg\" font-family=\"system-ui, sans-serif\" ";
    let style = "<style>svg{color:#1c1c1c;background:#fff}@media(prefers-color-scheme:dark){svg{color:#ddd;background:#161616}}</style>";
    let svg = svg.0.replacen("<svg ", head, 1);
    let svg = svg.replacen('>', &format!(">{style}"), 1);
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{svg}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_true_to_the_values() {
        let curve = Series {
            name: "a < b".into(),
            points: vec![(0.0, 0.0), (5.0, 1.0), (10.0, 2.0)],
            spread: vec![0.0, 0.5, 0.0],
        };
        let svg = lines(["x", "y"], &[curve]).into_string();
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
        let points = svg
            .split("points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let points: Vec<Vec<f64>> = points
            .split(' ')
            .map(|p| p.split(',').map(|v| v.parse().unwrap()).collect())
            .collect();
        // Straight line in the data, straight line in the picture, upwards.
        assert!((points[1][0] * 2.0 - points[0][0] - points[2][0]).abs() < 0.3);
        assert!((points[1][1] * 2.0 - points[0][1] - points[2][1]).abs() < 0.3);
        assert!(points[2][1] < points[0][1]);
        let svg = bars(
            "f1",
            &["one", "two"],
            &[("c".into(), vec![Some(0.5), Some(1.0)])],
        );
        let widths: Vec<f64> = svg
            .0
            .split("<rect x=\"170.0\"")
            .skip(1)
            .map(|r| {
                r.split("width=\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        assert!((widths[1] - 2.0 * widths[0]).abs() < 0.2, "{widths:?}");
        assert!(standalone(&svg).contains("xmlns"));
    }
}
