//! The memory of a training step, and how to stay below `--memory-limit`.

use crate::settings::Settings;
use anyhow::{Result, bail};
use datasets::{Modalities, Modality};
use model::encoder::StoredActivations;
use model::encoder::config::{EncoderConfig, InputSize, Kind};
use model::encoder::prompts::PromptLevel;

/// Bytes for what is not counted: the head, the optimizer, tables, and what allocators and
/// libraries take for themselves.
const UNCOUNTED_BYTES: u64 = 400_000_000;

/// How a step is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// Activations that the forward pass stores.
    pub stored: StoredActivations,
    /// Samples that are computed at once.
    pub micro_batch: usize,
}

/// The most bytes that a training step takes: frozen weights, stored activations of the encoders,
/// the buffers of one block, the inputs. `bytes` is the size of a number.
pub fn step_bytes(
    encoders: &[EncoderConfig],
    modalities: Modalities,
    settings: &Settings,
    bytes: u64,
    plan: StepPlan,
) -> u64 {
    let (mut weights, mut activations, mut buffers, mut inputs) = (0, 0, 0u64, 0);
    for (config, input) in encoders.iter().zip(modalities.names()) {
        let elements: usize = config
            .specs()
            .iter()
            .map(|s| s.shape.iter().product::<usize>())
            .sum();
        weights += elements as u64 * bytes;
        let (tokens, per_sample, numbers) = match config.input {
            InputSize::Image { size, .. } => {
                let frames = if input.modality == Modality::Video {
                    settings.frames
                } else {
                    1
                };
                (config.patches() + 2, frames, 3 * size * size)
            }
            InputSize::Mel { frames, bins, .. } => (config.patches() + 3, 1, frames * bins),
            InputSize::Text { .. } => (settings.text_length + 1, 1, settings.text_length),
        };
        let tokens = tokens
            + match settings.adapt.prompt_level() {
                Some(PromptLevel::Input) => {
                    settings.prompt_length * settings.prompt_layers.min(config.layers)
                }
                Some(PromptLevel::Attention) => settings.prompt_length / 2,
                None => 0,
            };
        let sequences = (plan.micro_batch * per_sample) as u64;
        let (rows, d, m) = (
            sequences * tokens as u64,
            config.hidden as u64,
            config.intermediate as u64,
        );
        // The block's input, the query, key and value projections, the output of attention, the sum
        // after it (BERT stores a second one), and the input of the activation function.
        let sums = if config.kind == Kind::Bert { 2 } else { 1 };
        let narrow = rows * bytes * (d + 3 * d + d + sums * d);
        let hidden = rows * bytes * m;
        let layers = config.layers as u64;
        activations += match plan.stored {
            StoredActivations::All => layers * (narrow + hidden),
            StoredActivations::Selective => layers * narrow + hidden,
            StoredActivations::Inputs => layers * rows * bytes * d + narrow + hidden,
        };
        // The output of the activation function and the gradients on both sides of it, or the
        // gradients of the projections.
        buffers = buffers.max(rows * bytes * (3 * m).max(m + 6 * d));
        inputs += sequences * numbers as u64 * (4 + bytes);
    }
    weights + activations + buffers + inputs + UNCOUNTED_BYTES
}

/// Finds the fastest plan that takes at most `limit` bytes, and returns it with its bytes. It
/// stores all activations if it can, else fewer of them, and then halves the micro-batch.
/// Limits in the settings are kept.
///
/// # Errors
/// A single sample takes more.
pub fn fit(
    encoders: &[EncoderConfig],
    modalities: Modalities,
    settings: &Settings,
    bytes: u64,
    limit: u64,
) -> Result<(StepPlan, u64)> {
    let by_memory = [
        StoredActivations::All,
        StoredActivations::Selective,
        StoredActivations::Inputs,
    ];
    let choices: Vec<_> = by_memory
        .into_iter()
        .skip_while(|stored| *stored != settings.keep)
        .collect();
    let mut micro_batch = settings
        .micro_batch
        .unwrap_or(settings.batch_size)
        .min(settings.batch_size);
    let mut least = u64::MAX;
    loop {
        for stored in &choices {
            let plan = StepPlan {
                stored: *stored,
                micro_batch,
            };
            let needed = step_bytes(encoders, modalities, settings, bytes, plan);
            if needed <= limit {
                return Ok((plan, needed));
            }
            least = least.min(needed);
        }
        if micro_batch == 1 {
            bail!(
                "--memory-limit: a single sample at once takes about {:.1} GB; allow that much, or take --precision bf16 on a GPU",
                least as f64 / 1e9
            );
        }
        micro_batch = micro_batch.div_ceil(2);
    }
}

/// Parses a size: `11GB`, `900MB`, `8GiB` or a number of bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "mib" => 1024f64.powi(2),
        "gib" => 1024f64.powi(3),
        other => return Err(format!("{other} is not a unit; write 11GB, 900MB or 8GiB")),
    };
    match digits.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok((number * unit) as u64),
        _ => Err("write a size such as 11GB, 900MB or 8GiB".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SettingsOverrides;

    const MODALITIES: Modalities = Modalities::Two(Modality::Audio, Modality::Video);

    fn setup(batch_size: usize) -> ([EncoderConfig; 2], Settings) {
        let encoders = [Kind::Ast, Kind::Clip].map(EncoderConfig::base);
        let overrides = SettingsOverrides {
            batch_size: Some(batch_size),
            ..SettingsOverrides::default()
        };
        (
            encoders,
            Settings::resolve("ave", MODALITIES, &overrides).unwrap(),
        )
    }

    #[test]
    fn bytes_of_the_papers_batch() {
        let (encoders, settings) = setup(4);
        let plan = StepPlan {
            stored: StoredActivations::All,
            micro_batch: 4,
        };
        // 4 x 1215 and 12 x 198 rows, 12 blocks, 10 x 768 numbers of 4 bytes in each.
        let activations = (4 * 1215 + 12 * 198) as f64 * 12.0 * 7680.0 * 4.0;
        let needed = step_bytes(&encoders, MODALITIES, &settings, 4, plan) as f64;
        assert!(
            needed > activations && needed < activations + 1.6e9,
            "{needed:e} of {activations:e}"
        );
        assert!(needed < 11e9, "the paper's card has 11 GB");
    }

    #[test]
    fn fewer_activations_are_stored_before_the_batch_is_cut() {
        let (encoders, settings) = setup(64);
        let under = |limit| fit(&encoders, MODALITIES, &settings, 2, limit);
        let plan = |limit| under(limit).unwrap().0;
        assert_eq!(
            plan(100_000_000_000),
            StepPlan {
                stored: StoredActivations::All,
                micro_batch: 64
            }
        );
        assert_eq!(plan(16_000_000_000).stored, StoredActivations::Selective);
        let tight = plan(11_000_000_000);
        assert_eq!(tight.stored, StoredActivations::Inputs);
        assert!(plan(4_000_000_000).micro_batch < tight.micro_batch);
        let refused = under(600_000_000).unwrap_err().to_string();
        assert!(
            refused.contains("a single sample at once takes about"),
            "{refused}"
        );
    }

    #[test]
    fn sizes_are_parsed() {
        assert_eq!(parse_size("11GB"), Ok(11_000_000_000));
        assert_eq!(parse_size("1.5 GiB"), Ok(1_610_612_736));
        assert_eq!(parse_size("4096"), Ok(4096));
        for wrong in ["", "GB", "-1GB", "3 parsecs", "nanGB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
