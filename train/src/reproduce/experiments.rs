//! What each table and figure of the paper needs: which runs, how they are tested, and the scores
//! that the paper reports for them.

use crate::evaluation::{EvalOptions, MaskSource};
use anyhow::{Context, Result, bail};
use datasets::{Info, InputName};
use features::mask::{Protocol, RATE};
use model::variant::MissingToken;
use report::artefact::{Artefact, Row, Testing, Training};
use report::main_metric;
use report::paper::PaperTable;

/// Returns the options that evaluate a run of this seed, which was trained with `token`.
pub fn eval_options(testing: &Testing, seed: u64, token: MissingToken) -> EvalOptions {
    EvalOptions {
        mask: testing
            .protocol
            .clone()
            .map(|(source, rate)| MaskSource { source, rate, seed }),
        missing: testing.missing,
        missing_token: match testing.token {
            Some("zeros") => MissingToken::Zeros,
            Some(_) => MissingToken::Mask,
            None => token,
        },
        ..EvalOptions::default()
    }
}

/// Returns what stands in for a missing modality in this training.
pub fn token_of(training: &Training) -> MissingToken {
    let value = |s: &String| s.strip_prefix("missing_token=").map(str::to_string);
    match training.settings.iter().find_map(value).as_deref() {
        Some("zeros") => MissingToken::Zeros,
        Some("input") => MissingToken::Input,
        _ => MissingToken::Mask,
    }
}

/// A method with settings, each as `key=value`.
fn training(method: &'static str, settings: &[&str]) -> Training {
    Training {
        method,
        settings: settings.iter().map(ToString::to_string).collect(),
    }
}

/// U2A as the paper trains it.
fn u2a() -> Training {
    training("U2A", &[])
}

/// Missing-aware prompts (Lee et al. 2023) on the same encoders. `input` and `attention` are the
/// names of the two, which the paper has in Table 3 as `map_input` and `map_attn`, and of which it
/// has the first in Table 6 as `map`.
fn prompts(input: &'static str, attention: &'static str) -> [Training; 2] {
    [(input, "input-prompts"), (attention, "attention-prompts")].map(|(name, adapt)| {
        let adapt = format!("adapt={adapt}");
        training(name, &[&adapt, "missing_token=input"])
    })
}

/// A method, trained under a protocol's mask.
fn trained_with_mask(mut training: Training, protocol: Protocol) -> Training {
    training.settings.extend([
        format!("train_mask={protocol}"),
        format!("train_mask_rate={RATE:?}"),
    ]);
    training
}

/// The settings of what has no mask tokens, alignment loss and modality dropout.
const WITHOUT_U2A: [&str; 3] = [
    "align_weight=0.0",
    "modality_dropout=false",
    "missing_token=zeros",
];

/// A method of the paper's tables on U2A's encoders.
fn baseline(method: &'static str, settings: &[&str]) -> Training {
    training(method, &[&WITHOUT_U2A, settings].concat())
}

/// Returns the paper's fusion and modulation baselines.
fn baselines() -> [Training; 3] {
    [
        baseline("FiLM", &["fusion=film"]),
        baseline("BiGated", &["fusion=gated-bilinear"]),
        baseline("OGM-GE", &["fusion=concat", "modulation=ogm-ge"]),
    ]
}

fn qmf() -> Training {
    baseline("QMF", &["method=qmf"])
}

fn g_blend() -> Training {
    baseline("G-Blend", &["method=g-blend"])
}

fn pmr() -> Training {
    baseline("PMR", &["method=pmr"])
}

fn mla() -> Training {
    baseline("MLA", &["method=mla"])
}

fn mmlora() -> Training {
    baseline("MMLoRA", &["method=mmlora"])
}

