//! Feeds damaged and forged files to every reader: truncated at each byte, with flipped bits, huge
//! numbers and inserted words. A reader may refuse a file; it may not panic or hang.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use datasets::{Modality, Split};
use features::image::{Rgb, shrink_to_jpeg};
use features::mask::{Mask, Protocol};
use features::{
    Mel, MelDtype, Row, RowContent, ShardSpec, Shards, record_batch, writer_properties,
};
use parquet::arrow::ArrowWriter;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use util::rng::Rng;

/// The time that no input may exceed. Inputs take milliseconds, or up to a second on a busy
/// machine.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Tokens that have a meaning to some reader.
const TOKENS: [&str; 16] = [
    "../",
    "/etc/passwd",
    "\n",
    "\r\n",
    "\0",
    "\"",
    "\u{feff}",
    ",,,,",
    "nan",
    "-1",
    "1e999",
    "18446744073709551615",
    "[[[[",
    "{\"a\":",
    "true",
    "null",
];

/// Whether to test at length, as `just test-faults` does.
fn full() -> bool {
    std::env::var_os("U2A_FAULTS").is_some()
}

/// Makes a shard of these modalities and a missing-modality mask for it.
fn shard_and_mask(folder: &Path, modalities: [Modality; 2]) -> (Vec<u8>, Vec<u8>) {
    let multi_label = modalities[0] == Modality::Image;
    let spec = ShardSpec {
        dataset: "made-up".into(),
        modalities: modalities.into(),
        classes: vec!["cat".into(), "dog".into()],
        multi_label,
        mel_dtype: MelDtype::F32,
        frame_pool: 2,
        segment: false,
        tool_version: "0".into(),
        settings_hash: "0".into(),
    };
    let image = Rgb {
        width: 16,
        height: 12,
        pixels: vec![90; 16 * 12 * 3],
    };
    let jpeg = shrink_to_jpeg(&image, 12, 80).unwrap();
    let rows: Vec<Row> = (0..4u32)
        .map(|i| {
            let mut row = Row::new(format!("clip{i}"), Split::Train, vec![i % 2]);
            if multi_label {
                row.contents = [
                    Some(RowContent::Image(jpeg.clone())),
                    Some(RowContent::Text(format!("some words {i}"))),
                ];
            } else {
                let values = (0..2 * 128).map(|k| k as f32).collect();
                let mel = Mel { bins: 128, values };
                row.contents = [
                    Some(RowContent::Mel { mel, seconds: None }),
                    Some(RowContent::Frames {
                        files: vec![jpeg.clone(); 2],
                        times: vec![0.0, 0.5],
                        seconds: None,
                    }),
                ];
            }
            row
        })
        .collect();
    fs::create_dir(folder).unwrap();
    let path = folder.join("train-00000-of-00001.parquet");
    let file = fs::File::create(&path).unwrap();
    let mut writer =
        ArrowWriter::try_new(file, spec.arrow_schema(), Some(writer_properties(&spec))).unwrap();
    writer.write(&record_batch(&spec, &rows).unwrap()).unwrap();
    writer.close().unwrap();
    let mask = folder.join("mask.parquet");
    let shards = Shards::open(&folder.into()).unwrap();
    Mask::draw(&shards, Protocol::of(modalities)[0], 0.5, 0)
        .unwrap()
        .write(&mask)
        .unwrap();
    (fs::read(path).unwrap(), fs::read(mask).unwrap())
}

