//! Splits where the data bring none: a fixed share of every class, by hash.
//!
//! Who is drawn depends on the key, the set of ids and their classes; not on their order, the machine or a seed that
//! somebody has to remember.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Draws `total` of `items` (id, class). Every class gives its proportional quota (largest remainder, ties to the
/// lower class); within a class the ids with the smallest SHA-256 of (key, id) go.
///
/// Returns one flag per item. `total` beyond the number of items draws them all.
pub(crate) fn draw(key: &str, items: &[(&str, u32)], total: usize) -> Vec<bool> {
    let mut drawn = vec![false; items.len()];
    if items.is_empty() {
        return drawn;
    }
    let total = total.min(items.len());
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, &(_, class)) in items.iter().enumerate() {
        classes.entry(class).or_default().push(index);
    }
    let mut quotas: Vec<(u32, usize, usize)> = classes
        .iter()
        .map(|(&class, members)| {
            let share = members.len() * total;
            (class, share / items.len(), share % items.len())
        })
        .collect();
    let given: usize = quotas.iter().map(|&(_, quota, _)| quota).sum();
    // Stable sort: equal remainders stay in class order.
    quotas.sort_by_key(|&(_, _, remainder)| std::cmp::Reverse(remainder));
    for (_, quota, _) in quotas.iter_mut().take(total - given) {
        *quota += 1;
    }
    for (class, quota, _) in quotas {
        let members = &classes[&class];
        let mut ranked: Vec<([u8; 32], usize)> = members
            .iter()
            .map(|&index| (rank(key, items[index].0), index))
            .collect();
        ranked.sort_unstable();
        for &(_, index) in ranked.iter().take(quota) {
            drawn[index] = true;
        }
    }
    drawn
}

/// The digest that ranks an id.
fn rank(key: &str, id: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"u2a-split\0");
    hash.update(key.as_bytes());
    hash.update(b"\0");
    hash.update(id.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_proportional_and_order_does_not_matter() {
        let ids: Vec<String> = (0..100).map(|n| format!("id{n}")).collect();
        let mut items: Vec<(&str, u32)> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| (id.as_str(), u32::from(n >= 70) + u32::from(n >= 95)))
            .collect();
        let drawn = draw("k", &items, 10);
        let per_class = |items: &[(&str, u32)], drawn: &[bool]| {
            let mut counts = [0; 3];
            for (item, _) in items.iter().zip(drawn).filter(|(_, drawn)| **drawn) {
                counts[item.1 as usize] += 1;
            }
            counts
        };
        // 7, 2.5 and 0.5: the place left over goes to the lower class of the equal remainders.
        assert_eq!(per_class(&items, &drawn), [7, 3, 0]);
        let chosen = |items: &[(&str, u32)], drawn: &[bool]| {
            let mut names: Vec<String> = items
                .iter()
                .zip(drawn)
                .filter(|(_, drawn)| **drawn)
                .map(|(item, _)| item.0.to_owned())
                .collect();
            names.sort();
            names
        };
        let before = chosen(&items, &drawn);
        items.reverse();
        let drawn = draw("k", &items, 10);
        assert_eq!(chosen(&items, &drawn), before);
        let other = draw("l", &items, 10);
        assert_ne!(chosen(&items, &other), before);
    }

    #[test]
    fn draws_all_and_none() {
        let items = [("a", 0), ("b", 1)];
        assert_eq!(draw("", &items, 0), [false, false]);
        assert_eq!(draw("", &items, 9), [true, true]);
        assert!(draw("", &[], 3).is_empty());
    }

    /// A split that users have trained on must never move: SHA-256 by Python's hashlib over the same bytes.
    #[test]
    fn ranking_is_pinned() {
        let hex: String = rank("crema-d", "1001_IEO_NEU_XX")[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "22e0fd72");
    }
}
