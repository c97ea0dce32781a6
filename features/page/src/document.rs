//! Whole pages.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = concat!("\n", include_str!("../assets/page.css"));
/// Observable Plot, and D3, which it needs; as published on npm, with their licences beside them.
const LIBRARIES: [&str; 2] = [
    include_str!("../assets/d3.min.js"),
    include_str!("../assets/plot.umd.min.js"),
];
/// What draws figures, and the figure that all pages have in common.
const SCRIPTS: [&str; 2] = [
    include_str!("../assets/figures.js"),
    include_str!("../assets/spectrogram.js"),
];

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
                    @for script in LIBRARIES.into_iter().chain(SCRIPTS).chain([self.script]) {
                        script { (PreEscaped(script)) }
                    }
                }
            }
        };
        page.into_string() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for text in LIBRARIES.into_iter().chain(SCRIPTS) {
            assert!(!text.contains("</script"));
        }
    }
}
