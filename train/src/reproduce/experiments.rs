//! What each table and figure of the paper needs: which runs, tested how, beside which figures.

use super::paper::{Figure, PaperTable};
use crate::evaluation::{EvalOptions, main_metric};
use anyhow::{Result, bail};
use datasets::{Info, Modality};
use features::mask::{Protocol, RATE};
use model::u2a::MissingToken;
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

const COMPLETE: Testing = Testing {
    protocol: None,
    missing: None,
    token: None,
};

impl Testing {
    fn without(modality: Modality) -> Testing {
        Testing {
            missing: Some(modality),
            ..COMPLETE
        }
    }

    fn under(protocol: Protocol, rate: f64) -> Testing {
        Testing {
            protocol: Some((protocol.to_string(), rate)),
            ..COMPLETE
        }
    }

    /// The evaluation of a run of this seed that was trained with `token`.
    pub fn options(&self, seed: u64, token: MissingToken) -> EvalOptions {
        EvalOptions {
            mask: self.protocol.clone().map(|(p, rate)| (p, rate, seed)),
            missing: self.missing,
            missing_token: match self.token {
                Some("zeros") => MissingToken::Zeros,
                Some(_) => MissingToken::Mask,
                None => token,
            },
            ..EvalOptions::default()
        }
    }
}

impl Training {
    fn new(method: &'static str, settings: &[&str]) -> Training {
        Training {
            method,
            settings: settings.iter().map(ToString::to_string).collect(),
        }
    }

    fn u2a() -> Training {
        Training::new("U2A", &[])
    }

    fn masked(protocol: Protocol) -> Training {
        let settings = [
            format!("train_mask={protocol}"),
            format!("train_mask_rate={RATE:?}"),
        ];
        Training {
            method: "U2A",
            settings: settings.to_vec(),
        }
    }
}

/// The paper's fusion and modulation baselines, on the same encoders: no mask tokens, no alignment,
/// no modality dropout.
fn baselines() -> Vec<Training> {
    const PLAIN: [&str; 3] = [
        "align_weight=0.0",
        "modality_dropout=false",
        "missing_token=zeros",
    ];
    [
        ("FiLM", "fusion=film", None),
        ("BiGated", "fusion=gated-bilinear", None),
        ("OGM-GE", "fusion=concat", Some("modulation=ogm-ge")),
    ]
    .into_iter()
    .map(|(name, fusion, more)| {
        let settings: Vec<&str> = PLAIN.into_iter().chain([fusion]).chain(more).collect();
        Training::new(name, &settings)
    })
    .collect()
}

fn ablations() -> Vec<Training> {
    vec![
        Training::u2a(),
        Training::new("zeros for the missing token", &["missing_token=zeros"]),
        Training::new("missing input as zeros", &["missing_token=input"]),
        Training::new("no alignment loss", &["align_weight=0.0"]),
        Training::new("no modality dropout", &["modality_dropout=false"]),
        Training::new("head only", &["adapt=head"]),
    ]
}

