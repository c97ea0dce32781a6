//! The tables and figures of the paper, and the lines that they consist of.

use crate::paper::Figure;
use datasets::Modality;
use serde::Serialize;

/// A table or figure of the paper, or the ablation of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[clap(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Artefact {
    /// Both modalities, image-text.
    Table1,
    /// Both modalities, audio-video.
    Table2,
    /// The same missing rate in training and test.
    Table3,
    /// A whole modality gone at test time.
    Table4,
    /// Hyperparameters.
    Table5,
    /// Different missing rates in training and test.
    Table6,
    /// Score against the share of the second modality at test time.
    Figure2,
    /// Per class with and without mask tokens.
    Figure3,
    /// Per class distance of mask tokens from the tokens they stand for.
    Figure4,
    /// Per class with both modalities and with each alone.
    Figure5,
    /// The same for another dataset.
    Figure6,
    /// U2A without each of its parts.
    Ablation,
}

/// How a run is trained, beside dataset and seed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Training {
    /// The method's name on the page.
    pub method: &'static str,
    /// Settings as `key=value`.
    pub settings: Vec<String>,
}

/// How a run is tested.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Testing {
    /// A protocol and its rate.
    pub protocol: Option<(String, f64)>,
    /// A modality gone from every sample.
    pub missing: Option<Modality>,
    /// What stands in; none: as in training.
    pub token: Option<&'static str>,
}

/// One line of a table: a run, tested one way, by one metric.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Dataset.
    pub dataset: String,
    /// What the training set shows, in words.
    pub trained_on: String,
    /// What the test set shows, in words.
    pub tested_on: String,
    /// How the run is trained.
    pub training: Training,
    /// How it is tested.
    pub testing: Testing,
    /// Metric, by its name in `eval-*.json`.
    pub metric: &'static str,
    /// The share of the second modality at test time (Figure 2).
    pub share: Option<f64>,
    /// The paper's figures under the same conditions.
    pub paper: Vec<Figure>,
}

impl Testing {
    /// The complete test split.
    pub const COMPLETE: Testing = Testing {
        protocol: None,
        missing: None,
        token: None,
    };
}

impl Artefact {
    /// The name on the command line.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Artefact::Table1 => "Table 1: both modalities in training and test, image and text",
            Artefact::Table2 => "Table 2: both modalities in training and test, audio and video",
            Artefact::Table3 => "Table 3: the same missing rate in training and test",
            Artefact::Table4 => "Table 4: a whole modality gone at test time",
            Artefact::Table5 => "Table 5: hyperparameters",
            Artefact::Table6 => "Table 6: different missing rates in training and test",
            Artefact::Figure2 => "Figure 2: score by the share of the second modality at test time",
            Artefact::Figure3 => "Figure 3: per class, with and without mask tokens",
            Artefact::Figure4 => "Figure 4: per class distance between real and estimated tokens",
            Artefact::Figure5 => "Figure 5: per class, with both modalities and with each alone",
            Artefact::Figure6 => "Figure 6: per class, with both modalities and with each alone",
            Artefact::Ablation => "Ablation: U2A without each of its parts",
        }
    }
}