/// Valid files for each reader.
fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let folder = tempfile::tempdir().unwrap();
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden");
    let read = |path: &str| fs::read(golden.join(path)).unwrap();
    let with = |first: u8, text: &str| [&[first], text.as_bytes()].concat();
    let (clips, mask) = shard_and_mask(
        &folder.path().join("av"),
        [Modality::Audio, Modality::Video],
    );
    let (pages, other) =
        shard_and_mask(&folder.path().join("it"), [Modality::Image, Modality::Text]);
    let manifest = r#"{"dataset":"x","shards":[{"file":"train-00000-of-00001.parquet","split":"train","rows":4,"bytes":7,"sha256":"00"}]}"#;
    let description = "name = \"own\"\ntitle = \"Own\"\nlicense = \"CC0\"\ntable = \"clips.csv\"\nraw = \".\"\nclasses = [\"cat\", \"dog\"]\n\n[columns]\nid = \"id\"\nlabel = \"label\"\nvideo = \"file\"\n\n[splits]\nval = 0.1\ntest = 0.2\n";
    let step = r#"{"step":1,"epoch":0,"loss":1.5,"task_loss":1.0,"align_loss":0.5,"lr":0.001,"seconds":0.1}"#;
    let scores = r#"{"step":1,"epoch":0,"split":"val","accuracy":0.5,"macro_f1":0.4}"#;
    let evaluation = r#"{"dataset":"crema-d","split":"test","checkpoint":"best","protocol":null,"rate":null,"seed":null,"missing":"audio","missing_token":"mask","metrics":{"accuracy":0.5,"macro_f1":0.4},"main_metric":"accuracy","counts":{"samples":4,"both":2},"classes":[{"class":"cat","scores":{"f1":0.5}}],"confusion":[[1,1],[0,2]],"alignment":null,"chance":0.5,"tool_version":"0"}"#;
    let images = [
        "420.jpg",
        "422_progressive.jpg",
        "cmyk.jpg",
        "restart.jpg",
        "tiny.png",
        "palette.png",
        "deep.png",
        "palette.gif",
        "colours.bmp",
        "lossy.webp",
        "lossless.webp",
    ];
    let turned = [
        "compressed_profile.png",
        "compressed_xmp.png",
        "last.png",
        "named.webp",
        "tag6.jpg",
        "xmp.jpg",
    ];
    vec![
        ("description", vec![description.into()]),
        (
            "table",
            vec![
                b"id,label,file,part\na,cat,a.mp4,train\n\"b \"\"c\"\"\",dog,b.mp4,test\n".to_vec(),
                b"{\"id\":\"a\",\"label\":[\"cat\"],\"file\":\"a.mp4\",\"part\":\"train\",\"x\":NaN}\n".to_vec(),
            ],
        ),
        (
            "annotations",
            vec![
                with(0, "1001_DFA_ANG_XX,ANG\n1001_DFA_HAP_XX,HAP\n"),
                with(
                    1,
                    "Category&VideoID&Quality&StartTime&EndTime\nChurch bell&---1_cCGK4M&good&0&10\n",
                ),
                with(2, "INSIDE____1_000001_000011,10,4\r\n"),
                with(
                    3,
                    "label,youtube_id,time_start,time_end,split,is_cc\nplaying violin,INSIDE____1,1,11,train,0\n",
                ),
                with(4, "apple_pie_1.jpg,\"Apple &amp; Pie [b'x']\",apple_pie\n"),
                with(5, "{\"train\":[\"apple_pie_1.jpg\"]}\n"),
                with(
                    6,
                    "{\"id\":\"apple_pie_1\",\"label\":\"apple_pie\",\"text\":\"words\",\"img\":\"images/train/apple_pie/apple_pie_1.jpg\"}\n",
                ),
                with(
                    7,
                    "{\"genres\":[\"Drama\",\"Comedy\"],\"plot\":[\"Somebody does something.::A\"],\"plot outline\":\"x\",\"title\":\"T\"}",
                ),
                with(8, "{\"train\":[\"0000001\"],\"dev\":[],\"test\":[]}"),
            ],
        ),
        (
            "text_file",
            vec![
                "<p>Some &amp; words, caf\u{e9} \u{1f600}</p>".into(),
                b"\xff\xfeh\0i\0".to_vec(),
            ],
        ),
        (
            "image",
            images
                .iter()
                .map(|name| read(&format!("image/{name}")))
                .chain(turned.map(|name| read(&format!("orientation/{name}"))))
                .collect(),
        ),
        (
            "vocabulary",
            vec![read("models/bert-base-uncased/vocab.txt")],
        ),
        ("shard", vec![clips, pages]),
        ("mask", vec![mask, other]),
        ("manifest", vec![manifest.into()]),
        (
            "adapter_config",
            vec![read("adapters/clip-r1/adapter_config.json")],
        ),
        (
            "adapter_tensors",
            vec![read("adapters/clip-r1/adapter_model.safetensors")],
        ),
        (
            "encoder_config",
            [
                "clip-vit-base-patch16",
                "bert-base-uncased",
                "ast-finetuned-audioset-10-10-0.4593",
            ]
            .iter()
            .zip(0..)
            .map(|(name, first)| {
                [
                    &[first],
                    read(&format!("models/{name}/config.json")).as_slice(),
                ]
                .concat()
            })
            .collect(),
        ),
        (
            "weights",
            vec![read("models/clip-vit-base-patch16/model.safetensors")],
        ),
        (
            "pickle",
            vec![read("bin/clip-vit-base-patch16/pytorch_model.bin")],
        ),
        ("run_config", vec![readers::run_config_text().into()]),
        ("metrics", vec![format!("{step}\n{scores}\n").into()]),
        ("evaluation", vec![evaluation.into()]),
    ]
}

