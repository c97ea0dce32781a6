//! Kinetics-Sound.

use datasets::{ListOptions, Listing, NoteKind, Split, open};

use crate::common::{self, RawTree, annotations, counts, input_text, notes, per_class, sample};

fn list(tree: &RawTree) -> Listing {
    common::list("kinetics-sound", tree, &ListOptions::default())
}

fn list_error(tree: &RawTree) -> String {
    common::list_error("kinetics-sound", tree)
}

#[test]
fn published_lists_give_their_counts_and_missing_clips_are_noted() {
    let Some(real) = annotations("kinetics-sound") else {
        return;
    };
    // The three test clips that the Kinetics-400 test table lacks, and a training clip.
    let absent = ["Q78zQuQ9oeg", "ZSnZ4DLJKAM", "r_5GkTNsM4g", "--4-0ihtnBU"];
    let tree = RawTree::new();
    for (split, name) in [
        ("train", "OGM-GE_my_train.txt"),
        ("test", "OGM-GE_my_test.txt"),
    ] {
        tree.copy(&real.join(name), &format!("lists/{name}"));
        let text = std::fs::read_to_string(real.join(name)).unwrap();
        for line in text.lines() {
            let clip = line.split(',').next().unwrap();
            let (id, start) = (&clip[..11], clip[12..].split('_').next().unwrap());
            let start: u32 = start.parse().unwrap();
            if !absent.contains(&id) {
                tree.media(&format!(
                    "k400/{split}/{id}_{start:06}_{:06}.mp4",
                    start + 10
                ));
            }
        }
    }
    let listing = list(&tree);
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
        input_text(&sample(&listing, "-3Mwkq-7TV4_000002_000012").inputs[1]),
        "k400/test/-3Mwkq-7TV4_000002_000012.mp4"
    );
}

