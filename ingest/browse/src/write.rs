//! Reads the media of the rows that are shown, and writes the pages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use features::shards::{Fetched, RowReader};
use features::{Folder, ShardSpec, Shards};
use util::atomic;

use crate::cards::{self, Card};
use crate::choice;
use crate::failures::Failures;
use crate::pages::{FirstPage, SamplesPages, is_samples_page, samples_page};
use crate::rows::{self, Row, RowId};
use crate::sounds::Sounds;

/// The rows whose media are in memory at once; with 9 frames each about 20 MB.
const ROWS_AT_ONCE: usize = 64;

/// Which samples are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This many of each class and split, and of each reason for which something is missing.
    Examples(usize),
    /// All, on pages of this many.
    All(usize),
}

/// Shards, ready to be shown.
pub struct Browse {
    shards: Shards,
    rows: Vec<Row>,
    failures: Failures,
}

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// The pages, the first one first.
    pub pages: Vec<PathBuf>,
    /// The rows of all shards.
    pub rows: usize,
    /// The samples that are shown.
    pub samples: usize,
    /// The bytes of all pages; 0 if nothing was written.
    pub bytes: u64,
    /// The samples that can be heard.
    pub sounds: usize,
    /// The bytes of their sounds, before they are encoded as text.
    pub sound_bytes: u64,
}

/// What will be written.
struct Plan {
    /// The positions of the samples that are shown.
    shown: Vec<usize>,
    /// The pages of samples, unless there is only one page.
    pages: Option<SamplesPages>,
}

impl Browse {
    /// Opens a folder of shards and reads the small columns of all rows.
    ///
    /// # Errors
    /// There are no shards, or one cannot be read.
    pub fn open(folder: &Folder) -> anyhow::Result<Browse> {
        let shards = Shards::open(folder)?;
        let rows = rows::read(&shards)?;
        let failures = Failures::read(folder, shards.spec(), &rows)?;
        Ok(Browse {
            shards,
            rows,
            failures,
        })
    }

    /// Returns what all shards have in common.
    pub fn spec(&self) -> &ShardSpec {
        self.shards.spec()
    }

    fn plan(&self, choice: Choice, page: &Path) -> anyhow::Result<Plan> {
        Ok(match choice {
            Choice::Examples(per_class) => Plan {
                shown: choice::examples(&self.rows, self.spec().modalities, per_class),
                pages: None,
            },
            Choice::All(_) if page.extension().is_none() => {
                let page = page.display();
                bail!("{page}: the first page needs an extension, such as {page}.html")
            }
            Choice::All(size) => {
                let shown = choice::sorted(&self.rows, (0..self.rows.len()).collect());
                let pages = SamplesPages::new(&self.rows, &shown, size.max(1), page);
                Plan {
                    shown,
                    pages: Some(pages),
                }
            }
        })
    }

    /// Returns what [`Browse::write`] would write, and writes nothing.
    ///
    /// # Errors
    /// The page's name has no extension, and there are pages beside it.
    pub fn describe(&self, choice: Choice, page: &Path) -> anyhow::Result<Written> {
        Ok(self.written(&self.plan(choice, page)?, page))
    }

    fn written(&self, plan: &Plan, page: &Path) -> Written {
        let others = plan.pages.iter().flat_map(|pages| {
            let folder = &pages.folder;
            pages
                .pages
                .iter()
                .map(move |page| folder.join(page.file_name()))
        });
        Written {
            pages: [page.to_owned()].into_iter().chain(others).collect(),
            rows: self.rows.len(),
            samples: plan.shown.len(),
            bytes: 0,
            sounds: 0,
            sound_bytes: 0,
        }
    }

