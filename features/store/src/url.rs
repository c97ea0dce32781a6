//! URLs of folders in object stores and on web servers.

use media::Error;
use object_store::path::Path;
use std::fmt;

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Amazon S3, and servers with its interface.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A web server.
    Http,
}

/// A folder in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub scheme: Scheme,
    /// The URL up to the bucket or the host: `s3://bucket`, `http://host:80`.
    pub root: String,
    /// The path of the folder in the bucket; empty for the bucket itself.
    pub prefix: Path,
}

impl Url {
    /// Parses a URL. `None` if the text has no scheme, so that it is a path.
    ///
    /// # Errors
    /// The scheme is unknown, or the URL names no bucket or has an invalid path.
    pub fn parse(text: &str) -> Result<Option<Url>, Error> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(None);
        };
        let remedy = "give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, \
                      http(s)://HOST/PATH, or a path without a scheme";
        let refused = |problem: &str| Error::unusable(format!("{text}: {problem}"), remedy);
        let scheme_name = scheme.to_ascii_lowercase();
        let scheme = match scheme_name.as_str() {
            "s3" | "s3a" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "http" | "https" => Scheme::Http,
            _ => return Err(refused("the scheme is unknown")),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(refused("no bucket or host is named"));
        }
        if scheme == Scheme::Http && path.contains(['?', '#']) {
            return Err(refused("a URL with a query names no folder"));
        }
        let prefix = Path::parse(path.trim_matches('/'))
            .map_err(|_| refused("the path has an empty part, '.' or '..'"))?;
        Ok(Some(Url {
            scheme,
            root: format!("{scheme_name}://{host}"),
            prefix,
        }))
    }

    /// Returns the path of a file below the folder.
    ///
    /// # Errors
    /// The name has an empty part, `.` or `..`.
    pub fn path(&self, name: &str) -> Result<Path, Error> {
        let path = match self.prefix.as_ref() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        Path::parse(&path).map_err(|e| {
            Error::unusable(
                format!("{self}/{name}: is no name of a file ({e})"),
                "give another name",
            )
        })
    }

    /// Returns the bucket, container or host.
    pub fn host(&self) -> &str {
        self.root.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.root)?;
        match self.prefix.as_ref() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_are_told_apart() {
        let show = |text: &str| Url::parse(text).unwrap().map(|url| url.to_string());
        assert_eq!(show("data/shards/ave"), None);
        assert_eq!(show("/data"), None);
        for (given, shown) in [
            ("s3://bucket/a/b", "s3://bucket/a/b"),
            ("S3://bucket/a/", "s3://bucket/a"),
            ("gs://bucket", "gs://bucket"),
            ("az://container/", "az://container"),
            ("https://host:8080/x y", "https://host:8080/x y"),
        ] {
            assert_eq!(show(given).as_deref(), Some(shown));
        }
        for wrong in [
            "file:///data",
            "s3://",
            "s3:///x",
            "s3://b/a//c",
            "s3://b/../c",
            "http://h/?q=1",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
        let url = Url::parse("s3://bucket").unwrap().unwrap();
        assert_eq!(url.path("masks/a").unwrap().as_ref(), "masks/a");
        assert_eq!(url.host(), "bucket");
        assert!(url.path("../a").is_err());
    }
}
