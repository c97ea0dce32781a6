//! The training loop: stream, step, update, log, checkpoint; exact resume.
//!
//! All that is random is a function of (seed, epoch or step, sample), so a run is described by its
//! configuration and its position: resuming reads a checkpoint and goes on, bit for bit on the CPU.

use crate::evaluation::{EvalOptions, Evaluator};
use crate::logging::{RunLog, StartMessage, StepRecord};
use crate::session::Session;
use crate::settings::{RunConfig, Settings};
use crate::training::checkpoint::{self, State};
use crate::training::prefetch::{PrefetchedBatch, Prefetcher};
use crate::training::workers::Workers;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use datasets::Split;
use engine::AdamW;
use features::{Batch, Loader};
use model::loss::LossConfig;
use model::modality_dropout::drop_modality;
use model::u2a::{Losses, MicroBatch, StepOptions, U2a, micro_batch};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A training split counts as complete, for modality dropout, while at most this share of its
/// samples lacks a modality: a handful of unreadable clips does not change the method.
pub const COMPLETE_SHARE: f64 = 0.05;

/// Steps on a GPU between two looks at the losses.
const READ_EVERY: usize = 16;

/// How far the gradient check moves an adapter's B away from zero.
const PROBE: f32 = 1e-3;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs, or `max_steps`, are finished.
    Finished,
    /// A signal stopped the run, after a checkpoint was written.
    Stopped,
}

/// A run in progress.
pub struct Trainer<'a> {
    run: PathBuf,
    config: RunConfig,
    session: &'a Session,
    model: U2a,
    optimiser: AdamW,
    state: State,
    modality_dropout: bool,
    workers: Workers,
}

