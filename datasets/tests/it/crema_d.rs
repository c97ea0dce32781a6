//! CREMA-D.

use datasets::{ListOptions, Listing, NoteKind, Split, open};

use crate::common::{self, Stage, annotations, counts, notes, per_class, sample, words};

fn list(stage: &Stage) -> Listing {
    common::list("crema-d", stage, &ListOptions::default())
}

fn refused(stage: &Stage) -> String {
    common::refused("crema-d", stage)
}

/// Every stem of the real table of contents, with wav and flv under `base`.
fn whole(base: &str) -> Option<(Stage, std::path::PathBuf)> {
    let real = annotations("crema-d")?;
    let stage = Stage::new();
    let contents = std::fs::read_to_string(real.join("SentenceFilenames.csv")).unwrap();
    for line in contents.lines().skip(1) {
        let stem = line.split('"').nth(1).unwrap();
        stage
            .media(&format!("{base}AudioWAV/{stem}.wav"))
            .media(&format!("{base}VideoFlash/{stem}.flv"));
    }
    Some((stage, real))
}

#[test]
fn the_published_lists_give_the_published_counts() {
    let Some((stage, real)) = whole("") else {
        return;
    };
    stage
        .copy(&real.join("OGM-GE_train.csv"), "train.csv")
        .copy(&real.join("OGM-GE_test.csv"), "test.csv")
        .copy(&real.join("OGM-GE_stat.csv"), "stat.csv")
        .copy(&real.join("summaryTable.csv"), "summaryTable.csv");
    let listing = list(&stage);
    assert_eq!(counts(&listing), [6_698, 0, 744]);
    let info = open("crema-d").unwrap();
    let (info, expected) = (info.info().clone(), info.expected_per_class());
    for split in [Split::Train, Split::Test] {
        let found = per_class(&info, &listing, split);
        let found: Vec<usize> = info.classes.iter().map(|name| found[name]).collect();
        assert_eq!(Some(found), expected[split.index()]);
    }
    // As the list has them: its first line is the first sample.
    assert_eq!(listing.samples[0].id, "1088_IOM_NEU_XX");
    assert!(
        listing
            .samples
            .iter()
            .all(|one| one.inputs.iter().all(|input| input.is_present()))
    );
    assert_eq!(
        words(&listing.samples[0].inputs[0]),
        "AudioWAV/1088_IOM_NEU_XX.wav | VideoFlash/1088_IOM_NEU_XX.flv"
    );
    assert!(notes(&listing, NoteKind::Missing).is_empty());
}

