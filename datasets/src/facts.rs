//! What is published about the five datasets: classes in canonical order, sample counts, licences.
//!
//! The order of the classes never changes, because label indices in shards, checkpoints and
//! predictions depend on it.

use crate::modalities::{Modalities, Modality};
use crate::types::Info;

const IMAGE_TEXT: Modalities = Modalities::Two(Modality::Image, Modality::Text);
const AUDIO_VIDEO: Modalities = Modalities::Two(Modality::Audio, Modality::Video);

/// Registry names, in the order in which the paper presents them.
pub(crate) const NAMES: [&str; 5] = ["food-101", "mm-imdb", "kinetics-sound", "ave", "crema-d"];

fn owned(names: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// UPMC Food-101: 90,704 photographs, each with the title of the page that it came from.
pub(crate) fn food_101() -> Info {
    Info {
        name: "food-101".to_owned(),
        title: "UPMC Food-101".to_owned(),
        modalities: IMAGE_TEXT,
        classes: owned(FOOD_101),
        multi_label: false,
        expected: [Some(67_988), None, Some(22_716)],
        license: "none stated; research use".to_owned(),
    }
}

/// MM-IMDb: 25,959 movies with poster and plot, and any number of genres each.
pub(crate) fn mm_imdb() -> Info {
    Info {
        name: "mm-imdb".to_owned(),
        title: "MM-IMDb".to_owned(),
        modalities: IMAGE_TEXT,
        classes: owned(MM_IMDB.map(|(name, _)| name)),
        multi_label: true,
        expected: [Some(15_552), Some(2_608), Some(7_799)],
        license: "none stated; the data are IMDb's".to_owned(),
    }
}

/// Kinetics-Sound: the 31 classes of Kinetics-400 that are both visible and audible.
pub(crate) fn kinetics_sound() -> Info {
    Info {
        name: "kinetics-sound".to_owned(),
        title: "Kinetics-Sound".to_owned(),
        modalities: AUDIO_VIDEO,
        classes: owned(KINETICS_SOUND.map(|(name, ..)| name)),
        multi_label: false,
        // The counts of the paper. The published lists have 14,799 and 2,597 rows, but some of the
        // clips cannot be obtained any more.
        expected: [Some(14_739), None, Some(2_594)],
        license: "annotation CC BY 4.0; the clips are their YouTube authors'".to_owned(),
    }
}

/// AVE: 4,143 labelled events in 4,097 ten-second clips.
pub(crate) fn ave() -> Info {
    Info {
        name: "ave".to_owned(),
        title: "AVE".to_owned(),
        modalities: AUDIO_VIDEO,
        classes: owned(AVE.map(|(name, _)| name)),
        multi_label: false,
        expected: [Some(3_339), Some(402), Some(402)],
        license: "none stated; AudioSet clips, their YouTube authors'".to_owned(),
    }
}

/// CREMA-D: 7,442 clips, in which 91 actors say 12 sentences in six emotions.
pub(crate) fn crema_d() -> Info {
    Info {
        name: "crema-d".to_owned(),
        title: "CREMA-D".to_owned(),
        modalities: AUDIO_VIDEO,
        classes: owned(CREMA_D.map(|(_, name, ..)| name)),
        multi_label: false,
        expected: [Some(6_698), None, Some(744)],
        license: "ODbL 1.0, contents DbCL 1.0".to_owned(),
    }
}
/// The names of the 101 dishes, in alphabetical order.
#[rustfmt::skip]
pub(crate) const FOOD_101: [&str; 101] = [
    "apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare", "beet_salad", "beignets",
    "bibimbap", "bread_pudding", "breakfast_burrito", "bruschetta", "caesar_salad", "cannoli",
    "caprese_salad", "carrot_cake", "ceviche", "cheese_plate", "cheesecake", "chicken_curry",
    "chicken_quesadilla", "chicken_wings", "chocolate_cake", "chocolate_mousse", "churros", "clam_chowder",
    "club_sandwich", "crab_cakes", "creme_brulee", "croque_madame", "cup_cakes", "deviled_eggs", "donuts",
    "dumplings", "edamame", "eggs_benedict", "escargots", "falafel", "filet_mignon", "fish_and_chips",
    "foie_gras", "french_fries", "french_onion_soup", "french_toast", "fried_calamari", "fried_rice",
    "frozen_yogurt", "garlic_bread", "gnocchi", "greek_salad", "grilled_cheese_sandwich", "grilled_salmon",
    "guacamole", "gyoza", "hamburger", "hot_and_sour_soup", "hot_dog", "huevos_rancheros", "hummus",
    "ice_cream", "lasagna", "lobster_bisque", "lobster_roll_sandwich", "macaroni_and_cheese", "macarons",
    "miso_soup", "mussels", "nachos", "omelette", "onion_rings", "oysters", "pad_thai", "paella", "pancakes",
    "panna_cotta", "peking_duck", "pho", "pizza", "pork_chop", "poutine", "prime_rib", "pulled_pork_sandwich",
    "ramen", "ravioli", "red_velvet_cake", "risotto", "samosa", "sashimi", "scallops", "seaweed_salad",
    "shrimp_and_grits", "spaghetti_bolognese", "spaghetti_carbonara", "spring_rolls", "steak",
    "strawberry_shortcake", "sushi", "tacos", "takoyaki", "tiramisu", "tuna_tartare", "waffles",
];

/// Name of each of the 23 genres, and how many of the 25,959 movies have it; the most frequent
/// first.
pub(crate) const MM_IMDB: [(&str, usize); 23] = [
    ("Drama", 13_967),
    ("Comedy", 8_592),
    ("Romance", 5_364),
    ("Thriller", 5_192),
    ("Crime", 3_838),
    ("Action", 3_550),
    ("Adventure", 2_710),
    ("Horror", 2_703),
    ("Documentary", 2_082),
    ("Mystery", 2_057),
    ("Sci-Fi", 1_991),
    ("Fantasy", 1_933),
    ("Family", 1_668),
    ("Biography", 1_343),
    ("War", 1_335),
    ("History", 1_143),
    ("Music", 1_045),
    ("Animation", 997),
    ("Musical", 841),
    ("Western", 705),
    ("Sport", 634),
    ("Short", 471),
    ("Film-Noir", 338),
];

/// Genres that are no labels, because they occur only 71 times together; their movies are kept.
pub(crate) const MM_IMDB_DROPPED: [&str; 4] = ["News", "Adult", "Talk-Show", "Reality-TV"];

/// Name of each class, and its rows in the published lists for training and test; in alphabetical
/// order.
pub(crate) const KINETICS_SOUND: [(&str, usize, usize); 31] = [
    ("blowing nose", 268, 81),
    ("blowing out candles", 690, 92),
    ("bowling", 607, 87),
    ("chopping wood", 512, 87),
    ("dribbling basketball", 497, 87),
    ("laughing", 445, 68),
    ("mowing lawn", 635, 90),
    ("playing accordion", 478, 90),
    ("playing bagpipes", 457, 86),
    ("playing bass guitar", 605, 79),
    ("playing clarinet", 563, 91),
    ("playing drums", 486, 88),
    ("playing guitar", 604, 73),
    ("playing harmonica", 592, 85),
    ("playing keyboard", 366, 86),
    ("playing organ", 339, 91),
    ("playing piano", 333, 82),
    ("playing saxophone", 489, 84),
    ("playing trombone", 653, 90),
    ("playing trumpet", 538, 90),
    ("playing violin", 654, 83),
    ("playing xylophone", 386, 91),
    ("ripping paper", 281, 80),
    ("shoveling snow", 493, 92),
    ("shuffling cards", 395, 79),
    ("singing", 672, 66),
    ("stomping grapes", 197, 85),
    ("tap dancing", 523, 84),
    ("tapping guitar", 433, 91),
    ("tapping pen", 354, 76),
    ("tickling", 254, 63),
];

/// Name of each category, and its rows of train, val and test; in the order in which they first
/// occur in `Annotations.txt`.
pub(crate) const AVE: [(&str, [usize; 3]); 28] = [
    ("Church bell", [152, 18, 18]),
    ("Male speech, man speaking", [142, 17, 17]),
    ("Bark", [137, 17, 17]),
    ("Fixed-wing aircraft, airplane", [148, 18, 18]),
    ("Race car, auto racing", [152, 18, 18]),
    ("Female speech, woman speaking", [141, 17, 17]),
    ("Helicopter", [144, 17, 17]),
    ("Violin, fiddle", [151, 18, 18]),
    ("Flute", [138, 17, 17]),
    ("Ukulele", [131, 16, 16]),
    ("Frying (food)", [146, 18, 18]),
    ("Truck", [112, 13, 13]),
    ("Shofar", [82, 10, 10]),
    ("Motorcycle", [81, 9, 9]),
    ("Acoustic guitar", [150, 18, 18]),
    ("Train horn", [142, 17, 17]),
    ("Clock", [128, 16, 16]),
    ("Banjo", [147, 18, 18]),
    ("Goat", [80, 10, 10]),
    ("Baby cry, infant cry", [67, 8, 8]),
    ("Bus", [57, 6, 6]),
    ("Chainsaw", [128, 16, 16]),
    ("Cat", [48, 6, 6]),
    ("Horse", [52, 6, 6]),
    ("Toilet flush", [144, 18, 18]),
    ("Rodents, rats, mice", [89, 10, 10]),
    ("Accordion", [124, 15, 15]),
    ("Mandolin", [126, 15, 15]),
];

/// Code of each emotion in file names, its name, and its rows in the published lists for training
/// and test; in alphabetical order.
pub(crate) const CREMA_D: [(&str, &str, usize, usize); 6] = [
    ("ANG", "Anger", 1_166, 105),
    ("DIS", "Disgust", 1_142, 129),
    ("FEA", "Fear", 1_138, 133),
    ("HAP", "Happy", 1_148, 123),
    ("NEU", "Neutral", 973, 114),
    ("SAD", "Sad", 1_131, 140),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_counts_add_up_to_split_counts() {
        assert_eq!(CREMA_D.iter().map(|one| one.2).sum::<usize>(), 6_698);
        assert_eq!(CREMA_D.iter().map(|one| one.3).sum::<usize>(), 744);
        assert_eq!(
            KINETICS_SOUND.iter().map(|one| one.1).sum::<usize>(),
            14_799
        );
        assert_eq!(KINETICS_SOUND.iter().map(|one| one.2).sum::<usize>(), 2_597);
        for (split, rows) in [3_339, 402, 402].into_iter().enumerate() {
            assert_eq!(AVE.iter().map(|one| one.1[split]).sum::<usize>(), rows);
        }
    }

    #[test]
    fn class_names_are_distinct() {
        for info in [food_101(), mm_imdb(), kinetics_sound(), ave(), crema_d()] {
            let mut names = info.classes.clone();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), info.classes.len(), "{}", info.name);
        }
    }
}
