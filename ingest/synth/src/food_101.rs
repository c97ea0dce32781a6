//! A miniature UPMC Food-101 in Kaggle's layout: `images/{train,test}/<class>/<class>_<n>.jpg` and two files of titles.
//!
//! Titles are as dirty as the published ones: cut at their first comma, printed as Python lists where they hold an
//! apostrophe, with HTML entities and printed bytes; some pages have none. In the training file one quote is never
//! closed, and the rows behind it name `.txt` files.

use std::collections::BTreeSet;

use datasets::Info;
use util::rng::Rng;

use crate::canvas::Canvas;
use crate::deal::{self, Dealt, shuffle};
use crate::picture::{self, Form};
use crate::{Contents, Job, still};

const SPLITS: [&str; 2] = ["train", "test"];

/// The dataset's own shares: 67,988 and 22,716.
const SHARES: [f64; 2] = [0.75, 0.25];

/// Fewest and most images: numbers end at 986 in every class.
const RANGE: (usize, usize) = (24, 60_000);
const NUMBERS: u32 = 987;

/// One image name in so many has a second number.
const TWICE_NUMBERED: u32 = 60;

/// One page in so many has no title.
const UNTITLED: u32 = 100;

/// The class whose training titles hold the quote that is never closed.
const BROKEN: &str = "breakfast_burrito";

/// Streams of random numbers.
const NAME: u32 = 1;
const TITLE: u32 = 2;
const IMAGE: u32 = 3;

/// Around the name of a dish.
const TOLD: [&str; 8] = [
    "Easy {} Recipe",
    "How to Make {}",
    "{}",
    "{} Recipe",
    "The Best {} Ever, With Pictures",
    "{} Recipes",
    "Grandma's {}",
    "[Recipe] {}",
];

/// What goes with any dish.
const UNTOLD: [&str; 8] = [
    "What We Had For Dinner",
    "Recipes",
    "Today's Favorites, Part Two",
    "Our Food Diary",
    "Tasting Notes",
    "Weekly Menu Plan",
    "Cooking at Home",
    "The Cook's Corner",
];

/// Names of pages.
const SITES: [&str; 10] = [
    "The Copper Spoon",
    "Salt & Fennel",
    "Aunt Vera's Table",
    "Café Lumière",
    "Two Forks – A Food Blog",
    "Kitchen\u{a0}Notes",
    "Miller's Pantry",
    "Northside Eats™",
    "Fork & Flame",
    "Plain Cooking",
];

/// One image to be.
struct Photo {
    dealt: Dealt,
    /// Without `.jpg`.
    stem: String,
    title: String,
}

/// Plans a tree of `samples` images.
pub fn tree(info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    deal::check_range(&info.title, samples, RANGE.0, RANGE.1)?;
    let shares = deal::shares(samples, &SHARES);
    let dealt = deal::deal(info.classes.len(), samples, &shares, seed);
    let counts = deal::counts(&SPLITS, &dealt);
    let mut photos = name(info, &dealt, seed);
    // By class, in no order within.
    shuffle(&mut photos, &mut Rng::new(seed, &[NAME, 1000]));
    photos.sort_by_key(|photo| photo.dealt.class);
    let mut lists = [String::new(), String::new()];
    for (split, list) in lists.iter_mut().enumerate() {
        let broken = |photo: &&Photo| split == 0 && info.classes[photo.dealt.class] == BROKEN;
        let of_split = || photos.iter().filter(|photo| photo.dealt.split == split);
        let first_broken = of_split().position(|photo| broken(&photo));
        for (place, photo) in of_split().enumerate() {
            let class = &info.classes[photo.dealt.class];
            let (ending, title) = match first_broken {
                Some(first) if first == place => ("jpg", format!("\"{}", photo.title)),
                Some(_) if broken(&photo) => ("txt", quoted(&photo.title)),
                _ => ("jpg", quoted(&photo.title)),
            };
            *list += &format!("{}.{ending},{title},{class}\n", photo.stem);
        }
    }
    let mut folders: BTreeSet<String> = BTreeSet::from(["texts".to_owned()]);
    let mut jobs: Vec<Job> = Vec::new();
    for (photo, number) in photos.into_iter().zip(0..) {
        let folder = format!(
            "images/{}/{}",
            SPLITS[photo.dealt.split], info.classes[photo.dealt.class]
        );
        let path = format!("{folder}/{}.jpg", photo.stem);
        folders.insert(folder);
        let Dealt { class, cue, .. } = photo.dealt;
        jobs.push(Box::new(move |root| {
            let rng = &mut Rng::new(seed, &[IMAGE, number]);
            let side = |rng: &mut Rng| 240 + 2 * rng.below(60) as usize;
            let mut canvas = Canvas::new(side(rng), side(rng));
            still::dish(&mut canvas, cue.in_first().then_some(class), rng);
            picture::write(&root.join(&path), &canvas, Form::draw(rng))
        }));
    }
    let [train, test] = lists;
    Ok(Contents {
        folders: folders.into_iter().collect(),
        texts: vec![
            ("texts/train_titles.csv".to_owned(), train),
            ("texts/test_titles.csv".to_owned(), test),
        ],
        counts,
        jobs,
    })
}

