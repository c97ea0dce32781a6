//! `ingest publish`: files beside shards and in a folder of their own, what it refuses, and that
//! the same shards give the same bytes. `tests/python/check_published.py` reads the results.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tests::{CommandOutput, CremaD, EXIT_DONE, command, names, run, temp, workspace};

/// Shards that all tests of this program share and none writes to.
fn crema_d() -> PathBuf {
    static DATA: OnceLock<CremaD> = OnceLock::new();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("publish");
    DATA.get_or_init(|| CremaD::shared(&folder, 12)).shards()
}

/// Copies the files directly in a folder.
fn copy_of(shards: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for name in names(shards) {
        if shards.join(&name).is_file() {
            fs::copy(shards.join(&name), to.join(&name)).unwrap();
        }
    }
    to.to_owned()
}

/// Synthesises and ingests another dataset.
fn shards_of(dataset: &str, folder: &Path) -> PathBuf {
    let (raw, shards) = (folder.join("raw"), folder.join("shards"));
    run(command("ingest", ["synth", dataset, "--samples", "24", "--out"]).arg(&raw))
        .expect(EXIT_DONE);
    let mut ingest = command("ingest", ["run", dataset, "--raw"]);
    run(ingest.arg(&raw).arg("--out").arg(&shards)).expect(EXIT_DONE);
    shards
}

fn publish(shards: &Path, flags: &[&str]) -> CommandOutput {
    run(command("ingest", ["publish"]).arg(shards).args(flags))
}

fn card(folder: &Path) -> String {
    fs::read_to_string(folder.join("README.md")).unwrap()
}

fn croissant(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("croissant.json")).unwrap()).unwrap()
}

#[test]
fn same_shards_give_the_same_bytes_in_place_and_elsewhere() {
    let folder = temp();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let shards = copy_of(&crema_d(), &first);
    publish(&shards, &[]).expect(EXIT_DONE);
    let written = ["README.md", "croissant.json"].map(|name| fs::read(first.join(name)).unwrap());
    // Once more over its own files, and into another folder.
    publish(&shards, &[]).expect(EXIT_DONE);
    let out = second.display().to_string();
    publish(&shards, &["--out", &out]).expect(EXIT_DONE);
    publish(&shards, &["--out", &out]).expect(EXIT_DONE);
    for folder in [&first, &second] {
        let found =
            ["README.md", "croissant.json"].map(|name| fs::read(folder.join(name)).unwrap());
        assert!(found == written, "{}", folder.display());
    }
    // Every Parquet file of the second folder is a shard, with the bytes that the manifest names.
    for name in names(&second)
        .iter()
        .filter(|name| name.ends_with(".parquet"))
    {
        assert!(name.contains("-of-"), "{name}");
        assert_eq!(
            fs::read(first.join(name)).unwrap(),
            fs::read(second.join(name)).unwrap()
        );
    }
    // The programs here read it as a folder of shards.
    run(command(
        "ingest",
        ["mask", "--protocol", "missing-audio", "--dry-run"],
    )
    .arg(&second))
    .expect(EXIT_DONE);
}

#[test]
fn help_has_an_example() {
    let help = run(&mut command("ingest", ["publish", "--help"])).expect(EXIT_DONE);
    assert!(help.stdout.contains("Examples:"), "{}", help.stdout);
}

#[test]
fn metadata_agree_with_the_manifest() {
    let folder = temp();
    let shards = copy_of(&crema_d(), folder.path());
    publish(&shards, &[]).expect(EXIT_DONE);
    let manifest: Value =
        serde_json::from_slice(&fs::read(shards.join("manifest.json")).unwrap()).unwrap();
    let metadata = croissant(&shards);
    for (shard, file) in manifest["shards"]
        .as_array()
        .unwrap()
        .iter()
        .zip(metadata["distribution"].as_array().unwrap())
    {
        assert_eq!(file["@id"], shard["file"]);
        assert_eq!(file["sha256"], shard["sha256"]);
        assert_eq!(file["contentSize"], format!("{} B", shard["bytes"]));
    }
    let card = card(&shards);
    assert!(
        card.starts_with("---\nlicense: odbl\npretty_name: CREMA-D\n"),
        "{card}"
    );
    let rows = manifest["totals"]["train"]["rows"].to_string();
    assert!(card.contains(&format!("num_examples: {rows}\n")), "{card}");
    assert!(card.contains(manifest["settings_hash"].as_str().unwrap()));
    assert!(card.contains("@article{cao2014crema,"));
}