/// Makes one to four changes such as a disk, an editor or an attacker might make.
fn mutate(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + rng.below(4) {
        let length = bytes.len().max(1) as u32;
        // Headers and footers steer a reader more than the data between them.
        let at = match rng.below(3) {
            0 => rng.below(length.min(64)),
            1 => length - 1 - rng.below(length.min(600)),
            _ => rng.below(length),
        } as usize;
        let at = at.min(bytes.len());
        let number = [
            0,
            1,
            0x7fff_ffff,
            0x8000_0000,
            u64::from(u32::MAX),
            1 << 40,
            i64::MAX as u64,
            u64::MAX,
        ][rng.below(8) as usize];
        match rng.below(8) {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.below(256) as u8;
                }
            }
            3 => {
                let width = [2, 4, 8][rng.below(3) as usize];
                for (to, from) in bytes[at..].iter_mut().zip(&number.to_le_bytes()[..width]) {
                    *to = *from;
                }
            }
            4 => {
                let end = (at + 1 + rng.below(32) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let token = TOKENS[rng.below(TOKENS.len() as u32) as usize];
                bytes.splice(at..at, token.bytes());
            }
            6 => {
                let end = (at + 1 + rng.below(200) as usize).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = rng.below(bytes.len() as u32 + 1) as usize;
                bytes.splice(to..to, copy);
            }
            _ => {
                // Replaces a digit in text by a huge number.
                let digit = |i: &usize| bytes[*i].is_ascii_digit();
                if let Some(i) = (at..bytes.len()).find(digit) {
                    bytes.splice(i..=i, number.to_string().into_bytes());
                }
            }
        }
    }
    bytes
}

/// Feeds one input to a reader; returns the problem if it panics or takes too long.
fn feed(reader: &readers::Reader, bytes: &[u8], last: &Path) -> Option<String> {
    // An abort, as of a huge allocation, ends this process too; the file then holds the input.
    fs::write(last, bytes).unwrap();
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (reader.read)(bytes)));
    let elapsed = start.elapsed();
    match outcome {
        Err(_) => Some("panics".to_owned()),
        Ok(_) if elapsed > TIME_LIMIT => Some(format!("takes {elapsed:?}")),
        Ok(_) => None,
    }
}

#[test]
fn readers_survive_mutated_files() {
    let seconds = match std::env::var("U2A_FUZZ_SECONDS") {
        Ok(text) => text.parse().unwrap(),
        Err(_) if full() => 3.0,
        Err(_) => 0.4,
    };
    let budget = Duration::from_secs_f64(seconds);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let seed = std::env::var("U2A_FUZZ_SEED").map_or(0, |text| text.parse().unwrap());
    let (mut tried, mut found) = (0u32, Vec::new());
    for (name, seeds) in seeds() {
        let reader = readers::READERS
            .iter()
            .find(|reader| reader.name == name)
            .unwrap();
        let last = target.join(format!("mutation-{name}"));
        let mut too_many_fail = |bytes: &[u8]| {
            tried += 1;
            if let Some(problem) = feed(reader, bytes, &last) {
                let kept = target.join(format!("mutation-{name}-{}", found.len()));
                fs::write(&kept, bytes).unwrap();
                found.push(format!("{name} {problem}: {}", kept.display()));
            }
            found.len() > 20
        };
        let start = Instant::now();
        // Truncates at each byte, or at as many as there is time for.
        for bytes in &seeds {
            assert!(!too_many_fail(bytes));
            let step = (bytes.len() / if full() { 2000 } else { 100 }).max(1);
            for end in (0..bytes.len()).step_by(step) {
                if start.elapsed() > budget || too_many_fail(&bytes[..end]) {
                    break;
                }
            }
        }
        let start = Instant::now();
        let mut round = 0;
        while start.elapsed() < budget {
            let seed_number = round as usize % seeds.len();
            let mut rng = Rng::new(seed, &[round]);
            if too_many_fail(&mutate(&seeds[seed_number], &mut rng)) {
                break;
            }
            round += 1;
        }
        drop(fs::remove_file(last));
    }
    eprintln!("figure: sum bad inputs tried {tried}");
    if let Some(path) = std::env::var_os("U2A_FIGURES") {
        use std::io::Write;
        let mut file = fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        writeln!(file, "sum bad inputs tried\t{tried}").unwrap();
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// If a seed were no valid file, its reader would refuse every mutation at once and test nothing.
#[test]
fn readers_accept_their_seeds() {
    let seeds = seeds();
    let named: Vec<&str> = seeds.iter().map(|(name, _)| *name).collect();
    let names: Vec<&str> = readers::READERS.iter().map(|reader| reader.name).collect();
    assert_eq!(named, names);
    for ((name, seeds), reader) in seeds.iter().zip(readers::READERS) {
        for (number, bytes) in seeds.iter().enumerate() {
            assert!((reader.read)(bytes), "{name} refuses its seed {number}");
        }
    }
}
