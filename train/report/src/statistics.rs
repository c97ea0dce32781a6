//! Statistics over runs with different seeds.

use serde::Serialize;

/// Returns the mean, or `None` if there are no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Returns the standard deviation of a sample (with n - 1), or `None` for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// A mean over runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Average {
    /// The mean.
    pub mean: f64,
    /// The standard deviation (with n - 1); `None` for one value.
    pub sd: Option<f64>,
    /// The number of values.
    pub count: usize,
}

impl Average {
    /// Returns the average of values, or `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Average> {
        Some(Average {
            mean: mean(values)?,
            sd: standard_deviation(values),
            count: values.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations() {
        assert_eq!(mean(&[]), None);
        assert_eq!(standard_deviation(&[3.0]), None);
        // By hand: mean 4, squares 4 + 0 + 4 over 2.
        assert_eq!(mean(&[2.0, 4.0, 6.0]), Some(4.0));
        assert_eq!(standard_deviation(&[2.0, 4.0, 6.0]), Some(2.0));
        let average = Average::of(&[2.0, 4.0, 6.0]).unwrap();
        assert_eq!(
            (average.mean, average.sd, average.count),
            (4.0, Some(2.0), 3)
        );
        assert_eq!(Average::of(&[]), None);
    }
}