#[test]
fn files_of_a_person_are_kept() {
    let folder = temp();
    let shards = copy_of(&crema_d(), folder.path());
    let readme = shards.join("README.md");
    fs::write(&readme, "# My notes\n").unwrap();
    publish(&shards, &[]).expect_usage(&["README.md", "--overwrite"]);
    assert_eq!(card(&shards), "# My notes\n");
    assert!(!shards.join("croissant.json").exists());
    publish(&shards, &["--overwrite", "--dry-run"]).expect(EXIT_DONE);
    assert_eq!(card(&shards), "# My notes\n");
    publish(&shards, &["--overwrite"]).expect(EXIT_DONE);
    // A card that was changed afterwards is a person's again.
    let changed = card(&shards).replace("# CREMA-D", "# CREMA-D of our group");
    fs::write(&readme, &changed).unwrap();
    publish(&shards, &[]).expect_usage(&["README.md"]);
    assert_eq!(card(&shards), changed);
}

#[test]
fn shards_that_are_not_finished_are_refused() {
    let folder = temp();
    let shards = copy_of(&crema_d(), &folder.path().join("unfinished"));
    let nothing = folder.path().join("nothing-here");
    publish(&nothing, &[]).expect_usage(&["nothing-here"]);
    fs::create_dir(&nothing).unwrap();
    publish(&nothing, &[]).expect_usage(&["nothing-here", "ingest run"]);

    let manifest = fs::read(shards.join("manifest.json")).unwrap();
    fs::remove_file(shards.join("manifest.json")).unwrap();
    publish(&shards, &[]).expect_usage(&["manifest.json", "--finish"]);
    fs::write(shards.join("manifest.json"), "{}").unwrap();
    publish(&shards, &[]).expect_usage(&["manifest.json", "ingest run"]);
    let other = String::from_utf8(manifest.clone()).unwrap();
    let at = other.find("\"settings_hash\": \"").unwrap() + 18;
    let other = format!("{}{}{}", &other[..at], "0".repeat(64), &other[at + 64..]);
    fs::write(shards.join("manifest.json"), other).unwrap();
    publish(&shards, &[]).expect_usage(&["manifest.json", "not the manifest of these shards"]);

    fs::write(shards.join("manifest.json"), manifest).unwrap();
    let shard = shards.join("test-00000-of-00001.parquet");
    fs::remove_file(&shard).unwrap();
    publish(&shards, &[]).expect_usage(&["test-00000-of-00001.parquet", "missing"]);
    assert!(!shards.join("README.md").exists());
}

#[test]
fn a_second_folder_takes_no_other_shards() {
    let folder = temp();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("train-00000-of-00009.parquet"), "old").unwrap();
    let to = out.display().to_string();
    publish(&crema_d(), &["--out", &to]).expect_usage(&["train-00000-of-00009.parquet", "--out"]);
    assert_eq!(names(&out), ["train-00000-of-00009.parquet"]);
    for inside in [crema_d(), crema_d().join("a/b")] {
        let inside = inside.display().to_string();
        publish(&crema_d(), &["--out", &inside])
            .expect_usage(&["--out", "lies in the folder of the shards"]);
    }
}

