//! Charts as SVG files: a line with deviations, and dots per class. They look as those of the
//! report page do, on white ground, so that they can be shown wherever the Markdown beside them is.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

/// The colours of the series, which are those of the page on light ground.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0x25, 0x63, 0xc9),
    RGBColor(0xb2, 0x5f, 0x00),
    RGBColor(0x0e, 0x7f, 0x6d),
    RGBColor(0x8a, 0x3f, 0xb8),
];
const TEXT: RGBColor = RGBColor(0x1d, 0x1d, 0x1f);
const GRID: RGBColor = RGBColor(0xe2, 0xe2, 0xe4);
const AXIS: RGBColor = RGBColor(0xa0, 0xa0, 0xa8);

const WIDTH: u32 = 800;
/// The size of text in pixels; plotters divides by 1.24.
const FONT_SIZE: f64 = 13.0 * 1.24;
/// About the width of a character in pixels.
const CHARACTER: u32 = 7;
/// The most characters of a class's name.
const MAX_NAME: usize = 40;
/// The largest number of intervals between ticks.
const INTERVALS: f64 = 6.0;
/// The largest number of ticks of an axis.
const TICKS: usize = 8;
/// The half of a marker's size, in pixels.
const RADIUS: i32 = 4;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A point of a line: x, and mean and standard deviation of y.
pub type Point = (f64, f64, Option<f64>);

/// A row of dots: the name of a class, and a value for each series.
pub type DotRow = (String, Vec<Option<f64>>);

/// Draws a line with its name at the end, and a band of one standard deviation to each side.
///
/// # Errors
/// The chart cannot be drawn.
pub fn line_chart(axes: [&str; 2], name: &str, points: &[Point]) -> Result<String> {
    let heights = points.iter().flat_map(|(_, y, sd)| {
        let sd = sd.unwrap_or(0.0);
        [y - sd, y + sd]
    });
    let y_range = round_range(heights);
    let x_range = round_range(points.iter().map(|p| p.0));
    draw(320, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(16)
            .margin_left(8)
            .margin_right(16 + CHARACTER * name.chars().count() as u32)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(x_range.clone(), y_range.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .label_style(text(HPos::Center))
            .axis_desc_style(text(HPos::Center))
            .x_desc(axes[0])
            .y_desc(axes[1])
            .x_labels(TICKS)
            .y_labels(TICKS)
            .x_label_formatter(&tick_format(&x_range))
            .y_label_formatter(&tick_format(&y_range))
            .draw()?;
        let colour = COLOURS[0];
        let edge = |sign: f64| {
            points
                .iter()
                .map(move |(x, y, sd)| (*x, y + sign * sd.unwrap_or(0.0)))
        };
        let band: Vec<(f64, f64)> = edge(1.0).chain(edge(-1.0).rev()).collect();
        chart.draw_series([Polygon::new(band, colour.mix(0.15))])?;
        let line = points.iter().map(|(x, y, _)| (*x, *y));
        chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
        for (x, y, _) in points {
            marker(area, 0, chart.backend_coord(&(*x, *y)))?;
        }
        if let Some((x, y, _)) = points.last() {
            let (x, y) = chart.backend_coord(&(*x, *y));
            let style = text(HPos::Left).color(&colour);
            area.draw(&Text::new(name.to_owned(), (x + 10, y), style))?;
        }
        Ok(())
    })
}