    /// Writes the page, and with [`Choice::All`] the pages of samples in a folder beside it that has
    /// its name without ".html". `step` is called for each sample.
    ///
    /// # Errors
    /// A shard cannot be read, or a page cannot be written.
    pub fn write(
        &self,
        choice: Choice,
        page: &Path,
        mut sounds: Option<&mut dyn Sounds>,
        step: &mut dyn FnMut(),
    ) -> anyhow::Result<Written> {
        let plan = self.plan(choice, page)?;
        let mut written = self.written(&plan, page);
        let folder = self.shards.folder().to_string();
        let first = FirstPage {
            spec: self.spec(),
            folder: &folder,
            rows: &self.rows,
            failures: &self.failures,
        };
        let Some(pages) = &plan.pages else {
            let cards = self.cards(&plan.shown, &mut sounds, &mut written, step)?;
            write(page, first.with_examples(&plan.shown, &cards), &mut written)?;
            return Ok(written);
        };
        if pages.folder == page {
            bail!(
                "{}: the page needs a name that ends with .html",
                page.display()
            );
        }
        fs::create_dir_all(&pages.folder)
            .with_context(|| format!("{}: cannot create this folder", pages.folder.display()))?;
        for (at, samples) in pages.pages.iter().enumerate() {
            let cards = self.cards(&samples.samples, &mut sounds, &mut written, step)?;
            let html = samples_page(self.spec(), &self.rows, pages, at, page, &cards);
            write(&pages.folder.join(samples.file_name()), html, &mut written)?;
        }
        remove_old(pages)?;
        // The first page last: what it links to is there.
        write(page, first.with_list(pages), &mut written)?;
        Ok(written)
    }

    /// Returns the cards of samples.
    fn cards(
        &self,
        samples: &[usize],
        sounds: &mut Option<&mut dyn Sounds>,
        written: &mut Written,
        step: &mut dyn FnMut(),
    ) -> anyhow::Result<Vec<String>> {
        let mut reader = RowReader::new(&self.shards);
        let mut cards = Vec::with_capacity(samples.len());
        for part in samples.chunks(ROWS_AT_ONCE) {
            let rows: Vec<&Row> = part.iter().map(|&at| &self.rows[at]).collect();
            // All samples of a page have one split; those of a single page may have three.
            for rows in rows.chunk_by(|a, b| a.at.0 == b.at.0) {
                let fetched = self.fetch(&mut reader, rows)?;
                let heard = match sounds {
                    Some(sounds) => Some(sounds.of(&ids(rows))?),
                    None => None,
                };
                for sound in heard.iter().flatten().flatten() {
                    written.sounds += 1;
                    written.sound_bytes += sound.bytes.len() as u64;
                }
                let shown: Vec<Card> = rows
                    .iter()
                    .enumerate()
                    .map(|(i, row)| Card {
                        row,
                        fetched: &fetched[i],
                        sound: heard.as_ref().and_then(|heard| heard.get(i)),
                    })
                    .collect();
                cards.extend(cards::markup(self.spec(), &shown));
                rows.iter().for_each(|_| step());
            }
        }
        Ok(cards)
    }

    /// Reads the media of rows of one split.
    fn fetch(&self, reader: &mut RowReader, rows: &[&Row]) -> anyhow::Result<Vec<Fetched>> {
        let Some(first) = rows.first() else {
            return Ok(Vec::new());
        };
        let numbers: Vec<u32> = rows.iter().map(|row| row.at.1).collect();
        let wanted: Vec<[bool; 2]> = rows.iter().map(|row| row.present).collect();
        Ok(reader.fetch(first.at.0, &numbers, &wanted)?)
    }
}

fn ids<'a>(rows: &[&'a Row]) -> Vec<(RowId, &'a str)> {
    rows.iter().map(|row| (row.at, row.id.as_str())).collect()
}

fn write(path: &Path, html: String, written: &mut Written) -> anyhow::Result<()> {
    atomic::write(path, &html).with_context(|| {
        format!(
            "{}: cannot be written; choose another --out",
            path.display()
        )
    })?;
    written.bytes += html.len() as u64;
    Ok(())
}

/// Removes pages of samples that an earlier run has written and this one has not.
fn remove_old(pages: &SamplesPages) -> anyhow::Result<()> {
    let place = || pages.folder.display().to_string();
    let own: Vec<String> = pages.pages.iter().map(|page| page.file_name()).collect();
    for entry in fs::read_dir(&pages.folder).with_context(place)? {
        let entry = entry.with_context(place)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_samples_page(&name) && !own.contains(&name) {
            fs::remove_file(entry.path()).with_context(place)?;
        }
    }
    Ok(())
}
