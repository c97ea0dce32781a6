//! Images as people have them, from a file or a cell of a table to the image of a row.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields};
use common::{batches, ingest, run};
use features::image::{PixelFormat, decode, encode_jpeg};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

fn golden(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/golden")
            .join(name),
    )
    .unwrap()
}

/// Describes a dataset of images and texts with this table.
fn describe(folder: &Path, table: &str) -> PathBuf {
    let toml = folder.join("own.toml");
    let text = format!(
        "name = \"own\"\ntable = {table:?}\n[columns]\nid = \"id\"\nlabel = \"label\"\nsplit = \"split\"\nimage = \"image\"\ntext = \"text\"\n"
    );
    fs::write(&toml, text).unwrap();
    toml
}

/// What a shard holds of a sample's image: the JPEG file or the reason why there is none.
type Stored = Result<Vec<u8>, String>;

/// Ingests a dataset and returns what the shards hold, by id.
fn ingested(toml: &Path, workers: &str) -> BTreeMap<String, Stored> {
    let out = toml.with_file_name(format!("out-{workers}"));
    let mut command = ingest();
    command.args([
        "run",
        "--workers",
        workers,
        "--overwrite",
        "--shard-rows",
        "7",
    ]);
    let outcome = run(command.arg(toml).arg("--out").arg(&out));
    assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:?}");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&out).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_str().unwrap().contains("-of-") {
            continue;
        }
        for batch in batches(&path) {
            let text = |name: &str, row: usize| {
                let cells = batch.column_by_name(name).unwrap().as_string::<i32>();
                cells.is_valid(row).then(|| cells.value(row).to_owned())
            };
            let images = batch.column_by_name("image").unwrap().as_struct();
            for row in 0..batch.num_rows() {
                let stored = match images.is_valid(row) {
                    true => Ok(images.column(0).as_binary::<i32>().value(row).to_vec()),
                    false => Err(text("error", row).unwrap_or_default()),
                };
                found.insert(text("id", row).unwrap(), stored);
            }
        }
    }
    found
}

/// The name of a file, its bytes, and the size of the stored image or a part of the error.
type Case<'a> = (&'a str, Vec<u8>, Result<(usize, usize), &'a str>);

