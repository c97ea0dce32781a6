//! Keeps the workers busy and gives their replies out in the order of the samples.
//!
//! Samples on the same files share one decoding, however far apart they stand: what a later one needs is put by when the
//! first one is decoded. Where too much is put by already, the later one is decoded by itself; no byte depends on which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use datasets::{Input, Modality, Sample};

use super::signals;
use crate::decode::Span;
use crate::plan::{Segment, Settings};
use crate::workers::pool::{Pool, Replies};
use crate::workers::protocol::{File, Request, Task};

/// Clips handed to the workers ahead of the one that is written next, per worker.
const AHEAD_PER_WORKER: usize = 8;

/// Bytes of replies that may wait for their turn before no more clips are handed out. Bounds the memory where clips are
/// large, as with every frame kept.
const MAX_WAITING: usize = 256 << 20;

/// Bytes of replies put by for samples whose turn is far off. AVE's 46 shared rows take about 30 MB.
const MAX_PUT_BY: usize = 128 << 20;

/// Different parts of one file that are asked for at once.
const MAX_SPANS: usize = 8;

/// How long to wait for a worker before looking at signals.
const PATIENCE: Duration = Duration::from_millis(200);

/// Who decodes: requests in, by a number, replies out in any order.
pub trait Decoders {
    /// See [`Pool::submit`].
    fn submit(&self, number: usize, request: Request) -> anyhow::Result<()>;

    /// See [`Pool::next`].
    fn next(&self, wait: Duration) -> anyhow::Result<Option<(usize, Replies)>>;
}

impl Decoders for Pool {
    fn submit(&self, number: usize, request: Request) -> anyhow::Result<()> {
        Pool::submit(self, number, request)
    }

    fn next(&self, wait: Duration) -> anyhow::Result<Option<(usize, Replies)>> {
        Pool::next(self, wait)
    }
}

/// See the module comment.
pub struct Feed<'a, D> {
    pool: &'a D,
    raw: &'a Path,
    modalities: [Modality; 2],
    settings: &'a Settings,
    samples: Vec<&'a Sample>,
    ahead: usize,
    /// Samples up to here were asked for.
    submitted: usize,
    /// Whose turn is next.
    next: usize,
    /// Replies of samples that were asked for, and their bytes.
    arrived: BTreeMap<usize, Replies>,
    waiting: usize,
    /// Samples on the same files, where there are several.
    groups: Vec<Vec<usize>>,
    /// The group of a sample that is in one.
    group_of: BTreeMap<usize, usize>,
    /// By the number of a request under way: the samples that it serves.
    serves: BTreeMap<usize, Vec<usize>>,
    /// Samples that a request under way serves, or whose replies are put by.
    served: BTreeSet<usize>,
    /// Replies of samples not yet asked for, and their bytes.
    put_by: BTreeMap<usize, Replies>,
    held: usize,
    most_held: usize,
}

