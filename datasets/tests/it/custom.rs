//! The user's own dataset.

use std::path::Path;

use datasets::{
    Cell, Custom, Dataset, Input, ListOptions, Listing, Modality, NoteKind, Split, Table, open,
};

use crate::common::{RawTree, check_invariants, counts, input_text, notes, sample};

const TOML: &str = r#"
name = "my-clips"
table = "clips.csv"
[columns]
id = "clip"
label = "animal"
video = "file"
split = "part"
"#;

/// Writes a description and a table into the raw root, and opens the dataset or returns the error.
fn open_custom(tree: &RawTree, toml: &str, table: &str) -> Result<Box<dyn Dataset>, String> {
    tree.text("own.toml", toml).text("clips.csv", table);
    let path = tree.raw().join("own.toml");
    open(path.to_str().unwrap()).map_err(|error| {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    })
}

fn list(tree: &RawTree, dataset: &dyn Dataset) -> Listing {
    let listing = dataset
        .list(&tree.raw(), &ListOptions::default())
        .unwrap_or_else(|error| panic!("{error}"));
    check_invariants(dataset.info(), &listing);
    listing
}

#[test]
fn videos_with_audio_tracks_are_listed() {
    let tree = RawTree::new();
    tree.media("cats/-1.mp4")
        .media("d.mp4")
        .pointer("p.mp4")
        .text("e.mp4", "");
    std::fs::create_dir(tree.raw().join("folder")).unwrap();
    let table = "\u{feff}clip,file,animal,part\r\n\
        dog 1,d.mp4,dog,Training\r\n\
        \"-1\",./cats/-1.mp4,cat,dev\r\n\
        p,p.mp4,cat,test\r\n\
        e,e.mp4,cat,test\r\n\
        gone,gone.mp4,cat,test\r\n\
        folder,folder,cat,train\r\n\
        again,d.mp4,dog,test\r\n\
        none,,dog,train";
    let dataset = open_custom(&tree, TOML, table).unwrap();
    let info = dataset.info();
    assert_eq!(info.name, "my-clips");
    assert_eq!(info.classes, ["cat", "dog"]);
    assert_eq!(info.modalities, [Modality::Audio, Modality::Video].into());
    assert_eq!(info.expected, [Some(3), Some(1), Some(4)]);
    assert_eq!(dataset.default_raw(), Some(tree.raw().as_path()));
    let listing = list(&tree, dataset.as_ref());
    assert_eq!(counts(&listing), [3, 1, 4]);
    let outcomes = [
        ("dog 1", "d.mp4"),
        ("-1", "cats/-1.mp4"),
        ("p", "! p.mp4 is a Git LFS pointer; run `git lfs pull`"),
        ("e", "! e.mp4 holds no bytes"),
        ("gone", "! there is no gone.mp4"),
        ("folder", "! folder cannot be read: a folder, not a file"),
        ("again", "d.mp4"),
        ("none", "none"),
    ];
    for (id, outcome) in outcomes {
        let found = sample(&listing, id);
        assert_eq!(input_text(&found.inputs[0]), outcome, "{id}");
        assert_eq!(input_text(&found.inputs[1]), outcome, "{id}");
    }
    assert_eq!(
        notes(&listing, NoteKind::SplitLeak),
        ["d.mp4: carries samples of train and test"]
    );
}

#[test]
fn images_with_text_and_several_labels_are_listed() {
    let tree = RawTree::new();
    tree.media("a.jpg").media("b.jpg").text("page.txt", "x");
    let toml = r#"
name = "posters"
title = "My posters"
table = "clips.csv"
classes = ["War", "Drama", "Film-Noir"]
[columns]
id = "id"
labels = "genres"
separator = "|"
image = "poster"
text = "plot"
[splits]
test = 0.5
"#;
    let table = "id,genres,poster,plot,unused\n\
        1,Drama|War|Drama,a.jpg,\"two\nlines, one comma\",\n\
        2,,b.jpg,  ,\n\
        3, Film-Noir ,,x,\n\
        4,Drama,b.jpg,y,\n";
    let dataset = open_custom(&tree, toml, table).unwrap();
    let listing = list(&tree, dataset.as_ref());
    assert_eq!(counts(&listing), [2, 0, 2]);
    assert!(dataset.info().multi_label);
    let one = sample(&listing, "1");
    assert_eq!(one.labels, [0, 1]);
    assert_eq!(
        one.inputs[1],
        Input::Text("two lines, one comma".to_owned())
    );
    let two = sample(&listing, "2");
    assert!(two.labels.is_empty());
    assert_eq!(two.inputs[1], Input::None);
    assert_eq!(input_text(&sample(&listing, "3").inputs[0]), "none");
    let choices = notes(&listing, NoteKind::Choice);
    assert_eq!(choices.len(), 2, "{choices:?}");
    assert!(choices[0].contains("the first from line 2 to line 3"));
    assert!(choices[1].contains("no split column"));

    let toml = toml.replace("text = \"plot\"", "text_file = \"plot\"");
    let dataset = open_custom(&tree, &toml, "id,genres,poster,plot\n1,War,,page.txt\n").unwrap();
    let listing = list(&tree, dataset.as_ref());
    assert_eq!(
        input_text(&listing.samples[0].inputs[1]),
        "text of page.txt"
    );
    assert_eq!(listing.samples[0].source, "page.txt");
}

