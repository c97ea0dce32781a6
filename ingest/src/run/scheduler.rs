//! The scheduler: sends samples to the decode workers ahead of time, and hands out their replies in
//! the order of the samples.
//!
//! Samples with the same files share one request, however far apart they are: the replies of a
//! later one are parked when the first one is decoded. Where too many bytes are parked already, the
//! later one is decoded by itself. No byte of the output depends on which of the two happens.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use datasets::{Input, InputName, Modalities, Modality, Sample};

use super::signals;
use crate::decode::Span;
use crate::plan::{self, Segment, Settings, files};
use crate::workers::pool::{Pool, Replies};
use crate::workers::protocol::{InputFile, Request, Task};

/// How many samples per worker are submitted ahead of the one that is handed out next.
const AHEAD_PER_WORKER: usize = 8;

/// Limit on the bytes of replies that wait for their turn. At this limit no more samples are
/// submitted. It bounds the memory where clips are large, as with every frame kept.
const MAX_BUFFERED_BYTES: usize = 256 << 20;

/// Limit on the bytes of replies that are parked. The 46 samples of AVE that share files with
/// others take about 30 MB.
const MAX_PARKED_BYTES: usize = 128 << 20;

/// Limit on the different spans of a file in one request.
const MAX_SPANS: usize = 8;

/// How long to wait for a worker before signals are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What decodes requests: the worker pool, or a stand-in for it in tests.
pub trait Decoders {
    /// Queues a request. See [`Pool::submit`](crate::workers::pool::Pool::submit).
    fn submit(&self, number: usize, request: Request) -> anyhow::Result<()>;

    /// Waits for the next request that is done. See [`Pool::next`](crate::workers::pool::Pool::next).
    fn next(&self, timeout: Duration) -> anyhow::Result<Option<(usize, Replies)>>;
}

impl Decoders for Pool {
    fn submit(&self, number: usize, request: Request) -> anyhow::Result<()> {
        Pool::submit(self, number, request)
    }

    fn next(&self, timeout: Duration) -> anyhow::Result<Option<(usize, Replies)>> {
        Pool::next(self, timeout)
    }
}

/// The state of a run's requests and replies. Samples are identified by their index in `samples`,
/// and a request has the index of the sample that it was made for.
pub struct Scheduler<'a, D> {
    decoders: &'a D,
    raw: &'a Path,
    modalities: Modalities,
    settings: &'a Settings,
    samples: Vec<&'a Sample>,
    /// See [`Request::all_packets`].
    all_packets: bool,
    /// How many samples are submitted ahead of `next`.
    ahead: usize,
    /// The samples before this one are submitted.
    submitted: usize,
    /// The sample that is handed out next.
    next: usize,
    /// Replies of submitted samples, and their bytes.
    buffered: BTreeMap<usize, Replies>,
    buffered_bytes: usize,
    /// Samples with the same files, in order. Only groups of more than one.
    groups: Vec<Vec<usize>>,
    /// The index of each grouped sample's group.
    group_of: BTreeMap<usize, usize>,
    /// Requests that are being decoded, each with the samples that get its replies.
    in_flight: BTreeMap<usize, Vec<usize>>,
    /// Samples that get replies from a request in flight, or whose replies have come.
    claimed: BTreeSet<usize>,
    /// Replies of samples that are not submitted yet, and their bytes.
    parked: BTreeMap<usize, Replies>,
    parked_bytes: usize,
    /// [`MAX_PARKED_BYTES`], or less in tests.
    max_parked_bytes: usize,
}

