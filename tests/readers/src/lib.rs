//! Every reader of files from unknown sources, as a function of the bytes of a file.
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
use features::mask::Mask;
use features::{Loader, LoaderOptions, MelTransform, Shards, TextTransform, Transforms};
use model::encoder::config::{EncoderConfig, Kind};
use model::encoder::weights::{WeightSource, Weights};
use report::{RunSummary, text_table, write_page};
use std::fs;
use std::hint::black_box;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use train::logging::RunLog;
use train::settings::{RunConfig, Settings};

/// A reader of foreign files.
pub struct Reader {
    /// The name of the reader, which `U2A_READER` and the seeds use.
    pub name: &'static str,
    /// Reads a file of these bytes; returns whether the reader accepted it.
    pub read: fn(&[u8]) -> bool,
}

/// All readers.
pub const READERS: &[Reader] = &[
    Reader {
        name: "description",
        read: description,
    },
    Reader {
        name: "table",
        read: table,
    },
    Reader {
        name: "annotations",
        read: annotations,
    },
    Reader {
        name: "text_file",
        read: text_file,
    },
    Reader {
        name: "image",
        read: image_file,
    },
    Reader {
        name: "vocabulary",
        read: vocabulary,
    },
    Reader {
        name: "shard",
        read: shard,
    },
    Reader {
        name: "mask",
        read: mask,
    },
    Reader {
        name: "manifest",
        read: manifest,
    },
    Reader {
        name: "adapter_config",
        read: adapter_config,
    },
    Reader {
        name: "adapter_tensors",
        read: adapter_tensors,
    },
    Reader {
        name: "encoder_config",
        read: encoder_config,
    },
    Reader {
        name: "weights",
        read: weights,
    },
    Reader {
        name: "pickle",
        read: pickle,
    },
    Reader {
        name: "run_config",
        read: run_config,
    },
    Reader {
        name: "metrics",
        read: metrics,
    },
    Reader {
        name: "evaluation",
        read: evaluation,
    },
];

/// Calls `work` with an empty folder, which is removed afterwards.
fn in_folder(work: impl FnOnce(&Path) -> bool) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    work(folder.path())
}

/// Writes a file, and its folder if that is missing.
fn write_file(path: &Path, bytes: &[u8]) {
    let parent = path.parent().expect("a file in a folder");
    fs::create_dir_all(parent).expect("a folder can be made");
    fs::write(path, bytes).expect("a file can be written");
}

/// Lists a raw tree, and checks that no path leads out of it.
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

/// Reads the `.toml` of a user's own dataset.
pub fn description(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(
            &folder.join("clips.csv"),
            b"id,label,file,part\na,cat,a.mp4,train\nb,dog,b.mp4,test\n",
        );
        write_file(&folder.join("a.mp4"), b"media");
        write_file(&folder.join("clips.toml"), bytes);
        list(&folder.join("clips.toml").to_string_lossy(), folder)
    })
}

/// Reads the table of a user's own dataset: JSON lines if it begins as an object, and CSV
/// otherwise.
pub fn table(bytes: &[u8]) -> bool {
    let name = match bytes.starts_with(b"{") {
        true => "clips.jsonl",
        false => "clips.csv",
    };
    let toml = format!(
        "name = \"own\"\ntable = \"{name}\"\n[columns]\nid = \"id\"\nlabel = \"label\"\nvideo = \"file\"\nsplit = \"part\"\n"
    );
    in_folder(|folder| {
        write_file(&folder.join("a.mp4"), b"media");
        write_file(&folder.join(name), bytes);
        write_file(&folder.join("clips.toml"), toml.as_bytes());
        list(&folder.join("clips.toml").to_string_lossy(), folder)
    })
}