/// Returns U2A and U2A without each of its parts.
fn ablations() -> Vec<Training> {
    vec![
        u2a(),
        training("zeros for the missing token", &["missing_token=zeros"]),
        training("missing input as zeros", &["missing_token=input"]),
        training("no alignment loss", &["align_weight=0.0"]),
        training("no modality dropout", &["modality_dropout=false"]),
        training("head only", &["adapt=head"]),
    ]
}

/// Returns the datasets for which the paper has the artefact.
pub fn datasets(artefact: Artefact) -> &'static [&'static str] {
    match artefact {
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

/// Returns the rows of one dataset.
///
/// # Errors
/// The dataset has one modality, or the artefact is Table 3 or 6 and the dataset has none of its
/// protocols.
pub fn rows(artefact: Artefact, info: &Info) -> Result<Vec<Row>> {
    let pair = info.modalities.pair();
    let pair = pair.with_context(|| format!("{}: has one modality", info.name))?;
    let rows = Rows { info, pair };
    Ok(match artefact {
        Artefact::Table1 => rows.table_1()?,
        Artefact::Table2 => rows.table_2()?,
        Artefact::Table3 => rows.same_missing_rate()?,
        Artefact::Table4 => rows.table_4()?,
        Artefact::Table5 => Vec::new(),
        Artefact::Table6 => rows.different_missing_rates()?,
        Artefact::Figure2 => rows.figure_2(),
        Artefact::Figure3 => rows.figure_3(),
        Artefact::Figure4 => vec![rows.complete(&u2a())],
        Artefact::Figure5 | Artefact::Figure6 => {
            let [first, second, both] = rows.with_each_missing(&u2a());
            vec![both, first, second]
        }
        Artefact::Ablation => {
            let ablations = ablations();
            let rows = ablations.iter().flat_map(|t| rows.with_each_missing(t));
            rows.collect()
        }
    })
}

/// Makes the rows of a dataset.
struct Rows<'a> {
    info: &'a Info,
    /// Its two modalities.
    pair: [InputName; 2],
}

impl Rows<'_> {
    /// A row by the dataset's main metric, without scores of the paper.
    fn row(&self, training: &Training, testing: Testing, tested_on: &str) -> Row {
        Row {
            dataset: self.info.name.clone(),
            trained_on: self.both(),
            tested_on: tested_on.to_string(),
            training: training.clone(),
            testing,
            metric: main_metric(self.info.multi_label),
            share: None,
            paper: Vec::new(),
        }
    }

    /// Both modalities, in words.
    fn both(&self) -> String {
        let [m1, m2] = self.pair;
        format!("{m1} + {m2}")
    }

    /// A row tested on the complete test split.
    fn complete(&self, training: &Training) -> Row {
        self.row(training, Testing::COMPLETE, &self.both())
    }

    /// Rows tested with the first modality alone, with the second alone, and with both.
    fn with_each_missing(&self, training: &Training) -> [Row; 3] {
        let [m1, m2] = self.pair;
        [
            self.row(training, Testing::without(m2), &format!("{m1} only")),
            self.row(training, Testing::without(m1), &format!("{m2} only")),
            self.complete(training),
        ]
    }

    fn table_1(&self) -> Result<Vec<Row>> {
        let table = PaperTable::open(1)?;
        let metrics: &[&'static str] = if self.info.multi_label {
            &["f1_macro", "f1_micro"]
        } else {
            &["accuracy"]
        };
        let name = self.info.name.replace("food-101", "food101");
        let name = name.replace('-', "_");
        // MLA is defined for one class per sample.
        let mla = (!self.info.multi_label).then(mla);
        let trainings = [u2a(), mmlora()].into_iter().chain(mla);
        let rows = trainings.flat_map(|training| {
            metrics.iter().map(move |metric| Row {
                metric,
                ..self.complete(&training)
            })
        });
        let rows = rows.map(|row| Row {
            paper: table.scores_in_column(&format!("{name}_{}", row.metric)),
            ..row
        });
        Ok(rows.collect())
    }

    fn table_2(&self) -> Result<Vec<Row>> {
        let column = format!("{}_accuracy", self.info.name.replace('-', "_"));
        let paper = PaperTable::open(2)?.scores_in_column(&column);
        let rows = table_2_methods().into_iter().map(|training| Row {
            paper: paper.clone(),
            ..self.complete(&training)
        });
        Ok(rows.collect())
    }

    fn table_4(&self) -> Result<Vec<Row>> {
        let table = PaperTable::open(4)?;
        let methods = table_4_methods();
        let rows = methods.iter().flat_map(|t| self.with_each_missing(t));
        let mut rows: Vec<Row> = rows.collect();
        for row in &mut rows {
            let available = row.tested_on.replace(" only", "").replace(" + ", "+");
            let wanted = [
                ("dataset", self.info.name.as_str()),
                ("available", &available),
            ];
            row.paper = table.scores_in_row(&wanted);
        }
        Ok(rows)
    }

    /// Table 3: trained and tested under the same protocol.
    fn same_missing_rate(&self) -> Result<Vec<Row>> {
        let table = PaperTable::open(3)?;
        let methods = u2a_and(prompts("MAP input", "MAP attn"));
        let mut rows = Vec::new();
        for protocol in self.protocols() {
            let [image, text] = self.percentages(protocol)?;
            let wanted = [
                ("dataset", self.info.name.as_str()),
                ("image_pct", &image),
                ("text_pct", &text),
            ];
            for method in &methods {
                rows.push(Row {
                    paper: table.scores_in_row(&wanted),
                    ..self.missing_modality_row(method, protocol, protocol)?
                });
            }
        }
        Ok(rows)
    }

    /// Table 6: trained under each protocol, and tested under each.
    fn different_missing_rates(&self) -> Result<Vec<Row>> {
        let table = PaperTable::open(6)?;
        let methods = u2a_and(prompts("MAP", "MAP attn"));
        let mut rows = Vec::new();
        for train in self.protocols() {
            for test in self.protocols() {
                let [train_image, train_text] = self.percentages(train)?;
                let [test_image, test_text] = self.percentages(test)?;
                let wanted = [
                    ("dataset", self.info.name.as_str()),
                    ("train_image_pct", &train_image),
                    ("train_text_pct", &train_text),
                    ("test_image_pct", &test_image),
                    ("test_text_pct", &test_text),
                ];
                for method in &methods {
                    rows.push(Row {
                        paper: table.scores_in_row(&wanted),
                        ..self.missing_modality_row(method, train, test)?
                    });
                }
            }
        }
        Ok(rows)
    }

    /// The paper's protocols in its order: the first modality often missing, both, the second.
    fn protocols(&self) -> [Protocol; 3] {
        let [m1, m2] = self.pair;
        [
            Protocol::Missing(m1),
            Protocol::MissingBoth,
            Protocol::Missing(m2),
        ]
    }

    /// A method, trained under one protocol and tested under another, each at the paper's rate.
    fn missing_modality_row(
        &self,
        method: &Training,
        train: Protocol,
        test: Protocol,
    ) -> Result<Row> {
        let [m1, m2] = self.pair;
        let words = |protocol| -> Result<String> {
            let [first, second] = self.percentages(protocol)?;
            Ok(format!("{first} % {m1}, {second} % {m2}"))
        };
        let testing = Testing::masked(test.to_string(), RATE);
        let training = trained_with_mask(method.clone(), train);
        Ok(Row {
            trained_on: words(train)?,
            ..self.row(&training, testing, &words(test)?)
        })
    }

    /// The percentages of samples that have the first and the second modality under a protocol.
    fn percentages(&self, protocol: Protocol) -> Result<[String; 2]> {
        let [m1, m2] = self.pair;
        let (one, both) = (100.0 * (1.0 - RATE), 100.0 * (1.0 - RATE / 2.0));
        let shares = match protocol {
            Protocol::MissingBoth => [both, both],
            Protocol::Missing(m) if m == m1 => [one, 100.0],
            Protocol::Missing(m) if m == m2 => [100.0, one],
            Protocol::Missing(m) => bail!("{m} is none of {m1} and {m2}"),
        };
        Ok(shares.map(|share| format!("{share:.0}")))
    }

    /// U2A, tested with the second modality in 10 % to 100 % of the samples.
    fn figure_2(&self) -> Vec<Row> {
        let [m1, m2] = self.pair;
        let row = |tenth: u8| {
            let rate = f64::from(10 - tenth) / 10.0;
            let testing = Testing::masked(Protocol::Missing(m2).to_string(), rate);
            let words = format!("100 % {m1}, {} % {m2}", 10 * tenth);
            Row {
                share: Some(f64::from(tenth) / 10.0),
                ..self.row(&u2a(), testing, &words)
            }
        };
        (1..=10).map(row).collect()
    }

    /// U2A, tested with each modality alone, with the mask token and with zeros in its place.
    fn figure_3(&self) -> Vec<Row> {
        let [m1, m2] = self.pair;
        let mut rows = Vec::new();
        for (available, missing) in [(m1, m2), (m2, m1)] {
            for (token, words) in [("mask", "with mask token"), ("zeros", "without")] {
                let testing = Testing {
                    token: Some(token),
                    ..Testing::without(missing)
                };
                rows.push(self.row(&u2a(), testing, &format!("{available} only, {words}")));
            }
        }
        rows
    }
}