impl<'a, D: Decoders> Scheduler<'a, D> {
    /// Creates a scheduler for `samples`, whose replies are handed out in this order.
    pub fn new(
        decoders: &'a D,
        workers: usize,
        raw: &'a Path,
        modalities: Modalities,
        settings: &'a Settings,
        samples: Vec<&'a Sample>,
    ) -> Scheduler<'a, D> {
        let groups = group_by_files(&samples);
        let members = groups.iter().enumerate();
        let group_of = members.flat_map(|(group, all)| all.iter().map(move |&one| (one, group)));
        Scheduler {
            decoders,
            raw,
            modalities,
            settings,
            group_of: group_of.collect(),
            groups,
            samples,
            all_packets: false,
            ahead: workers * AHEAD_PER_WORKER,
            submitted: 0,
            next: 0,
            buffered: BTreeMap::new(),
            buffered_bytes: 0,
            in_flight: BTreeMap::new(),
            claimed: BTreeSet::new(),
            parked: BTreeMap::new(),
            parked_bytes: 0,
            max_parked_bytes: MAX_PARKED_BYTES,
        }
    }

    /// Has every packet of a video decoded, also where those that the frames depend on would do.
    pub fn all_packets(mut self) -> Scheduler<'a, D> {
        self.all_packets = true;
        self
    }

    /// Waits for the next sample's replies. Returns `None` if a signal was received.
    ///
    /// # Errors
    /// The workers cannot be started or have ended.
    pub fn next_replies(&mut self) -> anyhow::Result<Option<Replies>> {
        let end = self.samples.len().min(self.next + self.ahead);
        while self.submitted < end
            && (self.buffered_bytes < MAX_BUFFERED_BYTES || self.submitted == self.next)
        {
            self.submit(self.submitted)?;
            self.submitted += 1;
        }
        loop {
            if signals::received().is_some() {
                return Ok(None);
            }
            if let Some(replies) = self.buffered.remove(&self.next) {
                self.next += 1;
                self.buffered_bytes -= size(&replies);
                return Ok(Some(replies));
            }
            if let Some((number, replies)) = self.decoders.next(POLL_INTERVAL)? {
                self.distribute(number, replies);
            }
        }
    }

    /// Submits a request for a sample, unless its replies are parked or a request in flight brings
    /// them. The request also has the spans of later samples with the same files.
    fn submit(&mut self, sample: usize) -> anyhow::Result<()> {
        if let Some(replies) = self.parked.remove(&sample) {
            self.parked_bytes -= size(&replies);
            self.buffer(sample, replies);
            return Ok(());
        }
        if self.claimed.contains(&sample) {
            return Ok(());
        }
        let mut members = vec![sample];
        let mut spans = vec![self.span(sample)];
        let group = self.group_of.get(&sample);
        let later = group.map_or(&[][..], |&group| &self.groups[group]).iter();
        for &other in later.filter(|&&other| other > sample && !self.claimed.contains(&other)) {
            let span = self.span(other);
            if spans.contains(&span) {
                members.push(other);
            } else if spans.len() < MAX_SPANS {
                spans.push(span);
                members.push(other);
            }
        }
        let tasks: Vec<Task> = spans
            .into_iter()
            .flat_map(|span| self.tasks(sample, span))
            .collect();
        if tasks.is_empty() {
            self.buffer(sample, Vec::new());
            return Ok(());
        }
        self.claimed.extend(&members);
        self.in_flight.insert(sample, members);
        let frame_pool = self.settings.frame_pool as usize;
        let request = Request {
            frame_pool,
            all_packets: self.all_packets,
            sound: false,
            tasks,
        };
        self.decoders.submit(sample, request)
    }

    /// Gives the replies of a request to the samples that share it.
    fn distribute(&mut self, number: usize, replies: Replies) {
        let members = self.in_flight.remove(&number).unwrap_or_default();
        let mut spans: Vec<Option<Span>> = Vec::new();
        for &member in &members {
            let span = self.span(member);
            if !spans.contains(&span) {
                spans.push(span);
            }
        }
        let per_span = replies.len() / spans.len().max(1);
        for member in members {
            let index = spans
                .iter()
                .position(|&span| span == self.span(member))
                .unwrap_or_default();
            let own = replies[index * per_span..][..per_span].to_vec();
            if member < self.submitted || member == number {
                self.buffer(member, own);
            } else if self.parked_bytes + size(&own) <= self.max_parked_bytes {
                self.parked_bytes += size(&own);
                self.parked.insert(member, own);
            } else {
                self.claimed.remove(&member);
            }
        }
    }

    fn buffer(&mut self, sample: usize, replies: Replies) {
        self.buffered_bytes += size(&replies);
        self.buffered.insert(sample, replies);
    }

    /// The span of its clip that a sample uses. `None` stands for the whole clip.
    fn span(&self, sample: usize) -> Option<Span> {
        match self.settings.segment {
            Segment::Clip => None,
            Segment::Event => self.samples[sample].segment,
        }
    }

    /// The tasks that decode a span of a sample's files.
    fn tasks(&self, sample: usize, span: Option<Span>) -> Vec<Task> {
        let inputs = self.modalities.names().zip(&self.samples[sample].inputs);
        let task = |(name, input): (InputName, _)| task(self.raw, name.modality, input, span);
        inputs.filter_map(task).collect()
    }
}

