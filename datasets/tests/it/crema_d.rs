//! CREMA-D.

use datasets::{ListOptions, Listing, NoteKind, Split, open};

use crate::common::{self, RawTree, annotations, counts, input_text, notes, per_class, sample};

fn list(tree: &RawTree) -> Listing {
    common::list("crema-d", tree, &ListOptions::default())
}

fn list_error(tree: &RawTree) -> String {
    common::list_error("crema-d", tree)
}

/// Builds the complete dataset below `base`, with placeholders for wav and flv of each clip.
fn complete_tree(base: &str) -> Option<(RawTree, std::path::PathBuf)> {
    let real = annotations("crema-d")?;
    let tree = RawTree::new();
    let contents = std::fs::read_to_string(real.join("SentenceFilenames.csv")).unwrap();
    for line in contents.lines().skip(1) {
        let stem = line.split('"').nth(1).unwrap();
        tree.media(&format!("{base}AudioWAV/{stem}.wav"))
            .media(&format!("{base}VideoFlash/{stem}.flv"));
    }
    Some((tree, real))
}

#[test]
fn published_lists_give_the_published_counts() {
    let Some((tree, real)) = complete_tree("") else {
        return;
    };
    tree.copy(&real.join("OGM-GE_train.csv"), "train.csv")
        .copy(&real.join("OGM-GE_test.csv"), "test.csv")
        .copy(&real.join("OGM-GE_stat.csv"), "stat.csv")
        .copy(&real.join("summaryTable.csv"), "summaryTable.csv");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [6_698, 0, 744]);
    let info = open("crema-d").unwrap();
    let (info, expected) = (info.info().clone(), info.expected_per_class());
    for split in [Split::Train, Split::Test] {
        let found = per_class(&info, &listing, split);
        let found: Vec<usize> = info.classes.iter().map(|name| found[name]).collect();
        assert_eq!(Some(found), expected[split.index()]);
    }
    // The samples are in the order of the list.
    assert_eq!(listing.samples[0].id, "1088_IOM_NEU_XX");
    assert!(
        listing
            .samples
            .iter()
            .all(|one| one.inputs.iter().all(|input| input.is_present()))
    );
    assert_eq!(
        input_text(&listing.samples[0].inputs[0]),
        "AudioWAV/1088_IOM_NEU_XX.wav | VideoFlash/1088_IOM_NEU_XX.flv"
    );
    assert!(notes(&listing, NoteKind::Missing).is_empty());
}

#[test]
fn split_of_the_published_sizes_is_drawn_without_lists() {
    let Some((tree, real)) = complete_tree("CREMA-D-master/CREMA-D/") else {
        return;
    };
    let listing = list(&tree);
    assert_eq!(counts(&listing), [6_698, 0, 744]);
    let dataset = open("crema-d").unwrap();
    let test = per_class(dataset.info(), &listing, Split::Test);
    // Five emotions have 1,271 clips and one has 1,087; 744 of 7,442 are drawn.
    let test: Vec<usize> = test.values().copied().collect();
    assert_eq!(test, [127, 127, 127, 127, 109, 127]);
    // With the table of contents the draw does not depend on which files exist.
    let other = RawTree::new();
    other.copy(&real.join("SentenceFilenames.csv"), "SentenceFilenames.csv");
    for one in listing.samples.iter().step_by(2) {
        other.media(&format!("VideoFlash/{}.flv", one.id));
    }
    let halved = list(&other);
    let key = |listing: &Listing| -> Vec<(String, Split)> {
        let samples = listing.samples.iter();
        samples.map(|one| (one.id.clone(), one.split)).collect()
    };
    assert_eq!(key(&halved), key(&listing));
    let missing = notes(&halved, NoteKind::Missing);
    assert!(
        missing
            .iter()
            .any(|note| note.contains(": there is no VideoFlash/"))
    );
}

