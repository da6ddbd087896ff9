//! The customers that one call asks for.

use std::collections::HashSet;

use super::CustomerId;

/// The ids of one call: at least one, none twice, in the order in which they were first named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerBatch(Vec<CustomerId>);

/// Why ids do not make a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    /// No id at all.
    #[error("a batch names at least one customer")]
    Empty,
    /// More different ids than a batch may hold.
    #[error("a batch names at most {max} customers")]
    TooMany {
        /// How many it may hold.
        max: usize,
    },
}

impl CustomerBatch {
    const FEW: usize = 16;

    /// Collapses duplicates first, then holds the rest to `1..=max`.
    pub fn new(ids: impl IntoIterator<Item = CustomerId>, max: usize) -> Result<Self, InvalidBatch> {
        let mut unique: Vec<_> = ids.into_iter().collect();
        // Of a few, a look at each pair is quicker than a hash of each.
        if unique.len() <= Self::FEW {
            let mut kept = 0;
            for at in 0..unique.len() {
                if !unique[..kept].contains(&unique[at]) {
                    unique.swap(kept, at);
                    kept += 1;
                }
            }
            unique.truncate(kept);
        } else {
            let mut seen = HashSet::with_capacity(unique.len());
            unique.retain(|id| seen.insert(*id));
        }
        match unique.len() {
            0 => Err(InvalidBatch::Empty),
            n if n > max => Err(InvalidBatch::TooMany { max }),
            _ => Ok(Self(unique)),
        }
    }

    /// The ids in the order asked for.
    pub fn ids(&self) -> &[CustomerId] {
        &self.0
    }

    /// The same, to be kept.
    pub fn into_ids(self) -> Vec<CustomerId> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_holds_each_id_once_in_the_order_first_named(numbers in proptest::collection::vec(1u128..40, 0..60), max in 1usize..30) {
            let ids: Vec<_> = numbers.iter().filter_map(|n| CustomerId::from_uuid(Uuid::from_u128(*n))).collect();
            let distinct: HashSet<_> = ids.iter().copied().collect();
            match CustomerBatch::new(ids.clone(), max) {
                Ok(batch) => {
                    prop_assert!(distinct.len() <= max);
                    prop_assert_eq!(batch.ids().iter().copied().collect::<HashSet<_>>(), distinct);
                    let position = |id: &CustomerId| ids.iter().position(|other| other == id);
                    prop_assert!(batch.ids().is_sorted_by_key(position));
                }
                Err(InvalidBatch::Empty) => prop_assert!(ids.is_empty()),
                Err(InvalidBatch::TooMany { .. }) => prop_assert!(distinct.len() > max),
            }
        }
    }
}
