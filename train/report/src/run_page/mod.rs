//! The page about runs: one HTML file that loads nothing from elsewhere. Its figures are drawn by
//! `assets/report.js`; its tables need no script.

mod chapter;
mod classes;
mod confusion;
mod dots;
mod mistakes;
mod number;
mod rates;
mod scores;
mod settings;
mod training;

use crate::run_folder::RunSummary;
use anyhow::{Context, Result};
use chapter::{Chapter, chapters};
use maud::{Markup, html};
use page::Document;
use std::path::Path;

/// Writes a page about runs: scores, training, scores per class, mistakes and settings.
///
/// # Errors
/// The file cannot be written.
pub fn write_page(path: &Path, runs: &[RunSummary]) -> Result<()> {
    util::atomic::write(path, html_page(runs))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// Returns the page's HTML.
fn html_page(runs: &[RunSummary]) -> String {
    let chapters = chapters(runs);
    let datasets: Vec<String> = chapters.iter().map(Chapter::dataset_title).collect();
    let mut methods: Vec<&str> = Vec::new();
    for method in runs.iter().map(|run| run.config.settings.method_title()) {
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    let title = format!("{} on {}", methods.join(", "), datasets.join(", "));
    let body = html! {
        h1 { (title) }
        noscript { p.note { "The figures of this page need JavaScript; its tables do not." } }
        @for chapter in &chapters { (chapter_sections(chapter, chapters.len() > 1)) }
        (settings::section(runs))
    };
    Document {
        title: &title,
        body,
        script: include_str!("../../assets/report.js"),
        style: include_str!("../../assets/report.css"),
    }
    .html()
}

/// All about the runs on one dataset, which is named if there are `several`.
fn chapter_sections(chapter: &Chapter, several: bool) -> Markup {
    html! {
        @if several { h2.dataset { (chapter.dataset_title()) } }
        (scores::section(chapter))
        (rates::section(chapter))
        (training::section(chapter))
        (classes::section(chapter))
        (mistakes::section(chapter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_runs::{TestRun, evaluation};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    /// The part of a page in its body before the scripts.
    fn body(runs: &[RunSummary]) -> String {
        let html = html_page(runs);
        let body = html.split_once("<body>").unwrap().1;
        body.split_once("<script>").unwrap().0.to_string()
    }

    fn evaluated(folder: &TempDir, seed: u64, settings: &str, score: f64) -> RunSummary {
        let step = json!({"step": 1, "loss": 1.0, "task_loss": 0.8, "align_loss": 1.0, "lr": 0.1});
        let run = TestRun {
            seed,
            settings,
            metrics: &[step],
            evaluations: &[
                ("test", evaluation(None, "mask", [score, 0.5])),
                (
                    "test-no-audio",
                    evaluation(Some("audio"), "mask", [0.2, 0.5]),
                ),
                (
                    "test-no-audio-zeros",
                    evaluation(Some("audio"), "zeros", [0.1, 0.5]),
                ),
            ],
            ..TestRun::default()
        };
        run.write(folder.path(), &format!("run {seed} {}", settings.len()))
    }

    /// The data of all figures of a kind.
    fn data(body: &str, kind: &str) -> Vec<Value> {
        let start = format!("data-kind=\"{kind}\"");
        let figures = body.split(&start).skip(1);
        let json = |figure: &str| {
            let text = figure
                .split_once("application/json\">")?
                .1
                .split_once("</script>")?
                .0;
            serde_json::from_str(text).ok()
        };
        figures.filter_map(json).collect()
    }

    #[test]
    fn a_run_without_anything_yet_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let run = TestRun::default().write(folder.path(), "run");
        let body = body(&[run]);
        assert!(body.contains("<h1>U2A on AVE</h1>"), "{body}");
        assert!(body.contains("There are no scores yet: `train eval RUN` makes them."));
        assert!(body.contains("No steps have been logged."));
        assert!(
            !body.contains("<figure") && !body.contains("Mistakes"),
            "{body}"
        );
        assert!(body.contains("layers = 12"), "the configuration");
    }

    #[test]
    fn scores_are_means_over_the_seeds_in_a_table_that_needs_no_script() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [
            evaluated(&folder, 0, "", 0.7),
            evaluated(&folder, 1, "", 0.9),
        ];
        let body = body(&runs);
        // The means of (0.7, 0.9) and 0.5: 0.6 and 0.7, whose deviation is 0.1 / sqrt 2.
        assert!(
            body.contains("<td class=\"number\">65.0 \u{b1} 7.1</td>"),
            "{body}"
        );
        assert!(body.contains("35.0 \u{b1} 0.0") && body.contains("Guessing gives 50.0"));
        assert!(!body.contains("<strong>"), "one row has no best");
        assert!(body.contains("2 runs, seeds 0, 1"));
        // Confusion is summed over the runs: 7 and 9 of 10.
        let matrices = data(&body, "confusion");
        assert_eq!(
            matrices.len(),
            2,
            "video only has no evaluation without audio"
        );
        assert_eq!(matrices[0]["counts"], json!([[16, 4], [10, 10]]));
        assert_eq!(
            data(&body, "curves").len(),
            4,
            "three losses and the learning rate"
        );
        // Scores, and the gain with audio missing; there are no distances.
        let dots = data(&body, "dots");
        assert_eq!(dots.len(), 2);
        assert_eq!(dots[0]["rows"][0]["class"], "a");
        assert_eq!(dots[0]["rows"][0]["values"][0]["mean"], 0.8);
        assert_eq!(dots[1]["series"][0]["name"], "video only");
    }

    #[test]
    fn several_experiments_are_told_apart_and_the_best_is_bold() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [
            evaluated(&folder, 0, "fusion = \"sum\"", 0.7),
            evaluated(&folder, 0, "fusion = \"concat\"", 0.9),
        ];
        let short = body(&runs);
        assert!(short.contains("<strong>70.0</strong>") && !short.contains("<strong>60.0"));
        assert!(short.contains("</i>fusion=concat"), "{short}");
        // Long names become letters, beside which they stand.
        let runs = [
            evaluated(&folder, 0, "fusion = \"sum\"\nmodality_dropout = true", 0.7),
            evaluated(
                &folder,
                0,
                "fusion = \"concat\"\nmodality_dropout = false",
                0.9,
            ),
        ];
        let long = body(&runs);
        assert!(long.contains("</i>B <small>fusion=<wbr>concat, modality_dropout=<wbr>false"));
        let labels: Vec<Value> = data(&long, "curves").remove(0)["curves"]
            .as_array()
            .unwrap()
            .iter()
            .map(|curve| curve["label"].clone())
            .collect();
        assert_eq!(labels, ["A", "B"]);
    }

    #[test]
    fn methods_and_single_inputs_are_named_for_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let [u2a, qmf, alone] = ["", "method = \"qmf\"", "modality = \"video\""]
            .map(|settings| evaluated(&folder, 0, settings, 0.7));
        let one = body(std::slice::from_ref(&qmf));
        assert!(one.contains("<h1>QMF on AVE</h1>"), "{one}");
        assert!(one.contains("A missing modality is left out of the sums of the method."));
        assert!(one.contains("method qmf, trained without a mask"), "{one}");
        let both = body(&[u2a, qmf]);
        assert!(both.contains("<h1>U2A, QMF on AVE</h1>"), "{both}");
        assert!(both.contains("the model has what it was trained with."));
        let alone = body(&[alone]);
        assert!(alone.contains("<th class=\"number\">video</th>"), "{alone}");
        assert!(!alone.contains("In place of") && !alone.contains("fusion,"));
    }

    #[test]
    fn samples_that_keep_the_missing_input_are_noted() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = evaluation(Some("audio"), "mask", [0.2; 2]);
        kept["counts"] = json!({"samples": 12, "kept_for_lack_of_another": 3});
        let run = TestRun {
            evaluations: &[("test-no-audio", kept)],
            ..TestRun::default()
        };
        let body = body(&[run.write(folder.path(), "run")]);
        let note = "Under \u{201c}video only\u{201d}, 3 of 12 samples keep audio, because";
        assert!(body.contains(note), "{body}");
        assert!(!body.contains("samples keep video"));
    }

    #[test]
    fn datasets_are_never_mixed() {
        let folder = tempfile::tempdir().unwrap();
        let own = TestRun {
            dataset: "my <own>",
            multi_label: true,
            evaluations: &[("test", evaluation(None, "mask", [0.3, 0.5]))],
            ..TestRun::default()
        };
        let runs = [
            evaluated(&folder, 0, "", 0.7),
            own.write(folder.path(), "own"),
        ];
        let body = body(&runs);
        assert!(body.contains("<h1>U2A on AVE, my &lt;own&gt;</h1>"));
        assert!(body.contains("<h2 class=\"dataset\">my &lt;own&gt;</h2>"));
        assert!(!body.contains("<strong>") && !body.contains("<own>"));
        let own = body.split_once("<h2 class=\"dataset\">my").unwrap().1;
        assert!(own.contains("macro F1, %") && own.contains("Precision, recall and F1"));
        assert!(!own.contains("data-kind=\"confusion\"") && !own.contains("Guessing"));
    }

    #[test]
    fn names_of_classes_cannot_end_their_element() {
        let folder = tempfile::tempdir().unwrap();
        let body = body(&[evaluated(&folder, 0, "", 0.7)]);
        assert!(!body.contains("b<\"") && !body.contains("b<<"), "{body}");
        assert!(body.contains("b\\u003c") && body.contains("b&lt;"));
    }

    #[test]
    fn the_page_names_no_other_server() {
        let script = include_str!("../../assets/report.js");
        let style = include_str!("../../assets/report.css");
        for text in [script, style] {
            for address in ["http:", "https:", "url(", "@import", "fetch(", "</script"] {
                assert!(!text.contains(address), "{address}");
            }
        }
    }

    #[test]
    fn mistakes_without_their_shards_are_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let run = evaluated(&folder, 0, "", 0.7);
        let prediction = crate::predictions::Prediction {
            id: "clip".into(),
            labels: vec![0],
            present: [true, true],
            logits: vec![0.0, 1.0],
        };
        let path = run.folder.join("predictions-test.parquet");
        crate::predictions::write(&path, run.config.modalities, false, &[prediction]).unwrap();
        let body = body(&[run]);
        let line = body.split_once("No samples are shown: ").unwrap().1;
        let line = line.split_once("</p>").unwrap().0;
        assert!(line.contains("/shards/0") && !line.contains('\n'), "{line}");
        assert!(!body.contains("<article"));
    }
}
