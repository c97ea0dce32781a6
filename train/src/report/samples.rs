//! A few test samples as a reader can judge them: frames, spectrogram, words, truth, and what the
//! model said with everything and with either modality alone.

use super::RunSummary;
use super::embed;
use crate::chart::escape;
use crate::predict::probabilities;
use crate::text::put;
use anyhow::{Context, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type};
use datasets::Split;
use features::Shards;
use features::shards::{Content, RowReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Samples that a page shows.
const SAMPLES: usize = 4;
/// Frames of a video that it shows.
const FRAMES: usize = 3;
/// Characters of a text that it shows.
const WORDS: usize = 500;

/// One row of a `predictions-*.parquet`.
struct Said {
    labels: Vec<usize>,
    logits: Vec<f32>,
}

fn read(path: &Path) -> Result<BTreeMap<String, Said>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut all = BTreeMap::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        let batch = batch?;
        let column = |name: &str| {
            let column = batch.column_by_name(name);
            column.with_context(|| format!("{}: lacks {name}", path.display()))
        };
        let ids = column("id")?.as_string::<i32>();
        let (labels, logits) = (
            column("labels")?.as_list::<i32>(),
            column("logits")?.as_list::<i32>(),
        );
        for row in 0..batch.num_rows() {
            let (label, logit) = (labels.value(row), logits.value(row));
            let label = label.as_primitive::<Int32Type>().values().iter();
            let said = Said {
                labels: label.map(|l| *l as usize).collect(),
                logits: logit.as_primitive::<Float32Type>().values().to_vec(),
            };
            all.insert(ids.value(row).to_string(), said);
        }
    }
    Ok(all)
}

/// The samples of the first run that has predictions on the test split; why not, where there are none.
pub fn section(runs: &[RunSummary]) -> String {
    let made = runs
        .iter()
        .find(|run| run.run.join("predictions-test.parquet").is_file())
        .map(cards);
    match made {
        None => String::new(),
        Some(Ok(html)) => html,
        Some(Err(error)) => format!(
            "<p class=\"note\">No samples: {}.</p>",
            escape(&format!("{error:#}"))
        ),
    }
}

fn cards(run: &RunSummary) -> Result<String> {
    let config = &run.config;
    let [m1, m2] = config.modalities;
    let mut views = vec![(
        "both".to_string(),
        read(&run.run.join("predictions-test.parquet"))?,
    )];
    for (kept, gone) in [(m1, m2), (m2, m1)] {
        let path = run.run.join(format!("predictions-test-no-{gone}.parquet"));
        if path.is_file() {
            views.push((format!("{kept} only"), read(&path)?));
        }
    }
    let shards = Shards::open(&config.shards)?;
    let index = shards.split(Split::Test);
    // One of each class in turn, in file order; of those, samples that have both modalities.
    let mut chosen: Vec<u32> = Vec::new();
    let mut seen = Vec::new();
    for (i, labels) in index.labels.iter().enumerate() {
        let new = labels.iter().any(|l| !seen.contains(l));
        if new && index.present[i] == [true, true] && chosen.len() < SAMPLES {
            seen.extend(labels);
            chosen.push(i as u32);
        }
    }
    let fetched =
        RowReader::new(&shards).fetch(Split::Test, &chosen, &vec![[true, true]; chosen.len()])?;
    let mut html = "<h2>Test samples</h2><div class=\"cards\">".to_string();
    for (sample, row) in chosen.iter().zip(fetched) {
        let id = &index.ids[*sample as usize];
        put!(html, "<article><h3>{}</h3>", escape(id));
        for content in row.contents.iter().flatten() {
            html += &picture(content);
        }
        let class = |c: usize| config.classes.get(c).map_or("?", String::as_str);
        let truth = views[0].1.get(id).map_or(&[][..], |said| &said.labels);
        let names: Vec<&str> = truth.iter().map(|c| class(*c)).collect();
        put!(
            html,
            "<table><tr><th>truth</th><td colspan=\"2\">{}</td></tr>",
            escape(&names.join(", "))
        );
        for (view, all) in &views {
            let Some(said) = all.get(id) else { continue };
            let p = probabilities(&said.logits, config.multi_label);
            let best = crate::metrics::argmax(&said.logits);
            let mark = if truth.contains(&best) {
                "right"
            } else {
                "wrong"
            };
            put!(
                html,
                "<tr><th>{}</th><td class=\"{mark}\">{}</td><td>{:.0} %</td></tr>",
                escape(view),
                escape(class(best)),
                100.0 * p[best]
            );
        }
        html += "</table></article>";
    }
    Ok(html + "</div>")
}

fn picture(content: &Content) -> String {
    match content {
        Content::Mel(mel) => format!(
            "<img class=\"mel\" alt=\"log-mel spectrogram\" src=\"{}\">",
            embed::spectrogram(mel)
        ),
        Content::Pictures(all) => {
            let shown = FRAMES.min(all.len());
            let mut html = "<div class=\"frames\">".to_string();
            for i in 0..shown {
                // The centres of equal parts, as a test sees them.
                let at = (2 * i + 1) * all.len() / (2 * shown);
                put!(
                    html,
                    "<img alt=\"frame {}\" src=\"{}\">",
                    at + 1,
                    embed::jpeg(&all[at])
                );
            }
            html + "</div>"
        }
        Content::Text(text) => {
            let short: String = text.chars().take(WORDS).collect();
            let more = if short.len() < text.len() { " ..." } else { "" };
            format!("<blockquote>{}{more}</blockquote>", escape(&short))
        }
    }
}
