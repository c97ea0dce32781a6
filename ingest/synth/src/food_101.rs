//! A miniature UPMC Food-101 in Kaggle's layout: `images/{train,test}/<class>/<class>_<n>.jpg` and
//! two files of titles.
//!
//! Titles have the defects of the published ones: they are cut at their first comma, printed as
//! Python lists if they hold an apostrophe, and hold HTML entities and escaped bytes; some are
//! empty. In the training file one quote is never closed, and the rows behind it name `.txt` files.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use datasets::Info;
use util::rng::Rng;

use crate::canvas::Canvas;
use crate::image_file::{self, Format};
use crate::plan::{self, Assignment, shuffle};
use crate::still_image::draw_dish;
use crate::{Contents, Job};

const SPLITS: [&str; 2] = ["train", "test"];

/// The published shares: 67,988 and 22,716 of 90,704 images.
const SHARES: [f64; 2] = [0.75, 0.25];

/// The allowed numbers of images.
const SAMPLES: RangeInclusive<usize> = 24..=60_000;

/// The number of numbers that a class has for its images.
const NUMBERS: u32 = 987;

/// On average one image name in this many has a second number.
const IMAGES_PER_SECOND_NUMBER: u32 = 60;

/// On average one page in this many has no title.
const PAGES_PER_MISSING_TITLE: u32 = 100;

/// The class with the quote that is never closed in the training file.
const UNCLOSED_QUOTE_CLASS: &str = "breakfast_burrito";

/// The streams of random numbers, one for each purpose.
const NAME: u32 = 1;
const TITLE: u32 = 2;
const IMAGE: u32 = 3;

/// Titles that carry the class; `{}` stands for the name of the dish.
const TITLES_WITH_CLASS: [&str; 8] = [
    "Easy {} Recipe",
    "How to Make {}",
    "{}",
    "{} Recipe",
    "The Best {} Ever, With Pictures",
    "{} Recipes",
    "Grandma's {}",
    "[Recipe] {}",
];

/// Titles that carry no class.
const TITLES_WITHOUT_CLASS: [&str; 8] = [
    "What We Had For Dinner",
    "Recipes",
    "Today's Favorites, Part Two",
    "Our Food Diary",
    "Tasting Notes",
    "Weekly Menu Plan",
    "Cooking at Home",
    "The Cook's Corner",
];

/// Names of web sites.
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

/// An image of the tree.
struct Photo {
    assignment: Assignment,
    /// Its file name without `.jpg`.
    stem: String,
    title: String,
}

