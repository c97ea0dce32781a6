//! The sounds of samples, decoded from the raw data for the page that shows shards.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use browse::{RowId, Sound, Sounds};
use datasets::{Input, ListOptions, Modality, Sample, Split};
use features::{Folder, MANIFEST_FILE};
use serde::Deserialize;

use crate::plan::Segment;
use crate::run::execute::{Options, start_pool};
use crate::run::scheduler;
use crate::source::Source;
use crate::workers::pool::{self, Pool};
use crate::workers::protocol::{Reply, Request};

/// How long to wait for a worker at a time.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Decodes sounds with decode workers.
pub struct RawSounds {
    pool: Pool,
    /// The samples of the raw data, by split and id.
    samples: HashMap<(Split, String), Sample>,
    source: Source,
    segment: Segment,
    /// The place of audio among the modalities.
    audio: usize,
}

/// What the manifest says of how the samples were listed.
#[derive(Default, Deserialize)]
struct Manifest {
    settings: Settings,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    listing: ListOptions,
    segment: Segment,
}

impl RawSounds {
    /// Lists the raw data, as the run that made the shards in `folder` has done, and starts the
    /// workers.
    ///
    /// # Errors
    /// The dataset has no audio, or the raw data cannot be listed.
    pub fn new(source: Source, folder: &Folder) -> anyhow::Result<RawSounds> {
        let info = source.dataset.info();
        let audio = info.modalities.position_of(Modality::Audio);
        let audio = audio
            .with_context(|| format!("--raw: {} has no sound; omit this option", info.name))?;
        let Settings { listing, segment } = settings(folder)?;
        let listed = source.dataset.list(&source.raw, &listing)?;
        let options = Options {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            clip_timeout: Duration::from_secs(pool::DEFAULT_TIMEOUT_SECONDS),
            worker_memory_mib: pool::DEFAULT_MEMORY_MIB,
            decoder: None,
            max_failures_in_a_row: 0,
        };
        let all: Vec<&Sample> = listed.samples.iter().collect();
        let (pool, _links) = start_pool(&options, &source, &all)?;
        let by_id = |sample: Sample| ((sample.split, sample.id.clone()), sample);
        Ok(RawSounds {
            pool,
            samples: listed.samples.into_iter().map(by_id).collect(),
            source,
            segment,
            audio,
        })
    }

    /// Returns the request that decodes a sample's sound, or why there is none.
    fn request(&self, sample: Option<&Sample>) -> Result<Request, String> {
        let sample = sample.ok_or("the raw data has no such sample")?;
        let span = match self.segment {
            Segment::Clip => None,
            Segment::Event => sample.segment,
        };
        let raw: &Path = &self.source.raw;
        let input = &sample.inputs[self.audio];
        match (scheduler::task(raw, Modality::Audio, input, span), input) {
            (Some(task), _) => Ok(Request {
                frame_pool: 0,
                all_packets: false,
                sound: true,
                tasks: vec![task],
            }),
            (None, Input::Absent(cause)) => Err(cause.to_string()),
            (None, _) => Err("the publisher provides none".to_owned()),
        }
    }
}

impl Sounds for RawSounds {
    fn of(&mut self, rows: &[(RowId, &str)]) -> anyhow::Result<Vec<Result<Sound, String>>> {
        let mut sounds = Vec::with_capacity(rows.len());
        let mut waiting = 0;
        for (number, ((split, _), id)) in rows.iter().enumerate() {
            let sample = self.samples.get(&(*split, (*id).to_owned()));
            sounds.push(match self.request(sample) {
                Ok(request) => {
                    self.pool.submit(number, request)?;
                    waiting += 1;
                    Err(String::new())
                }
                Err(reason) => Err(reason),
            });
        }
        while waiting > 0 {
            let Some((number, replies)) = self.pool.next(POLL_INTERVAL)? else {
                continue;
            };
            waiting -= 1;
            if let Some(sound) = sounds.get_mut(number) {
                *sound = replies
                    .into_iter()
                    .next()
                    .map_or_else(|| Err("no reply".to_owned()), sound_of);
            }
        }
        Ok(sounds)
    }
}

fn sound_of(reply: Reply) -> Result<Sound, String> {
    let content = reply.outcome.map_err(|failure| failure.to_string())?;
    let bytes = content.blobs.into_iter().next().unwrap_or_default();
    Ok(Sound {
        media_type: "audio/mpeg",
        bytes,
    })
}

/// Reads the settings of the run that made the shards. Without a manifest they are the usual ones.
fn settings(folder: &Folder) -> anyhow::Result<Settings> {
    let Some(bytes) = folder.read(MANIFEST_FILE)? else {
        return Ok(Settings::default());
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).with_context(|| {
        let path = folder.path_of(MANIFEST_FILE);
        format!("{}: no manifest of this tool; ingest again", path.display())
    })?;
    Ok(manifest.settings)
}