#[test]
fn image_files_are_stored_or_named_in_the_row() {
    let folder = tempfile::tempdir().unwrap();
    let png = golden("image/landscape.png");
    let jpeg = golden("jpeg/420.jpg");
    let mut banner = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(6000, 90)
        .write_to(&mut banner, image::ImageFormat::Png)
        .unwrap();
    let size = |width, height| Ok((width, height));
    let cases: [Case; 15] = [
        ("banner.png", banner.into_inner(), size(6000, 90)),
        ("dot.jpg", golden("jpeg/1x1.jpg"), size(1, 1)),
        ("small.jpg", golden("jpeg/17x33_split.jpg"), size(17, 33)),
        ("turned.webp", golden("orientation/named.webp"), size(8, 16)),
        (
            "turned_by_xmp.jpg",
            golden("orientation/xmp.jpg"),
            size(8, 16),
        ),
        (
            "turned_last.png",
            golden("orientation/last.png"),
            size(8, 16),
        ),
        ("no_end.png", png[..png.len() - 12].to_vec(), size(151, 97)),
        (
            "half.png",
            png[..png.len() / 2].to_vec(),
            Err("the image cannot be read"),
        ),
        (
            "half.jpg",
            jpeg[..jpeg.len() / 2].to_vec(),
            Err("the JPEG ends too early"),
        ),
        (
            "almost.jpg",
            jpeg[..jpeg.len() - 1].to_vec(),
            Err("the JPEG ends too early"),
        ),
        (
            "page.jpg",
            b"<!DOCTYPE html><html><title>404 Not Found</title></html>".to_vec(),
            Err("not a JPEG, PNG, GIF, WEBP or BMP image but a web page; fetch the image again"),
        ),
        (
            "photo.jpg",
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec(),
            Err("but a HEIC image; convert it to JPEG or PNG"),
        ),
        (
            "clip.jpg",
            b"\0\0\0\x18ftypisom\0\0\x02\0isommp41".to_vec(),
            Err("but an MP4 or MOV video; give the path of the image"),
        ),
        (
            "pointer.jpg",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(),
            Err("Git LFS pointer instead of media"),
        ),
        ("empty.jpg", Vec::new(), Err("empty file")),
    ];
    let mut table = "id,label,split,image,text\n".to_owned();
    for (number, (name, bytes, _)) in cases.iter().enumerate() {
        fs::write(folder.path().join(name), bytes).unwrap();
        table += &format!("{name},{},train,{name},words\n", ["cat", "dog"][number % 2]);
    }
    fs::write(folder.path().join("table.csv"), table).unwrap();
    let toml = describe(folder.path(), "table.csv");
    let stored = ingested(&toml, "2");
    assert_eq!(stored.len(), cases.len());
    // `check` knows beforehand of what the first bytes tell.
    let outcome = run(ingest().arg("check").arg(&toml).arg("--json"));
    assert_eq!(outcome.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let suspects = report["suspects"].as_array().unwrap().iter();
    let suspects: Vec<_> = suspects.map(|one| one["file"].as_str().unwrap()).collect();
    assert_eq!(suspects, ["clip.jpg", "page.jpg", "photo.jpg"]);
    for (name, _, expected) in cases {
        match (&stored[name], expected) {
            (Ok(file), Ok(size)) => {
                let image = decode(file).unwrap();
                assert_eq!((image.width, image.height), size, "{name}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{name}: {error}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
    }
}

/// Photos of cameras and scans have more pixels than a screen, and larger files.
#[test]
fn images_of_108_megapixels_are_read_and_larger_files_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (width, height) = (12_000, 9_000);
    let pixels = vec![90; width * height];
    let photo = encode_jpeg(&pixels, width, height, PixelFormat::Gray, 50).unwrap();
    drop(pixels);
    fs::write(folder.path().join("photo.jpg"), photo).unwrap();
    let huge = File::create(folder.path().join("huge.jpg")).unwrap();
    huge.set_len(600 << 20).unwrap();
    let table =
        "id,label,split,image,text\nphoto,cat,train,photo.jpg,x\nhuge,dog,train,huge.jpg,x\n";
    fs::write(folder.path().join("table.csv"), table).unwrap();
    let stored = ingested(&describe(folder.path(), "table.csv"), "1");
    let image = decode(stored["photo"].as_ref().unwrap()).unwrap();
    assert_eq!((image.width, image.height), (341, 256));
    let error = stored["huge"].as_ref().unwrap_err();
    assert!(
        error.contains("too large (629145600 bytes, at most 536870912)"),
        "{error}"
    );
}

/// A file and its name.
type Named = (Option<Vec<u8>>, Option<&'static str>);

/// The files that lie in the tables below; a row without both has no image.
fn files() -> Vec<Named> {
    let mut cut = golden("jpeg/420.jpg");
    cut.truncate(cut.len() / 2);
    vec![
        (Some(golden("jpeg/420.jpg")), Some("a.jpg")),
        (Some(golden("image/landscape.png")), None),
        (None, None),
        (Some(golden("orientation/named.webp")), Some("a.jpg")),
        (Some(cut), Some("cut.jpg")),
        (Some(b"<html>".to_vec()), None),
        (Some(golden("jpeg/gray.jpg")), Some("folder/b.jpg")),
        (Some(golden("image/palette.gif")), Some("c.gif")),
        (Some(golden("jpeg/arithmetic.jpg")), None),
    ]
}

/// A column of structs of bytes and path, as Hugging Face `datasets` writes images.
fn structs(files: &[Named]) -> ArrayRef {
    let bytes = BinaryArray::from_iter(files.iter().map(|(bytes, _)| bytes.as_deref()));
    let paths = StringArray::from_iter(files.iter().map(|(_, path)| *path));
    let fields = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let valid = files
        .iter()
        .map(|(bytes, path)| bytes.is_some() || path.is_some());
    let columns: Vec<ArrayRef> = vec![Arc::new(bytes), Arc::new(paths)];
    Arc::new(StructArray::new(
        fields,
        columns,
        Some(valid.collect::<Vec<bool>>().into()),
    ))
}

/// Writes a table with this column of images, in row groups of four rows.
fn write_table(path: &Path, images: ArrayRef, statistics: EnabledStatistics) {
    let count = images.len();
    let texts = |of: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..count).map(of)))
    };
    let batch = RecordBatch::try_from_iter([
        ("image", images),
        ("id", texts(&|row| format!("s{row}"))),
        ("label", texts(&|row| ["cat", "dog"][row % 2].to_owned())),
        // Rows of a split are spread over the table.
        (
            "split",
            texts(&|row| ["test", "train", "val"][row % 3].to_owned()),
        ),
        ("text", texts(&|_| "words".to_owned())),
    ])
    .unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(4))
        .set_statistics_enabled(statistics)
        .build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Files in a table become what the same files become beside a CSV table.