/// Plans a tree of `samples` images.
pub fn plan(info: &Info, samples: usize, seed: u64) -> anyhow::Result<Contents> {
    plan::check_samples(&info.title, samples, SAMPLES)?;
    let shares = plan::split_shares(samples, &SHARES);
    let assignments = plan::assign(info.classes.len(), samples, &shares, seed);
    let counts = plan::split_counts(&SPLITS, &assignments);
    let mut photos = name_photos(info, &assignments, seed);
    // Sorted by class, in random order within a class.
    shuffle(&mut photos, &mut Rng::new(seed, &[NAME, 1000]));
    photos.sort_by_key(|photo| photo.assignment.class);
    let [train, test] = [0, 1].map(|split| title_list(info, &photos, split));
    let mut folders: BTreeSet<String> = BTreeSet::from(["texts".to_owned()]);
    let mut jobs: Vec<Job> = Vec::new();
    for (photo, number) in photos.into_iter().zip(0..) {
        let folder = format!(
            "images/{}/{}",
            SPLITS[photo.assignment.split], info.classes[photo.assignment.class]
        );
        let path = format!("{folder}/{}.jpg", photo.stem);
        folders.insert(folder);
        let Assignment { class, cue, .. } = photo.assignment;
        jobs.push(Box::new(move |root| {
            let rng = &mut Rng::new(seed, &[IMAGE, number]);
            let side = |rng: &mut Rng| 240 + 2 * rng.below(60) as usize;
            let mut canvas = Canvas::new(side(rng), side(rng));
            draw_dish(&mut canvas, cue.in_first().then_some(class), rng);
            image_file::write(&root.join(&path), &canvas, Format::random(rng))
        }));
    }
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

/// Returns the lines of a split's title file: file name, title and class of each image.
///
/// In the training file the first title of [`UNCLOSED_QUOTE_CLASS`] opens a quote that is never
/// closed, and the other rows of that class name `.txt` files.
fn title_list(info: &Info, photos: &[Photo], split: usize) -> String {
    let in_split = || {
        photos
            .iter()
            .filter(|photo| photo.assignment.split == split)
    };
    let is_behind_quote =
        |photo: &Photo| split == 0 && info.classes[photo.assignment.class] == UNCLOSED_QUOTE_CLASS;
    let unclosed = in_split().position(is_behind_quote);
    let mut list = String::new();
    for (row, photo) in in_split().enumerate() {
        let class = &info.classes[photo.assignment.class];
        let (extension, title) = match unclosed {
            Some(first) if first == row => ("jpg", format!("\"{}", photo.title)),
            Some(_) if is_behind_quote(photo) => ("txt", csv_field(&photo.title)),
            _ => ("jpg", csv_field(&photo.title)),
        };
        list += &format!("{}.{extension},{title},{class}\n", photo.stem);
    }
    list
}

/// Gives each image a title and a file name with a number that is unique within its class.
fn name_photos(info: &Info, assignments: &[Assignment], seed: u64) -> Vec<Photo> {
    let mut numbers: Vec<u32> = Vec::new();
    let mut class = usize::MAX;
    let mut photos = Vec::with_capacity(assignments.len());
    for (&assignment, number) in assignments.iter().zip(0..) {
        if assignment.class != class {
            class = assignment.class;
            numbers = (0..NUMBERS).collect();
            shuffle(&mut numbers, &mut Rng::new(seed, &[NAME, class as u32]));
        }
        let rng = &mut Rng::new(seed, &[TITLE, number]);
        let mut stem = format!(
            "{}_{}",
            info.classes[class],
            numbers.pop().unwrap_or_default()
        );
        if rng.below(IMAGES_PER_SECOND_NUMBER) == 0 {
            stem += &format!("-{}", rng.below(20));
        }
        let dish = assignment
            .cue
            .in_second()
            .then(|| info.classes[class].replace('_', " "));
        photos.push(Photo {
            assignment,
            stem,
            title: random_title(dish.as_deref(), rng),
        });
    }
    photos
}

/// Draws a page's title, with the publisher's defects.
fn random_title(dish: Option<&str>, rng: &mut Rng) -> String {
    if rng.below(PAGES_PER_MISSING_TITLE) == 0 {
        return "[]".to_owned();
    }
    let mut pick = |from: &[&str]| from[rng.below(from.len() as u32) as usize].to_owned();
    let subject = match dish {
        Some(dish) => pick(&TITLES_WITH_CLASS).replace("{}", &capitalize(dish)),
        None => pick(&TITLES_WITHOUT_CLASS),
    };
    let site = pick(&SITES);
    let mut title = match rng.below(5) {
        0 => subject,
        1 => format!("{subject}\t- {site}"),
        2 => format!("{subject} –  {site} "),
        _ => format!("{subject} | {site}"),
    };
    // The publisher printed titles with an apostrophe as Python lists, unless the page had an
    // entity.
    let listed = title.contains('\'') && rng.below(2) == 0;
    title = escape(&title, rng);
    if listed {
        title = format!("[[\"{title}\"]]");
    } else {
        title = title.replace('\'', "&#039;");
    }
    title.split(',').next().unwrap_or_default().to_owned()
}

/// Capitalizes each word.
fn capitalize(words: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    };
    words.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Replaces characters beyond ASCII by escaped UTF-8 bytes or by HTML entities.
fn escape(title: &str, rng: &mut Rng) -> String {
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

/// Quotes a title as a CSV writer does.
fn csv_field(title: &str) -> String {
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
    fn titles_have_each_published_defect_and_no_comma() {
        let info = datasets::open("food-101").unwrap().info().clone();
        let tree = plan(&info, 1010, 0).unwrap();
        let train = &tree.texts[0].1;
        for defect in [
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
            assert!(train.contains(defect), "{defect}");
        }
        let unbalanced = train
            .lines()
            .filter(|line| line.matches('"').count() % 2 == 1);
        // Only the quote that is never closed: CSV quoting closes those in titles cut at a comma.
        assert_eq!(unbalanced.count(), 1);
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
