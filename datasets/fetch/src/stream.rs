//! A file of a server as a stream that survives broken connections.

use std::io::{self, Read};

use reqwest::{Method, StatusCode};

use crate::client::{Client, Request, Response};
use crate::error::{Error, Kind};

/// Reads a file of a server from a position to its end. Where a connection breaks or stalls, it
/// asks for the rest by a range request, after a pause; a server that knows no ranges sends the
/// beginning once more, which is skipped.
///
/// An error of reading that wraps an [`Error`] is permanent: the attempts are used up, or the file
/// on the server has changed.
pub struct Stream {
    client: Client,
    request: Request,
    response: Option<Response>,
    /// The position of the next byte in the file.
    position: u64,
    total: Option<u64>,
    validator: Option<String>,
    /// Failures since the last byte.
    failures: u32,
}

impl Stream {
    /// Opens a file at `position`. `validator` is what [`Stream::validator`] returned when the bytes
    /// before the position were fetched.
    ///
    /// # Errors
    /// Those of [`Client::send`]; [`Kind::Changed`] if the server has another version of the file
    /// now.
    pub fn open(
        client: &Client,
        request: Request,
        position: u64,
        validator: Option<String>,
    ) -> Result<Stream, Error> {
        let mut stream = Stream {
            client: client.clone(),
            request,
            response: None,
            position,
            total: None,
            validator,
            failures: 0,
        };
        stream.connect_repeatedly()?;
        Ok(stream)
    }

    /// The size of the whole file in bytes, if the server has told it.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The position of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What identifies this version of the file on the server, if it told.
    pub fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// The headers of the last answer; `None` at the end of the file.
    pub fn response(&self) -> Option<&Response> {
        self.response.as_ref()
    }

    fn connect_repeatedly(&mut self) -> Result<(), Error> {
        while let Err(error) = self.connect() {
            self.failures += 1;
            self.client
                .pause_after(&self.request.url, self.failures, error)?;
        }
        Ok(())
    }

    /// Opens a connection at the present position.
    fn connect(&mut self) -> Result<(), Error> {
        let url = &self.request.url;
        let validator = self.validator.as_deref();
        let mut response =
            self.client
                .send_once(Method::GET, &self.request, self.position, validator)?;
        let changed = || {
            Error::new(
                url,
                Kind::Changed,
                "the server has another version of the file now than the one whose beginning was fetched",
            )
        };
        let (start, mut total) = response.content_range();
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE.as_u16() {
            // Everything has been read, unless the file has become shorter.
            if total.is_some_and(|total| total != self.position) {
                return Err(changed());
            }
            (self.response, self.total) = (None, Some(self.position));
            return Ok(());
        }
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT.as_u16();
        if is_part && start != Some(self.position) {
            let message = "the server sends another range than the one that was asked for";
            return Err(Error::new(url, Kind::Refused, message));
        }
        if !is_part {
            total = response.content_length();
        }
        if let (Some(now), Some(before)) = (total, self.total)
            && now != before
        {
            return Err(changed());
        }
        if let (Some(now), Some(before)) = (response.validator(), validator)
            && now != before
        {
            return Err(changed());
        }
        if !is_part && self.position > 0 {
            skip(&mut response, self.position).map_err(|error| broken(url, &error))?;
        }
        self.validator = response.validator().map(str::to_owned);
        self.total = total.or(self.total);
        self.response = Some(response);
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(response) = &mut self.response else {
                return Ok(0);
            };
            let error = match response.read(buffer) {
                Ok(0) if buffer.is_empty() => return Ok(0),
                Ok(0) if self.total.is_none_or(|total| self.position >= total) => {
                    self.response = None;
                    return Ok(0);
                }
                Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
                Ok(length) => {
                    self.position += length as u64;
                    self.failures = 0;
                    return Ok(length);
                }
                Err(error) => error,
            };
            let error = broken(&self.request.url, &error);
            self.failures += 1;
            self.client
                .pause_after(&self.request.url, self.failures, error)
                .and_then(|()| self.connect_repeatedly())
                .map_err(io::Error::other)?;
        }
    }
}

/// Reads over the first bytes of a body.
fn skip(response: &mut Response, length: u64) -> io::Result<()> {
    let skipped = io::copy(&mut response.take(length), &mut io::sink())?;
    match skipped == length {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The temporary error of a connection that ended too early.
fn broken(url: &str, error: &io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::TimedOut => "the server stopped sending".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection ended too early".to_owned(),
        _ => format!("the connection broke: {error}"),
    };
    Error::new(url, Kind::Temporary(None), message)
}
