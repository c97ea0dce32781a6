//! Where the raw data of the five datasets come from: addresses, sizes, licences, and what has to be
//! done by hand. The crate `fetch` reads this table.
//!
//! Each fact has the date on which it was looked up, and the document in which it was found. No
//! server was asked: there was no network where this table was made.

/// Where the raw data of a dataset come from, and under which terms.
#[derive(Debug, Clone, Copy)]
pub struct Sources {
    /// The name of the dataset, as in [`names`](crate::names).
    pub dataset: &'static str,
    /// The licence, or what is known instead.
    pub licence: &'static str,
    /// Whether the publisher states terms that a user has to accept.
    pub has_terms: bool,
    /// What crosses the network, in bytes, as far as known.
    pub transfer: u64,
    /// What lies on the disk in the end, in bytes, as far as known.
    pub disk: u64,
    /// The places, by what they hold.
    pub places: &'static [Place],
    /// How to get the data without `fetch`.
    pub by_hand: &'static str,
}

/// A place from which files are fetched.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What it is asked for: `publisher`, `mirror`, `kaggle`, `lists`, `split`.
    pub role: &'static str,
    /// The address to which paths are appended.
    pub address: &'static str,
    /// What is fetched from there.
    pub holds: &'static str,
    /// An account that it needs.
    pub account: Option<&'static str>,
    /// The document in which the address was found.
    pub found_in: &'static str,
    /// The date on which that document was read.
    pub date: &'static str,
}

/// A small file whose content is known.
#[derive(Debug, Clone, Copy)]
pub struct KnownFile {
    /// Its path behind the address of its place.
    pub path: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: &'static str,
}

impl Sources {
    /// The places of this role, in the order in which they are tried.
    pub fn places(&self, role: &str) -> impl Iterator<Item = &'static Place> {
        self.places.iter().filter(move |place| place.role == role)
    }
}

/// Returns the sources of a dataset.
pub fn sources(dataset: &str) -> Option<&'static Sources> {
    SOURCES.iter().find(|one| one.dataset == dataset)
}

/// The day on which all of these were looked up.
const DATE: &str = "2026-11-29";

/// The commit of CREMA-D's repository, of 21 March 2025.
pub const CREMA_D_COMMIT: &str = "1658cd342dff90010aa843eaeebd53610a08b1dc";
/// The clips in each of CREMA-D's folders.
pub const CREMA_D_CLIPS: usize = 7_442;
/// The lists of OGM-GE's repository at commit 343dc1d, for CREMA-D.
pub const CREMA_D_LISTS: [KnownFile; 2] = [
    KnownFile {
        path: "data/CREMAD/train.csv",
        size: 140_658,
        sha256: "68d0d3fd253830328fc92c68f3cf2e215db8c5b86757ad9c5112d2c76ba68bde",
    },
    KnownFile {
        path: "data/CREMAD/test.csv",
        size: 15_624,
        sha256: "14866c99301fd56fb4a16f8a7048a8a6372a47069aee9f216443bc718be45f1f",
    },
];
/// The same for Kinetics-Sound.
pub const KINETICS_SOUND_LISTS: [KnownFile; 2] = [
    KnownFile {
        path: "data/KineticSound/my_train.txt",
        size: 483_173,
        sha256: "e75bb596c30bf839adb3c2dc73b4a4617add66b36c2f416f96ac2e56a251751f",
    },
    KnownFile {
        path: "data/KineticSound/my_test.txt",
        size: 56_016,
        sha256: "3bb1fee2c9d30919cec6887a3e2fa27b7936cc3f46dff447d85ea21892a80a58",
    },
];
/// The id of AVE_Dataset.zip on Google Drive.
pub const AVE_DRIVE_ID: &str = "1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK";
/// The owner and name of UPMC Food-101 on Kaggle.
pub const FOOD_101_KAGGLE: &str = "gianmarco96/upmcfood101";

const OGM_GE: Place = Place {
    role: "lists",
    address: "https://raw.githubusercontent.com/GeWu-Lab/OGM-GE_CVPR2022/343dc1d95c9bda88f105c0da8d24f185e0e98b54",
    holds: "the lists of training and test clips that the paper uses (MIT licence)",
    account: None,
    found_in: "the repository GeWu-Lab/OGM-GE_CVPR2022, commit 343dc1d",
    date: DATE,
};

