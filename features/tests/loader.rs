//! The loader on small shards that the tests write: one order, exact resume, batches that depend
//! neither on threads nor on shard sizes, masks, and one clear error for shards that cannot be
//! read.
#![allow(clippy::unwrap_used)]

use datasets::{Modality, Split};
use features::image::{CLIP_MEAN, CLIP_STD, ImageTransform, Rgb, shrink_to_jpeg};
use features::{
    Batch, Loader, LoaderOptions, Mel, MelDtype, MelTransform, ModalityData, Row, RowContent,
    ShardSpec, Shards, Share, Transforms, record_batch, writer_properties,
};
use parquet::arrow::ArrowWriter;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

const CLASSES: usize = 3;

fn spec(mel_dtype: MelDtype) -> ShardSpec {
    ShardSpec {
        dataset: "made-up".into(),
        modalities: [Modality::Audio, Modality::Video].into(),
        classes: (0..CLASSES).map(|c| format!("class {c}")).collect(),
        multi_label: false,
        mel_dtype,
        frame_pool: 5,
        segment: false,
        tool_version: "0".into(),
        settings_hash: "0".into(),
    }
}

/// Returns sample `i`. Its number is in every value, so that a mix-up is detected. Every 5th has no
/// audio, every 7th no video.
fn row(i: usize) -> Row {
    let mut row = Row::new(
        format!("clip{i:03}"),
        Split::Train,
        vec![(i % CLASSES) as u32],
    );
    if !i.is_multiple_of(5) {
        let frames = 3 + i % 4;
        let mel = Mel {
            bins: 128,
            values: (0..frames * 128)
                .map(|k| (i * 1000 + k) as f32 / 64.0)
                .collect(),
        };
        row.contents[0] = Some(RowContent::Mel {
            mel,
            seconds: Some(1.0),
        });
    }
    if i.is_multiple_of(5) || !i.is_multiple_of(7) {
        let frame = |f: usize| {
            let pixels = (0..40 * 30)
                .flat_map(|_| [(i * 4) as u8, (f * 50) as u8, 128])
                .collect();
            shrink_to_jpeg(
                &Rgb {
                    width: 40,
                    height: 30,
                    pixels,
                },
                32,
                95,
            )
            .unwrap()
        };
        row.contents[1] = Some(RowContent::Frames {
            files: (0..5).map(frame).collect(),
            times: vec![0.0, 0.1, 0.2, 0.3, 0.4],
            seconds: Some(0.5),
        });
    }
    row
}

/// Writes `samples` rows in shards of `per_shard` rows and row groups of `per_group` rows.
fn write(folder: &Path, samples: usize, per_shard: usize, per_group: usize, dtype: MelDtype) {
    let spec = spec(dtype);
    let shards = samples.div_ceil(per_shard);
    for shard in 0..shards {
        let rows: Vec<Row> = (shard * per_shard..((shard + 1) * per_shard).min(samples))
            .map(row)
            .collect();
        let path = folder.join(format!("train-{shard:05}-of-{shards:05}.parquet"));
        let mut writer = ArrowWriter::try_new(
            File::create(path).unwrap(),
            spec.arrow_schema(),
            Some(writer_properties(&spec)),
        )
        .unwrap();
        for group in rows.chunks(per_group) {
            writer.write(&record_batch(&spec, group).unwrap()).unwrap();
            writer.flush().unwrap();
        }
        writer.close().unwrap();
    }
}

fn written(samples: usize, per_shard: usize, per_group: usize) -> (tempfile::TempDir, Arc<Shards>) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), samples, per_shard, per_group, MelDtype::F32);
    let shards = Arc::new(Shards::open(&folder.path().into()).unwrap());
    (folder, shards)
}

fn config(threads: usize) -> LoaderOptions {
    LoaderOptions {
        split: Split::Train,
        shuffle: true,
        augment: true,
        seed: 3,
        batch_size: 4,
        threads,
        byte_budget: 64 << 20,
        transforms: Transforms {
            frames: 3,
            image: ImageTransform::clip(16),
            mel: MelTransform::ast(8),
            text: None,
        },
        ..LoaderOptions::default()
    }
}

