//! The tier in this process: customers by id, those least used dropped first, and no fill that began before a change.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use quick_cache::Equivalent;
use quick_cache::sync::Cache;

use crate::app::ports::Cached;
use crate::domain::{CustomerId, Epoch, Known, TenantId};

/// Changes that are remembered. Fills that began before the oldest of them are refused.
const REMEMBERED: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key(TenantId, CustomerId);

/// A key that need not be made.
struct KeyRef<'a>(&'a TenantId, CustomerId);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef(&self.0, self.1).hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        self.1.hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.1 == key.1 && *self.0 == key.0
    }
}

#[derive(Clone)]
struct Entry {
    known: Known,
    version: u64,
    seen: u64,
    epoch: Epoch,
    until: Instant,
}

/// Customers, and the changes that were heard of lately.
pub(super) struct Local {
    entries: Option<Cache<Key, Entry>>,
    recent: Mutex<Recent>,
    /// How many changes there have been.
    now: AtomicU64,
}

#[derive(Default)]
struct Recent {
    /// The last one of each customer, and the highest version that one had.
    changes: HashMap<Key, (u64, u64)>,
    order: VecDeque<(u64, Key)>,
    /// The last change that is not remembered any more.
    forgotten: u64,
}

impl Local {
    /// Of at most so many customers; with none of them, it remembers changes alone.
    pub(super) fn new(capacity: usize) -> Self {
        let entries = (capacity > 0).then(|| Cache::new(capacity));
        Self { entries, recent: Mutex::default(), now: AtomicU64::new(0) }
    }

    pub(super) fn keeps(&self) -> bool {
        self.entries.is_some()
    }

    /// To be taken before a reading begins, so that it can be told later whether something has changed since.
    pub(super) fn ticket(&self) -> u64 {
        self.now.load(Ordering::Acquire)
    }

    pub(super) fn get(&self, tenant: &TenantId, id: CustomerId, epoch: Epoch, horizon: u64, now: Instant) -> Option<Known> {
        let entry = self.entries.as_ref()?.get(&KeyRef(tenant, id))?;
        (entry.epoch == epoch && entry.seen > horizon && entry.until > now).then_some(entry.known)
    }

    /// Keeps what was read under that ticket, but for what is older than a change since; and gives what is not.
    pub(super) fn put(&self, tenant: &TenantId, entries: Vec<(CustomerId, Cached)>, ticket: u64) -> Vec<(CustomerId, Cached)> {
        // To the end, so that no change comes between the look and the fill.
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let current = |(id, cached): &(CustomerId, Cached)| {
            let change = recent.changes.get(&Key(*tenant, *id));
            ticket >= recent.forgotten && change.is_none_or(|(change, version)| *change <= ticket || *version <= cached.version)
        };
        let now = Instant::now();
        let fresh: Vec<_> = entries.into_iter().filter(current).collect();
        if let Some(kept) = &self.entries {
            for (id, Cached { known, version, seen, epoch, keep }) in &fresh {
                let entry = Entry { known: known.clone(), version: *version, seen: *seen, epoch: *epoch, until: now + *keep };
                kept.insert(Key(*tenant, *id), entry);
            }
        }
        fresh
    }

    /// Drops what is older than these versions, and refuses it where it was read under an earlier ticket.
    pub(super) fn forget(&self, changed: &[(TenantId, CustomerId, u64)]) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let change = self.now.load(Ordering::Relaxed) + 1;
        for (tenant, id, version) in changed {
            let key = Key(*tenant, *id);
            if let Some(kept) = &self.entries {
                kept.remove_if(&key, |entry| entry.version < *version);
            }
            // A customer that comes back begins at version 1 again.
            let last = recent.changes.entry(key.clone()).or_default();
            *last = (change, last.1.max(*version));
            recent.order.push_back((change, key));
        }
        while recent.order.len() > REMEMBERED {
            let Some((change, key)) = recent.order.pop_front() else { break };
            recent.forgotten = change;
            if recent.changes.get(&key).is_some_and(|(last, _)| *last == change) {
                recent.changes.remove(&key);
            }
        }
        self.now.store(change, Ordering::Release);
    }

    pub(super) fn clear(&self) {
        if let Some(kept) = &self.entries {
            kept.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> anyhow::Result<CustomerId> {
        CustomerId::from_uuid(Uuid::from_u128(n)).ok_or_else(|| anyhow::anyhow!("nil"))
    }

    fn cached() -> Cached {
        Cached { known: Known::Present(b"{}".as_slice().into()), version: 1, seen: 1, epoch: Epoch(1), keep: Duration::from_mins(1) }
    }

    #[test]
    fn what_is_older_than_a_change_since_its_reading_began_is_not_kept() -> anyhow::Result<()> {
        let (local, a) = (Local::new(10), "a".parse::<TenantId>()?);
        let (changed, other) = (id(1)?, id(2)?);
        let before = local.ticket();
        local.forget(&[(a, changed, 2)]);
        assert_eq!(local.put(&a, vec![(changed, cached()), (other, cached())], before).len(), 1);
        let there = |id| local.get(&a, id, Epoch(1), 0, Instant::now()).is_some();
        assert_eq!((there(changed), there(other)), (false, true));
        local.put(&a, vec![(changed, cached())], local.ticket());
        assert!(there(changed));
        local.forget(&[(a, changed, 3)]);
        assert!(!there(changed));
        local.put(&a, vec![(changed, Cached { version: 3, ..cached() })], before);
        local.forget(&[(a, changed, 3)]);
        assert!(there(changed), "as new as the change");
        Ok(())
    }

    #[test]
    fn what_began_before_the_oldest_remembered_change_is_not_kept() -> anyhow::Result<()> {
        let (local, a) = (Local::new(10), "a".parse::<TenantId>()?);
        let before = local.ticket();
        for n in 1..=REMEMBERED + 1 {
            local.forget(&[(a, id(n as u128)?, 2)]);
        }
        assert!(local.put(&a, vec![(id(u128::MAX)?, cached())], before).is_empty());
        assert_eq!(local.recent.lock().unwrap_or_else(PoisonError::into_inner).changes.len(), REMEMBERED);
        Ok(())
    }

    #[test]
    fn a_tenant_gets_its_own_customers_alone_and_nothing_past_its_time_or_before_the_horizon() -> anyhow::Result<()> {
        let (local, a, b) = (Local::new(10), "a".parse::<TenantId>()?, "b".parse::<TenantId>()?);
        local.put(&a, vec![(id(1)?, cached())], local.ticket());
        let now = Instant::now();
        assert!(local.get(&a, id(1)?, Epoch(1), 0, now).is_some());
        assert!(local.get(&b, id(1)?, Epoch(1), 0, now).is_none());
        assert!(local.get(&a, id(1)?, Epoch(1), 1, now).is_none(), "read before the horizon");
        assert!(local.get(&a, id(1)?, Epoch(2), 0, now).is_none(), "read from another history");
        assert!(local.get(&a, id(1)?, Epoch(1), 0, now + Duration::from_mins(2)).is_none(), "over");
        Ok(())
    }
}