/// A quoted cell may hold line breaks, but a quote that is never closed must not swallow rows.
#[test]
fn unclosed_quotes_lose_no_rows() {
    let toml = TOML
        .replace("video = \"file\"", "image = \"file\"\ntext = \"words\"")
        .replace("clips.csv", "clips.EXT");
    let tree = RawTree::new();
    tree.media("v.jpg");
    // Rows 3 and 7 in a table of 12, which are lines 4 and 8.
    let table = |third: &str, seventh: &str, separator: &str| {
        let mut lines = vec![["clip", "file", "words", "animal", "part"].join(separator)];
        for row in 1..=12 {
            let id = format!("p{row:02}");
            let words = match row {
                3 => third,
                7 => seventh,
                _ => "pizza",
            };
            lines.push([&id, "v.jpg", words, "cat", "train"].join(separator));
        }
        lines.join("\n") + "\n"
    };
    let open = |extension: &str, table: &str| {
        let file = format!("clips.{extension}");
        let toml = toml.replace("clips.EXT", &file);
        tree.text("own.toml", toml).text(&file, table);
        let dataset = open(tree.raw().join("own.toml").to_str().unwrap());
        dataset.map_err(|error| error.to_string())
    };
    let open_error = |extension, table: &str| open(extension, table).err().unwrap();
    for (extension, separator) in [("csv", ","), ("tsv", "\t")] {
        let error = open_error(extension, &table("\"Best pizza ever", "pizza", separator));
        assert!(
            error.contains("line 4: a quote opens here and is never closed"),
            "{error}"
        );
        for seventh in ["\"Best pizza ever", "\"Good, too\""] {
            let error = open_error(extension, &table("\"Best pizza ever", seventh, separator));
            assert!(
                error.contains(
                    "line 4: a quote opens here and is not closed before the next, in line 8"
                ),
                "{error}"
            );
        }
        // The quotes match by chance, and rows 4, 5 and 6 look like a text.
        let table_by_chance = table("\"Best pizza ever", "12\"", separator);
        let dataset = open(extension, &table_by_chance).unwrap();
        let listing = list(&tree, dataset.as_ref());
        assert_eq!(counts(&listing), [8, 0, 0]);
        let lost = format!(
            "clips.{extension}: a quoted cell goes from line 4 to line 8, and 3 of the lines in it look like rows, \
             which are lost; close the quote in line 4"
        );
        assert_eq!(notes(&listing, NoteKind::Dropped), [lost]);
        // Real line breaks are kept, and said.
        let words = "\"two\nlines, or\nthree\"";
        let dataset = open(extension, &table(words, "12\" pizza", separator)).unwrap();
        let listing = list(&tree, dataset.as_ref());
        assert_eq!(counts(&listing), [12, 0, 0]);
        let text = |id| input_text(&sample(&listing, id).inputs[1]);
        assert_eq!(text("p03"), "\"two lines, or three\"");
        assert_eq!(text("p07"), "\"12\" pizza\"");
        assert!(notes(&listing, NoteKind::Dropped).is_empty());
        let said = format!(
            "clips.{extension}: quoted cells that go over several lines: 1, the first from line 4 to line 6"
        );
        assert_eq!(notes(&listing, NoteKind::Choice), [said]);
    }
}

