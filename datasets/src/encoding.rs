//! Decodes text files of any encoding of the WHATWG Encoding Standard, and none by guessing.

use std::borrow::Cow;
use std::path::Path;

use encoding_rs::{Encoding, UTF_8};

use crate::error::Error;

/// What to do about a file of an unknown encoding.
const REMEDY: &str =
    "save it as UTF-8, or name its encoding in the .toml, as in encoding = \"windows-1252\"";

/// Decodes the contents of a file: by its byte-order mark, else as UTF-8 if it is that, else in the
/// encoding with the label `named`. The byte-order mark is removed.
///
/// # Errors
/// The bytes do not fit the encoding; the message names the line.
pub(crate) fn decode<'a>(
    path: &Path,
    bytes: &'a [u8],
    named: Option<&str>,
) -> Result<Cow<'a, str>, Error> {
    let marked = Encoding::for_bom(bytes);
    let (encoding, bytes) = match (marked, named.and_then(find)) {
        (Some((encoding, length)), _) => (encoding, &bytes[length..]),
        (None, Some(named)) if std::str::from_utf8(bytes).is_err() => (named, bytes),
        (None, _) => (UTF_8, bytes),
    };
    if encoding == UTF_8 {
        return std::str::from_utf8(bytes).map(Cow::from).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
            Error::annotation(path, Some(line), "a byte that is no UTF-8", REMEDY)
        });
    }
    let decoded = encoding.decode_without_bom_handling_and_without_replacement(bytes);
    decoded.ok_or_else(|| {
        let problem = format!("a byte that is no {}", encoding.name());
        Error::annotation(path, None, problem, REMEDY)
    })
}

/// Finds an encoding by one of its labels, such as `latin1` or `shift_jis`.
pub(crate) fn find(label: &str) -> Option<&'static Encoding> {
    Encoding::for_label_no_replacement(label.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its name, the bytes, the encoding of the description, and the text or a part of the error.
    type Case<'a> = (&'a str, &'a [u8], Option<&'a str>, Result<&'a str, &'a str>);

    #[test]
    fn mark_comes_before_utf8_and_utf8_before_the_named_encoding() {
        let cases: [Case; 13] = [
            ("UTF-8", "é".as_bytes(), None, Ok("é")),
            ("UTF-8 with a mark", b"\xef\xbb\xbf\xc3\xa9", None, Ok("é")),
            ("UTF-16 with a mark", b"\xff\xfe\xe9\0", None, Ok("é")),
            ("big endian", b"\xfe\xff\0\xe9", Some("latin1"), Ok("é")),
            (
                "UTF-8 where Latin-1 is named",
                "é".as_bytes(),
                Some("latin1"),
                Ok("é"),
            ),
            ("Latin-1", b"\xe9", Some("latin1"), Ok("é")),
            (
                "Windows-1252",
                b"\x93x\x94",
                Some("windows-1252"),
                Ok("“x”"),
            ),
            ("Windows-1251", b"\xef\xe8\xf0", Some("cp1251"), Ok("пир")),
            (
                "Shift JIS",
                b"\x83\x73\x83\x55",
                Some("shift_jis"),
                Ok("ピザ"),
            ),
            (
                "nothing named",
                b"a\n\xe9",
                None,
                Err("t, line 2: a byte that is no UTF-8"),
            ),
            ("a cut UTF-16", b"\xff\xfe\xe9\0x", None, Err("no UTF-16LE")),
            (
                "a damaged UTF-8",
                b"\xef\xbb\xbf\xff",
                Some("latin1"),
                Err("no UTF-8"),
            ),
            (
                "no Shift JIS",
                b"\x83\xff",
                Some("shift_jis"),
                Err("no Shift_JIS"),
            ),
        ];
        for (case, bytes, named, expected) in cases {
            let found = decode(Path::new("t"), bytes, named).map_err(|error| error.to_string());
            match (found, expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{case}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{case}: {error}"),
                (found, _) => panic!("{case}: {found:?}"),
            }
        }
    }
}
