//! The training loop: loads batches, makes steps and updates, logs, writes checkpoints, and resumes
//! exactly.
//!
//! Everything random is a function of (seed, epoch or step, sample), so that a run is determined by
//! its configuration and its position. A resumed run reads a checkpoint and continues, bit for bit
//! on the CPU.

use super::checkpoint::{self, State};
use super::gradient_check::check_gradients;
use super::gradient_sum::all_reduce_gradients;
use super::method;
use super::prefetch::{PrefetchedBatch, Prefetcher};
use super::ranks::Ranks;
use crate::evaluation::{EvalOptions, Evaluator};
use crate::logging::{RunLog, StartMessage, StepRecord};
use crate::session::Session;
use crate::settings::{RunConfig, Settings};
use anyhow::{Result, bail};
use candle_core::Tensor;
use datasets::Split;
use engine::{AdamW, Schedule};
use features::{Batch, Loader, LoaderOptions};
use model::loss::LossConfig;
use model::missing_inputs::Placeholders;
use model::modality_dropout::drop_modality;
use model::u2a::{Losses, MicroBatch, StepOptions, U2a, micro_batch};
use model::variant::Method;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Steps on a GPU after which their losses are read. Reading them waits for the GPU.
const GPU_LOSS_READ_INTERVAL: usize = 16;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs, or `max_steps`, are finished.
    Finished,
    /// A signal stopped the run, after a checkpoint was written.
    Stopped,
}

/// A run in progress.
pub(crate) struct Trainer<'a> {
    run: PathBuf,
    config: RunConfig,
    session: &'a Session,
    model: U2a,
    optimizer: AdamW,
    state: State,
    modality_dropout: bool,
    ranks: &'a Ranks,
}

/// What the steps of a run have in common, and what they hand on to later ones.
struct LoopState {
    /// Samples of the training split.
    samples: u64,
    steps_per_epoch: u64,
    /// The number of the last step.
    last_step: u64,
    loss: LossConfig,
    schedule: Schedule,
    placeholders: Option<Placeholders>,
    /// The log; only the first rank has one.
    log: Option<RunLog>,
    /// A message that has not been printed yet.
    start_message: Option<StartMessage>,
    /// Losses that have not been read from the device yet.
    unread: Vec<(Tensor, StepRecord)>,
}

