//! A later run notices source files whose contents have changed under the same name, and reads no
//! file again that it can recognise as unchanged.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use common::{Outcome, assert_same, batches, files, ingest, run};
use image::{Rgb, RgbImage};

/// The number of samples.
const SAMPLES: usize = 12;

/// Samples of a shard.
const SHARD_ROWS: usize = 4;

/// Longer than the step in which file systems store times, and than a file counts as young.
const SETTLE: Duration = Duration::from_millis(3100);

/// Writes a picture of one colour, which is a file of the same size for every colour of two digits.
fn picture(path: &Path, colour: u8) {
    let image = RgbImage::from_pixel(32, 32, Rgb([colour, 90, 200]));
    image
        .save_with_format(path, image::ImageFormat::Bmp)
        .unwrap();
}

/// A dataset of pictures and text files, of which `p03.jpg` is broken and `p07.jpg` absent.
struct Pictures {
    folder: tempfile::TempDir,
}

impl Pictures {
    fn new() -> Pictures {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("raw");
        fs::create_dir(&raw).unwrap();
        let mut table = "id,label,photo,page,split\n".to_owned();
        for number in 0..SAMPLES {
            let label = ["cat", "dog"][number % 2];
            table += &format!("s{number:02},{label},p{number:02}.jpg,t{number:02}.txt,train\n");
            picture(&raw.join(format!("p{number:02}.jpg")), 10 + number as u8);
            let text = format!("page number {number:02}");
            fs::write(raw.join(format!("t{number:02}.txt")), text).unwrap();
        }
        fs::write(raw.join("p03.jpg"), "no picture at all").unwrap();
        fs::rename(raw.join("p07.jpg"), raw.join("spare.jpg")).unwrap();
        fs::write(folder.path().join("pets.csv"), table).unwrap();
        let toml = "name = \"pets\"\ntable = \"pets.csv\"\nraw = \"raw\"\n[columns]\nid = \"id\"\nlabel = \"label\"\nsplit = \"split\"\nimage = \"photo\"\ntext_file = \"page\"\n";
        fs::write(folder.path().join("pets.toml"), toml).unwrap();
        Pictures { folder }
    }

    fn raw(&self, file: &str) -> PathBuf {
        self.folder.path().join("raw").join(file)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, out: &Path) -> Command {
        let mut command = ingest();
        command.arg("run").arg(self.folder.path().join("pets.toml"));
        command.args(["--shard-rows", &SHARD_ROWS.to_string()]);
        command.args(["--max-failures", "100%", "--workers", "2", "--out"]);
        command.arg(out);
        command
    }
}

/// The number of files that a run read to compare them, by its own report.
fn files_read(outcome: &Outcome) -> u64 {
    let events = outcome.stderr.lines();
    let events = events.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of_comparison = events.filter(|event| event["job"] == "comparing files");
    of_comparison
        .map(|event| event["total"].as_u64().unwrap())
        .sum()
}

/// Whether the rows of all shards have an image, by id.
fn have_image(out: &Path) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for number in 0..SAMPLES.div_ceil(SHARD_ROWS) {
        for batch in batches(&out.join(format!("train-{number:05}-of-00003.parquet"))) {
            let ids = batch
                .column_by_name("id")
                .unwrap()
                .as_string::<i32>()
                .clone();
            let has = batch
                .column_by_name("has_image")
                .unwrap()
                .as_boolean()
                .clone();
            let row = |row| (ids.value(row).to_owned(), has.value(row));
            found.extend((0..ids.len()).map(row));
        }
    }
    found
}

/// A change of the raw tree, and the file that the message has to name; `None` where nothing must
/// be made again.
type Change = (&'static str, fn(&Pictures), Option<&'static str>);

