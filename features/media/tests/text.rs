//! Compares word pieces with Hugging Face's `BertTokenizerFast`, by the ids that
//! `tests/golden/text.py` computed.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use media::Error;
use media::text::TextTransform;
use serde_json::Value;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

/// Truncates ids: keeps the first ones and the last, `[SEP]`.
fn truncated(ids: &[u32], length: usize) -> Vec<u32> {
    match ids {
        [first @ .., last] if ids.len() > length => {
            first[..length - 1].iter().chain([last]).copied().collect()
        }
        _ => ids.to_vec(),
    }
}

#[test]
fn ids_equal_bert_tokenizer() {
    let file = std::fs::read_to_string(golden().join("text.json")).unwrap();
    let golden_ids: Value = serde_json::from_str(&file).unwrap();
    let texts = golden_ids["texts"].as_array().unwrap();
    for (name, vocab) in [
        ("small", "models/bert-base-uncased/vocab.txt"),
        ("letters", "text_vocab.txt"),
    ] {
        for length in ids(&golden_ids["lengths"]) {
            let length = length as usize;
            let transform = TextTransform::from_vocab(&golden().join(vocab), length).unwrap();
            assert_eq!(transform.max_len(), length);
            for (text, theirs) in texts.iter().zip(golden_ids[name].as_array().unwrap()) {
                let text = text.as_str().unwrap();
                assert_eq!(
                    transform.encode(text).unwrap(),
                    truncated(&ids(theirs), length),
                    "{name}, {length}: {text:?}"
                );
            }
        }
    }
}

#[test]
fn malformed_vocabularies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.txt");
    let problem = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let error = TextTransform::from_vocab(&path, 40).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Unusable { .. }), "{text}");
        assert!(text.contains("vocab.txt") && !text.contains('\n'), "{text}");
        text
    };
    assert!(problem(b"").contains("[UNK]"));
    assert!(problem(b"[PAD]\n[UNK]\n[CLS]\na\n").contains("[SEP]"));
    assert!(problem(b"[UNK]\n[CLS]\n[SEP]\na\n").contains("[PAD]"));
    problem(b"\xFF\xFE\x00");
    problem(b"{\"version\": \"1.0\"}");
    std::fs::write(&path, "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\na\r\n").unwrap();
    assert_eq!(
        TextTransform::from_vocab(&path, 40)
            .unwrap()
            .encode("A b")
            .unwrap(),
        [2, 4, 1, 3]
    );
    assert!(matches!(
        TextTransform::from_vocab(&path, 1),
        Err(Error::Unusable { .. })
    ));
    assert!(matches!(
        TextTransform::from_vocab(&folder.path().join("none"), 40),
        Err(Error::Io { .. })
    ));
}

#[test]
fn hashed_words_are_stable_and_in_range() {
    let transform = TextTransform::hashed(30_522, 8).unwrap();
    // FNV-1a's published values for "a" and "foobar".
    let id = |hash: u64| 999 + (hash % (30_522 - 999)) as u32;
    let (a, foobar) = (id(0xaf63_dc4c_8601_ec8c), id(0x8594_4171_f739_67e8));
    assert_eq!(
        transform.encode("A Foobar à").unwrap(),
        [101, a, foobar, a, 102]
    );
    assert_eq!(transform.encode("").unwrap(), [101, 102]);
    assert_eq!(
        transform.encode(&"a ".repeat(50)).unwrap(),
        [101, a, a, a, a, a, a, 102]
    );
    let small = TextTransform::hashed(1000, 40).unwrap();
    assert_eq!(small.encode("one two").unwrap(), [101, 999, 999, 102]);
    for size in [0, 999, usize::MAX] {
        assert!(matches!(
            TextTransform::hashed(size, 40),
            Err(Error::Unusable { .. })
        ));
    }
}

#[test]
fn clones_share_the_vocabulary_between_threads() {
    let transform = TextTransform::from_vocab(&golden().join("text_vocab.txt"), 40).unwrap();
    let expected = transform.encode("banana bread").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (transform, expected) = (transform.clone(), &expected);
            scope.spawn(move || assert_eq!(&transform.encode("Banana  BREAD").unwrap(), expected));
        }
    });
}
