//! Charts as SVG text, for pages and for files of their own: curves, and bars per class.
//!
//! Text and axes take the surrounding text's colour, so that a chart suits light and dark pages.

use crate::text::put;

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

/// Text that is safe in HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, fill: &str, words: &str) {
    put!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{FONT}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{}</text>",
        escape(words)
    );
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
pub fn lines(axes: [&str; 2], series: &[Series]) -> String {
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
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">",
        escape(&format!("{} by {}", axes[1], axes[0]))
    );
    for i in 0..=4 {
        let value = top * f64::from(i) / 4.0;
        put!(
            svg,
            "<line x1=\"{PAD}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#8886\"/>",
            y(value)
        );
        text(
            &mut svg,
            PAD - 5.0,
            y(value) + 4.0,
            "end",
            "currentColor",
            &short(value),
        );
        let value = left + (right - left) * f64::from(i) / 4.0;
        let anchor = if i == 4 { "end" } else { "middle" };
        text(
            &mut svg,
            x(value),
            floor + 16.0,
            anchor,
            "currentColor",
            &short(value),
        );
    }
    text(
        &mut svg,
        WIDTH,
        floor + 34.0,
        "end",
        "currentColor",
        axes[0],
    );
    text(
        &mut svg,
        4.0,
        floor + 34.0,
        "start",
        "currentColor",
        axes[1],
    );
    for (i, one) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<String> = one
            .points
            .iter()
            .map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1)))
            .collect();
        for (p, sd) in one
            .points
            .iter()
            .zip(&one.spread)
            .filter(|(_, sd)| **sd > 0.0)
        {
            put!(
                svg,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"{colour}\" stroke-width=\"1\"/>",
                x(p.0),
                y((p.1 - sd).max(0.0)),
                y((p.1 + sd).min(top))
            );
        }
        put!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"{}\"/>",
            points.join(" ")
        );
        let baseline = FONT * 1.4 * (i as f64 + 0.8);
        put!(
            svg,
            "<rect x=\"{PAD}\" y=\"{:.1}\" width=\"18\" height=\"4\" fill=\"{colour}\"/>",
            baseline - 6.0
        );
        text(
            &mut svg,
            PAD + 24.0,
            baseline,
            "start",
            "currentColor",
            &one.name,
        );
    }
    svg + "</svg>"
}

/// Grouped horizontal bars: per group a name and one value per series; all values at least 0.
pub fn bars(what: &str, series: &[&str], groups: &[(String, Vec<Option<f64>>)]) -> String {
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
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">",
        escape(what)
    );
    for (i, name) in series.iter().enumerate() {
        let baseline = FONT * 1.6 * (i as f64 + 0.75);
        put!(
            svg,
            "<rect x=\"4\" y=\"{:.1}\" width=\"14\" height=\"{BAR}\" fill=\"{}\"/>",
            baseline - BAR,
            COLOURS[i % COLOURS.len()]
        );
        text(&mut svg, 24.0, baseline, "start", "currentColor", name);
    }
    let axis = |svg: &mut String, share: f64, anchor: &str| {
        let x = LABEL + (WIDTH - LABEL - NUMBER) * share;
        put!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{legend:.1}\" y2=\"{floor:.1}\" stroke=\"#8886\"/>"
        );
        text(
            svg,
            x,
            floor + FONT + 2.0,
            anchor,
            "currentColor",
            &short(top * share),
        );
    };
    axis(&mut svg, 0.0, "start");
    axis(&mut svg, 0.5, "middle");
    axis(&mut svg, 1.0, "end");
    for (g, (name, values)) in groups.iter().enumerate() {
        let start = legend + each * g as f64;
        let middle = start + BAR * series.len() as f64 / 2.0 + FONT * 0.35;
        let short_name: String = name.chars().take(24).collect();
        text(
            &mut svg,
            LABEL - 8.0,
            middle,
            "end",
            "currentColor",
            &short_name,
        );
        for (i, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let width = (WIDTH - LABEL - NUMBER) * value / top;
            let y = start + BAR * i as f64;
            put!(
                svg,
                "<rect x=\"{LABEL}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}: {value:.4}</title></rect>",
                BAR - 1.0,
                COLOURS[i % COLOURS.len()],
                escape(series[i]),
            );
        }
    }
    svg + "</svg>"
}

/// A chart as a file of its own, readable on light and on dark ground.
pub fn standalone(svg: &str) -> String {
    let head = "<svg xmlns=\"http://www.w3.org/2000/svg\" font-family=\"system-ui, sans-serif\" ";
    let style = "<style>svg{color:#1c1c1c;background:#fff}@media(prefers-color-scheme:dark){svg{color:#ddd;background:#161616}}</style>";
    let svg = svg.replacen("<svg ", head, 1);
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
        let svg = lines(["x", "y"], &[curve]);
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
            .split("<rect x=\"170\"")
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