/// Returns U2A and other methods.
fn u2a_and(others: impl IntoIterator<Item = Training>) -> Vec<Training> {
    std::iter::once(u2a()).chain(others).collect()
}

/// Returns the methods of Table 2.
fn table_2_methods() -> Vec<Training> {
    let others = [qmf(), pmr(), mla(), mmlora()];
    u2a_and([g_blend()].into_iter().chain(baselines()).chain(others))
}

/// Returns the methods of Table 4.
fn table_4_methods() -> Vec<Training> {
    u2a_and(baselines().into_iter().chain([qmf(), mla()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, SettingsOverrides};

    fn all_rows(artefact: Artefact) -> Vec<Row> {
        datasets(artefact)
            .iter()
            .flat_map(|d| rows(artefact, ::datasets::open(d).unwrap().info()).unwrap())
            .collect()
    }

    /// Each row finds the score that the paper reports for U2A, and no two rows find the same one.
    #[test]
    fn rows_find_the_scores_that_the_paper_reports() {
        for (artefact, count) in [
            (Artefact::Table1, 3),
            (Artefact::Table2, 3),
            (Artefact::Table3, 6),
            (Artefact::Table4, 9),
            (Artefact::Table6, 18),
        ] {
            let mut found: Vec<String> = all_rows(artefact)
                .iter()
                .filter(|row| row.training.method == "U2A")
                .map(|row| {
                    let u2a = row.paper.iter().find(|f| f.method == "u2a");
                    format!("{:?}", u2a.unwrap_or_else(|| panic!("{row:?}")))
                })
                .collect();
            assert_eq!(found.len(), count, "{artefact:?}");
            found.sort();
            found.dedup();
            assert_eq!(found.len(), count, "{artefact:?}: a score twice");
        }
    }

    /// Each row of another method finds the score that the paper reports for it, unless the paper
    /// has none on that dataset, and its settings are accepted.
    #[test]
    fn rows_of_other_methods_find_their_scores() {
        for (artefact, wanted) in [
            (
                Artefact::Table2,
                &["G-Blend", "FiLM", "BiGated", "OGM-GE", "QMF", "PMR"][..],
            ),
            (Artefact::Table4, &["FiLM", "BiGated", "OGM-GE", "QMF"]),
        ] {
            let rows = all_rows(artefact);
            for method in wanted {
                let own = rows.iter().filter(|row| row.training.method == *method);
                let key = method.to_lowercase().replace('-', "_");
                let found = own
                    .clone()
                    .filter(|row| row.paper.iter().any(|s| s.method == key));
                assert!(
                    own.clone().count() >= 3 && found.count() > 0,
                    "{artefact:?} {method}"
                );
                for row in own {
                    let pairs = SettingsOverrides::parse(&row.training.settings).unwrap();
                    let info = ::datasets::open(&row.dataset).unwrap().info().clone();
                    let settings = Settings::resolve(&row.dataset, info.modalities, &pairs);
                    let settings = settings.unwrap();
                    settings
                        .check_data(info.modalities, info.multi_label)
                        .unwrap();
                }
            }
        }
    }

    /// The rows of MLA and MMLoRA, and the scores that the paper reports for them.
    #[test]
    fn alternating_and_two_stage_methods_have_their_rows() {
        for (artefact, method, scores) in [
            (Artefact::Table1, "MLA", &[93.33][..]),
            (Artefact::Table1, "MMLoRA", &[93.7, 61.7, 67.2]),
            (Artefact::Table2, "MLA", &[71.35, 64.68, 79.7]),
            (Artefact::Table2, "MMLoRA", &[91.4, 96.2, 88.6]),
            (
                Artefact::Table4,
                "MLA",
                &[59.27, 64.91, 79.7, 54.67, 51.03, 71.35, 69.6, 86.47, 93.33],
            ),
            (Artefact::Table4, "MMLoRA", &[]),
        ] {
            let rows = all_rows(artefact);
            let of_method = rows.iter().filter(|row| row.training.method == method);
            let found: Vec<f64> = of_method
                .map(|row| {
                    let key = method.to_lowercase();
                    let score = row.paper.iter().find(|score| score.method == key);
                    score.unwrap_or_else(|| panic!("{row:?}")).value
                })
                .collect();
            assert_eq!(found, scores, "{artefact:?} {method}");
        }
    }

    /// Rows of missing-aware prompts find the scores of Lee et al. in the paper's tables, train
    /// with settings that exist, and are evaluated with empty inputs.
    #[test]
    fn prompts_have_their_rows_in_tables_3_and_6() {
        for (artefact, name, key, scores) in [
            (Artefact::Table3, "MAP input", "map_input", 6),
            (Artefact::Table3, "MAP attn", "map_attn", 6),
            (Artefact::Table6, "MAP", "map", 18),
        ] {
            let rows = all_rows(artefact).into_iter();
            let rows: Vec<Row> = rows.filter(|row| row.training.method == name).collect();
            assert_eq!(rows.len(), scores, "{name}");
            for row in &rows {
                assert!(row.paper.iter().any(|score| score.method == key), "{row:?}");
                assert_eq!(token_of(&row.training), MissingToken::Input);
                let name = eval_options(&row.testing, 0, MissingToken::Input).name();
                assert!(name.ends_with("-input"), "{name}");
                let overrides = SettingsOverrides::parse(&row.training.settings).unwrap();
                let info = ::datasets::open(&row.dataset).unwrap();
                let modalities = info.info().modalities;
                Settings::resolve(&row.dataset, modalities, &overrides).unwrap();
            }
        }
        let attention = all_rows(Artefact::Table6).into_iter();
        let attention = attention.filter(|row| row.training.method == "MAP attn");
        assert_eq!(attention.count(), 18, "without a score in the paper");
    }

    #[test]
    fn figures_2_and_3_have_the_right_evaluations() {
        let figure2 = all_rows(Artefact::Figure2);
        assert_eq!(figure2.len(), 20);
        let ten = figure2[0].testing.protocol.clone().unwrap();
        assert_eq!(
            (ten.0.as_str(), ten.1, figure2[0].share),
            ("missing-text", 0.9, Some(0.1))
        );
        let names: Vec<String> = all_rows(Artefact::Figure3)
            .iter()
            .map(|row| eval_options(&row.testing, 1, MissingToken::Mask).name())
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
