//! Numbers and durations for people.

/// Formats a number with commas between its thousands, such as `172,159,519`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

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

    #[test]
    fn thousands_are_separated_by_commas() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(123), "123");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
