//! Files of the Hugging Face hub, in the cache that its Python package `huggingface_hub` shares.
//!
//! The environment variables are those of that package: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`,
//! `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_ETAG_TIMEOUT`,
//! `HF_HUB_DOWNLOAD_TIMEOUT` and `HF_HUB_DISABLE_PROGRESS_BARS`
//! (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>).

mod cache;
mod environment;
mod git_hash;

pub use cache::Cache;
pub use environment::Environment;
use git_hash::git_hash;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use reqwest::Url;
use util::lock::{FileLock, LockError, LockMode};

use crate::client::{Client, Limits, Redirects, Request, Response};
use crate::download::{Download, download};
use crate::error::{Error, Kind};
use crate::progress::Progress;

/// The branch whose files are fetched.
const REVISION: &str = "main";
/// Redirections within the hub that are followed to the description of a file.
const MAX_REDIRECTS: usize = 5;

/// A connection to the hub.
pub struct Hub {
    client: Client,
    environment: Environment,
}

/// What the hub tells about a file before it is fetched.
#[derive(Debug, Clone)]
pub struct RemoteFile {
    /// The file's name in its repository.
    pub name: String,
    /// The commit that it is of.
    pub commit: String,
    /// What identifies its content: the SHA-256 of a large file, the git hash of a small one. It is
    /// the file's name in the cache.
    pub etag: String,
    /// Its size in bytes.
    pub size: u64,
}

impl RemoteFile {
    /// The SHA-256 of the content, which the hub tells for large files only.
    pub fn sha256(&self) -> Option<&str> {
        is_hex(&self.etag, 64).then_some(&self.etag)
    }

    /// Whether a file on this machine has the content that the hub describes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        if file.metadata()?.len() != self.size {
            return Ok(false);
        }
        let hash = match self.sha256() {
            Some(_) => util::hash::sha256_of_reader(file)?.1,
            None => git_hash(self.size, file)?,
        };
        Ok(hash == self.etag.to_ascii_lowercase())
    }
}

impl Hub {
    /// Prepares a connection by the environment variables; nothing is sent yet.
    ///
    /// # Errors
    /// A variable has no valid value, or the connection's threads cannot be started.
    pub fn from_env() -> anyhow::Result<Hub> {
        let environment = Environment::read()?;
        let limits = Limits {
            stall: environment.timeout,
            ..Limits::default()
        };
        let client = Client::new(limits).context("network connections cannot be prepared")?;
        Ok(Hub {
            client,
            environment,
        })
    }

    /// The cache on this machine.
    pub fn cache(&self) -> Cache {
        Cache::new(self.environment.cache.clone())
    }

    /// Whether `HF_HUB_OFFLINE` forbids to send requests to the hub.
    pub fn is_offline(&self) -> bool {
        self.environment.offline
    }

    /// The address of the hub.
    pub fn endpoint(&self) -> &str {
        &self.environment.endpoint
    }

    /// The page of a repository.
    pub fn page(&self, repository: &str) -> String {
        format!("{}/{repository}", self.environment.endpoint)
    }

    /// Starts the progress of a job of `bytes` bytes.
    pub fn progress(&self, job: &str, bytes: u64) -> Progress {
        match self.environment.shows_progress {
            true => Progress::start(job, Some(bytes)),
            false => Progress::silent(job),
        }
    }

    /// Asks the hub about a file of a commit, by default the last one; `None` if the repository has no
    /// file of this name.
    ///
    /// # Errors
    /// The hub cannot be reached, or it does not give out the repository.
    pub fn describe(
        &self,
        repository: &str,
        commit: Option<&str>,
        name: &str,
    ) -> anyhow::Result<Option<RemoteFile>> {
        let url = self.url(repository, commit.unwrap_or(REVISION), name);
        match self.ask(&url) {
            Ok(file) => Ok(Some(RemoteFile {
                name: name.to_owned(),
                ..file
            })),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(self.explain(repository, error)),
        }
    }

    /// Fetches a file to `path`, with its progress as a part of `progress`.
    ///
    /// # Errors
    /// Those of [`download`].
    pub fn fetch(
        &self,
        repository: &str,
        file: &RemoteFile,
        path: &Path,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let wanted = Download {
            request: self.request(self.url(repository, &file.commit, &file.name)),
            path,
            size: Some(file.size),
            sha256: file.sha256(),
        };
        let name = format!("{repository}/{}", file.name);
        download(&self.client, &wanted, &progress.transfer(&name))
            .map_err(|error| self.explain(repository, error))?;
        Ok(())
    }