/// Draws a row for each class with a dot for each series.
///
/// # Errors
/// The chart cannot be drawn.
pub fn dot_chart(axis: &str, series: &[&str], rows: &[DotRow]) -> Result<String> {
    const ROW: u32 = 20;
    const LEGEND_LINE: u32 = 20;
    const AXIS_SPACE: u32 = 52;
    let range = round_range(
        rows.iter()
            .flat_map(|(_, values)| values.iter().flatten().copied()),
    );
    let longest = rows
        .iter()
        .map(|(name, _)| short(name).chars().count())
        .max();
    let legend = 8 + LEGEND_LINE * series.len() as u32;
    let row_count = rows.len() as u32;
    draw(legend + ROW * row_count + AXIS_SPACE, |area| {
        for (s, name) in series.iter().enumerate() {
            let y = (8 + LEGEND_LINE * s as u32 + LEGEND_LINE / 2) as i32;
            marker(area, s, (16, y))?;
            area.draw(&Text::new(name.to_string(), (30, y), text(HPos::Left)))?;
        }
        let mut chart = ChartBuilder::on(area)
            .margin_top(legend)
            .margin_right(24)
            .x_label_area_size(AXIS_SPACE)
            .y_label_area_size(16 + CHARACTER * longest.unwrap_or(0) as u32)
            // The first row is the upper one.
            .build_cartesian_2d(range.clone(), f64::from(row_count)..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .label_style(text(HPos::Center))
            .axis_desc_style(text(HPos::Center))
            .x_desc(axis)
            .x_labels(TICKS)
            .x_label_formatter(&tick_format(&range))
            .draw()?;
        for (i, (name, values)) in rows.iter().enumerate() {
            let place = |value: f64| chart.backend_coord(&(value, i as f64 + 0.5));
            let (left, y) = place(range.start);
            area.draw(&Text::new(short(name), (left - 8, y), text(HPos::Right)))?;
            area.draw(&PathElement::new(
                [(left, y), (place(range.end).0, y)],
                GRID.mix(0.6),
            ))?;
            for (s, value) in values.iter().enumerate() {
                if let Some(value) = value {
                    // Dots of one value lie on one another: the later ones a little lower.
                    let lower = 3 * (2 * s as i32 - (series.len() as i32 - 1)) / 2;
                    let (x, y) = place(*value);
                    marker(area, s, (x, y + lower))?;
                }
            }
        }
        Ok(())
    })
}

/// Draws on white ground and returns the SVG.
fn draw(height: u32, content: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        content(&area)?;
        area.present()?;
    }
    Ok(svg)
}

/// The style of text that lies beside a point.
fn text(horizontally: HPos) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", FONT_SIZE))
        .color(&TEXT)
        .pos(Pos::new(horizontally, VPos::Center))
}

/// Draws the marker of a series: a disc, a square, a triangle or a cross.
fn marker(area: &Area, series: usize, (x, y): (i32, i32)) -> Result<()> {
    let colour = COLOURS[series % COLOURS.len()];
    let style = colour.filled();
    match series % COLOURS.len() {
        0 => area.draw(&Circle::new((x, y), RADIUS, style))?,
        1 => {
            let corners = [(x - RADIUS, y - RADIUS), (x + RADIUS, y + RADIUS)];
            area.draw(&Rectangle::new(corners, style))?;
        }
        2 => area.draw(&TriangleMarker::new((x, y), RADIUS + 1, style))?,
        _ => area.draw(&Cross::new((x, y), RADIUS, colour.stroke_width(2)))?,
    }
    Ok(())
}

/// Returns a class's name with at most [`MAX_NAME`] characters; an ellipsis shows where it is cut.
fn short(name: &str) -> String {
    if name.chars().count() <= MAX_NAME {
        return name.to_string();
    }
    name.chars()
        .take(MAX_NAME - 1)
        .chain(['\u{2026}'])
        .collect()
}

/// Returns the range of values, widened to multiples of 1, 2 or 5 times a power of ten, at which
/// plotters sets its ticks.
fn round_range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let (low, high) = match low < high {
        true => (low, high),
        // One value or none.
        false if low == high => (low.min(0.0), high.max(low.min(0.0) + 1.0)),
        false => (0.0, 1.0),
    };
    let least_step = (high - low) / INTERVALS;
    let power = 10f64.powf(least_step.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|step| step * power);
    let step = steps
        .into_iter()
        .find(|step| *step >= least_step)
        .unwrap_or(10.0 * power);
    (low / step).floor() * step..(high / step).ceil() * step
}

