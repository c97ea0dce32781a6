//! Makes text readable: what a reader would want to see, not what a program once printed.

/// Blanks, line breaks and control characters between words become one blank; `None` where no word is left.
pub(crate) fn squeeze(text: &str) -> Option<String> {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}')
        .filter(|word| !word.is_empty())
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squeezes() {
        assert_eq!(squeeze(" a\u{a0}b\r\n\0c "), Some("a b c".to_owned()));
        assert_eq!(squeeze(" \t\u{feff}"), None);
    }
}