#[test]
fn a_second_folder_keeps_the_files_of_others() {
    let folder = temp();
    let refused = |name: &str, words: &str| {
        let out = folder.path().join(name.replace('/', "-"));
        fs::create_dir_all(out.join(name).parent().unwrap()).unwrap();
        fs::write(out.join(name), "theirs").unwrap();
        let to = out.display().to_string();
        publish(&crema_d(), &["--out", &to]).expect_usage(&[name, words]);
        assert_eq!(fs::read(out.join(name)).unwrap(), b"theirs");
        to
    };
    for name in ["masks/mask.parquet", "notes.parquet"] {
        let out = refused(name, "is not one of these shards");
        publish(&crema_d(), &["--out", &out, "--overwrite"]).expect_usage(&[name]);
    }
    for name in [
        "train-00000-of-00001.parquet",
        "manifest.json",
        "failures.jsonl",
    ] {
        let out = refused(name, "--overwrite");
        publish(&crema_d(), &["--out", &out, "--overwrite"]).expect(EXIT_DONE);
        publish(&crema_d(), &["--out", &out]).expect(EXIT_DONE);
    }
}

#[test]
fn only_data_that_may_be_passed_on_are_pushed() {
    let folder = temp();
    let shards = copy_of(&crema_d(), &folder.path().join("it's mine"));
    let pushed = publish(&shards, &["--push", "me/crema-d"]).expect(EXIT_DONE);
    let quoted = shards.display().to_string().replace('\'', "'\\''");
    let line = format!("hf upload me/crema-d '{quoted}' . --repo-type dataset --exclude '.*'");
    assert_eq!(pushed.stdout.lines().last(), Some(line.as_str()));
    for name in ["not a name", "crema-d", "me/a/b"] {
        publish(&shards, &["--push", name]).expect_usage(&[name, "USER/NAME"]);
    }
    publish(&shards, &["--licence", "mit"]).expect_usage(&["--licence mit", "leave the flag out"]);

    let shards = shards_of("mm-imdb", folder.path());
    publish(&shards, &["--push", "me/mm-imdb"]).expect_usage(&["MM-IMDb", "no licence is stated"]);
    assert!(
        !shards.join("README.md").exists(),
        "refused before it wrote"
    );
    let written = publish(&shards, &["--json"]).expect(EXIT_DONE).json();
    assert_eq!(written["may_be_passed_on"], false);
    assert!(card(&shards).contains("must not be passed on"));
    assert!(card(&shards).starts_with("---\nlicense: other\nlicense_name: none-stated"));
    assert!(
        croissant(&shards)["usageInfo"]
            .as_str()
            .unwrap()
            .starts_with("Not to be passed on")
    );
}

#[test]
fn licence_of_own_data_is_the_users_to_say() {
    let folder = temp();
    let root = folder.path();
    let photo = workspace().join("tests/src/bin/stand-in.jpg");
    fs::copy(photo, root.join("a.jpg")).unwrap();
    let table = "id,split,label,photo,text\na,train,yes,a.jpg,a text\nb,test,no,,another text\n";
    fs::write(root.join("table.csv"), table).unwrap();
    let toml = "name = \"notes\"\ntable = \"table.csv\"\n[columns]\nid = \"id\"\nsplit = \"split\"\n\
                label = \"label\"\nimage = \"photo\"\ntext = \"text\"\n";
    fs::write(root.join("notes.toml"), toml).unwrap();
    let shards = root.join("shards");
    let mut ingest = command("ingest", ["run"]);
    run(ingest
        .arg(root.join("notes.toml"))
        .arg("--out")
        .arg(&shards))
    .expect(EXIT_DONE);

    publish(&shards, &["--push", "me/notes"]).expect_usage(&["--licence", "cc-by-4.0"]);
    publish(&shards, &["--licence", "cc-by-4"])
        .expect_usage(&["cc-by-4", "did you mean \"cc-by-4.0\""]);
    publish(&shards, &[]).expect(EXIT_DONE);
    assert!(
        card(&shards).starts_with("---\nlicense: unknown\n"),
        "{}",
        card(&shards)
    );
    let flags = ["--licence", "CC-BY-4.0", "--push", "me/notes"];
    publish(&shards, &flags).expect(EXIT_DONE);
    assert!(card(&shards).starts_with("---\nlicense: cc-by-4.0\n"));
    assert!(!card(&shards).contains("must not be passed on"));
}
