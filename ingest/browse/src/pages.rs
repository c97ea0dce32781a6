//! The documents: one page with everything, or a first page and pages of samples.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use datasets::Split;
use features::ShardSpec;
use page::{Document, Markup, PreEscaped, html, json};
use serde_json::Value;
use util::number::thousands;

use crate::failures::Failures;
use crate::filters::{self, bits};
use crate::overview;
use crate::rows::Row;

const SCRIPT: &str = include_str!("../assets/browse.js");
const STYLE: &str = include_str!("../assets/browse.css");

/// One of the linked pages that show the samples of a split.
pub struct SamplesPage {
    /// The split of all its samples.
    pub split: Split,
    /// Its number among the pages of the split, from 1.
    pub number: usize,
    /// The positions of its samples in the rows.
    pub samples: Vec<usize>,
}

impl SamplesPage {
    /// Returns the name of its file.
    pub fn file_name(&self) -> String {
        format!("{}-{:04}.html", self.split, self.number)
    }
}

/// Returns whether a file of this name may be a page of samples of an earlier run.
pub fn is_samples_page(name: &str) -> bool {
    let number = name
        .strip_suffix(".html")
        .and_then(|name| name.rsplit_once('-'))
        .filter(|(split, _)| Split::ALL.iter().any(|one| one.as_str() == *split));
    number
        .is_some_and(|(_, number)| number.len() >= 4 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// The pages of samples, and where they lie.
pub struct SamplesPages {
    /// The folder, beside the first page and named after it.
    pub folder: PathBuf,
    /// The pages, by split and number.
    pub pages: Vec<SamplesPage>,
    /// By split and class: the page of the first sample, and its position in the rows.
    first_of_class: BTreeMap<(Split, u32), (usize, usize)>,
}

impl SamplesPages {
    /// Distributes samples, which are sorted by split, on pages of `size`.
    pub fn new(rows: &[Row], sorted: &[usize], size: usize, first_page: &Path) -> SamplesPages {
        let mut pages: Vec<SamplesPage> = Vec::new();
        for &sample in sorted {
            let split = rows[sample].at.0;
            match pages.last_mut() {
                Some(page) if page.split == split && page.samples.len() < size => {
                    page.samples.push(sample);
                }
                last => {
                    let before = last.filter(|page| page.split == split);
                    let number = before.map_or(1, |page| page.number + 1);
                    let samples = vec![sample];
                    pages.push(SamplesPage {
                        split,
                        number,
                        samples,
                    });
                }
            }
        }
        let mut first_of_class = BTreeMap::new();
        for (number, page) in pages.iter().enumerate() {
            for &sample in &page.samples {
                for &label in &rows[sample].labels {
                    let first = first_of_class.entry((page.split, label));
                    first.or_insert((number, sample));
                }
            }
        }
        SamplesPages {
            first_of_class,
            folder: first_page.with_extension(""),
            pages,
        }
    }

    /// Returns the URL of a page, relative to the first page.
    fn url_from_first(&self, page: &SamplesPage) -> String {
        let folder = self.folder.file_name().unwrap_or_default();
        format!(
            "{}/{}",
            encoded(&folder.to_string_lossy()),
            page.file_name()
        )
    }

    /// Returns the first page of each split.
    fn first_of_splits(&self) -> Vec<&SamplesPage> {
        self.pages.iter().filter(|page| page.number == 1).collect()
    }
}

/// The first page: an overview of all rows, and samples or a list of all rows.
pub struct FirstPage<'a> {
    pub spec: &'a ShardSpec,
    /// The place of the shards, as the user wrote it.
    pub folder: &'a str,
    pub rows: &'a [Row],
    pub failures: &'a Failures,
}

impl FirstPage<'_> {
    fn document(&self, link: impl Fn(Split) -> Option<String>, samples: Markup) -> String {
        let spec = self.spec;
        let title = format!(
            "{}: {} samples",
            spec.dataset,
            thousands(self.rows.len() as u64)
        );
        let body = html! {
            header {
                h1 { (title) }
                p.note {
                    (spec.classes.len()) " classes, " (spec.modalities) ". Shards in "
                    code { (self.folder) } ", written by version " (spec.tool_version) "."
                }
            }
            main {
                (overview::markup(spec, self.rows, self.failures, link))
                (samples)
            }
        };
        document(&title, body)
    }

    /// Returns the only page, with the cards of these samples.
    pub fn with_examples(&self, shown: &[usize], cards: &[String]) -> String {
        let samples = html! {
            section {
                h2 id="samples" { "Samples" }
                p.note {
                    "Some of each class and split, and of each reason for which something is missing: "
                    (shown.len()) " of " (thousands(self.rows.len() as u64)) " rows. Frames and images are smaller than stored."
                }
                (filters::markup(self.spec, shown.iter().map(|&at| &self.rows[at])))
                (card_list(cards))
            }
        };
        self.document(|_| None, samples)
    }

    /// Returns the first of several pages, with a list of all rows.
    pub fn with_list(&self, pages: &SamplesPages) -> String {
        let splits: Vec<Split> = pages
            .first_of_splits()
            .iter()
            .map(|page| page.split)
            .collect();
        let rows: Vec<Value> = pages
            .pages
            .iter()
            .flat_map(|page| page.samples.iter().map(move |&at| (page, &self.rows[at])))
            .map(|(page, row)| {
                let split = splits.iter().position(|one| *one == row.at.0);
                serde_json::json!([row.id, split, row.at.1, row.labels, bits(row), page.number])
            })
            .collect();
        let folder = pages
            .folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let data = serde_json::json!({
            "folder": encoded(&folder),
            "splits": splits,
            "classes": self.spec.classes,
            "modalities": self.spec.modalities,
            "rows": rows,
        });
        let samples = html! {
            section {
                h2 id="samples" { "Samples" }
                p { "Pages: "
                    @for page in pages.first_of_splits() {
                        a href=(pages.url_from_first(page)) { (page.split) } " "
                    }
                }
                (filters::markup(self.spec, self.rows.iter()))
                div.list { (json(&data)) }
            }
        };
        let link = |split| {
            let first = pages
                .first_of_splits()
                .into_iter()
                .find(|page| page.split == split);
            first.map(|page| pages.url_from_first(page))
        };
        self.document(link, samples)
    }
}

