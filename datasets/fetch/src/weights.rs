//! The weights of the encoders, from the Hugging Face hub.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use indicatif::DecimalBytes;

use crate::error::without_secrets;
use crate::hub::{Cache, Hub, RemoteFile, lock_file};
use crate::origin::write_whole;
use crate::progress::Progress;

/// An encoder's checkpoint on the hub.
#[derive(Debug)]
pub struct Checkpoint {
    /// The name of its folder in a folder of weights.
    pub folder: &'static str,
    /// Its repository on the hub.
    pub repository: &'static str,
    /// Its files. Of several names for one file the first that the repository has is taken.
    files: &'static [&'static [&'static str]],
}

/// The encoder's sizes.
pub const CONFIG_FILE: &str = "config.json";
/// The vocabulary of BERT.
pub const VOCAB_FILE: &str = "vocab.txt";
/// The names of a weights file. Older checkpoints have PyTorch's own format only.
pub const WEIGHTS_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// The lock of a folder of weights while they are fetched.
const LOCK: &str = ".fetch.lock";

/// The image encoder.
pub const CLIP: Checkpoint = Checkpoint {
    folder: "clip-vit-base-patch16",
    repository: "openai/clip-vit-base-patch16",
    files: &[&[CONFIG_FILE], &WEIGHTS_FILES],
};
/// The text encoder.
pub const BERT: Checkpoint = Checkpoint {
    folder: "bert-base-uncased",
    repository: "google-bert/bert-base-uncased",
    files: &[&[CONFIG_FILE], &WEIGHTS_FILES, &[VOCAB_FILE]],
};
/// The audio encoder.
pub const AST: Checkpoint = Checkpoint {
    folder: "ast-finetuned-audioset-10-10-0.4593",
    repository: "MIT/ast-finetuned-audioset-10-10-0.4593",
    files: &[&[CONFIG_FILE], &WEIGHTS_FILES],
};

impl Checkpoint {
    /// Returns the checkpoint's folder in the hub's cache, after fetching what it lacks. If the cache
    /// has all files, nothing is sent.
    ///
    /// # Errors
    /// Those of [`Hub::describe`] and [`Hub::fetch`].
    pub fn from_hub(&self) -> anyhow::Result<PathBuf> {
        let hub = Hub::from_env()?;
        let missing = match self.cached(&hub.cache()) {
            Ok(files) => return Ok(folder_of(&files)),
            Err(missing) => missing,
        };
        if hub.is_offline() {
            return Err(offline(&hub, &missing));
        }
        let files = self.describe(&hub)?;
        let bytes = self.missing_bytes(&hub, &files, None);
        let (progress, _) = announce(&hub, &[(self, &files)], hub.cache().folder(), bytes);
        let folder = self.fetch_to_cache(&hub, &files, &progress)?;
        progress.finish("weights are in the cache");
        Ok(folder)
    }

    /// Returns the bytes of those files that are neither in `to` nor, without it, in the cache.
    fn missing_bytes(&self, hub: &Hub, files: &[RemoteFile], to: Option<&Path>) -> u64 {
        let place = |file: &RemoteFile| match to {
            Some(to) => to.join(self.folder).join(&file.name),
            None => hub.cache().blob_path(self.repository, &file.etag),
        };
        let missing = files.iter().filter(|file| !is_there(&place(file), file));
        missing.map(|file| file.size).sum()
    }

    /// Fetches all files of a commit into the cache, and returns their folder.
    fn fetch_to_cache(
        &self,
        hub: &Hub,
        files: &[RemoteFile],
        progress: &Progress,
    ) -> anyhow::Result<PathBuf> {
        let paths = files
            .iter()
            .map(|file| hub.fetch_to_cache(self.repository, file, progress))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(file) = files.first() {
            hub.cache().set_last(self.repository, &file.commit)?;
        }
        Ok(folder_of(&paths))
    }

