//! MM-IMDb.

use datasets::{ListOptions, Listing, NoteKind, Plot};

use crate::common::{self, RawTree, annotations, counts, input_text, notes, sample};

fn list_with(tree: &RawTree, plot: Plot) -> Listing {
    common::list("mm-imdb", tree, &ListOptions { plot })
}

fn list(tree: &RawTree) -> Listing {
    list_with(tree, Plot::Longest)
}

fn list_error(tree: &RawTree) -> String {
    common::list_error("mm-imdb", tree)
}

#[test]
fn published_split_file_gives_the_published_counts() {
    let Some(real) = annotations("mm-imdb") else {
        return;
    };
    let tree = RawTree::new();
    tree.copy(&real.join("split.json"), "mmimdb/split.json");
    tree.text(
        "json",
        r#"{"genres": ["Sci-Fi", "Drama", "News"], "plot": ["A plot."]}"#,
    );
    let text = std::fs::read_to_string(real.join("split.json")).unwrap();
    std::fs::create_dir_all(tree.raw().join("mmimdb/dataset")).unwrap();
    for id in text
        .split('"')
        .filter(|one| one.len() == 7 && one.parse::<u32>().is_ok())
    {
        let json = tree.raw().join(format!("mmimdb/dataset/{id}.json"));
        std::fs::hard_link(tree.raw().join("json"), json).unwrap();
        tree.media(&format!("mmimdb/dataset/{id}.jpeg"));
    }
    let listing = list(&tree);
    assert_eq!(counts(&listing), [15_552, 2_608, 7_799]);
    assert!(listing.notes.is_empty(), "{:?}", listing.notes.first());
    assert_eq!(listing.samples[0].id, "0106714");
    for one in &listing.samples {
        // Drama is the most frequent genre, Sci-Fi the eleventh; News is no label.
        assert_eq!(one.labels, [0, 10]);
        assert!(one.inputs.iter().all(|input| input.is_present()));
    }
}

#[test]
fn malformed_movies_are_listed_with_notes() {
    let tree = RawTree::new();
    tree.text(
        "split.json",
        r#"{"train": ["0000001", "0000002", "0000003", "0000004", "0000005", "0000006", "0000007"],
            "dev": ["0000008"], "test": [9, "0000010"]}"#,
    );
    let movie =
        |genres: &str, rest: &str| format!("{{\"genres\": [{genres}]{rest}, \"year\": 1893}}");
    let plots =
        r#", "plot": ["Short.", "Caf\u00e9 \u2013 the longer one.\n"], "plot outline": "Outline.""#;
    for n in [1, 2, 3, 6, 7, 8, 9, 10] {
        tree.media(&format!("images/{n:07}.jpeg"));
    }
    tree.text(
        "labels/0000001.json",
        movie("\"War\", \"Drama\", \"War\"", plots),
    )
    .text("labels/0000002.json", movie("\"News\", \"Adult\"", ""))
    .text(
        "labels/0000003.json",
        movie("\"Drama\", \"Dramedy\"", ", \"plot\": []"),
    )
    // A missing and an empty poster.
    .text("labels/0000004.json", movie("\"Short\"", plots))
    .text("labels/0000005.json", movie("\"Short\"", plots))
    .text("images/0000005.jpeg", "")
    // JSON that is malformed, lacks genres, is empty, or is a Git LFS pointer; one is missing.
    .text("labels/0000007.json", "{\"genres\": [")
    .text("labels/0000008.json", "{\"plot\": [\"x\"]}")
    .text("labels/0000009.json", "")
    .pointer("labels/0000010.json")
    .media("images/0000099.jpeg");
    let listing = list(&tree);
    assert_eq!(counts(&listing), [7, 1, 2]);
    // The case, the id, its labels, its image and its text. Without a text, the genres are unknown.
    let cases: [(&str, &str, &[u32], &str, &str); 10] = [
        (
            "several plots and a repeated genre",
            "0000001",
            &[0, 14],
            "images/0000001.jpeg",
            "\"Café – the longer one.\"",
        ),
        (
            "rare genres and no plot",
            "0000002",
            &[],
            "images/0000002.jpeg",
            "none",
        ),
        (
            "unknown genre and an empty list of plots",
            "0000003",
            &[0],
            "images/0000003.jpeg",
            "none",
        ),
        (
            "missing poster",
            "0000004",
            &[21],
            "! there is no images/0000004.jpeg",
            "\"Café – the longer one.\"",
        ),
        (
            "empty poster",
            "0000005",
            &[21],
            "! images/0000005.jpeg holds no bytes",
            "\"Café – the longer one.\"",
        ),
        (
            "missing JSON",
            "0000006",
            &[],
            "there is no labels/0000006.json",
            "",
        ),
        (
            "malformed JSON",
            "0000007",
            &[],
            "labels/0000007.json is no movie's json",
            "",
        ),
        (
            "JSON without genres",
            "0000008",
            &[],
            "labels/0000008.json has no list \"genres\"",
            "",
        ),
        (
            "empty JSON",
            "0000009",
            &[],
            "labels/0000009.json holds no bytes",
            "",
        ),
        (
            "Git LFS pointer",
            "0000010",
            &[],
            "labels/0000010.json is a Git LFS pointer",
            "",
        ),
    ];
    for (case, id, labels, image, text) in cases {
        let found = sample(&listing, id);
        assert_eq!(found.labels, labels, "{case}");
        let [found_image, found_text] =
            [input_text(&found.inputs[0]), input_text(&found.inputs[1])];
        if text.is_empty() {
            // Labels unknown: nothing of it can be used.
            let start = format!("! its genres are unknown: {image}");
            assert!(
                found_image.starts_with(&start) && found_text.starts_with(&start),
                "{found_image}"
            );
        } else {
            assert_eq!(
                (found_image.as_str(), found_text.as_str()),
                (image, text),
                "{case}"
            );
        }
    }
    for (kind, count) in [
        (NoteKind::Missing, 2),
        (NoteKind::Empty, 2),
        (NoteKind::LfsPointer, 1),
        (NoteKind::Unreadable, 2),
        (NoteKind::Repaired, 1),
        (NoteKind::Unlisted, 1),
    ] {
        assert_eq!(notes(&listing, kind).len(), count, "{kind:?}");
    }
    let text = |plot| input_text(&sample(&list_with(&tree, plot), "0000001").inputs[1]);
    assert_eq!(text(Plot::First), "\"Short.\"");
    assert_eq!(text(Plot::Outline), "\"Outline.\"");
    assert_eq!(text(Plot::All), "\"Short. Café – the longer one.\"");
}