#[test]
fn drawn_split_does_not_depend_on_the_order_of_rows() {
    let tree = RawTree::new();
    tree.media("v.mp4");
    let toml = TOML.replace("split = \"part\"", "[splits]\nval = 0.1\ntest = 0.2");
    let rows: Vec<String> = (0..50).map(|n| format!("id{n},v.mp4,{}", n % 2)).collect();
    let split_of = |rows: &[String]| {
        let table = format!("clip,file,animal\n{}", rows.join("\n"));
        let dataset = open_custom(&tree, &toml, &table).unwrap();
        let listing = list(&tree, dataset.as_ref());
        assert_eq!(counts(&listing), [35, 5, 10]);
        let mut found: Vec<(String, Split)> = listing
            .samples
            .iter()
            .map(|one| (one.id.clone(), one.split))
            .collect();
        found.sort();
        found
    };
    let mut backwards = rows.clone();
    backwards.reverse();
    assert_eq!(split_of(&rows), split_of(&backwards));
}

#[test]
fn parquet_table_is_set_by_the_caller() {
    let tree = RawTree::new();
    tree.media("v.mp4")
        .text("own.toml", TOML.replace(".csv", ".parquet"));
    let mut custom = Custom::open(&tree.raw().join("own.toml")).unwrap();
    assert!(custom.table_is_parquet() && custom.table_path().ends_with("clips.parquet"));
    let unread = custom.list(&tree.raw(), &ListOptions::default());
    assert!(
        unread
            .unwrap_err()
            .to_string()
            .contains("clips.parquet: a Parquet table")
    );
    let cell = |text: &str| Some(Cell::Text(text.to_owned()));
    let mut table = Table {
        columns: ["clip", "file", "animal", "part"]
            .map(str::to_owned)
            .to_vec(),
        rows: vec![vec![cell("a"), cell("v.mp4"), cell("cat"), cell("train")]],
    };
    custom.set_table(table.clone()).unwrap();
    assert_eq!(counts(&list(&tree, &custom)), [1, 0, 0]);
    table.rows.push(vec![cell("b"), None, cell("cat"), None]);
    let error = custom.set_table(table).unwrap_err().to_string();
    assert!(
        error.contains("clips.parquet: row 2: \"\" is no split"),
        "{error}"
    );
}

/// Labels keep their type: lists are lists, and missing values are no classes.
#[test]
fn typed_labels_and_missing_values_are_read_as_what_they_are() {
    let text = |text: &str| Some(Cell::Text(text.to_owned()));
    let list = |words: &[&str]| {
        Some(Cell::List(
            words.iter().map(|&word| word.to_owned()).collect(),
        ))
    };
    let cases = [
        ("a typed list", list(&["cat", "dog"]), "cat dog"),
        (
            "a name with the separator in a list",
            list(&["cat;x"]),
            "cat;x",
        ),
        ("text with separators", text("cat;dog"), "cat dog"),
        ("text with another separator", text("cat|dog"), "cat|dog"),
        (
            "a list printed by Python",
            text("['cat', 'dog']"),
            "cat dog",
        ),
        ("a list printed by NumPy", text("['cat' 'dog']"), "cat dog"),
        ("a list printed as JSON", text("[\"cat;x\"]"), "cat;x"),
        ("null", None, ""),
        ("an empty list", list(&[]), ""),
        ("a printed empty list", text("[]"), ""),
        ("pandas' NaN", text("nan"), ""),
        ("a missing value in a list", text("cat;N/A"), "cat"),
        ("a class of speech corpora", text("[noise]"), "[noise]"),
    ];
    let tree = RawTree::new();
    tree.media("v.mp4").text(
        "own.toml",
        TOML.replace(".csv", ".parquet").replace(
            "label = \"animal\"",
            "labels = \"animal\"\nseparator = \";\"",
        ),
    );
    for (case, cell, expected) in cases {
        let mut custom = Custom::open(&tree.raw().join("own.toml")).unwrap();
        let row = vec![text("a"), text("v.mp4"), cell, text("train")];
        let columns = ["clip", "file", "animal", "part"];
        custom
            .set_table(Table {
                columns: columns.map(str::to_owned).to_vec(),
                rows: vec![row],
            })
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        let listing = custom.list(&tree.raw(), &ListOptions::default()).unwrap();
        let labels = listing.samples[0].labels.iter();
        let names: Vec<&str> = labels
            .map(|&one| custom.info().classes[one as usize].as_str())
            .collect();
        assert_eq!(names.join(" "), expected, "{case}");
        assert_eq!(custom.info().classes, names, "{case}");
    }
    // A list belongs to labels alone.
    let mut custom = Custom::open(&tree.raw().join("own.toml")).unwrap();
    let row = vec![
        text("a"),
        list(&["v.mp4", "w.mp4"]),
        text("cat"),
        text("train"),
    ];
    let columns = ["clip", "file", "animal", "part"]
        .map(str::to_owned)
        .to_vec();
    let error = custom
        .set_table(Table {
            columns,
            rows: vec![row],
        })
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("row 1: the column \"file\" holds a list of 2 values"),
        "{error}"
    );
    // A class that looks like a missing value can be named.
    let toml = TOML.replace("[columns]", "classes = [\"None\", \"cat\"]\n[columns]");
    let table = "clip,file,animal,part\na,v.mp4,None,train\nb,NaN,cat,train\n";
    let dataset = open_custom(&tree, &toml, table).unwrap();
    let listing = self::list(&tree, dataset.as_ref());
    assert_eq!(sample(&listing, "a").labels, [0]);
    assert_eq!(sample(&listing, "b").inputs[1], Input::None);
    assert_eq!(
        notes(&listing, NoteKind::Choice),
        ["clips.csv: \"NaN\" in the column \"file\" is read as a missing value, in 1 rows"]
    );
}