/// Reads the annotation files of the five datasets; the first byte chooses which.
pub fn annotations(bytes: &[u8]) -> bool {
    let (&which, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    in_folder(|raw| {
        let media = |path: &str| write_file(&raw.join(path), b"some media");
        let dataset = match which % 9 {
            0 => {
                media("AudioWAV/1001_DFA_ANG_XX.wav");
                media("VideoFlash/1001_DFA_ANG_XX.flv");
                write_file(&raw.join("train.csv"), bytes);
                write_file(&raw.join("test.csv"), b"1002_DFA_SAD_XX,SAD\n");
                "crema-d"
            }
            1 => {
                media("AVE/---1_cCGK4M.mp4");
                write_file(&raw.join("Annotations.txt"), bytes);
                write_file(&raw.join("trainSet.txt"), bytes);
                write_file(&raw.join("valSet.txt"), b"");
                write_file(&raw.join("testSet.txt"), b"");
                "ave"
            }
            2 => {
                media("train/INSIDE____1_000001_000011.mp4");
                write_file(&raw.join("my_train.txt"), bytes);
                write_file(
                    &raw.join("my_test.txt"),
                    b"INSIDE____2_000001_000011,10,4\r\n",
                );
                "kinetics-sound"
            }
            3 => {
                media("train/INSIDE____1_000001_000011.mp4");
                write_file(&raw.join("train.csv"), bytes);
                "kinetics-sound"
            }
            4 => {
                media("images/train/apple_pie/apple_pie_1.jpg");
                write_file(&raw.join("texts/train_titles.csv"), bytes);
                "food-101"
            }
            5 => {
                media("images/train/apple_pie/apple_pie_1.jpg");
                write_file(&raw.join("split.json"), bytes);
                write_file(&raw.join("text.json"), bytes);
                "food-101"
            }
            6 => {
                media("images/train/apple_pie/apple_pie_1.jpg");
                write_file(&raw.join("train.jsonl"), bytes);
                "food-101"
            }
            7 => {
                media("dataset/0000001.jpeg");
                write_file(&raw.join("dataset/0000001.json"), bytes);
                write_file(
                    &raw.join("split.json"),
                    b"{\"train\":[\"0000001\"],\"dev\":[],\"test\":[]}",
                );
                "mm-imdb"
            }
            _ => {
                media("dataset/0000001.jpeg");
                write_file(
                    &raw.join("dataset/0000001.json"),
                    b"{\"genres\":[\"Drama\"],\"plot\":[\"x\"]}",
                );
                write_file(&raw.join("split.json"), bytes);
                "mm-imdb"
            }
        };
        list(dataset, raw)
    })
}

/// Reads a text file and tokenizes it.
pub fn text_file(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        let path = folder.join("page.txt");
        write_file(&path, bytes);
        let Ok(Some(text)) = datasets::read_text_file(&path, None) else {
            return false;
        };
        assert!(!text.is_empty());
        let vocabulary = TextTransform::hashed(30_522, 40).expect("a vocabulary of BERT's size");
        let ids = vocabulary.encode(&text);
        assert!(ids.is_ok_and(|ids| (2..=40).contains(&ids.len())));
        true
    })
}

/// Decodes an image of any format, shrinks it and transforms it.
pub fn image_file(bytes: &[u8]) -> bool {
    assert!((1..=8).contains(&image::orientation(bytes)));
    let Ok(decoded) = image::decode(bytes) else {
        return false;
    };
    assert_eq!(decoded.pixels.len(), 3 * decoded.width * decoded.height);
    black_box(image::shrink_to_jpeg(&decoded, 32, image::JPEG_QUALITY).ok());
    image::evaluation_view(&decoded, &ImageTransform::clip(16), &mut Vec::new())
        .expect("it has pixels");
    true
}

/// Reads a `vocab.txt`.
pub fn vocabulary(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        let path = folder.join("vocab.txt");
        write_file(&path, bytes);
        let text = TextTransform::from_vocab(&path, 16);
        text.is_ok_and(|text| text.encode("some plain words, and others").is_ok())
    })
}

/// Opens a shard and streams it as training does.
pub fn shard(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(&folder.join("train-00000-of-00001.parquet"), bytes);
        let Ok(shards) = Shards::open(&folder.into()) else {
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
            ..LoaderOptions::default()
        };
        let stream = Loader::new(&Arc::new(shards), config, 0, 0);
        stream.is_ok_and(|mut stream| stream.all(|batch| batch.is_ok()))
    })
}

/// Reads a missing-modality mask.
pub fn mask(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        let path = folder.join("mask.parquet");
        write_file(&path, bytes);
        Mask::read(&path).is_ok()
    })
}

