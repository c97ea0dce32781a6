//! Every reader of files that may come from somebody else, as a function of the file's bytes.
//!
//! Two drivers use these functions: the cargo-fuzz target in `fuzz/` (nightly; `just fuzz`), and
//! the seeded mutation test in `tests/mutations.rs` (stable; one of the ordinary tests). A reader
//! may refuse its input. It may not panic, hang, or use memory out of proportion to the file.

#![allow(
    clippy::expect_used,
    reason = "only tests use this crate, and may panic"
)]

use datasets::{Input, ListOptions, Modality, Split};
use features::image::{self, ImageTransform};
use features::loader::{LoaderOptions, MelTransform, Transforms};
use features::mask::Mask;
use features::{Loader, Shards, TextTransform};
use model::encoder::config::{EncoderConfig, Kind};
use model::encoder::weights::{WeightSource, Weights};
use report::{RunSummary, text_table, write_page};
use std::fs;
use std::hint::black_box;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use train::logging::RunLog;
use train::settings::{RunConfig, Settings};

/// A reader: its name, and what it does with bytes.
pub struct Entry {
    /// Names the fuzz target and the seeds.
    pub name: &'static str,
    /// Feeds the reader; whether it took the bytes for good.
    pub run: fn(&[u8]) -> bool,
}

/// All of them.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "description",
        run: description,
    },
    Entry {
        name: "table",
        run: table,
    },
    Entry {
        name: "annotations",
        run: annotations,
    },
    Entry {
        name: "words",
        run: words,
    },
    Entry {
        name: "picture",
        run: picture,
    },
    Entry {
        name: "vocabulary",
        run: vocabulary,
    },
    Entry {
        name: "shard",
        run: shard,
    },
    Entry {
        name: "mask",
        run: mask,
    },
    Entry {
        name: "manifest",
        run: manifest,
    },
    Entry {
        name: "adapter_config",
        run: adapter_config,
    },
    Entry {
        name: "adapter_tensors",
        run: adapter_tensors,
    },
    Entry {
        name: "encoder_config",
        run: encoder_config,
    },
    Entry {
        name: "weights",
        run: weights,
    },
    Entry {
        name: "pickle",
        run: pickle,
    },
    Entry {
        name: "run_config",
        run: run_config,
    },
    Entry {
        name: "metrics",
        run: metrics,
    },
    Entry {
        name: "evaluation",
        run: evaluation,
    },
];

/// Runs with a folder of its own, empty at the beginning and gone at the end.
fn in_folder(work: impl FnOnce(&Path) -> bool) -> bool {
    let folder = tempfile::tempdir().expect("the temporary folder takes another one");
    work(folder.path())
}

fn put(path: &Path, bytes: &[u8]) {
    let parent = path.parent().expect("a file in a folder");
    fs::create_dir_all(parent).expect("a folder can be made");
    fs::write(path, bytes).expect("a file can be written");
}

fn list(dataset: &str, raw: &Path) -> bool {
    let Ok(dataset) = datasets::open(dataset) else {
        return false;
    };
    let Ok(listing) = dataset.list(raw, &ListOptions::default()) else {
        return false;
    };
    for sample in &listing.samples {
        assert!(!sample.id.is_empty());
        for input in &sample.inputs {
            if let Input::Files(files) = input {
                let inside = |file: &PathBuf| {
                    let plain = |part| matches!(part, Component::Normal(_));
                    file.components().all(plain)
                };
                assert!(
                    files.iter().all(inside),
                    "{files:?} leads out of the raw folder"
                );
            }
        }
    }
    true
}

/// The `.toml` of a user's own dataset.
pub fn description(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        put(
            &folder.join("clips.csv"),
            b"id,label,file,part\na,cat,a.mp4,train\nb,dog,b.mp4,test\n",
        );
        put(&folder.join("a.mp4"), b"media");
        put(&folder.join("clips.toml"), bytes);
        list(&folder.join("clips.toml").to_string_lossy(), folder)
    })
}

/// The table of a user's own dataset.
pub fn table(bytes: &[u8]) -> bool {
    let toml = b"name = \"own\"\ntable = \"clips.csv\"\n[columns]\nid = \"id\"\nlabel = \"label\"\nvideo = \"file\"\nsplit = \"part\"\n";
    in_folder(|folder| {
        put(&folder.join("a.mp4"), b"media");
        put(&folder.join("clips.csv"), bytes);
        put(&folder.join("clips.toml"), toml);
        list(&folder.join("clips.toml").to_string_lossy(), folder)
    })
}