const SOURCES: [Sources; 5] = [
    Sources {
        dataset: "food-101",
        licence: "none stated; for research",
        has_terms: false,
        // Estimates.
        transfer: 6_000_000_000,
        disk: 6_000_000_000,
        places: &[
            Place {
                role: "publisher",
                address: "http://visiir.lip6.fr/data/public",
                holds: "UPMC_Food101.tar.gz: images and the texts of their pages",
                account: None,
                found_in: "Vincent-ZHQ/UniS-MMC, issue 1, where it is also said to be gone",
                date: DATE,
            },
            Place {
                role: "kaggle",
                address: "https://www.kaggle.com",
                holds: "gianmarco96/upmcfood101: images and titles",
                account: Some("a Kaggle account and its API token"),
                found_in: "YiLunLee/missing_aware_prompts, DATA.md; Kaggle/kaggle-api",
                date: DATE,
            },
        ],
        by_hand: "log in at https://www.kaggle.com/datasets/gianmarco96/upmcfood101, download the zip and unpack it into the raw folder",
    },
    Sources {
        dataset: "mm-imdb",
        licence: "none stated; texts and posters are IMDb's",
        has_terms: false,
        transfer: 8_700_000_000,
        disk: 8_900_000_000,
        places: &[
            Place {
                role: "publisher",
                address: "https://archive.org/download/mmimdb",
                holds: "mmimdb.tar.gz: posters, plots and the split; 8.1 GiB",
                account: None,
                found_in: "johnarevalo/gmu-mmimdb, README; the size in a README that fetches it",
                date: DATE,
            },
            Place {
                role: "publisher",
                address: "http://lisi1.unal.edu.co/mmimdb",
                holds: "the same; often not reachable",
                account: None,
                found_in: "johnarevalo/gmu-mmimdb, README",
                date: DATE,
            },
        ],
        by_hand: "download https://archive.org/download/mmimdb/mmimdb.tar.gz and unpack it into the raw folder",
    },
    Sources {
        dataset: "kinetics-sound",
        licence: "annotation CC BY 4.0; the clips remain their YouTube authors'",
        has_terms: true,
        // Estimates: no document that was found has the sizes of the archives.
        transfer: 300_000_000_000,
        disk: 27_000_000_000,
        places: &[
            Place {
                role: "publisher",
                address: "https://s3.amazonaws.com/kinetics/400",
                holds: "Kinetics-400 in many archives, and replacements of damaged clips",
                account: None,
                found_in: "cvdfoundation/kinetics-dataset, README and k400_downloader.sh",
                date: DATE,
            },
            OGM_GE,
        ],
        by_hand: "cut the clips that no archive holds out of their videos, as in `yt-dlp --download-sections \"*START-END\" -o TRAIN_OR_TEST/ID_START_END.mp4 https://www.youtube.com/watch?v=ID`; many are gone for good",
    },
    Sources {
        dataset: "ave",
        licence: "none stated; the clips remain their YouTube authors'",
        has_terms: false,
        // Estimates.
        transfer: 1_000_000_000,
        disk: 1_000_000_000,
        places: &[Place {
            role: "publisher",
            address: "https://drive.usercontent.google.com",
            holds: "AVE_Dataset.zip: clips, annotation and split",
            account: None,
            found_in: "YapengTian/AVE-ECCV18, README; wkentaro/gdown, download.py",
            date: DATE,
        }],
        by_hand: "open https://drive.google.com/open?id=1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK in a browser, download AVE_Dataset.zip and unpack it into the raw folder",
    },
    Sources {
        dataset: "crema-d",
        licence: "ODbL 1.0, contents DbCL 1.0",
        has_terms: true,
        transfer: 3_050_000_000,
        disk: 3_050_000_000,
        places: &[
            Place {
                role: "publisher",
                address: "https://github.com/CheyneyComputerScience/CREMA-D",
                holds: "the tables, and by Git LFS 7,442 videos and 7,442 sounds",
                account: None,
                found_in: "the repository itself, commit 1658cd3; git-lfs/git-lfs, docs/api/batch.md",
                date: DATE,
            },
            OGM_GE,
        ],
        by_hand: "install git-lfs and run `git clone https://github.com/CheyneyComputerScience/CREMA-D` or the mirror https://gitlab.com/cs-cooper-lab/crema-d-mirror",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dataset_has_sources_with_their_date() {
        for name in crate::names() {
            let sources = sources(name).unwrap();
            assert!(sources.places("publisher").next().is_some(), "{name}");
            assert!(sources.places.iter().all(|place| place.date.len() == 10));
            // The terms are those that the shards' manifest names.
            let licence = crate::open(name).unwrap().info().license.clone();
            assert_eq!(sources.has_terms, !licence.starts_with("none"), "{name}");
        }
        assert!(sources("nothing").is_none());
    }
}