#[test]
fn images_in_a_parquet_table_are_stored_as_from_files() {
    let files = files();
    let beside = tempfile::tempdir().unwrap();
    let mut table = "id,label,split,image,text\n".to_owned();
    for (row, (bytes, _)) in files.iter().enumerate() {
        let name = bytes
            .as_ref()
            .map_or(String::new(), |_| format!("{row}.bin"));
        if let Some(bytes) = bytes {
            fs::write(beside.path().join(&name), bytes).unwrap();
        }
        let (label, split) = (["cat", "dog"][row % 2], ["test", "train", "val"][row % 3]);
        table += &format!("s{row},{label},{split},{name},words\n");
    }
    fs::write(beside.path().join("table.csv"), table).unwrap();
    let expected = ingested(&describe(beside.path(), "table.csv"), "1");
    assert_eq!(expected.values().filter(|stored| stored.is_ok()).count(), 6);
    assert!(
        expected["s4"]
            .as_ref()
            .unwrap_err()
            .contains("ends too early")
    );
    assert!(expected["s5"].as_ref().unwrap_err().contains("a web page"));

    let all: Vec<_> = files
        .iter()
        .filter(|(bytes, _)| bytes.is_some())
        .cloned()
        .collect();
    let plain = |files: &[Named]| -> ArrayRef {
        Arc::new(BinaryArray::from_iter(
            files.iter().map(|(bytes, _)| bytes.as_deref()),
        ))
    };
    let cases: [(&str, ArrayRef); 4] = [
        ("structs", structs(&files)),
        ("bytes", plain(&files)),
        ("structs of all rows", structs(&all)),
        ("bytes of all rows", plain(&all)),
    ];
    for (case, images) in cases {
        for statistics in [EnabledStatistics::Page, EnabledStatistics::None] {
            let folder = tempfile::tempdir().unwrap();
            let whole = images.len() == files.len();
            write_table(
                &folder.path().join("table.parquet"),
                images.clone(),
                statistics,
            );
            let toml = describe(folder.path(), "table.parquet");
            for workers in ["1", "3"] {
                let stored = ingested(&toml, workers);
                assert_eq!(stored.len(), images.len());
                let mut rows = (0..files.len()).filter(|&row| whole || files[row].0.is_some());
                for number in 0..images.len() {
                    let row = rows.next().unwrap();
                    let (found, expected) = (
                        &stored[&format!("s{number}")],
                        &expected[&format!("s{row}")],
                    );
                    assert!(
                        found == expected,
                        "{case}, {workers} workers, row {row}: {found:?}"
                    );
                }
            }
        }
    }
}

