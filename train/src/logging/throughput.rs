//! Samples per second, and the share of the time in which training waits for data.

use super::StepRecord;

/// Sums over the steps, in which each step counts less the longer ago it is.
#[derive(Default)]
pub struct Throughput {
    samples: f64,
    seconds: f64,
    data_wait: f64,
}

impl Throughput {
    /// The factor of all sums after each step, so that about the last 50 steps count.
    const DECAY: f64 = 0.98;

    /// Adds a step.
    pub fn add(&mut self, step: &StepRecord) {
        let add = |sum: &mut f64, value: f64| *sum = *sum * Self::DECAY + value;
        add(&mut self.samples, step.samples as f64);
        add(&mut self.seconds, step.elapsed.as_secs_f64());
        add(&mut self.data_wait, step.data_wait.as_secs_f64());
    }

    /// Samples per second.
    pub fn samples_per_second(&self) -> f64 {
        self.samples / self.seconds.max(1e-9)
    }

    /// The share of the time in which training waits for data.
    pub fn data_wait_share(&self) -> f64 {
        self.data_wait / self.seconds.max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_slow_first_step_loses_its_weight() {
        let step = |elapsed, data_wait| StepRecord {
            step: 1,
            epoch: 0,
            lr: 0.0,
            samples: 8,
            elapsed: Duration::from_millis(elapsed),
            data_wait: Duration::from_millis(data_wait),
        };
        let mut throughput = Throughput::default();
        throughput.add(&step(9000, 9000));
        assert_eq!(throughput.data_wait_share(), 1.0);
        (0..400).for_each(|_| throughput.add(&step(100, 25)));
        let rate = throughput.samples_per_second();
        assert!((rate - 80.0).abs() < 2.0, "{rate}");
        assert!((throughput.data_wait_share() - 0.25).abs() < 0.02);
    }
}