/// Tables and text files are decoded in the same way, and never with a replacement character.
#[test]
fn tables_and_text_files_are_decoded_alike() {
    let toml = TOML.replace(
        "video = \"file\"",
        "image = \"photo\"\ntext_file = \"file\"",
    );
    let table = |name: &[u8]| {
        [
            b"clip,photo,file,animal,part\na,,page.txt,",
            name,
            b",train\n",
        ]
        .concat()
    };
    let cases: [(&str, &[u8], Result<&str, &str>); 5] = [
        ("", "caf\u{e9}".as_bytes(), Ok("café")),
        (
            "",
            b"caf\xe9",
            Err(
                "line 2: a byte that is no UTF-8; save it as UTF-8, or name its encoding in the .toml",
            ),
        ),
        ("latin1", b"caf\xe9", Ok("café")),
        ("windows-1252", "caf\u{e9}".as_bytes(), Ok("café")),
        ("cp1251", b"\xef\xe8\xf0", Ok("пир")),
    ];
    for (encoding, name, expected) in cases {
        let tree = RawTree::new();
        tree.text("page.txt", [b"x\n", name].concat());
        let named = if encoding.is_empty() {
            String::new()
        } else {
            format!("encoding = \"{encoding}\"\n")
        };
        tree.text("own.toml", named + &toml)
            .text("clips.csv", table(name));
        let dataset = open(tree.raw().join("own.toml").to_str().unwrap());
        let dataset = dataset.map_err(|error| error.to_string());
        let label = (!encoding.is_empty()).then_some(encoding);
        let page = datasets::read_text_file(&tree.raw().join("page.txt"), label);
        match expected {
            Ok(word) => {
                let dataset = dataset.unwrap();
                assert_eq!(dataset.info().classes, [word], "{encoding}");
                assert_eq!(page.unwrap().unwrap(), format!("x {word}"), "{encoding}");
                let listing = list(&tree, dataset.as_ref());
                let input = Input::TextFile {
                    path: "page.txt".into(),
                    encoding: label.map(str::to_owned),
                };
                assert_eq!(listing.samples[0].inputs[1], input);
            }
            Err(part) => {
                let error = dataset.err().unwrap();
                assert!(
                    error.contains("clips.csv, ") && error.contains(part),
                    "{error}"
                );
                let error = page.unwrap_err().to_string();
                assert!(
                    error.contains("page.txt, ") && error.contains(part),
                    "{error}"
                );
            }
        }
    }
}

/// Every form gives the same samples, whatever the name says of the compression.
#[test]
fn tables_of_every_form_are_listed_alike() {
    let csv = "clip,file,animal,part\na,v.mp4,cat,train\nb,,dog,test\n";
    let tsv = csv.replace(',', "\t");
    let jsonl = "{\"clip\": \"a\", \"file\": \"v.mp4\", \"animal\": \"cat\", \"part\": \"train\"}\n\n\
                 {\"clip\": \"b\", \"animal\": \"dog\", \"part\": \"test\", \"more\": [1]}\n";
    let cases: [(&str, Vec<u8>); 9] = [
        ("clips.csv", csv.into()),
        ("clips.csv.gz", gzip(csv)),
        ("clips.csv", gzip(csv)),
        ("clips.tsv", tsv.clone().into()),
        ("clips.TSV.gz", gzip(&tsv)),
        ("clips.jsonl", jsonl.into()),
        ("clips.ndjson", jsonl.into()),
        ("clips.jsonl.gz", gzip(jsonl)),
        (
            "clips.jsonl.gz",
            [gzip(&jsonl[..40]), gzip(&jsonl[40..])].concat(),
        ),
    ];
    for (name, table) in cases {
        let tree = RawTree::new();
        tree.media("v.mp4").text(name, table);
        tree.text("own.toml", TOML.replace("clips.csv", name));
        let dataset = open(tree.raw().join("own.toml").to_str().unwrap()).unwrap();
        let listing = list(&tree, dataset.as_ref());
        let found = listing.samples.iter().map(|one| {
            let class = &dataset.info().classes[one.labels[0] as usize];
            format!(
                "{} {} {class} {}",
                one.id,
                one.split,
                input_text(&one.inputs[1])
            )
        });
        let found: Vec<String> = found.collect();
        assert_eq!(found, ["a train cat v.mp4", "b test dog none"], "{name}");
    }
}