#[test]
fn unusable_trees_and_split_files_are_errors() {
    let tree = RawTree::new();
    tree.sized("multimodal_imdb.hdf5", 4096)
        .sized("metadata.npy", 9);
    let text = list_error(&tree);
    assert!(
        text.contains("multimodal_imdb.hdf5: ") && text.contains("mmimdb.tar.gz"),
        "{text}"
    );
    tree.media("dataset/0000001.jpeg");
    assert!(list_error(&tree).contains("split.json: no such file"));
    for (split, expected) in [
        ("[]", "split.json: invalid type"),
        ("{\"train\": {}}", "\"train\" is no list"),
        ("{\"holdout\": []}", "\"holdout\" is no split"),
        ("{\"train\": [\"../1\"]}", "\"../1\" is no id"),
        (
            "{\"train\": [\"0000001\"], \"dev\": [\"1\"]}",
            "the id 0000001 is listed twice",
        ),
        ("{\"train\": []}", "no annotated sample"),
        (
            "{\"train\": [\"0000001\"]}",
            "not one of the 1 annotated samples has a file here",
        ),
    ] {
        tree.text("split.json", split);
        let text = list_error(&tree);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn posters_are_found_with_any_usual_ending() {
    // The files of a movie, and its image.
    let cases: [(&[&str], &str); 7] = [
        (&["jpeg"], "dataset/ID.jpeg"),
        (&["JPEG"], "dataset/ID.JPEG"),
        (&["JPG"], "dataset/ID.JPG"),
        (&["png"], "dataset/ID.png"),
        (&["webp"], "dataset/ID.webp"),
        (&["PNG", "Jpg"], "dataset/ID.Jpg"),
        (&["gif"], "! there is no dataset/ID.jpeg"),
    ];
    let tree = RawTree::new();
    let mut ids = Vec::new();
    for (number, (endings, _)) in cases.iter().enumerate() {
        let id = format!("{number:07}");
        tree.text(
            &format!("dataset/{id}.json"),
            r#"{"genres": ["Drama"], "plot": ["A plot."]}"#,
        );
        for ending in *endings {
            tree.media(&format!("dataset/{id}.{ending}"));
        }
        ids.push(format!("\"{id}\""));
    }
    tree.media("dataset/0000099.PNG");
    tree.text(
        "split.json",
        format!(
            "{{\"train\": [{}], \"dev\": [], \"test\": []}}",
            ids.join(", ")
        ),
    );
    let listing = list(&tree);
    for (number, (endings, image)) in cases.iter().enumerate() {
        let id = format!("{number:07}");
        let found = input_text(&sample(&listing, &id).inputs[0]);
        assert_eq!(found, image.replace("ID", &id), "{endings:?}");
    }
    let unlisted = notes(&listing, NoteKind::Unlisted);
    assert_eq!(
        unlisted,
        ["dataset/0000099.PNG: split.json does not name the movie; not used"]
    );
}