#[test]
fn the_kinetics_tables_are_filtered_to_the_31_classes() {
    let Some(real) = annotations("kinetics-sound") else {
        return;
    };
    let tree = RawTree::new();
    tree.copy(
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
    tree.media(&format!("val/bowling/{id}.mp4"));
    let listing = list(&tree);
    assert_eq!(counts(&listing), [0, 1_544, 0]);
    assert_eq!(
        input_text(&sample(&listing, &id).inputs[0]),
        format!("val/bowling/{id}.mp4")
    );
    assert_eq!(
        notes(&listing, NoteKind::Choice),
        ["videos: 1 video files are not among the samples' clips; not used"]
    );
    let left_out: Vec<String> = notes(&listing, NoteKind::MissingList)
        .into_iter()
        .filter(|note| note.contains("split is left out"))
        .collect();
    assert_eq!(left_out.len(), 2);
    // The published map of Kinetics-400 has all class names.
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
fn malformed_trees_are_listed_with_notes() {
    let tree = RawTree::new();
    tree.text(
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
    // Clips in flat folders and in class folders; an audio file; a clip at another start.
    .media("train/-aaaaaaaaaa_000001_000011.mp4")
    .media("train/tickling/_bbbbbbbbbb_000002_000012.mp4")
    .media("train/playing_guitar/ccccccccccc_000003_000013.mp4")
    .media("audio/playing_guitar/ccccccccccc_000003_000013.wav")
    .media("train/ddddddddddd_000099_000109.mp4")
    // A replacement of an empty original.
    .text("train/eeeeeeeeeee_000005_000015.mp4", "")
    .media("replacement/replacement_for_corrupted_k400/eeeeeeeeeee_000005_000015.mp4")
    // An empty video; a Git LFS pointer; audio alone.
    .text("train/fffffffffff_000006_000016.mp4", "")
    .pointer("train/ggggggggggg_000007_000017.mp4")
    .media("train/hhhhhhhhhhh_000008_000018.wav")
    // A clip in the folders of two splits; a name as in the list; no clip.
    .media("a/train/-_iiiiiiiii_000009_000019.mp4")
    .media("b/test/-_iiiiiiiii_000009_000019.mp4")
    .media("test/jjjjjjjjjjj_0.mp4")
    .media("test/thumbnail.mp4");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [8, 0, 2]);
    let replaced = "replacement/replacement_for_corrupted_k400/eeeeeeeeeee_000005_000015.mp4";
    let both = "b/test/-_iiiiiiiii_000009_000019.mp4 | a/train/-_iiiiiiiii_000009_000019.mp4";
    // The case, the id, its video and its audio; `=` is the same file as the video.
    let cases = [
        (
            "flat folder",
            "-aaaaaaaaaa_000001_000011",
            "train/-aaaaaaaaaa_000001_000011.mp4",
            "=",
        ),
        (
            "class folder",
            "_bbbbbbbbbb_000002_000012",
            "train/tickling/_bbbbbbbbbb_000002_000012.mp4",
            "=",
        ),
        (
            "class folder with underscores and an audio file",
            "ccccccccccc_000003_000013",
            "train/playing_guitar/ccccccccccc_000003_000013.mp4",
            "audio/playing_guitar/ccccccccccc_000003_000013.wav | train/playing_guitar/ccccccccccc_000003_000013.mp4",
        ),
        (
            "another start",
            "ddddddddddd_000004_000014",
            "! there is no train/ddddddddddd_000004_000014.mp4",
            "=",
        ),
        (
            "replaced original",
            "eeeeeeeeeee_000005_000015",
            replaced,
            "=",
        ),
        (
            "empty video",
            "fffffffffff_000006_000016",
            "! train/fffffffffff_000006_000016.mp4 holds no bytes",
            "=",
        ),
        (
            "Git LFS pointer",
            "ggggggggggg_000007_000017",
            "! train/ggggggggggg_000007_000017.mp4 is a Git LFS pointer; run `git lfs pull`",
            "=",
        ),
        (
            "audio alone",
            "hhhhhhhhhhh_000008_000018",
            "! there is no train/hhhhhhhhhhh_000008_000018.mp4",
            "train/hhhhhhhhhhh_000008_000018.wav",
        ),
        (
            "folders of two splits",
            "-_iiiiiiiii_000009_000019",
            both,
            "=",
        ),
        (
            "name as in the list",
            "jjjjjjjjjjj_000000_000010",
            "test/jjjjjjjjjjj_0.mp4",
            "=",
        ),
    ];
    assert_eq!(cases.len(), listing.samples.len());
    for (case, id, video, audio) in cases {
        let found = sample(&listing, id);
        assert_eq!(input_text(&found.inputs[1]), video, "{case}");
        let audio = if audio == "=" { video } else { audio };
        assert_eq!(input_text(&found.inputs[0]), audio, "{case}");
    }
    for (kind, count) in [
        (NoteKind::Missing, 2),
        // The empty original that was replaced is not noted.
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
fn mla_lists_class_folders_and_tables_without_labels_are_read() {
    let tree = RawTree::new();
    tree.media("visual/train/playing_guitar/aaaaaaaaaaa_000001_000011.mp4")
        .media("visual/train/abseiling/bbbbbbbbbbb_000001_000011.mp4")
        .media("visual/val/Tap Dancing/-cccccccccc_000001_000011.mp4");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [1, 1, 0]);
    assert_eq!(listing.samples[1].labels, [27]);
    assert_eq!(listing.layout, "class folders");

    tree.text(
        "my_train_ks.txt",
        "aaaaaaaaaaa_000001_000011.mp4 playing guitar\n-cccccccccc_000001_000011.mp4 tap_dancing\n",
    );
    let listing = list(&tree);
    assert_eq!(counts(&listing), [2, 0, 0]);
    assert_eq!(listing.samples[0].labels, [12]);

    // A test table without labels, and a class name that is as long as a video id.
    let tree = RawTree::new();
    tree
        .media("aaaaaaaaaaa_000001_000011.mp4")
        .text("train.csv", "label,youtube_id,time_start,time_end,split\nparasailing,bbbbbbbbbbb,1,11,train\n\"playing guitar\",aaaaaaaaaaa,1,11,train\n")
        .text("test.csv", "youtube_id,time_start,time_end,split\nbbbbbbbbbbb,1,11,test\n");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [1, 0, 0]);
    let missing = notes(&listing, NoteKind::MissingList);
    assert_eq!(
        missing,
        ["test.csv: the table has no label column; the test split is left out"]
    );
}

#[test]
fn unusable_trees_and_lists_are_errors() {
    let tree = RawTree::new();
    tree.media("aaaaaaaaaaa_000001_000011.mp4");
    assert!(list_error(&tree).contains("no lists, no Kinetics-400 csv files"));
    tree.text(
        "my_train.txt",
        "aaaaaaaaaaa_000001_000011,10,3\nbbbbbbbbbbb_000001_000011,10,31\n",
    );
    assert!(
        list_error(&tree)
            .contains("my_train.txt, line 2: \"bbbbbbbbbbb_000001_000011,10,31\" is no row")
    );
    tree.text("my_train.txt", "bbbbbbbbbbb_000001_000011,10,3\n");
    assert!(list_error(&tree).contains("not one of the 1 annotated samples has a file here"));
    std::fs::remove_file(tree.raw().join("my_train.txt")).unwrap();
    tree.text(
        "train.csv",
        "label,youtube_id,time_start,time_end\nbowling,../x,1,11\n",
    );
    assert!(list_error(&tree).contains("train.csv, line 2: \"bowling,../x,1,11\" names no clip"));
    for (quoted, expected) in [
        (
            "\"bowling",
            "train.csv, line 2: a quote opens here and is never closed",
        ),
        (
            "\"bowling\nx\"",
            "train.csv, line 2: a quote opens here and is closed in line 3",
        ),
    ] {
        let rows = "bowling,aaaaaaaaaaa,1,11\n".repeat(3);
        let table =
            format!("label,youtube_id,time_start,time_end\n{quoted},aaaaaaaaaaa,1,11\n{rows}");
        tree.text("train.csv", table);
        let error = list_error(&tree);
        assert!(error.contains(expected), "{error}");
    }
}

/// What yt-dlp and youtube-dl leave: a second ending after merging, the number of the format where
/// they have not merged, an ending of their own where they have not finished.
#[test]
fn clips_are_found_under_the_names_of_download_tools() {
    // The files of a clip, and its video and its audio; `=` is the same as the video.
    let cases: [(&[&str], &str, &str); 9] = [
        (&["mp4.mkv"], "train/ID.mp4.mkv", "="),
        (&["mp4.webm"], "train/ID.mp4.webm", "="),
        (&["MP4"], "train/ID.MP4", "="),
        (&["f137.mp4"], "train/ID.f137.mp4", "="),
        (
            &["f137.mp4", "f140.m4a"],
            "train/ID.f137.mp4",
            "train/ID.f140.m4a | train/ID.f137.mp4",
        ),
        // The merged file is taken before the one with the video alone.
        (
            &["f137.mp4", "mkv"],
            "train/ID.mkv | train/ID.f137.mp4",
            "=",
        ),
        (&["webm.part"], "! there is no train/ID.mp4", "="),
        (
            &["f248.webm.part", "f248.webm.ytdl"],
            "! there is no train/ID.mp4",
            "=",
        ),
        (&["mp4", "mp4.part"], "train/ID.mp4", "="),
    ];
    let id = |number: usize| format!("-dl_{number:07}_000010_000020");
    for with_list in [true, false] {
        let tree = RawTree::new();
        let mut rows = String::new();
        for (number, (endings, ..)) in cases.iter().enumerate() {
            let folder = if with_list { "train" } else { "train/bowling" };
            for ending in *endings {
                tree.media(&format!("{folder}/{}.{ending}", id(number)));
            }
            rows += &format!("{},10,2\r\n", id(number));
        }
        if with_list {
            tree.text("my_train.txt", rows);
        }
        let listing = list(&tree);
        assert_eq!(counts(&listing), [cases.len(), 0, 0]);
        for (number, (endings, video, audio)) in cases.iter().enumerate() {
            let text = |text: &str| {
                let text = text.replace("ID", &id(number));
                let folder = if with_list {
                    "train/"
                } else {
                    "train/bowling/"
                };
                if text.starts_with('!') {
                    text
                } else {
                    text.replace("train/", folder)
                }
            };
            let found = sample(&listing, &id(number));
            let audio = if *audio == "=" { video } else { audio };
            assert_eq!(input_text(&found.inputs[1]), text(video), "{endings:?}");
            assert_eq!(input_text(&found.inputs[0]), text(audio), "{endings:?}");
        }
        let unfinished = notes(&listing, NoteKind::Unreadable);
        assert_eq!(unfinished.len(), 3, "{unfinished:?}");
        assert!(
            unfinished[0].ends_with(".webm.part: an unfinished download; not used; fetch it again")
        );
        assert!(notes(&listing, NoteKind::Dropped).is_empty());
    }
}

#[test]
fn both_published_counts_are_reported_with_their_sources() {
    let tree = RawTree::new();
    tree.media("train/bowling/aaaaaaaaaaa_000001_000011.mp4");
    let dataset = open("kinetics-sound").unwrap();
    let report = datasets::check(dataset.as_ref(), &tree.raw(), &Default::default()).unwrap();
    let counts: Vec<_> = report
        .splits
        .iter()
        .flat_map(|split| &split.published)
        .map(|one| (one.samples, one.source))
        .collect();
    assert_eq!(
        counts,
        [
            (14_739, "the paper, section 4.1"),
            (14_799, "OGM-GE's list my_train.txt"),
            (2_594, "the paper, section 4.1"),
            (2_597, "OGM-GE's list my_test.txt"),
        ]
    );
}
