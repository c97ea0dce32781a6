//! Modality dropout (section 3, "Training loss"): each training iteration on complete data uses
//! both modalities or drops one of them, so that the model learns to predict from mask tokens.

use crate::pair::Slot;
use features::Batch;
use util::rng::Rng;

/// The stream of the random generator for modality dropout.
const MODALITY_DROPOUT: u32 = 0x4d6f_4472;

/// Drops one modality of the whole batch, or none, with equal probability. A sample that has
/// nothing else keeps it.
pub fn drop_modality(batch: &mut Batch, seed: u64, step: u64) {
    let key = [MODALITY_DROPOUT, step as u32, (step >> 32) as u32];
    let dropped = match Rng::new(seed, &key).below(3) {
        1 => Slot::M1,
        2 => Slot::M2,
        _ => return,
    };
    let (m, other) = (dropped.index(), dropped.other().index());
    let only: Vec<usize> = (0..batch.ids.len())
        .filter(|i| !batch.present[*i][other])
        .collect();
    batch.inputs[m] = batch.inputs[m].as_ref().and_then(|input| input.pick(&only));
    batch
        .present
        .iter_mut()
        .filter(|has| has[other])
        .for_each(|has| has[m] = false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use features::{ModalityBatch, ModalityData};

    fn batch() -> Batch {
        let mel = |rows: Vec<usize>| {
            Some(ModalityBatch {
                data: ModalityData::Dense {
                    values: vec![0.0; rows.len()],
                    shape: vec![1, 1],
                },
                rows,
            })
        };
        Batch {
            ids: vec!["a".into(), "b".into()],
            labels: vec![vec![0], vec![1]],
            present: vec![[true, true]; 2],
            inputs: [mel(vec![0, 1]), mel(vec![0, 1])],
            consumed: 2,
        }
    }

    #[test]
    fn no_first_and_second_modality_are_dropped_equally_often() {
        let mut counts = [0; 3];
        for step in 0..3000 {
            let mut b = batch();
            drop_modality(&mut b, 5, step);
            let case = match (&b.inputs[0], &b.inputs[1]) {
                (Some(_), Some(_)) => 0,
                (None, Some(_)) => 1,
                (Some(_), None) => 2,
                (None, None) => panic!("both dropped"),
            };
            assert!(
                b.present
                    .iter()
                    .all(|has| has[0] == (case != 1) && has[1] == (case != 2))
            );
            counts[case] += 1;
        }
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_sample_never_loses_its_only_modality() {
        for step in 0..50 {
            let mut b = batch();
            b.inputs[1].as_mut().unwrap().rows.pop();
            b.present[1] = [true, false];
            drop_modality(&mut b, 5, step);
            assert!(b.present.iter().all(|has| has[0] || has[1]), "step {step}");
        }
    }
}
