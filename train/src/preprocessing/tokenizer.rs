//! How text becomes word pieces, by the files of BERT's tokenizer.

use super::side_file::SideFile;
use anyhow::{Context, Result, bail};
use features::text::read_vocab;
use features::{TextRules, TextTransform};
use model::encoder::weights::VOCAB_FILE;
use model::pretrained::{TOKENIZER_CONFIG_FILE, TOKENIZER_FILE};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// The special tokens as [`TextTransform`] knows them.
const SPECIAL_TOKENS: [(&str, &str); 5] = [
    ("unk_token", "[UNK]"),
    ("cls_token", "[CLS]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("mask_token", "[MASK]"),
];

/// The tokenizer of a text encoder with `vocab_size` word embeddings.
pub(super) fn tokenizer(
    folder: &Path,
    vocab_size: usize,
    text_length: usize,
) -> Result<TextTransform> {
    let whole = SideFile::read(folder.join(TOKENIZER_FILE))?;
    let mut rules = TextRules::default();
    let mut pieces = None;
    if let Some(file) = &whole {
        rules = file.normalizer_rules().with_context(|| file.name())?;
        pieces = Some(file.pieces().with_context(|| file.name())?);
    }
    if let Some(file) = SideFile::read(folder.join(TOKENIZER_CONFIG_FILE))? {
        let keys = ["do_lower_case", "strip_accents", "tokenize_chinese_chars"];
        let read = file.check_tokenizer(text_length);
        let read = read.and_then(|()| file.rules(keys, rules));
        rules = read.with_context(|| file.name())?;
    }
    let vocab = folder.join(VOCAB_FILE);
    let (path, pieces) = match (vocab.is_file(), pieces) {
        (true, other) => {
            let listed = read_vocab(&vocab)?;
            if other.is_some_and(|other| other != listed) {
                bail!(
                    "{}: holds other word pieces than {TOKENIZER_FILE} beside it; take both from one checkpoint, or remove the wrong one",
                    vocab.display()
                );
            }
            (vocab, listed)
        }
        (false, Some(pieces)) => (folder.join(TOKENIZER_FILE), pieces),
        (false, None) => bail!(
            "{}: is missing, and so is {TOKENIZER_FILE}; the text encoder's words are in it: fetch it from where its weights came from",
            vocab.display()
        ),
    };
    let largest = pieces.values().max().copied().unwrap_or(0);
    if largest as usize >= vocab_size {
        bail!(
            "{}: has the id {largest}, but vocab_size in config.json is {vocab_size}; take both files from one checkpoint",
            path.display()
        );
    }
    Ok(TextTransform::from_pieces(
        &path,
        pieces,
        rules,
        text_length,
    )?)
}

impl SideFile {
    /// The word pieces of a `tokenizer.json`, with their ids.
    fn pieces(&self) -> Result<HashMap<String, u32>> {
        let model = &self.json["model"];
        let pieces = model["vocab"].as_object().and_then(|vocab| {
            let pieces = vocab.iter();
            let pieces = pieces.map(|(piece, id)| {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                Some((piece.clone(), id?))
            });
            pieces.collect()
        });
        let word_pieces = matches!(model["type"].as_str(), None | Some("WordPiece"))
            && matches!(
                model["continuing_subword_prefix"].as_str(),
                None | Some("##")
            );
        let split = self.json["pre_tokenizer"]["type"].as_str();
        match pieces {
            Some(pieces) if word_pieces && split == Some("BertPreTokenizer") => Ok(pieces),
            _ => bail!("is not the tokenizer of a BERT (WordPiece, BertPreTokenizer)"),
        }
    }

    /// The rules for text in a `tokenizer.json`.
    fn normalizer_rules(&self) -> Result<TextRules> {
        let normalizer = SideFile {
            path: self.path.clone(),
            json: self.json["normalizer"].clone(),
        };
        normalizer.only("type", "BertNormalizer")?;
        normalizer.only("clean_text", true)?;
        normalizer.rules(
            ["lowercase", "strip_accents", "handle_chinese_chars"],
            TextRules::default(),
        )
    }

    /// The rules for text by their keys; those that are absent are as in `default`.
    fn rules(&self, keys: [&str; 3], default: TextRules) -> Result<TextRules> {
        let [lower_case, strip_accents, split_chinese] = keys;
        Ok(TextRules {
            lower_case: self.switch(lower_case, default.lower_case)?,
            strip_accents: match &self.json[strip_accents] {
                Value::Null => default.strip_accents,
                _ => Some(self.switch(strip_accents, false)?),
            },
            split_chinese: self.switch(split_chinese, default.split_chinese)?,
        })
    }

    /// Refuses what a `tokenizer_config.json` may ask for and [`TextTransform`] does not do.
    fn check_tokenizer(&self, text_length: usize) -> Result<()> {
        self.check_class(
            &["tokenizer_class"],
            &["BertTokenizer", "PreTrainedTokenizer", "TokenizersBackend"],
        )?;
        self.only("do_basic_tokenize", true)?;
        if self.json["never_split"]
            .as_array()
            .is_some_and(|a| !a.is_empty())
        {
            self.only("never_split", Value::Array(Vec::new()))?;
        }
        for (key, token) in SPECIAL_TOKENS {
            // A token is a string, or an object with its text.
            let value = &self.json[key];
            let text = value.as_str().or(value["content"].as_str());
            if !value.is_null() && text != Some(token) {
                self.only(key, token)?;
            }
        }
        // Where the file means "no limit", it holds a number near 1e30.
        if let Some(most) = self.json["model_max_length"].as_f64()
            && most < text_length as f64
        {
            bail!(
                "model_max_length is {most}, the run's text_length {text_length}; add --set text_length={most}"
            );
        }
        Ok(())
    }
}
