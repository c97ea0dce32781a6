//! Requests to servers, repeated after temporary errors.

use std::borrow::Cow;
use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use chrono::DateTime;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode};
use tokio::runtime::Runtime;
use util::rng::Rng;

use crate::error::{Error, Kind};

/// How long a client waits, and how often it tries.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How often a request is sent at most. A download counts from the beginning when it has
    /// received something.
    pub attempts: u32,
    /// The same as long as no server has answered this client: on a machine without a network an
    /// error should not take a minute.
    pub first_attempts: u32,
    /// The longest time without a byte.
    pub stall: Duration,
    /// The pause before the first repetition; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause, unless a server's `Retry-After` asks for a longer one.
    pub longest_pause: Duration,
}

impl Default for Limits {
    /// Ten attempts within a minute and a half: longer than a router takes to restart.
    fn default() -> Limits {
        Limits {
            attempts: 10,
            first_attempts: 4,
            stall: Duration::from_secs(30),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(30),
        }
    }
}

/// The longest that a server's `Retry-After` is obeyed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// The failure in a row at which a warning is printed, so that the user knows what is waited for, and
/// the pause before which one is always printed.
const WARNED_FAILURE: u32 = 3;
const WARNED_PAUSE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_REDIRECTS: usize = 10;
/// Threads for connections and TLS; the callers' threads wait for them.
const RUNTIME_THREADS: usize = 2;
const USER_AGENT: &str = concat!("u2a-fetch/", env!("CARGO_PKG_VERSION"));

/// Which redirections are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redirects {
    /// All, except from an encrypted to an unencrypted address.
    #[default]
    All,
    /// None: a redirection is returned as the response.
    None,
}

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The address.
    pub url: String,
    /// Further headers. `authorization` goes to the server of the address only, to no other one that it
    /// redirects to.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body of a POST request, as JSON.
    pub body: Option<String>,
    /// Which redirections are followed.
    pub redirects: Redirects,
}

impl Request {
    /// A request for this address.
    pub fn get(url: impl Into<String>) -> Request {
        Request {
            url: url.into(),
            ..Request::default()
        }
    }

    fn method(&self) -> Method {
        match self.body {
            Some(_) => Method::POST,
            None => Method::GET,
        }
    }

    /// Adds a header.
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// An HTTP client that any number of threads may use.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    all: reqwest::Client,
    none: reqwest::Client,
    limits: Limits,
    /// Whether any server has answered.
    answered: AtomicBool,
}

