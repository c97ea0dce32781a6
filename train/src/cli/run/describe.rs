//! `train run --describe`: the parameter table.

use super::args::RunArgs;
use crate::session;
use crate::settings::Settings;
use anyhow::Result;
use features::Shards;
use model::parameter_table::parameter_table;
use serde_json::json;
use std::process::ExitCode;
use util::number::thousands;
use util::outln;

/// Prints the number of parameters of each part of the model, and how many of them are learnable.
pub fn describe(args: &RunArgs) -> Result<ExitCode> {
    let (modalities, classes, multi_label) = match &args.shards {
        Some(folder) => {
            let shards = Shards::open(folder)?;
            let spec = shards.spec();
            (spec.modalities, spec.classes.len(), spec.multi_label)
        }
        None => {
            let dataset = datasets::open(&args.dataset)?;
            let info = dataset.info();
            (info.modalities, info.classes.len(), info.multi_label)
        }
    };
    let given = args.overrides()?;
    given.check_read(given.modality.is_some() || modalities.count() == 1)?;
    let settings = Settings::resolve(&args.dataset, modalities, &given)?;
    settings.check_data(modalities, multi_label)?;
    let (only, tiny) = (settings.modality, args.tiny_encoders());
    let encoders = session::encoder_sizes(modalities, only, &args.weights(), tiny)?;
    let table = parameter_table(
        modalities,
        &encoders,
        classes,
        settings.lora_rank,
        &settings.variant(),
    );
    let total: usize = table.iter().map(|row| row.total).sum();
    let learnable: usize = table.iter().map(|row| row.learnable).sum();
    if args.json {
        let parts: Vec<_> = table
            .iter()
            .map(|row| json!({"part": row.part, "parameters": row.total, "learnable": row.learnable}))
            .collect();
        outln!(
            "{}",
            json!({
                "parts": parts, "parameters": total, "learnable": learnable,
                "modality_dropout": settings.modality_dropout_rule(),
            })
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, parameters, learnable) in table
        .iter()
        .map(|row| (row.part.as_str(), row.total, row.learnable))
        .chain([("total", total, learnable)])
    {
        let (parameters, learnable) = (thousands(parameters as u64), thousands(learnable as u64));
        outln!("{name:<28} {parameters:>13} {learnable:>11}")?;
    }
    outln!("modality dropout: {}", settings.modality_dropout_rule())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: RunArgs,
    }

    #[test]
    fn model_that_cannot_be_trained_is_not_described() {
        for (arguments, problem) in [
            ("ave --modality image", "modality image: the data have"),
            ("mm-imdb --method qmf", "one class per sample"),
            ("ave --set qmf_lambda=1", "only method qmf reads it"),
        ] {
            let words = format!("run {arguments} --random-weights 0 --encoders tiny");
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            let error = describe(&cli.args).unwrap_err().to_string();
            assert!(error.contains(problem), "{arguments}: {error}");
        }
    }
}