impl<'a> Trainer<'a> {
    /// A new run in `run`, which gets its initial checkpoint.
    pub fn start(
        run: &Path,
        config: RunConfig,
        session: &'a Session,
        model: U2a,
        workers: Workers,
    ) -> Result<Trainer<'a>> {
        let optimiser = model.optimizer(config.settings.adamw())?;
        let state = State {
            seed: config.settings.seed,
            ..State::default()
        };
        let mut trainer =
            Trainer::assemble(run, config, session, model, optimiser, state, workers)?;
        if trainer.workers.is_first() {
            trainer.write_checkpoint()?;
        }
        Ok(trainer)
    }

    /// Goes on from the newest checkpoint of `run`.
    pub fn resume(
        run: &Path,
        config: RunConfig,
        session: &'a Session,
        mut model: U2a,
        workers: Workers,
    ) -> Result<Trainer<'a>> {
        let checkpoint = checkpoint::latest(run)?;
        checkpoint::read_model(&checkpoint, &mut model)?;
        let mut optimiser = model.optimizer(config.settings.adamw())?;
        let state = checkpoint::read_state(&checkpoint, &model, &mut optimiser)?;
        // A kill may have come between this checkpoint and its copy, or the end of an older one.
        if workers.is_first() {
            if state.best.is_some_and(|(_, step)| step == state.step) {
                checkpoint::mark_best(run, &checkpoint)?;
            }
            checkpoint::prune(run, config.settings.keep_checkpoints)?;
        }
        Trainer::assemble(run, config, session, model, optimiser, state, workers)
    }

    fn assemble(
        run: &Path,
        config: RunConfig,
        session: &'a Session,
        model: U2a,
        optimiser: AdamW,
        state: State,
        workers: Workers,
    ) -> Result<Trainer<'a>> {
        let modality_dropout = modality_dropout_is_on(&config.settings, session)?;
        Ok(Trainer {
            run: run.to_path_buf(),
            config,
            session,
            model,
            optimiser,
            state,
            modality_dropout,
            workers,
        })
    }

    /// Where the run stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn settings(&self) -> &Settings {
        &self.config.settings
    }

    /// Trains to the end, or until `stop` is set. An `announcement` goes to stderr with the estimated time of the
    /// run, after the first few steps.
    pub fn train(&mut self, stop: &AtomicBool, announcement: Option<&str>) -> Result<Outcome> {
        let settings = self.settings().clone();
        let samples = self.session.shards.split(Split::Train).len() as u64;
        if samples == 0 {
            bail!(
                "{}: the train split holds no sample; ingest it first",
                self.config.shards.display()
            );
        }
        let steps_per_epoch = samples.div_ceil(settings.batch_size as u64);
        let total = (settings.epochs * steps_per_epoch).min(settings.max_steps.unwrap_or(u64::MAX));
        // Files are the first worker's.
        let mut log = match self.workers.is_first() {
            true => Some(RunLog::open(&self.run, self.state.step, total)?),
            false => None,
        };
        if self.state.step >= total {
            return self.finish(&mut log);
        }
        let mut announcement =
            announcement.map(|text| StartMessage::new(text, self.state.step, total));
        let loss = settings.loss(self.config.multi_label);
        let schedule = settings.schedule();
        let placeholders = self.session.placeholders(settings.missing_token)?;
        let mut unread = Vec::new();
        while self.state.epoch < settings.epochs {
            let loader = Loader::new(
                &self.session.shards,
                self.session.train_loader(&settings),
                self.state.epoch,
                self.state.consumed,
            )?;
            let mut feed = Prefetcher::new(loader, self.model.device())?;
            loop {
                let begun = Instant::now();
                let Some(fed) = feed.next() else { break };
                let waited = begun.elapsed();
                let mut fed = fed?;
                if self.state.step == 0 {
                    self.check_gradients(&fed.batch, &loss)?;
                }
                if self.modality_dropout {
                    drop_modality(&mut fed.batch, settings.seed, self.state.step);
                }
                if let Some(placeholders) = &placeholders {
                    placeholders.fill(&mut fed.batch);
                }
                let lr = schedule.rate(self.state.step, steps_per_epoch, settings.epochs);
                let (losses, stopped) = self.step(&fed, &loss, lr, stop.load(Ordering::Relaxed))?;
                self.state.step += 1;
                self.state.consumed = fed.batch.consumed;
                let step = StepRecord {
                    step: self.state.step,
                    epoch: self.state.epoch,
                    lr,
                    samples: fed.batch.ids.len(),
                    elapsed: begun.elapsed(),
                    data_wait: waited,
                };
                feed.reuse(fed);
                unread.push((losses, step));
                if unread.len() >= self.read_every() {
                    self.read(&mut unread, &mut log)?;
                }
                let at_end = self.state.step >= total;
                if self.state.consumed >= samples {
                    self.read(&mut unread, &mut log)?;
                    self.state.epoch += 1;
                    self.state.consumed = 0;
                    if let Some(log) = &mut log {
                        self.end_of_epoch(log)?;
                    }
                } else if stopped
                    || at_end
                    || (settings.checkpoint_every > 0
                        && self.state.step.is_multiple_of(settings.checkpoint_every))
                {
                    self.read(&mut unread, &mut log)?;
                    if let Some(log) = &mut log {
                        self.checkpoint(log)?;
                    }
                }
                if let Some(log) = &mut log {
                    log.flush()?;
                    // The steps are done only when their losses are known: a GPU works behind the loop.
                    if unread.is_empty()
                        && let Some(line) =
                            announcement.as_mut().and_then(|a| a.line(self.state.step))
                    {
                        log.print(&line);
                        announcement = None;
                    }
                }
                if at_end {
                    return self.finish(&mut log);
                }
                if stopped {
                    return Ok(Outcome::Stopped);
                }
            }
        }
        self.finish(&mut log)
    }

    /// After the last epoch: without a validation split to choose by, the last checkpoint is the
    /// best, and the test split is scored once for the log.
    fn finish(&self, log: &mut Option<RunLog>) -> Result<Outcome> {
        let Some(log) = log else {
            return Ok(Outcome::Finished);
        };
        let all_epochs = self.state.epoch >= self.settings().epochs;
        let chosen = !self.session.shards.split(Split::Val).is_empty()
            || self.run.join(checkpoint::BEST).is_dir();
        if all_epochs && !chosen {
            if !self.session.shards.split(Split::Test).is_empty() {
                self.evaluate(Split::Test, log)?;
            }
            log.flush()?;
            checkpoint::mark_best(&self.run, &checkpoint::latest(&self.run)?)?;
        }
        Ok(Outcome::Finished)
    }

    /// One optimiser step on this worker's part of a batch, taken in parts of `micro_batch` samples:
    /// the losses, and whether any worker has been asked to stop.
    fn step(
        &mut self,
        fed: &PrefetchedBatch,
        loss: &LossConfig,
        lr: f64,
        stop: bool,
    ) -> Result<(Tensor, bool)> {
        let samples = fed.batch.ids.len();
        let mine = micro_batch::worker_range(samples, self.workers.rank, self.workers.count);
        let at_once = self.settings().micro_batch.unwrap_or(samples);
        let options = self.step_options(MicroBatch::WHOLE);
        let (batch, uploaded) = (&fed.batch, fed.uploaded());
        let summed =
            micro_batch::accumulate(&self.model, batch, uploaded, mine, at_once, &options, loss)?;
        let (mut grads, losses) = summed.unzip();
        let (losses, stop) = match losses {
            Some(losses) if self.workers.count == 1 => (losses, stop),
            losses => self.add_up(grads.get_or_insert_default(), losses, stop)?,
        };
        let grads = grads.unwrap_or_default();
        self.model.update(&mut self.optimiser, grads, lr)?;
        Ok((losses, stop))
    }

    /// Sums gradients and losses over the workers; one without a sample adds nothing.
    fn add_up(
        &mut self,
        grads: &mut Vec<Option<Tensor>>,
        losses: Option<Tensor>,
        stop: bool,
    ) -> Result<(Tensor, bool)> {
        let device = self.model.device().clone();
        let shapes: Vec<_> = self
            .model
            .parameters()
            .iter()
            .map(|p| p.tensor.shape().clone())
            .collect();
        grads.resize_with(shapes.len(), || None);
        let losses = match losses {
            Some(losses) => losses,
            None => Tensor::zeros(3, DType::F32, &device)?,
        };
        let mut flat = vec![losses];
        for (grad, shape) in grads.iter().zip(&shapes) {
            flat.push(match grad {
                Some(grad) => grad.flatten_all()?.to_dtype(DType::F32)?,
                None => Tensor::zeros(shape.elem_count(), DType::F32, &device)?,
            });
        }
        let mut numbers: Vec<f32> = Tensor::cat(&flat, 0)?.to_vec1()?;
        let took_part = grads
            .iter()
            .map(|grad| if grad.is_some() { 1.0 } else { 0.0 });
        let flags = numbers.len();
        numbers.extend(took_part);
        numbers.push(if stop { 1.0 } else { 0.0 });
        self.workers.all_reduce(&mut numbers)?;
        let stop = numbers.last().is_some_and(|asked| *asked > 0.0);
        let summed = Tensor::from_slice(&numbers[..flags], flags, &device)?;
        let mut next = 3;
        for (i, (grad, shape)) in grads.iter_mut().zip(&shapes).enumerate() {
            let n = shape.elem_count();
            *grad = match numbers[flags + i] > 0.0 {
                true => Some(summed.narrow(0, next, n)?.reshape(shape)?),
                false => None,
            };
            next += n;
        }
        Ok((summed.narrow(0, 0, 3)?, stop))
    }

    /// Steps between two looks at the losses: a GPU would have to be waited for at each.
    fn read_every(&self) -> usize {
        if self.model.device().is_cpu() {
            1
        } else {
            READ_EVERY
        }
    }

    /// Fetches the losses of the steps since the last time, logs them, and stops at one that is no
    /// number: before any checkpoint can hold what came of it.
    fn read(&self, unread: &mut Vec<(Tensor, StepRecord)>, log: &mut Option<RunLog>) -> Result<()> {
        let (losses, steps): (Vec<Tensor>, Vec<StepRecord>) = unread.drain(..).unzip();
        for (losses, step) in Losses::read(&losses)?.into_iter().zip(steps) {
            if !losses.loss.is_finite() {
                bail!(
                    "{}: the loss is {} at step {}; lower lr (it is {:e}) or look at the data with `ingest inspect`",
                    self.run.display(),
                    losses.loss,
                    step.step,
                    step.lr
                );
            }
            if let Some(log) = log {
                log.step(&step, &losses)?;
            }
        }
        Ok(())
    }

    fn step_options(&self, micro_batch: MicroBatch) -> StepOptions {
        let settings = self.settings();
        StepOptions {
            seed: settings.seed,
            step: self.state.step as u32,
            encoder_dropout: settings.encoder_dropout,
            stored: settings.keep,
            micro_batch,
        }
    }

    /// The log is on disk first: a run goes on after the step that the checkpoint holds, and the
    /// lines up to that step are not made again.
    fn checkpoint(&mut self, log: &mut RunLog) -> Result<PathBuf> {
        log.sync()?;
        self.write_checkpoint()
    }

    fn write_checkpoint(&mut self) -> Result<PathBuf> {
        self.optimiser.fetch_moments()?;
        checkpoint::write(
            &self.run,
            &self.model,
            &self.optimiser,
            &self.state,
            self.settings(),
            &self.config.weights,
        )
    }

    /// Scores the validation split where there is one; the best checkpoint by it becomes `best`.
    fn end_of_epoch(&mut self, log: &mut RunLog) -> Result<()> {
        if self.session.shards.split(Split::Val).is_empty() {
            self.checkpoint(log)?;
            return Ok(());
        }
        let score = self.evaluate(Split::Val, log)?;
        let better = self.state.best.is_none_or(|(best, _)| score > best);
        if better {
            self.state.best = Some((score, self.state.step));
        }
        let path = self.checkpoint(log)?;
        if better {
            checkpoint::mark_best(&self.run, &path)?;
        }
        Ok(())
    }

    /// Scores a split for the log; returns the main metric.
    fn evaluate(&self, split: Split, log: &mut RunLog) -> Result<f64> {
        let options = EvalOptions {
            split,
            missing_token: self.settings().missing_token,
            ..EvalOptions::default()
        };
        let evaluator = Evaluator::new(self.session, &self.config, &options)?;
        let evaluation = evaluator.run(&self.model)?;
        log.evaluation(
            self.state.step,
            self.state.epoch,
            split,
            &evaluation.metrics,
        )?;
        Ok(evaluation.metrics.values[report::main_metric(self.config.multi_label)])
    }

    /// Before the first step: with every adapter's B away from zero, each learnable tensor must
    /// get a finite gradient that is not zero throughout.
    fn check_gradients(&mut self, batch: &Batch, loss: &LossConfig) -> Result<()> {
        let start: Vec<Tensor> = self
            .model
            .parameters()
            .iter()
            .map(|p| p.tensor.clone())
            .collect();
        let probe = self.model.parameters().into_iter().map(|p| {
            if p.name.ends_with("lora_B.weight") {
                // Uneven: below a layer norm a gradient's elements add up to zero, which an even
                // step would not tell from no gradient.
                let n = p.tensor.elem_count();
                let step: Vec<f32> = (0..n).map(|i| PROBE * ((i % 7) as f32 - 2.5)).collect();
                p.tensor + Tensor::from_vec(step, p.tensor.dims(), p.tensor.device())?
            } else {
                Ok(p.tensor.clone())
            }
        });
        let moved = probe.collect::<candle_core::Result<Vec<_>>>()?;
        self.model.set_parameters(moved)?;
        let mut probe = first_complete(batch).unwrap_or_else(|| batch.clone());
        if let Some(placeholders) = self.session.placeholders(loss.missing_token)? {
            placeholders.fill(&mut probe);
        }
        let options = self.step_options(MicroBatch::WHOLE);
        let result = self.model.step(&probe, &options, loss)?;
        for (p, grad) in self.model.parameters().iter().zip(&result.grads) {
            // A batch without a complete sample leaves an encoder out; its turn comes unchecked.
            let Some(grad) = grad else { continue };
            let numbers: Vec<f32> = grad.flatten_all()?.to_vec1()?;
            if numbers.iter().any(|g| !g.is_finite()) || numbers.iter().all(|g| *g == 0.0) {
                bail!(
                    "{} gets no usable gradient from the first batch (zero or not finite throughout); the weights of {:?} may be damaged",
                    p.name,
                    self.config.weights
                );
            }
        }
        self.model
            .set_parameters(start)
            .context("after the gradient check")
    }
}

/// Whether modality dropout is on: as set, or where the training data are complete.
fn modality_dropout_is_on(settings: &Settings, session: &Session) -> Result<bool> {
    if let Some(on) = settings.modality_dropout {
        return Ok(on);
    }
    if settings.modality.is_some() {
        return Ok(false);
    }
    let split = session.shards.split(Split::Train);
    let lacking = split
        .present
        .iter()
        .filter(|has| **has != [true, true])
        .count();
    Ok(session.train_mask.is_none() && lacking as f64 <= COMPLETE_SHARE * split.len() as f64)
}

/// The first sample of a batch that has both modalities, as a batch of its own.
fn first_complete(batch: &Batch) -> Option<Batch> {
    let sample = batch.present.iter().position(|has| *has == [true, true])?;
    let mut one = Batch {
        ids: vec![batch.ids[sample].clone()],
        labels: vec![batch.labels[sample].clone()],
        present: vec![[true, true]],
        inputs: [None, None],
        consumed: 0,
    };
    for m in 0..2 {
        let mut input = batch.inputs[m].as_ref()?.pick(&[sample])?;
        input.rows = vec![0];
        one.inputs[m] = Some(input);
    }
    Some(one)
}