#[test]
fn without_lists_a_split_of_the_same_sizes_is_drawn() {
    let Some((stage, real)) = whole("CREMA-D-master/CREMA-D/") else {
        return;
    };
    let listing = list(&stage);
    assert_eq!(counts(&listing), [6_698, 0, 744]);
    let dataset = open("crema-d").unwrap();
    let test = per_class(dataset.info(), &listing, Split::Test);
    // 744 in 7,442 of 1,271 (five emotions) and 1,087 clips, by largest remainder.
    let test: Vec<usize> = test.values().copied().collect();
    assert_eq!(test, [127, 127, 127, 127, 109, 127]);
    // The same clips where the table of contents names them, even if half of the files are gone.
    let other = Stage::new();
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
fn every_kind_of_dirt_comes_out_as_it_should() {
    let stage = Stage::new();
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
    stage
        .text("train.csv", train)
        .text("test.csv", "1009_IEO_ANG_HI,ANG")
        // Plain.
        .media("CREMA-D/AudioWAV/1001_DFA_ANG_XX.wav")
        .media("CREMA-D/AudioMP3/1001_DFA_ANG_XX.mp3")
        .media("CREMA-D/VideoFlash/1001_DFA_ANG_XX.flv")
        // Only the mp3, only the flv, nothing at all.
        .media("CREMA-D/AudioMP3/1002_DFA_DIS_XX.mp3")
        .media("CREMA-D/VideoFlash/1003_DFA_FEA_XX.flv")
        // Pointers: of the wav, and of everything.
        .pointer("CREMA-D/AudioWAV/1005_IWW_NEU_XX.wav")
        .media("CREMA-D/AudioMP3/1005_IWW_NEU_XX.mp3")
        .pointer("CREMA-D/VideoFlash/1005_IWW_NEU_XX.flv")
        .pointer("CREMA-D/AudioWAV/1007_IEO_SAD_LO.wav")
        // The same sound twice.
        .media("CREMA-D/AudioWAV/1006_TIE_HAP_XX.wav")
        .media("CREMA-D/AudioWAV/1006_TIE_NEU_XX.wav")
        // No bytes.
        .text("CREMA-D/AudioWAV/1008_IEO_SAD_MD.wav", "")
        .media("CREMA-D/VideoFlash/1008_IEO_SAD_MD.flv")
        // The old name, capital letters.
        .media("CREMA-D/AudioWAV/1040_ITH_SAD_X.wav")
        .media("CREMA-D/VideoFlash/1040_ITH_SAD_XX.FLV")
        // Known to be bad, at their published sizes.
        .media("CREMA-D/AudioWAV/1064_IEO_DIS_MD.wav")
        .sized("CREMA-D/AudioMP3/1064_IEO_DIS_MD.mp3", 2_000_000)
        .sized("CREMA-D/VideoFlash/1064_IEO_DIS_MD.flv", 8_544_280)
        .sized("CREMA-D/VideoFlash/1064_TIE_SAD_XX.flv", 91_223)
        .sized("CREMA-D/AudioMP3/1076_MTI_NEU_XX.mp3", 4_262)
        .sized("CREMA-D/VideoFlash/1076_MTI_NEU_XX.flv", 35_166)
        .sized("CREMA-D/AudioWAV/1076_MTI_SAD_XX.wav", 82_260)
        .sized("CREMA-D/VideoFlash/1076_MTI_SAD_XX.flv", 201_958)
        // Listed nowhere; no clip at all; not part of the tree.
        .media("CREMA-D/VideoFlash/1091_WSI_SAD_XX.flv")
        .media("CREMA-D/VideoFlash/Thumbs.db")
        .media("CREMA-D/VideoFlash/._1001_DFA_ANG_XX.flv");
    let listing = list(&stage);
    assert_eq!(counts(&listing), [rows.len(), 0, 1]);
    let table = [
        ("1001_DFA_ANG_XX", "wav | mp3 | flv", "flv"),
        ("1002_DFA_DIS_XX", "mp3", "! there is no flv"),
        ("1003_DFA_FEA_XX", "flv", "flv"),
        ("1004_DFA_HAP_XX", "! there is no wav", "! there is no flv"),
        (
            "1005_IWW_NEU_XX",
            "mp3",
            "! flv is a Git LFS pointer; run `git lfs pull`",
        ),
        ("1006_TIE_HAP_XX", "wav", "! there is no flv"),
        (
            "1007_IEO_SAD_LO",
            "! wav is a Git LFS pointer; run `git lfs pull`",
            "! there is no flv",
        ),
        ("1008_IEO_SAD_MD", "flv", "flv"),
        (
            "1040_ITH_SAD_XX",
            "CREMA-D/AudioWAV/1040_ITH_SAD_X.wav | FLV",
            "FLV",
        ),
        (
            "1064_IEO_DIS_MD",
            "wav",
            "! known to be bad: the flv is about a minute of all emotions; it is not used",
        ),
        ("1064_TIE_SAD_XX", "flv", "flv"),
        ("1076_MTI_NEU_XX", "! there is no wav", "flv"),
        (
            "1076_MTI_SAD_XX",
            "! known to be bad: the wav is silent; it is not used",
            "! known to be bad: the flv shows an error picture and is silent; it is not used",
        ),
        ("1009_IEO_ANG_HI", "! there is no wav", "! there is no flv"),
    ];
    for (id, audio, video) in table {
        let found = sample(&listing, id);
        for (input, expected) in found.inputs.iter().zip([audio, video]) {
            let mut said = words(input);
            for folder in ["AudioWAV", "AudioMP3", "VideoFlash"] {
                said = said.replace(&format!("CREMA-D/{folder}/{id}."), "");
            }
            assert_eq!(said, expected, "{id}");
        }
    }
    let unlisted = notes(&listing, NoteKind::Unlisted);
    assert_eq!(unlisted.len(), 2, "{unlisted:?}");
    assert_eq!(notes(&listing, NoteKind::LfsPointer).len(), 3);
    assert_eq!(notes(&listing, NoteKind::Empty).len(), 1);
    assert_eq!(notes(&listing, NoteKind::KnownBad).len(), 8);
}

#[test]
fn mla_lists_are_read_and_the_nearest_pair_wins() {
    let stage = Stage::new();
    stage
        .media("AudioWAV/1001_DFA_ANG_XX.wav")
        .media("AudioWAV/1002_DFA_SAD_XX.wav")
        .text(
            "mla/my_train_cre.txt",
            "1001_DFA_ANG_XX.flv Anger\n1002_DFA_SAD_XX.flv Sad\n",
        )
        .text("mla/my_test_cre.txt", "1003_DFA_HAP_XX.flv Happy");
    let listing = list(&stage);
    assert_eq!(counts(&listing), [2, 0, 1]);
    assert_eq!(listing.samples[1].labels, [5]);
    stage
        .text("OGM-GE_Train.csv", "1002_DFA_SAD_XX,SAD")
        .text("OGM-GE_Test.csv", "stem,label\n1001_DFA_ANG_XX,ANG");
    let listing = list(&stage);
    assert_eq!(counts(&listing), [1, 0, 1]);
    assert_eq!(listing.samples[1].id, "1001_DFA_ANG_XX");
    assert_eq!(notes(&listing, NoteKind::Choice).len(), 1);
    assert_eq!(notes(&listing, NoteKind::Repaired).len(), 1);
}

#[test]
fn what_cannot_work_is_refused_in_one_line() {
    let stage = Stage::new();
    assert!(refused(&stage).contains("raw: the folder holds no files; expected the CREMA-D clone"));
    stage.text("README.md", "x");
    assert!(refused(&stage).contains("no folder AudioWAV"));
    stage
        .pointer("AudioWAV/1001_DFA_ANG_XX.wav")
        .pointer("VideoFlash/1001_DFA_ANG_XX.flv");
    let text = refused(&stage);
    assert!(
        text.contains("all 2 media files are Git LFS pointers") && text.contains("git lfs pull"),
        "{text}"
    );

    let stage = Stage::new();
    stage.media("AudioWAV/1001_DFA_ANG_XX.wav");
    stage.text("train.csv", "1001_DFA_ANG_XX,ANG\n");
    assert!(refused(&stage).contains("train.csv: a split list without the test list"));
    stage.text("test.csv", "1002_DFA_ANG_XX,SAD\n");
    assert!(
        refused(&stage).contains("test.csv, line 1: 1002_DFA_ANG_XX is listed with an emotion")
    );
    stage.text("test.csv", "1001_DFA_ANG_XX,ANG\n");
    assert!(
        refused(&stage).contains("test.csv, line 1: 1001_DFA_ANG_XX stands in train.csv, line 1")
    );
    stage.text("test.csv", "1002_DFA_ANG_XX,ANG\nwhat is this\n");
    assert!(refused(&stage).contains("test.csv, line 2: \"what is this\" is no row"));
}
