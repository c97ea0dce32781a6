//! The cells of a user's table: text, typed lists, and text that stands for one of these.

use serde_json::Value;

/// A cell that is not null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// A text, or another value in words.
    Text(String),
    /// A list, as Parquet has them. Its elements may hold any character.
    List(Vec<String>),
    /// Bytes that are no text: the contents of a file, which is read when it is needed.
    File,
}

/// The words that pandas reads as a missing value (`STR_NA_VALUES`).
const MISSING: [&str; 18] = [
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// Whether a text is one of the usual spellings of a missing value.
pub(super) fn is_missing(text: &str) -> bool {
    MISSING.contains(&text)
}

/// Reads a list that a program has printed into a cell, such as `['cat', 'dog']` of Python,
/// `['cat' 'dog']` of NumPy or `["cat", "dog"]` of JSON. Returns `None` if the text is no such list.
///
/// # Errors
/// The text begins as a list and does not go on as one.
pub(super) fn printed_list(text: &str) -> Option<Result<Vec<String>, ()>> {
    let close = match text.chars().next()? {
        '[' => ']',
        '(' => ')',
        '{' => '}',
        _ => return None,
    };
    let inside = text[1..].trim_start();
    if inside.starts_with(['\'', '"']) {
        return Some(match serde_json::from_str::<Vec<Value>>(text) {
            Ok(values) => Ok(values.iter().map(json_word).collect()),
            Err(_) => inside.strip_suffix(close).and_then(quoted_words).ok_or(()),
        });
    }
    // Without quotes, only what has several elements or numbers is a list: `[noise]` is a class of
    // many corpora of speech.
    let inside = inside.strip_suffix(']').filter(|_| close == ']')?.trim();
    if inside.is_empty() {
        return Some(Ok(Vec::new()));
    }
    let numbers = |words: &[&str]| words.iter().all(|word| word.parse::<f64>().is_ok());
    let mut words: Vec<&str> = inside.split_whitespace().collect();
    if inside.contains(',') {
        words = inside.split(',').map(str::trim).collect();
    } else if !numbers(&words) {
        return None;
    }
    Some(Ok(words.into_iter().map(str::to_owned).collect()))
}

fn json_word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Parses quoted words with commas or blanks between them. Words without quotes are accepted where
/// they stand for a missing value.
fn quoted_words(mut rest: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else {
            return Some(words);
        };
        if matches!(first, '\'' | '"') {
            let (word, behind) = quoted_word(&rest[1..], first)?;
            words.push(word);
            rest = behind;
        } else {
            let end = rest.find([',', ' ']).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            rest = &rest[end..];
            if !words.last().is_some_and(|word| is_missing(word)) {
                return None;
            }
        }
        rest = match rest.trim_start().strip_prefix(',') {
            Some(behind) => behind,
            // Without a comma, something has to separate the words.
            None if rest.is_empty() || rest.starts_with(char::is_whitespace) => rest,
            None => return None,
        };
    }
}

/// Parses a word up to its closing quote, and returns what follows.
fn quoted_word(text: &str, quote: char) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut chars = text.char_indices();
    while let Some((at, one)) = chars.next() {
        match one {
            '\\' => word.push(
                chars
                    .next()
                    .map(|(_, next)| next)
                    .filter(|next| "'\"\\".contains(*next))?,
            ),
            one if one == quote => return Some((word, &text[at + one.len_utf8()..])),
            one => word.push(one),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_lists_are_parsed_and_names_are_not() {
        let cases: [(&str, Option<&[&str]>); 17] = [
            ("['cat', 'dog']", Some(&["cat", "dog"])),
            ("[\"cat\", \"d'og\"]", Some(&["cat", "d'og"])),
            ("['cat' 'dog']", Some(&["cat", "dog"])),
            (
                "['a, b', \"it's\", 'c\\'d',]",
                Some(&["a, b", "it's", "c'd"]),
            ),
            ("[\"\\u00e9t\\u00e9\", 3]", Some(&["été", "3"])),
            ("('cat',)", Some(&["cat"])),
            ("{'cat', 'dog'}", Some(&["cat", "dog"])),
            ("['cat', nan]", Some(&["cat", "nan"])),
            ("[cat, dog]", Some(&["cat", "dog"])),
            ("[1, 2]", Some(&["1", "2"])),
            ("[1 2]", Some(&["1", "2"])),
            ("[]", Some(&[])),
            ("[noise]", None),
            ("(other)", None),
            ("cat", None),
            ("a [b, c]", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let found = printed_list(text);
            let expected =
                expected.map(|words| Ok(words.iter().map(|&word| word.to_owned()).collect()));
            assert_eq!(found, expected, "{text}");
        }
        for cut in [
            "['cat",
            "['cat', 'dog'",
            "['cat''dog']",
            "['a' 'b' ... 'z']",
            "['a'; 'b']",
            "['a']|['b']",
        ] {
            assert_eq!(printed_list(cut), Some(Err(())), "{cut}");
        }
    }
}
