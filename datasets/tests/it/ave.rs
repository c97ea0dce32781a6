//! AVE.

use std::collections::BTreeSet;
use std::path::Path;

use datasets::{ListOptions, Listing, NoteKind, Split, open};

use crate::common::{self, RawTree, annotations, counts, input_text, notes, per_class, sample};

fn list(tree: &RawTree) -> Listing {
    common::list("ave", tree, &ListOptions::default())
}

fn list_error(tree: &RawTree) -> String {
    common::list_error("ave", tree)
}

const LISTS: [&str; 3] = ["trainSet.txt", "valSet.txt", "testSet.txt"];

/// Builds the complete dataset, with a placeholder for each video.
fn complete_tree(real: &Path, base: &str) -> RawTree {
    let tree = RawTree::new();
    let mut ids = BTreeSet::new();
    for name in LISTS {
        let text = std::fs::read_to_string(real.join(name)).unwrap();
        ids.extend(
            text.lines()
                .map(|line| line.split('&').nth(1).unwrap().to_owned()),
        );
        tree.copy(&real.join(name), &format!("{base}{name}"));
    }
    assert_eq!(ids.len(), 4_097);
    for id in ids {
        tree.media(&format!("{base}AVE/{id}.mp4"));
    }
    tree
}

#[test]
fn published_lists_give_the_published_counts() {
    let Some(real) = annotations("ave") else {
        return;
    };
    let tree = complete_tree(&real, "AVE_Dataset/");
    tree.copy(&real.join("Annotations.txt"), "AVE_Dataset/Annotations.txt");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [3_339, 402, 402]);
    let dataset = open("ave").unwrap();
    for split in Split::ALL {
        let found = per_class(dataset.info(), &listing, split);
        let classes = dataset.info().classes.iter();
        let found: Vec<usize> = classes.map(|name| found[name]).collect();
        assert_eq!(Some(found), dataset.expected_per_class()[split.index()]);
    }
    assert!(listing.samples.iter().all(|one| one.inputs[0].is_present()));
    let first = &listing.samples[0];
    assert_eq!(first.id, "c---zaDCTaE_church-bell");
    assert_eq!(first.source, "AVE_Dataset/AVE/c---zaDCTaE.mp4");
    assert_eq!(first.inputs[0], first.inputs[1]);
    assert_eq!(listing.samples[1].segment, Some((6.0, 10.0)));

    // 45 files have several rows; the rows of 18 of them are in two splits.
    assert_eq!(notes(&listing, NoteKind::SharedFile).len(), 45);
    let leaks = notes(&listing, NoteKind::SplitLeak);
    let count = |splits: &str| leaks.iter().filter(|one| one.ends_with(splits)).count();
    assert_eq!((count("train and val"), count("train and test")), (10, 8));
    assert_eq!(leaks.len(), 18);
    // One published row has no event span.
    let degenerate = sample(&listing, "VWi2ENBuTbw_church-bell");
    assert_eq!(degenerate.segment, None);
    assert_eq!(notes(&listing, NoteKind::KnownBad).len(), 1);
    assert_eq!(listing.notes.len(), 45 + 18 + 1);

    // The published list of categories has the classes in the same order.
    let categories = std::fs::read_to_string(real.join("categories.txt")).unwrap();
    let categories: Vec<&str> = categories.lines().collect();
    assert_eq!(dataset.info().classes, categories);
}

