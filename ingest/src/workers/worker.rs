//! A decode worker: a child process that reads requests from stdin and writes replies to stdout.
//!
//! It is confined before it opens the first file. [`process_limits`] bounds its memory and, for
//! each request, its processor time, and forbids it to write files. [`sandbox`] leaves it the raw
//! data alone, without network and without other programs. Whatever a hostile clip makes a decoder
//! do, such as crash or loop without end, ends this process alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use datasets::Modality;
use features::{MelFrontEnd, image};

use super::protocol::{self, Content, Handshake, InputFile, ReadAccess, Reply, Request, Task};
use super::{process_limits, sandbox};
use crate::decode::demux::{self, Track, Tracks, Wanted};
use crate::decode::orientation::Orientation;
use crate::decode::{Health, Span, audio, libav, mp3, video};
use crate::failure::{self, Failure};
use crate::parquet_cell::CellReader;

/// Limit on the size of a text file in bytes.
const MAX_TEXT_BYTES: u64 = 4 << 20;

/// Limit on the size of an encoded image in bytes. Beside its pixels it fits into a worker's memory.
const MAX_IMAGE_BYTES: u64 = 512 << 20;

/// Bytes that must be free when a worker starts: the least that a clip of ordinary size takes.
const MIN_FREE_BYTES: usize = 128 << 20;

/// The limits that the pool sets.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct Args {
    /// Address space in MiB
    #[arg(long)]
    pub memory_mib: u64,
    /// Processor seconds for each request
    #[arg(long)]
    pub cpu_seconds: u64,
    /// Only report, as JSON, what the sandbox lacks on this kernel
    #[arg(long)]
    pub probe: bool,
}

