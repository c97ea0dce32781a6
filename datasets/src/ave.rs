//! AVE: clips of ten seconds with an event of one of 28 categories, both visible and audible.
//!
//! `AVE/<id>.mp4` with `trainSet.txt`, `valSet.txt` and `testSet.txt`, anywhere below the raw root.
//! A row is `Category&VideoID&Quality&StartTime&EndTime`. The rows may follow a header, and
//! categories contain commas.
//!
//! 4,143 rows share 4,097 files. A sample is identified by file and category, and its id is
//! `<video id>_<category>`. The start and end of the event become [`Sample::segment`]; one
//! published row has an empty event (0 to 0), and its sample has no segment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use util::suggest::did_you_mean;

use crate::clip::{self, Clips};
use crate::error::{Error, shorten};
use crate::facts;
use crate::finder::{Finder, note_shared_files};
use crate::tree::{Tree, base_name, join, lines, no_layout, parent, per_split};
use crate::types::{Dataset, Info, ListOptions, Listing, NoteKind, Sample, Split};

/// What the raw root should hold, for error messages.
const LAYOUT: &str = "expected the unpacked AVE_Dataset.zip there: AVE/<id>.mp4 with trainSet.txt, valSet.txt and \
     testSet.txt beside the folder";

/// The length of every clip in seconds; no event lasts longer.
const CLIP_SECONDS: f32 = 10.0;

/// AVE; the module's documentation describes the layout.
pub(crate) struct Ave {
    info: Info,
}

impl Ave {
    pub(crate) fn new() -> Ave {
        Ave { info: facts::ave() }
    }
}

impl Dataset for Ave {
    fn info(&self) -> &Info {
        &self.info
    }

    fn list(&self, raw: &Path, _options: &ListOptions) -> Result<Listing, Error> {
        let tree = Tree::walk(raw, LAYOUT)?;
        let lists = per_split(&tree, |file| {
            let name = base_name(file).to_ascii_lowercase();
            let split = name.strip_suffix("set.txt").and_then(Split::from_spelling);
            Ok(split)
        })?;
        let Some(any) = lists.values().next() else {
            return Err(refuse_hdf5_splits(&tree).unwrap_or_else(|| {
                let problem = "no trainSet.txt, valSet.txt or testSet.txt in it";
                no_layout(&tree, problem, LAYOUT)
            }));
        };
        let home = parent(any);
        if let Some(absent) = Split::ALL.iter().find(|split| !lists.contains_key(split)) {
            return Err(Error::annotation(
                &tree.path(&join(home, &format!("{absent}Set.txt"))),
                None,
                "no such file",
                "put it beside the other two lists",
            ));
        }
        let clips = Clips::find(&tree);
        let folder = tree
            .find_dir(|dir| {
                base_name(dir).eq_ignore_ascii_case("AVE") && tree.files_below(dir).next().is_some()
            })
            .map_or_else(|| join(home, "AVE"), str::to_owned);

        let mut finder = Finder::new(&tree);
        let mut samples = Vec::new();
        let mut first: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for (&split, file) in &lists {
            for row in read_rows(&tree, file)? {
                let sample = row.sample(split, &clips, &folder, &mut finder);
                let place = ((*file).to_owned(), row.line);
                if let Some((before, line)) = first.insert(sample.id.clone(), place) {
                    return Err(Error::annotation(
                        &tree.path(file),
                        Some(row.line),
                        format!(
                            "{} with this category stands in {before}, line {line} already",
                            row.id
                        ),
                        "take one of the two lines away",
                    ));
                }
                samples.push(sample);
            }
        }
        compare_with_annotations(&tree, &samples, &mut finder)?;
        note_shared_files(&samples, &mut finder);
        let notes = finder.finish(&samples, LAYOUT)?;
        let names: Vec<&str> = lists.values().copied().collect();
        Ok(Listing {
            layout: format!("videos in {folder}, rows of {}", names.join(", ")),
            samples,
            notes,
        })
    }

    fn expected_per_class(&self) -> [Option<Vec<usize>>; 3] {
        [0, 1, 2].map(|split| Some(facts::AVE.iter().map(|one| one.1[split]).collect()))
    }
}

/// Returns the error for a tree that has the splits as HDF5 alone.
fn refuse_hdf5_splits(tree: &Tree) -> Option<Error> {
    let file = tree.files().find(|file| file.ends_with("_order.h5"))?;
    Some(Error::Unsupported {
        path: tree.path(file),
        problem: "the splits are there as row numbers in HDF5 alone, which are not read".to_owned(),
        remedy: "put trainSet.txt, valSet.txt and testSet.txt of AVE_Dataset.zip there, which hold the same rows \
                 in the same order"
            .to_owned(),
    })
}