/// The annotation files of the five datasets; the first byte chooses which.
pub fn annotations(bytes: &[u8]) -> bool {
    let (&which, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    in_folder(|raw| {
        let media = |path: &str| put(&raw.join(path), b"some media");
        let dataset = match which % 9 {
            0 => {
                media("AudioWAV/1001_DFA_ANG_XX.wav");
                media("VideoFlash/1001_DFA_ANG_XX.flv");
                put(&raw.join("train.csv"), bytes);
                put(&raw.join("test.csv"), b"1002_DFA_SAD_XX,SAD\n");
                "crema-d"
            }
            1 => {
                media("AVE/---1_cCGK4M.mp4");
                put(&raw.join("Annotations.txt"), bytes);
                put(&raw.join("trainSet.txt"), bytes);
                put(&raw.join("valSet.txt"), b"");
                put(&raw.join("testSet.txt"), b"");
                "ave"
            }
            2 => {
                media("train/INSIDE____1_000001_000011.mp4");
                put(&raw.join("my_train.txt"), bytes);
                put(
                    &raw.join("my_test.txt"),
                    b"INSIDE____2_000001_000011,10,4\r\n",
                );
                "kinetics-sound"
            }
            3 => {
                media("train/INSIDE____1_000001_000011.mp4");
                put(&raw.join("train.csv"), bytes);
                "kinetics-sound"
            }
            4 => {
                media("images/train/apple_pie/apple_pie_1.jpg");
                put(&raw.join("texts/train_titles.csv"), bytes);
                "food-101"
            }
            5 => {
                media("images/train/apple_pie/apple_pie_1.jpg");
                put(&raw.join("split.json"), bytes);
                put(&raw.join("text.json"), bytes);
                "food-101"
            }
            6 => {
                media("images/train/apple_pie/apple_pie_1.jpg");
                put(&raw.join("train.jsonl"), bytes);
                "food-101"
            }
            7 => {
                media("dataset/0000001.jpeg");
                put(&raw.join("dataset/0000001.json"), bytes);
                put(
                    &raw.join("split.json"),
                    b"{\"train\":[\"0000001\"],\"dev\":[],\"test\":[]}",
                );
                "mm-imdb"
            }
            _ => {
                media("dataset/0000001.jpeg");
                put(
                    &raw.join("dataset/0000001.json"),
                    b"{\"genres\":[\"Drama\"],\"plot\":[\"x\"]}",
                );
                put(&raw.join("split.json"), bytes);
                "mm-imdb"
            }
        };
        list(dataset, raw)
    })
}

/// A page of text.
pub fn words(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        let path = folder.join("page.txt");
        put(&path, bytes);
        let Ok(Some(text)) = datasets::read_text_file(&path) else {
            return false;
        };
        assert!(!text.is_empty());
        let vocabulary = TextTransform::hashed(30_522, 40).expect("a vocabulary of BERT's size");
        let ids = vocabulary.encode(&text);
        assert!(ids.is_ok_and(|ids| (2..=40).contains(&ids.len())));
        true
    })
}

/// A picture of any format.
pub fn picture(bytes: &[u8]) -> bool {
    let Ok(picture) = image::decode(bytes) else {
        return false;
    };
    assert_eq!(picture.pixels.len(), 3 * picture.width * picture.height);
    black_box(image::shrink_to_jpeg(&picture, 32, image::JPEG_QUALITY).ok());
    image::evaluation_view(&picture, &ImageTransform::clip(16), &mut Vec::new())
        .expect("it has pixels");
    true
}

/// A `vocab.txt`.
pub fn vocabulary(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        let path = folder.join("vocab.txt");
        put(&path, bytes);
        let text = TextTransform::from_vocab(&path, 16);
        text.is_ok_and(|text| text.encode("some plain words, and others").is_ok())
    })
}

/// A shard: opened, and streamed as training does.
pub fn shard(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("train-00000-of-00001.parquet"), bytes);
        let Ok(shards) = Shards::open(folder) else {
            return false;
        };
        let config = LoaderOptions {
            split: Split::Train,
            shuffle: true,
            augment: true,
            seed: 0,
            batch_size: 2,
            threads: 1,
            byte_budget: 1 << 20,
            transforms: Transforms {
                frames: 2,
                image: ImageTransform::clip(8),
                mel: MelTransform::ast(16),
                text: TextTransform::hashed(30_522, 16).ok(),
            },
            present: None,
        };
        let stream = Loader::new(&Arc::new(shards), config, 0, 0);
        stream.is_ok_and(|mut stream| stream.all(|batch| batch.is_ok()))
    })
}

