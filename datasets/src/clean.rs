//! Makes text readable: what a reader would want to see, not what a program once printed.

/// Blanks, line breaks and control characters between words become one blank; `None` where no word is left.
pub(crate) fn squeeze(text: &str) -> Option<String> {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}')
        .filter(|word| !word.is_empty())
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// A page title as UPMC Food-101 has it: printed as a Python list in brackets, printed bytes, HTML entities.
/// `None` where nothing is left (`[]` is a page without a title).
pub(crate) fn title(raw: &str) -> Option<String> {
    squeeze(&entities(&escapes(unlist(raw.trim()))))
}

/// Takes off the brackets and quotes of a printed list of one title. The publisher cut titles at their first comma,
/// so that either end may have lost its brackets, or kept one of two.
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

/// Undoes printed escapes: `\xc2\xa0` is two bytes of UTF-8, `\u2019` a character, `\t` a tab, `\'` a quote.
/// Bytes that make no character (a title cut in the middle of one) go.
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

/// How often entities may be wrapped in entities (`&amp;rsquo;`).
const MAX_NESTING: usize = 3;

/// Decodes `&amp;`, `&#8211;`, `&#x27;` and what is wrapped in them. What is no entity stays as it is.
fn entities(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..MAX_NESTING {
        let decoded = entities_once(&text);
        if decoded == text {
            break;
        }
        text = decoded;
    }
    text
}

