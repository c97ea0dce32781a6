//! HTML pages with figures, complete in one file: styles, scripts, data and images are embedded,
//! and nothing is loaded from elsewhere.
//!
//! A figure is a [`Figure`]: data as JSON, and the name of a function that draws them with
//! Observable Plot. The functions are in the page's own script, which registers each with
//! `figures.define(NAME, draw)`; `draw(data, width)` returns an element. A figure is drawn when it
//! comes near the visible part of the page, and again when its width changes, so that the size of its text is
//! the same on a phone and on a wide screen. Plot draws axes and text in the colour of the
//! surrounding text, so that a figure suits light and dark pages.
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

mod data_url;

pub use data_url::data_url;
pub use maud::{Markup, PreEscaped, Render, html};

use maud::DOCTYPE;
use serde::Serialize;

const STYLE: &str = concat!("\n", include_str!("../assets/page.css"));
/// Observable Plot, and D3, which it needs; as published on npm, with their licences beside them.
const LIBRARIES: [&str; 2] = [
    include_str!("../assets/d3.min.js"),
    include_str!("../assets/plot.umd.min.js"),
];
const SCRIPT: &str = include_str!("../assets/figures.js");

/// A page.
pub struct Document<'a> {
    /// Its title, as plain text.
    pub title: &'a str,
    /// The content of its `body`.
    pub body: Markup,
    /// Its own script, which defines how its figures are drawn. It must not contain `</script`.
    pub script: &'a str,
    /// Its own styles, after the common ones.
    pub style: &'a str,
}

impl Document<'_> {
    /// Returns the page's HTML.
    pub fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    // An empty icon, so that the browser asks no server for one.
                    link rel="icon" href="data:,";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) (PreEscaped(self.style)) }
                }
                body {
                    (self.body)
                    @for library in LIBRARIES { script { (PreEscaped(library)) } }
                    script { (PreEscaped(SCRIPT)) }
                    script { (PreEscaped(self.script)) }
                }
            }
        };
        page.into_string() + "\n"
    }
}

/// A figure of a page.
pub struct Figure<'a, T> {
    /// The name of the function that draws it.
    pub kind: &'a str,
    /// What it shows, for screen readers.
    pub label: &'a str,
    /// What the function gets, as JSON.
    pub data: &'a T,
}

impl<T: Serialize> Figure<'_, T> {
    /// Returns the place of the figure, with its data.
    pub fn markup(&self) -> Markup {
        html! {
            figure data-kind=(self.kind) role="img" aria-label=(self.label) {
                (json(self.data))
            }
        }
    }
}

/// Returns data for scripts: a `script` element of type `application/json`.
pub fn json<T: Serialize>(data: &T) -> Markup {
    // Numbers, texts and maps with text keys can always be written as JSON.
    let text = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    // `</script` in a text would end the element; in JSON `<` may be written as an escape.
    html! { script type="application/json" { (PreEscaped(text.replace('<', "\\u003c"))) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_data_cannot_end_its_element() {
        let markup = json(&"</script><script>alert(1)</script>").into_string();
        assert_eq!(markup.matches("</script").count(), 1, "{markup}");
        assert!(markup.contains(r"\u003c/script>"), "{markup}");
    }

    #[test]
    fn pages_name_no_other_server() {
        let document = Document {
            title: "a < b",
            body: html! {},
            script: "",
            style: "",
        };
        let html = document.html();
        assert!(html.contains("<title>a &lt; b</title>"));
        for attribute in ["src=", "href=\"http", "@import", "url("] {
            let ours = html.replace(LIBRARIES[0], "").replace(LIBRARIES[1], "");
            assert!(!ours.contains(attribute), "{attribute}");
        }
    }

    #[test]
    fn libraries_fit_into_a_script_element() {
        for text in LIBRARIES.into_iter().chain([SCRIPT]) {
            assert!(!text.contains("</script"));
        }
    }
}
