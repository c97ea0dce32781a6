//! UPMC Food-101: a photograph, and the title or the text of the page that it came from.
//!
//! Four layouts are read, anywhere below the raw root; if there are several, the first of these is
//! used:
//! - Kaggle: `images/{train,test}/<class>/<class>_<n>.jpg` with `texts/{train,test}_titles.csv`
//! - MMBT: the images, with `{train,dev,test}.jsonl`
//! - missing-aware prompts: the images, with `split.json` and `text.json`
//! - lip6: the images, with `texts_txt/<class>/<class>_<n>.txt`; here the image folders are the
//!   annotation
//!
//! The titles files have no header, and the one for training has a quote that is never closed.
//! They are therefore read line by line: a quote ends at the latest before the next line that
//! begins with an image name. Names that end in `.txt` stand for the `.jpg`. An image without a
//! title is kept, without text.

mod json;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::clean;
use crate::error::Error;
use crate::facts;
use crate::finder::Finder;
use crate::list_reader::ListForm;
use crate::tree::{Tree, base_name, join, lines, no_layout, per_split, split_extension};
use crate::types::{Dataset, Info, Input, ListOptions, Listing, NoteKind, Sample, Split};

/// What the raw root should hold, for error messages.
const LAYOUT: &str = "expected images/{train,test}/<class>/<class>_<n>.jpg there with texts/train_titles.csv and \
     texts/test_titles.csv (Kaggle), with texts_txt/<class>/<class>_<n>.txt (lip6), with train.jsonl and \
     test.jsonl (MMBT), or with split.json and text.json (missing-aware prompts)";

/// The form of the Kaggle titles files.
const TITLES: ListForm = ListForm {
    name: "Food-101 titles file",
    expected: "expected an image, its title and its class, as in apple_pie_18.jpg,Apple Pie,apple_pie",
};

/// UPMC Food-101; the module's documentation describes the layouts.
pub(crate) struct Food101 {
    info: Info,
}

impl Food101 {
    pub(crate) fn new() -> Food101 {
        Food101 {
            info: facts::food_101(),
        }
    }
}

impl Dataset for Food101 {
    fn info(&self) -> &Info {
        &self.info
    }

    fn list(&self, raw: &Path, _options: &ListOptions) -> Result<Listing, Error> {
        let tree = Tree::walk(raw, LAYOUT)?;
        let images = Images::find(&tree);
        let mut finder = Finder::new(&tree);
        let annotations = Annotations::find(&tree)?;
        let (rows, layout) = annotations.read(&tree, &images, &mut finder)?;

        let mut used = BTreeSet::new();
        let mut samples: Vec<Sample> = Vec::with_capacity(rows.len());
        for row in rows {
            if !used.insert(row.id.clone()) {
                let message = format!("listed again for {}; the first row is kept", row.split);
                finder.note(NoteKind::Dropped, row.id, message);
                continue;
            }
            let file = images.path(&row);
            let image = finder.input(&row.id, std::slice::from_ref(&file));
            samples.push(Sample {
                inputs: vec![image, row.text],
                source: file,
                id: row.id,
                split: row.split,
                labels: vec![row.class],
                segment: None,
            });
        }
        let without_text = samples.iter().filter(|one| one.inputs[1] == Input::None);
        let without_text = without_text.count();
        if without_text > 0 {
            let message = format!("{without_text} samples have no text; they are kept without");
            finder.note(NoteKind::Choice, "text", message);
        }
        images.note_unlisted(&used, &mut finder);
        if annotations.layouts() > 1 {
            let message = format!("several layouts lie here; {layout} is used");
            finder.note(NoteKind::Choice, "layout", message);
        }
        Ok(Listing {
            layout: layout.to_owned(),
            notes: finder.finish(&samples, LAYOUT)?,
            samples,
        })
    }
}

