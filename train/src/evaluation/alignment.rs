//! How far the mask tokens are from the class tokens that they stand for.

/// Mean squared distances between mask tokens and class tokens over the complete samples. The
/// distance is the mean over the width of the tokens.
///
/// The first number of each pair is the distance from the first encoder's mask token to the second
/// encoder's class token, the second number the reverse.
#[derive(Clone, Debug, PartialEq)]
pub struct Alignment {
    /// Complete samples.
    pub samples: usize,
    /// The distances over all of them.
    pub overall: [f64; 2],
    /// The distances over the samples of each class, in canonical order; `None` for a class without
    /// a complete sample.
    pub classes: Vec<Option<[f64; 2]>>,
}

impl Alignment {
    /// Averages the distances of complete samples, each with the classes of the sample. Returns
    /// `None` if there are none.
    pub(super) fn average(distances: &[(Vec<u32>, [f64; 2])], classes: usize) -> Option<Alignment> {
        let of_class = |class: u32| {
            let of_class = distances
                .iter()
                .filter(|(labels, _)| labels.contains(&class));
            mean(of_class.map(|(_, distance)| *distance))
        };
        Some(Alignment {
            samples: distances.len(),
            overall: mean(distances.iter().map(|(_, distance)| *distance))?,
            classes: (0..classes as u32).map(of_class).collect(),
        })
    }
}

fn mean(distances: impl Iterator<Item = [f64; 2]>) -> Option<[f64; 2]> {
    let distances: Vec<[f64; 2]> = distances.collect();
    let n = distances.len() as f64;
    (n > 0.0).then(|| [0, 1].map(|i| distances.iter().map(|d| d[i]).sum::<f64>() / n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_averaged_over_all_samples_and_over_each_class() {
        let distances = [
            (vec![0], [1.0, 10.0]),
            (vec![0, 2], [3.0, 30.0]),
            (vec![2], [5.0, 20.0]),
        ];
        let got = Alignment::average(&distances, 3).unwrap();
        assert_eq!((got.samples, got.overall), (3, [3.0, 20.0]));
        assert_eq!(got.classes, [Some([2.0, 20.0]), None, Some([4.0, 25.0])]);
        assert!(
            Alignment::average(&[], 3).is_none(),
            "no sample is complete"
        );
    }
}
