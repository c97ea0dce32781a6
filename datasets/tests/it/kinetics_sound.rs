//! Kinetics-Sound.

use datasets::{ListOptions, Listing, NoteKind, Split, open};

use crate::common::{self, Stage, annotations, counts, notes, per_class, sample, words};

fn list(stage: &Stage) -> Listing {
    common::list("kinetics-sound", stage, &ListOptions::default())
}

fn refused(stage: &Stage) -> String {
    common::refused("kinetics-sound", stage)
}

#[test]
fn the_real_lists_give_their_counts_and_name_what_is_absent() {
    let Some(real) = annotations("kinetics-sound") else {
        return;
    };
    // The three test clips that the Kinetics-400 test table does not have, and one of the training clips.
    let absent = ["Q78zQuQ9oeg", "ZSnZ4DLJKAM", "r_5GkTNsM4g", "--4-0ihtnBU"];
    let stage = Stage::new();
    for (split, name) in [
        ("train", "OGM-GE_my_train.txt"),
        ("test", "OGM-GE_my_test.txt"),
    ] {
        stage.copy(&real.join(name), &format!("lists/{name}"));
        let text = std::fs::read_to_string(real.join(name)).unwrap();
        for line in text.lines() {
            let clip = line.split(',').next().unwrap();
            let (id, start) = (&clip[..11], clip[12..].split('_').next().unwrap());
            let start: u32 = start.parse().unwrap();
            if !absent.contains(&id) {
                stage.media(&format!(
                    "k400/{split}/{id}_{start:06}_{:06}.mp4",
                    start + 10
                ));
            }
        }
    }
    let listing = list(&stage);
    assert_eq!(counts(&listing), [14_799, 0, 2_597]);
    let dataset = open("kinetics-sound").unwrap();
    for split in [Split::Train, Split::Test] {
        let found = per_class(dataset.info(), &listing, split);
        let classes = dataset.info().classes.iter();
        let found: Vec<usize> = classes.map(|name| found[name]).collect();
        assert_eq!(Some(found), dataset.expected_per_class()[split.index()]);
    }
    let missing = notes(&listing, NoteKind::Missing);
    assert_eq!(missing.len(), absent.len(), "{missing:?}");
    assert!(missing.contains(
        &"Q78zQuQ9oeg_000034_000044: there is no test/Q78zQuQ9oeg_000034_000044.mp4".to_owned()
    ));
    assert_eq!(listing.notes.len(), missing.len());
    assert_eq!(listing.samples[1].id, "--6q_33gNew_000132_000142");
    assert_eq!(listing.samples[1].labels, [27]);
    assert_eq!(
        words(&sample(&listing, "-3Mwkq-7TV4_000002_000012").inputs[1]),
        "k400/test/-3Mwkq-7TV4_000002_000012.mp4"
    );
}

#[test]
fn the_kinetics_tables_are_filtered_to_the_31_classes() {
    let Some(real) = annotations("kinetics-sound") else {
        return;
    };
    let stage = Stage::new();
    stage
        .copy(
            &real.join("kinetics-400_val.csv"),
            "annotations/kinetics-400_val.csv",
        )
        .media("val/NOTLISTED___000001_000011.mp4");
    let text = std::fs::read_to_string(real.join("kinetics-400_val.csv")).unwrap();
    let one = text
        .lines()
        .find(|line| line.starts_with("bowling,"))
        .unwrap();
    let fields: Vec<&str> = one.split(',').collect();
    let start: u32 = fields[2].parse().unwrap();
    let id = format!("{}_{start:06}_{:06}", fields[1], start + 10);
    stage.media(&format!("val/bowling/{id}.mp4"));
    let listing = list(&stage);
    assert_eq!(counts(&listing), [0, 1_544, 0]);
    assert_eq!(
        words(&sample(&listing, &id).inputs[0]),
        format!("val/bowling/{id}.mp4")
    );
    assert_eq!(
        notes(&listing, NoteKind::Choice),
        ["videos: 1 video files are not among the samples' clips; not used"]
    );
    let left_out: Vec<String> = notes(&listing, NoteKind::Missing)
        .into_iter()
        .filter(|note| note.contains("split is left out"))
        .collect();
    assert_eq!(left_out.len(), 2);
    // The class names are those of the published map.
    let map = std::fs::read_to_string(real.join("kinetics400_label_map.txt")).unwrap();
    let map: Vec<&str> = map.lines().map(str::trim).collect();
    let dataset = open("kinetics-sound").unwrap();
    assert!(
        dataset
            .info()
            .classes
            .iter()
            .all(|name| map.contains(&name.as_str()))
    );
}

