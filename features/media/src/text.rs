//! Text as BERT reads it: the ids of its word pieces, without padding.
//!
//! Ids equal those of Hugging Face's `BertTokenizerFast` with `truncation=True`: control characters
//! dropped, punctuation and Chinese characters split off, longest match first. Unless the checkpoint
//! is a cased one, text is in lower case and without accents. The loader pads.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer,
};

use crate::error::Error;

/// The tokens that every vocabulary must have: unknown, start, end, padding.
const REQUIRED: [&str; 4] = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"];

/// The tokens that are not split where the text spells them out, as in `BertTokenizerFast`.
const SPECIAL: [&str; 5] = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"];

/// The id of `[CLS]` in `bert-base-uncased`, for [`TextTransform::hashed`].
const HASHED_START: u32 = 101;
/// The id of `[SEP]` in `bert-base-uncased`, for [`TextTransform::hashed`].
const HASHED_END: u32 = 102;
/// The first id of `bert-base-uncased` that is neither special nor unused, for
/// [`TextTransform::hashed`].
const HASHED_FIRST: u32 = 999;

/// What happens to a text before it is split into word pieces, by the names of BERT's
/// `tokenizer_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRules {
    /// `do_lower_case`.
    pub lower_case: bool,
    /// `strip_accents`; without a value, accents are stripped where text becomes lower case.
    pub strip_accents: Option<bool>,
    /// `tokenize_chinese_chars`: whether each Chinese character is a word of its own.
    pub split_chinese: bool,
}

/// The rules of `bert-base-uncased`.
impl Default for TextRules {
    fn default() -> Self {
        TextRules {
            lower_case: true,
            strip_accents: None,
            split_chinese: true,
        }
    }
}

/// Turns text into ids: `[CLS]`, its word pieces, `[SEP]`. Clones share the vocabulary, also
/// between threads.
#[derive(Clone)]
pub struct TextTransform {
    words: Arc<Words>,
    start: u32,
    end: u32,
    max_len: usize,
}

enum Words {
    /// A vocabulary of word pieces. Boxed because of its size.
    Pieces(Box<Tokenizer>),
    /// Whole words, numbered by a hash.
    Hashed {
        /// The number of ids from [`HASHED_FIRST`] on.
        ids: u32,
    },
}

impl TextTransform {
    /// Returns the transform of an uncased BERT with this `vocab.txt`.
    ///
    /// # Errors
    /// Those of [`read_vocab`] and [`TextTransform::from_pieces`].
    pub fn from_vocab(path: &Path, max_len: usize) -> Result<Self, Error> {
        check_length(max_len)?;
        TextTransform::from_pieces(path, read_vocab(path)?, TextRules::default(), max_len)
    }

    /// Returns the transform of a BERT with these word pieces and their ids, which come from the
    /// file `path`.
    ///
    /// # Errors
    /// [`Error::Unusable`] if a token that BERT needs is not among them, or `max_len` is below 2.
    pub fn from_pieces(
        path: &Path,
        ids: HashMap<String, u32>,
        rules: TextRules,
        max_len: usize,
    ) -> Result<Self, Error> {
        check_length(max_len)?;
        if let Some(token) = REQUIRED.iter().find(|token| !ids.contains_key(**token)) {
            return Err(unusable(path, format!("has no word piece {token}")));
        }
        let (start, end) = (ids["[CLS]"], ids["[SEP]"]);
        let special: Vec<AddedToken> = SPECIAL
            .iter()
            .filter(|token| ids.contains_key(**token))
            .map(|token| AddedToken::from(*token, true))
            .collect();
        let wrong = |error| not_a_list(path, error);
        // The map's type is not exported by tokenizers, so that an empty one is read.
        let mut vocab = WordPiece::read_bytes(b"").map_err(wrong)?;
        vocab.extend(ids);
        let model = WordPiece::builder()
            .vocab(vocab)
            .unk_token("[UNK]".into())
            .build()
            .map_err(wrong)?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer
            .with_normalizer(Some(normalizer(rules)))
            .map_err(wrong)?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.add_special_tokens(special).map_err(wrong)?;
        Ok(TextTransform {
            words: Arc::new(Words::Pieces(Box::new(tokenizer))),
            start,
            end,
            max_len,
        })
    }

