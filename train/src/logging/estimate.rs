//! The estimated time of a run, from its first steps.

use super::format::format_duration;
use std::time::Instant;
use util::number::thousands;

/// Steps that are timed. The steps before the first call of [`StartMessage::line`] are not: they
/// fill buffers and start threads.
const TIMED_STEPS: u64 = 3;

/// A message about a run that is printed together with the estimated time of the run.
pub struct StartMessage {
    text: String,
    /// The number of the run's last step.
    total: u64,
    /// Whether so few steps are left that the message is printed without an estimate.
    short: bool,
    /// The step after which the timing started, and when that step was finished.
    start: Option<(u64, Instant)>,
}

impl StartMessage {
    /// Makes the message of a run that has finished `step` of `total` steps.
    pub fn new(text: &str, step: u64, total: u64) -> StartMessage {
        StartMessage {
            text: text.to_string(),
            total,
            short: total - step <= TIMED_STEPS,
            start: None,
        }
    }

    /// Returns the line to print once enough steps are timed. `step` has just been finished, with
    /// its losses known. The estimate is for all steps that are left, at the pace of those since
    /// the first call.
    pub fn line(&mut self, step: u64) -> Option<String> {
        if self.short || step >= self.total {
            return Some(self.text.clone());
        }
        let Some((first, start)) = self.start else {
            self.start = Some((step, Instant::now()));
            return None;
        };
        let timed = step - first;
        (timed >= TIMED_STEPS)
            .then(|| self.with_estimate(start.elapsed().as_secs_f64() / timed as f64, step))
    }

    fn with_estimate(&self, seconds_per_step: f64, step: u64) -> String {
        let left = self.total - step;
        format!(
            "{}; about {} for {} more steps",
            self.text,
            format_duration(seconds_per_step * left as f64),
            thousands(left)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_waits_for_timed_steps() {
        let mut message = StartMessage::new("device: cpu", 10, 1000);
        assert_eq!(message.line(11), None);
        assert_eq!(message.line(12), None);
        assert_eq!(message.line(13), None);
        let line = message.line(14).unwrap();
        assert_eq!(line, "device: cpu; about 0 s for 986 more steps");
        assert_eq!(
            StartMessage::new("x", 0, 20_001).with_estimate(0.6, 1),
            "x; about 3 h 20 min for 20,000 more steps"
        );
        // With too few steps for an estimate, the message comes at once.
        assert_eq!(StartMessage::new("x", 0, 3).line(1).as_deref(), Some("x"));
    }
}
