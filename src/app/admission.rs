//! Places for requests under way, shared out between tenants or callers.
//!
//! The bound of one of them depends on how many places are free (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998). By itself, one has nearly all
//! places; the more of them others take, the fewer it may have; and a few are free for one that comes anew.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One may hold so many times as many places as are free: by itself, 15 of 16.
const THRESHOLD: usize = 15;

/// A bounded number of places.
pub(super) struct Admission<K: Eq + Hash> {
    capacity: usize,
    held: Mutex<Held<K>>,
}

struct Held<K> {
    all: usize,
    by_key: HashMap<K, usize>,
}

/// A place, free again once it is dropped.
#[must_use]
pub(super) struct Place<K: Eq + Hash> {
    admission: Arc<Admission<K>>,
    key: Option<K>,
}

impl<K: Eq + Hash + Clone> Admission<K> {
    /// All places are free.
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, held: Mutex::new(Held { all: 0, by_key: HashMap::new() }) })
    }

    /// A place, unless the key has its share or none is free.
    pub(super) fn enter(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        let mut held = self.lock();
        let free = self.capacity.saturating_sub(held.all);
        let own = held.by_key.get(&key).copied().unwrap_or_default();
        if free == 0 || own >= free.saturating_mul(THRESHOLD) {
            return None;
        }
        held.all += 1;
        held.by_key.insert(key.clone(), own + 1);
        Some(Place { admission: Arc::clone(self), key: Some(key) })
    }
}

impl<K: Eq + Hash> Admission<K> {
    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many places are free.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.capacity - self.lock().all
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut held = self.admission.lock();
        held.all -= 1;
        if let Some(own) = held.by_key.get_mut(&key) {
            *own -= 1;
            if *own == 0 {
                held.by_key.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(admission: &Arc<Admission<&'static str>>, key: &'static str) -> Vec<Place<&'static str>> {
        std::iter::from_fn(|| admission.enter(key)).collect()
    }

    #[test]
    fn a_lone_tenant_has_nearly_all_places_and_another_one_still_enters() {
        let admission = Admission::new(1024);
        let flood = enter(&admission, "flood");
        assert_eq!(flood.len(), 960);
        let other = enter(&admission, "other");
        assert_eq!(other.len(), 60, "of the 64 that were free");
        drop(flood);
        assert_eq!(enter(&admission, "other").len(), 900, "and of all, once the first one is gone");
        drop(other);
        assert_eq!((admission.free(), admission.lock().by_key.len()), (1024, 0), "all were given back");
    }

    #[test]
    fn few_places_can_all_be_taken() {
        let admission = Admission::new(2);
        let places = enter(&admission, "one");
        assert_eq!(places.len(), 2);
        assert!(admission.enter("other").is_none(), "none is free");
    }
}