    /// Returns a transform for encoders with random weights, which needs no vocabulary: whole
    /// words, split and cleaned as BERT does it, numbered by a hash (64-bit FNV-1a) from 999 on, so
    /// that different words may share an id. `[CLS]` is 101, `[SEP]` 102. It does not fit
    /// pretrained weights, whose embeddings belong to other words.
    ///
    /// # Errors
    /// [`Error::Unusable`] if `vocab_size` leaves no ids for words or `max_len` is below 2.
    pub fn hashed(vocab_size: usize, max_len: usize) -> Result<Self, Error> {
        check_length(max_len)?;
        let ids = u32::try_from(vocab_size)
            .ok()
            .and_then(|size| size.checked_sub(HASHED_FIRST))
            .filter(|ids| *ids > 0)
            .ok_or_else(|| {
                Error::unusable(
                    format!("a vocabulary of {vocab_size} has no room for hashed words"),
                    format!("give a vocab.txt, or an encoder with more than {HASHED_FIRST} ids"),
                )
            })?;
        Ok(TextTransform {
            words: Arc::new(Words::Hashed { ids }),
            start: HASHED_START,
            end: HASHED_END,
            max_len,
        })
    }

    /// Returns the most ids that a text becomes, `[CLS]` and `[SEP]` included.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Returns the ids of a text, from 2 to [`TextTransform::max_len`] of them. Longer texts are
    /// truncated at the end.
    ///
    /// # Errors
    /// [`Error::Media`] if the tokenizer fails; no text is known to cause it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut out = vec![self.start];
        let room = self.max_len - 2;
        match &*self.words {
            Words::Pieces(tokenizer) => {
                let encoding = tokenizer
                    .encode_fast(text, false)
                    .map_err(tokenizer_error)?;
                out.extend(encoding.get_ids().iter().take(room));
            }
            Words::Hashed { ids } => {
                let mut text = NormalizedString::from(text);
                normalizer(TextRules::default())
                    .normalize(&mut text)
                    .map_err(tokenizer_error)?;
                let mut words = PreTokenizedString::from(text);
                BertPreTokenizer
                    .pre_tokenize(&mut words)
                    .map_err(tokenizer_error)?;
                let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
                let id =
                    |word: &str| HASHED_FIRST + (fnv1a(word.as_bytes()) % u64::from(*ids)) as u32;
                out.extend(splits.iter().take(room).map(|(word, ..)| id(word)));
            }
        }
        out.push(self.end);
        Ok(out)
    }
}

impl fmt::Debug for TextTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match &*self.words {
            Words::Pieces(tokenizer) => format!("{} word pieces", tokenizer.get_vocab_size(true)),
            Words::Hashed { ids } => format!("{ids} hashed words"),
        };
        write!(f, "TextTransform({words}, at most {} ids)", self.max_len)
    }
}

/// Reads a `vocab.txt`: one word piece per line, whose id is the line's number from 0. A word piece
/// that is listed twice has the id of its last line, as in transformers.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Unusable`] if it is no such list.
pub fn read_vocab(path: &Path) -> Result<HashMap<String, u32>, Error> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let ids = WordPiece::read_bytes(&bytes).map_err(|error| not_a_list(path, error))?;
    Ok(ids.into_iter().collect())
}

/// Returns BERT's normalizer, which also cleans text.
fn normalizer(rules: TextRules) -> BertNormalizer {
    BertNormalizer::new(
        true,
        rules.split_chinese,
        rules.strip_accents,
        rules.lower_case,
    )
}

/// Returns the 64-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u64 {
    // Offset basis and prime of the 64-bit variant.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn check_length(max_len: usize) -> Result<(), Error> {
    if max_len < 2 {
        return Err(Error::unusable(
            format!("a text length of {max_len} has no room for [CLS] and [SEP]"),
            "set it to 2 or more",
        ));
    }
    Ok(())
}

fn not_a_list(path: &Path, error: tokenizers::Error) -> Error {
    let error = error.to_string().replace('\n', " ");
    unusable(path, format!("is no list of word pieces ({error})"))
}

fn unusable(path: &Path, problem: String) -> Error {
    Error::unusable(
        format!("{} {problem}", path.display()),
        "take the vocab.txt that came with the text encoder",
    )
}

fn tokenizer_error(error: tokenizers::Error) -> Error {
    Error::Media(format!(
        "the text cannot be tokenized: {}",
        error.to_string().replace('\n', " ")
    ))
}