/// The annotation files of a tree, for each of the four layouts.
struct Annotations<'a> {
    /// Kaggle's `*_titles.csv`.
    titles: BTreeMap<Split, &'a str>,
    /// MMBT's `*.jsonl`.
    jsonl: BTreeMap<Split, &'a str>,
    /// The `split.json` of missing-aware prompts.
    split_json: Option<&'a str>,
    /// lip6's folder `texts_txt`.
    texts_txt: Option<&'a str>,
}

impl<'a> Annotations<'a> {
    fn find(tree: &'a Tree) -> Result<Annotations<'a>, Error> {
        let with_suffix = |suffix: &'static str| {
            per_split(tree, move |file| {
                let stem = base_name(file).strip_suffix(suffix);
                Ok(stem.and_then(Split::from_spelling))
            })
        };
        Ok(Annotations {
            titles: with_suffix("_titles.csv")?,
            jsonl: with_suffix(".jsonl")?,
            split_json: json::find(tree, "split.json"),
            texts_txt: tree.find_dir(|dir| base_name(dir) == "texts_txt"),
        })
    }

    /// The number of layouts that the tree has annotation files of.
    fn layouts(&self) -> usize {
        usize::from(!self.titles.is_empty())
            + usize::from(!self.jsonl.is_empty())
            + usize::from(self.split_json.is_some())
            + usize::from(self.texts_txt.is_some())
    }

    /// Reads the annotation of the first layout there is, and returns its name too.
    fn read(
        &self,
        tree: &Tree,
        images: &Images<'_>,
        finder: &mut Finder<'_>,
    ) -> Result<(Vec<Row>, &'static str), Error> {
        let mut rows = Vec::new();
        if !self.titles.is_empty() {
            note_missing_lists(
                &self.titles,
                &[Split::Train, Split::Test],
                "_titles.csv",
                finder,
            );
            for (&split, file) in &self.titles {
                rows.extend(read_titles(tree, file, split, finder)?);
            }
            Ok((rows, "Kaggle (titles)"))
        } else if !self.jsonl.is_empty() {
            note_missing_lists(&self.jsonl, &Split::ALL, ".jsonl", finder);
            for (&split, file) in &self.jsonl {
                rows.extend(json::read_lines(tree, file, split)?);
            }
            Ok((rows, "MMBT (jsonl)"))
        } else if let Some(lists) = self.split_json {
            let texts = json::find(tree, "text.json");
            if texts.is_none() {
                let message = "no such file; every sample is without text";
                finder.note(NoteKind::MissingList, "text.json", message);
            }
            let rows = json::read_lists(tree, lists, texts)?;
            note_empty_splits(&rows, lists, finder);
            Ok((rows, "missing-aware prompts (split.json)"))
        } else if let Some(texts) = self.texts_txt {
            let rows = read_folders(tree, texts, images);
            note_empty_splits(&rows, &images.base, finder);
            Ok((rows, "lip6 (texts_txt)"))
        } else {
            let problem = "no titles, no jsonl and no texts_txt in it";
            Err(no_layout(tree, problem, LAYOUT))
        }
    }
}

/// Adds a note for each of these splits that has no list, whose name ends in `suffix`.
fn note_missing_lists(
    lists: &BTreeMap<Split, &str>,
    splits: &[Split],
    suffix: &str,
    finder: &mut Finder<'_>,
) {
    for split in splits.iter().filter(|split| !lists.contains_key(split)) {
        let message = format!("no such file; the {split} split is left out");
        // MMBT calls its validation split dev.
        let name = if *split == Split::Val {
            "dev"
        } else {
            split.as_str()
        };
        finder.note(NoteKind::MissingList, format!("{name}{suffix}"), message);
    }
}

/// Adds a note if the one source of all splits has no row for training or for the test.
fn note_empty_splits(rows: &[Row], source: &str, finder: &mut Finder<'_>) {
    for split in [Split::Train, Split::Test] {
        if !rows.is_empty() && rows.iter().all(|row| row.split != split) {
            let message = format!("names no image of the {split} split");
            finder.note(NoteKind::MissingList, source, message);
        }
    }
}