impl Client {
    /// Creates a client. It uses the proxies of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
    /// `NO_PROXY`.
    ///
    /// # Errors
    /// The threads of the connections cannot be started, or the system's certificates cannot be read.
    pub fn new(limits: Limits) -> io::Result<Client> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("fetch")
            .enable_all()
            .build()?;
        let build = |policy: Policy| {
            reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(limits.stall)
                .redirect(policy)
                .build()
                .map_err(io::Error::other)
        };
        let all = build(Policy::custom(|attempt| {
            let encrypted = attempt.previous().iter().any(|url| url.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirections")
            } else if encrypted && attempt.url().scheme() != "https" {
                attempt.error("a redirection to an unencrypted address")
            } else {
                attempt.follow()
            }
        }))?;
        let none = build(Policy::none())?;
        Ok(Client(Arc::new(Inner {
            runtime,
            all,
            none,
            limits,
            answered: AtomicBool::new(false),
        })))
    }

    /// The client's limits.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Sends a request: POST if it has a body, otherwise GET. Repeats it after temporary errors.
    ///
    /// # Errors
    /// The answer is neither a success nor, with [`Redirects::None`], a redirection.
    pub fn send(&self, request: &Request) -> Result<Response, Error> {
        self.repeat(&request.url, || {
            self.send_once(request.method(), request, 0, None)
        })
    }

    /// Asks for the headers of an answer alone (HEAD). Repeats the request after temporary errors.
    ///
    /// # Errors
    /// Those of [`Client::send`].
    pub fn head(&self, request: &Request) -> Result<Response, Error> {
        self.repeat(&request.url, || {
            self.send_once(Method::HEAD, request, 0, None)
        })
    }

    /// Sends a request and returns the whole body as text, of at most `limit` bytes. Repeats both
    /// after temporary errors.
    ///
    /// # Errors
    /// Those of [`Client::send`], and an answer that is longer or no UTF-8.
    pub fn text(&self, request: &Request, limit: u64) -> Result<String, Error> {
        self.repeat(&request.url, || {
            let response = self.send_once(request.method(), request, 0, None)?;
            let mut text = Vec::new();
            response
                .take(limit + 1)
                .read_to_end(&mut text)
                .map_err(|e| {
                    Error::new(
                        &request.url,
                        Kind::Temporary(None),
                        format!("the connection broke: {e}"),
                    )
                })?;
            if text.len() as u64 > limit {
                let message = format!("the answer is longer than {limit} bytes");
                return Err(Error::new(&request.url, Kind::Refused, message));
            }
            String::from_utf8(text)
                .map_err(|_| Error::new(&request.url, Kind::Refused, "the answer is no UTF-8 text"))
        })
    }

    /// Calls `attempt` until it succeeds, fails for good, or has failed as often as the limits say.
    fn repeat<T>(
        &self,
        url: &str,
        mut attempt: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    failures += 1;
                    self.pause_after(url, failures, error)?;
                }
            }
        }
    }

    /// Waits before a request is repeated that has failed this many times.
    ///
    /// # Errors
    /// The given error, if it is permanent or has happened often enough.
    pub(crate) fn pause_after(&self, url: &str, failures: u32, error: Error) -> Result<(), Error> {
        let limits = &self.0.limits;
        let Kind::Temporary(retry_after) = error.kind else {
            return Err(error);
        };
        let attempts = match self.0.answered.load(Ordering::Relaxed) {
            true => limits.attempts,
            false => limits.first_attempts,
        };
        if failures >= attempts {
            let times = format!("given up after {failures} attempts");
            return Err(error.with_advice(&times));
        }
        // A server that asks for no pause is busy all the same.
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let pause = pause(limits, url, failures).max(asked);
        if failures == WARNED_FAILURE || pause >= WARNED_PAUSE {
            let seconds = pause.as_secs_f64().ceil();
            util::cli::warn(&format!("{error}; trying again in {seconds} s"));
        }
        thread::sleep(pause);
        Ok(())
    }

    /// Sends a request once, for the bytes from `start` on. `validator` is the `ETag` or
    /// `Last-Modified` that the file must still have; otherwise a server sends the whole file.
    pub(crate) fn send_once(
        &self,
        method: Method,
        request: &Request,
        start: u64,
        validator: Option<&str>,
    ) -> Result<Response, Error> {
        let client = match request.redirects {
            Redirects::All => &self.0.all,
            Redirects::None => &self.0.none,
        };
        let mut builder = client.request(method, &request.url);
        for (name, value) in &request.headers {
            builder = builder.header(name.as_ref(), value);
        }
        if start > 0 {
            builder = builder.header(RANGE, format!("bytes={start}-"));
            if let Some(validator) = validator {
                builder = builder.header(IF_RANGE, validator);
            }
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let answer = self
            .run(async { builder.send().await })
            .map_err(|e| Error::connection(&request.url, e))?;
        self.0.answered.store(true, Ordering::Relaxed);
        let status = answer.status();
        let is_empty_range = start > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE;
        let is_redirection = request.redirects == Redirects::None && status.is_redirection();
        if !status.is_success() && !is_redirection && !is_empty_range {
            let retry_after = answer.headers().get(RETRY_AFTER);
            let retry_after = retry_after.and_then(|value| value.to_str().ok());
            let retry_after =
                retry_after.and_then(|value| parse_retry_after(value, SystemTime::now()));
            return Err(Error::status(&request.url, status, retry_after));
        }
        Ok(Response {
            client: self.clone(),
            answer,
            buffered: Bytes::new(),
        })
    }

    /// Waits for a request; its timers start inside the runtime.
    fn run<F: Future>(&self, future: F) -> F::Output {
        self.0.runtime.block_on(future)
    }
}

