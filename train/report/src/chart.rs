//! Charts as SVG text, within pages and as files: line charts, and bar charts per class.
//!
//! Text and axes take the colour of the surrounding text, so that a chart suits light and dark
//! pages.

use maud::{Markup, html};

/// The colours of the series, in order; they are distinct on light and on dark backgrounds.
const COLOURS: [&str; 6] = [
    "#2f6fde", "#d9622b", "#2a9d5c", "#a24bcf", "#b08c00", "#d0417e",
];

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 280.0;
/// The space for the labels on the left and below.
const PADDING: f64 = 44.0;
const FONT_SIZE: f64 = 12.0;
/// The most characters of a label beside a bar.
const MAX_LABEL: usize = 24;

/// One line of a line chart.
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points (x, y).
    pub points: Vec<(f64, f64)>,
    /// The standard deviation of each point's y; empty if there is none.
    pub deviations: Vec<f64>,
}

/// A label; `anchor` says whether (x, y) is its `start`, `middle` or `end`.
fn label(x: f64, y: f64, anchor: &str, text: &str) -> Markup {
    html! {
        text x=(coordinate(x)) y=(coordinate(y)) font-size=(FONT_SIZE as u32) text-anchor=(anchor)
            fill="currentColor" { (text) }
    }
}

/// A label that ends at (x, y), with at most [`MAX_LABEL`] characters. A longer one is cut, which an
/// ellipsis shows, and has its full text as tooltip.
fn short_label(x: f64, y: f64, text: &str) -> Markup {
    if text.chars().count() <= MAX_LABEL {
        return label(x, y, "end", text);
    }
    let short: String = text
        .chars()
        .take(MAX_LABEL - 1)
        .chain(['\u{2026}'])
        .collect();
    html! {
        text x=(coordinate(x)) y=(coordinate(y)) font-size=(FONT_SIZE as u32) text-anchor="end"
            fill="currentColor" { title { (text) } (short) }
    }
}

/// Formats a coordinate with one decimal.
fn coordinate(value: f64) -> String {
    format!("{value:.1}")
}

fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

/// A vertical or horizontal grid line.
fn grid_line(x: [f64; 2], y: [f64; 2]) -> Markup {
    html! {
        line x1=(coordinate(x[0])) x2=(coordinate(x[1])) y1=(coordinate(y[0])) y2=(coordinate(y[1]))
            stroke="#8886" {}
    }
}