/// Compresses as `gzip` does, without making anything smaller.
fn gzip(text: &str) -> Vec<u8> {
    let mut bytes = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01".to_vec();
    let length = text.len() as u16;
    bytes.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
    bytes.extend(text.bytes());
    let sum = !text.bytes().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg())
        })
    });
    bytes.extend(sum.to_le_bytes());
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes
}

/// Forms that are not read are named by the end of their name, or by their content.
#[test]
fn tables_of_other_forms_are_named() {
    let save = "is not read; save the table as .csv, .tsv, .jsonl or .parquet";
    let cut = gzip(&"a,b\n".repeat(100));
    let cases: [(&str, &[u8], &str); 18] = [
        ("clips.xlsx", b"PK\x03\x04", "an Excel workbook is not read"),
        ("clips.XLS", b"x", "an Excel workbook is not read"),
        ("clips.ods", b"PK\x03\x04", "an OpenDocument spreadsheet"),
        ("clips.json", b"[]", "a table in JSON"),
        ("clips.feather", b"ARROW1\0\0", "a Feather file"),
        ("clips.arrow", b"ARROW1\0\0", "an Arrow file"),
        ("clips.pkl", b"\x80\x04", "a pickled table"),
        ("clips.zip", b"PK\x03\x04", "a ZIP archive"),
        ("clips.csv.zip", b"PK\x03\x04", "a ZIP archive"),
        (
            "clips.csv.zst",
            b"\x28\xb5\x2f\xfd",
            "a table compressed by zstd",
        ),
        (
            "clips.csv",
            b"PK\x03\x04....",
            "an Excel workbook or a ZIP archive",
        ),
        (
            "clips.tsv",
            b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1",
            "an Excel workbook",
        ),
        ("clips.csv", b"ARROW1\0\0", "an Arrow or Feather file"),
        ("clips.csv", b"SQLite format 3\0", "a database"),
        (
            "clips.csv",
            b"PAR1\x15",
            "a Parquet table under another name is not read; name it .parquet",
        ),
        (
            "clips.csv",
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer is not read; run git lfs pull",
        ),
        (
            "clips.csv.gz",
            &cut[..cut.len() - 30],
            "its gzip data cannot be decompressed",
        ),
        ("clips.jsonl", b"{}\n", "no column is called"),
    ];
    for (name, table, expected) in cases {
        let tree = RawTree::new();
        tree.text(name, table);
        tree.text("own.toml", TOML.replace("clips.csv", name));
        let error = open(tree.raw().join("own.toml").to_str().unwrap())
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(error.contains(&format!("{name}: {expected}")), "{error}");
        let pointed = expected.contains(';') || !expected.starts_with("a");
        assert!(pointed || error.contains(save), "{error}");
    }
}