/// An image that an annotation names.
struct Row {
    id: String,
    class: u32,
    split: Split,
    text: Input,
}

/// Parses `<class>_<n>` or `<class>_<n>-<k>`, without extension, and returns the class index.
fn parse_name(stem: &str) -> Option<u32> {
    let (class, number) = stem.rsplit_once('_')?;
    let class = facts::FOOD_101.binary_search(&class).ok()?;
    let (number, copy) = number.split_once('-').unwrap_or((number, "0"));
    let digits = |text: &str| {
        !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit())
    };
    (digits(number) && digits(copy)).then_some(class as u32)
}

/// Parses a file name into its stem and class index; a text file stands for its image.
fn parse_file_name(name: &str) -> Option<(&str, u32)> {
    let (stem, extension) = split_extension(name);
    let known = ["jpg", "jpeg", "txt"]
        .iter()
        .any(|one| extension.eq_ignore_ascii_case(one));
    known.then(|| parse_name(stem).map(|class| (stem, class)))?
}

/// Parses the image name at the beginning of a line of a titles file into its stem and class
/// index, and returns what follows the comma after it.
fn begins_row(line: &str) -> Option<(&str, u32, &str)> {
    let (name, rest) = line.split_once(',')?;
    let name = name.trim().trim_matches('"');
    parse_file_name(base_name(name)).map(|(stem, class)| (stem, class, rest))
}

/// Reads one of Kaggle's titles files. A row is a line that begins with an image name, together
/// with the lines up to the next such one.
fn read_titles(
    tree: &Tree,
    file: &str,
    split: Split,
    finder: &mut Finder<'_>,
) -> Result<Vec<Row>, Error> {
    let text = tree.read(file)?;
    let mut raw: Vec<(&str, u32, String)> = Vec::new();
    for (number, line) in lines(&text) {
        match (begins_row(line), raw.last_mut()) {
            (Some((stem, class, rest)), _) => raw.push((stem, class, rest.to_owned())),
            (None, None) => TITLES.skip_header(tree, file, finder, (number, line))?,
            (None, Some((stem, _, rest))) => {
                let message = format!("line {number} of {file} is taken for the rest of its title");
                finder.note(NoteKind::Repaired, *stem, message);
                rest.push('\n');
                rest.push_str(line);
            }
        }
    }
    let mut rows = Vec::with_capacity(raw.len());
    for (stem, class, rest) in raw {
        let (field, closed) = title_field(&rest, facts::FOOD_101[class as usize]);
        if !closed {
            let message = format!("the quote around its title in {file} is not closed");
            finder.note(NoteKind::Repaired, stem, message);
        }
        rows.push(Row {
            id: stem.to_owned(),
            class,
            split,
            text: clean::title(&field).into(),
        });
    }
    Ok(rows)
}

/// Returns the title in `title,class` without the quotes of CSV, and whether these are balanced.
fn title_field(rest: &str, class: &str) -> (String, bool) {
    let field = match rest.rsplit_once(',') {
        Some((field, last)) if last.trim().trim_matches('"') == class => field,
        _ => rest,
    };
    let field = field.trim();
    let Some(inner) = field.strip_prefix('"') else {
        return (field.to_owned(), true);
    };
    let even = field.matches('"').count() % 2 == 0;
    let inner = if even {
        inner.strip_suffix('"').unwrap_or(inner)
    } else {
        inner
    };
    (inner.replace("\"\"", "\""), even)
}