#[test]
fn malformed_trees_are_listed_with_notes() {
    let tree = RawTree::new();
    let rows = [
        "1001_DFA_ANG_XX",
        "1002_DFA_DIS_XX",
        "1003_DFA_FEA_XX",
        "1004_DFA_HAP_XX",
        "1005_IWW_NEU_XX",
        "1006_TIE_HAP_XX",
        "1006_TIE_NEU_XX",
        "1007_IEO_SAD_LO",
        "1008_IEO_SAD_MD",
        "1040_ITH_SAD_XX",
        "1064_IEO_DIS_MD",
        "1064_TIE_SAD_XX",
        "1076_MTI_NEU_XX",
        "1076_MTI_SAD_XX",
    ];
    let mut train = String::from("\u{feff}");
    for row in rows {
        train += &format!("{row},{}\r\n", &row[9..12]);
    }
    tree.text("train.csv", train)
        .text("test.csv", "1009_IEO_ANG_HI,ANG")
        // All three files of a clip.
        .media("CREMA-D/AudioWAV/1001_DFA_ANG_XX.wav")
        .media("CREMA-D/AudioMP3/1001_DFA_ANG_XX.mp3")
        .media("CREMA-D/VideoFlash/1001_DFA_ANG_XX.flv")
        // Only the mp3; only the flv.
        .media("CREMA-D/AudioMP3/1002_DFA_DIS_XX.mp3")
        .media("CREMA-D/VideoFlash/1003_DFA_FEA_XX.flv")
        // Git LFS pointers, with and without an mp3.
        .pointer("CREMA-D/AudioWAV/1005_IWW_NEU_XX.wav")
        .media("CREMA-D/AudioMP3/1005_IWW_NEU_XX.mp3")
        .pointer("CREMA-D/VideoFlash/1005_IWW_NEU_XX.flv")
        .pointer("CREMA-D/AudioWAV/1007_IEO_SAD_LO.wav")
        // Identical audio of two clips.
        .media("CREMA-D/AudioWAV/1006_TIE_HAP_XX.wav")
        .media("CREMA-D/AudioWAV/1006_TIE_NEU_XX.wav")
        // An empty wav.
        .text("CREMA-D/AudioWAV/1008_IEO_SAD_MD.wav", "")
        .media("CREMA-D/VideoFlash/1008_IEO_SAD_MD.flv")
        // The name in the early release; an upper-case extension.
        .media("CREMA-D/AudioWAV/1040_ITH_SAD_X.wav")
        .media("CREMA-D/VideoFlash/1040_ITH_SAD_XX.FLV")
        // Known-bad files, of their published sizes.
        .media("CREMA-D/AudioWAV/1064_IEO_DIS_MD.wav")
        .sized("CREMA-D/AudioMP3/1064_IEO_DIS_MD.mp3", 2_000_000)
        .sized("CREMA-D/VideoFlash/1064_IEO_DIS_MD.flv", 8_544_280)
        .sized("CREMA-D/VideoFlash/1064_TIE_SAD_XX.flv", 91_223)
        .sized("CREMA-D/AudioMP3/1076_MTI_NEU_XX.mp3", 4_262)
        .sized("CREMA-D/VideoFlash/1076_MTI_NEU_XX.flv", 35_166)
        .sized("CREMA-D/AudioWAV/1076_MTI_SAD_XX.wav", 82_260)
        .sized("CREMA-D/VideoFlash/1076_MTI_SAD_XX.flv", 201_958)
        // A clip in no list; a file that is no clip; a hidden file.
        .media("CREMA-D/VideoFlash/1091_WSI_SAD_XX.flv")
        .media("CREMA-D/VideoFlash/Thumbs.db")
        .media("CREMA-D/VideoFlash/._1001_DFA_ANG_XX.flv");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [rows.len(), 0, 1]);
    let cases = [
        ("all files", "1001_DFA_ANG_XX", "wav | mp3 | flv", "flv"),
        ("mp3 alone", "1002_DFA_DIS_XX", "mp3", "! there is no flv"),
        ("flv alone", "1003_DFA_FEA_XX", "flv", "flv"),
        (
            "no file",
            "1004_DFA_HAP_XX",
            "! there is no wav",
            "! there is no flv",
        ),
        (
            "pointers and an mp3",
            "1005_IWW_NEU_XX",
            "mp3",
            "! flv is a Git LFS pointer; run `git lfs pull`",
        ),
        (
            "identical audio",
            "1006_TIE_HAP_XX",
            "wav",
            "! there is no flv",
        ),
        (
            "pointer alone",
            "1007_IEO_SAD_LO",
            "! wav is a Git LFS pointer; run `git lfs pull`",
            "! there is no flv",
        ),
        ("empty wav", "1008_IEO_SAD_MD", "flv", "flv"),
        (
            "name of the early release",
            "1040_ITH_SAD_XX",
            "CREMA-D/AudioWAV/1040_ITH_SAD_X.wav | FLV",
            "FLV",
        ),
        (
            "known-bad video",
            "1064_IEO_DIS_MD",
            "wav",
            "! known to be bad: the flv is about a minute of all emotions; it is not used",
        ),
        ("video without duration", "1064_TIE_SAD_XX", "flv", "flv"),
        (
            "known-bad audio",
            "1076_MTI_NEU_XX",
            "! there is no wav",
            "flv",
        ),
        (
            "known-bad audio and video",
            "1076_MTI_SAD_XX",
            "! known to be bad: the wav is silent; it is not used",
            "! known to be bad: the flv shows an error image and is silent; it is not used",
        ),
        (
            "no file of the test split",
            "1009_IEO_ANG_HI",
            "! there is no wav",
            "! there is no flv",
        ),
    ];
    for (case, id, audio, video) in cases {
        let found = sample(&listing, id);
        for (input, expected) in found.inputs.iter().zip([audio, video]) {
            let mut text = input_text(input);
            for folder in ["AudioWAV", "AudioMP3", "VideoFlash"] {
                text = text.replace(&format!("CREMA-D/{folder}/{id}."), "");
            }
            assert_eq!(text, expected, "{case}");
        }
    }
    let unlisted = notes(&listing, NoteKind::Unlisted);
    assert_eq!(unlisted.len(), 2, "{unlisted:?}");
    assert_eq!(notes(&listing, NoteKind::LfsPointer).len(), 3);
    assert_eq!(notes(&listing, NoteKind::Empty).len(), 1);
    assert_eq!(notes(&listing, NoteKind::KnownBad).len(), 8);
}

