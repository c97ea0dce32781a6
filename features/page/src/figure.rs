//! Figures, and data for scripts.

use maud::{Markup, PreEscaped, html};
use serde::Serialize;

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
}
