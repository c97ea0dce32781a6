//! HTML pages with figures, complete in one file: styles, scripts, data and images are embedded,
//! and nothing is loaded from elsewhere.
//!
//! A figure is a [`Figure`]: data as JSON, and the name of a function that draws them with
//! Observable Plot. The functions are in the page's own script, which registers each with
//! `figures.define(NAME, draw)`; `draw(data, width)` returns an element. A figure is drawn when it
//! comes near the visible part of the page, and again when its width changes, so that the size of
//! its text is the same on a phone and on a wide screen. Plot draws axes and text in the colour of
//! the surrounding text, so that a figure suits light and dark pages.
//!
//! A [`Sample`] is shown by [`Sample::markup`]: frames with their times, image, log-mel spectrogram
//! and text, or why one of them is missing.
//!
//! ```
//! use page::{Document, Figure, html};
//!
//! let figure = Figure {
//!     kind: "durations",
//!     label: "Histogram of the clips' durations",
//!     data: &serde_json::json!([1.5, 2.0, 2.5]),
//! };
//! let document = Document {
//!     title: "Durations",
//!     body: html! { h1 { "Durations" } (figure.markup()) },
//!     script: "figures.define('durations', (data, width) => \
//!         Plot.plot({ width, marks: [Plot.rectY(data, Plot.binX({ y: 'count' }))] }));",
//!     style: "",
//! };
//! assert!(document.html().starts_with("<!DOCTYPE html>"));
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod data_url;
mod document;
mod figure;
mod magma;
mod problems;
mod sample;
mod spectrogram;

pub use data_url::data_url;
pub use document::Document;
pub use figure::{Figure, json};
pub use maud::{Markup, PreEscaped, Render, html};
pub use problems::problems;
pub use sample::{Input, Sample, SampleInput, input_colour};
pub use spectrogram::Spectrogram;