/// One annotation row.
struct Row {
    line: usize,
    class: u32,
    id: String,
    start: f32,
    end: f32,
}

impl Row {
    fn sample_id(&self) -> String {
        format!("{}_{}", self.id, slug(facts::AVE[self.class as usize].0))
    }

    fn sample(
        &self,
        split: Split,
        clips: &Clips<'_>,
        folder: &str,
        finder: &mut Finder<'_>,
    ) -> Sample {
        let id = self.sample_id();
        let mut files = clips.videos_of(&self.id);
        if files.is_empty() {
            clips.note_unfinished(&self.id, None, finder);
            files.push(join(folder, &format!("{}.mp4", self.id)));
        }
        let video = finder.input(&id, &files);
        let segment = (self.start < self.end).then_some((self.start, self.end));
        if segment.is_none() {
            let message = format!(
                "its event is said to last from {} to {} s; it gets none",
                self.start, self.end
            );
            finder.note(NoteKind::KnownBad, &id, message);
        }
        Sample {
            id,
            split,
            labels: vec![self.class],
            source: files.swap_remove(0),
            inputs: vec![video.clone(), video],
            segment,
        }
    }
}

/// Turns a category such as `Rodents, rats, mice` into a part of an id: `rodents-rats-mice`.
fn slug(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-")
}

fn read_rows(tree: &Tree, file: &str) -> Result<Vec<Row>, Error> {
    let text = tree.read(file)?;
    let mut rows = Vec::new();
    for (line, content) in lines(&text) {
        if rows.is_empty() && content.contains("StartTime") {
            continue;
        }
        let row = parse_row(line, content).map_err(|problem| {
            Error::annotation(
                &tree.path(file),
                Some(line),
                problem,
                "expected Category&VideoID&Quality&StartTime&EndTime",
            )
        })?;
        rows.push(row);
    }
    Ok(rows)
}

fn parse_row(line: usize, content: &str) -> Result<Row, String> {
    let fields: Vec<&str> = content.split('&').map(str::trim).collect();
    let [category, id, _quality, start, end] = fields[..] else {
        return Err(format!(
            "\"{}\" has {} fields, not 5",
            shorten(content),
            fields.len()
        ));
    };
    let names = facts::AVE.iter().map(|one| one.0);
    let Some(class) = names.clone().position(|name| name == category) else {
        let hint = did_you_mean(category, names);
        return Err(format!(
            "\"{}\" is none of the 28 categories{hint}",
            shorten(category)
        ));
    };
    if !clip::is_id(id) {
        return Err(format!(
            "\"{}\" is no video id of 11 characters",
            shorten(id)
        ));
    }
    let time = |text: &str| {
        let seconds = text.parse::<f32>().ok();
        let seconds = seconds.filter(|seconds| (0.0..=CLIP_SECONDS).contains(seconds));
        seconds.ok_or_else(|| format!("\"{}\" is no time in a clip of 10 s", shorten(text)))
    };
    Ok(Row {
        line,
        class: class as u32,
        id: id.to_owned(),
        start: time(start)?,
        end: time(end)?,
    })
}

/// Compares the samples with `Annotations.txt` if the tree has it, and adds a note for each of its
/// rows that no list has.
fn compare_with_annotations(
    tree: &Tree,
    samples: &[Sample],
    finder: &mut Finder<'_>,
) -> Result<(), Error> {
    let Some(file) = tree
        .files()
        .find(|file| base_name(file).eq_ignore_ascii_case("Annotations.txt"))
    else {
        return Ok(());
    };
    let listed: BTreeSet<&str> = samples.iter().map(|one| one.id.as_str()).collect();
    for row in read_rows(tree, file)? {
        let id = row.sample_id();
        if !listed.contains(id.as_str()) {
            let message = format!("stands in {file} and in no split list; not used");
            finder.note(NoteKind::Unlisted, id, message);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn category_slugs_are_distinct() {
        let slugs: BTreeSet<String> = facts::AVE.iter().map(|one| slug(one.0)).collect();
        assert_eq!(slugs.len(), facts::AVE.len());
        assert!(slugs.contains("fixed-wing-aircraft-airplane") && slugs.contains("frying-food"));
    }
}
