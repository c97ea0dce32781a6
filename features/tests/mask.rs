//! Missing-modality masks: exact counts, a function of the set of ids only, lower rates within
//! higher ones, never a sample without a modality; files that are read back equal, or refused in
//! one line.
#![allow(clippy::unwrap_used)]

use datasets::{Modality, Split};
use features::mask::{Mask, Protocol, draw};
use features::{
    Mel, MelDtype, Row, RowContent, ShardSpec, Shards, record_batch, writer_properties,
};
use parquet::arrow::ArrowWriter;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

const PAIR: [Modality; 2] = [Modality::Audio, Modality::Video];

fn ids(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("clip{i}")).collect()
}

fn by_id(protocol: Protocol, rate: f64, ids: &[String]) -> BTreeMap<String, [bool; 2]> {
    let shown = draw(PAIR, protocol, rate, 5, ids).unwrap();
    ids.iter().cloned().zip(shown).collect()
}

/// Returns how many samples lose the first modality, the second, and both.
fn hidden(shown: &[[bool; 2]]) -> [usize; 3] {
    [[false, true], [true, false], [false, false]]
        .map(|kind| shown.iter().filter(|shown| **shown == kind).count())
}

/// The expected ids were ranked in Python: sorted(ids, key=lambda i:
/// sha256(b"u2a-mask\0PROTOCOL\x007\0" + i + b"\0").digest()).
#[test]
fn ranks_equal_the_documented_hash() {
    let ids = ids(10);
    let lost = |protocol, modality: usize| -> Vec<String> {
        let shown = draw(PAIR, protocol, 0.4, 7, &ids).unwrap();
        let lost = ids.iter().zip(shown).filter(|(_, shown)| !shown[modality]);
        lost.map(|(id, _)| id.clone()).collect()
    };
    let audio = Protocol::Missing(Modality::Audio.into());
    assert_eq!(lost(audio, 0), ["clip1", "clip3", "clip5", "clip7"]);
    // Ranks: clip8, clip2, clip3, clip4.
    assert_eq!(lost(Protocol::MissingBoth, 1), ["clip3", "clip8"]);
    assert_eq!(lost(Protocol::MissingBoth, 0), ["clip2", "clip4"]);
}

#[test]
fn counts_are_exact() {
    for n in [0, 1, 2, 9, 10, 90, 100, 744] {
        for (rate, tenths) in (0..=10).map(|tenths| (tenths as f64 / 10.0, tenths)) {
            let touched = n * tenths / 10;
            let count = |protocol| hidden(&draw(PAIR, protocol, rate, 1, &ids(n)).unwrap());
            assert_eq!(
                count(Protocol::Missing(Modality::Audio.into())),
                [touched, 0, 0]
            );
            assert_eq!(
                count(Protocol::Missing(Modality::Video.into())),
                [0, touched, 0]
            );
            let both = [touched / 2, touched.div_ceil(2), 0];
            assert_eq!(count(Protocol::MissingBoth), both, "{rate} of {n}");
        }
    }
}

#[test]
fn mask_does_not_depend_on_the_order_of_ids() {
    let straight = ids(300);
    let mut shuffled = straight.clone();
    shuffled.sort_by_key(|id| id.bytes().rev().collect::<Vec<_>>());
    for protocol in Protocol::of(PAIR) {
        assert_eq!(
            by_id(protocol, 0.7, &straight),
            by_id(protocol, 0.7, &shuffled)
        );
    }
}

#[test]
fn higher_rates_include_lower_ones() {
    let ids = ids(250);
    for protocol in Protocol::of(PAIR) {
        let rates: Vec<_> = (0..=20)
            .map(|i| by_id(protocol, i as f64 / 20.0, &ids))
            .collect();
        for pair in rates.windows(2) {
            for (id, low) in &pair[0] {
                let high = pair[1][id];
                assert!((0..2).all(|m| low[m] || !high[m]), "{protocol} {id}");
            }
        }
    }
}

