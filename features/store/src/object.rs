//! Objects in a store: their size, their version, and requests for parts of them.

use crate::client::{Client, permit};
use crate::failure::explain;
use crate::url::Url;
use bytes::Bytes;
use media::Error;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};
use std::ops::Range;
use std::sync::Arc;

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in the folder.
    pub name: String,
    /// The size in bytes.
    pub bytes: u64,
    /// What tells versions of an object apart; `None` for a file on a disk.
    pub(crate) version: Option<Version>,
}

/// What a store says of an object's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub etag: Option<String>,
    /// The time of the last change, as text.
    pub modified: String,
}

impl Entry {
    /// Returns what tells this version of an object apart from others: its ETag. `None` for a file on
    /// a disk, and where the store has no ETags.
    pub fn version(&self) -> Option<&str> {
        self.version.as_ref()?.etag.as_deref().map(without_quotes)
    }

    /// Returns the entry of an object.
    pub(crate) fn of(name: String, meta: &ObjectMeta) -> Entry {
        Entry {
            name,
            bytes: meta.size,
            version: Some(Version {
                etag: meta.e_tag.clone(),
                modified: meta.last_modified.to_rfc3339(),
            }),
        }
    }
}

/// Returns an ETag without its quotation marks, which some stores leave out in some answers.
pub(crate) fn without_quotes(etag: &str) -> &str {
    etag.trim_matches('"')
}

/// A version of an object.
pub(crate) struct Object {
    pub client: Arc<Client>,
    pub folder: Url,
    pub path: Path,
    /// The URL, for messages.
    pub url: String,
    pub bytes: u64,
    version: Version,
    /// The name of this version in the cache: equal for equal bytes only.
    pub key: String,
}

impl Object {
    /// Returns the version of an object that an entry of its folder describes.
    pub fn new(
        client: Arc<Client>,
        folder: &Url,
        path: Path,
        bytes: u64,
        version: Version,
    ) -> Object {
        let url = format!("{}/{path}", folder.root);
        // The time would differ for each copy of equal bytes, and an ETag says more.
        let etag = version.etag.as_deref().map(without_quotes);
        let tag = etag.unwrap_or(&version.modified);
        let mut key = util::hash::sha256(format!("{url}\0{tag}\0{bytes}"));
        key.truncate(32);
        Object {
            client,
            folder: folder.clone(),
            path,
            url,
            bytes,
            version,
            key,
        }
    }

    /// Requests a range of this version.
    ///
    /// # Errors
    /// The store does not answer, or the object has changed.
    pub async fn get(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let _permit = permit().await;
        let explained = |e| explain(&self.folder, &self.url, "read", &e);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: self.version.etag.clone(),
            ..GetOptions::default()
        };
        let result = self.client.store.get_opts(&self.path, options).await;
        let result = result.map_err(explained)?;
        let now = Entry::of(String::new(), &result.meta);
        let same = match (&self.version.etag, now.version) {
            (
                Some(etag),
                Some(Version {
                    etag: Some(now), ..
                }),
            ) => without_quotes(etag) == without_quotes(&now),
            (_, Some(now)) => self.version.modified == now.modified,
            (_, None) => false,
        };
        let bytes = result.bytes().await.map_err(explained)?;
        if !same || now.bytes != self.bytes || bytes.len() as u64 != range.end - range.start {
            return Err(Error::unusable(
                format!("{}: has changed while it was read", self.url),
                "start again when nobody writes into the folder",
            ));
        }
        Ok(bytes)
    }
}

/// Requests size and version of an object. `None` if there is none.
///
/// # Errors
/// The store does not answer or refuses access.
pub(crate) async fn head(
    client: &Client,
    folder: &Url,
    path: &Path,
) -> Result<Option<ObjectMeta>, Error> {
    let _permit = permit().await;
    match client.store.head(path).await {
        Ok(meta) => Ok(Some(meta)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => {
            let url = format!("{}/{path}", folder.root);
            Err(explain(folder, &url, "read", &error))
        }
    }
}