fn all(shards: &Arc<Shards>, config: LoaderOptions, epoch: u64, start: u64) -> Vec<Batch> {
    Loader::new(shards, config, epoch, start)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

fn ids(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(|b| b.ids.clone()).collect()
}

/// Returns everything in the batches as text, to compare.
fn debug_text(batches: &[Batch]) -> Vec<String> {
    batches.iter().map(|b| format!("{b:?}")).collect()
}

#[test]
fn batches_do_not_depend_on_threads_or_shards() {
    let (_a, one) = written(38, 38, 38);
    let (_b, many) = written(38, 7, 2);
    let want = debug_text(&all(&one, config(1), 0, 0));
    for (shards, threads) in [(&one, 2), (&one, 5), (&many, 1), (&many, 3)] {
        assert!(
            debug_text(&all(shards, config(threads), 0, 0)) == want,
            "{threads} threads"
        );
    }
    assert_eq!(one.fingerprint(), many.fingerprint());
}

#[test]
fn each_epoch_has_every_sample_once_in_an_order_of_its_own() {
    let (_folder, shards) = written(38, 10, 4);
    let (first, second) = (
        ids(&all(&shards, config(2), 0, 0)),
        ids(&all(&shards, config(2), 1, 0)),
    );
    assert_ne!(first, second);
    let set: BTreeSet<&String> = first.iter().collect();
    assert_eq!((first.len(), set.len()), (38, 38));
    let in_order = ids(&all(
        &shards,
        LoaderOptions {
            shuffle: false,
            ..config(2)
        },
        0,
        0,
    ));
    assert!(in_order.is_sorted());
}

#[test]
fn reused_buffers_change_no_batch() {
    let (_folder, shards) = written(60, 20, 5);
    for threads in [1, 3] {
        let mut loader = Loader::new(&shards, config(threads), 1, 0).unwrap();
        let mut batches = Vec::new();
        while let Some(batch) = loader.next() {
            let mut batch = batch.unwrap();
            batches.push(batch.clone());
            // Old values in a buffer must not appear in another batch.
            for input in batch.inputs.iter_mut().flatten() {
                if let ModalityData::Dense { values, .. } = &mut input.data {
                    values.fill(f32::NAN);
                }
            }
            loader.reuse(batch.inputs);
        }
        assert_eq!(
            debug_text(&batches),
            debug_text(&all(&shards, config(1), 1, 0))
        );
    }
}

#[test]
fn resuming_at_any_sample_gives_the_rest() {
    let (_folder, shards) = written(22, 10, 4);
    let whole = all(&shards, config(2), 4, 0);
    for (i, batch) in whole.iter().enumerate() {
        let rest = all(&shards, config(3), 4, batch.consumed);
        assert!(
            debug_text(&rest) == debug_text(&whole[i + 1..]),
            "after batch {i}"
        );
    }
    assert_eq!(whole.last().unwrap().consumed, 22);
    assert_eq!(
        whole.last().unwrap().ids.len(),
        2,
        "the ragged last batch is kept"
    );
}

#[test]
fn batches_hold_the_values_of_their_samples() {
    let (_folder, shards) = written(38, 9, 3);
    let plain = LoaderOptions {
        augment: false,
        ..config(2)
    };
    for batch in all(&shards, plain, 0, 0) {
        for m in 0..2 {
            let want: Vec<usize> = (0..batch.ids.len())
                .filter(|i| batch.present[*i][m])
                .collect();
            assert_eq!(
                batch.inputs[m].as_ref().map_or(vec![], |b| b.rows.clone()),
                want
            );
        }
        for (i, id) in batch.ids.iter().enumerate() {
            let number: usize = id[4..].parse().unwrap();
            let wanted = row(number);
            assert_eq!(
                batch.present[i],
                wanted.contents.each_ref().map(Option::is_some)
            );
            assert_eq!(batch.labels[i], wanted.labels);
            if let Some(mel) = wanted.contents[0].as_ref().and_then(RowContent::mel) {
                let input = batch.inputs[0].as_ref().unwrap().pick(&[i]).unwrap();
                assert_eq!(input.shape(), [1, 8, 128]);
                let ModalityData::Dense { values, .. } = input.data else {
                    panic!("{input:?}")
                };
                for (k, got) in values.iter().enumerate() {
                    let raw = mel.values.get(k).copied().unwrap_or(0.0);
                    assert!(
                        (got - (raw + 4.267_739_3) / (2.0 * 4.568_997_4)).abs() < 1e-4,
                        "{id} {k}"
                    );
                }
            }
            if wanted.contents[1].is_some() {
                let input = batch.inputs[1].as_ref().unwrap().pick(&[i]).unwrap();
                assert_eq!(input.shape(), [1, 3, 3, 16, 16]);
                let ModalityData::Dense { values, .. } = input.data else {
                    panic!("{input:?}")
                };
                // The green channel identifies the frame: numbers 0, 2, 4 are the centres of three
                // segments of five.
                for (frame, number) in [0.0f32, 2.0, 4.0].into_iter().enumerate() {
                    let green = values[(frame * 3 + 1) * 256 + 100] * CLIP_STD[1] + CLIP_MEAN[1];
                    assert!(
                        (green * 255.0 - number * 50.0).abs() < 4.0,
                        "{id} frame {frame}: {}",
                        green * 255.0
                    );
                }
            }
        }
    }
}

#[test]
fn shares_of_a_batch_make_up_the_whole() {
    let (_folder, shards) = written(38, 9, 3);
    let whole = all(&shards, config(1), 1, 0);
    // The last batch has two samples, fewer than there are readers.
    for count in [2, 3, 5] {
        let readers = (0..count).map(|rank| {
            let share = Share { rank, count };
            let options = LoaderOptions { share, ..config(2) };
            (share, all(&shards, options, 1, 0))
        });
        for (share, batches) in readers {
            assert_eq!(batches.len(), whole.len());
            for (part, whole) in batches.iter().zip(&whole) {
                let own: Vec<usize> = share.range(whole.ids.len()).collect();
                let inputs = [0, 1].map(|m| whole.inputs[m].as_ref()?.pick(&own));
                let expected = Batch {
                    inputs,
                    ..whole.clone()
                };
                assert_eq!(format!("{part:?}"), format!("{expected:?}"), "{share:?}");
            }
        }
    }
    let share = Share { rank: 2, count: 2 };
    let options = LoaderOptions { share, ..config(1) };
    let error = Loader::new(&shards, options, 0, 0).err().unwrap();
    assert!(error.to_string().contains("number 2 of 2"), "{error}");
}

#[test]
fn a_reader_reads_no_sample_outside_its_share() {
    let (folder, shards) = written(8, 4, 4);
    // One batch of two shards; what a reader opens of the second is missed.
    std::fs::remove_file(folder.path().join("train-00001-of-00002.parquet")).unwrap();
    let batch = |rank| {
        let options = LoaderOptions {
            shuffle: false,
            batch_size: 8,
            share: Share { rank, count: 2 },
            ..config(1)
        };
        let mut loader = Loader::new(&shards, options, 0, 0).unwrap();
        loader.next().unwrap()
    };
    assert_eq!(batch(0).unwrap().ids.len(), 8);
    assert!(batch(1).is_err());
}

#[test]
fn half_precision_mels_are_close() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 6, 6, 6, MelDtype::F16);
    let half = Arc::new(Shards::open(&folder.path().into()).unwrap());
    let (_full_folder, full) = written(6, 6, 6);
    let mel = |shards| match all(
        shards,
        LoaderOptions {
            shuffle: false,
            ..config(1)
        },
        0,
        0,
    )
    .remove(0)
    .inputs[0]
        .take()
        .unwrap()
        .data
    {
        ModalityData::Dense { values, .. } => values,
        other => panic!("{other:?}"),
    };
    let (a, b) = (mel(&half), mel(&full));
    assert_eq!(a.len(), b.len());
    // Half precision keeps 11 bits.
    assert!(
        a.iter()
            .zip(&b)
            .all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs().max(1.0))
    );
}