    /// Fetches a file into the cache, unless its content is there, and returns its path. Waits while
    /// another process fetches the same file. When all files of a commit are there, the caller makes it
    /// the last one by [`Cache::set_last`].
    ///
    /// # Errors
    /// Those of [`Hub::fetch`]; the cache cannot be written.
    pub fn fetch_to_cache(
        &self,
        repository: &str,
        file: &RemoteFile,
        progress: &Progress,
    ) -> anyhow::Result<PathBuf> {
        let cache = self.cache();
        let lock = cache.lock_path(repository, &file.etag);
        let _lock = lock_file(&lock)?;
        let blob = cache.blob_path(repository, &file.etag);
        self.fetch(repository, file, &blob, progress)?;
        cache.link(repository, file)
    }

    /// Follows the redirections within the hub to the description of a file. What another server
    /// stores is described by the headers of the redirection.
    fn ask(&self, url: &str) -> Result<RemoteFile, Error> {
        let mut at = url.to_owned();
        let mut commit = None;
        for _ in 0..MAX_REDIRECTS {
            let request = Request {
                redirects: Redirects::None,
                ..self.request(at.clone())
            };
            let response = self.client.head(&request)?;
            commit = commit.or_else(|| response.header("x-repo-commit").map(str::to_owned));
            if let Some(next) = relative_redirection(&at, &response) {
                at = next;
                continue;
            }
            return describe(url, &response, commit);
        }
        Err(Error::new(
            url,
            Kind::Refused,
            "the hub redirects in a circle",
        ))
    }

    fn url(&self, repository: &str, revision: &str, name: &str) -> String {
        format!(
            "{}/{repository}/resolve/{revision}/{name}",
            self.environment.endpoint
        )
    }

    fn request(&self, url: String) -> Request {
        // A compressed answer would not have the file's size.
        let request = Request::get(url).header("accept-encoding", "identity");
        match &self.environment.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Adds what to do to an error of the hub.
    fn explain(&self, repository: &str, error: Error) -> anyhow::Error {
        if error.kind != Kind::Denied {
            return error.into_anyhow();
        }
        let advice = match self.environment.token {
            Some(_) => {
                "the token of HF_TOKEN or of `hf auth login` does not suffice: it is wrong or has expired, or the \
                 terms have to be accepted at"
            }
            None => {
                "set HF_TOKEN to a token of your account, and if the model has terms, accept them at"
            }
        };
        error
            .with_advice(&format!("{advice} {}", self.page(repository)))
            .into_anyhow()
    }
}

/// Returns where a redirection within the same server leads.
fn relative_redirection(from: &str, response: &Response) -> Option<String> {
    let to = response.header("location")?;
    let from = Url::parse(from).ok()?;
    let to = from.join(to).ok()?;
    (to.origin() == from.origin()).then(|| to.into())
}

/// Reads the description of a file from the headers of an answer.
fn describe(url: &str, response: &Response, commit: Option<String>) -> Result<RemoteFile, Error> {
    let header = |name| response.header(name);
    let etag = header("x-linked-etag")
        .or(header("etag"))
        .map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
    let size = match header("x-linked-size") {
        Some(size) => size.parse().ok(),
        None => response.content_length(),
    };
    let missing = |what| {
        let message =
            format!("the answer has no {what}; is this a server of the Hugging Face hub?");
        Error::new(url, Kind::Refused, message)
    };
    // Both become parts of paths.
    let commit = commit.filter(|commit| is_hex(commit, 40));
    let etag = etag.filter(|etag| is_hex(etag, 40) || is_hex(etag, 64));
    Ok(RemoteFile {
        name: String::new(),
        commit: commit.ok_or_else(|| missing("commit"))?,
        etag: etag.ok_or_else(|| missing("hash of the file"))?,
        size: size.ok_or_else(|| missing("size of the file"))?,
    })
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Waits for a lock.
pub(crate) fn lock_file(path: &Path) -> anyhow::Result<FileLock> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be created", folder.display()))?;
    }
    FileLock::acquire(path, LockMode::ExclusiveWait).map_err(|error| match error {
        LockError::Held(holder) => anyhow::anyhow!("{}: is locked{holder}", path.display()),
        LockError::Io(error) => {
            anyhow::Error::new(error).context(format!("{}: cannot be locked", path.display()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_compared_with_either_hash_of_the_hub() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        let sha256 = util::hash::sha256("hello\n");
        for etag in ["ce013625030ba8dba906f756967f9e9ca394464a", &sha256] {
            let file = RemoteFile {
                name: "vocab.txt".to_owned(),
                commit: "0".repeat(40),
                etag: etag.to_owned(),
                size: 6,
            };
            for (text, want) in [("hello\n", true), ("hallo\n", false), ("hell", false)] {
                std::fs::write(&path, text).unwrap();
                assert_eq!(file.is_at(&path).unwrap(), want, "{etag}: {text:?}");
            }
        }
    }
}