impl<'a> Trainer<'a> {
    /// Begins a run in the folder `run`, and writes its initial checkpoint.
    pub fn start(
        run: &Path,
        config: RunConfig,
        session: &'a Session,
        mut model: U2a,
        ranks: &'a Ranks,
    ) -> Result<Trainer<'a>> {
        method::start(&mut model, session, config.settings.seed)?;
        let optimizer = model.optimizer(config.settings.adamw())?;
        let state = State {
            seed: config.settings.seed,
            ..State::default()
        };
        let mut trainer = Trainer::assemble(run, config, session, model, optimizer, state, ranks);
        if trainer.ranks.is_first() {
            trainer.write_checkpoint()?;
        }
        Ok(trainer)
    }

    /// Continues from the newest checkpoint in the folder `run`.
    pub fn resume(
        run: &Path,
        config: RunConfig,
        session: &'a Session,
        mut model: U2a,
        ranks: &'a Ranks,
    ) -> Result<Trainer<'a>> {
        let checkpoint = checkpoint::latest(run)?;
        let with_remedy = checkpoint::with_remedy(run, &checkpoint, true);
        checkpoint::read_model(&checkpoint, &mut model).map_err(&with_remedy)?;
        method::start(&mut model, session, config.settings.seed)?;
        let mut optimizer = model.optimizer(config.settings.adamw())?;
        let state =
            checkpoint::read_state(&checkpoint, &mut model, &mut optimizer).map_err(with_remedy)?;
        // The process may have been killed before it copied this checkpoint to `best`, or before it
        // removed an old one.
        if ranks.is_first() {
            if state.best.is_some_and(|(_, step)| step == state.step) {
                checkpoint::mark_best(run, &checkpoint)?;
            }
            checkpoint::prune(run, config.settings.keep_checkpoints)?;
        }
        let trainer = Trainer::assemble(run, config, session, model, optimizer, state, ranks);
        Ok(trainer)
    }

    fn assemble(
        run: &Path,
        config: RunConfig,
        session: &'a Session,
        model: U2a,
        optimizer: AdamW,
        state: State,
        ranks: &'a Ranks,
    ) -> Trainer<'a> {
        let modality_dropout = config
            .settings
            .uses_modality_dropout(session.train_present());
        Trainer {
            run: run.to_path_buf(),
            config,
            session,
            model,
            optimizer,
            state,
            modality_dropout,
            ranks,
        }
    }

    /// The position of the run.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn settings(&self) -> &Settings {
        &self.config.settings
    }

    /// Trains to the end, or until `stop` is set. After the first few steps, `start_message` is
    /// printed on stderr with the estimated time of the run.
    pub fn train(&mut self, stop: &AtomicBool, start_message: Option<&str>) -> Result<Outcome> {
        let samples = self.session.shards.split(Split::Train).len() as u64;
        if samples == 0 {
            bail!(
                "{}: the train split holds no sample; ingest it first",
                self.config.shards
            );
        }
        let settings = self.settings();
        let steps_per_epoch = samples.div_ceil(settings.batch_size as u64);
        let last_step =
            (settings.epochs * steps_per_epoch).min(settings.max_steps.unwrap_or(u64::MAX));
        let mut log = match self.ranks.is_first() {
            true => Some(RunLog::open(&self.run, self.state.step, last_step)?),
            false => None,
        };
        if self.state.step >= last_step {
            return self.finish(&mut log);
        }
        let start_message =
            start_message.map(|text| StartMessage::new(text, self.state.step, last_step));
        let mut loop_state = LoopState {
            samples,
            steps_per_epoch,
            last_step,
            loss: settings.loss(self.config.multi_label),
            schedule: settings.schedule(),
            placeholders: self.session.placeholders(settings.missing_token)?,
            log,
            start_message,
            unread: Vec::new(),
        };
        let mut batches = Prefetcher::new(self.model.device())?;
        while self.state.epoch < self.settings().epochs {
            let ended = self.train_epoch(&mut batches, &mut loop_state, stop)?;
            if let Some(outcome) = ended {
                return Ok(outcome);
            }
        }
        self.finish(&mut loop_state.log)
    }

    /// Trains on what is left of an epoch. Returns the outcome if the run ends in it.
    fn train_epoch(
        &mut self,
        batches: &mut Prefetcher,
        loop_state: &mut LoopState,
        stop: &AtomicBool,
    ) -> Result<Option<Outcome>> {
        if self.state.consumed == 0 {
            method::start_epoch(
                &mut self.model,
                self.session,
                &self.config,
                self.state.epoch,
            )?;
            if method::starts_another_model(&self.config, self.state.epoch) {
                self.state.best = None;
            }
        }
        let options = LoaderOptions {
            share: self.ranks.share(),
            ..self.session.train_loader(self.settings())
        };
        let loader = Loader::new(
            &self.session.shards,
            options,
            self.state.epoch,
            self.state.consumed,
        )?;
        batches.start(loader)?;
        loop {
            let start = Instant::now();
            let Some(prefetched) = batches.next() else {
                return Ok(None);
            };
            let data_wait = start.elapsed();
            let mut prefetched = prefetched?;
            self.prepare_batch(&mut prefetched.batch, loop_state)?;
            let epochs = self.settings().epochs;
            let lr = loop_state
                .schedule
                .rate(self.state.step, loop_state.steps_per_epoch, epochs);
            let asked_to_stop = stop.load(Ordering::Relaxed);
            let (losses, stopped) = self.step(&prefetched, &loop_state.loss, lr, asked_to_stop)?;
            self.state.step += 1;
            self.state.consumed = prefetched.batch.consumed;
            let record = StepRecord {
                step: self.state.step,
                epoch: self.state.epoch,
                lr,
                samples: prefetched.batch.ids.len(),
                elapsed: start.elapsed(),
                data_wait,
            };
            batches.reuse(prefetched);
            loop_state.unread.push((losses, record));
            let outcome = self.after_step(loop_state, stopped)?;
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
    }

    /// Checks the gradients before the first step, applies modality dropout, and fills in empty
    /// inputs for missing modalities where the method needs them.
    fn prepare_batch(&mut self, batch: &mut Batch, loop_state: &LoopState) -> Result<()> {
        let own = self.ranks.share().range(batch.ids.len());
        if self.state.step == 0 {
            let (options, loss) = (self.step_options(), &loop_state.loss);
            let weights = &self.config.weights;
            let checked = check_gradients(
                &mut self.model,
                self.session,
                batch,
                own.clone(),
                &options,
                loss,
                weights,
            );
            self.ranks.agree(checked)?;
        }
        if self.modality_dropout {
            drop_modality(batch, self.settings().seed, self.state.step);
        }
        if let Some(placeholders) = &loop_state.placeholders {
            placeholders.fill(batch, own);
        }
        Ok(())
    }

    /// Reads losses, logs, evaluates and writes a checkpoint, each if it is due. Returns the
    /// outcome if the run ends with this step.
    fn after_step(&mut self, loop_state: &mut LoopState, stopped: bool) -> Result<Option<Outcome>> {
        if loop_state.unread.len() >= self.loss_read_interval() {
            self.read_losses(loop_state)?;
        }
        let at_end = self.state.step >= loop_state.last_step;
        if self.state.consumed >= loop_state.samples {
            self.read_losses(loop_state)?;
            self.state.epoch += 1;
            self.state.consumed = 0;
            self.end_epoch(&mut loop_state.log)?;
        } else if stopped || at_end || self.checkpoint_is_due() {
            self.read_losses(loop_state)?;
            if let Some(log) = &mut loop_state.log {
                self.checkpoint(log)?;
            }
        }
        if let Some(log) = &mut loop_state.log {
            log.flush()?;
            // A GPU may still be computing steps whose losses are not read. These are not finished.
            if loop_state.unread.is_empty()
                && let Some(message) = &mut loop_state.start_message
                && let Some(line) = message.line(self.state.step)
            {
                log.print(&line);
                loop_state.start_message = None;
            }
        }
        if at_end {
            return self.finish(&mut loop_state.log).map(Some);
        }
        Ok(stopped.then_some(Outcome::Stopped))
    }

    fn checkpoint_is_due(&self) -> bool {
        let interval = self.settings().checkpoint_every;
        interval > 0 && self.state.step.is_multiple_of(interval)
    }

    /// Ends a run that has made its last step. If all epochs are finished and there is no
    /// validation split to choose the best checkpoint by, the last one becomes `best`, and the test
    /// split is evaluated once for the log.
    fn finish(&self, log: &mut Option<RunLog>) -> Result<Outcome> {
        let all_epochs = self.state.epoch >= self.settings().epochs;
        let has_val = !self.session.shards.split(Split::Val).is_empty();
        if !all_epochs || has_val {
            return Ok(Outcome::Finished);
        }
        let has_best = || self.run.join(checkpoint::BEST).is_dir();
        if self.ranks.first_decides(has_best) {
            return Ok(Outcome::Finished);
        }
        if !self.session.shards.split(Split::Test).is_empty() {
            self.evaluate(Split::Test, log)?;
        }
        if let Some(log) = log {
            log.flush()?;
            checkpoint::mark_best(&self.run, &checkpoint::latest(&self.run)?)?;
        }
        Ok(Outcome::Finished)
    }

    /// Makes one step on this rank's part of a batch, in micro-batches. Returns the losses of the
    /// whole batch, and whether any rank is to stop.
    fn step(
        &mut self,
        prefetched: &PrefetchedBatch,
        loss: &LossConfig,
        lr: f64,
        stop: bool,
    ) -> Result<(Tensor, bool)> {
        let (batch, uploaded) = (&prefetched.batch, prefetched.uploaded());
        let samples = batch.ids.len();
        let range = self.ranks.share().range(samples);
        let size = self.settings().micro_batch.unwrap_or(samples);
        let options = self.step_options();
        if self.model.method() != Method::U2a {
            let optimizer = &mut self.optimizer;
            let losses = method::step(&mut self.model, optimizer, prefetched, &options, loss, lr)?;
            return Ok((losses, stop));
        }
        let summed =
            micro_batch::accumulate(&self.model, batch, uploaded, range, size, &options, loss)?;
        let (mut grads, losses) = summed.unzip();
        let (losses, stop) = match losses {
            Some(losses) if self.ranks.count() == 1 => (losses, stop),
            losses => {
                let grads = grads.get_or_insert_default();
                all_reduce_gradients(self.ranks, &self.model, grads, losses, stop)?
            }
        };
        let grads = grads.unwrap_or_default();
        self.model.update(&mut self.optimizer, grads, lr)?;
        Ok((losses, stop))
    }

    /// Steps after which their losses are read.
    fn loss_read_interval(&self) -> usize {
        match self.model.device().is_cpu() {
            true => 1,
            false => GPU_LOSS_READ_INTERVAL,
        }
    }

    /// Reads the losses of all steps since the last time and logs them. A loss that is not finite
    /// is an error, before any checkpoint can contain its effect.
    fn read_losses(&self, loop_state: &mut LoopState) -> Result<()> {
        let (losses, mut records): (Vec<Tensor>, Vec<StepRecord>) =
            loop_state.unread.drain(..).unzip();
        let losses = wait_for_steps(&mut records, || Losses::read(&losses))?;
        // All ranks have the same losses; the first one reports them.
        let Some(log) = &mut loop_state.log else {
            return Ok(());
        };
        for (losses, record) in losses.into_iter().zip(records) {
            if !losses.loss.is_finite() {
                bail!(
                    "{}: the loss is {} at step {}; lower lr (it is {:e}) or look at the data with `ingest inspect`",
                    self.run.display(),
                    losses.loss,
                    record.step,
                    record.lr
                );
            }
            log.step(&record, &losses)?;
        }
        Ok(())
    }

    fn step_options(&self) -> StepOptions {
        let settings = self.settings();
        StepOptions {
            seed: settings.seed,
            step: self.state.step as u32,
            encoder_dropout: settings.encoder_dropout,
            stored: settings.keep,
            micro_batch: MicroBatch::FULL_BATCH,
        }
    }

    /// Writes the log to the disk, then a checkpoint. A resumed run does not write the lines up to
    /// its checkpoint again.
    fn checkpoint(&mut self, log: &mut RunLog) -> Result<PathBuf> {
        log.sync()?;
        self.write_checkpoint()
    }

    fn write_checkpoint(&mut self) -> Result<PathBuf> {
        self.optimizer.fetch_moments()?;
        checkpoint::write(
            &self.run,
            &self.model,
            &self.optimizer,
            &self.state,
            self.settings(),
            &self.config.weights,
        )
    }

    /// Evaluates the validation split, if there is one, and writes a checkpoint. The checkpoint
    /// with the best score becomes `best`.
    fn end_epoch(&mut self, log: &mut Option<RunLog>) -> Result<()> {
        let mut is_best = false;
        if !self.session.shards.split(Split::Val).is_empty() {
            let score = self.evaluate(Split::Val, log)?;
            is_best = self.state.best.is_none_or(|(best, _)| score > best);
            if is_best {
                self.state.best = Some((score, self.state.step));
            }
        }
        let Some(log) = log else {
            return Ok(());
        };
        let path = self.checkpoint(log)?;
        if is_best {
            checkpoint::mark_best(&self.run, &path)?;
        }
        Ok(())
    }

    /// Evaluates a split, logs the metrics and returns the main one. The validation split is masked
    /// as the training split is, so that the best checkpoint is the best one for such data.
    fn evaluate(&self, split: Split, log: &mut Option<RunLog>) -> Result<f64> {
        let options = EvalOptions {
            split,
            mask: self
                .session
                .val_mask
                .clone()
                .filter(|_| split == Split::Val),
            missing_token: self.settings().missing_token,
            ..EvalOptions::default()
        };
        let evaluator = Evaluator::new(self.session, &self.config, &options)?;
        let all_reduce = |numbers: &mut Vec<f32>| self.ranks.all_reduce(numbers);
        let metrics = evaluator.metrics(&self.model, self.ranks.share(), all_reduce)?;
        if let Some(log) = log {
            log.evaluation(self.state.step, self.state.epoch, split, &metrics)?;
        }
        Ok(metrics.values[report::main_metric(self.config.multi_label)])
    }
}

/// Reads something from the device, and adds the time of that to the last of the steps that it
/// waits for. A step on a GPU only queues its work, so that the times of steps add up to the time
/// of the work with this alone.
fn wait_for_steps<T>(steps: &mut [StepRecord], read: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = read()?;
    if let Some(last) = steps.last_mut() {
        last.elapsed += start.elapsed();
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_of_steps_includes_the_wait_for_the_device() {
        let step = |step| StepRecord {
            step,
            epoch: 0,
            lr: 0.0,
            samples: 4,
            elapsed: Duration::from_millis(1),
            data_wait: Duration::ZERO,
        };
        let mut steps = [step(1), step(2)];
        let wait = Duration::from_millis(30);
        let read = || {
            std::thread::sleep(wait);
            Ok(7)
        };
        assert_eq!(wait_for_steps(&mut steps, read).unwrap(), 7);
        assert_eq!(steps[0].elapsed, Duration::from_millis(1));
        assert!(steps[1].elapsed >= wait, "{:?}", steps[1].elapsed);
        assert_eq!(wait_for_steps(&mut [], || Ok(8)).unwrap(), 8);
    }
}