/// Formats the label of an axis tick with as few digits as tell it from its neighbours.
fn tick(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 10.0 || v == 0.0 => 0,
        v if v >= 1.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// The plot area of a line chart: from data to coordinates.
struct PlotArea {
    /// The range of the data on the x axis.
    x_range: (f64, f64),
    /// The largest value on the y axis, which starts at 0.
    y_max: f64,
    /// The coordinates of the lower and the upper edge.
    bottom: f64,
    top: f64,
}

impl PlotArea {
    /// Fits an area below a legend of that height to the data.
    fn fit(series: &[Series], legend_height: f64) -> PlotArea {
        let all = || series.iter().flat_map(|s| &s.points);
        let (left, right) = all().fold((f64::MAX, f64::MIN), |(l, r), p| (l.min(p.0), r.max(p.0)));
        let x_range = if left < right {
            (left, right)
        } else {
            (0.0, all().map(|p| p.0).fold(1.0, f64::max))
        };
        PlotArea {
            x_range,
            y_max: all().map(|p| p.1).fold(0.0, f64::max).max(1e-9) * 1.05,
            bottom: HEIGHT - PADDING + legend_height,
            top: 12.0 + legend_height,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let (left, right) = self.x_range;
        PADDING + (WIDTH - PADDING - 12.0) * (value - left) / (right - left)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * value / self.y_max
    }

    /// The grid lines of the y axis and the tick labels of both axes.
    fn grid(&self) -> Markup {
        let (left, right) = self.x_range;
        html! {
            @for i in 0..=4 {
                @let value = self.y_max * f64::from(i) / 4.0;
                (grid_line([PADDING, WIDTH], [self.y(value); 2]))
                (label(PADDING - 5.0, self.y(value) + 4.0, "end", &tick(value)))
                @let value = left + (right - left) * f64::from(i) / 4.0;
                @let anchor = if i == 4 { "end" } else { "middle" };
                (label(self.x(value), self.bottom + 16.0, anchor, &tick(value)))
            }
        }
    }

    /// A line through the points of a series, and a bar of one standard deviation at each.
    fn line(&self, series: &Series, colour: &str) -> Markup {
        let points = series.points.iter();
        let deviations = points.clone().zip(&series.deviations);
        let path: Vec<String> = points
            .map(|p| format!("{:.1},{:.1}", self.x(p.0), self.y(p.1)))
            .collect();
        html! {
            @for ((x, y), sd) in deviations.filter(|(_, sd)| **sd > 0.0) {
                line x1=(coordinate(self.x(*x))) x2=(coordinate(self.x(*x)))
                    y1=(coordinate(self.y((y - sd).max(0.0))))
                    y2=(coordinate(self.y((y + sd).min(self.y_max))))
                    stroke=(colour) stroke-width="1" {}
            }
            polyline fill="none" stroke=(colour) stroke-width="2" stroke-linejoin="round"
                points=(path.join(" ")) {}
        }
    }
}

/// Draws a line chart. `axes` are the names of x and y; y starts at 0.
pub fn line_chart(axes: [&str; 2], series: &[Series]) -> Markup {
    let legend_height = FONT_SIZE * 1.4 * series.len() as f64;
    let height = HEIGHT + legend_height;
    let area = PlotArea::fit(series, legend_height);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img"
            aria-label={ (axes[1]) " by " (axes[0]) } {
            (area.grid())
            (label(WIDTH, area.bottom + 34.0, "end", axes[0]))
            (label(4.0, area.bottom + 34.0, "start", axes[1]))
            @for (i, line) in series.iter().enumerate() {
                (area.line(line, colour(i)))
                @let baseline = FONT_SIZE * 1.4 * (i as f64 + 0.8);
                rect x=(coordinate(PADDING)) y=(coordinate(baseline - 6.0)) width="18" height="4"
                    fill=(colour(i)) {}
                (label(PADDING + 24.0, baseline, "start", &line.name))
            }
        }
    }
}

/// A group of bars: its name, and one value per series.
pub type BarGroup = (String, Vec<Option<f64>>);

/// Draws a chart of grouped horizontal bars; all values are at least 0.
pub fn bar_chart(title: &str, series: &[&str], groups: &[BarGroup]) -> Markup {
    const BAR_HEIGHT: f64 = 9.0;
    const LABEL_WIDTH: f64 = 170.0;
    const NUMBER_WIDTH: f64 = 48.0;
    let max = groups
        .iter()
        .flat_map(|g| g.1.iter().flatten())
        .fold(0.0f64, |m, v| m.max(*v))
        .max(1e-9);
    let group_height = BAR_HEIGHT * series.len() as f64 + 8.0;
    let legend_height = FONT_SIZE * 1.6 * series.len() as f64 + 6.0;
    let bottom = legend_height + group_height * groups.len() as f64;
    let height = bottom + FONT_SIZE + 8.0;
    let plot_width = WIDTH - LABEL_WIDTH - NUMBER_WIDTH;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" aria-label=(title) {
            @for (i, name) in series.iter().enumerate() {
                @let baseline = FONT_SIZE * 1.6 * (i as f64 + 0.75);
                rect x="4" y=(coordinate(baseline - BAR_HEIGHT)) width="14"
                    height=(coordinate(BAR_HEIGHT)) fill=(colour(i)) {}
                (label(24.0, baseline, "start", name))
            }
            @for (share, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
                @let x = LABEL_WIDTH + plot_width * share;
                (grid_line([x; 2], [legend_height, bottom]))
                (label(x, bottom + FONT_SIZE + 2.0, anchor, &tick(max * share)))
            }
            @for (g, (name, values)) in groups.iter().enumerate() {
                @let top = legend_height + group_height * g as f64;
                @let middle = top + BAR_HEIGHT * series.len() as f64 / 2.0 + FONT_SIZE * 0.35;
                (short_label(LABEL_WIDTH - 8.0, middle, name))
                @for (i, value) in values.iter().enumerate() {
                    @if let Some(value) = value {
                        rect x=(coordinate(LABEL_WIDTH))
                            y=(coordinate(top + BAR_HEIGHT * i as f64))
                            width=(coordinate(plot_width * value / max))
                            height=(coordinate(BAR_HEIGHT - 1.0)) fill=(colour(i)) {
                            title { (series[i]) ": " (format!("{value:.4}")) }
                        }
                    }
                }
            }
        }
    }
}

/// Returns a chart as the text of an SVG file, readable on light and on dark backgrounds.
pub fn svg_file(svg: &Markup) -> String {
    let head = "<svg xmlns=\"http://www.w3.org/2000/svg\" font-family=\"system-ui, sans-serif\" ";
    let style = "<style>svg{color:#1c1c1c;background:#fff}\
                 @media(prefers-color-scheme:dark){svg{color:#ddd;background:#161616}}</style>";
    let svg = svg.0.replacen("<svg ", head, 1);
    let svg = svg.replacen('>', &format!(">{style}"), 1);
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{svg}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cut name ends in an ellipsis, and the whole one is its tooltip.
    #[test]
    fn long_labels_are_cut_visibly() {
        let long = "Female speech, woman speaking \u{e9}";
        let groups = [
            long,
            "Male speech, man speaking",
            "exactly 24 characters ok",
            "Cat",
        ];
        let groups = groups.map(|name| (name.to_owned(), vec![Some(0.5)]));
        let svg = bar_chart("", &["accuracy"], &groups).into_string();
        for shown in [
            "<title>Female speech, woman speaking \u{e9}</title>Female speech, woman sp\u{2026}<",
            "<title>Male speech, man speaking</title>Male speech, man speaki\u{2026}<",
            ">exactly 24 characters ok<",
            ">Cat<",
        ] {
            assert!(svg.contains(shown), "{shown}: {svg}");
        }
    }

    #[test]
    fn coordinates_are_proportional_to_the_values() {
        let series = Series {
            name: "a < b".into(),
            points: vec![(0.0, 0.0), (5.0, 1.0), (10.0, 2.0)],
            deviations: vec![0.0, 0.5, 0.0],
        };
        let svg = line_chart(["x", "y"], &[series]).into_string();
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
        // Points on a straight line stay on one; a larger y lies higher up.
        assert!((points[1][0] * 2.0 - points[0][0] - points[2][0]).abs() < 0.3);
        assert!((points[1][1] * 2.0 - points[0][1] - points[2][1]).abs() < 0.3);
        assert!(points[2][1] < points[0][1]);
        let svg = bar_chart(
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
        assert!(svg_file(&svg).contains("xmlns"));
    }
}