#[test]
fn every_kind_of_dirt_comes_out_as_it_should() {
    let stage = Stage::new();
    stage
        .text(
            "my_train.txt",
            "-aaaaaaaaaa_000001_000011,10,0\r\n\
             _bbbbbbbbbb_000002_000012,10,30\r\n\
             ccccccccccc_000003_000013,10,12\r\n\
             ddddddddddd_000004_000014,10,4\r\n\
             eeeeeeeeeee_000005_000015,10,4\r\n\
             eeeeeeeeeee_000005_000015,10,4\r\n\
             fffffffffff_000006_000016,10,5\r\n\
             ggggggggggg_000007_000017,10,6\r\n\
             hhhhhhhhhhh_000008_000018,10,7",
        )
        .text(
            "my_test.txt",
            "\u{feff}-_iiiiiiiii_9,10,8\r\njjjjjjjjjjj_0,10,9\r\n",
        )
        // Flat; in a class folder with blanks, with underscores; sound beside; at another start.
        .media("train/-aaaaaaaaaa_000001_000011.mp4")
        .media("train/tickling/_bbbbbbbbbb_000002_000012.mp4")
        .media("train/playing_guitar/ccccccccccc_000003_000013.mp4")
        .media("audio/playing_guitar/ccccccccccc_000003_000013.wav")
        .media("train/ddddddddddd_000099_000109.mp4")
        // Replaced, with an empty original.
        .text("train/eeeeeeeeeee_000005_000015.mp4", "")
        .media("replacement/replacement_for_corrupted_k400/eeeeeeeeeee_000005_000015.mp4")
        // Empty; a pointer; sound alone.
        .text("train/fffffffffff_000006_000016.mp4", "")
        .pointer("train/ggggggggggg_000007_000017.mp4")
        .media("train/hhhhhhhhhhh_000008_000018.wav")
        // In two folders; named as in the list; not a clip.
        .media("a/train/-_iiiiiiiii_000009_000019.mp4")
        .media("b/test/-_iiiiiiiii_000009_000019.mp4")
        .media("test/jjjjjjjjjjj_0.mp4")
        .media("test/thumbnail.mp4");
    let listing = list(&stage);
    assert_eq!(counts(&listing), [8, 0, 2]);
    let replaced = "replacement/replacement_for_corrupted_k400/eeeeeeeeeee_000005_000015.mp4";
    let both = "b/test/-_iiiiiiiii_000009_000019.mp4 | a/train/-_iiiiiiiii_000009_000019.mp4";
    let table = [
        (
            "-aaaaaaaaaa_000001_000011",
            "train/-aaaaaaaaaa_000001_000011.mp4",
            "=",
        ),
        (
            "_bbbbbbbbbb_000002_000012",
            "train/tickling/_bbbbbbbbbb_000002_000012.mp4",
            "=",
        ),
        (
            "ccccccccccc_000003_000013",
            "train/playing_guitar/ccccccccccc_000003_000013.mp4",
            "audio/playing_guitar/ccccccccccc_000003_000013.wav | train/playing_guitar/ccccccccccc_000003_000013.mp4",
        ),
        (
            "ddddddddddd_000004_000014",
            "! there is no train/ddddddddddd_000004_000014.mp4",
            "=",
        ),
        ("eeeeeeeeeee_000005_000015", replaced, "="),
        (
            "fffffffffff_000006_000016",
            "! train/fffffffffff_000006_000016.mp4 holds no bytes",
            "=",
        ),
        (
            "ggggggggggg_000007_000017",
            "! train/ggggggggggg_000007_000017.mp4 is a Git LFS pointer; run `git lfs pull`",
            "=",
        ),
        (
            "hhhhhhhhhhh_000008_000018",
            "! there is no train/hhhhhhhhhhh_000008_000018.mp4",
            "train/hhhhhhhhhhh_000008_000018.wav",
        ),
        ("-_iiiiiiiii_000009_000019", both, "="),
        ("jjjjjjjjjjj_000000_000010", "test/jjjjjjjjjjj_0.mp4", "="),
    ];
    assert_eq!(table.len(), listing.samples.len());
    for (id, video, audio) in table {
        let found = sample(&listing, id);
        assert_eq!(words(&found.inputs[1]), video, "{id}");
        let audio = if audio == "=" { video } else { audio };
        assert_eq!(words(&found.inputs[0]), audio, "{id}");
    }
    for (kind, count) in [
        (NoteKind::Missing, 2),
        // Not the one that was replaced.
        (NoteKind::Empty, 1),
        (NoteKind::LfsPointer, 1),
        (NoteKind::Replacement, 1),
        (NoteKind::Dropped, 1),
    ] {
        let found = notes(&listing, kind);
        assert_eq!(found.len(), count, "{found:?}");
    }
    let replacement = notes(&listing, NoteKind::Replacement);
    assert!(replacement[0].ends_with(", which holds no bytes"));
}

