//! The tables and figures of the paper, and the rows that they consist of.

use crate::paper::PaperScore;
use datasets::InputName;
use serde::Serialize;

/// A table or figure of the paper, or the ablation of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[clap(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Artefact {
    /// Both modalities, image and text
    Table1,
    /// Both modalities, audio and video
    Table2,
    /// The same missing rate in training and test
    Table3,
    /// One modality missing at test time
    Table4,
    /// Hyperparameters
    Table5,
    /// Different missing rates in training and test
    Table6,
    /// Score by the share of the second modality at test time
    Figure2,
    /// Scores per class with and without mask tokens
    Figure3,
    /// Distances per class of mask tokens from the class tokens that they stand for
    Figure4,
    /// Scores per class with both modalities and with each alone
    Figure5,
    /// Figure 5 for another dataset
    Figure6,
    /// U2A without each of its parts
    Ablation,
}

impl Artefact {
    /// Returns the name on the command line.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Returns the title of the page.
    pub fn title(self) -> &'static str {
        match self {
            Artefact::Table1 => "Table 1: both modalities in training and test, image and text",
            Artefact::Table2 => "Table 2: both modalities in training and test, audio and video",
            Artefact::Table3 => "Table 3: the same missing rate in training and test",
            Artefact::Table4 => "Table 4: one modality missing at test time",
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

    /// Whether the paper prints it as a figure, without numbers.
    pub(crate) fn is_figure(self) -> bool {
        matches!(
            self,
            Artefact::Figure2
                | Artefact::Figure3
                | Artefact::Figure4
                | Artefact::Figure5
                | Artefact::Figure6
        )
    }
}

/// How a run is trained, apart from its dataset and its seed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Training {
    /// The name of the method on the page.
    pub method: &'static str,
    /// The settings, each as `key=value`.
    pub settings: Vec<String>,
}

/// How a run is tested.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Testing {
    /// The protocol of a missing-modality mask, and its rate.
    pub protocol: Option<(String, f64)>,
    /// The input that is missing in all samples.
    pub missing: Option<InputName>,
    /// What stands in for a missing modality; `None` is the same as in training.
    pub token: Option<&'static str>,
}

impl Testing {
    /// The complete test split.
    pub const COMPLETE: Testing = Testing {
        protocol: None,
        missing: None,
        token: None,
    };

    /// Returns the test split with an input missing in all samples.
    pub fn without(input: InputName) -> Testing {
        Testing {
            missing: Some(input),
            ..Testing::COMPLETE
        }
    }

    /// Returns the test split under a protocol's mask.
    pub fn masked(protocol: String, rate: f64) -> Testing {
        Testing {
            protocol: Some((protocol, rate)),
            ..Testing::COMPLETE
        }
    }
}

/// One row of a table: a method, trained and tested one way, by one metric.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The name of the dataset.
    pub dataset: String,
    /// The modalities of the training split, in words.
    pub trained_on: String,
    /// The modalities of the test split, in words.
    pub tested_on: String,
    /// How the runs are trained.
    pub training: Training,
    /// How the runs are tested.
    pub testing: Testing,
    /// The metric, by its name in `eval-NAME.json`.
    pub metric: &'static str,
    /// The share of the second modality at test time (Figure 2).
    pub share: Option<f64>,
    /// The scores that the paper reports under the same conditions.
    pub paper: Vec<PaperScore>,
}
