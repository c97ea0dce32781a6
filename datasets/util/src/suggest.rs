//! What a mistyped word may have been meant to be.

/// The candidate with the fewest edits from a word (Levenshtein distance), if these are few enough: at most a third
/// of the longer word's length, and one.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|one| (strsim::levenshtein(&word, one), one))
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, one)| distance <= 1 + one.len().max(word.len()) / 3)
        .map(|(_, one)| one)
}

/// ` (did you mean "ave"?)`, or nothing.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |one| format!(" (did you mean \"{one}\"?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typos_and_nothing_far() {
        let names = ["food-101", "mm-imdb", "kinetics-sound", "ave", "crema-d"];
        assert_eq!(nearest("cremad", names), Some("crema-d"));
        assert_eq!(nearest("kinetics-sounds", names), Some("kinetics-sound"));
        assert_eq!(nearest("Food101", names), Some("food-101"));
        assert_eq!(nearest("imagenet-1k", names), None);
        assert_eq!(did_you_mean("avee", names), " (did you mean \"ave\"?)");
        assert_eq!(did_you_mean("imagenet-1k", names), "");
    }
}