/// Returns the task that decodes a span of an input's files, which lie below `raw`. `None` for an
/// input without files.
pub fn task(raw: &Path, modality: Modality, input: &Input, span: Option<Span>) -> Option<Task> {
    let files = files(input)?.iter().map(|path| InputFile {
        path: raw.join(path),
        name: plan::name(input, path),
        encoding: match input {
            Input::TextFile { encoding, .. } => encoding.clone(),
            _ => None,
        },
        cell: cell(input).map(|(column, row)| (column.to_owned(), row)),
    });
    Some(Task {
        modality,
        files: files.collect(),
        span,
    })
}

/// Groups samples that have exactly the same files. Samples that share theirs with no other are
/// left out.
fn group_by_files(samples: &[&Sample]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<Vec<_>, Vec<usize>> = BTreeMap::new();
    for (number, sample) in samples.iter().enumerate() {
        let inputs = sample.inputs.iter();
        let key: Vec<_> = inputs.map(|input| (files(input), cell(input))).collect();
        if key.iter().any(|(files, _)| files.is_some()) {
            groups.entry(key).or_default().push(number);
        }
    }
    groups
        .into_values()
        .filter(|group| group.len() > 1)
        .collect()
}

/// Bytes of all features in replies.
fn size(replies: &Replies) -> usize {
    let contents = replies
        .iter()
        .filter_map(|reply| reply.outcome.as_ref().ok());
    contents
        .flat_map(|content| &content.blobs)
        .map(Vec::len)
        .sum()
}