/// Structs without bytes are paths, as where Hugging Face `datasets` has not embedded the files.
#[test]
fn paths_in_structs_are_followed_and_mixed_with_bytes() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.jpg"), golden("jpeg/420.jpg")).unwrap();
    let only_paths = [
        (None, Some("x.jpg")),
        (None, None),
        (None, Some("gone.jpg")),
    ];
    let mixed = [
        (None, Some("x.jpg")),
        (None, None),
        (Some(golden("jpeg/gray.jpg")), Some("gone.jpg")),
    ];
    for (images, third) in [(structs(&only_paths), false), (structs(&mixed), true)] {
        write_table(
            &folder.path().join("table.parquet"),
            images,
            EnabledStatistics::Page,
        );
        let stored = ingested(&describe(folder.path(), "table.parquet"), "1");
        assert!(stored["s0"].is_ok());
        assert_eq!(stored["s1"].as_ref().unwrap_err(), "");
        assert_eq!(stored["s2"].is_ok(), third);
    }
}

/// The decode worker may read a table outside of the raw folder, and a changed one is read again.
#[test]
fn tables_may_lie_outside_of_the_raw_folder_and_change() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("own/raw")).unwrap();
    let own = folder.path().join("own");
    let toml = describe(&own, "table.parquet");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, text.replace("[columns]", "raw = \"raw\"\n[columns]")).unwrap();
    let mut images = files();
    write_table(
        &own.join("table.parquet"),
        structs(&images),
        EnabledStatistics::Page,
    );
    let first = ingested(&toml, "2");
    assert_eq!(first.values().filter(|stored| stored.is_ok()).count(), 6);
    let out = own.join("out-2");
    let update = |option: &[&str]| {
        let mut command = ingest();
        let command = command.args(["run", "--shard-rows", "7"]).args(option);
        run(command.arg(&toml).arg("--out").arg(&out))
    };
    assert!(matches!(update(&[]).code, Some(0 | 1)));
    let shards = common::files(&out);
    // The same bytes elsewhere.
    let moved = folder.path().join("moved");
    fs::create_dir(&moved).unwrap();
    fs::rename(&own, moved.join("own")).unwrap();
    ingested(&moved.join("own/own.toml"), "2");
    for (path, bytes) in common::files(&moved.join("own/out-2")) {
        let is_index = path.starts_with(".sources");
        assert!(is_index || shards[&path] == bytes, "{}", path.display());
    }
    fs::rename(moved.join("own"), &own).unwrap();
    images[4].0 = Some(golden("jpeg/rgb.jpg"));
    write_table(
        &own.join("table.parquet"),
        structs(&images),
        EnabledStatistics::Page,
    );
    let error = update(&[]);
    assert!(
        error.error().contains("table.parquet has changed"),
        "{error:?}"
    );
    assert!(matches!(update(&["--update"]).code, Some(0 | 1)));
    let second = ingested(&toml, "2");
    assert!(first["s4"].is_err() && second["s4"].is_ok());
}

/// The columns of a shard are those of a table.
#[test]
fn a_shard_is_a_table_too() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.parquet");
    write_table(&table, structs(&files()), EnabledStatistics::Page);
    let first = ingested(&describe(folder.path(), "table.parquet"), "1");
    let out = folder.path().join("out-1");
    let shard = out.join("train-00000-of-00001.parquet");
    let again = tempfile::tempdir().unwrap();
    fs::copy(shard, again.path().join("table.parquet")).unwrap();
    let toml = describe(again.path(), "table.parquet");
    let text = fs::read_to_string(&toml)
        .unwrap()
        .replace("\"label\"\n", "\"label_name\"\n");
    fs::write(&toml, text).unwrap();
    let second = ingested(&toml, "1");
    assert_eq!(second.len(), 3);
    for (id, stored) in second {
        let (before, now) = (first[&id].is_ok(), stored.is_ok());
        assert_eq!(before, now, "{id}");
    }
}
