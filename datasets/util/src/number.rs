//! Numbers for people.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated_by_commas() {
        let numbers = [0, 12, 999, 1000, 25_959, 1_234_567];
        let texts = ["0", "12", "999", "1,000", "25,959", "1,234,567"];
        assert_eq!(numbers.map(thousands), texts);
    }
}
