//! UPMC Food-101: a photograph and the title (or the text) of the page it came from.
//!
//! Four layouts, anywhere below the raw root; where several lie there, the first of these is used:
//! - Kaggle: `images/{train,test}/<class>/<class>_<n>.jpg` with `texts/{train,test}_titles.csv`
//! - MMBT: the images, with `{train,dev,test}.jsonl`
//! - missing-aware prompts: the images, with `split.json` and `text.json`
//! - lip6: the images, with `texts_txt/<class>/<class>_<n>.txt`; here the image folders are the annotation
//!
//! The titles files have no header, and in the training one a quote is never closed: they are read line by line, a
//! quote never reaches into the next line that begins with an image name. `.txt` names in them mean `.jpg`.
//! An image without a title stays, without text.

mod json;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::clean;
use crate::error::{Error, shorten};
use crate::facts;
use crate::finder::Finder;
use crate::tree::{Tree, base_name, join, lines, no_layout, per_split, split_extension};
use crate::types::{Dataset, Info, Input, ListOptions, Listing, NoteKind, Sample, Split};

/// What should lie in the raw root.
const LAYOUT: &str = "expected images/{train,test}/<class>/<class>_<n>.jpg there with texts/train_titles.csv and \
     texts/test_titles.csv (Kaggle), with texts_txt/<class>/<class>_<n>.txt (lip6), with train.jsonl and \
     test.jsonl (MMBT), or with split.json and text.json (missing-aware prompts)";

/// See the module comment.
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
        let titles = per_split(&tree, |file| {
            let stem = base_name(file).strip_suffix("_titles.csv");
            Ok(stem.and_then(Split::from_spelling))
        })?;
        let jsonl = per_split(&tree, |file| {
            let stem = base_name(file).strip_suffix(".jsonl");
            Ok(stem.and_then(Split::from_spelling))
        })?;
        let lists = json::find(&tree, "split.json");
        let pages = tree.find_dir(|dir| base_name(dir) == "texts_txt");

        let (rows, layout) = if !titles.is_empty() {
            for split in [Split::Train, Split::Test] {
                if !titles.contains_key(&split) {
                    let message = format!("no such file; the {split} split is left out");
                    finder.note(NoteKind::Missing, format!("{split}_titles.csv"), message);
                }
            }
            let rows = read_all(&titles, |file, split| {
                read_titles(&tree, file, split, &mut finder)
            })?;
            (rows, "Kaggle (titles)")
        } else if !jsonl.is_empty() {
            let rows = read_all(&jsonl, |file, split| json::read_lines(&tree, file, split))?;
            (rows, "MMBT (jsonl)")
        } else if let Some(lists) = lists {
            let rows = json::read_lists(&tree, lists, json::find(&tree, "text.json"))?;
            (rows, "missing-aware prompts (split.json)")
        } else if let Some(pages) = pages {
            (read_folders(&tree, pages, &images), "lip6 (texts_txt)")
        } else {
            return Err(no_layout(
                &tree,
                "no titles, no jsonl and no texts_txt in it",
                LAYOUT,
            ));
        };

        let mut used = BTreeSet::new();
        let mut samples: Vec<Sample> = Vec::with_capacity(rows.len());
        for row in rows {
            if !used.insert(row.id.clone()) {
                let message = format!("listed again for {}; the first row is kept", row.split);
                finder.note(NoteKind::Dropped, row.id, message);
                continue;
            }
            let file = images.path(&row);
            let image = finder.input(&row.id, std::slice::from_ref(&file))?;
            samples.push(Sample {
                inputs: [image, row.text],
                source: file,
                id: row.id,
                split: row.split,
                labels: vec![row.class],
                segment: None,
            });
        }
        let wordless = samples.iter().filter(|one| one.inputs[1] == Input::NONE);
        let wordless = wordless.count();
        if wordless > 0 {
            let message = format!("{wordless} samples have no text; they are kept without");
            finder.note(NoteKind::Choice, "text", message);
        }
        images.note_unlisted(&used, &mut finder);
        let there = [
            !titles.is_empty(),
            !jsonl.is_empty(),
            lists.is_some(),
            pages.is_some(),
        ];
        if there.iter().filter(|&&one| one).count() > 1 {
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

/// An image that some annotation names.
struct Row {
    id: String,
    class: u32,
    split: Split,
    text: Input,
}

/// `<class>_<n>` or `<class>_<n>-<k>` without extension: the index of the class.
fn parse_name(stem: &str) -> Option<u32> {
    let (class, number) = stem.rsplit_once('_')?;
    let class = facts::FOOD_101.binary_search(&class).ok()?;
    let (number, copy) = number.split_once('-').unwrap_or((number, "0"));
    let digits = |text: &str| {
        !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit())
    };
    (digits(number) && digits(copy)).then_some(class as u32)
}

