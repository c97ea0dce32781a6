//! One-line errors from those of `object_store`, which span lines and repeat the server's XML.

use crate::credentials;
use crate::url::{Scheme, Url};
use media::Error;
use std::io;
use std::path::PathBuf;

/// The most characters of a foreign message that are shown.
const SHOWN: usize = 200;
/// Words in the errors of a metadata service.
const METADATA: [&str; 3] = ["169.254.169.254", "metadata", "/latest/api/token"];

/// Returns the error of a request for `url`, a folder or a file below `folder`. `action` is what
/// failed, as an infinitive.
pub(crate) fn explain(
    folder: &Url,
    url: &str,
    action: &'static str,
    error: &object_store::Error,
) -> Error {
    let has_credentials = credentials::are_named(folder.scheme);
    explain_with(folder, url, action, error, has_credentials)
}

/// [`explain`], with what the environment says of credentials.
fn explain_with(
    folder: &Url,
    url: &str,
    action: &'static str,
    error: &object_store::Error,
    has_credentials: bool,
) -> Error {
    use object_store::Error as Store;
    let text = whole_text(error);
    let code = between(&text, "<Code>", "</Code>").unwrap_or_default();
    let status = after(&text, "status code: ").unwrap_or_default();
    let unusable =
        |problem: &str, remedy: &str| Error::unusable(format!("{url}: {problem}"), remedy);
    if ["NoSuchBucket", "ContainerNotFound"].contains(&code) {
        let problem = format!("there is no bucket '{}'", folder.host());
        return unusable(&problem, "create it, or correct the URL");
    }
    let is_refused = matches!(
        error,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. }
    ) || ["401", "403"].contains(&status);
    let from_metadata = METADATA.iter().any(|word| text.contains(word));
    if (is_refused || from_metadata) && !has_credentials {
        return without_credentials(folder);
    }
    if text.contains("redirect without LOCATION")
        || ["301", "307"].contains(&status)
        || code == "PermanentRedirect"
    {
        return unusable(
            "the bucket lies in another region",
            "set AWS_REGION to its region",
        );
    }
    if text.contains("scheme is not allowed") {
        return unusable(
            "the endpoint's URL begins with http://",
            "set AWS_ALLOW_HTTP=true (or AZURE_ALLOW_HTTP), or give an https:// endpoint",
        );
    }
    if text.contains("non-partial response") || text.contains("Range request not supported") {
        return unusable(
            "the server sends no byte ranges",
            "use a server that answers range requests, or copy the folder to a disk",
        );
    }
    match error {
        Store::NotFound { .. } => unusable("there is no such file", "correct the URL"),
        Store::Precondition { .. } => unusable(
            "has changed while it was read",
            "start again when nobody writes into the folder",
        ),
        _ if is_refused => refused(url, code, folder.scheme),
        _ if status == "404" => unusable("there is no such bucket or file", "correct the URL"),
        _ => lost(folder.scheme, url, action, error),
    }
}

/// Returns the error of a store that no credentials are named for.
pub(crate) fn without_credentials(folder: &Url) -> Error {
    Error::unusable(
        format!("{folder}: there are no credentials for this store"),
        credentials::to_set(folder.scheme),
    )
}

/// Returns the error of settings that do not suffice for a connection.
pub(crate) fn incomplete(folder: &Url, error: &object_store::Error) -> Error {
    let text = innermost(error);
    Error::unusable(
        format!("{folder}: the settings in the environment do not suffice: {text}"),
        credentials::to_check(folder.scheme),
    )
}

/// Returns the error of a request that the store refuses.
fn refused(url: &str, code: &str, scheme: Scheme) -> Error {
    let code = match code {
        "" => String::new(),
        code => format!(" ({code})"),
    };
    Error::unusable(
        format!("{url}: the store refuses access{code}"),
        credentials::to_check(scheme),
    )
}

/// Returns the error of a request that got no usable answer, so that a later one may.
fn lost(scheme: Scheme, url: &str, action: &'static str, error: &object_store::Error) -> Error {
    let text = innermost(error);
    let first: String = text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(SHOWN)
        .collect();
    let first = first.split('<').next().unwrap_or_default();
    let first = first.trim_end_matches([' ', ':']);
    let kind = match text.contains("timed out") {
        true => io::ErrorKind::TimedOut,
        false => io::ErrorKind::ConnectionAborted,
    };
    let endpoint = match scheme {
        Scheme::S3 => "the connection and AWS_ENDPOINT_URL",
        _ => "the connection",
    };
    Error::Io {
        path: PathBuf::from(url),
        action,
        cause: io::Error::new(
            kind,
            format!("{first}; check {endpoint}, then run the same command again"),
        ),
    }
}

/// Returns the message of the first cause of an error.
fn innermost(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Returns the messages of an error and of its causes.
fn whole_text(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text += "\n";
        text += &inner.to_string();
        cause = inner.source();
    }
    text
}

/// Returns what stands between two words.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end)?.0)
}

/// Returns the three characters behind a word.
fn after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split_once(start)?.1.get(..3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: text.to_owned().into(),
        }
    }

    #[test]
    fn errors_are_one_line_with_the_remedy() {
        let url = Url::parse("s3://bucket/a").unwrap().unwrap();
        let file = "s3://bucket/a/x";
        let line = |error| explain_with(&url, file, "read", &error, true).to_string();
        for (text, words) in [
            (
                "Server returned non-2xx status code: 404 Not Found: <?xml?>\n<Error><Code>NoSuchBucket</Code>",
                ["no bucket 'bucket'", "create it"],
            ),
            (
                "Server returned non-2xx status code: 403 Forbidden: <Code>InvalidAccessKeyId</Code>",
                ["refuses access (InvalidAccessKeyId)", "AWS_ACCESS_KEY_ID"],
            ),
            (
                "Server returned non-2xx status code: 503 Service Unavailable: <?xml?>\nmore",
                ["503 Service Unavailable;", "again"],
            ),
            (
                "operation timed out",
                ["operation timed out", "AWS_ENDPOINT_URL"],
            ),
        ] {
            let line = line(generic(text));
            assert!(line.starts_with("s3://bucket/a/x: "), "{line}");
            assert!(!line.contains('\n') && !line.contains('<'), "{line}");
            for word in words {
                assert!(line.contains(word), "no '{word}' in {line}");
            }
        }
        let refused = generic("Server returned non-2xx status code: 403 Forbidden");
        let line = explain_with(&url, file, "read", &refused, false).to_string();
        assert!(line.contains("there are no credentials"), "{line}");
    }
}
