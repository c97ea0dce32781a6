//! Text as the encoder reads it: BERT's word pieces, without padding.
//!
//! Ids equal those of Hugging Face's `BertTokenizerFast` (uncased) with `truncation=True`: control characters dropped,
//! lower case, accents stripped, punctuation and Chinese characters on their own, longest match first. Padding is the
//! stream's business.

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

/// Tokens that every vocabulary must have: unknown, start, end, padding.
const REQUIRED: [&str; 4] = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"];

/// Tokens that stand for themselves where the text spells them out, as in `BertTokenizerFast`.
const SPECIAL: [&str; 5] = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"];

/// `[CLS]` of `bert-base-uncased`, for [`TextTransform::hashed`].
const HASHED_START: u32 = 101;
/// `[SEP]` of `bert-base-uncased`, for [`TextTransform::hashed`].
const HASHED_END: u32 = 102;
/// First id of `bert-base-uncased` that is neither special nor unused, for [`TextTransform::hashed`].
const HASHED_FIRST: u32 = 999;

/// Turns text into ids: `[CLS]`, the pieces of its words, `[SEP]`. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct TextTransform {
    words: Arc<Words>,
    start: u32,
    end: u32,
    max_len: usize,
}

enum Words {
    /// Boxed for its size alone.
    Pieces(Box<Tokenizer>),
    Hashed {
        /// How many ids there are from [`HASHED_FIRST`] on.
        ids: u32,
    },
}

impl TextTransform {
    /// The word pieces listed in a `vocab.txt`, one a line, the line's number being the id.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Unusable`] if it is no such file or `max_len` is below 2.
    pub fn from_vocab(path: &Path, max_len: usize) -> Result<Self, Error> {
        check_length(max_len)?;
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let wrong = |error: tokenizers::Error| {
            let error = error.to_string().replace('\n', " ");
            unusable(path, format!("is no list of word pieces ({error})"))
        };
        // A piece listed twice has its last number, as in transformers.
        let ids = WordPiece::read_bytes(&bytes).map_err(wrong)?;
        if let Some(token) = REQUIRED.iter().find(|token| !ids.contains_key(**token)) {
            return Err(unusable(path, format!("has no line {token}")));
        }
        let (start, end) = (ids["[CLS]"], ids["[SEP]"]);
        let special: Vec<AddedToken> = SPECIAL
            .iter()
            .filter(|token| ids.contains_key(**token))
            .map(|token| AddedToken::from(*token, true))
            .collect();
        let model = WordPiece::builder()
            .vocab(ids)
            .unk_token("[UNK]".into())
            .build()
            .map_err(wrong)?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer
            .with_normalizer(Some(normalizer()))
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

    /// For runs with random weights where no vocabulary is at hand: whole words, split and cleaned as BERT does it,
    /// numbered by a hash (64-bit FNV-1a) from 999 on, so different words may share an id. `[CLS]` is 101, `[SEP]` 102.
    /// Never for pretrained weights: their embeddings mean other words.
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

    /// The most ids a text becomes, the two at its ends included.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// The ids of a text, between 2 and [`TextTransform::max_len`] of them. What is too much falls off at the end.
    ///
    /// # Errors
    /// [`Error::Media`] if the tokenizer refuses; no text is known to cause it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut out = vec![self.start];
        let room = self.max_len - 2;
        match &*self.words {
            Words::Pieces(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(refused)?;
                out.extend(encoding.get_ids().iter().take(room));
            }
            Words::Hashed { ids } => {
                let mut text = NormalizedString::from(text);
                normalizer().normalize(&mut text).map_err(refused)?;
                let mut words = PreTokenizedString::from(text);
                BertPreTokenizer.pre_tokenize(&mut words).map_err(refused)?;
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

/// Cleaned, Chinese characters set apart, lower case and therefore without accents.
fn normalizer() -> BertNormalizer {
    BertNormalizer::new(true, true, None, true)
}

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

fn unusable(path: &Path, problem: String) -> Error {
    Error::unusable(
        format!("{} {problem}", path.display()),
        "take the vocab.txt that came with the text encoder",
    )
}

fn refused(error: tokenizers::Error) -> Error {
    Error::Media(format!(
        "the text cannot be tokenised: {}",
        error.to_string().replace('\n', " ")
    ))
}
