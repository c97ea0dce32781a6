//! The pages of Table 5: our default settings beside the paper's.

use super::Pages;
use crate::artefact::Artefact;
use crate::paper::PaperTable;
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Writes the pages of Table 5 into `folder` and returns their paths, the Markdown first.
///
/// `image_text` and `audio_video` are the default settings of a dataset of each kind, as JSON
/// objects with the names that `config.toml` uses.
///
/// # Errors
/// A page cannot be written.
pub fn write_hyperparameters(
    folder: &Path,
    image_text: &Value,
    audio_video: &Value,
) -> Result<Vec<PathBuf>> {
    let title = Artefact::Table5.title();
    let mut markdown = format!(
        "# {title}\n\n| setting | image-text | paper | audio-video | paper |\n\
         |---|---:|---:|---:|---:|\n"
    );
    let mut csv = "setting,image_text,image_text_paper,audio_video,audio_video_paper\n".to_string();
    let mut rows = Vec::new();
    for row in PaperTable::open(5)?.rows() {
        let [(_, key), (_, paper_image_text), (_, paper_audio_video)] = row[..] else {
            continue;
        };
        let (ours_image_text, ours_audio_video) = (&image_text[key], &audio_video[key]);
        writeln!(
            markdown,
            "| {key} | {ours_image_text} | {paper_image_text} \
             | {ours_audio_video} | {paper_audio_video} |"
        )?;
        writeln!(
            csv,
            "{key},{ours_image_text},{paper_image_text},{ours_audio_video},{paper_audio_video}"
        )?;
        rows.push(json!({
            "setting": key,
            "image_text": ours_image_text,
            "image_text_paper": paper_image_text,
            "audio_video": ours_audio_video,
            "audio_video_paper": paper_audio_video,
        }));
    }
    let json = json!({"artefact": "table5", "title": title, "rows": rows});
    let mut pages = Pages::create(folder)?;
    pages.write("table5.md".to_string(), markdown)?;
    pages.write("table5.csv".to_string(), csv)?;
    pages.write("table5.json".to_string(), format!("{json:#}\n"))?;
    Ok(pages.paths)
}
