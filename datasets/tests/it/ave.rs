//! AVE.

use std::collections::BTreeSet;
use std::path::Path;

use datasets::{ListOptions, Listing, NoteKind, Split, open};

use crate::common::{self, Stage, annotations, counts, notes, per_class, sample, words};

fn list(stage: &Stage) -> Listing {
    common::list("ave", stage, &ListOptions::default())
}

fn refused(stage: &Stage) -> String {
    common::refused("ave", stage)
}

const LISTS: [&str; 3] = ["trainSet.txt", "valSet.txt", "testSet.txt"];

/// The whole dataset with a video for every id.
fn whole(real: &Path, base: &str) -> Stage {
    let stage = Stage::new();
    let mut ids = BTreeSet::new();
    for name in LISTS {
        let text = std::fs::read_to_string(real.join(name)).unwrap();
        ids.extend(
            text.lines()
                .map(|line| line.split('&').nth(1).unwrap().to_owned()),
        );
        stage.copy(&real.join(name), &format!("{base}{name}"));
    }
    assert_eq!(ids.len(), 4_097);
    for id in ids {
        stage.media(&format!("{base}AVE/{id}.mp4"));
    }
    stage
}

#[test]
fn the_real_lists_give_the_published_counts() {
    let Some(real) = annotations("ave") else {
        return;
    };
    let stage = whole(&real, "AVE_Dataset/");
    stage.copy(&real.join("Annotations.txt"), "AVE_Dataset/Annotations.txt");
    let listing = list(&stage);
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

    // 45 files carry two rows and one of these a third; 18 of them lie in two splits.
    assert_eq!(notes(&listing, NoteKind::SharedFile).len(), 45);
    let leaks = notes(&listing, NoteKind::SplitLeak);
    let of = |what: &str| leaks.iter().filter(|one| one.ends_with(what)).count();
    assert_eq!((of("train and val"), of("train and test")), (10, 8));
    assert_eq!(leaks.len(), 18);
    // One published row has no event span.
    let degenerate = sample(&listing, "VWi2ENBuTbw_church-bell");
    assert_eq!(degenerate.segment, None);
    assert_eq!(notes(&listing, NoteKind::KnownBad).len(), 1);
    assert_eq!(listing.notes.len(), 45 + 18 + 1);

    // The categories file that is around agrees with the registry.
    let categories = std::fs::read_to_string(real.join("categories.txt")).unwrap();
    let categories: Vec<&str> = categories.lines().collect();
    assert_eq!(dataset.info().classes, categories);
}

#[test]
fn every_kind_of_dirt_comes_out_as_it_should() {
    let stage = Stage::new();
    stage
        .text(
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
    let listing = list(&stage);
    assert_eq!(counts(&listing), [4, 1, 3]);
    let table = [
        (
            "-PljzzluWNw_rodents-rats-mice",
            25,
            Some((0.0, 10.0)),
            "AVE/-PljzzluWNw.mp4",
        ),
        (
            "_WOcO4B-Jis_frying-food",
            10,
            Some((3.0, 7.0)),
            "AVE/_WOcO4B-Jis.MP4",
        ),
        (
            "0f_iTO5t3hU_bark",
            2,
            Some((0.0, 4.0)),
            "AVE/0f_iTO5t3hU.mp4",
        ),
        ("VWi2ENBuTbw_church-bell", 0, None, "AVE/VWi2ENBuTbw.mp4"),
        (
            "0f_iTO5t3hU_goat",
            18,
            Some((4.0, 10.0)),
            "AVE/0f_iTO5t3hU.mp4",
        ),
        (
            "EMPTY_______horse",
            23,
            Some((0.0, 10.0)),
            "! AVE/EMPTY______.mp4 holds no bytes",
        ),
        (
            "MISSING_____cat",
            22,
            Some((0.0, 10.0)),
            "! there is no AVE/MISSING____.mp4",
        ),
        (
            "0f_iTO5t3hU_bus",
            20,
            Some((1.0, 2.0)),
            "AVE/0f_iTO5t3hU.mp4",
        ),
    ];
    assert_eq!(table.len(), listing.samples.len());
    for (id, class, segment, outcome) in table {
        let found = sample(&listing, id);
        assert_eq!(
            (found.labels.as_slice(), found.segment),
            (&[class][..], segment),
            "{id}"
        );
        assert_eq!(words(&found.inputs[0]), outcome);
        assert_eq!(words(&found.inputs[1]), outcome);
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
fn what_cannot_work_is_refused_in_one_line() {
    let stage = Stage::new();
    stage.media("AVE_Dataset.zip");
    assert!(refused(&stage).contains("unpack AVE_Dataset.zip first"));
    stage.media("data/train_order.h5").media("data/labels.h5");
    let text = refused(&stage);
    assert!(
        text.contains("train_order.h5") && text.contains("trainSet.txt"),
        "{text}"
    );
    stage
        .media("AVE/0f_iTO5t3hU.mp4")
        .text("trainSet.txt", "")
        .text("valSet.txt", "");
    assert!(refused(&stage).contains("testSet.txt: no such file"));
    stage.text("testSet.txt", "");
    assert!(refused(&stage).contains("no annotated sample"));
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
        stage.text("trainSet.txt", "Bark&0f_iTO5t3hU&good&0&1");
        stage.text("testSet.txt", format!("Cat&0f_iTO5t3hU&good&0&1\n{row}"));
        let text = refused(&stage);
        assert!(
            text.contains(expected) && text.contains("testSet.txt, line 2"),
            "{text}"
        );
    }
}
