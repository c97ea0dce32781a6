//! Keeps the workers busy and gives their replies out in the order of the samples.
//!
//! Samples on the same files share one decoding, however far apart they stand: what a later one needs is put by when the
//! first one is decoded. Where too much is put by already, the later one is decoded by itself; no byte depends on which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use datasets::{Input, Modality, Sample};

use crate::plan::{Segment, Settings};
use crate::pool::{Pool, Replies};
use crate::protocol::{File, Request, Span, Task};
use crate::sys;

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

/// See the module comment.
pub struct Feed<'a> {
    pool: &'a Pool,
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
}

impl<'a> Feed<'a> {
    /// Of samples in the order in which they are wanted.
    pub fn new(
        pool: &'a Pool,
        workers: usize,
        raw: &'a Path,
        modalities: [Modality; 2],
        settings: &'a Settings,
        samples: Vec<&'a Sample>,
    ) -> Feed<'a> {
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
            if sys::stop_signal().is_some() {
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
            } else if self.held + size(&own) <= MAX_PUT_BY {
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
fn files(input: &Input) -> Option<&[PathBuf]> {
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