#[test]
fn mla_lists_are_read_and_the_nearest_pair_is_used() {
    let tree = RawTree::new();
    tree.media("AudioWAV/1001_DFA_ANG_XX.wav")
        .media("AudioWAV/1002_DFA_SAD_XX.wav")
        .text(
            "mla/my_train_cre.txt",
            "1001_DFA_ANG_XX.flv Anger\n1002_DFA_SAD_XX.flv Sad\n",
        )
        .text("mla/my_test_cre.txt", "1003_DFA_HAP_XX.flv Happy");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [2, 0, 1]);
    assert_eq!(listing.samples[1].labels, [5]);
    tree.text("OGM-GE_Train.csv", "1002_DFA_SAD_XX,SAD")
        .text("OGM-GE_Test.csv", "stem,label\n1001_DFA_ANG_XX,ANG");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [1, 0, 1]);
    assert_eq!(listing.samples[1].id, "1001_DFA_ANG_XX");
    assert_eq!(notes(&listing, NoteKind::Choice).len(), 1);
    assert_eq!(notes(&listing, NoteKind::Repaired).len(), 1);
}

#[test]
fn unusable_trees_and_lists_are_errors() {
    let tree = RawTree::new();
    assert!(
        list_error(&tree).contains("raw: the folder holds no files; expected the CREMA-D clone")
    );
    tree.text("README.md", "x");
    assert!(list_error(&tree).contains("no folder AudioWAV"));
    tree.pointer("AudioWAV/1001_DFA_ANG_XX.wav")
        .pointer("VideoFlash/1001_DFA_ANG_XX.flv");
    let text = list_error(&tree);
    assert!(
        text.contains("all 2 media files are Git LFS pointers") && text.contains("git lfs pull"),
        "{text}"
    );

    let tree = RawTree::new();
    tree.media("AudioWAV/1001_DFA_ANG_XX.wav");
    tree.text("train.csv", "1001_DFA_ANG_XX,ANG\n");
    assert!(list_error(&tree).contains("train.csv: a split list without the test list"));
    tree.text("test.csv", "1002_DFA_ANG_XX,SAD\n");
    assert!(
        list_error(&tree).contains("test.csv, line 1: 1002_DFA_ANG_XX is listed with an emotion")
    );
    tree.text("test.csv", "1001_DFA_ANG_XX,ANG\n");
    assert!(
        list_error(&tree).contains("test.csv, line 1: 1001_DFA_ANG_XX stands in train.csv, line 1")
    );
    tree.text("test.csv", "1002_DFA_ANG_XX,ANG\nwhat is this\n");
    assert!(list_error(&tree).contains("test.csv, line 2: \"what is this\" is no row"));
}

