//! The child that decodes: reads requests from stdin, answers on stdout, knows nothing but the files it is told.
//!
//! It is confined before it opens the first file: memory, processor time per request, no file may be written, no core
//! dumps. What libav or a picture decoder does to it (crash, endless loop) ends this process alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use datasets::Modality;
use features::{MelFrontEnd, image};

use crate::decode::demux::{self, Track, Tracks, Wanted};
use crate::decode::{Health, audio, libav, video};
use crate::failure::{self, Failure};
use crate::protocol::{self, Content, File, Hello, Reply, Request, Task};
use crate::sys;

/// Bytes of a text file that are read.
const MAX_TEXT_BYTES: u64 = 4 << 20;

/// Bytes of an encoded picture that are read.
const MAX_PICTURE_BYTES: u64 = 64 << 20;

/// Bytes that must be free for a worker to begin: the least that a clip of ordinary size takes.
const HEADROOM: usize = 128 << 20;

/// What the parent lets it use.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct Args {
    /// Address space in MiB
    #[arg(long)]
    pub memory_mib: u64,
    /// Processor seconds per request
    #[arg(long)]
    pub cpu_seconds: u64,
}

/// Serves until stdin closes.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    sys::confine(sys::Limits {
        memory: args.memory_mib << 20,
    })
    .context("cannot limit the decode worker")?;
    // A limit below what the program itself takes would show as every file being unreadable.
    Vec::<u8>::new()
        .try_reserve_exact(HEADROOM)
        .context("the decode worker's memory limit leaves no room")?;
    // What a panic says would only confuse the parent's stderr; the reply tells that there was one.
    std::panic::set_hook(Box::new(|_| {}));
    libav::init().context("cannot start libav")?;
    let mut front_end = MelFrontEnd::new();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    protocol::send(
        &mut output,
        &Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
    )?;
    while let Some(request) = protocol::receive::<Request>(&mut input)? {
        sys::allow_cpu(args.cpu_seconds)?;
        serve(&request, &mut front_end, &mut output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(
    request: &Request,
    front_end: &mut MelFrontEnd,
    output: &mut impl Write,
) -> io::Result<()> {
    let mut files = Files::default();
    for (number, task) in request.tasks.iter().enumerate() {
        let later = &request.tasks[number..];
        let reply = catch_unwind(AssertUnwindSafe(|| {
            answer(task, later, request.pool, &mut files, front_end)
        }))
        .unwrap_or_else(|_| Reply {
            outcome: Err(Failure::with(failure::CRASHED, "a panic")),
            warnings: Vec::new(),
        });
        protocol::send_reply(output, reply)?;
    }
    Ok(())
}

/// Tries a task's files until one works.
fn answer(
    task: &Task,
    later: &[Task],
    pool: usize,
    files: &mut Files,
    front_end: &mut MelFrontEnd,
) -> Reply {
    let mut tried: Vec<(&File, Failure)> = Vec::new();
    for file in &task.files {
        let mut warnings = Vec::new();
        let outcome = match task.modality {
            Modality::Audio => files.audio(&file.path, later).and_then(|track| {
                let audio = audio::decode(&track)?;
                warnings.extend(damage(audio.health, "audio frame"));
                let mel = front_end.compute(&audio.samples);
                let blob = mel
                    .values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                Ok(Content {
                    seconds: Some(audio.seconds as f32),
                    times: Vec::new(),
                    blobs: vec![blob],
                })
            }),
            Modality::Video => files.video(&file.path, later).and_then(|track| {
                let video = video::decode(&track, pool)?;
                warnings.extend(damage(video.health, "frame"));
                Ok(Content {
                    seconds: Some(video.seconds as f32),
                    times: video.times,
                    blobs: video.frames,
                })
            }),
            Modality::Image => read_picture(&file.path),
            Modality::Text => read_text(&file.path),
        };
        match outcome {
            Ok(content) => {
                warnings.extend(tried.iter().map(|(before, why)| {
                    Failure::with(
                        "second choice",
                        format!("{}: {why}; took {}", before.name, file.name),
                    )
                }));
                return Reply {
                    outcome: Ok(content),
                    warnings,
                };
            }
            Err(failure) => tried.push((file, failure)),
        }
    }
    Reply {
        outcome: Err(summary(tried)),
        warnings: Vec::new(),
    }
}

/// One failure out of all: the best candidate's, with what became of the others.
fn summary(tried: Vec<(&File, Failure)>) -> Failure {
    let mut all = tried.into_iter();
    let Some((_, mut first)) = all.next() else {
        return Failure::new(failure::NO_FILE);
    };
    for (file, other) in all {
        let separator = if first.detail.is_empty() { "" } else { "; " };
        first.detail = format!("{}{separator}{}: {other}", first.detail, file.name);
    }
    first
}

fn damage(health: Health, what: &str) -> Option<Failure> {
    (health.bad > 0).then(|| Failure::with("partly damaged", health.describe(what)))
}

/// The files of one request. One that serves both modalities is read once.
#[derive(Default)]
struct Files(BTreeMap<PathBuf, Result<Tracks, Failure>>);

impl Files {
    fn tracks(&mut self, path: &Path, later: &[Task]) -> Result<&mut Tracks, Failure> {
        if !self.0.contains_key(path) {
            let wants = |modality| {
                let of = |task: &Task| {
                    task.modality == modality && task.files.iter().any(|file| file.path == path)
                };
                later.iter().any(of)
            };
            let wanted = Wanted {
                audio: wants(Modality::Audio),
                video: wants(Modality::Video),
            };
            self.0.insert(path.to_owned(), demux::demux(path, wanted));
        }
        match self.0.get_mut(path) {
            Some(Ok(tracks)) => Ok(tracks),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::new(failure::NO_FILE)),
        }
    }

    fn audio(&mut self, path: &Path, later: &[Task]) -> Result<Track, Failure> {
        let taken = Err(Failure::new(failure::NO_AUDIO));
        self.tracks(path, later)
            .and_then(|tracks| std::mem::replace(&mut tracks.audio, taken))
    }

    fn video(&mut self, path: &Path, later: &[Task]) -> Result<Track, Failure> {
        let taken = Err(Failure::new(failure::NO_VIDEO));
        self.tracks(path, later)
            .and_then(|tracks| std::mem::replace(&mut tracks.video, taken))
    }
}

fn read_picture(path: &Path) -> Result<Content, Failure> {
    let bytes = read_bounded(path, MAX_PICTURE_BYTES)?;
    let jpeg = image::shrink_to_jpeg(
        &image::decode(&bytes)?,
        image::FRAME_SHORTER_SIDE,
        image::JPEG_QUALITY,
    )?;
    Ok(Content {
        blobs: vec![jpeg],
        ..Content::default()
    })
}

fn read_text(path: &Path) -> Result<Content, Failure> {
    check_size(path, MAX_TEXT_BYTES)?;
    match datasets::read_text_file(path) {
        Ok(Some(text)) => Ok(Content {
            blobs: vec![text.into_bytes()],
            ..Content::default()
        }),
        Ok(None) => Err(Failure::new(failure::NO_TEXT)),
        Err(_) => Err(Failure::new(failure::UNREADABLE)),
    }
}

fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    check_size(path, most)?;
    std::fs::read(path).map_err(|error| Failure::with(failure::UNREADABLE, error.kind()))
}

fn check_size(path: &Path, most: u64) -> Result<(), Failure> {
    demux::check_file(path)?;
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() <= most => Ok(()),
        Ok(metadata) => Err(Failure::with(
            failure::TOO_LARGE,
            format!("{} bytes, at most {most}", metadata.len()),
        )),
        Err(error) => Err(Failure::with(failure::UNREADABLE, error.kind())),
    }
}