#[test]
fn mask_hides_modalities_and_shows_no_absent_ones() {
    let (_folder, shards) = written(20, 20, 20);
    let hidden = Arc::new(
        (0..20)
            .map(|i| {
                if i % 2 == 0 {
                    [false, true]
                } else {
                    [true, true]
                }
            })
            .collect::<Vec<_>>(),
    );
    let masked = LoaderOptions {
        shuffle: false,
        present: Some(hidden),
        ..config(2)
    };
    for batch in all(&shards, masked, 0, 0) {
        for (id, present) in batch.ids.iter().zip(&batch.present) {
            let i: usize = id[4..].parse().unwrap();
            let there = row(i).contents.map(|content| content.is_some());
            assert_eq!(*present, [there[0] && i % 2 == 1, there[1]], "{id}");
        }
    }
}

#[test]
fn one_byte_budget_still_gives_every_batch() {
    let (_folder, shards) = written(38, 10, 4);
    let tight = LoaderOptions {
        byte_budget: 1,
        ..config(4)
    };
    assert!(debug_text(&all(&shards, tight, 0, 0)) == debug_text(&all(&shards, config(1), 0, 0)));
}

#[test]
fn the_byte_budget_bounds_prefetched_batches() {
    let (_folder, shards) = written(38, 10, 4);
    // The bytes of a batch of `config`: 4 samples of 8 mel frames and of 3 frames of 16 x 16
    // pixels.
    let batch = 4 * (8 * 128 + 3 * 3 * 16 * 16) * 4;
    let fits = |batches| LoaderOptions {
        byte_budget: batches * batch,
        ..config(5)
    };
    for batches in [1, 2, 4] {
        let mut loader = Loader::new(&shards, fits(batches), 0, 0).unwrap();
        let mut most = 0;
        while loader.next().is_some() {
            // Time for the threads to prefetch as much as they may.
            std::thread::sleep(std::time::Duration::from_millis(15));
            most = most.max(loader.prefetched());
        }
        assert!(most <= batches, "{most} batches wait where {batches} fit");
    }
}

