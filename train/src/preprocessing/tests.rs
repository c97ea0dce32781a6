//! Side files with other values than the paper's checkpoints: used, or refused by name.

use super::*;
use datasets::{InputName, Modalities, Modality};
use model::encoder::config::Kind;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const IMAGE: &str = "clip-vit-base-patch16/preprocessor_config.json";
const MEL: &str = "ast-finetuned-audioset-10-10-0.4593/preprocessor_config.json";
const VOCAB: &str = "bert-base-uncased/vocab.txt";
const RULES: &str = "bert-base-uncased/tokenizer_config.json";
const TOKENIZER: &str = "bert-base-uncased/tokenizer.json";

/// Word pieces whose ids tell which rules were followed.
const PIECES: [&str; 10] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "Cafe", "café", "Café", "中",
];

/// The transforms of encoders whose checkpoints have these side files, or the error.
fn with(kinds: [Kind; 2], files: &[(&str, String)]) -> Result<Transforms, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let modalities = match kinds.contains(&Kind::Bert) {
        true => [Modality::Image, Modality::Text],
        false => [Modality::Audio, Modality::Video],
    };
    let overrides = crate::settings::SettingsOverrides::default();
    let settings = Settings::resolve("mine", modalities, &overrides).unwrap();
    let weights = WeightSource::Folder(folder.path().to_path_buf());
    let encoders = kinds.map(EncoderConfig::base);
    let text = transforms(&settings, modalities.into(), &encoders, &weights);
    text.map_err(|e| format!("{e:#}"))
}

fn audio_video(file: &str, content: Value) -> Result<Transforms, String> {
    with([Kind::Ast, Kind::Clip], &[(file, content.to_string())])
}

fn vocab() -> (&'static str, String) {
    (VOCAB, PIECES.join("\n"))
}

/// A `tokenizer.json` as transformers writes it, with these rules.
fn tokenizer_json(normalizer: Value) -> (&'static str, String) {
    let pieces: serde_json::Map<String, Value> = (0..).zip(PIECES).map(entry).collect();
    let json = json!({
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": pieces},
    });
    (TOKENIZER, json.to_string())
}

fn entry((id, piece): (usize, &str)) -> (String, Value) {
    (piece.to_string(), id.into())
}

fn ids(files: &[(&str, String)], text: &str) -> Vec<u32> {
    let transforms = with([Kind::Clip, Kind::Bert], files).unwrap();
    let ids = transforms.text.unwrap().encode(text).unwrap();
    ids[1..ids.len() - 1].to_vec()
}