/// A missing-modality mask.
pub fn mask(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        let path = folder.join("mask.parquet");
        put(&path, bytes);
        Mask::read(&path).is_ok()
    })
}

/// A manifest.
pub fn manifest(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join(features::MANIFEST_FILE), bytes);
        put(&folder.join("train-00000-of-00001.parquet"), b"a shard");
        features::verify::verify(folder, 1).is_ok()
    })
}

/// The small CLIP of the golden values, to which the seeds belong.
fn small(folder: &Path) -> EncoderConfig {
    let path = folder.join("config.json");
    put(
        &path,
        include_bytes!("../../golden/models/clip-vit-base-patch16/config.json"),
    );
    EncoderConfig::read(&path, Kind::Clip).expect("the golden values' own")
}

fn adapter(config: &[u8], tensors: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("adapter_config.json"), config);
        put(&folder.join("adapter_model.safetensors"), tensors);
        model::peft::read(folder, &small(folder)).is_ok()
    })
}

/// A PEFT adapter's settings, beside sound tensors.
pub fn adapter_config(bytes: &[u8]) -> bool {
    adapter(
        bytes,
        include_bytes!("../../golden/adapters/clip-r1/adapter_model.safetensors"),
    )
}

/// A PEFT adapter's tensors; checkpoints hold the same format.
pub fn adapter_tensors(bytes: &[u8]) -> bool {
    adapter(
        include_bytes!("../../golden/adapters/clip-r1/adapter_config.json"),
        bytes,
    )
}

/// An encoder's `config.json`; the first byte chooses the encoder.
pub fn encoder_config(bytes: &[u8]) -> bool {
    let (&which, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let kind = [Kind::Clip, Kind::Bert, Kind::Ast][usize::from(which % 3)];
    in_folder(|folder| {
        let path = folder.join("config.json");
        put(&path, bytes);
        let config = EncoderConfig::read(&path, kind);
        config.is_ok_and(|config| black_box(config.patches() + config.parameters()) > 0)
    })
}

/// Pretrained weights.
pub fn weights(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("model.safetensors"), bytes);
        Weights::load(folder, &small(folder)).is_ok()
    })
}

/// Pretrained weights as PyTorch pickles them.
pub fn pickle(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("pytorch_model.bin"), bytes);
        Weights::load(folder, &small(folder)).is_ok()
    })
}

/// What a run's `config.toml` holds.
pub fn run_config_text() -> String {
    let config = RunConfig {
        version: "0".to_owned(),
        dataset: "crema-d".to_owned(),
        shards: "shards".into(),
        fingerprint: "0".to_owned(),
        modalities: [Modality::Audio, Modality::Video],
        classes: vec!["cat".to_owned(), "dog".to_owned()],
        multi_label: false,
        weights: WeightSource::Random(0),
        train_mask_sha256: None,
        device: None,
        settings: Settings::default(),
        encoders: [
            EncoderConfig::tiny(Kind::Ast),
            EncoderConfig::tiny(Kind::Clip),
        ],
    };
    config.to_toml().expect("a configuration is TOML")
}

/// A run's `config.toml`.
pub fn run_config(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("config.toml"), bytes);
        let Ok(config) = RunConfig::read(folder) else {
            return false;
        };
        black_box(config.settings.schedule());
        config
            .settings
            .check_data([Modality::Audio, Modality::Video], false)
            .is_ok()
    })
}

/// A run's `metrics.jsonl`, as the report and a resumed run read it.
pub fn metrics(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("config.toml"), run_config_text().as_bytes());
        put(&folder.join("metrics.jsonl"), bytes);
        let Ok(summary) = RunSummary::read(folder) else {
            return false;
        };
        let page = folder.join("report.html");
        black_box(text_table(std::slice::from_ref(&summary)));
        write_page(&page, &[summary]).is_ok() && RunLog::open(folder, 1, 10).is_ok()
    })
}

/// A run's evaluation, as the report reads it.
pub fn evaluation(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        put(&folder.join("config.toml"), run_config_text().as_bytes());
        put(&folder.join("eval-test.json"), bytes);
        let Ok(summary) = RunSummary::read(folder) else {
            return false;
        };
        black_box(text_table(std::slice::from_ref(&summary)));
        write_page(&folder.join("report.html"), &[summary]).is_ok()
    })
}
