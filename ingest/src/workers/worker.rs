//! The child that decodes: reads requests from stdin, answers on stdout, knows nothing but the files it is told.
//!
//! It is confined before it opens the first file: memory, processor time per request, no file may be written, no core
//! dumps ([`process_limits`]); no file but the raw data, no network, no other program ([`sandbox`]). What libav or a picture decoder does to it (crash, endless loop) ends this process alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use datasets::Modality;
use features::{MelFrontEnd, image};

use super::protocol::{self, Bounds, Content, File, Hello, Reply, Request, Task};
use super::{process_limits, sandbox};
use crate::decode::demux::{self, Track, Tracks, Wanted};
use crate::decode::orientation::Orientation;
use crate::decode::{Health, Span, audio, libav, video};
use crate::failure::{self, Failure};

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
    /// Only report, as JSON, what the sandbox lacks on this kernel
    #[arg(long)]
    pub probe: bool,
}

/// Serves until stdin closes.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    process_limits::confine(process_limits::Limits {
        memory: args.memory_mib << 20,
    })
    .context("cannot limit the decode worker")?;
    if args.probe {
        let gaps = sandbox::enter(&[]);
        return util::cli::print_json(&serde_json::json!({"sandbox_gaps": gaps}));
    }
    // A limit below what the program itself takes would show as every file being unreadable.
    Vec::<u8>::new()
        .try_reserve_exact(HEADROOM)
        .context("the decode worker's memory limit leaves no room")?;
    // What a panic says would only confuse the parent's stderr; the reply tells that there was one.
    std::panic::set_hook(Box::new(|_| {}));
    libav::init().context("cannot start libav")?;
    let mut front_end = MelFrontEnd::new();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let Some(bounds) = protocol::receive::<Bounds>(&mut input)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let hello = Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sandbox_gaps: sandbox::enter(&bounds.readable),
    };
    protocol::send(&mut output, &hello)?;
    while let Some(request) = protocol::receive::<Request>(&mut input)? {
        process_limits::allow_cpu(args.cpu_seconds)?;
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
        .unwrap_or_else(|_| {
            // Whatever was half done: the tasks behind this one begin anew.
            files = Files::default();
            Reply {
                outcome: Err(Failure::with(failure::CRASHED, "a panic")),
                warnings: Vec::new(),
            }
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
            Modality::Audio | Modality::Video => files
                .clip(task, &file.path, later, pool, front_end)
                .map(|(content, damage)| {
                    warnings.extend(damage);
                    content
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

/// What one part of one stream came to: the features, and the damage met on the way.
type Made = Result<(Content, Option<Failure>), Failure>;

/// The files of one request. One that serves both modalities is read once, and each of its streams is decoded once for
/// all parts that are wanted of it.
#[derive(Default)]
struct Files {
    tracks: BTreeMap<PathBuf, Result<Tracks, Failure>>,
    /// By file, modality and span: made along with an earlier task's, not yet asked for.
    made: Vec<(PathBuf, Modality, Option<Span>, Made)>,
}

impl Files {
    /// The features of a task's stream. `later`: this task and those behind it.
    fn clip(
        &mut self,
        task: &Task,
        path: &Path,
        later: &[Task],
        pool: usize,
        front_end: &mut MelFrontEnd,
    ) -> Made {
        let is_it = |(file, modality, span, _): &(PathBuf, Modality, Option<Span>, Made)| {
            file == path && *modality == task.modality && *span == task.span
        };
        if let Some(place) = self.made.iter().position(is_it) {
            return self.made.swap_remove(place).3;
        }
        let mut spans: Vec<Option<Span>> = Vec::new();
        for other in later
            .iter()
            .filter(|other| wants(other, task.modality, path))
        {
            if !spans.contains(&other.span) {
                spans.push(other.span);
            }
        }
        let track = self.track(task.modality, path, later);
        let parts = track.and_then(|track| match task.modality {
            Modality::Audio => hear(&track, &spans, front_end),
            _ => see(&track, &spans, pool),
        });
        // What fails as a whole fails for every part alike.
        let parts = parts.unwrap_or_else(|failure| vec![Err(failure); spans.len()]);
        let mut own = Err(Failure::new(failure::NO_FILE));
        for (span, part) in spans.into_iter().zip(parts) {
            if span == task.span {
                own = part;
            } else {
                self.made.push((path.to_owned(), task.modality, span, part));
            }
        }
        own
    }

    /// Takes a stream out of its file, which is read where it was not yet.
    fn track(&mut self, modality: Modality, path: &Path, later: &[Task]) -> Result<Track, Failure> {
        if !self.tracks.contains_key(path) {
            let wanted = |modality| later.iter().any(|task| wants(task, modality, path));
            let wanted = Wanted {
                audio: wanted(Modality::Audio),
                video: wanted(Modality::Video),
            };
            self.tracks
                .insert(path.to_owned(), demux::demux(path, wanted));
        }
        let tracks = match self.tracks.get_mut(path) {
            Some(Ok(tracks)) => tracks,
            Some(Err(failure)) => return Err(failure.clone()),
            None => return Err(Failure::new(failure::NO_FILE)),
        };
        let (track, absent) = match modality {
            Modality::Audio => (&mut tracks.audio, failure::NO_AUDIO),
            _ => (&mut tracks.video, failure::NO_VIDEO),
        };
        match track {
            // For the other parts of a stream that is not there.
            Err(failure) => Err(failure.clone()),
            Ok(_) => std::mem::replace(track, Err(Failure::new(absent))),
        }
    }
}

fn wants(task: &Task, modality: Modality, path: &Path) -> bool {
    task.modality == modality && task.files.iter().any(|file| file.path == path)
}

fn hear(
    track: &Track,
    spans: &[Option<Span>],
    front_end: &mut MelFrontEnd,
) -> Result<Vec<Made>, Failure> {
    let audio = audio::decode(track)?;
    let parts = spans.iter().map(|&span| {
        let part = audio.part(span)?;
        let mel = front_end.compute(part.samples);
        let blob = mel
            .values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let content = Content {
            seconds: Some(part.seconds as f32),
            times: Vec::new(),
            blobs: vec![blob],
        };
        Ok((content, damage(audio.health, "audio frame")))
    });
    Ok(parts.collect())
}

fn see(track: &Track, spans: &[Option<Span>], pool: usize) -> Result<Vec<Made>, Failure> {
    let videos = video::decode(track, pool, spans)?;
    let parts = videos.into_iter().map(|video| {
        let video = video?;
        let content = Content {
            seconds: Some(video.seconds as f32),
            times: video.times,
            blobs: video.frames,
        };
        Ok((content, damage(video.health, "frame")))
    });
    Ok(parts.collect())
}

fn read_picture(path: &Path) -> Result<Content, Failure> {
    let bytes = read_bounded(path, MAX_PICTURE_BYTES)?;
    let upright = Orientation::from_exif(&bytes).apply(image::decode(&bytes)?);
    let jpeg = image::shrink_to_jpeg(&upright, image::FRAME_SHORTER_SIDE, image::JPEG_QUALITY)?;
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