/// Lists the lip6 layout: one sample per image in a split's folder, with its text in a file.
fn read_folders(tree: &Tree, texts: &str, images: &Images<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (stem, image) in &images.files {
        let split = image.split('/').rev().find_map(Split::from_spelling);
        let (Some(class), Some(split)) = (parse_name(stem), split) else {
            continue;
        };
        let class_name = facts::FOOD_101[class as usize];
        let file = join(texts, &format!("{class_name}/{stem}.txt"));
        // Many pages have no text. The publisher's tree lacks their files, so this copy is
        // complete.
        let text = if tree.may_have(&file) {
            Input::TextFile {
                path: file.into(),
                encoding: None,
            }
        } else {
            Input::None
        };
        rows.push(Row {
            id: (*stem).to_owned(),
            class,
            split,
            text,
        });
    }
    rows.sort_by_key(|row| row.split);
    rows
}

/// The image files of the tree.
struct Images<'a> {
    /// Path by stem, which is unique over splits and classes.
    files: BTreeMap<&'a str, &'a str>,
    /// Images whose names are not those of Food-101.
    unexpected: Vec<&'a str>,
    /// The folder that the splits' folders lie in.
    base: String,
}

impl<'a> Images<'a> {
    fn find(tree: &'a Tree) -> Images<'a> {
        let mut files = BTreeMap::new();
        let mut unexpected = Vec::new();
        for file in tree.files() {
            let (stem, extension) = split_extension(base_name(file));
            if !["jpg", "jpeg"]
                .iter()
                .any(|one| extension.eq_ignore_ascii_case(one))
            {
                continue;
            }
            match parse_name(stem) {
                // Of several, the first by path is kept: the tree's files are sorted.
                Some(_) => {
                    files.entry(stem).or_insert(file);
                }
                None => unexpected.push(file),
            }
        }
        let base = tree
            .find_dir(|dir| base_name(dir) == "images")
            .unwrap_or("images")
            .to_owned();
        Images {
            files,
            unexpected,
            base,
        }
    }

    /// The path of a row's image, or the one that it should have.
    fn path(&self, row: &Row) -> String {
        match self.files.get(row.id.as_str()) {
            Some(file) => (*file).to_owned(),
            None => {
                let class = facts::FOOD_101[row.class as usize];
                join(&self.base, &format!("{}/{class}/{}.jpg", row.split, row.id))
            }
        }
    }

    fn note_unlisted(&self, used: &BTreeSet<String>, finder: &mut Finder<'_>) {
        for (_, file) in self.files.iter().filter(|(stem, _)| !used.contains(**stem)) {
            finder.note(
                NoteKind::Unlisted,
                *file,
                "no annotation names the image; not used",
            );
        }
        for file in &self.unexpected {
            finder.note(
                NoteKind::Unlisted,
                *file,
                "the name is not that of a Food-101 image; not used",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_are_parsed() {
        assert_eq!(parse_name("apple_pie_0"), Some(0));
        assert!(parse_name("pulled_pork_sandwich_492-16").is_some());
        assert!(parse_name("cheese_plate_717-0").is_some());
        for wrong in [
            "apple_pie",
            "apple_pie_",
            "apple_pie_1-",
            "apple_pie_1-2-3",
            "apple_cake_1",
            "apple_pie_x",
            "_1",
        ] {
            assert_eq!(parse_name(wrong), None, "{wrong}");
        }
        assert_eq!(parse_file_name("waffles_9.txt"), Some(("waffles_9", 100)));
        assert_eq!(parse_file_name("waffles_9.html"), None);
    }

    #[test]
    fn csv_quotes_are_removed_from_titles() {
        let cases = [
            ("My Pie,apple_pie", "My Pie", true),
            ("\"[[\"\"Lab's Pie\",apple_pie", "[[\"Lab's Pie", true),
            ("\"[[\"\"never closed,apple_pie", "[[\"never closed", false),
            ("\"a \"\"b\"\"\",apple_pie", "a \"b\"", true),
            ("no class", "no class", true),
            ("two, commas,apple_pie", "two, commas", true),
            (",apple_pie", "", true),
        ];
        for (rest, title, closed) in cases {
            assert_eq!(
                title_field(rest, "apple_pie"),
                (title.to_owned(), closed),
                "{rest}"
            );
        }
    }
}