    /// Returns the checkpoint's files in the cache, or those that it lacks.
    fn cached(&self, cache: &Cache) -> Result<Vec<PathBuf>, Vec<String>> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for names in self.files {
            let path = names
                .iter()
                .find_map(|name| cache.get(self.repository, name));
            match path {
                Some(path) => found.push(path),
                None => missing.push(format!("{}/{}", self.repository, names.join(" or "))),
            }
        }
        match missing.is_empty() {
            true => Ok(found),
            false => Err(missing),
        }
    }

    /// Asks the hub about all files, of one commit.
    fn describe(&self, hub: &Hub) -> anyhow::Result<Vec<RemoteFile>> {
        let mut files: Vec<RemoteFile> = Vec::new();
        for names in self.files {
            let commit = files.first().map(|file| file.commit.clone());
            let mut found = None;
            for name in *names {
                found = hub.describe(self.repository, commit.as_deref(), name)?;
                if found.is_some() {
                    break;
                }
            }
            let Some(file) = found else {
                bail!(
                    "{}: the repository has no {}",
                    hub.page(self.repository),
                    names.join(" and no ")
                );
            };
            files.push(file);
        }
        Ok(files)
    }
}

/// What [`fetch_weights`] has fetched.
#[derive(Debug, serde::Serialize)]
pub struct Fetched {
    /// The folder of each checkpoint.
    pub folders: Vec<PathBuf>,
    /// The size of all files.
    pub bytes: u64,
    /// What was to be fetched, as it was said beforehand.
    pub plan: String,
}

/// Fetches the checkpoints of all three encoders, into folders below `to` that `--weights` takes, or
/// into the hub's cache. Files that are there are compared with the hash that the hub tells, and
/// fetched again if they differ. With `dry_run` it prints what it would fetch. With `HF_HUB_OFFLINE` it
/// takes the files of the cache.
///
/// # Errors
/// Those of [`Hub::describe`] and [`Hub::fetch`].
pub fn fetch_weights(to: Option<&Path>, dry_run: bool) -> anyhow::Result<Fetched> {
    let hub = Hub::from_env()?;
    let checkpoints = [&CLIP, &BERT, &AST];
    if hub.is_offline() {
        return copy_cached(&hub, &checkpoints, to, dry_run);
    }
    let described = checkpoints
        .iter()
        .map(|checkpoint| checkpoint.describe(&hub))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let plan: Vec<(&Checkpoint, &[RemoteFile])> = checkpoints
        .into_iter()
        .zip(described.iter().map(Vec::as_slice))
        .collect();
    let target = to.map_or_else(|| hub.cache().folder().to_path_buf(), Path::to_path_buf);
    let missing = |(checkpoint, files): &(&Checkpoint, &[RemoteFile])| {
        checkpoint.missing_bytes(&hub, files, to)
    };
    let missing = plan.iter().map(missing).sum();
    let (progress, line) = announce(&hub, &plan, &target, missing);
    let mut fetched = Fetched {
        folders: Vec::new(),
        plan: line,
        bytes: plan
            .iter()
            .flat_map(|(_, files)| *files)
            .map(|f| f.size)
            .sum(),
    };
    if dry_run {
        return Ok(fetched);
    }
    // Two processes would write the same beginnings of files; the cache has locks of its own.
    let _lock = to.map(|to| lock_file(&to.join(LOCK))).transpose()?;
    for (checkpoint, files) in plan {
        let folder = target.join(checkpoint.folder);
        let folder = match to {
            Some(_) => {
                for file in files {
                    let path = folder.join(&file.name);
                    remove_damaged(&path, file)?;
                    hub.fetch(checkpoint.repository, file, &path, &progress)?;
                }
                folder
            }
            None => {
                for file in files {
                    // Where the snapshot has a link, both are one file, which is hashed once.
                    let paths = hub.cache().paths(checkpoint.repository, file);
                    let paths = paths.iter().filter_map(|path| fs::canonicalize(path).ok());
                    for path in paths.collect::<BTreeSet<_>>() {
                        remove_damaged(&path, file)?;
                    }
                }
                checkpoint.fetch_to_cache(&hub, files, &progress)?
            }
        };
        fetched.folders.push(folder);
    }
    progress.finish("weights are complete");
    Ok(fetched)
}