/// Returns a page of samples, number `at` of `pages`, with their cards.
pub fn samples_page(
    spec: &ShardSpec,
    rows: &[Row],
    pages: &SamplesPages,
    at: usize,
    first_page: &Path,
    cards: &[String],
) -> String {
    let own = &pages.pages[at];
    let of_split = || pages.pages.iter().filter(|page| page.split == own.split);
    let count = of_split().count();
    let number = own.number;
    let total: usize = of_split().map(|page| page.samples.len()).sum();
    let title = format!("{}: {}, page {number} of {count}", spec.dataset, own.split);
    let file_name = first_page.file_name().unwrap_or_default();
    let start = format!("../{}", encoded(&file_name.to_string_lossy()));
    let link = |number: usize, text: &str| {
        let page = of_split().find(|page| page.number == number && number != own.number);
        html! {
            @match page {
                Some(page) => a href=(page.file_name()) { (text) },
                None => span.note aria-disabled="true" { (text) },
            }
            " "
        }
    };
    let steps = || {
        html! {
            nav.steps aria-label="Pages" {
                (link(1, "« first"))
                (link(number.saturating_sub(1), "‹ previous"))
                span { "page " (number) " of " (count) } " "
                (link(number + 1, "next ›"))
                (link(count, "last »"))
            }
        }
    };
    let of_class = (own.split, 0)..=(own.split, u32::MAX);
    let body = html! {
        header {
            p { a href=(start) { "Overview" } " · "
                @for page in pages.first_of_splits() {
                    @if page.split == own.split { strong { (page.split) } } @else { a href=(page.file_name()) { (page.split) } }
                    " "
                }
            }
            h1 { (spec.dataset) ", " (own.split) }
            p.note { (thousands(own.samples.len() as u64)) " of " (thousands(total as u64)) " samples, sorted by class. The filters are those of this page; the overview filters all rows. Frames and images are smaller than stored." }
            details { summary { "First sample of each class" }
                p.classes { @for ((_, class), (page, row)) in pages.first_of_class.range(of_class) {
                    a href={ (pages.pages[*page].file_name()) "#" (rows[*row].anchor()) } {
                        (spec.classes[*class as usize])
                    } " "
                } }
            }
            (steps())
        }
        main {
            (filters::markup(spec, own.samples.iter().map(|&at| &rows[at])))
            (card_list(cards))
        }
        (steps())
    };
    document(&title, body)
}

fn card_list(cards: &[String]) -> Markup {
    html! {
        div.samples { @for card in cards { (PreEscaped(card)) } }
    }
}

fn document(title: &str, body: Markup) -> String {
    let document = Document {
        title,
        body,
        script: SCRIPT,
        style: STYLE,
    };
    document.html()
}

/// Encodes a file name as a part of a URL (RFC 3986): all but unreserved characters as "%XX".
fn encoded(name: &str) -> String {
    let mut url = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                url.push(char::from(byte));
            }
            _ => url += &format!("%{byte:02X}"),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::tests::row;

    #[test]
    fn pages_end_with_their_split() {
        let rows: Vec<Row> = (0..25)
            .map(|i| {
                row(
                    i,
                    if i < 21 { Split::Train } else { Split::Test },
                    &[0],
                    None,
                )
            })
            .collect();
        let all: Vec<usize> = (0..25).collect();
        let pages = SamplesPages::new(&rows, &all, 10, Path::new("a/b c.html"));
        let names: Vec<(String, usize)> = pages
            .pages
            .iter()
            .map(|page| (page.file_name(), page.samples.len()))
            .collect();
        let expected = [
            ("train-0001.html", 10),
            ("train-0002.html", 10),
            ("train-0003.html", 1),
            ("test-0001.html", 4),
        ];
        assert_eq!(
            names,
            expected.map(|(name, count)| (name.to_owned(), count))
        );
        assert_eq!(pages.folder, Path::new("a/b c"));
        assert_eq!(
            pages.url_from_first(&pages.pages[3]),
            "b%20c/test-0001.html"
        );
        assert!(names.iter().all(|(name, _)| is_samples_page(name)));
        for other in [
            "train-1.html",
            "other-0001.html",
            "train-0001.htm",
            "train-00x1.html",
        ] {
            assert!(!is_samples_page(other), "{other}");
        }
    }
}
