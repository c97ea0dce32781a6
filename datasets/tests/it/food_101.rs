//! UPMC Food-101.

use datasets::{Input, ListOptions, Listing, NoteKind, open};

use crate::common::{self, RawTree, annotations, counts, input_text, notes, sample};

fn list(tree: &RawTree) -> Listing {
    common::list("food-101", tree, &ListOptions::default())
}

fn list_error(tree: &RawTree) -> String {
    common::list_error("food-101", tree)
}

#[test]
fn published_test_titles_give_22716_rows() {
    let Some(real) = annotations("food-101") else {
        return;
    };
    let titles = std::fs::read_to_string(real.join("test_titles.csv")).unwrap();
    let tree = RawTree::new();
    for line in titles.lines() {
        let name = line.split(',').next().unwrap();
        let class = name.rsplit_once('_').unwrap().0;
        tree.media(&format!("versions/1/images/test/{class}/{name}"));
    }
    tree.copy(
        &real.join("test_titles.csv"),
        "versions/1/texts/test_titles.csv",
    );
    let listing = list(&tree);
    assert_eq!(counts(&listing), [0, 0, 22_716]);
    assert_eq!(
        notes(&listing, NoteKind::MissingList),
        ["train_titles.csv: no such file; the train split is left out"]
    );
    assert!(notes(&listing, NoteKind::Unlisted).is_empty());
    assert!(notes(&listing, NoteKind::Repaired).is_empty());
    let dataset = open("food-101").unwrap();
    let mut per_class = vec![0; 101];
    let mut without_text = Vec::new();
    for one in &listing.samples {
        per_class[one.labels[0] as usize] += 1;
        assert!(one.inputs[0].is_present());
        match &one.inputs[1] {
            Input::Text(text) => {
                let clean =
                    !text.contains("&amp;") && !text.contains("&#") && !text.contains("\\x");
                assert!(
                    clean && !text.starts_with("[[") && !text.ends_with("\"]"),
                    "{}: {text}",
                    one.id
                );
            }
            Input::None => without_text.push(one.id.as_str()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(without_text, ["peking_duck_476"]);
    assert_eq!(per_class.iter().min(), Some(&197));
    assert_eq!(per_class.iter().max(), Some(&238));
    assert_eq!(dataset.info().classes.len(), 101);
    assert_eq!(listing.samples[0].id, "apple_pie_175");
    let text = |id| input_text(&sample(&listing, id).inputs[1]);
    assert_eq!(text("apple_pie_18"), "\"The Food Lab's Apple Pie\"");
    assert_eq!(
        text("apple_pie_463"),
        "\"José Pizarro recipe: apple pie - Telegraph\""
    );
    assert_eq!(text("apple_pie_267"), "\"Cookstr - Mom’s Apple Pie\"");
}

/// The published list of labels has the classes in the same order.
#[test]
fn classes_match_the_published_list() {
    let Some(real) = annotations("food-101") else {
        return;
    };
    let labels = std::fs::read_to_string(real.join("labels_MoPE.txt")).unwrap();
    let labels: Vec<&str> = labels.lines().map(str::trim).collect();
    assert_eq!(open("food-101").unwrap().info().classes, labels);
}

#[test]
fn malformed_kaggle_titles_are_listed_with_notes() {
    let tree = RawTree::new();
    // CRLF and no header, a quote that is never closed, names that end in .txt, a title of two lines,
    // a title with commas, a row without a class, a row that occurs twice.
    let train = "\u{feff}apple_pie_851.jpg,First Row,apple_pie\r\n\
        breakfast_burrito_730.jpg,\"[[\"\"Joe's Burrito,breakfast_burrito\r\n\
        breakfast_burrito_143.txt,Swallowed One,breakfast_burrito\r\n\
        breakfast_burrito_16.txt,Swallowed &amp; Two,breakfast_burrito\r\n\
        breakfast_burrito_17.jpg,\"Closed \"\"here\"\"\",breakfast_burrito\r\n\
        ice_cream_844.jpg,[],ice_cream\r\n\
        waffles_1.jpg,\"Two\r\nlines\",waffles\r\n\
        waffles_2.jpg,a, b and c,waffles\r\n\
        waffles_3.jpg,Cr\\xc3\\xa8me &#8211; [x]']\r\n\
        waffles_1.jpg,Again,waffles\r\n\
        cheese_plate_717-0.jpg,Odd Name,cheese_plate\r\n\
        tacos_1.jpg,No Bytes,tacos\r\n\
        tacos_2.jpg,No Image,tacos";
    tree.text("food/texts/train_titles.csv", train).text(
        "food/texts/test_titles.csv",
        "Image_path,text,label\nwaffles_9.jpg,Moved,waffles\n",
    );
    for name in [
        "apple_pie_851",
        "breakfast_burrito_730",
        "breakfast_burrito_143",
        "breakfast_burrito_16",
        "breakfast_burrito_17",
        "ice_cream_844",
        "waffles_1",
        "waffles_2",
        "waffles_3",
        "cheese_plate_717-0",
    ] {
        let class = name.rsplit_once('_').unwrap().0;
        tree.media(&format!("food/images/train/{class}/{name}.jpg"));
    }
    tree.text("food/images/train/tacos/tacos_1.jpg", "")
        .media("food/image/waffles_9.jpg")
        .media("food/images/test/waffles/waffles_77.jpg")
        .media("food/images/test/waffles/cover.jpg")
        .media("food/images/test/waffles/._waffles_9.jpg");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [12, 0, 1]);
    let cases = [
        ("plain row", "apple_pie_851", "\"First Row\""),
        (
            "quote that is never closed",
            "breakfast_burrito_730",
            "\"Joe's Burrito\"",
        ),
        (
            "row after an open quote, named .txt",
            "breakfast_burrito_143",
            "\"Swallowed One\"",
        ),
        (
            "second row after an open quote",
            "breakfast_burrito_16",
            "\"Swallowed & Two\"",
        ),
        (
            "escaped quotes",
            "breakfast_burrito_17",
            "\"Closed \"here\"\"",
        ),
        ("empty title", "ice_cream_844", "none"),
        ("title of two lines", "waffles_1", "\"Two lines\""),
        ("title with commas", "waffles_2", "\"a, b and c\""),
        ("row without a class", "waffles_3", "\"Crème – [x]\""),
        (
            "name with a copy number",
            "cheese_plate_717-0",
            "\"Odd Name\"",
        ),
        ("empty image", "tacos_1", "\"No Bytes\""),
        ("missing image", "tacos_2", "\"No Image\""),
        ("image in another folder", "waffles_9", "\"Moved\""),
    ];
    assert_eq!(cases.len(), listing.samples.len());
    for (case, id, text) in cases {
        let found = sample(&listing, id);
        assert_eq!(input_text(&found.inputs[1]), text, "{case}");
        let class = id.rsplit_once('_').unwrap().0;
        let image = match id {
            "tacos_1" => "! food/images/train/tacos/tacos_1.jpg holds no bytes".to_owned(),
            "tacos_2" => "! there is no food/images/train/tacos/tacos_2.jpg".to_owned(),
            "waffles_9" => "food/image/waffles_9.jpg".to_owned(),
            id => format!("food/images/train/{class}/{id}.jpg"),
        };
        assert_eq!(input_text(&found.inputs[0]), image, "{case}");
    }
    for (kind, count) in [
        (NoteKind::Repaired, 3),
        (NoteKind::Dropped, 1),
        (NoteKind::Missing, 1),
        (NoteKind::Empty, 1),
        (NoteKind::Unlisted, 2),
    ] {
        assert_eq!(
            notes(&listing, kind).len(),
            count,
            "{kind:?}: {:?}",
            notes(&listing, kind)
        );
    }
}

#[test]
fn lip6_texts_and_mmbt_lists_are_read() {
    let tree = RawTree::new();
    tree.media("UPMC_Food101/images/train/apple_pie/apple_pie_1.jpg")
        .media("UPMC_Food101/images/train/apple_pie/apple_pie_10.jpg")
        .media("UPMC_Food101/images/test/waffles/waffles_3.jpg")
        .media("UPMC_Food101/images/waffles_4.jpg")
        .text(
            "UPMC_Food101/texts_txt/apple_pie/apple_pie_1.txt",
            "Pie\n\n &c",
        )
        .text("UPMC_Food101/texts_txt/waffles/waffles_3.txt", "");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [2, 0, 1]);
    let text = |listing: &Listing, id| input_text(&sample(listing, id).inputs[1]);
    let page = "UPMC_Food101/texts_txt/apple_pie/apple_pie_1.txt";
    assert_eq!(text(&listing, "apple_pie_1"), format!("text of {page}"));
    let read = datasets::read_text_file(&tree.raw().join(page), None).unwrap();
    assert_eq!(read.as_deref(), Some("Pie &c"));
    assert_eq!(text(&listing, "apple_pie_10"), "none");
    assert_eq!(
        text(&listing, "waffles_3"),
        "text of UPMC_Food101/texts_txt/waffles/waffles_3.txt"
    );
    let empty = tree
        .raw()
        .join("UPMC_Food101/texts_txt/waffles/waffles_3.txt");
    assert_eq!(datasets::read_text_file(&empty, None).unwrap(), None);
    assert_eq!(notes(&listing, NoteKind::Unlisted).len(), 1);

    let line = |split: &str, class: &str, n: u32, text: &str| {
        format!(
            "{{\"id\":\"{class}_{class}_{n}.jpg\",\"label\":\"{class}\",\"text\":\"{text}\",\"img\":\"images/{split}/{class}/{class}_{n}.jpg\"}}\n"
        )
    };
    tree.text(
        "UPMC_Food101/train.jsonl",
        line("train", "apple_pie", 1, " the pie | "),
    )
    .text("UPMC_Food101/dev.jsonl", line("train", "apple_pie", 10, ""))
    .text("UPMC_Food101/test.jsonl", line("test", "waffles", 3, "w"))
    .text("UPMC_Food101/test_hard_gt.jsonl", "not read");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [1, 1, 1]);
    assert_eq!(text(&listing, "apple_pie_1"), "\"the pie |\"");
    assert_eq!(text(&listing, "apple_pie_10"), "none");
    assert_eq!(notes(&listing, NoteKind::Choice).len(), 2);

    tree.text("UPMC_Food101/dev.jsonl", "{\"img\": \"nothing.jpg\"}");
    assert!(list_error(&tree).contains("dev.jsonl, line 1: \"nothing.jpg\" is no Food-101 image"));
    tree.text("UPMC_Food101/dev.jsonl", "{\"img\"");
    assert!(list_error(&tree).contains("dev.jsonl, line 1: EOF"));
}

