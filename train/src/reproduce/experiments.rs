//! What each table and figure of the paper needs: which runs, tested how, beside which figures.

use crate::evaluation::EvalOptions;
use anyhow::{Result, bail};
use datasets::{Info, Modality};
use features::mask::{Protocol, RATE};
use model::u2a::MissingToken;
use report::artefact::{Artefact, Line, Testing, Training};
use report::main_metric;
use report::paper::PaperTable;

fn without(modality: Modality) -> Testing {
    Testing {
        missing: Some(modality),
        ..Testing::COMPLETE
    }
}

fn under(protocol: Protocol, rate: f64) -> Testing {
    Testing {
        protocol: Some((protocol.to_string(), rate)),
        ..Testing::COMPLETE
    }
}

/// The evaluation of a run of this seed that was trained with `token`.
pub fn eval_options(testing: &Testing, seed: u64, token: MissingToken) -> EvalOptions {
    EvalOptions {
        mask: testing.protocol.clone().map(|(p, rate)| (p, rate, seed)),
        missing: testing.missing,
        missing_token: match testing.token {
            Some("zeros") => MissingToken::Zeros,
            Some(_) => MissingToken::Mask,
            None => token,
        },
        ..EvalOptions::default()
    }
}

fn training(method: &'static str, settings: &[&str]) -> Training {
    Training {
        method,
        settings: settings.iter().map(ToString::to_string).collect(),
    }
}

fn u2a() -> Training {
    training("U2A", &[])
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
        training(name, &settings)
    })
    .collect()
}

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

/// The paper's datasets for it.
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

/// The lines of one dataset.
pub fn lines(artefact: Artefact, info: &Info) -> Result<Vec<Line>> {
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
            line(training, without(m2), &format!("{m1} only")),
            line(training, without(m1), &format!("{m2} only")),
            line(training, Testing::COMPLETE, &both),
        ]
    };
    let with_baselines = || std::iter::once(u2a()).chain(baselines());
    Ok(match artefact {
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
                    ..line(&u2a(), Testing::COMPLETE, &both)
                })
                .collect()
        }
        Artefact::Table2 => {
            let column = format!("{}_accuracy", info.name.replace('-', "_"));
            let paper = PaperTable::open(2)?.by_row(&column);
            with_baselines()
                .map(|training| Line {
                    paper: paper.clone(),
                    ..line(&training, Testing::COMPLETE, &both)
                })
                .collect()
        }
        Artefact::Table3 | Artefact::Table6 => protocols(artefact, info, &line)?,
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
                let testing = under(Protocol::Missing(m2), rate);
                let words = format!("100 % {m1}, {} % {m2}", 10 * tenth);
                Line {
                    share: Some(share),
                    ..line(&u2a(), testing, &words)
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
                        ..without(gone)
                    };
                    let words = match token {
                        "mask" => format!("{kept} only, with mask token"),
                        _ => format!("{kept} only, without"),
                    };
                    line(&u2a(), testing, &words)
                })
            })
            .collect(),
        Artefact::Figure4 => vec![line(&u2a(), Testing::COMPLETE, &both)],
        Artefact::Figure5 | Artefact::Figure6 => {
            let [first, second, all] = whole(&u2a());
            vec![all, first, second]
        }
        Artefact::Ablation => ablations().iter().flat_map(whole).collect(),
    })
}

/// Tables 3 and 6: trained under each protocol, tested under the same one or under each.
fn protocols(
    artefact: Artefact,
    info: &Info,
    line: &dyn Fn(&Training, Testing, &str) -> Line,
) -> Result<Vec<Line>> {
    let table = PaperTable::open(if artefact == Artefact::Table3 { 3 } else { 6 })?;
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
            if artefact == Artefact::Table3 && train != test {
                continue;
            }
            let (shown, seen) = (percent(train)?, percent(test)?);
            let dataset = ("dataset", info.name.as_str());
            let paper = if artefact == Artefact::Table3 {
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
                ..line(&masked(train), under(test, RATE), &words(&seen))
            });
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(artefact: Artefact) -> Vec<Line> {
        datasets(artefact)
            .iter()
            .flat_map(|d| super::lines(artefact, ::datasets::open(d).unwrap().info()).unwrap())
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
            .map(|l| eval_options(&l.testing, 1, MissingToken::Mask).name())
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
