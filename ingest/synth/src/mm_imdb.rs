//! A miniature MM-IMDb in the published archive's layout: `split.json`, `dataset/<id>.json` and
//! `dataset/<id>.jpeg`.
//!
//! The poster, the plots or both carry each genre of a movie. The JSON files are as irregular as
//! the published ones: keys with spaces, people as objects, ASCII escapes, plots that differ, and
//! now and then a genre that is no class.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use datasets::Info;
use serde::Serialize;
use serde_json::{Map, Value, json};
use util::rng::Rng;

use crate::canvas::Canvas;
use crate::image_file::{self, Format};
use crate::plan::{self, Assignment, shuffle};
use crate::still_image::draw_poster;
use crate::{Contents, Job};

/// The names of the splits in `split.json`.
const SPLITS: [&str; 3] = ["train", "dev", "test"];

/// The published shares: 15,552, 2,608 and 7,799 of 25,959 movies.
const SHARES: [f64; 3] = [0.6, 0.1, 0.3];

/// The allowed numbers of movies.
const SAMPLES: RangeInclusive<usize> = 24..=50_000;

/// The largest IMDb number.
const MAX_ID: u32 = 4_530_184;

/// On average one movie in this many has a genre that is no class.
const MOVIES_PER_RARE_GENRE: u32 = 80;

/// The streams of random numbers, one for each purpose.
const MOVIE: u32 = 1;
const ORDER: u32 = 2;
const POSTER: u32 = 3;

/// Two phrases for each genre, in the order of the classes.
#[rustfmt::skip]
const PHRASES: [[&str; 2]; 23] = [
    ["mourns a father he never forgave", "struggles to hold a broken family together"],
    ["stumbles into one absurd mishap after another", "pretends to be a waiter and ruins the banquet"],
    ["falls in love with a stranger on the ferry", "writes letters to a sweetheart far away"],
    ["is hunted by a man who knows every secret", "has one night to stop the blackmailer"],
    ["plans to rob the savings bank", "is framed by a corrupt detective and the mob"],
    ["fights off mercenaries with bare hands", "races a truck of explosives across the bridge"],
    ["sails in search of a lost island", "follows an old map into the jungle"],
    ["hears scratching inside the walls of the cursed house", "wakes something undead in the cellar"],
    ["is interviewed on camera about the footage", "lets archive recordings and eyewitnesses speak"],
    ["finds a clue that points to the wrong suspect", "investigates an unexplained disappearance"],
    ["repairs a spaceship stranded beyond Saturn", "meets an android from the future"],
    ["bargains with a wizard for an enchanted sword", "rides a dragon over the kingdom"],
    ["adopts a clumsy puppy with the children", "spends the school holidays with grandma"],
    ["rises from humble birth to worldwide fame, as it really happened", "is portrayed from childhood to old age"],
    ["defends the trench against the last offensive", "leads the platoon behind enemy lines"],
    ["serves at the court of a king in an age of empires", "lives through the revolution of a past century"],
    ["forms a band and records one song", "plays the saxophone in smoky clubs"],
    ["talks to a cartoon rabbit", "is drawn as an animated teapot"],
    ["sings and dances down the avenue with the chorus", "bursts into show tunes on Broadway"],
    ["rides into a frontier town to face the outlaw", "guards the cattle from rustlers and a sheriff"],
    ["trains for the championship match", "coaches a team of hopeless players to the final"],
    ["appears in a reel of a few minutes", "is shown in one brief scene without a cut"],
    ["is double-crossed by a femme fatale in the rain", "smokes in the shadows and trusts no one"],
];

/// Sentences that carry no genre.
const NEUTRAL: [&str; 6] = [
    "Nothing stays as it was.",
    "The years go by.",
    "What follows takes everyone by surprise.",
    "A choice has to be made.",
    "It begins on an ordinary morning.",
    "Not everything is what it seems.",
];

const NAMES: [&str; 10] = [
    "Anna",
    "José",
    "Mr. Whitlock",
    "Irène",
    "Old Tom",
    "Dr. Sørensen",
    "Ruth",
    "Captain Hale",
    "Zoë",
    "Walter",
];