/// Reads a manifest and verifies a folder against it.
pub fn manifest(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(&folder.join(features::MANIFEST_FILE), bytes);
        write_file(&folder.join("train-00000-of-00001.parquet"), b"a shard");
        features::verify::verify(&folder.into(), 1).is_ok()
    })
}

/// Reads the configuration of the small CLIP that the golden files and the seeds belong to.
fn small_clip(folder: &Path) -> EncoderConfig {
    let path = folder.join("config.json");
    write_file(
        &path,
        include_bytes!("../../golden/models/clip-vit-base-patch16/config.json"),
    );
    EncoderConfig::read(&path, Kind::Clip).expect("the golden file can be read")
}

/// Reads a PEFT adapter from its two files.
fn adapter(config: &[u8], tensors: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(&folder.join("adapter_config.json"), config);
        write_file(&folder.join("adapter_model.safetensors"), tensors);
        model::peft::read(folder, &small_clip(folder)).is_ok()
    })
}

/// Reads the configuration of a PEFT adapter, with golden tensors.
pub fn adapter_config(bytes: &[u8]) -> bool {
    adapter(
        bytes,
        include_bytes!("../../golden/adapters/clip-r1/adapter_model.safetensors"),
    )
}

/// Reads the tensors of a PEFT adapter; checkpoints have the same format.
pub fn adapter_tensors(bytes: &[u8]) -> bool {
    adapter(
        include_bytes!("../../golden/adapters/clip-r1/adapter_config.json"),
        bytes,
    )
}

/// Reads the `config.json` of an encoder; the first byte chooses which.
pub fn encoder_config(bytes: &[u8]) -> bool {
    let (&which, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let kind = [Kind::Clip, Kind::Bert, Kind::Ast][usize::from(which % 3)];
    in_folder(|folder| {
        let path = folder.join("config.json");
        write_file(&path, bytes);
        let config = EncoderConfig::read(&path, kind);
        config.is_ok_and(|config| black_box(config.patches() + config.parameters()) > 0)
    })
}

/// Reads pretrained weights in safetensors format.
pub fn weights(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(&folder.join("model.safetensors"), bytes);
        Weights::load(folder, &small_clip(folder)).is_ok()
    })
}

/// Reads pretrained weights in PyTorch's pickle format.
pub fn pickle(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(&folder.join("pytorch_model.bin"), bytes);
        Weights::load(folder, &small_clip(folder)).is_ok()
    })
}

/// Returns a valid `config.toml` of a run.
pub fn run_config_text() -> String {
    let config = RunConfig {
        version: "0".to_owned(),
        dataset: "crema-d".to_owned(),
        shards: Path::new("shards").into(),
        fingerprint: "0".to_owned(),
        modalities: [Modality::Audio, Modality::Video].into(),
        classes: vec!["cat".to_owned(), "dog".to_owned()],
        multi_label: false,
        weights: WeightSource::Random(0),
        train_mask_sha256: None,
        device: None,
        settings: Settings::default(),
        encoders: vec![
            EncoderConfig::tiny(Kind::Ast),
            EncoderConfig::tiny(Kind::Clip),
        ],
    };
    config.to_toml().expect("a configuration is TOML")
}

/// Reads the `config.toml` of a run.
pub fn run_config(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(&folder.join("config.toml"), bytes);
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

/// Reads the `metrics.jsonl` of a run, as the report and a resumed run do.
pub fn metrics(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(&folder.join("config.toml"), run_config_text().as_bytes());
        write_file(&folder.join("metrics.jsonl"), bytes);
        let Ok(summary) = RunSummary::read(folder) else {
            return false;
        };
        let page = folder.join("report.html");
        black_box(text_table(std::slice::from_ref(&summary)));
        write_page(&page, &[summary]).is_ok() && RunLog::open(folder, 1, 10).is_ok()
    })
}

/// Reads an evaluation of a run, as the report does.
pub fn evaluation(bytes: &[u8]) -> bool {
    in_folder(|folder| {
        write_file(&folder.join("config.toml"), run_config_text().as_bytes());
        write_file(&folder.join("eval-test.json"), bytes);
        let Ok(summary) = RunSummary::read(folder) else {
            return false;
        };
        black_box(text_table(std::slice::from_ref(&summary)));
        write_page(&folder.join("report.html"), &[summary]).is_ok()
    })
}