impl Artefact {
    /// The name on the command line.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The paper's datasets for it.
    pub fn datasets(self) -> &'static [&'static str] {
        match self {
            Artefact::Table1 | Artefact::Table3 | Artefact::Table6 | Artefact::Figure2 => {
                &["food-101", "mm-imdb"]
            }
            Artefact::Table2 => &["kinetics-sound", "ave", "crema-d"],
            Artefact::Table4 => &["crema-d", "kinetics-sound", "food-101"],
            Artefact::Table5 => &[],
            Artefact::Figure3 | Artefact::Figure4 | Artefact::Figure5 => &["mm-imdb"],
            Artefact::Figure6 => &["food-101"],
            Artefact::Ablation => &["crema-d"],
        }
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

    /// The lines of one dataset.
    pub fn lines(self, info: &Info) -> Result<Vec<Line>> {
        let [m1, m2] = info.modalities;
        let main = main_metric(info.multi_label);
        let both = format!("{m1} + {m2}");
        let line = |training: &Training, testing: Testing, tested_on: &str| Line {
            dataset: info.name.clone(),
            trained_on: both.clone(),
            tested_on: tested_on.to_string(),
            training: training.clone(),
            testing,
            metric: main,
            share: None,
            paper: Vec::new(),
        };
        let whole = |training: &Training| {
            [
                line(training, Testing::without(m2), &format!("{m1} only")),
                line(training, Testing::without(m1), &format!("{m2} only")),
                line(training, COMPLETE, &both),
            ]
        };
        let with_baselines = || std::iter::once(Training::u2a()).chain(baselines());
        Ok(match self {
            Artefact::Table1 => {
                let table = PaperTable::open(1)?;
                let metrics: &[&'static str] = if info.multi_label {
                    &["f1_macro", "f1_micro"]
                } else {
                    &["accuracy"]
                };
                let name = info.name.replace("food-101", "food101").replace('-', "_");
                metrics
                    .iter()
                    .map(|metric| Line {
                        metric,
                        paper: table.by_row(&format!("{name}_{metric}")),
                        ..line(&Training::u2a(), COMPLETE, &both)
                    })
                    .collect()
            }
            Artefact::Table2 => {
                let column = format!("{}_accuracy", info.name.replace('-', "_"));
                let paper = PaperTable::open(2)?.by_row(&column);
                with_baselines()
                    .map(|training| Line {
                        paper: paper.clone(),
                        ..line(&training, COMPLETE, &both)
                    })
                    .collect()
            }
            Artefact::Table3 | Artefact::Table6 => self.protocols(info, &line)?,
            Artefact::Table4 => {
                let table = PaperTable::open(4)?;
                let mut lines: Vec<Line> = with_baselines().flat_map(|t| whole(&t)).collect();
                for line in &mut lines {
                    let available = line.tested_on.replace(" only", "").replace(" + ", "+");
                    let wanted = [("dataset", info.name.as_str()), ("available", &available)];
                    line.paper = table.by_column(&wanted);
                }
                lines
            }
            Artefact::Table5 => Vec::new(),
            Artefact::Figure2 => (1..=10)
                .map(|tenth| {
                    let share = f64::from(tenth) / 10.0;
                    let rate = f64::from(10 - tenth) / 10.0;
                    let testing = Testing::under(Protocol::Missing(m2), rate);
                    let words = format!("100 % {m1}, {} % {m2}", 10 * tenth);
                    Line {
                        share: Some(share),
                        ..line(&Training::u2a(), testing, &words)
                    }
                })
                .collect(),
            Artefact::Figure3 => [m2, m1]
                .into_iter()
                .flat_map(|gone| {
                    let kept = if gone == m2 { m1 } else { m2 };
                    ["mask", "zeros"].map(|token| {
                        let testing = Testing {
                            token: Some(token),
                            ..Testing::without(gone)
                        };
                        let words = match token {
                            "mask" => format!("{kept} only, with mask token"),
                            _ => format!("{kept} only, without"),
                        };
                        line(&Training::u2a(), testing, &words)
                    })
                })
                .collect(),
            Artefact::Figure4 => vec![line(&Training::u2a(), COMPLETE, &both)],
            Artefact::Figure5 | Artefact::Figure6 => {
                let [first, second, all] = whole(&Training::u2a());
                vec![all, first, second]
            }
            Artefact::Ablation => ablations().iter().flat_map(whole).collect(),
        })
    }

    /// Tables 3 and 6: trained under each protocol, tested under the same one or under each.
    fn protocols(
        self,
        info: &Info,
        line: &dyn Fn(&Training, Testing, &str) -> Line,
    ) -> Result<Vec<Line>> {
        let table = PaperTable::open(if self == Artefact::Table3 { 3 } else { 6 })?;
        let [m1, m2] = info.modalities;
        // In the paper's order: the first modality scarce, both, the second.
        let protocols = [
            Protocol::Missing(m1),
            Protocol::MissingBoth,
            Protocol::Missing(m2),
        ];
        let percent = |protocol: Protocol| -> Result<[String; 2]> {
            let (one, both) = (100.0 * (1.0 - RATE), 100.0 * (1.0 - RATE / 2.0));
            let share = match protocol {
                Protocol::MissingBoth => [both, both],
                Protocol::Missing(m) if m == m1 => [one, 100.0],
                Protocol::Missing(m) if m == m2 => [100.0, one],
                Protocol::Missing(m) => bail!("{m} is none of {m1} and {m2}"),
            };
            Ok(share.map(|v| format!("{v:.0}")))
        };
        let words = |[a, b]: &[String; 2]| format!("{a} % {m1}, {b} % {m2}");
        let mut lines = Vec::new();
        for train in protocols {
            for test in protocols {
                if self == Artefact::Table3 && train != test {
                    continue;
                }
                let (shown, seen) = (percent(train)?, percent(test)?);
                let dataset = ("dataset", info.name.as_str());
                let paper = if self == Artefact::Table3 {
                    table.by_column(&[dataset, ("image_pct", &shown[0]), ("text_pct", &shown[1])])
                } else {
                    table.by_column(&[
                        dataset,
                        ("train_image_pct", &shown[0]),
                        ("train_text_pct", &shown[1]),
                        ("test_image_pct", &seen[0]),
                        ("test_text_pct", &seen[1]),
                    ])
                };
                lines.push(Line {
                    trained_on: words(&shown),
                    paper,
                    ..line(
                        &Training::masked(train),
                        Testing::under(test, RATE),
                        &words(&seen),
                    )
                });
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(artefact: Artefact) -> Vec<Line> {
        artefact
            .datasets()
            .iter()
            .flat_map(|d| artefact.lines(datasets::open(d).unwrap().info()).unwrap())
            .collect()
    }

    /// Every line of a table of the paper finds U2A's figure, and every figure its line.
    #[test]
    fn lines_meet_the_papers_rows() {
        for (artefact, rows) in [
            (Artefact::Table1, 3),
            (Artefact::Table2, 3),
            (Artefact::Table3, 6),
            (Artefact::Table4, 9),
            (Artefact::Table6, 18),
        ] {
            let mut found: Vec<String> = lines(artefact)
                .iter()
                .filter(|line| line.training.method == "U2A")
                .map(|line| {
                    let u2a = line.paper.iter().find(|f| f.method == "u2a");
                    format!("{:?}", u2a.unwrap_or_else(|| panic!("{line:?}")))
                })
                .collect();
            assert_eq!(found.len(), rows, "{artefact:?}");
            found.sort();
            found.dedup();
            assert_eq!(found.len(), rows, "{artefact:?}: a row twice");
        }
    }

    #[test]
    fn figures_ask_for_the_right_tests() {
        let figure2 = lines(Artefact::Figure2);
        assert_eq!(figure2.len(), 20);
        let ten = figure2[0].testing.protocol.clone().unwrap();
        assert_eq!(
            (ten.0.as_str(), ten.1, figure2[0].share),
            ("missing-text", 0.9, Some(0.1))
        );
        let names: Vec<String> = lines(Artefact::Figure3)
            .iter()
            .map(|l| l.testing.options(1, MissingToken::Mask).name())
            .collect();
        let wanted = [
            "test-no-text",
            "test-no-text-zeros",
            "test-no-image",
            "test-no-image-zeros",
        ];
        assert_eq!(names, wanted);
    }
}
