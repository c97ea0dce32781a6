//! Cleans text: whitespace, printed Python lists and bytes, HTML entities.

use std::borrow::Cow;

/// Turns whitespace and control characters between words into one blank. Returns `None` if there is
/// no word.
pub(crate) fn squeeze(text: &str) -> Option<String> {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}')
        .filter(|word| !word.is_empty())
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Cleans a page title of UPMC Food-101, which may be a printed Python list with escaped bytes and
/// HTML entities. Returns `None` if there is no word (`[]` is a page without a title).
pub(crate) fn title(raw: &str) -> Option<String> {
    squeeze(&entities(&escapes(unlist(raw.trim()))))
}

/// Removes the brackets and quotes of a printed list of one title. The publisher cut titles at
/// their first comma, so that brackets may be missing at either end.
fn unlist(text: &str) -> &str {
    const OPEN: [&str; 4] = ["[[\"", "[['", "[\"", "['"];
    const CLOSE: [&str; 4] = ["\"]]", "']]", "\"]", "']"];
    if text == "[]" || text == "[[]]" {
        return "";
    }
    let text = OPEN
        .iter()
        .find_map(|open| text.strip_prefix(open))
        .unwrap_or(text);
    CLOSE
        .iter()
        .find_map(|close| text.strip_suffix(close))
        .unwrap_or(text)
}

/// Decodes printed escapes: `\xc2\xa0` is two bytes of UTF-8, `\u2019` a character, `\t` a tab,
/// `\'` a quote. Invalid UTF-8, as of a title that was cut in the middle of a character, is
/// removed.
fn escapes(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let hex = |from: usize, to: usize| {
            let digits = rest.get(from..to)?;
            let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            all_hex.then(|| u32::from_str_radix(digits, 16).ok())?
        };
        let used = match rest.as_bytes().first() {
            Some(b'x') if let Some(byte) = hex(1, 3) => {
                // Two digits: at most 255.
                bytes.push(byte as u8);
                3
            }
            Some(b'u') if let Some(c) = hex(1, 5).and_then(char::from_u32) => {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                5
            }
            Some(b't' | b'n' | b'r') => {
                bytes.push(b' ');
                1
            }
            Some(&quoted @ (b'\'' | b'"' | b'\\')) => {
                bytes.push(quoted);
                1
            }
            _ => {
                bytes.push(b'\\');
                0
            }
        };
        rest = &rest[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes.utf8_chunks().map(|chunk| chunk.valid()).collect()
}

/// How often entities are decoded, as they may be nested: `&amp;rsquo;`.
const MAX_NESTING: usize = 3;

/// Decodes entities such as `&amp;`, `&#8211;` and `&#x27;`, nested ones too. Unknown entities and
/// those without a semicolon are left as they are.
fn entities(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..MAX_NESTING {
        match html_escape::decode_html_entities(&text) {
            Cow::Borrowed(_) => break,
            Cow::Owned(decoded) => text = decoded,
        }
    }
    // `&#150;` is the control character U+0096, which no title means. Browsers take it for
    // character 150 of Windows-1252, a dash (HTML standard, "numeric character reference end
    // state").
    text.chars()
        .map(|c| match c {
            '\u{80}'..='\u{9f}' => WINDOWS_1252[c as usize - 0x80],
            c => c,
        })
        .collect()
}

/// Characters 0x80 to 0x9f of Windows-1252. The five that it does not assign map to themselves.
#[rustfmt::skip]
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_is_squeezed() {
        assert_eq!(squeeze(" a\u{a0}b\r\n\0c "), Some("a b c".to_owned()));
        assert_eq!(squeeze(" \t\u{feff}"), None);
    }

    #[test]
    fn lists_escapes_and_entities_are_removed_from_titles() {
        let cases = [
            (
                r#"[["Joey Harrington's Baby Back Ribs"]"#,
                "Joey Harrington's Baby Back Ribs",
            ),
            (
                r#"[["Coleen's BEST PIE EVER !!!"]]"#,
                "Coleen's BEST PIE EVER !!!",
            ),
            (r#"[["The Food Lab's Apple Pie"#, "The Food Lab's Apple Pie"),
            ("Apple Dessert Recipes']", "Apple Dessert Recipes"),
            ("[RECIPE]']", "[RECIPE]"),
            ("[Recipe] Edamame Salad", "[Recipe] Edamame Salad"),
            (
                r"Jos\xc3\xa9 Pizarro recipe: apple pie  - Telegraph",
                "José Pizarro recipe: apple pie - Telegraph",
            ),
            (r"Cr\xc3\xa8me\xc2\xa0Caramel \xe2\x80", "Crème Caramel"),
            (r"Pies\t \'n\' Cakes\r", "Pies 'n' Cakes"),
            (r"AC\DC \xzz \", r"AC\DC \xzz \"),
            (
                "Mom&amp;rsquo;s Pie &#8211; &#x27;Best&#150; &euro;5",
                "Mom’s Pie – 'Best– €5",
            ),
            (
                "M&M;s & Q&A; &nosuch; &#xD800; &",
                "M&M;s & Q&A; &nosuch; &#xD800; &",
            ),
            ("&é;", "&é;"),
            ("Fish &#x96; Chips&Hat;", "Fish – Chips^"),
            ("&#65 &amp &#9;&#10; &lt;b&gt;", "&#65 &amp <b>"),
        ];
        for (raw, clean) in cases {
            assert_eq!(title(raw).as_deref(), Some(clean), "{raw}");
        }
        for nothing in ["[]", "", "  ", "&nbsp;", r"\xc2\xa0", "[[\"\"]]"] {
            assert_eq!(title(nothing), None, "{nothing}");
        }
    }
}