/// The same for a file name with its extension; a text file stands for its image.
fn parse_file_name(name: &str) -> Option<(&str, u32)> {
    let (stem, extension) = split_extension(name);
    let known = ["jpg", "jpeg", "txt"]
        .iter()
        .any(|one| extension.eq_ignore_ascii_case(one));
    known.then(|| parse_name(stem).map(|class| (stem, class)))?
}

fn read_all(
    lists: &BTreeMap<Split, &str>,
    mut read: impl FnMut(&str, Split) -> Result<Vec<Row>, Error>,
) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (&split, file) in lists {
        rows.extend(read(file, split)?);
    }
    Ok(rows)
}

/// The image name with which a row of a titles file begins, and what follows the comma behind it.
fn begins_row(line: &str) -> Option<(&str, u32, &str)> {
    let (name, rest) = line.split_once(',')?;
    let name = name.trim().trim_matches('"');
    parse_file_name(base_name(name)).map(|(stem, class)| (stem, class, rest))
}

fn read_titles(
    tree: &Tree,
    file: &str,
    split: Split,
    finder: &mut Finder<'_>,
) -> Result<Vec<Row>, Error> {
    let text = tree.read(file)?;
    // A row is a line that begins with an image name, with the lines up to the next such one.
    let mut raw: Vec<(&str, u32, String)> = Vec::new();
    for (number, line) in lines(&text) {
        match (begins_row(line), raw.last_mut()) {
            (Some((stem, class, rest)), _) => raw.push((stem, class, rest.to_owned())),
            (None, None) if number == 1 => {
                finder.note(
                    NoteKind::Repaired,
                    file,
                    "the first line is taken for a header",
                );
            }
            (None, Some((stem, _, rest))) => {
                let message = format!("line {number} of {file} is taken for the rest of its title");
                finder.note(NoteKind::Repaired, *stem, message);
                rest.push('\n');
                rest.push_str(line);
            }
            (None, None) => {
                return Err(Error::annotation(
                    &tree.path(file),
                    Some(number),
                    format!("\"{}\" is no row of a Food-101 titles file", shorten(line)),
                    "expected an image, its title and its class, as in apple_pie_18.jpg,Apple Pie,apple_pie",
                ));
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
            text: clean::title(&field).map_or(Input::NONE, Input::Text),
        });
    }
    Ok(rows)
}

/// The title in `title,class`, without the quotes of CSV, and whether these were in order.
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

/// The lip6 tree: one sample per image in a split's folder, its text in a file of its own.
fn read_folders(tree: &Tree, pages: &str, images: &Images<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (stem, file) in &images.files {
        let split = file.split('/').rev().find_map(Split::from_spelling);
        let (Some(class), Some(split)) = (parse_name(stem), split) else {
            continue;
        };
        let class_name = facts::FOOD_101[class as usize];
        let page = join(pages, &format!("{class_name}/{stem}.txt"));
        // Many pages gave no text: the publisher's tree lacks their files, which is no fault of the user's copy.
        let text = if tree.has_file(&page) {
            Input::TextFile(page.into())
        } else {
            Input::NONE
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

/// The images of the tree by name, which is unique over splits and classes.
struct Images<'a> {
    files: BTreeMap<&'a str, &'a str>,
    odd: Vec<&'a str>,
    base: String,
}

impl<'a> Images<'a> {
    fn find(tree: &'a Tree) -> Images<'a> {
        let mut files = BTreeMap::new();
        let mut odd = Vec::new();
        for file in tree.files() {
            let (stem, extension) = split_extension(base_name(file));
            if !["jpg", "jpeg"]
                .iter()
                .any(|one| extension.eq_ignore_ascii_case(one))
            {
                continue;
            }
            match parse_name(stem) {
                // The first by path stays: `files` is sorted.
                Some(_) => {
                    files.entry(stem).or_insert(file);
                }
                None => odd.push(file),
            }
        }
        let base = tree
            .find_dir(|dir| base_name(dir) == "images")
            .unwrap_or("images")
            .to_owned();
        Images { files, odd, base }
    }

    /// Where the image is, or where it would be.
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
        for file in &self.odd {
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
    fn names_follow_the_grammar() {
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
    fn titles_come_out_of_their_quotes() {
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
