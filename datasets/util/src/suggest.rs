//! Suggestions for mistyped words.

/// Returns ` (did you mean "ave"?)` with the candidate of the smallest Levenshtein distance from a
/// word, or an empty text if that distance is above 1 plus a third of the longer word's length.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let word = word.to_ascii_lowercase();
    let nearest = candidates
        .into_iter()
        .map(|one| (strsim::levenshtein(&word, one), one))
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, one)| distance <= 1 + one.len().max(word.len()) / 3);
    nearest.map_or_else(String::new, |(_, one)| {
        format!(" (did you mean \"{one}\"?)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_words_are_suggested() {
        let names = ["food-101", "mm-imdb", "kinetics-sound", "ave", "crema-d"];
        let hint = |word| did_you_mean(word, names);
        assert_eq!(hint("cremad"), " (did you mean \"crema-d\"?)");
        assert!(hint("kinetics-sounds").contains("kinetics-sound"));
        assert!(hint("Food101").contains("food-101"));
        assert_eq!(hint("imagenet-1k"), "");
    }
}