#[test]
fn seeds_and_protocols_draw_independently() {
    let ids = ids(200);
    let draws: Vec<Vec<usize>> = [
        (Protocol::Missing(Modality::Audio.into()), 1),
        (Protocol::Missing(Modality::Audio.into()), 2),
        (Protocol::Missing(Modality::Video.into()), 1),
    ]
    .map(|(protocol, seed)| {
        let shown = draw(PAIR, protocol, 0.5, seed, &ids).unwrap();
        (0..ids.len())
            .filter(|&i| shown[i] != [true, true])
            .collect()
    })
    .into();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let common = draws[a].iter().filter(|i| draws[b].contains(i)).count();
        assert!(
            (30..70).contains(&common),
            "{common} of 100 in common, 50 expected"
        );
    }
}

#[test]
fn invalid_rates_and_protocols_are_refused() {
    let refused = |protocol: &str, rate| match protocol.parse() {
        Ok(protocol) => draw(PAIR, protocol, rate, 0, &ids(3))
            .unwrap_err()
            .to_string(),
        Err(error) => format!("{error}"),
    };
    for rate in [-0.1, 1.5, f64::NAN] {
        assert!(refused("missing-audio", rate).contains("from 0 to 1"));
    }
    let other = refused("missing-text", 0.5);
    assert!(
        other.contains("missing-text") && other.contains("missing-video"),
        "{other}"
    );
    assert!(refused("missing-sound", 0.5).contains("missing-audio"));
}

/// Writes `n` samples; of every four, one has no audio and one no video.
fn shards(folder: &Path, n: usize) -> Shards {
    let spec = ShardSpec {
        dataset: "made-up".into(),
        modalities: PAIR.into(),
        classes: vec!["one".into()],
        multi_label: false,
        mel_dtype: MelDtype::F32,
        frame_pool: 1,
        segment: false,
        tool_version: "0".into(),
        settings_hash: "0".into(),
    };
    let rows: Vec<Row> = (0..n)
        .map(|i| {
            let mut row = Row::new(format!("clip{i}"), Split::Test, vec![0]);
            row.contents[0] = (i % 4 != 0).then(|| RowContent::Mel {
                mel: Mel {
                    bins: 128,
                    values: vec![0.0; 128],
                },
                seconds: None,
            });
            row.contents[1] = (i % 4 != 1).then(|| RowContent::Frames {
                files: vec![vec![1]],
                times: vec![0.0],
                seconds: None,
            });
            row
        })
        .collect();
    let file = File::create(folder.join("test-00000-of-00001.parquet")).unwrap();
    let mut writer =
        ArrowWriter::try_new(file, spec.arrow_schema(), Some(writer_properties(&spec))).unwrap();
    writer.write(&record_batch(&spec, &rows).unwrap()).unwrap();
    writer.close().unwrap();
    Shards::open(&folder.into()).unwrap()
}

#[test]
fn no_sample_is_left_without_modality() {
    let folder = tempfile::tempdir().unwrap();
    let shards = shards(folder.path(), 80);
    let there = shards.split(Split::Test).present.clone();
    for protocol in Protocol::of(PAIR) {
        let mask = Mask::draw(&shards, protocol, 1.0, 3).unwrap();
        let present = mask.present(&shards, Split::Test).unwrap();
        for (there, present) in there.iter().zip(&present) {
            assert!(
                (0..2).all(|m| there[m] || !present[m]),
                "shows a modality that the sample lacks"
            );
            assert!(present[0] || present[1], "no modality is left");
        }
        assert_eq!(mask.hidden_counts(Split::Test).iter().sum::<usize>(), 80);
        assert_eq!(mask.hidden_counts(Split::Train), [0, 0]);
    }
    let mask = Mask::draw(&shards, Protocol::Missing(Modality::Audio.into()), 1.0, 3).unwrap();
    let present = mask.present(&shards, Split::Test).unwrap();
    let kept = present.iter().zip(&there).filter(|(p, t)| p == t).count();
    // A quarter never had audio; another has only audio and keeps it.
    assert_eq!(kept, 40);
}