impl<'a, D: Decoders> Feed<'a, D> {
    /// Of samples in the order in which they are wanted.
    pub fn new(
        pool: &'a D,
        workers: usize,
        raw: &'a Path,
        modalities: [Modality; 2],
        settings: &'a Settings,
        samples: Vec<&'a Sample>,
    ) -> Feed<'a, D> {
        let groups = groups(&samples);
        let members = groups.iter().enumerate();
        let group_of = members.flat_map(|(group, all)| all.iter().map(move |&one| (one, group)));
        Feed {
            pool,
            raw,
            modalities,
            settings,
            group_of: group_of.collect(),
            groups,
            samples,
            ahead: workers * AHEAD_PER_WORKER,
            submitted: 0,
            next: 0,
            arrived: BTreeMap::new(),
            waiting: 0,
            serves: BTreeMap::new(),
            served: BTreeSet::new(),
            put_by: BTreeMap::new(),
            held: 0,
            most_held: MAX_PUT_BY,
        }
    }

    /// The next sample's replies; `None` where a signal asked to stop.
    pub fn take(&mut self) -> anyhow::Result<Option<Replies>> {
        let most = self.samples.len().min(self.next + self.ahead);
        while self.submitted < most && (self.waiting < MAX_WAITING || self.submitted == self.next) {
            self.submit(self.submitted)?;
            self.submitted += 1;
        }
        loop {
            if signals::received().is_some() {
                return Ok(None);
            }
            if let Some(replies) = self.arrived.remove(&self.next) {
                self.next += 1;
                self.waiting -= size(&replies);
                return Ok(Some(replies));
            }
            if let Some((number, replies)) = self.pool.next(PATIENCE)? {
                self.distribute(number, replies);
            }
        }
    }

    fn submit(&mut self, sample: usize) -> anyhow::Result<()> {
        if let Some(replies) = self.put_by.remove(&sample) {
            self.held -= size(&replies);
            self.arrive(sample, replies);
            return Ok(());
        }
        if self.served.contains(&sample) {
            return Ok(());
        }
        let mut members = vec![sample];
        let mut spans = vec![self.span(sample)];
        let group = self.group_of.get(&sample);
        let later = group.map_or(&[][..], |&group| &self.groups[group]).iter();
        for &other in later.filter(|&&other| other > sample && !self.served.contains(&other)) {
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
            self.arrive(sample, Vec::new());
            return Ok(());
        }
        self.served.extend(&members);
        self.serves.insert(sample, members);
        let pool = self.settings.frame_pool as usize;
        self.pool.submit(sample, Request { pool, tasks })
    }

    /// Gives the replies of one request to all samples that it serves.
    fn distribute(&mut self, number: usize, replies: Replies) {
        let members = self.serves.remove(&number).unwrap_or_default();
        let mut spans: Vec<Option<Span>> = Vec::new();
        for &member in &members {
            let span = self.span(member);
            if !spans.contains(&span) {
                spans.push(span);
            }
        }
        let each = replies.len() / spans.len().max(1);
        for member in members {
            let place = spans
                .iter()
                .position(|&span| span == self.span(member))
                .unwrap_or_default();
            let own = replies[place * each..][..each].to_vec();
            if member < self.submitted || member == number {
                self.arrive(member, own);
            } else if self.held + size(&own) <= self.most_held {
                self.held += size(&own);
                self.put_by.insert(member, own);
            } else {
                self.served.remove(&member);
            }
        }
    }

    fn arrive(&mut self, sample: usize, replies: Replies) {
        self.waiting += size(&replies);
        self.arrived.insert(sample, replies);
    }

    /// The part of its clip that a sample is.
    fn span(&self, sample: usize) -> Option<Span> {
        match self.settings.segment {
            Segment::Clip => None,
            Segment::Event => self.samples[sample].segment,
        }
    }

    fn tasks(&self, sample: usize, span: Option<Span>) -> Vec<Task> {
        let inputs = self.modalities.iter().zip(&self.samples[sample].inputs);
        let task = |(&modality, input)| {
            let files = files(input)?.iter().map(|path| File {
                path: self.raw.join(path),
                name: slashed(path),
            });
            Some(Task {
                modality,
                files: files.collect(),
                span,
            })
        };
        inputs.filter_map(task).collect()
    }
}

/// Samples with the very same files, in order; none that are alone.
fn groups(samples: &[&Sample]) -> Vec<Vec<usize>> {
    let mut users: BTreeMap<[Option<&[PathBuf]>; 2], Vec<usize>> = BTreeMap::new();
    for (number, sample) in samples.iter().enumerate() {
        let [one, two] = &sample.inputs;
        users
            .entry([files(one), files(two)])
            .or_default()
            .push(number);
    }
    users.remove(&[None, None]);
    users
        .into_values()
        .filter(|users| users.len() > 1)
        .collect()
}

/// Bytes of media in replies.
fn size(replies: &Replies) -> usize {
    let contents = replies
        .iter()
        .filter_map(|reply| reply.outcome.as_ref().ok());
    contents
        .flat_map(|content| &content.blobs)
        .map(Vec::len)
        .sum()
}

