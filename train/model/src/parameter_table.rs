//! The numbers of parameters of a model, total and learnable (Tables 1 and 2 of the paper).

use crate::encoder::config::EncoderConfig;
use crate::encoder::lora::ADAPTERS;
use crate::encoder::prompts::MissingCase;
use crate::variant::{Adaptation, Variant};
use datasets::Modalities;

/// One row of the parameter table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterCount {
    /// The part of the model.
    pub part: String,
    /// The number of its parameters.
    pub total: usize,
    /// The number of its parameters that learn.
    pub learnable: usize,
}

impl ParameterCount {
    fn new(part: String, total: usize, learns: bool) -> ParameterCount {
        ParameterCount {
            part,
            total,
            learnable: if learns { total } else { 0 },
        }
    }
}

/// Counts the parameters of a model, part by part, without building it.
pub fn parameter_table(
    modalities: impl Into<Modalities>,
    configs: &[EncoderConfig],
    classes: usize,
    rank: usize,
    variant: &Variant,
) -> Vec<ParameterCount> {
    let modalities = modalities.into();
    let mut table = Vec::new();
    for (modality, config) in modalities.names().zip(configs) {
        if !variant.uses(modality) {
            continue;
        }
        let d = config.hidden;
        let all_learn = variant.weights_learn();
        let name = format!("{modality} encoder ({:?})", config.kind);
        table.push(ParameterCount::new(name, config.parameters(), all_learn));
        if variant.adaptation == Adaptation::Lora {
            let adapters = config.layers * ADAPTERS * 2 * d * rank;
            let name = format!("{modality} adapters, rank {rank}");
            table.push(ParameterCount::new(name, adapters, true));
        }
        if variant.adaptation.prompt_level().is_some() {
            let [layers, length, d] = variant.prompts.shape(config);
            let name = format!("{modality} prompts, {length} x {layers} blocks");
            let prompts = MissingCase::ALL.len() * layers * length * d;
            table.push(ParameterCount::new(name, prompts, true));
            continue;
        }
        let learns = variant.mask_tokens_learn();
        let name = format!("{modality} mask token");
        table.push(ParameterCount::new(name, d, learns));
    }
    let used = modalities.names().position(|input| variant.uses(input));
    let d = configs[used.unwrap_or(0)].hidden;
    for (name, shape) in variant.fusion.layers(d) {
        let total = shape.iter().product();
        table.push(ParameterCount::new(name.to_string(), total, true));
    }
    let heads = variant.method.heads(modalities, variant.fusion, d);
    for head in heads {
        let name = match head.prefix.split('.').nth(1) {
            Some(name) => format!("{name} head, {classes} classes"),
            None => format!("head, {classes} classes"),
        };
        let total = classes * head.width + classes;
        table.push(ParameterCount::new(name, total, true));
    }
    table
}
