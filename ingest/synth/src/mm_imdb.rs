//! A miniature MM-IMDb in the published tar's layout: `split.json`, `dataset/<id>.json`, `dataset/<id>.jpeg`.
//!
//! Each of a movie's genres is told by the poster, by the plots, or by both. The json files are ragged as the real ones:
//! keys with blanks, people as objects, ASCII escapes, plots that differ, a genre now and then that is dropped as a label.

use std::collections::BTreeSet;

use datasets::Info;
use serde::Serialize;
use serde_json::{Map, Value, json};
use util::rng::Rng;

use crate::canvas::Canvas;
use crate::deal::{self, shuffle};
use crate::picture::{self, Form};
use crate::{Contents, Job, still};

/// As `split.json` calls them.
const SPLITS: [&str; 3] = ["train", "dev", "test"];

/// The dataset's own shares: 15,552, 2,608 and 7,799.
const SHARES: [f64; 3] = [0.6, 0.1, 0.3];

/// Fewest and most movies.
const RANGE: (usize, usize) = (24, 50_000);

/// Ids are drawn below this.
const IDS: u32 = 4_530_184;

/// One movie in so many has a genre that is no label.
const RARE_GENRE: u32 = 80;

/// Streams of random numbers.
const MOVIE: u32 = 1;
const ORDER: u32 = 2;
const POSTER: u32 = 3;

/// Two phrases per genre, in the order of the classes.
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

/// What goes with any genre.
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

const DROPPED: [&str; 2] = ["News", "Talk-Show"];

/// One movie to be.
struct Movie {
    id: String,
    split: usize,
    /// Every genre, and whether the poster shows it, whether the plots tell it.
    genres: Vec<(usize, bool, bool)>,
}

/// Plans a tree of `samples` movies.
pub fn tree(info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    deal::check_range(&info.title, samples, RANGE.0, RANGE.1)?;
    let shares = deal::shares(samples, &SHARES);
    let dealt = deal::deal(info.classes.len(), samples, &shares, seed);
    let mut movies = Vec::with_capacity(samples);
    let mut ids = BTreeSet::new();
    for (one, number) in dealt.iter().zip(0..) {
        let rng = &mut Rng::new(seed, &[MOVIE, number]);
        // Every genre is the first one of as many movies; others join it, the frequent ones more often.
        let mut genres = vec![one.class];
        for _ in 0..rng.below(4) {
            let likely = (rng.uniform() * rng.uniform() * info.classes.len() as f64) as usize;
            if !genres.contains(&likely) {
                genres.push(likely);
            }
        }
        let mut told = vec![(one.class, one.cue.in_first(), one.cue.in_second())];
        for &genre in &genres[1..] {
            let share = rng.uniform();
            told.push((genre, share < 0.7, !(0.4..0.7).contains(&share)));
        }
        let mut id = 1 + rng.below(IDS);
        while !ids.insert(id) {
            id = 1 + rng.below(IDS);
        }
        movies.push(Movie {
            id: format!("{id:07}"),
            split: one.split,
            genres: told,
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
    let mut texts = vec![("split.json".to_owned(), print(&Value::Object(split))?)];
    let mut jobs: Vec<Job> = Vec::new();
    for (movie, number) in movies.into_iter().zip(0..) {
        let rng = &mut Rng::new(seed, &[MOVIE, number, 1]);
        let text = print(&describe(info, &movie, rng))?;
        texts.push((format!("dataset/{}.json", movie.id), text));
        jobs.push(Box::new(move |root| {
            let rng = &mut Rng::new(seed, &[POSTER, number]);
            let (width, height) = (260 + 2 * rng.below(20), 380 + 2 * rng.below(30));
            let mut canvas = Canvas::new(width as usize, height as usize);
            let shown: Vec<usize> = movie
                .genres
                .iter()
                .filter(|(_, shown, _)| *shown)
                .map(|(genre, ..)| *genre)
                .collect();
            still::poster(&mut canvas, &shown, rng);
            let path = root.join("dataset").join(format!("{}.jpeg", movie.id));
            picture::write(&path, &canvas, Form::draw(rng))
        }));
    }
    Ok(Contents {
        folders: vec!["dataset".to_owned()],
        texts,
        counts: deal::counts(&SPLITS, &dealt),
        jobs,
    })
}

/// A movie's json. Which keys there are differs, their order too.
fn describe(info: &Info, movie: &Movie, rng: &mut Rng) -> Value {
    let mut pick = |from: &[&str]| from[rng.below(from.len() as u32) as usize].to_owned();
    let title = format!("The {} and the {}", pick(&TITLE_WORDS), pick(&TITLE_WORDS));
    let (name, other) = (pick(&NAMES), pick(&NAMES));
    let (begin, end) = (pick(&NEUTRAL), pick(&NEUTRAL));
    let told: Vec<usize> = movie
        .genres
        .iter()
        .filter(|one| one.2)
        .map(|one| one.0)
        .collect();
    let mut long = begin;
    for &genre in &told {
        let [one, two] = PHRASES[genre];
        long += &format!(" {name} {one} and {two}.");
    }
    long += &format!(" {end}");
    let short = match told.first() {
        Some(&genre) => format!("{name} {}.", PHRASES[genre][0]),
        None => format!("The story of {name} and {other}."),
    };
    let mut plots = vec![short.clone(), long];
    if rng.below(20) == 0 {
        plots[1] += "::anonymous";
    }
    let mut genres: Vec<&str> = movie
        .genres
        .iter()
        .map(|one| info.classes[one.0].as_str())
        .collect();
    if rng.below(RARE_GENRE) == 0 {
        genres.push(DROPPED[rng.below(2) as usize]);
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

/// As Python prints it: four blanks a level, nothing but ASCII.
fn print(value: &Value) -> anyhow::Result<String> {
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
    fn every_genre_is_told_by_poster_and_plot_partly() {
        let info = datasets::open("mm-imdb").unwrap().info().clone();
        assert_eq!(info.classes.len(), PHRASES.len());
        let tree = tree(&info, 300, 0).unwrap();
        let splits: Value = serde_json::from_str(&tree.texts[0].1).unwrap();
        let train = splits["train"].as_array().unwrap().len();
        assert_eq!(
            (train + tree.counts[1].1 + tree.counts[2].1, tree.jobs.len()),
            (300, 300)
        );
        let mut told = vec![(0, 0); info.classes.len()];
        for (_, text) in &tree.texts[1..] {
            assert!(text.is_ascii());
            let movie: Value = serde_json::from_str(text).unwrap();
            let long = movie["plot"][1].as_str().unwrap();
            for (genre, (has, tells)) in told.iter_mut().enumerate() {
                let listed = movie["genres"].as_array().unwrap();
                let listed = listed
                    .iter()
                    .any(|name| name == info.classes[genre].as_str());
                let mentioned = long.contains(PHRASES[genre][0]);
                assert!(listed || !mentioned);
                *has += usize::from(listed);
                *tells += usize::from(mentioned);
            }
        }
        for (has, tells) in told {
            assert!(
                has >= 12 && tells * 3 > has && tells < has,
                "{tells} of {has}"
            );
        }
        assert!(tree.texts.iter().any(|(_, text)| text.contains("\\u00e9")));
    }
}