/// The layout of missing-aware prompts has image names in one file and titles in another.
#[test]
fn split_json_and_text_json_are_read() {
    let tree = RawTree::new();
    tree
        .media("images/train/apple_pie/apple_pie_1.jpg")
        .media("images/train/tacos/tacos_2-3.jpg")
        .media("images/train/tacos/tacos_4.jpg")
        .media("images/test/waffles/waffles_3.jpg")
        .text("class_idx.json", r#"{"waffles": 0, "tacos": 1}"#)
        .text(
            "split.json",
            r#"{"test": ["waffles_3.jpg"], "train": ["tacos_2-3.jpg", "apple_pie_1.jpg"], "val": ["tacos_4.jpg"]}"#,
        );
    let text = |listing: &Listing, id| input_text(&sample(listing, id).inputs[1]);
    let listing = list(&tree);
    assert_eq!(counts(&listing), [2, 1, 1]);
    assert_eq!(text(&listing, "waffles_3"), "none");
    tree.text(
        "text.json",
        r#"{"waffles_3.jpg": "[[\"Vera's Waffles\"]]", "tacos_4.jpg": ["A &amp; B"], "tacos_2-3.jpg": "[]"}"#,
    );
    let listing = list(&tree);
    let ids: Vec<&str> = listing.samples.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["tacos_2-3", "apple_pie_1", "tacos_4", "waffles_3"]);
    // The canonical order of the classes does not depend on class_idx.json.
    assert_eq!(sample(&listing, "waffles_3").labels, [100]);
    assert_eq!(text(&listing, "waffles_3"), "\"Vera's Waffles\"");
    assert_eq!(text(&listing, "tacos_4"), "\"A & B\"");
    assert_eq!(text(&listing, "tacos_2-3"), "none");
    assert_eq!(text(&listing, "apple_pie_1"), "none");
    // Titles files are preferred.
    tree.text("texts/train_titles.csv", "tacos_4.jpg,Tacos,tacos\n")
        .text("texts/test_titles.csv", "waffles_3.jpg,Waffles,waffles\n");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [1, 0, 1]);
    assert_eq!(notes(&listing, NoteKind::Choice).len(), 1);

    let tree = RawTree::new();
    tree.media("images/test/waffles/waffles_3.jpg")
        .text("split.json", r#"{"test": ["nothing.jpg"]}"#);
    assert!(list_error(&tree).contains("split.json: \"nothing.jpg\" is no Food-101 image"));
    tree.text("split.json", "{\"test\"");
    assert!(list_error(&tree).contains("split.json: EOF"));
}

