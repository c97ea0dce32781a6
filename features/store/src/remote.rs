//! Folders in stores: lists, small files, and where the objects of a folder are.

use crate::client::{Client, client, permit, run};
use crate::failure::explain;
use crate::object::{Entry, Object, head};
use crate::upload;
use crate::url::{Scheme, Url};
use bytes::Bytes;
use media::Error;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::fs::File;
use std::sync::Arc;

impl Url {
    fn connect(&self) -> Result<Arc<Client>, Error> {
        client(self)
    }

    fn explained(&self, path: &Path, action: &'static str, error: &object_store::Error) -> Error {
        explain(self, &format!("{}/{path}", self.root), action, error)
    }

    /// Returns whether the store has lists of its objects.
    pub(crate) fn is_listable(&self) -> bool {
        self.scheme != Scheme::Http
    }

    /// Checks that the folder can be written.
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        if self.scheme == Scheme::Http {
            return Err(Error::unusable(
                format!("{self}: a web server can only be read"),
                "give s3://, gs://, az:// or a path to write to",
            ));
        }
        Ok(())
    }

    pub(crate) fn list(&self) -> Result<Vec<Entry>, Error> {
        if !self.is_listable() {
            return Err(Error::unusable(
                format!("{self}: a web server has no list of its files"),
                "give s3://, gs://, az:// or a path",
            ));
        }
        let client = self.connect()?;
        let prefix = Some(&self.prefix).filter(|prefix| !prefix.as_ref().is_empty());
        let listed = run(async {
            let _permit = permit().await;
            client.store.list_with_delimiter(prefix).await
        })?;
        let listed = listed.map_err(|e| explain(self, &self.to_string(), "list", &e))?;
        let entry = |meta: &object_store::ObjectMeta| {
            let name = meta.location.filename()?;
            Some(Entry::of(name.to_owned(), meta))
        };
        let mut entries: Vec<Entry> = listed.objects.iter().filter_map(entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(crate) fn read(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let (client, path) = (self.connect()?, self.path(name)?);
        let read = run(async {
            let _permit = permit().await;
            client.store.get(&path).await?.bytes().await
        })?;
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error @ object_store::Error::NotFound { .. }) => {
                // A missing bucket is an error, a missing file is none.
                match error.to_string().contains("NoSuchBucket") {
                    true => Err(self.explained(&path, "read", &error)),
                    false => Ok(None),
                }
            }
            Err(error) => Err(self.explained(&path, "read", &error)),
        }
    }

    pub(crate) fn entry(&self, name: &str) -> Result<Option<Entry>, Error> {
        let (client, path) = (self.connect()?, self.path(name)?);
        let meta = run(head(&client, self, &path))??;
        Ok(meta.map(|meta| Entry::of(name.to_owned(), &meta)))
    }

    pub(crate) fn object(&self, entry: &Entry) -> Result<Object, Error> {
        let path = self.path(&entry.name)?;
        let Some(version) = entry.version.clone() else {
            return Err(Error::Invalid(format!(
                "{}: comes from another folder than {self}",
                entry.name
            )));
        };
        Ok(Object::new(
            self.connect()?,
            self,
            path,
            entry.bytes,
            version,
        ))
    }

    /// Writes an object. Returns `false` if `mode` asks for a new one and there is one.
    pub(crate) fn write(&self, name: &str, bytes: Bytes, mode: PutMode) -> Result<bool, Error> {
        self.check_writable()?;
        let (client, path) = (self.connect()?, self.path(name)?);
        let options = PutOptions::from(mode);
        let put = run(async {
            let _permit = permit().await;
            client.store.put_opts(&path, bytes.into(), options).await
        })?;
        match put {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.explained(&path, "write", &error)),
        }
    }

    pub(crate) fn upload(&self, name: &str, file: &File) -> Result<Option<String>, Error> {
        self.check_writable()?;
        let (client, path) = (self.connect()?, self.path(name)?);
        run(upload::upload(&client, self, name, &path, file))?
    }

    pub(crate) fn abort_leftovers(&self, which: &dyn Fn(&str) -> bool) -> Result<usize, Error> {
        self.check_writable()?;
        let client = self.connect()?;
        run(upload::abort_leftovers(&client, self, which))?
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        self.check_writable()?;
        let (client, path) = (self.connect()?, self.path(name)?);
        let removed = run(async {
            let _permit = permit().await;
            client.store.delete(&path).await
        })?;
        match removed {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.explained(&path, "remove", &error)),
        }
    }
}