const TITLE_WORDS: [&str; 10] = [
    "River", "Night", "Door", "Letter", "Summer", "Stranger", "Garden", "Train", "Mirror", "Road",
];

/// Genres that are no classes.
const RARE_GENRES: [&str; 2] = ["News", "Talk-Show"];

/// A movie of the tree.
struct Movie {
    id: String,
    split: usize,
    genres: Vec<Genre>,
}

/// A genre of a movie.
struct Genre {
    class: usize,
    /// Whether the poster carries the genre.
    in_poster: bool,
    /// Whether the plots carry the genre.
    in_plots: bool,
}

/// Plans a tree of `samples` movies.
pub fn plan(info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    plan::check_samples(&info.title, samples, SAMPLES)?;
    let shares = plan::split_shares(samples, &SHARES);
    let assignments = plan::assign(info.classes.len(), samples, &shares, seed);
    let mut movies = Vec::with_capacity(samples);
    let mut ids = BTreeSet::new();
    for (assignment, number) in assignments.iter().zip(0..) {
        let rng = &mut Rng::new(seed, &[MOVIE, number]);
        let genres = random_genres(assignment, info.classes.len(), rng);
        let mut id = 1 + rng.below(MAX_ID);
        while !ids.insert(id) {
            id = 1 + rng.below(MAX_ID);
        }
        movies.push(Movie {
            id: format!("{id:07}"),
            split: assignment.split,
            genres,
        });
    }
    shuffle(&mut movies, &mut Rng::new(seed, &[ORDER]));
    let mut split = Map::new();
    for (number, name) in SPLITS.iter().enumerate() {
        let ids = movies.iter().filter(|movie| movie.split == number);
        split.insert(
            (*name).to_owned(),
            ids.map(|movie| movie.id.as_str()).collect(),
        );
    }
    let mut texts = vec![(
        "split.json".to_owned(),
        to_python_json(&Value::Object(split))?,
    )];
    let mut jobs: Vec<Job> = Vec::new();
    for (movie, number) in movies.into_iter().zip(0..) {
        let rng = &mut Rng::new(seed, &[MOVIE, number, 1]);
        let text = to_python_json(&describe(info, &movie, rng))?;
        texts.push((format!("dataset/{}.json", movie.id), text));
        jobs.push(Box::new(move |root| {
            let rng = &mut Rng::new(seed, &[POSTER, number]);
            let (width, height) = (260 + 2 * rng.below(20), 380 + 2 * rng.below(30));
            let mut canvas = Canvas::new(width as usize, height as usize);
            let classes: Vec<usize> = movie
                .genres
                .iter()
                .filter(|genre| genre.in_poster)
                .map(|genre| genre.class)
                .collect();
            draw_poster(&mut canvas, &classes, rng);
            let path = root.join("dataset").join(format!("{}.jpeg", movie.id));
            image_file::write(&path, &canvas, Format::random(rng))
        }));
    }
    Ok(Contents {
        folders: vec!["dataset".to_owned()],
        texts,
        counts: plan::split_counts(&SPLITS, &assignments),
        jobs,
    })
}

/// Draws the genres of a movie: that of the assignment, and up to three others, of which those with
/// low numbers are more frequent.
fn random_genres(assignment: &Assignment, classes: usize, rng: &mut Rng) -> Vec<Genre> {
    let mut others = Vec::new();
    for _ in 0..rng.below(4) {
        let class = (rng.uniform() * rng.uniform() * classes as f64) as usize;
        if class != assignment.class && !others.contains(&class) {
            others.push(class);
        }
    }
    let mut genres = vec![Genre {
        class: assignment.class,
        in_poster: assignment.cue.in_first(),
        in_plots: assignment.cue.in_second(),
    }];
    genres.extend(others.into_iter().map(|class| {
        let share = rng.uniform();
        Genre {
            class,
            in_poster: share < 0.7,
            in_plots: !(0.4..0.7).contains(&share),
        }
    }));
    genres
}

