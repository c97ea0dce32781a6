//! One sample in full: its cells printed, its frames, picture and mel as PNG files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use polars::prelude::*;
use serde_json::{Map, Value, json};

use util::{cli, outln};

use super::scan;

/// Pixels per mel frame and bin.
const MEL_SCALE: usize = 3;

/// Finds the sample, prints it and writes its pictures.
pub fn run(
    files: &[PathBuf],
    id: &str,
    out: Option<&Path>,
    dry_run: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let row = find(files, id)?;
    let folder = out.map_or_else(
        || PathBuf::from(format!("sample-{}", safe(id))),
        Path::to_owned,
    );
    let mut pictures: Vec<(String, Picture)> = Vec::new();
    let mut cells = Map::new();
    for column in row.columns() {
        let name = column.name().as_str();
        let value = column.get(0)?;
        let shown = match name {
            _ if value.is_null() => Value::Null,
            "frames" => {
                let frames = blobs(&column.list()?.get_as_series(0).context("frames")?)?;
                let shown = json!(format!("{} JPEG files", frames.len()));
                for (number, frame) in frames.into_iter().enumerate() {
                    pictures.push((format!("frame-{number:02}.png"), decode(&frame)?));
                }
                shown
            }
            "image" => {
                let image = blobs(column.as_materialized_series())?
                    .pop()
                    .unwrap_or_default();
                let shown = json!(format!("{} bytes of JPEG", image.len()));
                pictures.push(("image.png".to_owned(), decode(&image)?));
                shown
            }
            "mel" => {
                let (values, bins) = mel(&column.list()?.get_as_series(0).context("mel")?)?;
                let frames = values.len() / bins.max(1);
                pictures.push(("mel.png".to_owned(), heat_map(&values, bins)));
                json!(format!("{frames} frames of {bins} bins"))
            }
            _ => cell(&value),
        };
        cells.insert(name.to_owned(), shown);
    }
    let paths: Vec<PathBuf> = pictures.iter().map(|(name, _)| folder.join(name)).collect();
    if !dry_run && !pictures.is_empty() {
        fs::create_dir_all(&folder).with_context(|| {
            format!(
                "{}: cannot create this folder; choose another --out",
                folder.display()
            )
        })?;
        for ((_, picture), path) in pictures.iter().zip(&paths) {
            write(picture, path).with_context(|| path.display().to_string())?;
        }
    }
    if as_json {
        return cli::print_json(&json!({"sample": cells, "pictures": paths, "written": !dry_run}));
    }
    for (name, value) in &cells {
        let value = match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        outln!("{name:<16} {value}")?;
    }
    let verb = if dry_run { "would write" } else { "wrote" };
    match paths.as_slice() {
        [] => {}
        [one] => outln!("{verb} {}", one.display())?,
        [first, .., last] => outln!(
            "{verb} {} pictures: {} to {}",
            paths.len(),
            first.display(),
            last.display()
        )?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The row with this id. The ids are read first, and then one row of one file.
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
        "no sample is called {id:?} in these {} shards; `ingest inspect` lists what is there",
        files.len()
    )
}

/// A cell as JSON.
fn cell(value: &AnyValue) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::String(text) => json!(text),
        AnyValue::StringOwned(text) => json!(text.as_str()),
        AnyValue::Boolean(flag) => json!(flag),
        AnyValue::Int32(number) => json!(number),
        // By way of text, so that 0.1 stays 0.1 and does not become 0.10000000149.
        AnyValue::Float32(number) => json!(number.to_string().parse::<f64>().ok()),
        AnyValue::List(values) => values.iter().map(|value| cell(&value)).collect(),
        other => json!(other.to_string()),
    }
}

/// The `bytes` of a series of pictures.
fn blobs(pictures: &Series) -> anyhow::Result<Vec<Vec<u8>>> {
    let bytes = pictures.struct_()?.field_by_name("bytes")?;
    Ok(bytes
        .binary()?
        .iter()
        .flatten()
        .map(<[u8]>::to_vec)
        .collect())
}

/// Values and bins of a series of mel frames.
fn mel(frames: &Series) -> anyhow::Result<(Vec<f32>, usize)> {
    let frames = frames.array()?;
    let values = frames.get_inner().cast(&DataType::Float32)?;
    Ok((values.f32()?.iter().flatten().collect(), frames.width()))
}

/// Packed RGB.
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

fn decode(jpeg: &[u8]) -> anyhow::Result<Picture> {
    let rgb = features::image::decode(jpeg)?;
    Ok(Picture {
        width: rgb.width,
        height: rgb.height,
        pixels: rgb.pixels,
    })
}

/// Time to the right, pitch upwards, from the quietest value (dark blue) to the loudest (yellow).
fn heat_map(values: &[f32], bins: usize) -> Picture {
    let frames = values.len() / bins.max(1);
    let (least, most) = values
        .iter()
        .fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
    let range = (most - least).max(1e-6);
    let (width, height) = (frames * MEL_SCALE, bins * MEL_SCALE);
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let value = values[x / MEL_SCALE * bins + (bins - 1 - y / MEL_SCALE)];
            pixels.extend(colour((value - least) / range));
        }
    }
    Picture {
        width,
        height,
        pixels,
    }
}

/// A colour scale that grows steadily lighter.
fn colour(share: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 5] = [
        [13.0, 8.0, 60.0],
        [84.0, 20.0, 140.0],
        [180.0, 50.0, 120.0],
        [245.0, 130.0, 60.0],
        [252.0, 250.0, 160.0],
    ];
    let place = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let at = (place as usize).min(STOPS.len() - 2);
    let part = place - at as f32;
    [0, 1, 2].map(|c| (STOPS[at][c] + part * (STOPS[at + 1][c] - STOPS[at][c])) as u8)
}

fn write(picture: &Picture, path: &Path) -> anyhow::Result<()> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    PngEncoder::new(File::create(path)?).write_image(
        &picture.pixels,
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(())
}

/// An id as part of a file name.
fn safe(id: &str) -> String {
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