/// Gives every image a number that no other of its class has, and a title.
fn name(info: &Info, dealt: &[Dealt], seed: u64) -> Vec<Photo> {
    let mut numbers: Vec<u32> = Vec::new();
    let mut class = usize::MAX;
    let mut photos = Vec::with_capacity(dealt.len());
    for (&one, number) in dealt.iter().zip(0..) {
        if one.class != class {
            class = one.class;
            numbers = (0..NUMBERS).collect();
            shuffle(&mut numbers, &mut Rng::new(seed, &[NAME, class as u32]));
        }
        let rng = &mut Rng::new(seed, &[TITLE, number]);
        let mut stem = format!(
            "{}_{}",
            info.classes[class],
            numbers.pop().unwrap_or_default()
        );
        if rng.below(TWICE_NUMBERED) == 0 {
            stem += &format!("-{}", rng.below(20));
        }
        let dish = one
            .cue
            .in_second()
            .then(|| info.classes[class].replace('_', " "));
        photos.push(Photo {
            dealt: one,
            stem,
            title: title(dish.as_deref(), rng),
        });
    }
    photos
}

/// A page's title as the publisher printed it.
fn title(dish: Option<&str>, rng: &mut Rng) -> String {
    if rng.below(UNTITLED) == 0 {
        return "[]".to_owned();
    }
    let mut pick = |from: &[&str]| from[rng.below(from.len() as u32) as usize].to_owned();
    let what = match dish {
        Some(dish) => pick(&TOLD).replace("{}", &capitals(dish)),
        None => pick(&UNTOLD),
    };
    let site = pick(&SITES);
    let mut title = match rng.below(5) {
        0 => what,
        1 => format!("{what}\t- {site}"),
        2 => format!("{what} –  {site} "),
        _ => format!("{what} | {site}"),
    };
    // One with an apostrophe came through Python's own way of printing a list, unless the page had an entity there.
    let listed = title.contains('\'') && rng.below(2) == 0;
    title = dirty(&title, rng);
    if listed {
        title = format!("[[\"{title}\"]]");
    } else {
        title = title.replace('\'', "&#039;");
    }
    title.split(',').next().unwrap_or_default().to_owned()
}

fn capitals(words: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    };
    words.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Characters beyond ASCII as printed bytes or as entities.
fn dirty(title: &str, rng: &mut Rng) -> String {
    let as_entities = rng.below(3) == 0;
    let mut out = String::new();
    for c in title.chars() {
        match c {
            '&' => out += ["&amp;", "&amp;", "&"][rng.below(3) as usize],
            '\t' => out += "\\t",
            c if c.is_ascii() => out.push(c),
            c if as_entities => out += &format!("&#{};", u32::from(c)),
            c => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    out += &format!("\\x{byte:02x}");
                }
            }
        }
    }
    out
}

/// As a writer of CSV has it.
fn quoted(title: &str) -> String {
    if title.contains('"') {
        format!("\"{}\"", title.replace('"', "\"\""))
    } else {
        title.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_have_every_kind_of_dirt_and_no_comma() {
        let info = datasets::open("food-101").unwrap().info().clone();
        let tree = tree(&info, 1010, 0).unwrap();
        let train = &tree.texts[0].1;
        for dirt in [
            "[[\"\"",
            "\\xe2\\x80\\x93",
            "&amp;",
            "&#039;",
            "\\t",
            ",[],",
            ".txt,",
            "_",
            "\"\"]]\",",
        ] {
            assert!(train.contains(dirt), "{dirt}");
        }
        let odd = train
            .lines()
            .filter(|line| line.matches('"').count() % 2 == 1);
        // The one never closed; titles cut at their comma are closed by CSV all the same.
        assert_eq!(odd.count(), 1);
        for line in train.lines().chain(tree.texts[1].1.lines()) {
            assert_eq!(line.matches(',').count(), 2, "{line}");
        }
        assert_eq!(
            tree.texts
                .iter()
                .map(|(_, text)| text.lines().count())
                .sum::<usize>(),
            1010
        );
    }
}
