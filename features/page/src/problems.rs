//! The column `error` of a shard.

use datasets::InputName;

/// Splits the text of a row's column `error`, such as "audio: silent; video: no such file (a.mp4)",
/// into the problems of each input, in their order.
pub fn problems(error: &str) -> Vec<(InputName, &str)> {
    let mut starts = Vec::new();
    for input in InputName::all() {
        let name = format!("{input}: ");
        let found = error.match_indices(&name).map(|(at, _)| at);
        // The detail of a problem may have the same words in it, but after "; " only by bad luck.
        let starting = found.filter(|&at| at == 0 || error[..at].ends_with("; "));
        starts.extend(starting.map(|at| (at, at + name.len(), input)));
    }
    starts.sort_unstable();
    let ends = starts.iter().skip(1).map(|(at, ..)| at - "; ".len());
    let ends: Vec<usize> = ends.chain([error.len()]).collect();
    let parts = starts.into_iter().zip(ends);
    parts
        .map(|((_, start, input), end)| (input, &error[start..end]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::Modality;

    #[test]
    fn problems_are_split_by_modality() {
        let [audio, video] = [Modality::Audio, Modality::Video].map(InputName::from);
        let one = "audio: cannot be decoded (a.wav: 3 lost; b.mp4: no audio: none)";
        assert_eq!(problems(one), [(audio, &one[7..])]);
        assert_eq!(
            problems("audio: silent; audio: cut short; video: no such file (x; y.mp4)"),
            [
                (audio, "silent"),
                (audio, "cut short"),
                (video, "no such file (x; y.mp4)")
            ]
        );
        let views = problems("image_a: too small; image_b: no such file (x)");
        let names: Vec<String> = views.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["image_a", "image_b"]);
        assert_eq!(problems("something else"), []);
        assert_eq!(problems(""), []);
    }
}
