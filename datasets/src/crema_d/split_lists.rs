//! The split of each clip: from published lists if the tree has them, else drawn.

use std::collections::{BTreeMap, BTreeSet};

use super::{Clip, Media, parse_stem};
use crate::error::Error;
use crate::facts;
use crate::finder::Finder;
use crate::list_reader::ListForm;
use crate::stratify;
use crate::tree::{Tree, base_name, depth, join, lines, parent, split_extension};
use crate::types::{NoteKind, Split};

/// The number of clips in the dataset.
const ALL_CLIPS: usize = 7_442;

/// The number of clips in the published test list. A drawn split has the same share.
const TEST_CLIPS: usize = 744;

/// The form of OGM-GE's and MLA's lists.
const LIST: ListForm = ListForm {
    name: "CREMA-D list",
    expected: "expected a clip and its emotion, as in 1001_DFA_ANG_XX,ANG",
};

/// Returns every clip with its split, in the order of a listing, and where the split comes from, in
/// words for people.
pub(super) fn split(
    tree: &Tree,
    base: &str,
    media: &Media,
    finder: &mut Finder<'_>,
) -> Result<(Vec<(Clip, Split)>, String), Error> {
    let Some((train, test)) = find_lists(tree, finder)? else {
        let clips = draw_split(tree, base, media)?;
        let from = format!("no split lists: {TEST_CLIPS} in {ALL_CLIPS} drawn for the test");
        return Ok((clips, from));
    };
    let mut rows = read_list(tree, &train, Split::Train, finder)?;
    rows.extend(read_list(tree, &test, Split::Test, finder)?);
    refuse_duplicates(tree, &rows)?;
    let clips = rows.into_iter().map(|row| (row.clip, row.split)).collect();
    Ok((clips, format!("split of {train} and {test}")))
}

/// A row of a split list, with its place for error messages.
struct Row {
    clip: Clip,
    split: Split,
    file: String,
    line: usize,
}

/// Parses a row, `<stem>,<CODE>` or `<stem>.flv <Word>`, into a clip and the class that the row
/// states.
fn parse_row(line: &str) -> Option<(Clip, u32)> {
    let (clip, label) = line.split_once(',').or_else(|| {
        let line = line.trim();
        line.split_once(char::is_whitespace)
    })?;
    let clip = base_name(clip.trim().trim_matches('"'));
    let clip = parse_stem(split_extension(clip).0)?;
    let label = label.trim().trim_matches('"');
    let stated = facts::CREMA_D
        .iter()
        .position(|(code, word, ..)| *code == label || word.eq_ignore_ascii_case(label))?;
    Some((clip, stated as u32))
}

/// Finds the pair of split lists that lies nearest to the root. The two names differ in `train` and
/// `test` alone.
fn find_lists(tree: &Tree, finder: &mut Finder<'_>) -> Result<Option<(String, String)>, Error> {
    let mut pairs = Vec::new();
    let mut unpaired = None;
    let mut unused = Vec::new();
    for file in tree.files() {
        let name = base_name(file).to_ascii_lowercase();
        let (stem, extension) = split_extension(&name);
        let is_text = matches!(extension, "csv" | "txt");
        if is_text && Split::from_spelling(stem) == Some(Split::Val) {
            unused.push(file.to_owned());
        }
        if !is_text || !is_list(tree, file, stem)? {
            continue;
        }
        let partner = |from: &str, to: &str| {
            let name = base_name(file);
            let swapped = [str::to_lowercase, str::to_uppercase, capitalized]
                .iter()
                .map(|case| name.replacen(&case(from), &case(to), 1))
                .find(|swapped| swapped != name)?;
            let swapped = join(parent(file), &swapped);
            tree.has_file(&swapped).then_some(swapped)
        };
        let train = stem.contains("train");
        let (from, to) = if train {
            ("train", "test")
        } else {
            ("test", "train")
        };
        match partner(from, to) {
            None => {
                unpaired = Some((file, to));
                unused.push(file.to_owned());
            }
            Some(test) if train => {
                pairs.push((depth(file), stem != "train", file.to_owned(), test));
            }
            Some(_) => {}
        }
    }
    pairs.sort();
    let mut pairs = pairs.into_iter().map(|(_, _, train, test)| (train, test));
    let Some(first) = pairs.next() else {
        return match unpaired {
            None => Ok(None),
            Some((file, partner)) => Err(Error::annotation(
                &tree.path(file),
                None,
                format!("a split list without the {partner} list of the same name beside it"),
                "put the other one beside it, or take this one away to have a split drawn",
            )),
        };
    };
    for file in unused {
        let message = format!("not used; the split is that of {} and {}", first.0, first.1);
        finder.note(NoteKind::Unlisted, file, message);
    }
    for (train, test) in pairs {
        finder.note(
            NoteKind::Choice,
            train.as_str(),
            format!("{train} and {test} hold another split; {} is used", first.0),
        );
    }
    Ok(Some(first))
}