/// What a list would name cannot be seen to be missing, so the list itself is named, and `check`
/// exits with 1.
#[test]
fn lists_that_are_not_there_are_named() {
    let line = "{\"img\": \"waffles_3.jpg\", \"text\": \"w\"}\n";
    let row = "waffles_3.jpg,Waffles,waffles\n";
    let left_out =
        |file: &str, split: &str| format!("{file}: no such file; the {split} split is left out");
    let no_train = |source: &str| format!("{source}: names no image of the train split");
    let cases: [(&str, &str, Vec<String>); 5] = [
        (
            "test.jsonl",
            line,
            vec![
                left_out("train.jsonl", "train"),
                left_out("dev.jsonl", "val"),
            ],
        ),
        (
            "valid.jsonl",
            line,
            vec![
                left_out("train.jsonl", "train"),
                left_out("test.jsonl", "test"),
            ],
        ),
        (
            "texts/test_titles.csv",
            row,
            vec![left_out("train_titles.csv", "train")],
        ),
        (
            "split.json",
            "{\"test\": [\"waffles_3.jpg\"]}",
            vec![
                "text.json: no such file; every sample is without text".to_owned(),
                no_train("split.json"),
            ],
        ),
        (
            "texts_txt/waffles/waffles_3.txt",
            "w",
            vec![no_train("images")],
        ),
    ];
    for (file, text, expected) in cases {
        let tree = RawTree::new();
        tree.media("images/test/waffles/waffles_3.jpg")
            .text(file, text);
        assert_eq!(
            notes(&list(&tree), NoteKind::MissingList),
            expected,
            "{file}"
        );
        let dataset = open("food-101").unwrap();
        let report = datasets::check(dataset.as_ref(), &tree.raw(), &Default::default()).unwrap();
        assert!(report.needs_attention(), "{file}");
        assert_eq!(report.note_counts["missing_list"], expected.len());
    }
}

#[test]
fn unusable_trees_and_titles_are_errors() {
    let tree = RawTree::new();
    tree.media("upmcfood101.zip");
    assert!(list_error(&tree).contains("unpack upmcfood101.zip first"));
    tree.text("texts/test_titles.csv", "waffles_9.jpg,Waffle,waffles\n");
    // A title without its image is a usable input.
    assert_eq!(counts(&list(&tree)), [0, 0, 1]);
    tree.text("texts/test_titles.csv", "a,b\nwhat\n");
    assert!(list_error(&tree).contains("test_titles.csv, line 2: \"what\" is no row"));
    tree.text("texts/test_titles.csv", "");
    assert!(list_error(&tree).contains("no annotated sample"));
}
