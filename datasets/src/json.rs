//! JSON as Python writes it.

/// Replaces NaN and the infinities, which Python writes into JSON and JSON does not have, by null.
pub(crate) fn without_nan(json: &str) -> String {
    let mut parts = Vec::new();
    let mut in_text = false;
    for part in json.split_inclusive('"') {
        let numbers = ["-Infinity", "Infinity", "NaN"];
        parts.push(if in_text {
            part.to_owned()
        } else {
            numbers
                .iter()
                .fold(part.to_owned(), |part, number| part.replace(number, "null"))
        });
        // A quote behind an odd number of backslashes does not end a text.
        let before = part.strip_suffix('"').unwrap_or(part);
        let backslashes = before.len() - before.trim_end_matches('\\').len();
        in_text ^= !in_text || backslashes % 2 == 0;
    }
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_become_null_outside_texts() {
        let cases = [
            (r#"{"a": NaN, "b": "NaN"}"#, r#"{"a": null, "b": "NaN"}"#),
            (r#"[-Infinity, Infinity]"#, "[null, null]"),
            (r#"["\\\"NaN", "\\", NaN]"#, r#"["\\\"NaN", "\\", null]"#),
        ];
        for (json, expected) in cases {
            assert_eq!(without_nan(json), expected);
        }
    }
}
