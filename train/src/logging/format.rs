//! Durations for people.

/// Formats a duration in its two largest units, such as `45 s`, `12 min`, `3 h 20 min` or
/// `2 days 5 h`.
pub fn format_duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    let (days, hours) = (minutes / 1440, minutes / 60);
    if seconds < 90.0 {
        format!("{seconds:.0} s")
    } else if hours < 2 {
        format!("{minutes} min")
    } else if days < 2 {
        format!("{hours} h {} min", minutes % 60)
    } else {
        format!("{days} days {} h", hours % 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, words) in [
            (0.4, "0 s"),
            (89.0, "89 s"),
            (90.0, "2 min"),
            (7169.0, "119 min"),
            (12_000.0, "3 h 20 min"),
            (2.0 * 86_400.0 + 5.4 * 3600.0, "2 days 5 h"),
        ] {
            assert_eq!(format_duration(seconds), words);
        }
    }
}