#[test]
fn malformed_rows_and_files_are_listed_with_notes() {
    let tree = RawTree::new();
    tree.text(
        "trainSet.txt",
        "\u{feff}Category&VideoID&Quality&StartTime&EndTime\r\n\
             Rodents, rats, mice&-PljzzluWNw&good&0&10\r\n\
             Frying (food)&_WOcO4B-Jis&good&3&7\r\n\
             Bark&0f_iTO5t3hU&good&0&4\r\n\
             Church bell&VWi2ENBuTbw&good&0&0",
    )
    .text("valSet.txt", "Goat&0f_iTO5t3hU&good&4&10\n")
    .text(
        "testSet.txt",
        "Horse&EMPTY______&good&0&10\nCat&MISSING____&good&0&10\nBus&0f_iTO5t3hU&good&1&2\n",
    )
    .text(
        "Annotations.txt",
        "Goat&0f_iTO5t3hU&good&4&10\nGoat&NOTINALIST_&good&4&10\n",
    )
    .media("AVE/-PljzzluWNw.mp4")
    .media("AVE/_WOcO4B-Jis.MP4")
    .media("AVE/0f_iTO5t3hU.mp4")
    .media("AVE/VWi2ENBuTbw.mp4")
    .text("AVE/EMPTY______.mp4", "");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [4, 1, 3]);
    let cases = [
        (
            "category with commas",
            "-PljzzluWNw_rodents-rats-mice",
            25,
            Some((0.0, 10.0)),
            "AVE/-PljzzluWNw.mp4",
        ),
        (
            "upper-case extension",
            "_WOcO4B-Jis_frying-food",
            10,
            Some((3.0, 7.0)),
            "AVE/_WOcO4B-Jis.MP4",
        ),
        (
            "first row of a shared file",
            "0f_iTO5t3hU_bark",
            2,
            Some((0.0, 4.0)),
            "AVE/0f_iTO5t3hU.mp4",
        ),
        (
            "empty event",
            "VWi2ENBuTbw_church-bell",
            0,
            None,
            "AVE/VWi2ENBuTbw.mp4",
        ),
        (
            "second row of a shared file",
            "0f_iTO5t3hU_goat",
            18,
            Some((4.0, 10.0)),
            "AVE/0f_iTO5t3hU.mp4",
        ),
        (
            "empty file",
            "EMPTY_______horse",
            23,
            Some((0.0, 10.0)),
            "! AVE/EMPTY______.mp4 holds no bytes",
        ),
        (
            "missing file",
            "MISSING_____cat",
            22,
            Some((0.0, 10.0)),
            "! there is no AVE/MISSING____.mp4",
        ),
        (
            "third row of a shared file",
            "0f_iTO5t3hU_bus",
            20,
            Some((1.0, 2.0)),
            "AVE/0f_iTO5t3hU.mp4",
        ),
    ];
    assert_eq!(cases.len(), listing.samples.len());
    for (case, id, class, segment, input) in cases {
        let found = sample(&listing, id);
        assert_eq!(found.labels, [class], "{case}");
        assert_eq!(found.segment, segment, "{case}");
        assert_eq!(input_text(&found.inputs[0]), input, "{case}");
        assert_eq!(input_text(&found.inputs[1]), input, "{case}");
    }
    assert_eq!(
        notes(&listing, NoteKind::SharedFile),
        [
            "AVE/0f_iTO5t3hU.mp4: carries 3 samples: 0f_iTO5t3hU_bark, 0f_iTO5t3hU_goat, 0f_iTO5t3hU_bus"
        ]
    );
    assert_eq!(
        notes(&listing, NoteKind::SplitLeak),
        ["AVE/0f_iTO5t3hU.mp4: carries samples of train and val and test"]
    );
    assert_eq!(
        notes(&listing, NoteKind::Unlisted),
        ["NOTINALIST__goat: stands in Annotations.txt and in no split list; not used"]
    );
    assert_eq!(notes(&listing, NoteKind::Missing).len(), 1);
    assert_eq!(notes(&listing, NoteKind::Empty).len(), 1);
}

#[test]
fn unusable_trees_and_rows_are_errors() {
    let tree = RawTree::new();
    tree.media("AVE_Dataset.zip");
    assert!(list_error(&tree).contains("unpack AVE_Dataset.zip first"));
    tree.media("data/train_order.h5").media("data/labels.h5");
    let text = list_error(&tree);
    assert!(
        text.contains("train_order.h5") && text.contains("trainSet.txt"),
        "{text}"
    );
    tree.media("AVE/0f_iTO5t3hU.mp4")
        .text("trainSet.txt", "")
        .text("valSet.txt", "");
    assert!(list_error(&tree).contains("testSet.txt: no such file"));
    tree.text("testSet.txt", "");
    assert!(list_error(&tree).contains("no annotated sample"));
    for (row, expected) in [
        ("Bark&0f_iTO5t3hU&good&0", "has 4 fields, not 5"),
        (
            "Barks&0f_iTO5t3hU&good&0&1",
            "is none of the 28 categories (did you mean \"Bark\"?)",
        ),
        ("Bark&../0f_iTO5t&good&0&1", "is no video id"),
        ("Bark&0f_iTO5t3hU&good&0&x", "\"x\" is no time"),
        ("Bark&0f_iTO5t3hU&good&-1&5", "\"-1\" is no time"),
        ("Bark&0f_iTO5t3hU&good&NaN&5", "\"NaN\" is no time"),
        (
            "Bark&0f_iTO5t3hU&good&0&2",
            "stands in trainSet.txt, line 1 already",
        ),
    ] {
        tree.text("trainSet.txt", "Bark&0f_iTO5t3hU&good&0&1");
        tree.text("testSet.txt", format!("Cat&0f_iTO5t3hU&good&0&1\n{row}"));
        let text = list_error(&tree);
        assert!(
            text.contains(expected) && text.contains("testSet.txt, line 2"),
            "{text}"
        );
    }
}
