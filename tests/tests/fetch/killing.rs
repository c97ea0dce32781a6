//! `fetch` killed at random points, and what its server has sent.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::publisher::{Request, Sent, Server};
use tests::{CommandOutput, EXIT_DONE, command, kill_when, run};
use util::rng::Rng;

/// How often a fetch is killed.
pub const KILLS: usize = 10;

/// What may be on its way when a process is killed that writes a file: the buffers of the connection,
/// and some of the server's pieces.
pub const IN_FLIGHT: usize = 64 << 10;

/// The same of a process that unpacks: the connection's buffers fill while it waits for the disk,
/// which takes long where other tests write too.
const IN_FLIGHT_OF_ARCHIVE: usize = 1 << 20;

/// Counts the requests of a server, so that a test knows when a process has begun to fetch.
#[derive(Clone, Default)]
pub struct Requests(Arc<AtomicUsize>);

impl Requests {
    /// Counts a request; a handler of the server calls it first.
    pub fn count(&self, _: &Request) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// The command that fetches a dataset from a server.
pub fn fetch(dataset: &str, source: &str, raw: &Path) -> Command {
    let arguments = ["--source", source, "--accept-licence", "--json", "--raw"];
    let mut command = command("fetch", [dataset]);
    command.args(arguments).arg(raw);
    // The requests go to loopback, whatever the proxies of this machine.
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    command
}

/// Starts a fetch again and again and kills it at random, from its first request to `longest` later;
/// then lets it end. Calls `after_kill` after each kill. Returns how often it was killed and what the last one printed.
pub fn kill_repeatedly(
    requests: &Requests,
    longest: Duration,
    mut start: impl FnMut() -> Command,
    mut after_kill: impl FnMut(),
) -> (usize, CommandOutput) {
    let mut killed = 0;
    for kill in 0..KILLS {
        let random = Rng::new(22, &[kill as u32]).uniform();
        let delay = longest.mul_f64(random);
        let before = requests.get();
        let mut begin = None;
        let ended = kill_when(&mut start(), || {
            if begin.is_none() && requests.get() > before {
                begin = Some(Instant::now());
            }
            begin.is_some_and(|begin| begin.elapsed() >= delay)
        });
        if ended {
            break;
        }
        killed += 1;
        after_kill();
    }
    (killed, run(&mut start()).expect(EXIT_DONE))
}

/// Asserts that each request for a file goes on where the one before had stopped: at most
/// `again` bytes are fetched a second time, and those only that came last.
#[track_caller]
pub fn assert_no_byte_twice(server: &Server, path: &str, size: usize, again: usize) {
    let sent: Vec<Sent> = server.sent();
    let of_file = sent
        .iter()
        .filter(|one| one.path == path && [200, 206].contains(&one.status));
    // A probe for one byte tells a file from a page.
    let of_file: Vec<&Sent> = of_file.filter(|one| one.bytes != 1).collect();
    let mut end = 0;
    for (number, one) in of_file.iter().enumerate() {
        assert!(
            one.start + again >= end && one.start <= end,
            "request {number} for {path} begins at {}, after {end} of {size} bytes; {again} may be repeated",
            one.start
        );
        end = end.max(one.start + one.bytes);
    }
    assert!(end >= size, "{end} of {size} bytes of {path} were sent");
    let all: usize = of_file.iter().map(|one| one.bytes).sum();
    tests::report_figure(
        "max share of an archive that was fetched twice",
        (all as f64 - size as f64) / size as f64,
    );
}

/// What may be fetched again of an archive that is unpacked on its way: up to the last saved record,
/// which is a 64th of the archive or 4 KiB away, a member, a deflate block, and what is on its way.
pub fn repeated(archive: usize, member: usize) -> usize {
    const BLOCK: usize = 64 << 10;
    (archive / 64).max(4 << 10) + member + BLOCK + IN_FLIGHT_OF_ARCHIVE
}

/// The records of archives after each kill, which tell where the next process has to go on.
pub struct Records<'a> {
    server: &'a Server,
    raw: &'a Path,
    /// The names of the records, and the paths of their archives on the server.
    archives: Vec<(String, String)>,
    /// After each kill: how much the server had sent, and each record.
    notes: Vec<(usize, Vec<Option<Value>>)>,
}

impl<'a> Records<'a> {
    /// Watches the records of these archives.
    pub fn watch(server: &'a Server, raw: &'a Path, archives: &[(&str, &str)]) -> Records<'a> {
        let archives = archives.iter();
        Records {
            server,
            raw,
            archives: archives
                .map(|(key, path)| ((*key).to_owned(), (*path).to_owned()))
                .collect(),
            notes: Vec::new(),
        }
    }

    /// Notes the records after a kill.
    pub fn note(&mut self) {
        let read = |(key, _): &(String, String)| {
            let text = std::fs::read(self.raw.join(format!(".fetch/{key}.json"))).ok()?;
            Some(serde_json::from_slice(&text).unwrap())
        };
        let records = self.archives.iter().map(read).collect();
        self.notes.push((self.server.sent().len(), records));
    }

    /// Asserts that after each kill an archive was asked for exactly from its record on, and never
    /// again when it was done. Returns how often one went on in the middle.
    #[track_caller]
    pub fn assert_exact(&self) -> usize {
        let sent = self.server.sent();
        let mut resumed = 0;
        for (number, (from, records)) in self.notes.iter().enumerate() {
            let to = self.notes.get(number + 1).map_or(sent.len(), |note| note.0);
            for ((_, path), record) in self.archives.iter().zip(records) {
                let of_process = sent[*from..to].iter();
                let mut answers = of_process.filter(|one| one.path == *path && one.status < 300);
                let first = answers
                    .find(|one| one.bytes != 1)
                    .map(|one| one.start as u64);
                let record = record.as_ref();
                if record.is_some_and(|record| record["done"] == true) {
                    assert_eq!(first, None, "{path} was done before kill {number}");
                    continue;
                }
                let expected = record.map_or(0, |record| {
                    let position = record["point"]["offset"].as_u64();
                    position.or(record["position"].as_u64()).unwrap()
                });
                if let Some(first) = first {
                    assert_eq!(first, expected, "{path} after kill {number}");
                    resumed += usize::from(first > 0);
                }
            }
        }
        resumed
    }
}
