//! Numbers as the page writes them: scores in per cent with one decimal.

use crate::statistics::Average;

/// Formats a fraction in per cent.
pub fn percent(fraction: f64) -> String {
    format!("{:.1}", 100.0 * fraction)
}

/// Formats a mean of fractions in per cent, with its standard deviation where there is one.
pub fn percent_average(average: &Average) -> String {
    match average.sd {
        Some(sd) => format!("{} \u{b1} {}", percent(average.mean), percent(sd)),
        None => percent(average.mean),
    }
}

/// Rounds to six significant digits, which are more than a figure can show.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_per_cent_with_one_decimal() {
        let average = |values: &[f64]| percent_average(&Average::of(values).unwrap());
        assert_eq!(average(&[0.5]), "50.0");
        assert_eq!(average(&[0.5, 0.7, 0.6]), "60.0 \u{b1} 10.0");
        assert_eq!(rounded(1234.56789), 1234.57);
        assert_eq!(rounded(-0.000_012_345_67), -0.000_012_345_7);
    }
}