/// The answer of a server. Reading it reads its body.
pub struct Response {
    client: Client,
    answer: reqwest::Response,
    /// What has arrived and was not read yet.
    buffered: Bytes,
}

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.answer.status().as_u16()
    }

    /// The address that sent it, after all redirections.
    pub fn url(&self) -> &str {
        self.answer.url().as_str()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.answer.headers()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    }

    /// The length of the body, as its header says.
    pub fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// What identifies this version of the file: a strong `ETag`, otherwise `Last-Modified`.
    pub fn validator(&self) -> Option<&str> {
        let etag = self.header(ETAG.as_str());
        etag.filter(|etag| !etag.starts_with("W/"))
            .or_else(|| self.header(LAST_MODIFIED.as_str()))
    }

    /// The first byte and the file's whole size, as `Content-Range` says; `*` is `None`.
    pub fn content_range(&self) -> (Option<u64>, Option<u64>) {
        let range = self.header(CONTENT_RANGE.as_str()).unwrap_or_default();
        let range = range.strip_prefix("bytes ").unwrap_or_default();
        let (positions, total) = range.split_once('/').unwrap_or_default();
        let start = positions.split_once('-').map(|(start, _)| start);
        (start.and_then(|s| s.parse().ok()), total.parse().ok())
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.buffered.is_empty() {
            let answer = &mut self.answer;
            let chunk = self.client.run(async { answer.chunk().await });
            match chunk {
                Ok(Some(bytes)) => self.buffered = bytes,
                Ok(None) => return Ok(0),
                Err(error) if error.is_timeout() => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, error.without_url()));
                }
                Err(error) => {
                    let kind = io::ErrorKind::ConnectionAborted;
                    return Err(io::Error::new(kind, error.without_url()));
                }
            }
        }
        let length = buffer.len().min(self.buffered.len());
        self.buffered.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Returns the pause after this many failures: doubled each time, and shortened by up to a half, by
/// a random number of the address, so that many clients do not come back at once.
fn pause(limits: &Limits, url: &str, failures: u32) -> Duration {
    let doubled = limits
        .first_pause
        .saturating_mul(1 << failures.saturating_sub(1).min(20))
        .min(limits.longest_pause);
    let seed = url.bytes().fold(0u64, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let seed = seed ^ u64::from(std::process::id());
    let random = Rng::new(seed, &[failures]).uniform();
    doubled.mul_f64(1.0 - random / 2.0)
}

/// Parses `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3), of which the time from `now`
/// on is returned.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(value.trim()).ok()?;
    Some(
        SystemTime::from(date)
            .duration_since(now)
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_between_addresses() {
        let limits = Limits::default();
        for (failures, longest) in [(1, 250), (2, 500), (3, 1000), (8, 30_000), (40, 30_000)] {
            let longest = Duration::from_millis(longest);
            let pause = pause(&limits, "http://host/file", failures);
            assert!(
                pause <= longest && pause >= longest / 2,
                "{failures}: {pause:?}"
            );
        }
        assert_ne!(
            pause(&limits, "http://host/a", 1),
            pause(&limits, "http://host/b", 1)
        );
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        // The example of RFC 9110, section 10.2.3.
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_799 - 20);
        for (value, want) in [
            ("120", Some(120)),
            (" 0", Some(0)),
            (date, Some(20)),
            ("soon", None),
        ] {
            assert_eq!(
                parse_retry_after(value, before),
                want.map(Duration::from_secs),
                "{value}"
            );
        }
        let after = before + Duration::from_secs(60);
        assert_eq!(parse_retry_after(date, after), Some(Duration::ZERO));
    }
}
