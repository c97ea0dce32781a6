//! MM-IMDb: a poster, a plot and any number of 23 genres for each movie.
//!
//! `split.json` with `dataset/<id>.json` and `dataset/<id>.jpeg` beside it (the published archive),
//! or with `labels/<id>.json` and `images/<id>.jpeg`, anywhere below the raw root. The HDF5 form
//! has no plots and is refused.
//!
//! Every movie of `split.json` is a sample, with the plot that [`Plot`] chooses. Four rare genres
//! are no labels; their movies are kept. A movie whose JSON cannot be read has no known labels: it
//! stays in the listing with both modalities absent, so that it is counted and never trained on.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use serde::Deserialize;
use serde_json::Value;

use crate::clean;
use crate::error::{Error, shorten};
use crate::facts;
use crate::finder::Finder;
use crate::json;
use crate::tree::{
    State, Tree, base_name, depth, join, no_layout, parent, read_text, split_extension, state,
};
use crate::types::{
    AbsenceCause, Dataset, Info, Input, ListOptions, Listing, NoteKind, Plot, Sample, Split,
};

/// What the raw root should hold, for error messages.
const LAYOUT: &str = "expected the unpacked mmimdb.tar.gz there: split.json, dataset/<id>.json and dataset/<id>.jpeg";

/// The number of digits in an id.
const ID_DIGITS: usize = 7;

/// The folders of JSON files and posters, in the two published layouts.
const FOLDERS: [(&str, &str); 2] = [("dataset", "dataset"), ("labels", "images")];

/// File extensions of posters in lower case, the published one first. Letter case does not matter.
const POSTER_EXTENSIONS: [&str; 4] = ["jpeg", "jpg", "png", "webp"];

/// The longest text after a plot's last `::` that is taken for the name of its author, which IMDbPY
/// appends.
const MAX_AUTHOR_CHARS: usize = 80;

/// MM-IMDb; the module's documentation describes the layouts.
pub(crate) struct MmImdb {
    info: Info,
}

impl MmImdb {
    pub(crate) fn new() -> MmImdb {
        MmImdb {
            info: facts::mm_imdb(),
        }
    }
}

impl Dataset for MmImdb {
    fn info(&self) -> &Info {
        &self.info
    }

    fn list(&self, raw: &Path, options: &ListOptions) -> Result<Listing, Error> {
        let tree = Tree::walk(raw, LAYOUT)?;
        let place = FOLDERS.iter().find_map(|&(json, posters)| {
            let is_base = |dir: &str| {
                tree.child_dir(dir, json).is_some() && tree.child_dir(dir, posters).is_some()
            };
            let base = tree.find_dir(is_base)?;
            Some((tree.child_dir(base, json)?, tree.child_dir(base, posters)?))
        });
        let Some((json, posters)) = place else {
            return Err(refuse_hdf5(&tree).unwrap_or_else(|| {
                no_layout(
                    &tree,
                    "no folder dataset, nor labels and images, in it",
                    LAYOUT,
                )
            }));
        };
        let split_file = find_split_file(&tree, parent(json))?;
        let ids = read_split_file(&tree.path(split_file))?;

        let movies = read_movies(&tree, json, &ids, options.plot);
        let mut finder = Finder::new(&tree);
        for split in Split::ALL {
            if ids.iter().all(|(_, one)| *one != split) {
                let message = format!("names no movie of the {split} split");
                finder.note(NoteKind::MissingList, split_file, message);
            }
        }
        let poster_files = find_posters(&tree, posters);
        let mut samples = Vec::with_capacity(ids.len());
        for ((id, split), movie) in ids.into_iter().zip(movies) {
            let poster = poster_files.get(id.as_str()).map_or_else(
                || join(posters, &format!("{id}.{}", POSTER_EXTENSIONS[0])),
                |(_, file)| (*file).to_owned(),
            );
            let (labels, inputs) = match movie {
                Ok(movie) => {
                    for genre in &movie.unknown {
                        let message = format!(
                            "the genre \"{}\" is none of the 27; ignored",
                            shorten(genre)
                        );
                        finder.note(NoteKind::Repaired, &id, message);
                    }
                    let image = finder.input(&id, std::slice::from_ref(&poster));
                    (movie.labels, vec![image, movie.text.into()])
                }
                Err(cause) => {
                    let kind = note_kind(&cause);
                    let cause = AbsenceCause::UnknownGenres(Box::new(cause));
                    finder.note(kind, &id, cause.to_string());
                    let absent = Input::Absent(cause);
                    (Vec::new(), vec![absent.clone(), absent])
                }
            };
            samples.push(Sample {
                id,
                split,
                labels,
                inputs,
                source: poster,
                segment: None,
            });
        }
        note_unlisted(&tree, posters, &samples, &mut finder);
        let notes = finder.finish(&samples, LAYOUT)?;
        let folders = if json == posters {
            json.to_owned()
        } else {
            format!("{json} and {posters}")
        };
        Ok(Listing {
            layout: format!("{folders}, split of {split_file}, plot: {}", options.plot),
            samples,
            notes,
        })
    }

