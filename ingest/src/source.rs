//! Which dataset, and where things lie: the arguments that every subcommand shares.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use datasets::{Custom, Dataset, Table};

/// The dataset and its raw folder.
#[derive(clap::Args, Debug)]
pub struct Select {
    /// food-101, mm-imdb, kinetics-sound, ave, crema-d, or the path of a .toml that describes your own
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// Folder of the raw data [default: data/raw/DATASET]
    #[arg(long, value_name = "DIR")]
    pub raw: Option<PathBuf>,
}

/// A dataset that is ready to be listed.
pub struct Source {
    /// The dataset.
    pub dataset: Box<dyn Dataset>,
    /// Its raw folder, which may not exist.
    pub raw: PathBuf,
}

/// Opens what the arguments name. A table in Parquet is read here, because `datasets` cannot.
///
/// # Errors
/// No such dataset; a `.toml` or table that cannot be used.
pub fn open(args: &Select) -> anyhow::Result<Source> {
    let dataset: Box<dyn Dataset> = if args.dataset.ends_with(".toml") {
        let mut custom = Custom::open(Path::new(&args.dataset))?;
        if custom.table_is_parquet() {
            let table = read_table(custom.table_path())?;
            custom.set_table(table)?;
        }
        Box::new(custom)
    } else {
        datasets::open(&args.dataset)?
    };
    let raw = match (&args.raw, dataset.default_raw()) {
        (Some(raw), _) => raw.clone(),
        (None, Some(raw)) => raw.to_owned(),
        (None, None) => util::data_root().join("raw").join(&dataset.info().name),
    };
    Ok(Source { dataset, raw })
}

/// Where a dataset's shards lie by default.
pub fn default_shards(name: &str) -> PathBuf {
    util::data_root().join("shards").join(name)
}

/// Where a dataset's raw tree lies by default.
pub fn default_raw(name: &str) -> PathBuf {
    util::data_root().join("raw").join(name)
}

/// A Parquet table as text; lists are joined by "|".
fn read_table(path: &Path) -> anyhow::Result<Table> {
    crate::table::read(path)
        .with_context(|| format!("{}: not a Parquet table that can be used", path.display()))
}

/// The folder of shards that a word means: a folder as it is, or a dataset's default one.
///
/// # Errors
/// Neither.
pub fn shards(word: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(word);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let looks_like_path = word.contains('/') && !word.ends_with(".toml");
    if looks_like_path {
        bail!("{word}: no such folder; give a folder of shards or a dataset's name");
    }
    let folder = default_shards(
        &open(&Select {
            dataset: word.to_owned(),
            raw: None,
        })?
        .dataset
        .info()
        .name,
    );
    if !folder.is_dir() {
        bail!(
            "{}: no shards there; run `ingest run {word}` first, or give the folder they are in",
            folder.display()
        );
    }
    Ok(folder)
}