#[test]
fn equal_masks_give_equal_files_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let shards = shards(folder.path(), 30);
    let path = Mask::path_in(folder.path(), Protocol::MissingBoth, 0.7, 2);
    assert!(path.ends_with("masks/missing-both-0.7-seed2.parquet"));
    let mask = Mask::draw(&shards, Protocol::MissingBoth, 0.7, 2).unwrap();
    mask.write(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    mask.write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "a temporary file is left"
    );
    let back = Mask::read(&path).unwrap();
    assert_eq!(
        back.present(&shards, Split::Test).unwrap(),
        mask.present(&shards, Split::Test).unwrap()
    );
}

/// Writes a mask as a user might: other column order, other spelling of the split.
fn write_user_mask(path: &Path, columns: &[(&str, bool)], id: &str) {
    use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
    use std::sync::Arc;
    let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
    let mut all = vec![("id", text(id)), ("split", text("Testing"))];
    for (name, shown) in columns {
        all.push((name, Arc::new(BooleanArray::from(vec![*shown]))));
    }
    let rows = RecordBatch::try_from_iter(all).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}

#[test]
fn malformed_user_masks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let shards = shards(folder.path(), 3);
    let path = folder.path().join("own.parquet");
    write_user_mask(&path, &[("has_video", false), ("has_audio", true)], "clip0");
    let problem = Mask::read(&path)
        .unwrap()
        .present(&shards, Split::Test)
        .unwrap_err()
        .to_string();
    assert!(
        problem.contains("own.parquet")
            && problem.contains("2 of the 3")
            && problem.contains("'clip1'"),
        "{problem}"
    );
    let refused = |columns: &[(&str, bool)]| {
        write_user_mask(&path, columns, "clip0");
        let problem = Mask::read(&path)
            .and_then(|mask| mask.present(&shards, Split::Test))
            .unwrap_err()
            .to_string();
        assert!(
            problem.contains("own.parquet") && problem.contains("ingest mask"),
            "{problem}"
        );
        problem
    };
    assert!(
        refused(&[("has_audio", false), ("has_video", false)]).contains("both modalities hidden")
    );
    assert!(refused(&[("has_audio", true)]).contains("not two"));
    assert!(refused(&[("has_image", true), ("has_text", true)]).contains("image and text"));
    std::fs::write(&path, b"no Parquet").unwrap();
    assert!(
        Mask::read(&path)
            .unwrap_err()
            .to_string()
            .contains("cannot be read as Parquet")
    );
    std::fs::remove_file(&path).unwrap();
    assert!(
        Mask::read(&path)
            .unwrap_err()
            .to_string()
            .contains("cannot open")
    );
}

#[test]
fn columns_are_read_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let shards = shards(folder.path(), 3);
    // clip2 has both.
    let path = folder.path().join("own.parquet");
    let mask = Mask::draw(&shards, Protocol::Missing(Modality::Audio.into()), 1.0, 0).unwrap();
    mask.write(&path).unwrap();
    assert_eq!(
        mask.present(&shards, Split::Test).unwrap()[2],
        [false, true]
    );
    use arrow_array::RecordBatch;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
    let rows: RecordBatch = reader.build().unwrap().next().unwrap().unwrap();
    let turned = rows.project(&[3, 2, 1, 0]).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(&path).unwrap(), turned.schema(), None).unwrap();
    writer.write(&turned).unwrap();
    writer.close().unwrap();
    assert_eq!(
        Mask::read(&path)
            .unwrap()
            .present(&shards, Split::Test)
            .unwrap(),
        mask.present(&shards, Split::Test).unwrap()
    );
}