/// Returns the column and the row of an input that lies in a table.
fn cell(input: &Input) -> Option<(&str, usize)> {
    match input {
        Input::TableCell { column, row, .. } => Some((column, *row)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use datasets::{ListOptions, Split};
    use features::MelDtype;

    use super::*;
    use crate::plan::Choices;
    use crate::workers::protocol::{Content, Reply};

    /// Replies to every task with a blob that names file and span, the latest request first.
    struct Echo {
        bytes: usize,
        queue: RefCell<Vec<(usize, Request)>>,
        requests: RefCell<usize>,
    }

    impl Decoders for Echo {
        fn submit(&self, number: usize, request: Request) -> anyhow::Result<()> {
            *self.requests.borrow_mut() += 1;
            self.queue.borrow_mut().push((number, request));
            Ok(())
        }

        fn next(&self, _timeout: Duration) -> anyhow::Result<Option<(usize, Replies)>> {
            let Some((number, request)) = self.queue.borrow_mut().pop() else {
                return Ok(None);
            };
            let reply = |task: &Task| {
                let mut blob = describe(&task.files[0].name, task.span).into_bytes();
                blob.resize(self.bytes, b' ');
                let content = Content {
                    blobs: vec![blob],
                    ..Content::default()
                };
                Reply {
                    outcome: Ok(content),
                    warnings: Vec::new(),
                }
            };
            Ok(Some((number, request.tasks.iter().map(reply).collect())))
        }
    }

    fn describe(file: &str, span: Option<Span>) -> String {
        format!("{file} {span:?}")
    }

    fn sample(number: usize, file: &str, span: Option<Span>) -> Sample {
        let input = || Input::Files(vec![file.into()]);
        Sample {
            id: number.to_string(),
            split: Split::Train,
            labels: vec![0],
            inputs: vec![input(), input()],
            source: file.to_owned(),
            segment: span,
        }
    }

    /// Bytes of one reply; a sample has two.
    const BYTES: usize = 40;

    /// Checks that every sample gets its own replies, and returns the number of requests.
    fn requests(samples: &[Sample], segment: Segment, max_parked_bytes: usize) -> usize {
        let info = datasets::open("ave").unwrap().info().clone();
        let listing = datasets::Listing {
            layout: String::new(),
            samples: samples.to_vec(),
            notes: Vec::new(),
        };
        let choices = Choices {
            mel_dtype: MelDtype::F32,
            frame_pool: 3,
            segment,
            shard_rows: 512,
            limit: None,
            listing: ListOptions::default(),
        };
        let settings = plan::plan(&info, listing, &choices).settings;
        let echo = Echo {
            bytes: BYTES,
            queue: RefCell::default(),
            requests: RefCell::default(),
        };
        let samples: Vec<&Sample> = samples.iter().collect();
        let mut scheduler = Scheduler::new(
            &echo,
            2,
            Path::new("raw"),
            info.modalities,
            &settings,
            samples.clone(),
        );
        scheduler.max_parked_bytes = max_parked_bytes;
        for sample in samples {
            let replies = scheduler.next_replies().unwrap().unwrap();
            assert_eq!(replies.len(), 2, "{}", sample.id);
            let span = sample.segment.filter(|_| segment == Segment::Event);
            for reply in replies {
                let blob = &reply.outcome.unwrap().blobs[0];
                let text = String::from_utf8_lossy(blob);
                assert_eq!(
                    text.trim_end(),
                    describe(&sample.source, span),
                    "{}",
                    sample.id
                );
            }
        }
        assert!(scheduler.buffered.is_empty() && scheduler.parked.is_empty());
        assert_eq!((scheduler.buffered_bytes, scheduler.parked_bytes), (0, 0));
        echo.requests.into_inner()
    }

    /// Sixty samples. Three of them share file "b", and two that are close and one that is far
    /// share "c".
    fn shared() -> Vec<Sample> {
        let span = |number: usize| Some((number as f32 / 10.0, 10.0));
        (0..60)
            .map(|number| match number {
                3 | 30 | 59 => sample(number, "b", span(number)),
                4 | 5 | 58 => sample(number, "c", span(number % 54)),
                _ => sample(number, &format!("own-{number}"), span(number)),
            })
            .collect()
    }

    #[test]
    fn samples_with_the_same_files_share_a_request() {
        assert_eq!(requests(&shared(), Segment::Clip, MAX_PARKED_BYTES), 56);
        assert_eq!(requests(&shared(), Segment::Event, MAX_PARKED_BYTES), 56);
    }

    #[test]
    fn replies_beyond_the_parking_limit_are_requested_again() {
        // Three samples of "b" and "c" are far from the first one. The limit allows to park three,
        // two, one and none.
        for (room, wanted) in [(3, 56), (2, 57), (1, 58), (0, 59)] {
            assert_eq!(
                requests(&shared(), Segment::Clip, 2 * BYTES * room),
                wanted,
                "{room}"
            );
        }
    }

    #[test]
    fn spans_beyond_the_limit_of_a_request_go_into_the_next() {
        let many: Vec<Sample> = (0..20)
            .map(|n| sample(n, "a", Some((n as f32, 20.0))))
            .collect();
        assert_eq!(requests(&many, Segment::Event, MAX_PARKED_BYTES), 3);
        assert_eq!(requests(&many, Segment::Clip, MAX_PARKED_BYTES), 1);
    }
}
