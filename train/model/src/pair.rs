//! Two values, one for each modality of a dataset: m1 and m2 in the paper.

use std::ops::{Index, IndexMut};

/// The place of a modality in its dataset's pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The first modality.
    M1,
    /// The second modality.
    M2,
}

impl Slot {
    /// Both places in order.
    pub const ALL: [Slot; 2] = [Slot::M1, Slot::M2];

    /// Returns the place of the other modality.
    pub fn other(self) -> Slot {
        match self {
            Slot::M1 => Slot::M2,
            Slot::M2 => Slot::M1,
        }
    }

    /// Returns the index of this modality in an array of two, such as [`features::Batch::inputs`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A value for each of the two modalities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair<T> {
    /// The value of the first modality.
    pub m1: T,
    /// The value of the second modality.
    pub m2: T,
}

impl<T> Pair<T> {
    /// Computes the value of each modality; the first error is returned.
    pub fn try_from_fn<E>(mut f: impl FnMut(Slot) -> Result<T, E>) -> Result<Pair<T>, E> {
        Ok(Pair {
            m1: f(Slot::M1)?,
            m2: f(Slot::M2)?,
        })
    }

    /// Borrows both values.
    pub fn as_ref(&self) -> Pair<&T> {
        Pair {
            m1: &self.m1,
            m2: &self.m2,
        }
    }

    /// Applies `f` to both values.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Pair<U> {
        Pair {
            m1: f(self.m1),
            m2: f(self.m2),
        }
    }

    /// Applies `f` to both values; the first error is returned.
    pub fn try_map<U, E>(self, mut f: impl FnMut(T) -> Result<U, E>) -> Result<Pair<U>, E> {
        Ok(Pair {
            m1: f(self.m1)?,
            m2: f(self.m2)?,
        })
    }

    /// Joins the values of two pairs by modality.
    pub fn zip<U>(self, other: Pair<U>) -> Pair<(T, U)> {
        Pair {
            m1: (self.m1, other.m1),
            m2: (self.m2, other.m2),
        }
    }

    /// Returns both values with their places.
    pub fn entries(self) -> [(Slot, T); 2] {
        [(Slot::M1, self.m1), (Slot::M2, self.m2)]
    }
}

impl<T> Index<Slot> for Pair<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        match slot {
            Slot::M1 => &self.m1,
            Slot::M2 => &self.m2,
        }
    }
}

impl<T> IndexMut<Slot> for Pair<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        match slot {
            Slot::M1 => &mut self.m1,
            Slot::M2 => &mut self.m2,
        }
    }
}

impl<T> From<[T; 2]> for Pair<T> {
    fn from([m1, m2]: [T; 2]) -> Pair<T> {
        Pair { m1, m2 }
    }
}

impl<T> From<Pair<T>> for [T; 2] {
    fn from(pair: Pair<T>) -> [T; 2] {
        [pair.m1, pair.m2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_with_their_modality() {
        let pair = Pair::from([1, 2]);
        assert_eq!(pair[Slot::M1.other()], 2);
        assert_eq!(pair.map(|v| 10 * v).zip(pair).m2, (20, 2));
        assert_eq!(pair.entries(), [(Slot::M1, 1), (Slot::M2, 2)]);
        assert_eq!(Slot::ALL.map(Slot::index), [0, 1]);
        assert_eq!(<[i32; 2]>::from(pair), [1, 2]);
    }
}
