//! Draws a stratified split for data that has none: the same share of every class, by hash.
//!
//! The draw depends on the key, the ids and their classes alone. It does not depend on the order of
//! the ids or on the machine, and needs no seed.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Draws `total` of `items`, which are pairs of id and class, and returns one flag per item; a
/// larger `total` than there are items draws all.
///
/// The quota of a class is proportional to its size, rounded by the largest-remainder method with
/// ties to the lower class. In a class, the ids with the smallest SHA-256 of key and id are drawn.
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
    let assigned: usize = quotas.iter().map(|&(_, quota, _)| quota).sum();
    // The sort is stable, so equal remainders stay in class order.
    quotas.sort_by_key(|&(_, _, remainder)| std::cmp::Reverse(remainder));
    for (_, quota, _) in quotas.iter_mut().take(total - assigned) {
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

/// Returns the digest by which an id is ranked.
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
    fn quotas_are_proportional_and_independent_of_order() {
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
        // The exact quotas are 7, 2.5 and 0.5; of equal remainders the lower class is rounded up.
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
    fn all_or_none_can_be_drawn() {
        let items = [("a", 0), ("b", 1)];
        assert_eq!(draw("", &items, 0), [false, false]);
        assert_eq!(draw("", &items, 9), [true, true]);
        assert!(draw("", &[], 3).is_empty());
    }

    /// A split that users have trained on must never change. The expected value is SHA-256 of the
    /// same bytes by Python's hashlib.
    #[test]
    fn ranking_is_pinned() {
        let hex: String = rank("crema-d", "1001_IEO_NEU_XX")[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "22e0fd72");
    }
}
