//! Orders that depend on ids and seeds only, not on files, folders or threads.

use sha2::{Digest, Sha256};

/// Returns the rank of an id under a key: the SHA-256 of the key's parts and the id, each followed
/// by a zero byte.
///
/// It can be computed in any language: `sha256(b"part\0part\0...id\0")`.
pub fn rank(parts: &[&str], id: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update(id.as_bytes());
    hash.update([0]);
    hash.finalize().into()
}

/// Returns the positions in `ids` in ascending rank.
pub fn by_rank(parts: &[&str], ids: &[impl AsRef<str>]) -> Vec<u32> {
    let mut ranked: Vec<([u8; 32], u32)> = ids
        .iter()
        .enumerate()
        .map(|(i, id)| (rank(parts, id.as_ref()), i as u32))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, i)| i).collect()
}

/// Returns the order of one epoch as positions in `ids`: a shuffle of the whole split that depends
/// only on (seed, epoch, set of ids).
pub fn epoch_order(seed: u64, epoch: u64, ids: &[impl AsRef<str>]) -> Vec<u32> {
    by_rank(&["u2a-order", &seed.to_string(), &epoch.to_string()], ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_order_depends_only_on_seed_epoch_and_ids() {
        let ids: Vec<String> = (0..100).map(|i| format!("clip{i}")).collect();
        let names = |ids: &[String], order: Vec<u32>| {
            order
                .into_iter()
                .map(|i| ids[i as usize].clone())
                .collect::<Vec<_>>()
        };
        let mut backwards = ids.clone();
        backwards.reverse();
        assert_eq!(
            names(&ids, epoch_order(1, 0, &ids)),
            names(&backwards, epoch_order(1, 0, &backwards))
        );
        assert_ne!(epoch_order(1, 0, &ids), epoch_order(1, 1, &ids));
        assert_ne!(epoch_order(1, 0, &ids), epoch_order(2, 0, &ids));
        let mut sorted = epoch_order(1, 0, &ids);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn key_parts_are_separated() {
        assert_ne!(rank(&["a", "bc"], "d"), rank(&["ab", "c"], "d"));
    }
}
