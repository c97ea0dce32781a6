//! The training of methods other than U2A: their steps, and what they do between steps.

use super::prefetch::PrefetchedBatch;
use crate::session::Session;
use crate::settings::RunConfig;
use anyhow::Result;
use candle_core::Tensor;
use datasets::Split;
use engine::AdamW;
use model::loss::LossConfig;
use model::u2a::{StepOptions, U2a};

/// Puts the state of the model's method to the start of a run.
pub fn start(model: &mut U2a, session: &Session) {
    let ids = &session.shards.split(Split::Train).ids;
    model.start_method(ids, session.train_present());
}

/// Does what the method does at the start of an epoch. A run that is resumed inside of an epoch has
/// the result in its checkpoint.
pub fn start_epoch(
    _model: &mut U2a,
    _session: &Session,
    _config: &RunConfig,
    _epoch: u64,
) -> Result<()> {
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
    losses.ok_or_else(|| anyhow::anyhow!("a method without a step"))
}
