//! The arguments that select a dataset, and the default folders of raw data and shards.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use datasets::{Custom, Dataset, Table};
use features::Folder;

/// The arguments that select a dataset and its raw folder.
#[derive(clap::Args, Debug, Clone)]
pub struct Select {
    /// food-101, mm-imdb, kinetics-sound, ave, crema-d, or the path of a .toml that describes your
    /// own data
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// Folder of the raw data [default: data/raw/DATASET]
    #[arg(long, value_name = "DIR")]
    pub raw: Option<PathBuf>,
}

/// A dataset and where its raw data are.
pub struct Source {
    /// The dataset.
    pub dataset: Box<dyn Dataset>,
    /// The raw folder, which need not exist.
    pub raw: PathBuf,
}

/// Opens the dataset that the arguments name. An annotation table in Parquet is read here, because
/// `datasets` knows no Parquet.
///
/// # Errors
/// There is no such dataset, or its `.toml` or table cannot be used.
pub fn open(args: &Select) -> anyhow::Result<Source> {
    let dataset: Box<dyn Dataset> = if args.dataset.ends_with(".toml") {
        let mut custom = Custom::open(Path::new(&args.dataset))?;
        if custom.table_is_parquet() {
            let table = read_table(custom.table_path(), &custom.columns())?;
            custom.set_table(table)?;
        }
        Box::new(custom)
    } else {
        datasets::open(&args.dataset)?
    };
    let raw = match (&args.raw, dataset.default_raw()) {
        (Some(raw), _) => raw.clone(),
        (None, Some(raw)) => raw.to_owned(),
        (None, None) => util::default_raw(&dataset.info().name),
    };
    Ok(Source { dataset, raw })
}

/// Reads the columns of a Parquet table that are used.
fn read_table(path: &Path, columns: &[&str]) -> anyhow::Result<Table> {
    crate::parquet_table::read(path, columns)
        .with_context(|| format!("{}: not a Parquet table that can be used", path.display()))
}

/// Returns the folder of shards that an argument names: the argument itself if it is a folder or a
/// URL, and the default folder if it is the name of a dataset.
///
/// # Errors
/// It is neither, or the default folder does not exist.
pub fn shards_folder(argument: &str) -> anyhow::Result<Folder> {
    let path = Path::new(argument);
    if path.is_dir() {
        return Ok(path.into());
    }
    if argument.contains("://") {
        return Ok(argument.parse()?);
    }
    let is_path = argument.contains('/') && !argument.ends_with(".toml");
    if is_path {
        bail!("{argument}: no such folder; give a folder of shards or a dataset's name");
    }
    let folder = util::default_shards(
        &open(&Select {
            dataset: argument.to_owned(),
            raw: None,
        })?
        .dataset
        .info()
        .name,
    );
    if !folder.is_dir() {
        bail!(
            "{}: no such folder; run `ingest run {argument}` first, or give the folder of the shards",
            folder.display()
        );
    }
    Ok(folder.into())
}
