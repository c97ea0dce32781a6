//! Orders that depend on names and seeds alone, not on files, folders or threads.

use sha2::{Digest, Sha256};

/// SHA-256 of the parts, each ended by a zero byte: the rank of an item under a key.
///
/// The same in any language: `sha256(b"part\0part\0...id\0")`.
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

/// The positions of `ids` in ascending rank.
pub fn by_rank(parts: &[&str], ids: &[impl AsRef<str>]) -> Vec<u32> {
    let mut ranked: Vec<([u8; 32], u32)> = ids
        .iter()
        .enumerate()
        .map(|(i, id)| (rank(parts, id.as_ref()), i as u32))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, i)| i).collect()
}

/// The order of one epoch: a shuffle of the whole split that depends on (seed, epoch, set of ids)
/// and nothing else. Positions refer to `ids`.
pub fn epoch_order(seed: u64, epoch: u64, ids: &[impl AsRef<str>]) -> Vec<u32> {
    by_rank(&["u2a-order", &seed.to_string(), &epoch.to_string()], ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_seed_epoch_and_ids_alone() {
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
    fn parts_do_not_run_into_each_other() {
        assert_ne!(rank(&["a", "bc"], "d"), rank(&["ab", "c"], "d"));
    }
}
