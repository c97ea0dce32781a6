//! Holding a tree against what it should hold.

use datasets::{CheckOptions, CheckReport, Modality, Split, check, open};

use crate::common::{Stage, annotations};

fn report(name: &str, stage: &Stage, options: &CheckOptions) -> CheckReport {
    let dataset = open(name).unwrap();
    check(dataset.as_ref(), &stage.raw(), options).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn expected_against_found_per_split_and_class() {
    let Some(real) = annotations("crema-d") else {
        return;
    };
    let stage = Stage::new();
    let lists = [
        ("train.csv", "OGM-GE_train.csv"),
        ("test.csv", "OGM-GE_test.csv"),
    ];
    for (name, published) in lists {
        stage.copy(&real.join(published), name);
        let text = std::fs::read_to_string(real.join(published)).unwrap();
        for line in text.lines() {
            let stem = &line[..15];
            if stem != "1088_IOM_NEU_XX" {
                stage.media(&format!("AudioWAV/{stem}.wav"));
            }
            stage.media(&format!("VideoFlash/{stem}.flv"));
        }
    }
    let whole = report("crema-d", &stage, &CheckOptions::default());
    // The sound is taken from the flv: nothing is absent, and still a file is.
    assert!(whole.missing.is_empty() && whole.needs_attention());
    assert_eq!(whole.note_counts["missing"], 1);
    assert_eq!(whole.splits.len(), 2);
    for split in &whole.splits {
        assert_eq!(split.expected, Some(split.listed));
        assert_eq!(split.complete, split.listed);
        for class in &split.classes {
            assert_eq!(class.expected, Some(class.listed), "{}", class.name);
        }
    }
    assert_eq!(whole.classes[0].expected, Some(1_271));

    std::fs::remove_file(stage.raw().join("VideoFlash/1088_IOM_NEU_XX.flv")).unwrap();
    let lacking = report("crema-d", &stage, &CheckOptions::default());
    let missing = lacking
        .missing
        .iter()
        .map(|one| (one.id.as_str(), one.split, one.modality));
    assert_eq!(
        missing.collect::<Vec<_>>(),
        [
            ("1088_IOM_NEU_XX", Split::Train, Modality::Audio),
            ("1088_IOM_NEU_XX", Split::Train, Modality::Video),
        ]
    );
    let train = &lacking.splits[0];
    assert_eq!(
        (train.listed, train.complete, train.present),
        (6_698, 6_697, [6_697, 6_697])
    );
    assert_eq!(train.classes[4].complete, 972);
    // The stand-ins are not the real clips, and the one that is gone is named.
    let options = CheckOptions {
        hashes: vec![real.join("lfs_pointers_VideoFlash.tsv")],
        ..CheckOptions::default()
    };
    let hashed = report("crema-d", &stage, &options);
    let videos = &hashed.hashes[0];
    assert_eq!(
        (videos.rows, videos.right, videos.wrong.len()),
        (7_442, 0, 7_441)
    );
    assert_eq!(videos.absent, ["VideoFlash/1088_IOM_NEU_XX.flv"]);
    let json = serde_json::to_value(&lacking).unwrap();
    assert_eq!(json["splits"][0]["split"], "train");
    assert_eq!(json["missing"][1]["modality"], "video");
}

#[test]
fn a_small_whole_tree_needs_no_attention() {
    let stage = Stage::new();
    for stem in ["1001_DFA_ANG_XX", "1002_DFA_SAD_XX"] {
        stage
            .media(&format!("AudioWAV/{stem}.wav"))
            .media(&format!("VideoFlash/{stem}.flv"));
    }
    let report = report("crema-d", &stage, &CheckOptions::default());
    assert!(!report.needs_attention(), "{:?}", report.notes);
}

#[test]
fn hashes_tell_right_from_wrong_and_pointers() {
    let stage = Stage::new();
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let name = |n: u32| format!("100{n}_DFA_ANG_XX.wav");
    let mut list = "path\tlfs_sha256\tlfs_size\n".to_owned();
    for n in 1..=5 {
        list += &format!("AudioWAV/{}\t{hash}\t3\n", name(n));
    }
    stage
        .text("CREMA-D/lfs_pointers_AudioWAV.tsv", list)
        .text(&format!("CREMA-D/AudioWAV/{}", name(1)), "abc")
        .text(&format!("CREMA-D/AudioWAV/{}", name(2)), "abd")
        .text(&format!("CREMA-D/AudioWAV/{}", name(3)), "abcd")
        .pointer(&format!("CREMA-D/AudioWAV/{}", name(4)));
    assert!(
        report("crema-d", &stage, &CheckOptions::default())
            .hashes
            .is_empty()
    );
    let options = CheckOptions {
        verify: true,
        ..CheckOptions::default()
    };
    let checked = report("crema-d", &stage, &options);
    let [hashes] = &checked.hashes[..] else {
        panic!("{:?}", checked.hashes);
    };
    assert_eq!((hashes.rows, hashes.right, hashes.pointers), (5, 1, 1));
    assert_eq!(hashes.absent, [format!("AudioWAV/{}", name(5))]);
    let problems: Vec<&str> = hashes
        .wrong
        .iter()
        .map(|one| one.problem.as_str())
        .collect();
    assert_eq!(
        problems,
        ["the right size and another content", "4 bytes instead of 3"]
    );

    stage.text("bad.tsv", "path\tsha\tsize\n../x\t00\t1\n");
    let options = CheckOptions {
        hashes: vec![stage.raw().join("bad.tsv")],
        ..CheckOptions::default()
    };
    let dataset = open("crema-d").unwrap();
    let error = check(dataset.as_ref(), &stage.raw(), &options).unwrap_err();
    assert!(error.to_string().contains("bad.tsv, line 2: "), "{error}");
}

#[test]
fn genres_are_counted_over_all_splits() {
    let stage = Stage::new();
    stage
        .text(
            "split.json",
            r#"{"train": ["0000001"], "dev": [], "test": ["0000002"]}"#,
        )
        .text(
            "dataset/0000001.json",
            r#"{"genres": ["Drama", "War"], "plot": ["x"]}"#,
        )
        .text(
            "dataset/0000002.json",
            r#"{"genres": ["Drama"], "plot": ["x"]}"#,
        )
        .media("dataset/0000001.jpeg")
        .media("dataset/0000002.jpeg");
    let report = report("mm-imdb", &stage, &CheckOptions::default());
    let drama = &report.classes[0];
    assert_eq!((drama.expected, drama.listed), (Some(13_967), 2));
    assert_eq!(report.splits[0].classes[0].expected, None);
    assert_eq!(report.splits.len(), 3);
}