/// Returns the content of a movie's JSON file. Movies differ in their keys and the order of them.
fn describe(info: &Info, movie: &Movie, rng: &mut Rng) -> Value {
    let mut pick = |from: &[&str]| from[rng.below(from.len() as u32) as usize].to_owned();
    let title = format!("The {} and the {}", pick(&TITLE_WORDS), pick(&TITLE_WORDS));
    let (name, other) = (pick(&NAMES), pick(&NAMES));
    let (begin, end) = (pick(&NEUTRAL), pick(&NEUTRAL));
    let in_plots: Vec<usize> = movie
        .genres
        .iter()
        .filter(|genre| genre.in_plots)
        .map(|genre| genre.class)
        .collect();
    let mut long = begin;
    for &class in &in_plots {
        let [first, second] = PHRASES[class];
        long += &format!(" {name} {first} and {second}.");
    }
    long += &format!(" {end}");
    let short = match in_plots.first() {
        Some(&class) => format!("{name} {}.", PHRASES[class][0]),
        None => format!("The story of {name} and {other}."),
    };
    let mut plots = vec![short.clone(), long];
    if rng.below(20) == 0 {
        plots[1] += "::anonymous";
    }
    let mut genres: Vec<&str> = movie
        .genres
        .iter()
        .map(|genre| info.classes[genre.class].as_str())
        .collect();
    if rng.below(MOVIES_PER_RARE_GENRE) == 0 {
        genres.push(RARE_GENRES[rng.below(2) as usize]);
    }
    let mut fields = Map::new();
    if rng.below(2) == 0 {
        fields.insert("plot outline".to_owned(), json!(short));
    }
    fields.insert("long imdb title".to_owned(), json!(title));
    fields.insert("genres".to_owned(), json!(genres));
    if rng.below(4) > 0 {
        fields.insert("votes".to_owned(), json!(rng.below(90_000)));
        fields.insert(
            "rating".to_owned(),
            json!(f64::from(10 + rng.below(89)) / 10.0),
        );
    }
    fields.insert("year".to_owned(), json!(1900 + rng.below(115)));
    fields.insert("director".to_owned(), json!([{"name": other}]));
    fields.insert("country codes".to_owned(), json!(["us"]));
    fields.insert("plot".to_owned(), json!(plots));
    fields.insert("kind".to_owned(), json!("movie"));
    fields.insert("title".to_owned(), json!(title));
    Value::Object(fields)
}

/// Formats as Python's `json.dump(value, file, indent=4)` does, in ASCII.
fn to_python_json(value: &Value) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, formatter,
    ))?;
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8(bytes)?.chars() {
        if c.is_ascii() {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            text += &format!("\\u{unit:04x}");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_carry_some_but_not_all_of_each_genre() {
        let info = datasets::open("mm-imdb").unwrap().info().clone();
        assert_eq!(info.classes.len(), PHRASES.len());
        let tree = plan(&info, 300, 0).unwrap();
        let splits: Value = serde_json::from_str(&tree.texts[0].1).unwrap();
        let train = splits["train"].as_array().unwrap().len();
        assert_eq!(
            (train + tree.counts[1].1 + tree.counts[2].1, tree.jobs.len()),
            (300, 300)
        );
        let mut counts = vec![(0, 0); info.classes.len()];
        for (_, text) in &tree.texts[1..] {
            assert!(text.is_ascii());
            let movie: Value = serde_json::from_str(text).unwrap();
            let long = movie["plot"][1].as_str().unwrap();
            for (genre, (movies, plots)) in counts.iter_mut().enumerate() {
                let listed = movie["genres"].as_array().unwrap();
                let listed = listed
                    .iter()
                    .any(|name| name == info.classes[genre].as_str());
                let mentioned = long.contains(PHRASES[genre][0]);
                assert!(listed || !mentioned);
                *movies += usize::from(listed);
                *plots += usize::from(mentioned);
            }
        }
        for (movies, plots) in counts {
            assert!(
                movies >= 12 && plots * 3 > movies && plots < movies,
                "{plots} of {movies}"
            );
        }
        assert!(tree.texts.iter().any(|(_, text)| text.contains("\\u00e9")));
    }
}