#[test]
fn normalization_is_that_of_the_checkpoint() {
    let plain = with([Kind::Ast, Kind::Clip], &[]).unwrap();
    assert_eq!(plain.mel, MelTransform::ast(1024));
    assert_eq!(plain.image, ImageTransform::clip(224));

    for (content, mean, std) in [
        (json!({"mean": -6.5, "std": 3.25}), -6.5, 3.25),
        (json!({"mean": -6.5}), -6.5, plain.mel.std),
        (
            json!({"do_normalize": false, "mean": -6.5, "std": 3.25}),
            0.0,
            0.5,
        ),
        (
            json!({"feature_extractor": {"feature_extractor_type": "ASTFeatureExtractor", "std": 2}}),
            plain.mel.mean,
            2.0,
        ),
    ] {
        let mel = audio_video(MEL, content).unwrap().mel;
        assert_eq!((mel.frames, mel.mean, mel.std), (1024, mean, std));
    }

    let half = [0.5; 3];
    for (content, mean, std) in [
        (
            json!({"image_mean": [0.1, 0.2, 0.3], "image_std": half, "size": 224, "crop_size": 224, "resample": 3}),
            [0.1, 0.2, 0.3],
            half,
        ),
        (
            json!({"image_std": half, "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "rescale_factor": 0.003_921_568_627_450_98}),
            plain.image.mean,
            half,
        ),
        (json!({"do_normalize": false}), [0.0; 3], [1.0; 3]),
    ] {
        let image = audio_video(IMAGE, content).unwrap().image;
        assert_eq!((image.size, image.mean, image.std), (224, mean, std));
    }
}

#[test]
fn preprocessing_that_is_not_supported_is_refused_by_its_key() {
    for (file, content, key) in [
        (IMAGE, json!({"size": 256}), "size is 256"),
        (
            IMAGE,
            json!({"size": {"height": 224, "width": 224}}),
            "size is {",
        ),
        (IMAGE, json!({"crop_size": 336}), "crop_size is 336"),
        (
            IMAGE,
            json!({"crop_size": {"height": 224, "width": 200}}),
            "crop_size is {",
        ),
        (IMAGE, json!({"resample": 2}), "resample is 2"),
        (
            IMAGE,
            json!({"do_center_crop": false}),
            "do_center_crop is false",
        ),
        (
            IMAGE,
            json!({"rescale_factor": 0.5}),
            "rescale_factor is 0.5",
        ),
        (IMAGE, json!({"image_mean": [0.5]}), "image_mean is [0.5]"),
        (IMAGE, json!({"image_std": [1, 0, 1]}), "image_std is"),
        (
            IMAGE,
            json!({"image_processor_type": "ViTImageProcessor"}),
            "ViTImageProcessor",
        ),
        (IMAGE, json!([]), "no JSON object"),
        (MEL, json!({"std": 0.0}), "std is 0"),
        (MEL, json!({"mean": "low"}), "mean is \"low\""),
        (MEL, json!({"max_length": 512}), "max_length is 512"),
        (MEL, json!({"num_mel_bins": 64}), "num_mel_bins is 64"),
        (
            MEL,
            json!({"sampling_rate": 48000}),
            "sampling_rate is 48000",
        ),
        (
            MEL,
            json!({"feature_extractor_type": "WhisperFeatureExtractor"}),
            "WhisperFeatureExtractor",
        ),
    ] {
        let error = audio_video(file, content).err().unwrap();
        let named = error.contains(file) && error.contains(key) && !error.contains('\n');
        assert!(named, "{key}: {error}");
    }
    let cut = with([Kind::Ast, Kind::Clip], &[(MEL, "{\"mean\": ".into())])
        .err()
        .unwrap();
    assert!(cut.contains(MEL) && cut.contains("is not JSON"), "{cut}");
}

#[test]
fn text_is_cleaned_as_the_checkpoint_says() {
    let bert = |rules: Value| (RULES, rules.to_string());
    let lower = json!({"type": "BertNormalizer", "lowercase": true});
    let cased = json!({"type": "BertNormalizer", "clean_text": true, "lowercase": false, "strip_accents": null});
    for (files, expected) in [
        (vec![vocab()], 5),
        (vec![vocab(), bert(json!({"do_lower_case": false}))], 8),
        (
            vec![
                vocab(),
                bert(json!({"do_lower_case": false, "strip_accents": true})),
            ],
            6,
        ),
        (vec![vocab(), bert(json!({"strip_accents": false}))], 7),
        (
            vec![
                vocab(),
                bert(json!({"model_max_length": 1e30, "cls_token": {"content": "[CLS]"}})),
            ],
            5,
        ),
        (vec![tokenizer_json(lower.clone())], 5),
        (vec![tokenizer_json(cased.clone())], 8),
        (vec![vocab(), tokenizer_json(cased.clone())], 8),
        (
            vec![
                tokenizer_json(cased),
                bert(json!({"do_lower_case": true, "tokenizer_class": "BertTokenizerFast"})),
            ],
            5,
        ),
    ] {
        assert_eq!(ids(&files, "Café"), [expected], "{files:?}");
    }
    assert_eq!(ids(&[vocab()], "中cafe"), [9, 5]);
    let joined = bert(json!({"tokenize_chinese_chars": false}));
    assert_eq!(ids(&[vocab(), joined], "中cafe"), [1]);
}

#[test]
fn tokenizers_that_are_not_supported_are_refused_by_name() {
    let rules = |json: Value| vec![vocab(), (RULES, json.to_string())];
    let lower = json!({"type": "BertNormalizer", "lowercase": true});
    for (files, names) in [
        (vec![], [VOCAB, "is missing"]),
        (
            rules(json!({"model_max_length": 16})),
            [RULES, "text_length=16"],
        ),
        (
            rules(json!({"tokenizer_class": "RobertaTokenizer"})),
            [RULES, "RobertaTokenizer"],
        ),
        (
            rules(json!({"do_basic_tokenize": false})),
            [RULES, "do_basic_tokenize is false"],
        ),
        (
            rules(json!({"never_split": ["a-b"]})),
            [RULES, "never_split"],
        ),
        (
            rules(json!({"unk_token": "<unk>"})),
            [RULES, "unk_token is \"<unk>\""],
        ),
        (
            rules(json!({"do_lower_case": "no"})),
            [RULES, "do_lower_case is \"no\""],
        ),
        (
            vec![tokenizer_json(json!({"type": "NFKC"}))],
            [TOKENIZER, "\"NFKC\""],
        ),
        (
            vec![(TOKENIZER, json!({"model": {"type": "BPE"}}).to_string())],
            [TOKENIZER, "not the tokenizer of a BERT"],
        ),
        (
            vec![
                (VOCAB, "[PAD]\n[UNK]\n[CLS]\n[SEP]\ncafe".into()),
                tokenizer_json(lower),
            ],
            [VOCAB, "other word pieces"],
        ),
    ] {
        let error = with([Kind::Clip, Kind::Bert], &files).err().unwrap();
        let named = names.iter().all(|name| error.contains(name));
        assert!(named && !error.contains('\n'), "{names:?}: {error}");
    }
}

/// The sizes of inputs are those of `config.json`, and side files have to agree with them.
#[test]
fn sizes_of_inputs_are_those_of_the_encoders() {
    let weights = tempfile::tempdir().unwrap();
    let write = |name: &str, content: Value| {
        let path = weights.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.to_string()).unwrap();
    };
    let large = "clip-vit-large-patch14-336";
    let sizes = json!({"image_size": 336, "patch_size": 14});
    let config = json!({"model_type": "clip", "vision_config": sizes});
    write(&format!("{large}/config.json"), config);
    let preprocessor = format!("{large}/preprocessor_config.json");
    write(&preprocessor, json!({"size": 336, "crop_size": 336}));
    let ast = json!({
        "model_type": "audio-spectrogram-transformer",
        "max_length": 512, "time_stride": 12, "frequency_stride": 16,
    });
    write("ast-512/config.json", ast);
    write(
        "bert-base-cased/config.json",
        json!({"model_type": "bert", "vocab_size": 10}),
    );
    fs::write(
        weights.path().join("bert-base-cased/vocab.txt"),
        PIECES.join("\n"),
    )
    .unwrap();

    let source = WeightSource::Folder(weights.path().to_path_buf());
    let read = |modalities: [Modality; 2], only: Option<Modality>| {
        let modalities = Modalities::from(modalities);
        let only = only.map(InputName::from);
        let overrides = crate::settings::SettingsOverrides {
            modality: only,
            ..Default::default()
        };
        let settings = Settings::resolve("mine", modalities, &overrides).unwrap();
        let resolved = crate::session::resolve_weights(modalities, only, &source)?;
        let encoders = crate::session::encoder_configs(modalities, only, &source, false)?;
        let transforms = transforms(&settings, modalities, &encoders, &resolved);
        transforms.map(|transforms| (transforms, encoders))
    };
    let audio_video = [Modality::Audio, Modality::Video];
    let (transforms, encoders) = read(audio_video, None).unwrap();
    assert_eq!((transforms.mel.frames, transforms.image.size), (512, 336));
    // (128 - 16) / 16 + 1 patches along frequency, (512 - 16) / 12 + 1 along time; 336 / 14.
    let patches: Vec<usize> = encoders.iter().map(EncoderConfig::patches).collect();
    assert_eq!(patches, [8 * 42, 24 * 24]);
    let (transforms, _) = read([Modality::Image, Modality::Text], None).unwrap();
    let pieces = transforms.text.unwrap().encode("cafe").unwrap();
    assert_eq!((transforms.image.size, pieces[1]), (336, 5));

    // A damaged checkpoint of the modality that is not used is not looked at.
    write(&preprocessor, json!({"size": 224}));
    let error = |result: Result<_>| format!("{:#}", result.err().unwrap());
    let refused = error(read(audio_video, None));
    assert!(
        refused.contains("size is 224") && refused.contains("336"),
        "{refused}"
    );
    assert_eq!(
        read(audio_video, Some(Modality::Audio))
            .unwrap()
            .0
            .mel
            .frames,
        512
    );
    fs::remove_dir_all(weights.path().join(large)).unwrap();
    assert!(read(audio_video, None).is_err());
    assert!(read(audio_video, Some(Modality::Audio)).is_ok());
}

/// Encoders of different widths are named with their widths and folders, and one alone is taken.
#[test]
fn encoders_of_different_widths_are_refused_by_name() {
    let weights = tempfile::tempdir().unwrap();
    for (name, config) in [
        (
            "bert-large-uncased",
            json!({"model_type": "bert", "hidden_size": 1024, "num_attention_heads": 16}),
        ),
        (
            "clip-vit-base-patch16",
            json!({"model_type": "clip", "vision_config": {}}),
        ),
    ] {
        fs::create_dir(weights.path().join(name)).unwrap();
        fs::write(
            weights.path().join(name).join("config.json"),
            config.to_string(),
        )
        .unwrap();
    }
    let source = WeightSource::Folder(weights.path().to_path_buf());
    let modalities = Modalities::Two(Modality::Image, Modality::Text);
    let configs = |only: Option<Modality>| {
        let only = only.map(InputName::from);
        crate::session::encoder_configs(modalities, only, &source, false)
    };
    let error = configs(None).unwrap_err().to_string();
    for words in [
        format!(
            "CLIP of width 768 ({}/clip-vit-base-patch16)",
            weights.path().display()
        ),
        format!(
            "BERT of width 1024 ({}/bert-large-uncased)",
            weights.path().display()
        ),
        "--modality image".to_string(),
        "--modality text".to_string(),
    ] {
        assert!(error.contains(&words), "{error}");
    }
    assert!(!error.contains('\n'), "{error}");
    let text = &configs(Some(Modality::Text)).unwrap()[1];
    assert_eq!((text.hidden, text.heads), (1024, 16));
    let image = &configs(Some(Modality::Image)).unwrap()[0];
    assert_eq!(image.hidden, 768);
}

/// An id beyond the word embeddings would be an error in the middle of training.
#[test]
fn vocabulary_larger_than_the_embeddings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.txt"), PIECES.join("\n")).unwrap();
    let read = |size: usize| tokenizer::tokenizer(Path::new(folder.path()), size, 40);
    assert!(read(PIECES.len()).is_ok());
    let error = read(PIECES.len() - 1).unwrap_err().to_string();
    assert!(
        error.contains("vocab_size") && error.contains("id 9"),
        "{error}"
    );
}