/// Does what [`fetch_weights`] does without the hub: the cache has to have all files, which are copied to
/// `to`.
fn copy_cached(
    hub: &Hub,
    checkpoints: &[&Checkpoint],
    to: Option<&Path>,
    dry_run: bool,
) -> anyhow::Result<Fetched> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for checkpoint in checkpoints {
        match checkpoint.cached(&hub.cache()) {
            Ok(files) => found.push((checkpoint, files)),
            Err(mut lacks) => missing.append(&mut lacks),
        }
    }
    if !missing.is_empty() {
        return Err(offline(hub, &missing));
    }
    let mut fetched = Fetched {
        folders: Vec::new(),
        bytes: 0,
        plan: "HF_HUB_OFFLINE is set: the weights are those of the cache".to_owned(),
    };
    for (checkpoint, files) in found {
        let folder = to.map(|to| to.join(checkpoint.folder));
        for file in &files {
            fetched.bytes += fs::metadata(file).map_or(0, |file| file.len());
            if let Some(folder) = folder.as_ref().filter(|_| !dry_run) {
                let copy = folder.join(file.file_name().unwrap_or_default());
                File::open(file)
                    .and_then(|mut file| write_whole(&copy, &mut file))
                    .with_context(|| format!("{}: cannot be written", copy.display()))?;
            }
        }
        if !dry_run {
            fetched
                .folders
                .push(folder.unwrap_or_else(|| folder_of(&files)));
        }
    }
    Ok(fetched)
}

/// The folder of a checkpoint's files.
fn folder_of(files: &[PathBuf]) -> PathBuf {
    let folder = files.last().and_then(|file| file.parent());
    folder.unwrap_or(Path::new("")).to_path_buf()
}

/// The error that files are missing and the hub may not be asked.
fn offline(hub: &Hub, missing: &[String]) -> anyhow::Error {
    anyhow!(
        "{}: not in {}, and HF_HUB_OFFLINE forbids to ask the hub; unset it, or fetch the weights \
         beforehand with `just fetch weights`",
        missing.join(", "),
        hub.cache().folder().display()
    )
}

/// Whether a file lies at a path with its size.
fn is_there(path: &Path, file: &RemoteFile) -> bool {
    fs::metadata(path).is_ok_and(|there| there.is_file() && there.len() == file.size)
}

/// Says what will be fetched, how many bytes of it are not there and where it will lie, and starts its
/// progress. Returns what it has said, too.
fn announce(
    hub: &Hub,
    plan: &[(&Checkpoint, &[RemoteFile])],
    to: &Path,
    bytes: u64,
) -> (Progress, String) {
    let lists: Vec<String> = plan
        .iter()
        .map(|(checkpoint, files)| {
            let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
            format!("{} ({})", checkpoint.repository, names.join(", "))
        })
        .collect();
    let progress = hub.progress("fetch weights", bytes);
    let line = format!(
        "fetching {} from {} into {}: {}",
        DecimalBytes(bytes),
        without_secrets(hub.endpoint()),
        to.display(),
        lists.join(", ")
    );
    progress.print("plan", &line);
    (progress, line)
}

/// Removes a file whose content is not the one that the hub describes, so that it is fetched again.
fn remove_damaged(path: &Path, file: &RemoteFile) -> anyhow::Result<()> {
    // The cache has links to its contents.
    let Ok(path) = fs::canonicalize(path) else {
        return Ok(());
    };
    let is_whole = file
        .is_at(&path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    if !is_whole {
        fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
    }
    Ok(())
}