/// Images may lie in a table, other files and texts may not.
#[test]
fn files_in_a_table_are_inputs_of_images_alone() {
    let toml = TOML
        .replace(".csv", ".parquet")
        .replace("video = \"file\"", "image = \"photo\"\ntext = \"file\"");
    let text = |text: &str| Some(Cell::Text(text.to_owned()));
    let tree = RawTree::new();
    tree.media("v.jpg").text("own.toml", &toml);
    let columns = ["clip", "photo", "file", "animal", "part"].map(str::to_owned);
    let rows = [
        [
            text("a"),
            text("v.jpg"),
            text("x"),
            text("cat"),
            text("test"),
        ],
        [
            text("b"),
            Some(Cell::File),
            text("y"),
            text("dog"),
            text("test"),
        ],
        [
            text("c"),
            Some(Cell::File),
            None,
            text("dog"),
            text("train"),
        ],
        [text("d"), None, text("z"), text("dog"), text("train")],
    ];
    let mut table = Table {
        columns: columns.to_vec(),
        rows: rows.map(|row| row.to_vec()).to_vec(),
    };
    let mut custom = Custom::open(&tree.raw().join("own.toml")).unwrap();
    assert_eq!(
        custom.columns(),
        ["clip", "animal", "part", "photo", "file"]
    );
    custom.set_table(table.clone()).unwrap();
    let listing = list(&tree, &custom);
    let of = |id| input_text(&sample(&listing, id).inputs[0]);
    assert_eq!(
        ["a", "b", "c", "d"].map(of),
        ["v.jpg", "photo[1]", "photo[2]", "none"]
    );
    assert_eq!(sample(&listing, "c").source, "clips.parquet, row 3");
    // The path of the table does not depend on where the tree lies.
    std::fs::create_dir_all(tree.raw().join("raw/deep")).unwrap();
    let above = tree.raw().join("..");
    let name = tree.raw().file_name().unwrap().to_str().unwrap().to_owned();
    for (raw, expected) in [
        (tree.raw(), "clips.parquet".to_owned()),
        (
            tree.raw().join("raw/deep"),
            "../../clips.parquet".to_owned(),
        ),
        (above, format!("{name}/clips.parquet")),
    ] {
        let listing = custom.list(&raw, &ListOptions::default()).unwrap();
        let Input::TableCell { table, .. } = &sample(&listing, "c").inputs[0] else {
            panic!()
        };
        assert_eq!(table.to_str(), Some(expected.as_str()));
        assert_eq!(sample(&listing, "c").source, "clips.parquet, row 3");
    }
    for (column, expected) in [
        (
            0,
            "row 1: the column \"clip\" holds bytes that are no UTF-8 text; write texts",
        ),
        (
            2,
            "row 1: the column \"file\" holds bytes that are no UTF-8 text",
        ),
        (
            3,
            "row 1: the column \"animal\" holds bytes that are no UTF-8 text",
        ),
    ] {
        let whole = table.rows[0][column].replace(Cell::File);
        let error = custom.set_table(table.clone()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        table.rows[0][column] = whole;
    }
    tree.text("own.toml", TOML.replace(".csv", ".parquet"));
    table.rows[0][2] = Some(Cell::File);
    let mut custom = Custom::open(&tree.raw().join("own.toml")).unwrap();
    let error = custom.set_table(table).unwrap_err().to_string();
    let expected =
        "row 1: the column \"file\" holds video files; write each to a file, and its path";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn common_slips_in_tables_get_pointed_advice() {
    let row = "a,v.mp4,cat,train";
    let cases = [
        (
            "clips.csv",
            format!("clip;file;animal;part\n{}\n", row.replace(',', ";")),
            "separated by semicolons",
        ),
        (
            "clips.csv",
            format!("clip\tfile\tanimal\tpart\n{}\n", row.replace(',', "\t")),
            "separated by tabs (name it .tsv)",
        ),
        (
            "clips.csv",
            format!("CLIP,FILE,ANIMAL,PART\n{row}\n"),
            "did you mean \"CLIP\"? upper and lower case differ",
        ),
    ];
    for (file, table, expected) in cases {
        let tree = RawTree::new();
        tree.text(file, table);
        tree.text("own.toml", TOML.replace("clips.csv", file));
        let error = open(tree.raw().join("own.toml").to_str().unwrap())
            .err()
            .unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let tree = RawTree::new();
    tree.media("v.mp4");
    // The two forms of an accented letter: one character, or a letter and a combining accent.
    let names = ["Cat", "cat", "1", "1.0", "dog", "caf\u{e9}", "cafe\u{301}"];
    let rows = names
        .iter()
        .enumerate()
        .map(|(id, name)| format!("{id},v.mp4,{name},train\n"));
    let table = format!("clip,file,animal,part\n{}", rows.collect::<String>());
    let dataset = open_custom(&tree, TOML, &table).unwrap();
    let said = notes(&list(&tree, dataset.as_ref()), NoteKind::Choice);
    let alike = |one: &str, other: &str| {
        format!(
            "clips.csv: \"{one}\" and \"{other}\" are two classes; write them alike if they are one"
        )
    };
    assert_eq!(
        said,
        [
            alike("1", "1.0"),
            alike("cafe\u{301}", "caf\u{e9}"),
            alike("Cat", "cat")
        ]
    );
}

#[test]
fn mistakes_in_the_description_are_errors() {
    let table = "clip,file,animal,part\na,v.mp4,cat,train\n";
    let cases = [
        (
            "name = \"my-clips\"",
            "nam = \"x\"",
            "unknown key `nam` (did you mean \"name\"?)",
        ),
        (
            "video = ",
            "vidio = ",
            "unknown key `columns.vidio` (did you mean \"video\"?)",
        ),
        (
            "name = \"my-clips\"",
            "name = \"a/b\"",
            "name = \"a/b\" cannot name folders",
        ),
        (
            "name = \"my-clips\"",
            "name = \"ave\"",
            "is that of a dataset the tool knows",
        ),
        ("name = \"my-clips\"", "name = 3", "`name` is no text"),
        (
            "[columns]",
            "encoding = \"latin-99\"\n[columns]",
            "encoding = \"latin-99\" is none that is known",
        ),
        ("name = \"my-clips\"", "", "`name` is not given"),
        ("name = \"my-clips\"", "name = ", "line 2 is no TOML"),
        ("clips.csv", "clipz.csv", "clipz.csv: "),
        (
            "id = \"clip\"",
            "id = \"clips\"",
            "no column is called \"clips\" (did you mean \"clip\"?)",
        ),
        ("label = ", "labels = ", "`labels` without a separator"),
        ("video = \"file\"", "", "[columns] names no input"),
        (
            "video = \"file\"",
            "image = \"file\"\naudio = \"file\"\ntext = \"file\"",
            "[columns] names 3 inputs; name one or two",
        ),
        (
            "video = \"file\"",
            "image = \"file\"\naudio = true",
            "and there is no `video`",
        ),
        (
            "video = \"file\"",
            "image_a = \"file\"",
            "one of `image_a` and `image_b` without the other",
        ),
        (
            "video = \"file\"",
            "text_b = \"file\"\ntext_file_b = \"file\"",
            "both `text_b` and `text_file_b`",
        ),
        (
            "split = \"part\"",
            "split = \"part\"\n[splits]\ntest = 0.1",
            "both a split column and [splits]",
        ),
        (
            "split = \"part\"",
            "[splits]\ntest = 1.0",
            "leave nothing for training",
        ),
        (
            "split = \"part\"",
            "[splits]\ntests = 0.1",
            "unknown key `splits.tests`",
        ),
        (
            "[columns]",
            "classes = [\"dog\"]\n[columns]",
            "clips.csv, line 2: \"cat\" is none of the classes",
        ),
        (
            "[columns]",
            "classes = [\"dog\", \"dog\"]\n[columns]",
            "listed twice",
        ),
        (
            "[columns]",
            "classes = 3\n[columns]",
            "`classes` is no list",
        ),
    ];
    for (from, to, expected) in cases {
        let tree = RawTree::new();
        let toml = TOML.replace(from, to);
        assert_ne!(toml, TOML);
        let error = open_custom(&tree, &toml, table).err().unwrap();
        assert!(error.contains(expected), "{to}: {error}");
    }
    let error = open("no-such.toml").err().unwrap().to_string();
    assert!(error.starts_with("no-such.toml: "), "{error}");
}

#[test]
fn mistakes_in_the_table_are_errors_with_their_line() {
    let long = format!("{},v.mp4,cat,train", "x".repeat(201));
    let cases = [
        ("../a,v.mp4,cat,train", "the id holds a slash"),
        ("/a,v.mp4,cat,train", "the id holds a slash"),
        ("..,v.mp4,cat,train", "folder's name"),
        ("\"a\nb\",v.mp4,cat,train", "the id holds a line break"),
        (long.as_str(), "the id has 201 bytes"),
        (" ,v.mp4,cat,train", "the id is empty"),
        (
            "ok,v.mp4,cat,train",
            "the id \"ok\" stands in line 2 already",
        ),
        ("a,../v.mp4,cat,train", "leaves the raw folder"),
        ("a,x/../../v.mp4,cat,train", "leaves the raw folder"),
        ("a,/etc/passwd,cat,train", "leaves the raw folder"),
        ("a,\"v\n.mp4\",cat,train", "control character"),
        ("a,v.mp4,,train", "the label is empty"),
        (
            "a,v.mp4,nan,train",
            "the label \"nan\" means that the value is missing",
        ),
        ("a,v.mp4, N/A ,train", "the label \"N/A\" means that"),
        ("a,v.mp4,[],train", "the label is empty"),
        (
            "a,v.mp4,\"['cat', 'dog']\",train",
            "2 labels where a sample has one",
        ),
        ("a,v.mp4,['cat,train", "cat\" is no complete list"),
        ("a,v.mp4,cat,", "\"\" is no split"),
        ("a,v.mp4,cat,holdout", "\"holdout\" is no split"),
        ("a,v.mp4,cat", "3 fields where the header has 4"),
    ];
    for (row, expected) in cases {
        let tree = RawTree::new();
        let table = format!("clip,file,animal,part\nok,v.mp4,cat,train\n{row}\n");
        let error = open_custom(&tree, TOML, &table).err().unwrap();
        assert!(
            error.contains(expected) && error.contains("clips.csv, line 3: "),
            "{row}: {error}"
        );
    }
    let tree = RawTree::new();
    let error = open_custom(&tree, TOML, "clip,file,animal,part\n")
        .err()
        .unwrap();
    assert!(error.contains("the table has no rows"), "{error}");
    let error = open_custom(&tree, TOML, "clip,file,file,animal,part\na,b,c,d,train\n")
        .err()
        .unwrap();
    assert!(error.contains("two columns are called \"file\""), "{error}");
    // No file of the table exists.
    let dataset = open_custom(&tree, TOML, "clip,file,animal,part\na,v.mp4,cat,train\n").unwrap();
    let error = dataset
        .list(&tree.raw(), &ListOptions::default())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("not one of the 1 annotated samples has a file here")
    );
    let error = dataset
        .list(Path::new("/no/such"), &ListOptions::default())
        .unwrap_err();
    assert!(error.to_string().contains("/no/such: no such folder"));
}

/// What people write for `photos/p1.jpg` and its neighbours, and what is suggested.
#[test]
fn files_are_suggested_whose_names_are_nearly_those_of_the_table() {
    let files = [
        "photos/p1.jpg",
        "photos/caf\u{e9}.jpg",
        "photos/nai\u{308}ve.jpg",
        "photos/both.jpg",
        "photos/both.txt",
        "photos/text.txt",
        "More Photos/deep/p9.JPG",
    ];
    let cases = [
        ("photos\\p1.jpg", Some("photos/p1.jpg")),
        ("C:\\data\\photos\\p1.jpg", Some("photos/p1.jpg")),
        ("Photos/P1.JPG", Some("photos/p1.jpg")),
        ("photos/cafe\u{301}.jpg", Some("photos/caf\u{e9}.jpg")),
        ("photos/na\u{ef}ve.jpg", Some("photos/nai\u{308}ve.jpg")),
        ("raw/photos/p1.jpg", Some("photos/p1.jpg")),
        ("photos/p1", Some("photos/p1.jpg")),
        ("photos/p1.png", Some("photos/p1.jpg")),
        ("p1.jpg", Some("photos/p1.jpg")),
        ("more photos\\deep\\p9", Some("More Photos/deep/p9.JPG")),
        ("photos/both", Some("photos/both.jpg or photos/both.txt")),
        // A text is no picture, and another number is another picture.
        ("photos/text.jpg", None),
        ("photos/p2.jpg", None),
        ("photos", None),
    ];
    let tree = RawTree::new();
    tree.media("v.mp4");
    for file in files {
        tree.media(file);
    }
    let mut table = "clip,file,animal,part\ngood,v.mp4,cat,train\n".to_owned();
    for (number, (cell, _)) in cases.iter().enumerate() {
        table += &format!("c{number},{cell},cat,train\n");
    }
    let dataset = open_custom(&tree, TOML, &table).unwrap();
    let listing = list(&tree, dataset.as_ref());
    for (number, (cell, meant)) in cases.iter().enumerate() {
        let expected = match meant {
            Some(meant) => format!("! there is no {cell}; did you mean {meant}?"),
            None if *cell == "photos" => "! photos cannot be read: a folder, not a file".to_owned(),
            None => format!("! there is no {cell}"),
        };
        let found = &sample(&listing, &format!("c{number}")).inputs[1];
        assert_eq!(input_text(found), expected);
    }
    // Where every path is wrong, the error says for one what it may mean.
    let table = "clip,file,animal,part\na,photos\\p1.jpg,cat,train\n";
    let dataset = open_custom(&tree, TOML, table).unwrap();
    let error = dataset
        .list(&tree.raw(), &ListOptions::default())
        .unwrap_err();
    let hint = "(there is no photos\\p1.jpg; did you mean photos/p1.jpg?)";
    assert!(error.to_string().contains(hint), "{error}");
}