fn write_in_place(path: &Path, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

fn set_modified(path: &Path, time: SystemTime) {
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

const CHANGES: [Change; 12] = [
    (
        "a broken picture is replaced by a good one",
        |data| picture(&data.raw("p03.jpg"), 50),
        Some("p03.jpg"),
    ),
    (
        "a good picture of the same size and time takes the place of a good one",
        |data| {
            let time = fs::metadata(data.raw("p05.jpg"))
                .unwrap()
                .modified()
                .unwrap();
            picture(&data.raw("p05.jpg"), 51);
            set_modified(&data.raw("p05.jpg"), time);
        },
        Some("p05.jpg"),
    ),
    (
        "two pictures of one size change places",
        |data| {
            fs::rename(data.raw("p08.jpg"), data.raw("p")).unwrap();
            fs::rename(data.raw("p09.jpg"), data.raw("p08.jpg")).unwrap();
            fs::rename(data.raw("p"), data.raw("p09.jpg")).unwrap();
        },
        Some("p08.jpg"),
    ),
    (
        "a text is edited in place without a change of its size",
        |data| write_in_place(&data.raw("t10.txt"), b"page NUMBER 10"),
        Some("t10.txt"),
    ),
    (
        "a link points to another file",
        |data| {
            fs::remove_file(data.raw("p00.jpg")).unwrap();
            symlink("p01.jpg", data.raw("p00.jpg")).unwrap();
        },
        Some("p00.jpg"),
    ),
    (
        "a missing file appears",
        |data| fs::rename(data.raw("spare.jpg"), data.raw("p07.jpg")).unwrap(),
        Some("other samples or files are listed"),
    ),
    (
        "a text file disappears",
        |data| fs::remove_file(data.raw("t02.txt")).unwrap(),
        Some("other samples or files are listed"),
    ),
    (
        "a text file loses its last byte",
        |data| fs::write(data.raw("t11.txt"), "page number 1").unwrap(),
        Some("t11.txt"),
    ),
    (
        "a file is touched",
        |data| set_modified(&data.raw("p04.jpg"), SystemTime::now()),
        None,
    ),
    (
        "an editor saves a file with the old content under a new inode",
        |data| {
            fs::copy(data.raw("p06.jpg"), data.raw("p")).unwrap();
            fs::rename(data.raw("p"), data.raw("p06.jpg")).unwrap();
        },
        None,
    ),
    (
        "a file becomes a link to a copy of itself",
        |data| {
            fs::rename(data.raw("p04.jpg"), data.out("moved.jpg")).unwrap();
            symlink("../moved.jpg", data.raw("p04.jpg")).unwrap();
        },
        None,
    ),
    (
        "the whole tree is copied, and gets new times and inodes",
        |data| {
            fs::rename(data.raw(""), data.out("before")).unwrap();
            fs::create_dir(data.raw("")).unwrap();
            for (file, bytes) in files(&data.out("before")) {
                fs::write(data.raw("").join(file), bytes).unwrap();
            }
        },
        None,
    ),
];

#[test]
fn changed_files_are_noticed_and_unchanged_ones_are_not_decoded_again() {
    for (what, change, named) in CHANGES {
        let data = Pictures::new();
        let out = data.out("out");
        run(&mut data.command(&out)).ok();
        let before = files(&out);
        change(&data);
        let again = run(&mut data.command(&out));
        let Some(named) = named else {
            again.ok();
            assert!(files(&out) == before, "{what}");
            continue;
        };
        let error = again.error();
        assert!(
            error.contains("raw data has changed")
                && error.contains(named)
                && error.contains("--update"),
            "{what}: {error}"
        );
        assert!(files(&out) == before, "{what}");

        let plan = run(data.command(&out).args(["--update", "--dry-run", "--json"]));
        let plan: serde_json::Value = serde_json::from_str(&plan.ok().stdout).unwrap();
        let shards = plan["shards"].as_array().unwrap();
        let remade: Vec<_> = shards
            .iter()
            .filter(|one| one["action"] == "remake")
            .collect();
        assert_eq!(remade.len(), 1, "{what}: {plan}");
        assert!(
            remade[0]["reason"].as_str().unwrap().contains(named),
            "{what}: {plan}"
        );
        assert!(files(&out) == before, "{what}");

        // The updated folder is the one that a run on the changed tree makes.
        run(data.command(&out).arg("--update")).ok();
        let fresh = data.out("fresh");
        run(&mut data.command(&fresh)).ok();
        assert_same(&fresh, &out);
        run(&mut data.command(&out)).ok();
    }
}

/// The example of a user: the picture under the same name is in the row after the update.
#[test]
fn a_repaired_picture_gets_into_its_row() {
    let data = Pictures::new();
    let out = data.out("out");
    run(&mut data.command(&out)).ok();
    let without: Vec<String> = have_image(&out)
        .into_iter()
        .filter_map(|(id, has)| (!has).then_some(id))
        .collect();
    assert_eq!(without, ["s03", "s07"]);
    picture(&data.raw("p03.jpg"), 60);
    run(data.command(&out).arg("--update")).ok();
    let has: Vec<bool> = have_image(&out).into_iter().map(|(_, has)| has).collect();
    assert_eq!(has.iter().filter(|has| !**has).count(), 1);
    assert!(has[3] && !has[7]);
}

/// What is remembered beside the shards saves reading, and nothing depends on it.
#[test]
fn files_are_read_again_only_where_nothing_is_known_of_them() {
    // Every file but the absent picture.
    const ALL: u64 = 2 * SAMPLES as u64 - 1;
    let data = Pictures::new();
    let out = data.out("out");
    std::thread::sleep(SETTLE);
    run(&mut data.command(&out)).ok();
    let read = |out: &Path| {
        let outcome = run(&mut data.command(out));
        files_read(outcome.ok())
    };
    assert_eq!(read(&out), 0);
    // A touched file is read until it is old enough to be recognised again.
    set_modified(&data.raw("p04.jpg"), SystemTime::now());
    assert_eq!(read(&out), 1);
    std::thread::sleep(SETTLE);
    assert_eq!(read(&out), 1);
    assert_eq!(read(&out), 0);
    // Another place, with and without what is remembered.
    let (with, without) = (data.out("with"), data.out("without"));
    for (file, bytes) in files(&out) {
        for copy in [&with, &without] {
            fs::create_dir_all(copy.join(&file).parent().unwrap()).unwrap();
            fs::write(copy.join(&file), &bytes).unwrap();
        }
    }
    let indices = out.join(common::SOURCES);
    fs::create_dir(with.join(common::SOURCES)).unwrap();
    for (file, bytes) in files(&indices) {
        fs::write(with.join(common::SOURCES).join(file), bytes).unwrap();
    }
    assert_eq!(read(&with), 0);
    assert_eq!(read(&without), ALL);
    assert_eq!(read(&without), 0);
    // A damaged memory of one shard, which has four pictures and four texts.
    let index = indices.join("train-00000-of-00003.parquet.json");
    fs::write(&index, "{\"files\": {\"p0").unwrap();
    assert_eq!(read(&out), 8);
    assert_eq!(read(&out), 0);
    // A part compares the files of its own shards alone.
    fs::remove_dir_all(&indices).unwrap();
    let part = run(data.command(&out).args(["--part", "1/3"]));
    assert_eq!(files_read(part.ok()), 8 - 1);
    // A file of another size has changed, and nothing has to be read for that.
    fs::write(data.raw("t00.txt"), "longer than before").unwrap();
    let changed = run(&mut data.command(&without));
    assert!(
        changed.error().contains("t00.txt has changed"),
        "{changed:?}"
    );
    assert_eq!(files_read(&changed), 0);
    fs::write(data.raw("t00.txt"), "page number 00").unwrap();
    assert_eq!(read(&without), 1);
    // The time of an edited text is set back, which its other times tell.
    let path = data.raw("t05.txt");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    write_in_place(&path, b"page NUMBER 05");
    set_modified(&path, time);
    let changed = run(&mut data.command(&without));
    assert!(
        changed.error().contains("t05.txt has changed"),
        "{changed:?}"
    );
}