#[test]
fn dropping_a_loader_ends_its_threads() {
    let (_folder, shards) = written(38, 10, 4);
    let mut loader = Loader::new(&shards, config(4), 0, 0).unwrap();
    loader.next().unwrap().unwrap();
    drop(loader);
    assert_eq!(
        Arc::strong_count(&shards),
        1,
        "a thread still holds the shards"
    );
}

#[test]
fn unreadable_shards_are_named() {
    let refused = |spoil: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 12, 4, 4, MelDtype::F32);
        spoil(folder.path());
        match Shards::open(&folder.path().into()) {
            Ok(_) => panic!("opened"),
            Err(error) => error.to_string(),
        }
    };
    let missing =
        refused(&|f| std::fs::remove_file(f.join("train-00001-of-00003.parquet")).unwrap());
    assert!(
        missing.contains("train-00001-of-00003.parquet is missing"),
        "{missing}"
    );
    let cut = refused(&|f| {
        let path = f.join("train-00002-of-00003.parquet");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    });
    assert!(
        cut.contains("train-00002-of-00003.parquet") && cut.contains("--overwrite"),
        "{cut}"
    );
    let two_runs = refused(&|f| {
        std::fs::copy(
            f.join("train-00000-of-00003.parquet"),
            f.join("train-00000-of-00002.parquet"),
        )
        .unwrap();
    });
    assert!(two_runs.contains("two runs"), "{two_runs}");
    let mixed = refused(&|f| {
        let path = f.join("train-00001-of-00003.parquet");
        let other = ShardSpec {
            dataset: "another".into(),
            ..spec(MelDtype::F32)
        };
        let mut writer =
            ArrowWriter::try_new(File::create(path).unwrap(), other.arrow_schema(), None).unwrap();
        writer
            .write(&record_batch(&other, &[row(1)]).unwrap())
            .unwrap();
        writer.close().unwrap();
    });
    assert!(mixed.contains("train-00001-of-00003.parquet"), "{mixed}");
    let empty = tempfile::tempdir().unwrap();
    assert!(
        Shards::open(&empty.path().into())
            .err()
            .unwrap()
            .to_string()
            .contains("holds no shards")
    );
}

#[test]
fn damage_found_while_loading_ends_the_epoch_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 12, 12, 12, MelDtype::F32);
    let path = folder.path().join("train-00000-of-00001.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    // The first page of the first media column lies well before the footer.
    let from = bytes.len() / 4;
    bytes[from..from + 2000].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let shards =
        Shards::open(&folder.path().into()).expect("opening reads no page of a media column");
    let mut loader = Loader::new(&Arc::new(shards), config(2), 0, 0).unwrap();
    let failed = loader.by_ref().any(|b| b.is_err());
    assert!(failed, "damaged pages went unnoticed");
    assert!(loader.next().is_none(), "nothing comes after an error");
}