    fn expected_over_splits(&self) -> Option<Vec<usize>> {
        Some(facts::MM_IMDB.iter().map(|one| one.1).collect())
    }
}

/// Returns the error for a tree that has the HDF5 form alone.
fn refuse_hdf5(tree: &Tree) -> Option<Error> {
    let endings = [".hdf5", ".h5"];
    let file = tree
        .files()
        .find(|file| endings.iter().any(|ending| file.ends_with(ending)))?;
    Some(Error::Unsupported {
        path: tree.path(file),
        problem: "the HDF5 form of MM-IMDb holds no plots, only token numbers".to_owned(),
        remedy: "get mmimdb.tar.gz instead (archive.org/download/mmimdb) and unpack it there"
            .to_owned(),
    })
}

fn find_split_file<'a>(tree: &'a Tree, base: &str) -> Result<&'a str, Error> {
    tree.files()
        .filter(|file| base_name(file) == "split.json")
        // The file beside the folders, else the one nearest to the root.
        .min_by_key(|file| (parent(file) != base, depth(file), *file))
        .ok_or_else(|| {
            Error::annotation(
                &tree.path(&join(base, "split.json")),
                None,
                "no such file",
                "get it from mmimdb.tar.gz; without it nobody knows the splits",
            )
        })
}

/// Reads the ids of each split, by split in the order of [`Split::ALL`] and in the order of the
/// file.
fn read_split_file(path: &Path) -> Result<Vec<(String, Split)>, Error> {
    let remedy = "expected {\"train\": [ids], \"dev\": [ids], \"test\": [ids]}";
    let fail = |problem: String| Error::annotation(path, None, problem, remedy);
    let lists: serde_json::Map<String, Value> =
        serde_json::from_str(&read_text(path)?).map_err(|error| fail(error.to_string()))?;
    let mut ids = Vec::new();
    for (name, list) in &lists {
        let split = Split::from_spelling(name)
            .ok_or_else(|| fail(format!("\"{}\" is no split", shorten(name))))?;
        let list = list
            .as_array()
            .ok_or_else(|| fail(format!("\"{name}\" is no list")))?;
        for id in list {
            let written = match id {
                Value::String(id) => id.trim().to_owned(),
                other => other.to_string(),
            };
            let digits = written.bytes().all(|byte| byte.is_ascii_digit());
            if !digits || written.is_empty() || written.len() > ID_DIGITS + 1 {
                return Err(fail(format!("\"{}\" is no id", shorten(&written))));
            }
            ids.push((format!("{written:0>ID_DIGITS$}"), split));
        }
    }
    let mut sorted: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(fail(format!("the id {} is listed twice", twice[0])));
    }
    ids.sort_by_key(|(_, split)| *split);
    Ok(ids)
}

/// What a movie's JSON file holds.
struct Movie {
    labels: Vec<u32>,
    /// Genres that are none of the known ones.
    unknown: Vec<String>,
    text: Option<String>,
}

/// The kind of note for a JSON file that cannot be used.
fn note_kind(cause: &AbsenceCause) -> NoteKind {
    match cause {
        AbsenceCause::NoFile(_) => NoteKind::Missing,
        AbsenceCause::EmptyFile(_) => NoteKind::Empty,
        AbsenceCause::LfsPointer(_) => NoteKind::LfsPointer,
        _ => NoteKind::Unreadable,
    }
}

/// The fields of a movie's JSON file that are used. Any of them may be absent or of another type.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    genres: Value,
    #[serde(default)]
    plot: Value,
    #[serde(default, rename = "plot outline")]
    outline: Value,
}

