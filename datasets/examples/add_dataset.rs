//! Adds a sixth dataset by implementing [`Dataset`]: videos in folders `SPLIT/CLASS/CLIP.mp4`.
//!
//! ```sh
//! cargo run -p datasets --example add_dataset -- FOLDER
//! ```
//!
//! A dataset that the programs should know by name is a module of the crate instead, such as
//! `datasets/src/ave.rs`: it has the shared readers of trees and lists, and a line in
//! `datasets::open`. `CONTRIBUTING.md` lists the steps.

use std::fs;
use std::path::{Path, PathBuf};

use datasets::{
    AbsenceCause, CheckOptions, Dataset, Error, Info, Input, ListOptions, Listing, Modalities,
    Modality, Note, NoteKind, Sample, Split,
};

/// Clips of two classes, each with audio and video in one file.
struct Instruments {
    info: Info,
}

impl Instruments {
    fn new() -> Instruments {
        Instruments {
            info: Info {
                name: "instruments".to_owned(),
                title: "Instruments".to_owned(),
                modalities: Modalities::Two(Modality::Audio, Modality::Video),
                // The order of the classes defines the labels, so it must never change.
                classes: vec!["piano".to_owned(), "violin".to_owned()],
                multi_label: false,
                expected: [None; 3],
                license: "CC BY 4.0".to_owned(),
            },
        }
    }
}

impl Dataset for Instruments {
    fn info(&self) -> &Info {
        &self.info
    }

    /// Lists the samples by split, class and file name, so that the result does not depend on the
    /// order in which the system lists a folder.
    fn list(&self, raw: &Path, _options: &ListOptions) -> Result<Listing, Error> {
        let mut samples = Vec::new();
        let mut notes = Vec::new();
        for split in Split::ALL {
            for (label, class) in (0..).zip(&self.info.classes) {
                let folder = format!("{split}/{class}");
                for clip in clips(&raw.join(&folder))? {
                    // Paths in a listing are relative to the raw root.
                    let file = format!("{folder}/{clip}.mp4");
                    let is_empty = fs::metadata(raw.join(&file)).is_ok_and(|meta| meta.len() == 0);
                    let input = if is_empty {
                        let message = "the file holds no bytes";
                        notes.push(Note::new(NoteKind::Empty, file.as_str(), message));
                        Input::Absent(AbsenceCause::EmptyFile(file.clone()))
                    } else {
                        Input::Files(vec![PathBuf::from(&file)])
                    };
                    samples.push(Sample {
                        id: format!("{split}_{class}_{clip}"),
                        split,
                        labels: vec![label],
                        // The audio is the track of the video, so both inputs are the same file.
                        inputs: vec![input.clone(), input],
                        source: file,
                        segment: None,
                    });
                }
            }
        }
        if samples.is_empty() {
            return Err(Error::Raw {
                path: raw.to_owned(),
                problem: "no clips in it".to_owned(),
                remedy: "expected {train,val,test}/{piano,violin}/<clip>.mp4 there".to_owned(),
            });
        }
        Ok(Listing {
            layout: "class folders".to_owned(),
            samples,
            notes,
        })
    }
}

/// Returns the sorted names, without extension, of the videos in a folder; none if it is missing.
fn clips(folder: &Path) -> Result<Vec<String>, Error> {
    let io_error = |cause| Error::Io {
        path: folder.to_owned(),
        cause,
    };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        if let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".mp4")) {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn main() -> Result<(), Error> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let raw = Path::new(&folder);
    let dataset = Instruments::new();
    for sample in dataset.list(raw, &ListOptions::default())?.samples {
        println!("{} {:?} {:?}", sample.id, sample.labels, sample.inputs);
    }
    // The checks of `ingest check` work for any implementation.
    let report = datasets::check(&dataset, raw, &CheckOptions::default())?;
    for class in &report.classes {
        println!(
            "{}: {} samples, {} complete",
            class.name, class.listed, class.complete
        );
    }
    Ok(())
}