/// Lists that are passed over are named.
#[test]
fn lists_beside_the_pair_are_named() {
    let tree = RawTree::new();
    for stem in ["1001_DFA_ANG_XX", "1002_DFA_ANG_XX"] {
        tree.media(&format!("VideoFlash/{stem}.flv"))
            .media(&format!("AudioWAV/{stem}.wav"));
    }
    tree.text("train.csv", "1001_DFA_ANG_XX,ANG\n")
        .text("test.csv", "1002_DFA_ANG_XX,ANG\n");
    for file in ["val.csv", "valid.txt", "my_train.csv", "old_test.txt"] {
        tree.text(file, "1001_DFA_ANG_XX,ANG\n");
        let said = format!("{file}: not used; the split is that of train.csv and test.csv");
        let unlisted = notes(&list(&tree), NoteKind::Unlisted);
        assert_eq!(unlisted, [said]);
        std::fs::remove_file(tree.raw().join(file)).unwrap();
    }
}

/// People turn the flv files into other containers, in place or in a folder of another name.
#[test]
fn videos_in_other_containers_are_taken() {
    let stem = "1001_DFA_ANG_XX";
    // The files of the clip, and its video and audio.
    let cases: [(&[&str], &str, &str); 8] = [
        (
            &["VideoFlash/S.mp4", "AudioWAV/S.wav"],
            "VideoFlash/S.mp4",
            "AudioWAV/S.wav | VideoFlash/S.mp4",
        ),
        (
            &["VideoFlash/S.mkv"],
            "VideoFlash/S.mkv",
            "VideoFlash/S.mkv",
        ),
        (
            &["VideoFlash/S.AVI"],
            "VideoFlash/S.AVI",
            "VideoFlash/S.AVI",
        ),
        (
            &["VideoMP4/S.mp4", "AudioWAV/S.wav"],
            "VideoMP4/S.mp4",
            "AudioWAV/S.wav | VideoMP4/S.mp4",
        ),
        (
            &["CREMA-D/videos/S.webm"],
            "CREMA-D/videos/S.webm",
            "CREMA-D/videos/S.webm",
        ),
        // The publisher's file is taken before another one.
        (
            &["VideoFlash/S.avi", "VideoFlash/S.flv"],
            "VideoFlash/S.flv",
            "VideoFlash/S.flv",
        ),
        (
            &["VideoFlash/S.flv", "VideoMP4/S.mp4"],
            "VideoFlash/S.flv",
            "VideoFlash/S.flv",
        ),
        (
            &["VideoFlash/S.txt", "AudioWAV/S.wav"],
            "! there is no VideoFlash/S.flv",
            "AudioWAV/S.wav",
        ),
    ];
    for (files, video, audio) in cases {
        let tree = RawTree::new();
        for file in files {
            tree.media(&file.replace("/S.", &format!("/{stem}.")));
        }
        let listing = list(&tree);
        let found = sample(&listing, stem);
        assert_eq!(
            input_text(&found.inputs[1]),
            video.replace("/S.", &format!("/{stem}.")),
            "{files:?}"
        );
        assert_eq!(
            input_text(&found.inputs[0]),
            audio.replace("/S.", &format!("/{stem}.")),
            "{files:?}"
        );
    }
    // A video that is wrong as published is wrong in every container; its size is not known.
    let tree = RawTree::new();
    tree.media("VideoMP4/1076_MTI_SAD_XX.mp4")
        .media("VideoMP4/1001_DFA_ANG_XX.mp4");
    let listing = list(&tree);
    let bad = sample(&listing, "1076_MTI_SAD_XX");
    assert!(
        input_text(&bad.inputs[1]).starts_with("! known to be bad"),
        "{bad:?}"
    );
}
