//! The weights of the encoders, from the Hugging Face hub.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use indicatif::DecimalBytes;

use crate::hub::{Cache, Hub, RemoteFile};
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
        if let Some(folder) = self.cached(&hub.cache()) {
            return Ok(folder);
        }
        let files = self.describe(&hub)?;
        let progress = announce(&hub, &[(self, &files)], hub.cache().folder());
        let mut folder = None;
        for file in &files {
            let path = hub.fetch_to_cache(self.repository, file, &progress)?;
            folder = path.parent().map(Path::to_path_buf);
        }
        progress.finish("weights are in the cache");
        folder.ok_or_else(|| anyhow!("{}: has no files", self.repository))
    }

    /// Returns the checkpoint's folder in the cache, if that has all its files.
    fn cached(&self, cache: &Cache) -> Option<PathBuf> {
        let mut folder = None;
        for names in self.files {
            let path = names
                .iter()
                .find_map(|name| cache.get(self.repository, name))?;
            folder = path.parent().map(Path::to_path_buf);
        }
        folder
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
}

/// Fetches the checkpoints of all three encoders, into folders below `to` that `--weights` takes, or
/// into the hub's cache. Files that are there are compared with the SHA-256 that the hub tells, and
/// fetched again if they differ. With `dry_run` it prints what it would fetch.
///
/// # Errors
/// Those of [`Hub::describe`] and [`Hub::fetch`].
pub fn fetch_weights(to: Option<&Path>, dry_run: bool) -> anyhow::Result<Fetched> {
    let hub = Hub::from_env()?;
    let checkpoints = [&CLIP, &BERT, &AST];
    let described = checkpoints
        .iter()
        .map(|checkpoint| checkpoint.describe(&hub))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let plan: Vec<(&Checkpoint, &[RemoteFile])> = checkpoints
        .into_iter()
        .zip(described.iter().map(Vec::as_slice))
        .collect();
    let target = to.map_or_else(|| hub.cache().folder().to_path_buf(), Path::to_path_buf);
    let progress = announce(&hub, &plan, &target);
    let mut fetched = Fetched {
        folders: Vec::new(),
        bytes: plan
            .iter()
            .flat_map(|(_, files)| *files)
            .map(|f| f.size)
            .sum(),
    };
    if dry_run {
        return Ok(fetched);
    }
    for (checkpoint, files) in plan {
        let mut folder = target.join(checkpoint.folder);
        for file in files {
            match to {
                Some(_) => {
                    let path = folder.join(&file.name);
                    remove_damaged(&path, file)?;
                    hub.fetch(checkpoint.repository, file, &path, &progress)?;
                }
                None => {
                    if let Some(path) = hub.cache().get(checkpoint.repository, &file.name) {
                        remove_damaged(&path, file)?;
                    }
                    let path = hub.fetch_to_cache(checkpoint.repository, file, &progress)?;
                    folder = path.parent().unwrap_or(&path).to_path_buf();
                }
            }
        }
        fetched.folders.push(folder);
    }
    progress.finish("weights are complete");
    Ok(fetched)
}

/// Says what will be fetched, how large it is and where it will lie, and starts its progress.
fn announce(hub: &Hub, plan: &[(&Checkpoint, &[RemoteFile])], to: &Path) -> Progress {
    let bytes = plan
        .iter()
        .flat_map(|(_, files)| *files)
        .map(|f| f.size)
        .sum();
    let lists: Vec<String> = plan
        .iter()
        .map(|(checkpoint, files)| {
            let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
            format!("{} ({})", checkpoint.repository, names.join(", "))
        })
        .collect();
    let progress = hub.progress("fetch weights", bytes);
    progress.print(
        "plan",
        &format!(
            "fetching {} from {} into {}: {}",
            DecimalBytes(bytes),
            hub.endpoint(),
            to.display(),
            lists.join(", ")
        ),
    );
    progress
}

/// Removes a file whose content is not the one that the hub describes, so that it is fetched again.
fn remove_damaged(path: &Path, file: &RemoteFile) -> anyhow::Result<()> {
    // The cache has links to its contents.
    let Ok(path) = fs::canonicalize(path) else {
        return Ok(());
    };
    let (size, sha256) = util::hash::sha256_of_file(&path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    if size != file.size || file.sha256().is_some_and(|expected| expected != sha256) {
        fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
    }
    Ok(())
}
