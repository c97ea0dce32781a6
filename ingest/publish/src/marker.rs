//! Tells a card and metadata that this program wrote from those that a person wrote or changed,
//! which are not overwritten.
//!
//! A line of the card, a comment in Markdown, holds the SHA-256 of the rest of the card and of the
//! metadata.

use util::hash::sha256;

/// The beginning and the end of the line.
const BEFORE: &str = "<!-- Written by `ingest publish`; sha256 of the rest: ";
const BETWEEN: &str = ", of croissant.json: ";
const AFTER: &str = " -->";

/// The place in a card at which the line is put: the end of the front matter.
const END_OF_FRONT_MATTER: &str = "\n---\n";

/// Puts the line into a card. A card without front matter, which none is, gets it at the top.
pub fn mark(card: &str, croissant: &str) -> String {
    let at = card
        .find(END_OF_FRONT_MATTER)
        .map_or(0, |at| at + END_OF_FRONT_MATTER.len());
    let (front, body) = card.split_at(at);
    let (card, croissant) = (sha256(card), sha256(croissant));
    format!("{front}{BEFORE}{card}{BETWEEN}{croissant}{AFTER}\n{body}")
}

/// Returns the names of those of both files that exist and are not as this program wrote them.
pub fn foreign(card: Option<&[u8]>, croissant: Option<&[u8]>) -> Vec<&'static str> {
    let marked = card.and_then(|card| Marked::parse(std::str::from_utf8(card).ok()?));
    let mut foreign = Vec::new();
    if card.is_some() && !marked.as_ref().is_some_and(|marked| marked.card_is_ours) {
        foreign.push(crate::CARD_FILE);
    }
    if let Some(croissant) = croissant
        && marked.is_none_or(|marked| marked.croissant != sha256(croissant))
    {
        foreign.push(crate::CROISSANT_FILE);
    }
    foreign
}

/// What the line of a card says.
struct Marked {
    card_is_ours: bool,
    croissant: String,
}

impl Marked {
    fn parse(card: &str) -> Option<Marked> {
        let (before, rest) = card.split_once(BEFORE)?;
        let (line, after) = rest.split_once('\n')?;
        let (hash, croissant) = line.strip_suffix(AFTER)?.split_once(BETWEEN)?;
        Some(Marked {
            card_is_ours: sha256(format!("{before}{after}")) == hash,
            croissant: croissant.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_a_person_changed_are_recognised() {
        let card = mark("---\nlicense: mit\n---\n\n# Title\n", "{}\n");
        assert!(card.starts_with("---\nlicense: mit\n---\n<!-- "), "{card}");
        let of = |card: &str, croissant: &str| {
            foreign(Some(card.as_bytes()), Some(croissant.as_bytes()))
        };
        assert!(of(&card, "{}\n").is_empty());
        assert_eq!(of(&card, "{ }\n"), ["croissant.json"]);
        assert_eq!(
            of(&card.replace("Title", "My title"), "{}\n"),
            ["README.md"]
        );
        assert_eq!(of("# Mine\n", "{}"), ["README.md", "croissant.json"]);
        assert_eq!(foreign(None, Some(b"{}")), ["croissant.json"]);
        assert!(foreign(None, None).is_empty());
    }
}
