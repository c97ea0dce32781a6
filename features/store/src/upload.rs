//! Uploads of large files in parts. The object appears when the last part has arrived.
//!
//! A store keeps, and bills, the parts of an upload that was neither completed nor aborted. So the
//! id of each upload is written to `.uploads/NAME/HASH` beside the object before the first part is
//! sent, and removed afterwards; what a killed process has left is aborted by this record.

use crate::client::{Client, permit};
use crate::failure::explain;
use crate::object::without_quotes;
use crate::url::Url;
use futures_util::{StreamExt, TryStreamExt, stream};
use media::Error;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutResult};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The bytes of a part. Stores want at least 5 MiB.
const PART: u64 = 8 << 20;
/// The most parts of an upload; stores take 10,000.
const PARTS: u64 = 9_000;
/// The parts that are sent at once; each is held in memory.
const AT_ONCE: usize = 4;
/// The folder of records, in the folder of the objects.
const RECORDS: &str = ".uploads";
/// The length of a hash in the name of a record.
const HASH: usize = 16;

/// Uploads a file from the disk. Returns the version of the object.
///
/// # Errors
/// The file cannot be read, or the store does not answer or refuses it. Nothing of it is left then,
/// unless the store does not answer that request either.
pub(crate) async fn upload(
    client: &Client,
    folder: &Url,
    name: &str,
    path: &Path,
    file: &File,
) -> Result<Option<String>, Error> {
    let url = format!("{}/{path}", folder.root);
    let explained = |e| explain(folder, &url, "write", &e);
    let of_upload = |e: object_store::Error| match e {
        object_store::Error::NotFound { .. } => aborted(&url),
        e => explained(e),
    };
    let version = |put: PutResult| put.e_tag.map(|etag| without_quotes(&etag).to_owned());
    // The file may have no name.
    let unreadable = || Error::io(std::path::Path::new(name), "read the file of");
    let size = file.metadata().map_err(unreadable())?.len();
    let read = |range: Range<u64>| {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)
            .map_err(unreadable())?;
        Ok::<_, Error>(bytes)
    };
    let Some(store) = client.multipart.as_ref().filter(|_| size > PART) else {
        let bytes = read(0..size)?;
        let _permit = permit().await;
        let put = client.store.put(path, bytes.into()).await;
        return put.map(version).map_err(explained);
    };
    let id = store.create_multipart(path).await.map_err(explained)?;
    let record = record(folder, name, &id)?;
    let sent = async {
        let text = id.clone().into_bytes();
        client
            .store
            .put(&record, text.into())
            .await
            .map_err(explained)?;
        let part = |(number, range): (usize, Range<u64>)| {
            let (read, id) = (&read, &id);
            async move {
                let bytes = read(range)?;
                let _permit = permit().await;
                store
                    .put_part(path, id, number, bytes.into())
                    .await
                    .map_err(of_upload)
            }
        };
        let parts: Vec<PartId> = stream::iter(ranges(size).into_iter().enumerate().map(part))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        store
            .complete_multipart(path, &id, parts)
            .await
            .map_err(of_upload)
    };
    match sent.await {
        Ok(put) => {
            remove(client, folder, &record).await?;
            Ok(version(put))
        }
        Err(error) => {
            // If the store does not answer these requests either, the record stays.
            if store.abort_multipart(path, &id).await.is_ok() {
                drop(remove(client, folder, &record).await);
            }
            Err(error)
        }
    }
}

/// Returns the error of an upload that the store does not know any more.
fn aborted(url: &str) -> Error {
    let problem = "another process writes there too and has aborted this upload; run the same command again when it has ended";
    Error::io(std::path::Path::new(url), "write")(std::io::Error::other(problem))
}

/// Splits a size into ranges of parts.
fn ranges(size: u64) -> Vec<Range<u64>> {
    let part = PART.max(size.div_ceil(PARTS));
    (0..size.div_ceil(part))
        .map(|number| number * part..(number * part + part).min(size))
        .collect()
}

/// Returns the path of the record of an upload.
fn record(folder: &Url, name: &str, id: &str) -> Result<Path, Error> {
    let hash = util::hash::sha256(id);
    folder.path(&format!("{RECORDS}/{name}/{}", &hash[..HASH]))
}

async fn remove(client: &Client, folder: &Url, record: &Path) -> Result<(), Error> {
    match client.store.delete(record).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => {
            let url = format!("{}/{record}", folder.root);
            Err(explain(folder, &url, "remove", &error))
        }
    }
}

/// Aborts the recorded uploads of all names that `which` accepts, and returns their number.
///
/// # Errors
/// The store does not answer or refuses access.
pub(crate) async fn abort_leftovers(
    client: &Client,
    folder: &Url,
    which: &dyn Fn(&str) -> bool,
) -> Result<usize, Error> {
    let Some(store) = &client.multipart else {
        return Ok(0);
    };
    let records = folder.path(RECORDS)?;
    let url = format!("{}/{records}", folder.root);
    let explained = |action| {
        let url = url.clone();
        move |e| explain(folder, &url, action, &e)
    };
    let listed: Vec<_> = client
        .store
        .list(Some(&records))
        .try_collect()
        .await
        .map_err(explained("list"))?;
    let mut aborted = 0;
    for record in listed.iter().map(|meta| &meta.location) {
        let rest = record.as_ref().strip_prefix(records.as_ref());
        let name = rest.and_then(|rest| Some(rest.trim_start_matches('/').rsplit_once('/')?.0));
        let Some(name) = name.filter(|name| which(name)) else {
            continue;
        };
        let id = match client.store.get(record).await {
            // Another process has finished it meanwhile.
            Err(object_store::Error::NotFound { .. }) => continue,
            got => got.map_err(explained("read"))?,
        };
        let id = id.bytes().await.map_err(explained("read"))?;
        let id = String::from_utf8_lossy(&id).into_owned();
        abort(store.as_ref(), &folder.path(name)?, &id)
            .await
            .map_err(explained("abort"))?;
        remove(client, folder, record).await?;
        aborted += 1;
    }
    Ok(aborted)
}

/// Aborts an upload, which may have been completed.
async fn abort(store: &dyn MultipartStore, path: &Path, id: &String) -> object_store::Result<()> {
    match store.abort_multipart(path, id).await {
        Err(error) if error.to_string().contains("NoSuchUpload") => Ok(()),
        Err(object_store::Error::NotFound { .. }) => Ok(()),
        aborted => aborted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_file() {
        for size in [PART + 1, 3 * PART, 100 << 30] {
            let ranges = ranges(size);
            assert!(ranges.len() as u64 <= PARTS);
            assert_eq!(ranges[0].start, 0);
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!(ranges[ranges.len() - 1].end, size);
        }
    }
}
