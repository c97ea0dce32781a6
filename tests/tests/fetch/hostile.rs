//! Hostile archives: each is refused in one line that names the member, and nothing is written outside
//! of the raw folder.

use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tar::{Builder, EntryType, Header};
use tests::publisher::{Answer, Server};
use tests::{contents, run, temp};
use zip::write::SimpleFileOptions;

use crate::ave::FetchError;
use crate::killing::fetch;
use crate::packing::gzip;

/// A header with a name that `tar` would not write.
fn header(name: &[u8], kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// A film that is kept, so that a hostile member comes after a harmless one.
fn film(builder: &mut Builder<Vec<u8>>) {
    let header = header(b"mmimdb/dataset/0000001.json", EntryType::Regular, 2);
    builder.append(&header, &b"{}"[..]).unwrap();
}

/// The archives, each with what the error has to name.
fn tars() -> Vec<(&'static str, Vec<u8>)> {
    let mut archives = Vec::new();
    let mut add = |words: &'static str, fill: &dyn Fn(&mut Builder<Vec<u8>>)| {
        let mut builder = Builder::new(Vec::new());
        film(&mut builder);
        fill(&mut builder);
        archives.push((words, builder.into_inner().unwrap()));
    };
    let file = |name: &'static [u8]| {
        move |builder: &mut Builder<Vec<u8>>| {
            let header = header(name, EntryType::Regular, 4);
            builder.append(&header, &b"evil"[..]).unwrap();
        }
    };
    add(
        "../evil.json\" is refused: its path leads out",
        &file(b"../evil.json"),
    );
    add("leads out", &file(b"mmimdb/dataset/../../../evil.json"));
    add("absolute", &file(b"/tmp/u2a-fetch-evil.json"));
    add("backslash", &file(b"..\\evil.json"));
    add(
        "folder of records",
        &file(b".fetch/lists/dataset/0000003.json"),
    );
    add("not UTF-8", &file(b"mmimdb/dataset/\xff\xfe.json"));
    add("control characters", &file(b"mmimdb/dataset/a\x1b[2J.json"));
    add("same file", &file(b"mmimdb/dataset/0000001.json"));
    let kinds = [
        (EntryType::Symlink, "symbolic link"),
        (EntryType::Link, "hard link"),
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "pipe"),
        (EntryType::GNUSparse, "sparse"),
        (EntryType::new(b'V'), "no file and no folder"),
    ];
    for (kind, words) in kinds {
        add(words, &move |builder| {
            let mut header = header(b"mmimdb/dataset/0000002.json", kind, 0);
            header.set_link_name_literal("../../../evil.json").unwrap();
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
        });
    }
    // A name that leads out, as GNU and as POSIX write long ones.
    add("leads out", &|builder| {
        let long = format!("{}/../../../../evil.json\0", "a".repeat(150));
        let name = header(b"././@LongLink", EntryType::GNULongName, long.len() as u64);
        builder.append(&name, long.as_bytes()).unwrap();
        builder
            .append(&header(b"short", EntryType::Regular, 0), &[][..])
            .unwrap();
    });
    add("leads out", &|builder| {
        builder
            .append_pax_extensions([("path", &b"../../evil.json"[..])])
            .unwrap();
        builder
            .append(&header(b"short", EntryType::Regular, 0), &[][..])
            .unwrap();
    });
    add("larger than any publisher's file", &|builder| {
        let header = header(b"mmimdb/dataset/0000002.json", EntryType::Regular, 1 << 50);
        builder.append(&header, &[][..]).unwrap();
    });
    add("header of", &|builder| {
        let header = header(b"././@LongLink", EntryType::GNULongName, 1 << 40);
        builder.append(&header, &[][..]).unwrap();
    });
    add("200 times larger", &|builder| {
        let header = header(b"mmimdb/dataset/0000002.json", EntryType::Regular, 64 << 20);
        builder.append(&header, &vec![0; 64 << 20][..]).unwrap();
    });
    // The sum of a header is wrong.
    let mut damaged = archives[0].1.clone();
    damaged[1024] ^= 1;
    archives.push(("damaged", damaged));
    archives.push(("is no tar archive", vec![b'x'; 5_000]));
    archives
}

/// Fetches a hostile archive and asserts that it is refused, and that nothing was written but below
/// the raw folder.
#[track_caller]
fn assert_refused(dataset: &str, path: &str, archive: Vec<u8>, words: &str, clips: &str) {
    let folder = temp();
    let raw = folder.path().join("a/b/raw");
    let archive = Arc::new(archive);
    let path = path.to_owned();
    let server = Server::start(move |request| match request.path == path {
        true => Answer::shared(archive.clone()),
        false => Answer::status(404),
    });
    let line = run(&mut fetch(dataset, &server.url(""), &raw)).expect_fetch_error(&[words]);
    assert!(line.len() < 700, "{line}");
    let files = contents(folder.path());
    let outside = files.keys().filter(|path| !path.starts_with("a/b/raw"));
    assert_eq!(
        outside.collect::<Vec<_>>(),
        Vec::<&std::path::PathBuf>::new()
    );
    let kept = files
        .keys()
        .filter(|path| path.to_string_lossy().ends_with(clips));
    assert_eq!(
        kept.count(),
        0,
        "what a hostile archive had before is removed: {files:?}"
    );
    for evil in ["/tmp/u2a-fetch-evil.json", "/tmp/evil.json", "/evil.json"] {
        assert!(!Path::new(evil).exists(), "{evil}");
    }
}

