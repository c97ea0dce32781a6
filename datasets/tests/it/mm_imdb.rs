//! MM-IMDb.

use datasets::{ListOptions, Listing, NoteKind, Plot};

use crate::common::{self, Stage, annotations, counts, notes, sample, words};

fn list_with(stage: &Stage, plot: Plot) -> Listing {
    common::list("mm-imdb", stage, &ListOptions { plot })
}

fn list(stage: &Stage) -> Listing {
    list_with(stage, Plot::Longest)
}

fn refused(stage: &Stage) -> String {
    common::refused("mm-imdb", stage)
}

#[test]
fn the_real_split_file_gives_the_published_counts() {
    let Some(real) = annotations("mm-imdb") else {
        return;
    };
    let stage = Stage::new();
    stage.copy(&real.join("split.json"), "mmimdb/split.json");
    stage.text(
        "json",
        r#"{"genres": ["Sci-Fi", "Drama", "News"], "plot": ["A plot."]}"#,
    );
    let text = std::fs::read_to_string(real.join("split.json")).unwrap();
    std::fs::create_dir_all(stage.raw().join("mmimdb/dataset")).unwrap();
    for id in text
        .split('"')
        .filter(|one| one.len() == 7 && one.parse::<u32>().is_ok())
    {
        let json = stage.raw().join(format!("mmimdb/dataset/{id}.json"));
        std::fs::hard_link(stage.raw().join("json"), json).unwrap();
        stage.media(&format!("mmimdb/dataset/{id}.jpeg"));
    }
    let listing = list(&stage);
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
fn every_kind_of_dirt_comes_out_as_it_should() {
    let stage = Stage::new();
    stage.text(
        "split.json",
        r#"{"train": ["0000001", "0000002", "0000003", "0000004", "0000005", "0000006", "0000007"],
            "dev": ["0000008"], "test": [9, "0000010"]}"#,
    );
    let movie =
        |genres: &str, rest: &str| format!("{{\"genres\": [{genres}]{rest}, \"year\": 1893}}");
    let plots =
        r#", "plot": ["Short.", "Caf\u00e9 \u2013 the longer one.\n"], "plot outline": "Outline.""#;
    for n in [1, 2, 3, 6, 7, 8, 9, 10] {
        stage.media(&format!("images/{n:07}.jpeg"));
    }
    stage
        .text(
            "labels/0000001.json",
            movie("\"War\", \"Drama\", \"War\"", plots),
        )
        .text("labels/0000002.json", movie("\"News\", \"Adult\"", ""))
        .text(
            "labels/0000003.json",
            movie("\"Drama\", \"Dramedy\"", ", \"plot\": []"),
        )
        // No poster; a poster of no bytes.
        .text("labels/0000004.json", movie("\"Short\"", plots))
        .text("labels/0000005.json", movie("\"Short\"", plots))
        .text("images/0000005.jpeg", "")
        // No json; a broken one; one without genres; an empty one; a pointer.
        .text("labels/0000007.json", "{\"genres\": [")
        .text("labels/0000008.json", "{\"plot\": [\"x\"]}")
        .text("labels/0000009.json", "")
        .pointer("labels/0000010.json")
        .media("images/0000099.jpeg");
    let listing = list(&stage);
    assert_eq!(counts(&listing), [7, 1, 2]);
    let table: [(&str, &[u32], &str, &str); 10] = [
        (
            "0000001",
            &[0, 14],
            "images/0000001.jpeg",
            "\"Café – the longer one.\"",
        ),
        ("0000002", &[], "images/0000002.jpeg", "none"),
        ("0000003", &[0], "images/0000003.jpeg", "none"),
        (
            "0000004",
            &[21],
            "! there is no images/0000004.jpeg",
            "\"Café – the longer one.\"",
        ),
        (
            "0000005",
            &[21],
            "! images/0000005.jpeg holds no bytes",
            "\"Café – the longer one.\"",
        ),
        ("0000006", &[], "there is no labels/0000006.json", ""),
        ("0000007", &[], "labels/0000007.json is no movie's json", ""),
        (
            "0000008",
            &[],
            "labels/0000008.json has no list \"genres\"",
            "",
        ),
        ("0000009", &[], "labels/0000009.json holds no bytes", ""),
        (
            "0000010",
            &[],
            "labels/0000010.json is a Git LFS pointer",
            "",
        ),
    ];
    for (id, labels, image, text) in table {
        let found = sample(&listing, id);
        assert_eq!(found.labels, labels, "{id}");
        let [said_image, said_text] = [words(&found.inputs[0]), words(&found.inputs[1])];
        if text.is_empty() {
            // Labels unknown: nothing of it can be used.
            let start = format!("! its genres are unknown: {image}");
            assert!(
                said_image.starts_with(&start) && said_text.starts_with(&start),
                "{said_image}"
            );
        } else {
            assert_eq!(
                (said_image.as_str(), said_text.as_str()),
                (image, text),
                "{id}"
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
    let text = |plot| words(&sample(&list_with(&stage, plot), "0000001").inputs[1]);
    assert_eq!(text(Plot::First), "\"Short.\"");
    assert_eq!(text(Plot::Outline), "\"Outline.\"");
    assert_eq!(text(Plot::All), "\"Short. Café – the longer one.\"");
}

#[test]
fn what_cannot_work_is_refused_in_one_line() {
    let stage = Stage::new();
    stage
        .sized("multimodal_imdb.hdf5", 4096)
        .sized("metadata.npy", 9);
    let text = refused(&stage);
    assert!(
        text.contains("multimodal_imdb.hdf5: ") && text.contains("mmimdb.tar.gz"),
        "{text}"
    );
    stage.media("dataset/0000001.jpeg");
    assert!(refused(&stage).contains("split.json: no such file"));
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
        stage.text("split.json", split);
        let text = refused(&stage);
        assert!(text.contains(expected), "{text}");
    }
}
