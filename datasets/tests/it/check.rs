//! Comparing a raw tree with a complete copy of the dataset.

use datasets::{CheckOptions, CheckReport, Modality, Split, check, open};

use crate::common::{RawTree, annotations};

fn report(name: &str, tree: &RawTree, options: &CheckOptions) -> CheckReport {
    let dataset = open(name).unwrap();
    check(dataset.as_ref(), &tree.raw(), options).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn samples_are_counted_per_split_and_class() {
    let Some(real) = annotations("crema-d") else {
        return;
    };
    let tree = RawTree::new();
    let lists = [
        ("train.csv", "OGM-GE_train.csv"),
        ("test.csv", "OGM-GE_test.csv"),
    ];
    for (name, published) in lists {
        tree.copy(&real.join(published), name);
        let text = std::fs::read_to_string(real.join(published)).unwrap();
        for line in text.lines() {
            let stem = &line[..15];
            if stem != "1088_IOM_NEU_XX" {
                tree.media(&format!("AudioWAV/{stem}.wav"));
            }
            tree.media(&format!("VideoFlash/{stem}.flv"));
        }
    }
    let complete = report("crema-d", &tree, &CheckOptions::default());
    // The audio comes from the flv, so that no input is absent although a file is.
    assert!(complete.missing.is_empty() && complete.needs_attention());
    assert_eq!(complete.note_counts["missing"], 1);
    assert_eq!(complete.splits.len(), 2);
    for split in &complete.splits {
        assert_eq!(split.expected, Some(split.listed));
        assert_eq!(split.complete, split.listed);
        for class in &split.classes {
            assert_eq!(class.expected, Some(class.listed), "{}", class.name);
        }
    }
    assert_eq!(complete.classes[0].expected, Some(1_271));

    std::fs::remove_file(tree.raw().join("VideoFlash/1088_IOM_NEU_XX.flv")).unwrap();
    let lacking = report("crema-d", &tree, &CheckOptions::default());
    let missing = lacking
        .missing
        .iter()
        .map(|one| (one.id.as_str(), one.split, one.modality));
    assert_eq!(
        missing.collect::<Vec<_>>(),
        [
            ("1088_IOM_NEU_XX", Split::Train, Modality::Audio.into()),
            ("1088_IOM_NEU_XX", Split::Train, Modality::Video.into()),
        ]
    );
    let train = &lacking.splits[0];
    assert_eq!(
        (train.listed, train.complete, train.present.clone()),
        (6_698, 6_697, vec![6_697, 6_697])
    );
    assert_eq!(train.classes[4].complete, 972);
    // The placeholders differ from the real clips, and the missing file is named.
    let options = CheckOptions {
        hashes: vec![real.join("lfs_pointers_VideoFlash.tsv")],
        ..CheckOptions::default()
    };
    let hashed = report("crema-d", &tree, &options);
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
fn small_complete_tree_needs_no_attention() {
    let tree = RawTree::new();
    for stem in ["1001_DFA_ANG_XX", "1002_DFA_SAD_XX"] {
        tree.media(&format!("AudioWAV/{stem}.wav"))
            .media(&format!("VideoFlash/{stem}.flv"));
    }
    let report = report("crema-d", &tree, &CheckOptions::default());
    assert!(!report.needs_attention(), "{:?}", report.notes);
}

#[test]
fn files_are_compared_with_their_hashes() {
    let tree = RawTree::new();
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let name = |n: u32| format!("100{n}_DFA_ANG_XX.wav");
    let mut list = "path\tlfs_sha256\tlfs_size\n".to_owned();
    for n in 1..=5 {
        list += &format!("AudioWAV/{}\t{hash}\t3\n", name(n));
    }
    tree.text("CREMA-D/lfs_pointers_AudioWAV.tsv", list)
        .text(&format!("CREMA-D/AudioWAV/{}", name(1)), "abc")
        .text(&format!("CREMA-D/AudioWAV/{}", name(2)), "abd")
        .text(&format!("CREMA-D/AudioWAV/{}", name(3)), "abcd")
        .pointer(&format!("CREMA-D/AudioWAV/{}", name(4)));
    assert!(
        report("crema-d", &tree, &CheckOptions::default())
            .hashes
            .is_empty()
    );
    let options = CheckOptions {
        verify: true,
        ..CheckOptions::default()
    };
    let checked = report("crema-d", &tree, &options);
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

    tree.text("bad.tsv", "path\tsha\tsize\n../x\t00\t1\n");
    let options = CheckOptions {
        hashes: vec![tree.raw().join("bad.tsv")],
        ..CheckOptions::default()
    };
    let dataset = open("crema-d").unwrap();
    let error = check(dataset.as_ref(), &tree.raw(), &options).unwrap_err();
    assert!(error.to_string().contains("bad.tsv, line 2: "), "{error}");
}

#[test]
fn genres_are_counted_over_all_splits() {
    let tree = RawTree::new();
    tree.text(
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
    let report = report("mm-imdb", &tree, &CheckOptions::default());
    let drama = &report.classes[0];
    assert_eq!((drama.expected, drama.listed), (Some(13_967), 2));
    assert_eq!(report.splits[0].classes[0].expected, None);
    assert_eq!(report.splits.len(), 3);
}
