//! Writes YAML that means the same to readers of YAML 1.1, such as PyYAML, and of 1.2. Words such
//! as `no`, and `1:30`, are strings in 1.2 and truth values and numbers in 1.1.

use serde_yaml_ng::Value;

/// The words that are no strings in YAML 1.1, in lower case.
const NO_STRINGS: [&str; 9] = ["false", "n", "no", "null", "off", "on", "true", "y", "yes"];

/// Returns a mapping as YAML in block style.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out
}

/// Writes a value of which the first line is begun, and whose further lines have `indent` blanks.
fn write(out: &mut String, value: &Value, indent: usize) {
    let next_line = |out: &mut String, first: bool| {
        if !first {
            out.push_str(&" ".repeat(indent));
        }
    };
    match value {
        Value::Mapping(mapping) if !mapping.is_empty() => {
            for (number, (key, value)) in mapping.iter().enumerate() {
                next_line(out, number == 0);
                out.push_str(&scalar(key));
                out.push(':');
                match value {
                    Value::Mapping(inner) if !inner.is_empty() => {
                        out.push('\n');
                        out.push_str(&" ".repeat(indent + 2));
                        write(out, value, indent + 2);
                    }
                    Value::Sequence(inner) if !inner.is_empty() => {
                        out.push('\n');
                        out.push_str(&" ".repeat(indent));
                        write(out, value, indent);
                    }
                    _ => {
                        out.push(' ');
                        write(out, value, indent);
                    }
                }
            }
        }
        Value::Sequence(items) if !items.is_empty() => {
            for (number, item) in items.iter().enumerate() {
                next_line(out, number == 0);
                out.push_str("- ");
                write(out, item, indent + 2);
            }
        }
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

/// Returns a string, a number, a truth value, null, or an empty list or mapping.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::String(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Mapping(_) => "{}".to_owned(),
        Value::Null | Value::Tagged(_) => "null".to_owned(),
    }
}

/// Returns whether a text is a string without quotation marks: a word that begins with a letter.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !NO_STRINGS.contains(&text.to_ascii_lowercase().as_str())
}

/// Returns a text in double quotation marks, with the escapes of JSON, which YAML has too.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Control characters, line breaks of Unicode and byte order marks, which YAML forbids
            // or folds.
            '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_where_readers_would_take_them_for_something_else() {
        let written = |text: &str| scalar(&Value::from(text));
        for plain in ["CREMA-D", "odbl", "cc-by-4.0", "train", "float32", "none"] {
            assert_eq!(written(plain), plain);
        }
        for text in [
            "yes",
            "No",
            "ON",
            "y",
            "null",
            "1:30",
            "1_000",
            "012",
            "2020-01-01",
            "=",
            "<",
            "~",
            "",
            " a",
            "a: b",
            "a #b",
            "two words",
            ".inf",
            "-",
            "n<1K",
            "a\"\\\n\u{7f}\u{85}\u{2028}",
            "ä",
            "😀",
        ] {
            let quoted = written(text);
            assert!(quoted.starts_with('"') && quoted.ends_with('"'), "{quoted}");
            assert!(!quoted.contains('\n'), "{quoted}");
            assert_eq!(serde_yaml_ng::from_str::<String>(&quoted).unwrap(), text);
        }
    }

    #[test]
    fn nested_values_are_read_back() {
        let yaml = "a: 1\nb:\n- c: true\n  d:\n  - x\n  - - y\n    - z\ne:\n  f: []\n  g: {}\n  \"0\": null\n";
        let value: Value = serde_yaml_ng::from_str(yaml).unwrap();
        assert_eq!(
            to_string(&value),
            yaml.replace("- y\n    - z", "- \"y\"\n    - z")
        );
        assert_eq!(
            serde_yaml_ng::from_str::<Value>(&to_string(&value)).unwrap(),
            value
        );
    }
}