#[test]
fn other_lists_and_bare_folders() {
    let stage = Stage::new();
    stage
        .media("visual/train/playing_guitar/aaaaaaaaaaa_000001_000011.mp4")
        .media("visual/train/abseiling/bbbbbbbbbbb_000001_000011.mp4")
        .media("visual/val/Tap Dancing/-cccccccccc_000001_000011.mp4");
    let listing = list(&stage);
    assert_eq!(counts(&listing), [1, 1, 0]);
    assert_eq!(listing.samples[1].labels, [27]);
    assert_eq!(listing.layout, "class folders");

    stage.text(
        "my_train_ks.txt",
        "aaaaaaaaaaa_000001_000011.mp4 playing guitar\n-cccccccccc_000001_000011.mp4 tap_dancing\n",
    );
    let listing = list(&stage);
    assert_eq!(counts(&listing), [2, 0, 0]);
    assert_eq!(listing.samples[0].labels, [12]);

    // A Kinetics table without labels, as an old test table is; the first class is as long as a video id.
    let stage = Stage::new();
    stage
        .media("aaaaaaaaaaa_000001_000011.mp4")
        .text("train.csv", "label,youtube_id,time_start,time_end,split\nparasailing,bbbbbbbbbbb,1,11,train\n\"playing guitar\",aaaaaaaaaaa,1,11,train\n")
        .text("test.csv", "youtube_id,time_start,time_end,split\nbbbbbbbbbbb,1,11,test\n");
    let listing = list(&stage);
    assert_eq!(counts(&listing), [1, 0, 0]);
    let missing = notes(&listing, NoteKind::Missing);
    assert_eq!(
        missing,
        [
            "test.csv: the table has no label column; the test split is left out",
            "val.csv: no such file; the val split is left out",
        ]
    );
}

#[test]
fn what_cannot_work_is_refused_in_one_line() {
    let stage = Stage::new();
    stage.media("aaaaaaaaaaa_000001_000011.mp4");
    assert!(refused(&stage).contains("no lists, no Kinetics-400 csv files"));
    stage.text(
        "my_train.txt",
        "aaaaaaaaaaa_000001_000011,10,3\nbbbbbbbbbbb_000001_000011,10,31\n",
    );
    assert!(
        refused(&stage)
            .contains("my_train.txt, line 2: \"bbbbbbbbbbb_000001_000011,10,31\" is no row")
    );
    stage.text("my_train.txt", "bbbbbbbbbbb_000001_000011,10,3\n");
    assert!(refused(&stage).contains("not one of the 1 annotated samples has a file here"));
    std::fs::remove_file(stage.raw().join("my_train.txt")).unwrap();
    stage.text(
        "train.csv",
        "label,youtube_id,time_start,time_end\nbowling,../x,1,11\n",
    );
    assert!(refused(&stage).contains("train.csv, line 2: \"bowling,../x,1,11\" names no clip"));
}
