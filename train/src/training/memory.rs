//! How much memory a training step takes, and how to take less: for `--memory-limit`.

use crate::settings::Settings;
use anyhow::{Result, bail};
use datasets::Modality;
use model::encoder::StoredActivations;
use model::encoder::config::{EncoderConfig, InputSize, Kind};

/// What is not counted: the head, optimiser, tables, what allocators and libraries keep for themselves.
const SLACK: u64 = 400_000_000;

/// One way to take a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// What the forward pass keeps.
    pub keep: StoredActivations,
    /// Samples at once.
    pub at_once: usize,
}

/// Bytes of a training step at its fullest: frozen weights, both encoders' tapes, the buffers of one
/// block, the inputs. `bytes` is the size of a number.
pub fn of_step(
    encoders: &[EncoderConfig; 2],
    modalities: [Modality; 2],
    settings: &Settings,
    bytes: u64,
    way: Way,
) -> u64 {
    let (mut weights, mut tapes, mut buffers, mut inputs) = (0, 0, 0u64, 0);
    for (config, modality) in encoders.iter().zip(modalities) {
        let elements: usize = config
            .specs()
            .iter()
            .map(|s| s.shape.iter().product::<usize>())
            .sum();
        weights += elements as u64 * bytes;
        let (tokens, each, numbers) = match config.input {
            InputSize::Image { size, .. } => {
                let frames = if modality == Modality::Video {
                    settings.frames
                } else {
                    1
                };
                (config.patches() + 2, frames, 3 * size * size)
            }
            InputSize::Mel { frames, bins, .. } => (config.patches() + 3, 1, frames * bins),
            InputSize::Text { .. } => (settings.text_length + 1, 1, settings.text_length),
        };
        let sequences = (way.at_once * each) as u64;
        let (rows, d, m) = (
            sequences * tokens as u64,
            config.hidden as u64,
            config.intermediate as u64,
        );
        // Input, stacked projections, attention's output, first sum, what the activation reads; BERT's
        // second sum.
        let sums = if config.kind == Kind::Bert { 2 } else { 1 };
        let block = rows * bytes * (d + 3 * d + d + sums * d + m);
        let layers = config.layers as u64;
        tapes += match way.keep {
            StoredActivations::All => layers * block,
            StoredActivations::Inputs => layers * rows * bytes * d + block,
        };
        // The activation's output and the gradients on both sides of it; those of the projections.
        buffers = buffers.max(rows * bytes * (3 * m).max(m + 6 * d));
        inputs += sequences * numbers as u64 * (4 + bytes);
    }
    weights + tapes + buffers + inputs + SLACK
}

/// The fastest way that stays below `limit` bytes: all kept, inputs kept, then ever smaller parts of the
/// batch. What the settings fix stays.
pub fn choose(
    encoders: &[EncoderConfig; 2],
    modalities: [Modality; 2],
    settings: &Settings,
    bytes: u64,
    limit: u64,
) -> Result<(Way, u64)> {
    let keeps = match settings.keep {
        StoredActivations::All => vec![StoredActivations::All, StoredActivations::Inputs],
        StoredActivations::Inputs => vec![StoredActivations::Inputs],
    };
    let most = settings
        .micro_batch
        .unwrap_or(settings.batch_size)
        .min(settings.batch_size);
    let mut at_once = most;
    let mut least = u64::MAX;
    loop {
        for keep in &keeps {
            let way = Way {
                keep: *keep,
                at_once,
            };
            let takes = of_step(encoders, modalities, settings, bytes, way);
            if takes <= limit {
                return Ok((way, takes));
            }
            least = least.min(takes);
        }
        if at_once == 1 {
            bail!(
                "--memory-limit: a single sample at once takes about {:.1} GB; allow that much, or take --precision bf16 on a GPU",
                least as f64 / 1e9
            );
        }
        at_once = at_once.div_ceil(2);
    }
}

/// Reads `11GB`, `900MB`, `8GiB` or a number of bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "mib" => 1024f64.powi(2),
        "gib" => 1024f64.powi(3),
        other => return Err(format!("{other} is no unit; write 11GB, 900MB or 8GiB")),
    };
    match digits.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok((number * unit) as u64),
        _ => Err("write a size such as 11GB, 900MB or 8GiB".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODALITIES: [Modality; 2] = [Modality::Audio, Modality::Video];

    fn setup(batch_size: usize) -> ([EncoderConfig; 2], Settings) {
        let encoders = [Kind::Ast, Kind::Clip].map(EncoderConfig::base);
        let overrides = [format!("batch_size={batch_size}")];
        (
            encoders,
            Settings::resolve("ave", MODALITIES, &overrides).unwrap(),
        )
    }

    #[test]
    fn a_paper_batch_by_hand() {
        let (encoders, settings) = setup(4);
        let way = Way {
            keep: StoredActivations::All,
            at_once: 4,
        };
        // 4 x 1215 and 12 x 198 rows, 12 blocks, 10 x 768 numbers of 4 bytes in each.
        let tapes = (4 * 1215 + 12 * 198) as f64 * 12.0 * 7680.0 * 4.0;
        let takes = of_step(&encoders, MODALITIES, &settings, 4, way) as f64;
        assert!(
            takes > tapes && takes < tapes + 1.6e9,
            "{takes:e} of {tapes:e}"
        );
        assert!(takes < 11e9, "the paper's card has 11 GB");
    }

    #[test]
    fn less_is_kept_before_the_batch_is_cut() {
        let (encoders, settings) = setup(64);
        let under = |limit| choose(&encoders, MODALITIES, &settings, 2, limit);
        let way = |limit| under(limit).unwrap().0;
        assert_eq!(
            way(100_000_000_000),
            Way {
                keep: StoredActivations::All,
                at_once: 64
            }
        );
        let tight = way(11_000_000_000);
        assert_eq!(tight.keep, StoredActivations::Inputs);
        assert!(way(4_000_000_000).at_once < tight.at_once);
        let refused = under(600_000_000).unwrap_err().to_string();
        assert!(
            refused.contains("a single sample at once takes about"),
            "{refused}"
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("11GB"), Ok(11_000_000_000));
        assert_eq!(parse_size("1.5 GiB"), Ok(1_610_612_736));
        assert_eq!(parse_size("4096"), Ok(4096));
        for wrong in ["", "GB", "-1GB", "3 parsecs", "nanGB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