/// Reads the JSON files of all movies, which are tens of thousands, on all cores.
fn read_movies(
    tree: &Tree,
    folder: &str,
    ids: &[(String, Split)],
    plot: Plot,
) -> Vec<Result<Movie, AbsenceCause>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let per_thread = ids.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = ids
            .chunks(per_thread)
            .map(|ids| {
                scope.spawn(move || {
                    let files = ids
                        .iter()
                        .map(|(id, _)| join(folder, &format!("{id}.json")));
                    files
                        .map(|file| read_movie(tree, &file, plot))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| match worker.join() {
                Ok(movies) => movies,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

fn read_movie(tree: &Tree, file: &str, plot: Plot) -> Result<Movie, AbsenceCause> {
    let unreadable = |error: Error| AbsenceCause::Unreadable(error.to_string());
    let state = if tree.may_have(file) {
        state(&tree.path(file))
    } else {
        State::Missing
    };
    match state {
        State::Media(_) => {}
        State::Missing => return Err(AbsenceCause::NoFile(file.to_owned())),
        State::Empty => return Err(AbsenceCause::EmptyFile(file.to_owned())),
        State::Pointer => return Err(AbsenceCause::LfsPointer(file.to_owned())),
        State::Unreadable(reason) => {
            let file = file.to_owned();
            return Err(AbsenceCause::Closed { file, reason });
        }
    }
    let text = tree.read(file).map_err(unreadable)?;
    let fields: Fields = serde_json::from_str(&json::without_nan(&text))
        .map_err(|error| AbsenceCause::Unreadable(format!("{file} is no movie's json: {error}")))?;
    let Some(genres) = fields.genres.as_array() else {
        let problem = format!("{file} has no list \"genres\"");
        return Err(AbsenceCause::Unreadable(problem));
    };
    let mut movie = Movie {
        labels: Vec::new(),
        unknown: Vec::new(),
        text: choose_plot(&fields, plot),
    };
    for genre in genres {
        let name = genre.as_str().unwrap_or_default().trim();
        match facts::MM_IMDB.iter().position(|one| one.0 == name) {
            Some(label) => movie.labels.push(label as u32),
            None if facts::MM_IMDB_DROPPED.contains(&name) => {}
            None => movie.unknown.push(genre.to_string()),
        }
    }
    movie.labels.sort_unstable();
    movie.labels.dedup();
    Ok(movie)
}

fn choose_plot(fields: &Fields, choice: Plot) -> Option<String> {
    let plots: Vec<String> = match &fields.plot {
        Value::Array(plots) => plots.iter().filter_map(clean_plot).collect(),
        other => clean_plot(other).into_iter().collect(),
    };
    match choice {
        Plot::First => plots.into_iter().next(),
        Plot::All => (!plots.is_empty()).then(|| plots.join(" ")),
        Plot::Outline => clean_plot(&fields.outline).or_else(|| plots.into_iter().next()),
        Plot::Longest => {
            // The first of the longest: `max_by_key` would return the last.
            let mut best: Option<String> = None;
            for plot in plots {
                let longer = |best: &String| plot.chars().count() > best.chars().count();
                if best.as_ref().is_none_or(longer) {
                    best = Some(plot);
                }
            }
            best
        }
    }
}

fn clean_plot(plot: &Value) -> Option<String> {
    let plot = plot.as_str()?;
    let plot = match plot.rsplit_once("::") {
        Some((words, author)) if author.chars().count() <= MAX_AUTHOR_CHARS => words,
        _ => plot,
    };
    clean::squeeze(plot)
}

/// The rank of a poster's file extension.
fn poster_rank(extension: &str) -> Option<usize> {
    let mut known = POSTER_EXTENSIONS.iter();
    known.position(|one| extension.eq_ignore_ascii_case(one))
}

/// Finds the posters in a folder, by id and with the rank of their extension. Of several files of a
/// movie, the one with the best extension is taken, then the first by path.
fn find_posters<'a>(tree: &'a Tree, folder: &str) -> BTreeMap<&'a str, (usize, &'a str)> {
    let mut found = BTreeMap::new();
    for file in tree.files_below(folder) {
        let (stem, extension) = split_extension(base_name(file));
        if let Some(rank) = poster_rank(extension) {
            let best = found.entry(stem).or_insert((rank, file));
            *best = (*best).min((rank, file));
        }
    }
    found
}

fn note_unlisted(tree: &Tree, posters: &str, samples: &[Sample], finder: &mut Finder<'_>) {
    let mut listed: Vec<&str> = samples.iter().map(|one| one.id.as_str()).collect();
    listed.sort_unstable();
    for file in tree.files_below(posters) {
        let (stem, extension) = split_extension(base_name(file));
        if poster_rank(extension).is_some() && listed.binary_search(&stem).is_err() {
            finder.note(
                NoteKind::Unlisted,
                file,
                "split.json does not name the movie; not used",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(json: &str, choice: Plot) -> Option<String> {
        choose_plot(&serde_json::from_str(json).unwrap(), choice)
    }

    #[test]
    fn plot_options_choose_the_text() {
        let json =
            r#"{"plot": ["ab\n c::Ann O. <a@b.c>", "vwxyz", "12345"], "plot outline": "out"}"#;
        assert_eq!(chosen(json, Plot::First).as_deref(), Some("ab c"));
        assert_eq!(chosen(json, Plot::Longest).as_deref(), Some("vwxyz"));
        assert_eq!(chosen(json, Plot::Outline).as_deref(), Some("out"));
        assert_eq!(chosen(json, Plot::All).as_deref(), Some("ab c vwxyz 12345"));
        let json = r#"{"plot": "one", "plot outline": null}"#;
        assert_eq!(chosen(json, Plot::Outline).as_deref(), Some("one"));
        for nothing in [r#"{}"#, r#"{"plot": []}"#, r#"{"plot": ["", 3]}"#] {
            for choice in Plot::ALL {
                assert_eq!(chosen(nothing, choice), None);
            }
        }
    }
}