#[test]
fn hostile_tars_are_refused() {
    for (words, archive) in tars() {
        let packed = gzip(&archive);
        assert_refused("mm-imdb", "/mmimdb.tar.gz", packed, words, ".jpeg");
        if words != "200 times larger" {
            assert_refused("mm-imdb", "/mmimdb.tar.gz", archive, words, ".jpeg");
        }
    }
}

#[test]
fn damaged_gzip_files_are_refused() {
    let mut builder = Builder::new(Vec::new());
    film(&mut builder);
    let mut archive = gzip(&builder.into_inner().unwrap());
    let length = archive.len();
    archive[length - 6] ^= 1;
    assert_refused(
        "mm-imdb",
        "/mmimdb.tar.gz",
        archive.clone(),
        "CRC-32",
        "0000001.json",
    );
    archive.truncate(length - 9);
    assert_refused(
        "mm-imdb",
        "/mmimdb.tar.gz",
        archive,
        "too early",
        "0000001.json",
    );
}

type ZipWriter = zip::ZipWriter<Cursor<Vec<u8>>>;

/// A zip with a clip and a member that `fill` adds.
fn zip(fill: &dyn Fn(&mut ZipWriter)) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer
        .start_file("AVE/aaaaaaaaaaa.mp4", SimpleFileOptions::default())
        .unwrap();
    writer.write_all(b"clip").unwrap();
    fill(&mut writer);
    writer.finish().unwrap().into_inner()
}

#[test]
fn hostile_zips_are_refused() {
    let options = SimpleFileOptions::default();
    let mut archives: Vec<(&str, Vec<u8>)> = Vec::new();
    for (words, name) in [
        ("leads out", "../../evil.mp4"),
        ("absolute", "/tmp/u2a-fetch-evil.json"),
        ("same file", "./AVE//aaaaaaaaaaa.mp4"),
        ("folder of records", ".fetch/AVE_Dataset.zip.kept"),
    ] {
        let archive = zip(&|writer| {
            writer.start_file(name, options).unwrap();
            writer.write_all(b"evil").unwrap();
        });
        let words = if words == "same file" {
            "that of another one"
        } else {
            words
        };
        archives.push((words, archive));
    }
    archives.push((
        "symbolic link",
        zip(&|writer| {
            writer.add_symlink("AVE/link", "../../..", options).unwrap();
        }),
    ));
    archives.push((
        "bomb",
        zip(&|writer| {
            writer.start_file("AVE/bbbbbbbbbbb.mp4", options).unwrap();
            writer.write_all(&vec![0; 64 << 20]).unwrap();
        }),
    ));
    // The table of contents says that a member is smaller than it is.
    let mut lying = zip(&|writer| {
        writer.start_file("AVE/bbbbbbbbbbb.mp4", options).unwrap();
        writer.write_all(&[7; 5_000]).unwrap();
    });
    let place = lying
        .windows(4)
        .rposition(|bytes| bytes == 5_000u32.to_le_bytes())
        .unwrap();
    lying[place..place + 4].copy_from_slice(&50u32.to_le_bytes());
    archives.push(("", lying));
    archives.push(("is no zip archive", b"PK\x03\x04 and then nothing".to_vec()));
    for (words, archive) in archives {
        assert_refused("ave", "/AVE_Dataset.zip", archive, words, "bbbbbbbbbbb.mp4");
    }
}

#[test]
fn archives_of_pythons_own_modules_are_unpacked() {
    let folder = temp();
    let raw = folder.path().join("raw");
    let mirror = folder.path().join("mirror");
    std::fs::create_dir(&mirror).unwrap();
    let script = r#"
import gzip, io, json, sys, tarfile
films = 40
def pack(form):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        split = {"train": ["%07d" % n for n in range(films)], "dev": [], "test": []}
        members = {"split.json": json.dumps(split)}
        for n in range(films):
            members["dataset/%07d.json" % n] = json.dumps({"genres": ["Drama"], "plot": ["word " * n]})
            members["dataset/%07d.jpeg" % n] = "poster %d " % n * 50
        for name, text in members.items():
            info = tarfile.TarInfo("mmimdb/" + "deep/" * 30 + name)
            info.size = len(text)
            info.mtime = 1.5
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()
data = pack(int(sys.argv[2]))
half = len(data) // 2
with open(sys.argv[1], "wb") as file:
    for level, part in zip(sys.argv[3:], (data[:half], data[half:])):
        file.write(gzip.compress(part, compresslevel=int(level)))
"#;
    let archive = mirror.join("mmimdb.tar.gz");
    // GNU_FORMAT and PAX_FORMAT.
    for (form, levels) in [("1", ["0", "9"]), ("2", ["1", "0"])] {
        let mut python = Command::new("python3");
        python
            .args(["-c", script])
            .arg(&archive)
            .arg(form)
            .args(levels);
        match python.status() {
            Err(_) => {
                return util::skip::skip(util::skip::Missing::Platform, "python3 is not installed");
            }
            Ok(status) => assert!(status.success()),
        }
        run(&mut fetch("mm-imdb", mirror.to_str().unwrap(), &raw)).expect(0);
        let files = contents(&raw);
        let films = files
            .keys()
            .filter(|path| path.to_string_lossy().contains("deep/dataset/"));
        assert_eq!(films.count(), 80, "{form}");
        std::fs::remove_dir_all(&raw).unwrap();
    }
}