fn entities_once(text: &str) -> String {
    /// `&thetasym;` and `&#1114111;` are the longest.
    const LONGEST: usize = 10;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(LONGEST).position(|byte| byte == b';');
        match end.and_then(|end| Some((end, entity(&rest[1..end])?))) {
            Some((end, c)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The character that a name (without `&` and `;`) stands for.
fn entity(name: &str) -> Option<char> {
    let Some(number) = name.strip_prefix('#') else {
        let found = ENTITIES.binary_search_by_key(&name, |&(name, _)| name);
        return found.ok().map(|index| ENTITIES[index].1);
    };
    let number = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => number.parse().ok()?,
    };
    match number {
        // Browsers read these as Windows-1252, and so did those who wrote them.
        0x80..=0x9f => Some(WINDOWS_1252[number as usize - 0x80]),
        number => char::from_u32(number),
    }
}

/// 0x80 to 0x9f of Windows-1252; five places are unused and stay what they are.
#[rustfmt::skip]
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The named characters of HTML 4 and `&apos;`, sorted by name.
#[rustfmt::skip]
const ENTITIES: [(&str, char); 253] = [
    ("AElig", '\u{c6}'), ("Aacute", '\u{c1}'), ("Acirc", '\u{c2}'), ("Agrave", '\u{c0}'), ("Alpha", '\u{391}'),
    ("Aring", '\u{c5}'), ("Atilde", '\u{c3}'), ("Auml", '\u{c4}'), ("Beta", '\u{392}'), ("Ccedil", '\u{c7}'),
    ("Chi", '\u{3a7}'), ("Dagger", '\u{2021}'), ("Delta", '\u{394}'), ("ETH", '\u{d0}'), ("Eacute", '\u{c9}'),
    ("Ecirc", '\u{ca}'), ("Egrave", '\u{c8}'), ("Epsilon", '\u{395}'), ("Eta", '\u{397}'), ("Euml", '\u{cb}'),
    ("Gamma", '\u{393}'), ("Iacute", '\u{cd}'), ("Icirc", '\u{ce}'), ("Igrave", '\u{cc}'), ("Iota", '\u{399}'),
    ("Iuml", '\u{cf}'), ("Kappa", '\u{39a}'), ("Lambda", '\u{39b}'), ("Mu", '\u{39c}'), ("Ntilde", '\u{d1}'),
    ("Nu", '\u{39d}'), ("OElig", '\u{152}'), ("Oacute", '\u{d3}'), ("Ocirc", '\u{d4}'), ("Ograve", '\u{d2}'),
    ("Omega", '\u{3a9}'), ("Omicron", '\u{39f}'), ("Oslash", '\u{d8}'), ("Otilde", '\u{d5}'), ("Ouml", '\u{d6}'),
    ("Phi", '\u{3a6}'), ("Pi", '\u{3a0}'), ("Prime", '\u{2033}'), ("Psi", '\u{3a8}'), ("Rho", '\u{3a1}'),
    ("Scaron", '\u{160}'), ("Sigma", '\u{3a3}'), ("THORN", '\u{de}'), ("Tau", '\u{3a4}'), ("Theta", '\u{398}'),
    ("Uacute", '\u{da}'), ("Ucirc", '\u{db}'), ("Ugrave", '\u{d9}'), ("Upsilon", '\u{3a5}'), ("Uuml", '\u{dc}'),
    ("Xi", '\u{39e}'), ("Yacute", '\u{dd}'), ("Yuml", '\u{178}'), ("Zeta", '\u{396}'), ("aacute", '\u{e1}'),
    ("acirc", '\u{e2}'), ("acute", '\u{b4}'), ("aelig", '\u{e6}'), ("agrave", '\u{e0}'), ("alefsym", '\u{2135}'),
    ("alpha", '\u{3b1}'), ("amp", '&'), ("and", '\u{2227}'), ("ang", '\u{2220}'), ("apos", '\''),
    ("aring", '\u{e5}'), ("asymp", '\u{2248}'), ("atilde", '\u{e3}'), ("auml", '\u{e4}'), ("bdquo", '\u{201e}'),
    ("beta", '\u{3b2}'), ("brvbar", '\u{a6}'), ("bull", '\u{2022}'), ("cap", '\u{2229}'), ("ccedil", '\u{e7}'),
    ("cedil", '\u{b8}'), ("cent", '\u{a2}'), ("chi", '\u{3c7}'), ("circ", '\u{2c6}'), ("clubs", '\u{2663}'),
    ("cong", '\u{2245}'), ("copy", '\u{a9}'), ("crarr", '\u{21b5}'), ("cup", '\u{222a}'), ("curren", '\u{a4}'),
    ("dArr", '\u{21d3}'), ("dagger", '\u{2020}'), ("darr", '\u{2193}'), ("deg", '\u{b0}'), ("delta", '\u{3b4}'),
    ("diams", '\u{2666}'), ("divide", '\u{f7}'), ("eacute", '\u{e9}'), ("ecirc", '\u{ea}'), ("egrave", '\u{e8}'),
    ("empty", '\u{2205}'), ("emsp", '\u{2003}'), ("ensp", '\u{2002}'), ("epsilon", '\u{3b5}'),
    ("equiv", '\u{2261}'), ("eta", '\u{3b7}'), ("eth", '\u{f0}'), ("euml", '\u{eb}'), ("euro", '\u{20ac}'),
    ("exist", '\u{2203}'), ("fnof", '\u{192}'), ("forall", '\u{2200}'), ("frac12", '\u{bd}'), ("frac14", '\u{bc}'),
    ("frac34", '\u{be}'), ("frasl", '\u{2044}'), ("gamma", '\u{3b3}'), ("ge", '\u{2265}'), ("gt", '>'),
    ("hArr", '\u{21d4}'), ("harr", '\u{2194}'), ("hearts", '\u{2665}'), ("hellip", '\u{2026}'),
    ("iacute", '\u{ed}'), ("icirc", '\u{ee}'), ("iexcl", '\u{a1}'), ("igrave", '\u{ec}'), ("image", '\u{2111}'),
    ("infin", '\u{221e}'), ("int", '\u{222b}'), ("iota", '\u{3b9}'), ("iquest", '\u{bf}'), ("isin", '\u{2208}'),
    ("iuml", '\u{ef}'), ("kappa", '\u{3ba}'), ("lArr", '\u{21d0}'), ("lambda", '\u{3bb}'), ("lang", '\u{2329}'),
    ("laquo", '\u{ab}'), ("larr", '\u{2190}'), ("lceil", '\u{2308}'), ("ldquo", '\u{201c}'), ("le", '\u{2264}'),
    ("lfloor", '\u{230a}'), ("lowast", '\u{2217}'), ("loz", '\u{25ca}'), ("lrm", '\u{200e}'),
    ("lsaquo", '\u{2039}'), ("lsquo", '\u{2018}'), ("lt", '<'), ("macr", '\u{af}'), ("mdash", '\u{2014}'),
    ("micro", '\u{b5}'), ("middot", '\u{b7}'), ("minus", '\u{2212}'), ("mu", '\u{3bc}'), ("nabla", '\u{2207}'),
    ("nbsp", '\u{a0}'), ("ndash", '\u{2013}'), ("ne", '\u{2260}'), ("ni", '\u{220b}'), ("not", '\u{ac}'),
    ("notin", '\u{2209}'), ("nsub", '\u{2284}'), ("ntilde", '\u{f1}'), ("nu", '\u{3bd}'), ("oacute", '\u{f3}'),
    ("ocirc", '\u{f4}'), ("oelig", '\u{153}'), ("ograve", '\u{f2}'), ("oline", '\u{203e}'), ("omega", '\u{3c9}'),
    ("omicron", '\u{3bf}'), ("oplus", '\u{2295}'), ("or", '\u{2228}'), ("ordf", '\u{aa}'), ("ordm", '\u{ba}'),
    ("oslash", '\u{f8}'), ("otilde", '\u{f5}'), ("otimes", '\u{2297}'), ("ouml", '\u{f6}'), ("para", '\u{b6}'),
    ("part", '\u{2202}'), ("permil", '\u{2030}'), ("perp", '\u{22a5}'), ("phi", '\u{3c6}'), ("pi", '\u{3c0}'),
    ("piv", '\u{3d6}'), ("plusmn", '\u{b1}'), ("pound", '\u{a3}'), ("prime", '\u{2032}'), ("prod", '\u{220f}'),
    ("prop", '\u{221d}'), ("psi", '\u{3c8}'), ("quot", '"'), ("rArr", '\u{21d2}'), ("radic", '\u{221a}'),
    ("rang", '\u{232a}'), ("raquo", '\u{bb}'), ("rarr", '\u{2192}'), ("rceil", '\u{2309}'), ("rdquo", '\u{201d}'),
    ("real", '\u{211c}'), ("reg", '\u{ae}'), ("rfloor", '\u{230b}'), ("rho", '\u{3c1}'), ("rlm", '\u{200f}'),
    ("rsaquo", '\u{203a}'), ("rsquo", '\u{2019}'), ("sbquo", '\u{201a}'), ("scaron", '\u{161}'),
    ("sdot", '\u{22c5}'), ("sect", '\u{a7}'), ("shy", '\u{ad}'), ("sigma", '\u{3c3}'), ("sigmaf", '\u{3c2}'),
    ("sim", '\u{223c}'), ("spades", '\u{2660}'), ("sub", '\u{2282}'), ("sube", '\u{2286}'), ("sum", '\u{2211}'),
    ("sup", '\u{2283}'), ("sup1", '\u{b9}'), ("sup2", '\u{b2}'), ("sup3", '\u{b3}'), ("supe", '\u{2287}'),
    ("szlig", '\u{df}'), ("tau", '\u{3c4}'), ("there4", '\u{2234}'), ("theta", '\u{3b8}'), ("thetasym", '\u{3d1}'),
    ("thinsp", '\u{2009}'), ("thorn", '\u{fe}'), ("tilde", '\u{2dc}'), ("times", '\u{d7}'), ("trade", '\u{2122}'),
    ("uArr", '\u{21d1}'), ("uacute", '\u{fa}'), ("uarr", '\u{2191}'), ("ucirc", '\u{fb}'), ("ugrave", '\u{f9}'),
    ("uml", '\u{a8}'), ("upsih", '\u{3d2}'), ("upsilon", '\u{3c5}'), ("uuml", '\u{fc}'), ("weierp", '\u{2118}'),
    ("xi", '\u{3be}'), ("yacute", '\u{fd}'), ("yen", '\u{a5}'), ("yuml", '\u{ff}'), ("zeta", '\u{3b6}'),
    ("zwj", '\u{200d}'), ("zwnj", '\u{200c}'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squeezes() {
        assert_eq!(squeeze(" a\u{a0}b\r\n\0c "), Some("a b c".to_owned()));
        assert_eq!(squeeze(" \t\u{feff}"), None);
    }

    #[test]
    fn titles_read_as_a_reader_wants_them() {
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
        ];
        for (raw, clean) in cases {
            assert_eq!(title(raw).as_deref(), Some(clean), "{raw}");
        }
        for nothing in ["[]", "", "  ", "&nbsp;", r"\xc2\xa0", "[[\"\"]]"] {
            assert_eq!(title(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(ENTITIES.is_sorted_by(|a, b| a.0 < b.0));
    }
}
