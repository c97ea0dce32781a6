//! The training of methods other than U2A: their steps, and what they do between steps.

use super::prefetch::PrefetchedBatch;
use crate::session::Session;
use crate::settings::RunConfig;
use anyhow::{Context, Result};
use candle_core::Tensor;
use datasets::Split;
use engine::AdamW;
use features::{Batch, Loader};
use model::loss::LossConfig;
use model::methods::mmlora::Stage;
use model::methods::{MethodState, TrainingSplit, g_blend, pmr, single_labels};
use model::u2a::{StepOptions, U2a};
use model::variant::Method;
use util::hash::sha256;

/// Samples that are computed at once between steps.
const BATCH_SIZE: usize = 16;
/// One of so many training samples is held out where a method measures losses on samples that do
/// not train, and there is no validation split.
const HELD_OUT_ONE_OF: usize = 10;

/// Puts the state of the model's method to the start of a run.
pub fn start(model: &mut U2a, session: &Session, seed: u64) -> Result<()> {
    let ids = &session.shards.split(Split::Train).ids;
    let has_val = !session.shards.split(Split::Val).is_empty();
    let held_out = match model.method() {
        Method::GBlend if !has_val => held_out_samples(ids, seed),
        _ => Vec::new(),
    };
    model.start_method(&TrainingSplit {
        ids,
        present: session.train_present(),
        held_out: &held_out,
    })
}

/// Draws one of [`HELD_OUT_ONE_OF`] samples: those whose ids have the smallest SHA-256 with the
/// seed.
fn held_out_samples(ids: &[String], seed: u64) -> Vec<String> {
    let hashed = ids.iter().map(|id| (sha256(format!("{seed} {id}")), id));
    let mut hashed: Vec<(String, &String)> = hashed.collect();
    hashed.sort();
    let count = ids.len() / HELD_OUT_ONE_OF;
    let drawn = hashed.into_iter().take(count);
    drawn.map(|(_, id)| id.clone()).collect()
}

/// Does what the method does at the start of an epoch. A run that is resumed inside of an epoch has
/// the result in its checkpoint.
pub fn start_epoch(
    model: &mut U2a,
    session: &Session,
    config: &RunConfig,
    epoch: u64,
) -> Result<()> {
    match model.method_state() {
        MethodState::Pmr(_) => {
            let sums = class_sums(model, session)?;
            let momentum = config.settings.pmr_momentum;
            if let MethodState::Pmr(prototypes) = model.method_state_mut() {
                prototypes.update(&sums, epoch, momentum)?;
            }
        }
        MethodState::GBlend(_) if epoch.is_multiple_of(config.settings.g_blend_epochs) => {
            let losses = head_losses(model, session, config)?;
            if let MethodState::GBlend(blending) = model.method_state_mut() {
                blending.begin_super_epoch(losses);
            }
        }
        MethodState::Mmlora(_) => {
            let stage = match epoch < config.settings.mmlora_first_epochs() {
                true => Stage::Unimodal,
                false => Stage::Joint,
            };
            *model.method_state_mut() = MethodState::Mmlora(stage);
        }
        _ => {}
    }
    Ok(())
}

/// Returns whether the run trains another model from this epoch on, with which scores so far are not
/// to be compared: MMLoRA's second stage. The best checkpoint is one of that.
pub fn starts_another_model(config: &RunConfig, epoch: u64) -> bool {
    let settings = &config.settings;
    settings.method == Method::Mmlora && epoch == settings.mmlora_first_epochs()
}

/// Adds up the features of the training split by class, for PMR's prototypes.
fn class_sums(model: &U2a, session: &Session) -> Result<pmr::ClassSums> {
    let mut sums = pmr::ClassSums::new(model.classes(), model.width());
    let present = session.train_present().to_vec();
    for_each_batch(model, session, Split::Train, present, |batch, tokens| {
        let labels = single_labels(&batch.labels)?;
        sums.add(tokens.each_ref(), &batch.present, &labels)
    })?;
    Ok(sums)
}