/// Handles requests until stdin is closed.
///
/// # Errors
/// The limits cannot be set or leave no room for a clip, libav cannot be started, or a pipe breaks.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    process_limits::apply(args.memory_mib << 20).context("cannot limit the decode worker")?;
    if args.probe {
        let gaps = sandbox::enter(&[]);
        return util::cli::print_json(&serde_json::json!({"sandbox_gaps": gaps}));
    }
    // With a limit below what the program itself takes, every file would seem to be unreadable.
    Vec::<u8>::new()
        .try_reserve_exact(MIN_FREE_BYTES)
        .context("the decode worker's memory limit leaves no room")?;
    // The message of a panic would appear among those of the parent. The reply reports the panic.
    std::panic::set_hook(Box::new(|_| {}));
    libav::init().context("cannot start libav")?;
    let mut front_end = MelFrontEnd::new();
    let mut cells = CellReader::default();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let Some(access) = protocol::receive::<ReadAccess>(&mut input)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let handshake = Handshake {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sandbox_gaps: sandbox::enter(&access.readable),
    };
    protocol::send(&mut output, &handshake)?;
    while let Some(request) = protocol::receive::<Request>(&mut input)? {
        process_limits::limit_cpu_time(args.cpu_seconds)?;
        handle(&request, &mut front_end, &mut cells, &mut output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Computes and sends the replies to a request.
fn handle(
    request: &Request,
    front_end: &mut MelFrontEnd,
    cells: &mut CellReader,
    output: &mut impl Write,
) -> io::Result<()> {
    let mut cache = ClipCache::default();
    for (number, task) in request.tasks.iter().enumerate() {
        let remaining = &request.tasks[number..];
        let reply = catch_unwind(AssertUnwindSafe(|| {
            run_task(task, remaining, request, &mut cache, front_end, cells)
        }))
        .unwrap_or_else(|_| {
            // Both may be incomplete, so the tasks after this one start with empty ones.
            cache = ClipCache::default();
            *cells = CellReader::default();
            Reply {
                outcome: Err(Failure::with(failure::CRASHED, "a panic")),
                warnings: Vec::new(),
            }
        });
        protocol::send_reply(output, reply)?;
    }
    Ok(())
}

/// Tries the files of a task until one can be decoded. `remaining` holds this task and those after
/// it.
fn run_task(
    task: &Task,
    remaining: &[Task],
    request: &Request,
    cache: &mut ClipCache,
    front_end: &mut MelFrontEnd,
    cells: &mut CellReader,
) -> Reply {
    let mut failed: Vec<(&InputFile, Failure)> = Vec::new();
    for file in &task.files {
        let result = match task.modality {
            Modality::Audio | Modality::Video => {
                cache.decode_clip(task, &file.path, remaining, request, front_end)
            }
            Modality::Image => encode_image(file, cells),
            Modality::Text => read_text(file),
        };
        match result {
            Ok(Decoded { content, damage }) => {
                let mut warnings = damage;
                warnings.extend(failed.iter().map(|(before, failure)| {
                    Failure::with(
                        failure::SECOND_CHOICE,
                        format!("{}: {failure}; took {}", before.name, file.name),
                    )
                }));
                return Reply {
                    outcome: Ok(content),
                    warnings,
                };
            }
            Err(failure) => failed.push((file, failure)),
        }
    }
    Reply {
        outcome: Err(join_failures(failed)),
        warnings: Vec::new(),
    }
}

/// Joins the failures of a task's files to one: the cause is that of the best file, and the details
/// name the failures of the others.
fn join_failures(failed: Vec<(&InputFile, Failure)>) -> Failure {
    let mut failed = failed.into_iter();
    let Some((_, mut first)) = failed.next() else {
        return Failure::new(failure::NO_FILE);
    };
    for (file, other) in failed {
        let separator = if first.detail.is_empty() { "" } else { "; " };
        first.detail = format!("{}{separator}{}: {other}", first.detail, file.name);
    }
    first
}

/// The features of one modality, and the damage that was met while decoding.
#[derive(Clone)]
struct Decoded {
    content: Content,
    damage: Vec<Failure>,
}

impl Decoded {
    /// Features of a span of a stream, which has been decoded from the first to the second second of
    /// the clip. `unit` is what the stream's health counts, such as "audio frame".
    fn from_stream(
        content: Content,
        track: &Track,
        (health, unit): (Health, &str),
        span: Option<Span>,
        (start, end): (f64, f64),
    ) -> Decoded {
        let damage = (!health.is_whole())
            .then(|| Failure::with(failure::PARTLY_DAMAGED, health.describe(unit)));
        // What is missing behind the span makes no difference.
        let reaches_end = span.is_none_or(|(_, to)| f64::from(to) > end);
        let cut = track.cut_short(end - start).filter(|_| reaches_end);
        Decoded {
            content,
            damage: damage.into_iter().chain(cut).collect(),
        }
    }

    /// Features that are one blob, from a file without damage.
    fn from_blob(blob: Vec<u8>) -> Decoded {
        let content = Content {
            blobs: vec![blob],
            ..Content::default()
        };
        Decoded {
            content,
            damage: Vec::new(),
        }
    }
}

/// The result of one task on one file.
type TaskResult = Result<Decoded, Failure>;

/// What was read and decoded for the tasks of one request. A file that holds both modalities is
/// read once, and each of its streams is decoded once for all of its parts that are wanted.
#[derive(Default)]
struct ClipCache {
    /// The streams of each file, as far as they have not been decoded yet.
    tracks: BTreeMap<PathBuf, Result<Tracks, Failure>>,
    /// Results for tasks that come later, with their file, modality and span.
    results: Vec<(PathBuf, Modality, Option<Span>, TaskResult)>,
}

impl ClipCache {
    /// Returns the features of the stream that a task names. `remaining` holds this task and those
    /// after it.
    fn decode_clip(
        &mut self,
        task: &Task,
        path: &Path,
        remaining: &[Task],
        request: &Request,
        front_end: &mut MelFrontEnd,
    ) -> TaskResult {
        let cached = self.results.iter().position(|(file, modality, span, _)| {
            file == path && *modality == task.modality && *span == task.span
        });
        if let Some(index) = cached {
            return self.results.swap_remove(index).3;
        }
        let mut spans: Vec<Option<Span>> = Vec::new();
        for other in remaining
            .iter()
            .filter(|other| uses(other, task.modality, path))
        {
            if !spans.contains(&other.span) {
                spans.push(other.span);
            }
        }
        let track = self.take_track(task.modality, path, remaining);
        let results = track.and_then(|track| {
            track.check_encryption()?;
            match task.modality {
                Modality::Audio if request.sound => encode_sound(&track, &spans),
                Modality::Audio => compute_mel(&track, &spans, front_end),
                _ => extract_frames(&track, &spans, request),
            }
        });
        // A failure of the whole stream is the failure of each of its parts.
        let results = results.unwrap_or_else(|failure| vec![Err(failure); spans.len()]);
        let result_of = |span: Option<Span>| {
            let index = spans.iter().position(|wanted| *wanted == span);
            let result = index.and_then(|index| results.get(index).cloned());
            result.unwrap_or_else(|| Err(Failure::new(failure::NO_FILE)))
        };
        // Two views of a sample may be of the same file.
        for later in remaining
            .iter()
            .skip(1)
            .filter(|later| uses(later, task.modality, path))
        {
            let result = result_of(later.span);
            let entry = (path.to_owned(), task.modality, later.span, result);
            self.results.push(entry);
        }
        result_of(task.span)
    }

    /// Takes a stream out of its file. Reads the file if that has not been done yet.
    fn take_track(
        &mut self,
        modality: Modality,
        path: &Path,
        remaining: &[Task],
    ) -> Result<Track, Failure> {
        if !self.tracks.contains_key(path) {
            let wanted = |modality| remaining.iter().any(|task| uses(task, modality, path));
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
        let (track, no_stream) = match modality {
            Modality::Audio => (&mut tracks.audio, failure::NO_AUDIO),
            _ => (&mut tracks.video, failure::NO_VIDEO),
        };
        match track {
            // The failure stays, because it is that of the stream's other parts too.
            Err(failure) => Err(failure.clone()),
            Ok(_) => std::mem::replace(track, Err(Failure::new(no_stream))),
        }
    }
}

/// Whether a task decodes this modality of this file.
fn uses(task: &Task, modality: Modality, path: &Path) -> bool {
    task.modality == modality && task.files.iter().any(|file| file.path == path)
}

/// Decodes an audio stream and computes the log-mel spectrogram of each span.
fn compute_mel(
    track: &Track,
    spans: &[Option<Span>],
    front_end: &mut MelFrontEnd,
) -> Result<Vec<TaskResult>, Failure> {
    let audio = audio::decode(track)?;
    let results = spans.iter().map(|&span| {
        let part = audio.part(span);
        let part = part.map_err(|failure| explain(track, failure))?;
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
        let health = (audio.health, "audio frame");
        let stream = (audio.start, audio.start + audio.seconds);
        Ok(Decoded::from_stream(content, track, health, span, stream))
    });
    Ok(results.collect())
}

/// Decodes an audio stream and encodes each span of what a spectrogram is computed from.
fn encode_sound(track: &Track, spans: &[Option<Span>]) -> Result<Vec<TaskResult>, Failure> {
    let audio = audio::decode(track)?;
    let results = spans.iter().map(|&span| {
        let part = audio.part(span);
        let part = part.map_err(|failure| explain(track, failure))?;
        Ok(Decoded::from_blob(mp3::encode(part.samples)?))
    });
    Ok(results.collect())
}

/// Adds to the failure of a span that nothing is in whether the stream was cut short.
fn explain(track: &Track, mut failure: Failure) -> Failure {
    if failure.cause == failure::TOO_SHORT
        && let Some(cut) = track.cut_short(f64::INFINITY)
    {
        failure.detail += &format!("; {cut}");
    }
    failure
}

/// Decodes a video stream and extracts the frames of each span that the request asks for.
fn extract_frames(
    track: &Track,
    spans: &[Option<Span>],
    request: &Request,
) -> Result<Vec<TaskResult>, Failure> {
    let videos = video::decode(track, request.frame_pool, request.all_packets, spans)?;
    let results = videos.into_iter().zip(spans).map(|(video, &span)| {
        let video = video.map_err(|failure| explain(track, failure))?;
        let content = Content {
            seconds: Some(video.seconds as f32),
            times: video.times,
            blobs: video.frames,
        };
        let health = (video.health, "frame");
        Ok(Decoded::from_stream(
            content,
            track,
            health,
            span,
            video.stream,
        ))
    });
    Ok(results.collect())
}

/// Decodes an image, turns it upright, and encodes it as JPEG in the size that shards hold.
fn encode_image(file: &InputFile, cells: &mut CellReader) -> TaskResult {
    let bytes = match &file.cell {
        Some((column, row)) => {
            let bytes = cells.read(&file.path, column, *row)?;
            refuse_above(MAX_IMAGE_BYTES, bytes.len() as u64)?;
            bytes
        }
        None => {
            check_size(&file.path, MAX_IMAGE_BYTES)?;
            std::fs::read(&file.path)
                .map_err(|error| Failure::with(failure::UNREADABLE, error.kind()))?
        }
    };
    let upright = Orientation::of_image(&bytes).apply(image::decode(&bytes)?);
    let jpeg = image::shrink_to_jpeg(&upright, image::FRAME_SHORTER_SIDE, image::JPEG_QUALITY)?;
    Ok(Decoded::from_blob(jpeg))
}

/// Reads a text file and cleans the text.
fn read_text(file: &InputFile) -> TaskResult {
    check_size(&file.path, MAX_TEXT_BYTES)?;
    match datasets::read_text_file(&file.path, file.encoding.as_deref()) {
        Ok(Some(text)) => Ok(Decoded::from_blob(text.into_bytes())),
        Ok(None) => Err(Failure::new(failure::NO_TEXT)),
        // The path of the message is that of this machine, which a shard must not hold.
        Err(datasets::Error::Annotation {
            problem, remedy, ..
        }) => Err(Failure::with(
            failure::ENCODING,
            format!("{problem}; {remedy}"),
        )),
        Err(_) => Err(Failure::new(failure::UNREADABLE)),
    }
}

/// Refuses a file that is absent, empty, a Git LFS pointer, or larger than `limit` bytes.
fn check_size(path: &Path, limit: u64) -> Result<(), Failure> {
    demux::check_file(path)?;
    match std::fs::metadata(path) {
        Ok(metadata) => refuse_above(limit, metadata.len()),
        Err(error) => Err(Failure::with(failure::UNREADABLE, error.kind())),
    }
}

/// Refuses a file of more than `limit` bytes.
fn refuse_above(limit: u64, bytes: u64) -> Result<(), Failure> {
    match bytes <= limit {
        true => Ok(()),
        false => {
            let detail = format!("{bytes} bytes, at most {limit}");
            Err(Failure::with(failure::TOO_LARGE, detail))
        }
    }
}
