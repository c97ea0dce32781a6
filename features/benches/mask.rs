//! Measures how fast a mask of `COUNT` samples is drawn and written, for `tests/bench/bench.py`:
//! for each line of input it does one unit of work and prints one line of JSON. `mask COUNT`; the
//! samples have text only, and opening their shards is part of the work. Items: samples.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use datasets::{Modality, Split};
use features::mask::{Mask, Protocol};
use features::{MelDtype, Row, RowContent, ShardSpec, Shards, record_batch, writer_properties};
use parquet::arrow::ArrowWriter;
use std::fs::File;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

const ROWS_PER_SHARD: usize = 1000;

fn write(folder: &Path, count: usize) {
    let spec = ShardSpec {
        dataset: "bench".into(),
        modalities: [Modality::Image, Modality::Text].into(),
        classes: vec!["one".into()],
        multi_label: false,
        mel_dtype: MelDtype::F32,
        frame_pool: 10,
        segment: false,
        tool_version: "0".into(),
        settings_hash: "0".into(),
    };
    let shards = count.div_ceil(ROWS_PER_SHARD);
    for shard in 0..shards {
        let name = format!("train-{shard:05}-of-{shards:05}.parquet");
        let file = File::create(folder.join(name)).unwrap();
        let schema = spec.arrow_schema();
        let mut writer =
            ArrowWriter::try_new(file, schema, Some(writer_properties(&spec))).unwrap();
        let numbers = shard * ROWS_PER_SHARD..count.min((shard + 1) * ROWS_PER_SHARD);
        let rows: Vec<Row> = numbers
            .map(|number| {
                let mut row = Row::new(format!("sample-{number}"), Split::Train, vec![0]);
                row.contents[1] = Some(RowContent::Text("words".into()));
                row
            })
            .collect();
        writer.write(&record_batch(&spec, &rows).unwrap()).unwrap();
        writer.close().unwrap();
    }
}

fn main() {
    let count: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), count);
    println!("{{\"ready\": true}}");
    for _ in std::io::stdin().lock().lines() {
        let start = Instant::now();
        let shards = Shards::open(&folder.path().into()).unwrap();
        let mask = Mask::draw(&shards, Protocol::MissingBoth, 0.5, 0).unwrap();
        let path = Mask::path_in(folder.path(), Protocol::MissingBoth, 0.5, 0);
        mask.write(&path).unwrap();
        println!(
            "{{\"seconds\": {}, \"items\": {count}, \"peak_mb\": 0}}",
            start.elapsed().as_secs_f64()
        );
    }
}