/// Measures the losses of G-Blend's heads on the samples that train and on those that do not: the
/// validation split, or the samples that are held out.
fn head_losses(model: &U2a, session: &Session, config: &RunConfig) -> Result<g_blend::HeadLosses> {
    let MethodState::GBlend(blending) = model.method_state() else {
        anyhow::bail!("another method than G-Blend has no weights of heads");
    };
    let multi_label = config.multi_label;
    let mut train = g_blend::LossSums::default();
    let mut held_out = g_blend::LossSums::default();
    let present = session.train_present().to_vec();
    for_each_batch(model, session, Split::Train, present, |batch, tokens| {
        let logits = model.head_logits(tokens)?;
        let out = blending.held_out(&batch.ids);
        let (logits, labels) = (logits.each_ref(), &batch.labels);
        train.add(logits, &batch.present, labels, &out, multi_label)?;
        if blending.holds_out() {
            let trains: Vec<bool> = out.iter().map(|out| !out).collect();
            held_out.add(logits, &batch.present, labels, &trains, multi_label)?;
        }
        Ok(())
    })?;
    if !blending.holds_out() {
        let present = session.val_present()?;
        for_each_batch(model, session, Split::Val, present, |batch, tokens| {
            let logits = model.head_logits(tokens)?;
            let none = vec![false; batch.ids.len()];
            let (logits, labels) = (logits.each_ref(), &batch.labels);
            held_out.add(logits, &batch.present, labels, &none, multi_label)
        })?;
    }
    Ok(g_blend::HeadLosses {
        train: train.means(),
        held_out: held_out.means(),
    })
}

/// Computes the class tokens of a split, batch by batch in the order of the shards, without
/// augmentation and dropout, and hands them to `read`. `present` says which modalities the model
/// gets of each sample.
fn for_each_batch(
    model: &U2a,
    session: &Session,
    split: Split,
    present: Vec<[bool; 2]>,
    mut read: impl FnMut(&Batch, &[Tensor; 2]) -> Result<()>,
) -> Result<()> {
    let merged = model.merged_encoders()?;
    let options = session.eval_loader(split, BATCH_SIZE, Some(present));
    let mut loader = Loader::new(&session.shards, options, 0, 0)?;
    while let Some(batch) = loader.next() {
        let batch = batch?;
        read(&batch, &model.class_tokens(&merged, &batch)?)?;
        loader.reuse(batch.inputs);
    }
    Ok(())
}

/// Makes the steps of a whole batch: one update of the optimizer for each of the method's passes,
/// each followed by that of the method's state. Returns the losses, added up over the passes.
pub fn step(
    model: &mut U2a,
    optimizer: &mut AdamW,
    prefetched: &PrefetchedBatch,
    options: &StepOptions,
    loss: &LossConfig,
    lr: f64,
) -> Result<Tensor> {
    let (batch, uploaded) = (&prefetched.batch, prefetched.uploaded());
    let mut losses: Option<Tensor> = None;
    for pass in 0..model.method().updates_per_batch() {
        let result = model.step_pass(batch, uploaded, options, loss, pass)?;
        model.update(optimizer, result.grads, lr)?;
        if let Some(update) = result.update {
            model.method_state_mut().apply(update);
        }
        losses = Some(match losses {
            Some(sum) => (sum + result.losses)?,
            None => result.losses,
        });
    }
    losses.context("a method without a step")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_samples_is_held_out_by_the_seed() {
        let ids: Vec<String> = (0..95).map(|i| i.to_string()).collect();
        let held_out = held_out_samples(&ids, 3);
        assert_eq!(held_out.len(), 9);
        assert_eq!(held_out, held_out_samples(&ids, 3));
        assert_ne!(held_out, held_out_samples(&ids, 4));
        // The order of the files does not matter.
        let mut reversed = ids.clone();
        reversed.reverse();
        assert_eq!(held_out, held_out_samples(&reversed, 3));
    }
}
