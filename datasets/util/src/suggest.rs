//! What a mistyped word may have been meant to be.

/// ` (did you mean "ave"?)` for the candidate with the fewest edits from a word (Levenshtein distance). Nothing where
/// these are more than one and a third of the longer word's length.
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
    fn typos_are_recognised_and_nothing_far() {
        let names = ["food-101", "mm-imdb", "kinetics-sound", "ave", "crema-d"];
        let hint = |word| did_you_mean(word, names);
        assert_eq!(hint("cremad"), " (did you mean \"crema-d\"?)");
        assert!(hint("kinetics-sounds").contains("kinetics-sound"));
        assert!(hint("Food101").contains("food-101"));
        assert_eq!(hint("imagenet-1k"), "");
    }
}