/// The files that a worker has to open for an input.
pub fn files(input: &Input) -> Option<&[PathBuf]> {
    match input {
        Input::Files(paths) => Some(paths),
        Input::TextFile(path) => Some(std::slice::from_ref(path)),
        Input::Text(_) | Input::Absent { .. } => None,
    }
}

fn slashed(path: &Path) -> String {
    path.components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use datasets::{ListOptions, Split};
    use features::MelDtype;

    use super::*;
    use crate::plan::{self, Choices};
    use crate::workers::protocol::{Content, Reply};

    /// Answers every task with a blob that names file and span, the latest request first.
    struct Echo {
        bytes: usize,
        asked: RefCell<Vec<(usize, Request)>>,
        requests: RefCell<usize>,
    }

    impl Decoders for Echo {
        fn submit(&self, number: usize, request: Request) -> anyhow::Result<()> {
            *self.requests.borrow_mut() += 1;
            self.asked.borrow_mut().push((number, request));
            Ok(())
        }

        fn next(&self, _wait: Duration) -> anyhow::Result<Option<(usize, Replies)>> {
            let Some((number, request)) = self.asked.borrow_mut().pop() else {
                return Ok(None);
            };
            let reply = |task: &Task| {
                let mut blob = said(&task.files[0].name, task.span).into_bytes();
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

    fn said(file: &str, span: Option<Span>) -> String {
        format!("{file} {span:?}")
    }

    fn sample(number: usize, file: &str, span: Option<Span>) -> Sample {
        let input = || Input::Files(vec![file.into()]);
        Sample {
            id: number.to_string(),
            split: Split::Train,
            labels: vec![0],
            inputs: [input(), input()],
            source: file.to_owned(),
            segment: span,
        }
    }

    /// Bytes of one reply; a sample has two.
    const BYTES: usize = 40;

    /// Takes every sample's replies, checks that they are its own, and counts requests.
    fn requests(samples: &[Sample], segment: Segment, most_held: usize) -> usize {
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
            asked: RefCell::default(),
            requests: RefCell::default(),
        };
        let samples: Vec<&Sample> = samples.iter().collect();
        let mut feed = Feed::new(
            &echo,
            2,
            Path::new("raw"),
            info.modalities,
            &settings,
            samples.clone(),
        );
        feed.most_held = most_held;
        for sample in samples {
            let replies = feed.take().unwrap().unwrap();
            assert_eq!(replies.len(), 2, "{}", sample.id);
            let span = sample.segment.filter(|_| segment == Segment::Event);
            for reply in replies {
                let blob = &reply.outcome.unwrap().blobs[0];
                let text = String::from_utf8_lossy(blob);
                assert_eq!(text.trim_end(), said(&sample.source, span), "{}", sample.id);
            }
        }
        assert!(feed.arrived.is_empty() && feed.put_by.is_empty());
        assert_eq!((feed.waiting, feed.held), (0, 0));
        echo.requests.into_inner()
    }

    /// Sixty samples; file "b" under three of them, "c" under two that are close and one that is far.
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
    fn every_sample_gets_its_own_and_every_file_is_asked_for_once() {
        assert_eq!(requests(&shared(), Segment::Clip, MAX_PUT_BY), 56);
        assert_eq!(requests(&shared(), Segment::Event, MAX_PUT_BY), 56);
    }

    #[test]
    fn what_does_not_fit_is_asked_for_again() {
        // Of "b" and "c" three samples are far from the first one. Put by there is room for all, two, one, none.
        for (room, wanted) in [(3, 56), (2, 57), (1, 58), (0, 59)] {
            assert_eq!(
                requests(&shared(), Segment::Clip, 2 * BYTES * room),
                wanted,
                "{room}"
            );
        }
    }

    #[test]
    fn more_spans_than_a_request_takes() {
        let many: Vec<Sample> = (0..20)
            .map(|n| sample(n, "a", Some((n as f32, 20.0))))
            .collect();
        assert_eq!(requests(&many, Segment::Event, MAX_PUT_BY), 3);
        assert_eq!(requests(&many, Segment::Clip, MAX_PUT_BY), 1);
    }
}