fn capitalized(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

/// Whether a file is a split list, judged by its name and its first two lines, of which one may be
/// a header.
fn is_list(tree: &Tree, file: &str, stem: &str) -> Result<bool, Error> {
    if !stem.contains("train") && !stem.contains("test") {
        return Ok(false);
    }
    let text = tree.probe(file)?;
    let is_list = lines(&text)
        .take(2)
        .any(|(_, line)| parse_row(line).is_some());
    Ok(is_list)
}

fn read_list(
    tree: &Tree,
    file: &str,
    split: Split,
    finder: &mut Finder<'_>,
) -> Result<Vec<Row>, Error> {
    LIST.read(tree, file, finder, |line, content| {
        let Some((clip, stated)) = parse_row(content) else {
            return Ok(None);
        };
        if clip.class != stated {
            return Err(Error::annotation(
                &tree.path(file),
                Some(line),
                format!(
                    "{} is listed with an emotion that its name does not have",
                    clip.stem
                ),
                "mend the line; for labels of your own describe the data in a .toml",
            ));
        }
        let file = file.to_owned();
        Ok(Some(Row {
            clip,
            split,
            file,
            line,
        }))
    })
}

/// # Errors
/// A clip is listed twice.
fn refuse_duplicates(tree: &Tree, rows: &[Row]) -> Result<(), Error> {
    let mut first: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in rows {
        if let Some(before) = first.insert(&row.clip.stem, row) {
            return Err(Error::annotation(
                &tree.path(&row.file),
                Some(row.line),
                format!(
                    "{} stands in {}, line {} already",
                    row.clip.stem, before.file, before.line
                ),
                "take one of the two lines away",
            ));
        }
    }
    Ok(())
}

/// Draws a split of the clips that the clone's table of contents names, or of those whose files
/// exist if there is no such table.
fn draw_split(tree: &Tree, base: &str, media: &Media) -> Result<Vec<(Clip, Split)>, Error> {
    let contents = join(base, "SentenceFilenames.csv");
    let mut clips: BTreeSet<Clip> = BTreeSet::new();
    if tree.has_file(&contents) {
        let text = tree.read(&contents)?;
        clips.extend(lines(&text).filter_map(|(_, line)| {
            let (_, stem) = line.split_once(',')?;
            parse_stem(stem.trim().trim_matches('"'))
        }));
    }
    if clips.is_empty() {
        clips.extend(media.stems().into_iter().filter_map(parse_stem));
    }
    let items: Vec<(&str, u32)> = clips
        .iter()
        .map(|clip| (clip.stem.as_str(), clip.class))
        .collect();
    let total = (items.len() * TEST_CLIPS + ALL_CLIPS / 2) / ALL_CLIPS;
    let drawn = stratify::draw("crema-d", &items, total);
    let mut split: Vec<(Clip, Split)> = clips
        .into_iter()
        .zip(drawn)
        .map(|(clip, test)| (clip, if test { Split::Test } else { Split::Train }))
        .collect();
    // The sort is stable, so each split stays in the order of names.
    split.sort_by_key(|&(_, split)| split);
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_published_row_forms_are_parsed() {
        let parse_row =
            |line| parse_row(line).map(|(clip, stated)| (clip.stem, clip.class, stated));
        let ang = Some(("1001_DFA_ANG_XX".to_owned(), 0, 0));
        assert_eq!(parse_row("1001_DFA_ANG_XX,ANG"), ang);
        assert_eq!(parse_row("1001_DFA_ANG_XX.flv Anger"), ang);
        assert_eq!(parse_row("\"1001_DFA_ANG_XX\",\"ANG\""), ang);
        assert_eq!(
            parse_row("VideoFlash/1001_DFA_ANG_XX.flv,SAD"),
            Some(("1001_DFA_ANG_XX".to_owned(), 0, 5))
        );
        assert_eq!(parse_row("file,label"), None);
    }
}
