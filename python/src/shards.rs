//! A folder of shards.

use std::path::PathBuf;
use std::sync::Arc;

use datasets::Split;
use features::Folder;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::exception;

/// A folder of shards: a path, or s3://, gs://, az:// or http(s)://.
///
/// Raises OSError if it cannot be read, and ValueError if it holds no complete shards.
#[pyclass(frozen, module = "u2a_features")]
pub struct Shards {
    folder: String,
    pub(crate) shards: Arc<features::Shards>,
    /// The process that opened them.
    process: u32,
}

#[pymethods]
impl Shards {
    #[new]
    fn new(py: Python<'_>, folder: PathBuf) -> PyResult<Shards> {
        if folder.as_os_str().is_empty() {
            let message = "the folder of the shards is an empty path; give a path or a URL";
            return Err(PyValueError::new_err(message));
        }
        let Some(folder) = folder.to_str() else {
            let message = format!("{}: is not UTF-8; rename the folder", folder.display());
            return Err(PyValueError::new_err(message));
        };
        py.detach(|| Shards::open(folder))
    }

    /// The folder's path or URL.
    #[getter]
    fn folder(&self) -> &str {
        &self.folder
    }

    /// The names of the inputs, such as `["audio", "video"]`.
    #[getter]
    fn modalities(&self) -> Vec<&'static str> {
        let modalities = self.shards.spec().modalities;
        modalities.names().map(|name| name.as_str()).collect()
    }

    /// The names of the classes, in the order of the labels.
    #[getter]
    fn classes(&self) -> Vec<String> {
        self.shards.spec().classes.clone()
    }

    /// Whether a sample has any number of labels.
    #[getter]
    fn multi_label(&self) -> bool {
        self.shards.spec().multi_label
    }

    /// A hash of the content, by which a state is compared with the shards that it is loaded for.
    #[getter]
    fn fingerprint(&self) -> &str {
        self.shards.fingerprint()
    }

    /// The ids of a split's samples, in the order of the files.
    fn ids(&self, split: &str) -> PyResult<Vec<String>> {
        Ok(self.shards.split(parse_split(split)?).ids.clone())
    }

    /// Pickles the path or URL: the copy opens the folder anew.
    fn __getnewargs__(&self) -> (&str,) {
        (&self.folder,)
    }

    fn __repr__(&self) -> String {
        format!("Shards({:?})", self.folder)
    }
}

impl Shards {
    /// Opens a folder.
    pub(crate) fn open(folder: &str) -> PyResult<Shards> {
        let parsed: Folder = folder.parse().map_err(exception)?;
        Ok(Shards {
            folder: folder.to_owned(),
            shards: Arc::new(features::Shards::open(&parsed).map_err(exception)?),
            process: std::process::id(),
        })
    }

    /// Returns the shards for use in this process. A process that was forked opens those of a disk
    /// anew; the connections to an object store do not survive a fork.
    pub(crate) fn of_this_process(&self) -> PyResult<Arc<features::Shards>> {
        if self.process == std::process::id() {
            return Ok(self.shards.clone());
        }
        if self.shards.is_remote() {
            return Err(PyValueError::new_err(format!(
                "{}: was opened before this process was forked; open it in this process, or start \
                 processes by 'spawn'",
                self.folder
            )));
        }
        let shards = Shards::open(&self.folder)?.shards;
        if shards.fingerprint() != self.shards.fingerprint() {
            return Err(PyValueError::new_err(format!(
                "{}: holds other samples than when it was opened, before this process was forked; \
                 open it anew",
                self.folder
            )));
        }
        Ok(shards)
    }
}

/// Parses the name of a split.
pub(crate) fn parse_split(name: &str) -> PyResult<Split> {
    name.parse()
        .map_err(|error: datasets::Error| PyValueError::new_err(error.to_string()))
}