/// Returns the format of an axis: as many decimals as all of its ticks need.
fn tick_format(range: &Range<f64>) -> impl Fn(&f64) -> String + use<> {
    let ticks = RangedCoordf64::from(range.clone()).key_points(TICKS);
    let is_exact = |decimals: &usize| {
        let power = 10f64.powi(*decimals as i32);
        ticks
            .iter()
            .all(|tick| (tick * power - (tick * power).round()).abs() < 1e-6)
    };
    let decimals = (0..6).find(is_exact).unwrap_or(6);
    move |value: &f64| {
        // Minus zero is written as zero.
        let value = if value.abs() < 1e-9 { 0.0 } else { *value };
        format!("{value:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contents of all `text` elements.
    fn texts(svg: &str) -> Vec<&str> {
        let parts = svg.split("<text").skip(1);
        parts
            .filter_map(|p| Some(p.split_once('>')?.1.split_once('<')?.0.trim()))
            .collect()
    }

    /// The attribute of all elements of a kind.
    fn numbers(svg: &str, element: &str, attribute: &str) -> Vec<f64> {
        let start = format!("<{element} ");
        let elements = svg.split(&start).skip(1);
        let value = |e: &str| {
            let rest = e.split_once(&format!("{attribute}=\""))?.1;
            rest.split_once('"')?.0.parse().ok()
        };
        elements.filter_map(value).collect()
    }

    #[test]
    fn ranges_end_at_round_numbers() {
        let range = |values: &[f64]| round_range(values.iter().copied());
        assert_eq!(range(&[37.0, 81.0]), 30.0..90.0);
        assert_eq!(range(&[0.0, 100.0]), 0.0..100.0);
        assert_eq!(range(&[-3.0, 11.0]), -5.0..15.0);
        assert_eq!(range(&[0.5]), 0.0..1.0);
        assert_eq!(range(&[]), 0.0..1.0);
    }

    #[test]
    fn ticks_of_an_axis_have_the_same_decimals() {
        let format = |low: f64, high: f64, value: f64| tick_format(&(low..high))(&value);
        assert_eq!(format(1.6, 1.9, 1.6), "1.60");
        assert_eq!(format(0.0, 100.0, 20.0), "20");
        assert_eq!(format(-1.0, 1.0, -1e-17), "0.0");
    }

    #[test]
    fn lines_have_round_ticks_and_points_in_proportion() {
        let points = [
            (0.0, 40.0, Some(2.0)),
            (50.0, 60.0, None),
            (100.0, 80.0, Some(1.0)),
        ];
        let svg = line_chart(["share, %", "a < b"], "ours & co", &points).unwrap();
        let found = texts(&svg);
        for text in ["0", "50", "60", "80", "a &lt; b", "ours &amp; co"] {
            assert!(found.contains(&text), "{text}: {found:?}");
        }
        let y = numbers(&svg, "circle", "cy");
        assert!(
            (y[0] + y[2] - 2.0 * y[1]).abs() <= 1.0 && y[0] > y[2],
            "{y:?}"
        );
    }

    #[test]
    fn dots_lie_in_their_rows_in_proportion() {
        let long = "A class whose name is far too long for the chart";
        let rows: [DotRow; 3] = [
            ("Cat".into(), vec![Some(0.0), Some(100.0)]),
            (long.into(), vec![Some(50.0), None]),
            ("Dog".into(), vec![Some(100.0), None]),
        ];
        let svg = dot_chart("accuracy, %", &["one", "two"], &rows).unwrap();
        let found = texts(&svg);
        assert!(
            found.contains(&"A class whose name is far too long for \u{2026}"),
            "{found:?}"
        );
        assert!(
            ["Cat", "Dog", "one", "two", "100"]
                .iter()
                .all(|t| found.contains(t))
        );
        // The first circle is that of the legend.
        let [_, x @ ..] = &numbers(&svg, "circle", "cx")[..] else {
            panic!("no dots");
        };
        assert!(
            (x[0] + x[2] - 2.0 * x[1]).abs() <= 1.0 && x[0] < x[2],
            "{x:?}"
        );
        let [_, y @ ..] = &numbers(&svg, "circle", "cy")[..] else {
            panic!("no dots");
        };
        assert!(y[0] < y[1] && y[1] < y[2], "{y:?}");
    }
}
