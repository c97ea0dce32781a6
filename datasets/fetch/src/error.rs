//! Errors of downloads.

use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use util::exit_code::Temporary;

/// Why a request or a download failed.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {message}")]
pub struct Error {
    /// The address that was asked, without its query, which may hold a signature, and without a
    /// password.
    pub url: String,
    /// What follows from it.
    pub kind: Kind,
    /// What is wrong, and what to do.
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A repetition may help, after this time if the server has named one: no connection, a
    /// connection that broke or stalled, status 408, 425, 429 or 5xx.
    Temporary(Option<Duration>),
    /// Status 401 or 403.
    Denied,
    /// Status 404 or 410.
    NotFound,
    /// The file on the server is not the one whose beginning was fetched.
    Changed,
    /// What was fetched is not what it should be.
    Mismatch,
    /// Any other refusal of the server.
    Refused,
    /// A file on this machine could not be read or written.
    Local,
}

impl Error {
    /// An error of this kind.
    pub fn new(url: &str, kind: Kind, message: impl Into<String>) -> Error {
        Error {
            url: without_secrets(url),
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error of reading or writing a file on this machine.
    pub fn local(url: &str, path: &std::path::Path, error: io::Error) -> Error {
        let message = format!("{}: cannot be written", path.display());
        Error {
            source: Some(Box::new(error)),
            ..Error::new(url, Kind::Local, message)
        }
    }

    /// The error of reading a [`Stream`](crate::Stream).
    pub fn of_stream(url: &str, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error {
                source: Some(Box::new(error)),
                ..Error::new(url, Kind::Refused, "cannot be read")
            },
        }
    }

    /// The error of a status that is no success.
    pub(crate) fn status(url: &str, status: StatusCode, retry_after: Option<Duration>) -> Error {
        let (kind, advice) = match status.as_u16() {
            401 | 403 => (
                Kind::Denied,
                "; it asks for an account, a token or its terms to be accepted",
            ),
            404 | 410 => (Kind::NotFound, "; it has no such file any more"),
            408 | 425 | 429 | 500.. => (Kind::Temporary(retry_after), ""),
            _ => (Kind::Refused, ""),
        };
        Error::new(url, kind, format!("the server answers {status}{advice}"))
    }

    /// An error of the connection.
    pub(crate) fn connection(url: &str, error: reqwest::Error) -> Error {
        let (kind, message) = if error.is_timeout() {
            (
                Kind::Temporary(None),
                "the server does not answer".to_owned(),
            )
        } else if error.is_redirect() {
            (
                Kind::Refused,
                "the server redirects in a circle or to an unencrypted address".to_owned(),
            )
        } else if error.is_builder() {
            (Kind::Refused, "is no valid address".to_owned())
        } else if error.is_connect() {
            (Kind::Temporary(None), "cannot be reached".to_owned())
        } else {
            (Kind::Temporary(None), "the connection broke".to_owned())
        };
        Error {
            source: Some(Box::new(error.without_url())),
            ..Error::new(url, kind, message)
        }
    }

    /// Whether a repetition may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self.kind, Kind::Temporary(_))
    }

    /// Adds what to do to the message.
    pub fn with_advice(mut self, advice: &str) -> Error {
        self.message = format!("{}; {advice}", self.message);
        self
    }

    /// Converts the error for [`util::exit_code`], which tells temporary errors from permanent
    /// ones.
    pub fn into_anyhow(self) -> anyhow::Error {
        if self.is_temporary() {
            let causes = anyhow::Error::new(self);
            return Temporary::error(format!(
                "{causes:#}; the same command goes on where it stopped"
            ));
        }
        anyhow::Error::new(self)
    }
}

/// Returns the URL up to its query, without user and password.
pub(crate) fn without_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(address, _)| address);
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_no_query_and_no_password() {
        for (url, want) in [
            ("http://user:secret@host:1/a@b?key=1", "http://host:1/a@b"),
            ("https://host", "https://host"),
            ("/folder/a@b", "/folder/a@b"),
        ] {
            assert_eq!(without_secrets(url), want);
        }
    }
}
