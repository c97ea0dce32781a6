//! The column `error` of a shard.

use datasets::Modality;

/// Splits the text of a row's column `error`, such as "audio: silent; video: no such file (a.mp4)",
/// into the problems of each modality, in their order.
pub fn problems(error: &str) -> Vec<(Modality, &str)> {
    let mut starts = Vec::new();
    for modality in Modality::ALL {
        let name = format!("{modality}: ");
        let found = error.match_indices(&name).map(|(at, _)| at);
        // The detail of a problem may have the same words in it, but after "; " only by bad luck.
        let starting = found.filter(|&at| at == 0 || error[..at].ends_with("; "));
        starts.extend(starting.map(|at| (at, at + name.len(), modality)));
    }
    starts.sort_unstable();
    let ends = starts.iter().skip(1).map(|(at, ..)| at - "; ".len());
    let ends: Vec<usize> = ends.chain([error.len()]).collect();
    let parts = starts.into_iter().zip(ends);
    parts
        .map(|((_, start, modality), end)| (modality, &error[start..end]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Modality::{Audio, Video};

    #[test]
    fn problems_are_split_by_modality() {
        let one = "audio: cannot be decoded (a.wav: 3 lost; b.mp4: no audio: none)";
        assert_eq!(problems(one), [(Audio, &one[7..])]);
        assert_eq!(
            problems("audio: silent; audio: cut short; video: no such file (x; y.mp4)"),
            [
                (Audio, "silent"),
                (Audio, "cut short"),
                (Video, "no such file (x; y.mp4)")
            ]
        );
        assert_eq!(problems("something else"), []);
        assert_eq!(problems(""), []);
    }
}
