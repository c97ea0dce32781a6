//! The numbers of parameters of a model, total and learnable (Tables 1 and 2 of the paper).

use crate::encoder::config::EncoderConfig;
use crate::encoder::lora::ADAPTERS;
use crate::encoder::prompts::MissingCase;
use crate::variant::{Adaptation, Variant};
use datasets::Modality;

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
    modalities: [Modality; 2],
    configs: &[EncoderConfig; 2],
    classes: usize,
    rank: usize,
    variant: &Variant,
) -> Vec<ParameterCount> {
    let mut table = Vec::new();
    for (modality, config) in modalities.iter().zip(configs) {
        if !variant.uses(*modality) {
            continue;
        }
        let d = config.hidden;
        let all_learn = variant.adaptation == Adaptation::Full;
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
        let learns = variant.adaptation != Adaptation::Head;
        let name = format!("{modality} mask token");
        table.push(ParameterCount::new(name, d, learns));
    }
    let d = configs[0].hidden;
    for (name, shape) in variant.fusion.layers(d) {
        let total = shape.iter().product();
        table.push(ParameterCount::new(name.to_string(), total, true));
    }
    let head = classes * variant.fusion.width(d) + classes;
    table.push(ParameterCount::new(
        format!("head, {classes} classes"),
        head,
        true,
    ));
    table
}
