//! `--sample`: one sample in full. Its cells are printed, and its frames, image and log-mel
//! spectrogram are written as PNG files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use features::image::{Rgb, decode};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use polars::prelude::*;
use serde_json::{Map, Value, json};
use util::{cli, outln};

use super::heat_map::heat_map;
use super::overview::text;
use super::scan::scan;

/// Finds a sample, prints it and writes its images. With `dry_run` no images are written.
///
/// # Errors
/// There is no such sample, a shard is damaged, or an image cannot be written.
pub fn run(
    files: &[PathBuf],
    id: &str,
    out: Option<&Path>,
    dry_run: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let row = find(files, id)?;
    let folder = out.map_or_else(
        || PathBuf::from(format!("sample-{}", file_name(id))),
        Path::to_owned,
    );
    let Sample { cells, images } = read(&row)?;
    let paths: Vec<PathBuf> = images.iter().map(|(name, _)| folder.join(name)).collect();
    if !dry_run && !images.is_empty() {
        fs::create_dir_all(&folder).with_context(|| {
            format!(
                "{}: cannot create this folder; choose another --out",
                folder.display()
            )
        })?;
        for ((_, image), path) in images.iter().zip(&paths) {
            write_png(image, path).with_context(|| path.display().to_string())?;
        }
    }
    if as_json {
        return cli::print_json(&json!({"sample": cells, "pictures": paths, "written": !dry_run}));
    }
    for (name, value) in &cells {
        outln!("{name:<16} {}", text(value))?;
    }
    let verb = if dry_run { "would write" } else { "wrote" };
    match paths.as_slice() {
        [] => {}
        [one] => outln!("{verb} {}", one.display())?,
        [first, .., last] => outln!(
            "{verb} {} images: {} to {}",
            paths.len(),
            first.display(),
            last.display()
        )?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the row with this id. The ids are read first, and then one row of one file.
fn find(files: &[PathBuf], id: &str) -> anyhow::Result<DataFrame> {
    for file in files {
        let one = std::slice::from_ref(file);
        let read = |frame: LazyFrame| {
            frame
                .collect()
                .map_err(|error| anyhow!("{}: {error}", file.display()))
        };
        let ids = read(scan(one)?.select([col("id")]))?;
        let row = ids
            .column("id")?
            .str()?
            .iter()
            .position(|one| one == Some(id));
        if let Some(row) = row {
            return read(scan(one)?.slice(row as i64, 1));
        }
    }
    bail!(
        "no sample has the id {id:?} in these {} shards; `ingest inspect` shows what they hold",
        files.len()
    )
}

/// A sample as it is shown.
struct Sample {
    /// The cells by column. Media are described in words.
    cells: Map<String, Value>,
    /// The images by file name.
    images: Vec<(String, Rgb)>,
}

/// Reads all cells of a row.
fn read(row: &DataFrame) -> anyhow::Result<Sample> {
    let mut images: Vec<(String, Rgb)> = Vec::new();
    let mut cells = Map::new();
    for column in row.columns() {
        let name = column.name().as_str();
        let value = column.get(0)?;
        // Of two views of a modality, the columns and images of each have its suffix.
        let suffix = ["_a", "_b"].into_iter().find(|end| name.ends_with(end));
        let suffix = suffix.unwrap_or_default();
        let cell = match name.strip_suffix(suffix).unwrap_or(name) {
            _ if value.is_null() => Value::Null,
            "frames" => {
                let frames = jpegs(&column.list()?.get_as_series(0).context("frames")?)?;
                let cell = json!(format!("{} JPEG files", frames.len()));
                for (number, frame) in frames.into_iter().enumerate() {
                    images.push((format!("frame{suffix}-{number:02}.png"), decode(&frame)?));
                }
                cell
            }
            "image" => {
                let image = jpegs(column.as_materialized_series())?
                    .pop()
                    .unwrap_or_default();
                images.push((format!("image{suffix}.png"), decode(&image)?));
                json!(format!("{} bytes of JPEG", image.len()))
            }
            "mel" => {
                let (values, bins) = mel(&column.list()?.get_as_series(0).context("mel")?)?;
                let frames = values.len() / bins.max(1);
                images.push((format!("mel{suffix}.png"), heat_map(&values, bins)));
                json!(format!("{frames} frames of {bins} bins"))
            }
            _ => to_json(&value),
        };
        cells.insert(name.to_owned(), cell);
    }
    Ok(Sample { cells, images })
}

/// Converts a cell to JSON.
fn to_json(value: &AnyValue) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::String(text) => json!(text),
        AnyValue::StringOwned(text) => json!(text.as_str()),
        AnyValue::Boolean(flag) => json!(flag),
        AnyValue::Int32(number) => json!(number),
        // By way of text, so that 0.1 is printed as 0.1 and not as 0.10000000149.
        AnyValue::Float32(number) => json!(number.to_string().parse::<f64>().ok()),
        AnyValue::List(values) => values.iter().map(|value| to_json(&value)).collect(),
        other => json!(other.to_string()),
    }
}

/// Returns the JPEG files of a series of images.
fn jpegs(images: &Series) -> anyhow::Result<Vec<Vec<u8>>> {
    let bytes = images.struct_()?.field_by_name("bytes")?;
    Ok(bytes
        .binary()?
        .iter()
        .flatten()
        .map(<[u8]>::to_vec)
        .collect())
}

/// Returns the values of a series of mel frames, and the number of bins.
fn mel(frames: &Series) -> anyhow::Result<(Vec<f32>, usize)> {
    let frames = frames.array()?;
    let values = frames.get_inner().cast(&DataType::Float32)?;
    Ok((values.f32()?.iter().flatten().collect(), frames.width()))
}

/// Writes an image as PNG.
fn write_png(image: &Rgb, path: &Path) -> anyhow::Result<()> {
    let (width, height) = (image.width as u32, image.height as u32);
    PngEncoder::new(File::create(path)?).write_image(
        &image.pixels,
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(())
}

/// Returns an id as part of a file name: every character that is special in one becomes "_".
fn file_name(id: &str) -> String {
    id.chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}
