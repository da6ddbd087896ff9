//! Fills of the shared tier that wait: what comes while one is under way goes out together as the next. Nobody waits for a fill,
//! so there may as well be few large ones: with two new customers a lookup, that and one `SET` each in place of a script are worth
//! 11 to 17 % more lookups a second.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::app::ports::Cached;
use crate::domain::{CustomerId, Known, TenantId};

/// Customers that wait; more are not kept, so that a slow tier cannot make them pile up.
const MAX_WAITING: usize = 4_096;

/// As much goes together, so that a fill of large customers is made in time, too.
const MAX_BYTES: usize = 256 << 10;

/// What a customer takes beside its document, about.
const OVERHEAD: usize = 200;

/// A customer of a tenant.
pub(super) type Entry = (TenantId, CustomerId, Cached);

/// Those that wait.
pub(super) struct Fills {
    waiting: Mutex<Vec<(Instant, Entry)>>,
    turn: Semaphore,
}

impl Fills {
    pub(super) fn new() -> Self {
        Self { waiting: Mutex::default(), turn: Semaphore::new(1) }
    }

    /// Takes what was read since then. True: nobody is at work who would take it along, so that somebody has to ask for
    /// [`Self::next`].
    pub(super) fn add(&self, since: Instant, entries: impl Iterator<Item = Entry>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_WAITING - waiting.len();
        waiting.extend(entries.take(room).map(|entry| (since, entry)));
        !waiting.is_empty() && self.turn.available_permits() > 0
    }

    /// What goes together, and the turn to fill, which whoever has it gives back before it asks again. None: there is nothing, or
    /// somebody else's turn. What has waited lives no longer for it: the mark of a change outlives all that was read before.
    pub(super) fn next(&self) -> Option<(SemaphorePermit<'_>, Vec<Entry>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turn.try_acquire().ok()?;
        let mut bytes = 0;
        let fits = |(_, (_, _, cached)): &&(Instant, Entry)| {
            let before = bytes;
            bytes += OVERHEAD + if let Known::Present(json) = &cached.known { json.len() } else { 0 };
            before < MAX_BYTES
        };
        let together = waiting.iter().take_while(fits).count();
        let left = |(since, (tenant, id, cached)): (Instant, Entry)| {
            let keep = cached.keep.checked_sub(since.elapsed())?;
            Some((tenant, id, Cached { keep, ..cached }))
        };
        let entries: Vec<_> = waiting.drain(..together).filter_map(left).collect();
        (together > 0).then_some((turn, entries))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::Epoch;

    fn entries(n: usize, bytes: usize) -> anyhow::Result<Vec<Entry>> {
        let tenant: TenantId = "acme42".parse()?;
        let known = Known::Present(vec![b'x'; bytes].into());
        let entry = |_| {
            let id = CustomerId::from_uuid(Uuid::new_v4()).ok_or_else(|| anyhow::anyhow!("the nil id"))?;
            Ok((tenant, id, Cached { known: known.clone(), version: 1, seen: 1, epoch: Epoch(1), keep: Duration::from_mins(1) }))
        };
        (0..n).map(entry).collect()
    }

    fn lens(fills: &Fills) -> Vec<usize> {
        std::iter::from_fn(|| fills.next().map(|(_turn, entries)| entries.len())).collect()
    }

    #[test]
    fn what_comes_while_a_fill_is_under_way_goes_with_the_next_one() -> anyhow::Result<()> {
        let fills = Fills::new();
        assert!(fills.add(Instant::now(), entries(1, 2)?.into_iter()), "somebody has to begin");
        let first = fills.next();
        for _ in 0..3 {
            assert!(!fills.add(Instant::now(), entries(2, 2)?.into_iter()), "whoever is at work takes them along");
            assert!(fills.next().is_none(), "one at a time");
        }
        assert_eq!(first.map(|(_turn, entries)| entries.len()), Some(1));
        assert_eq!(lens(&fills), [6]);
        assert!(!fills.add(Instant::now(), std::iter::empty()), "nothing to do");
        Ok(())
    }

    #[test]
    fn large_customers_go_in_smaller_groups_and_not_all_of_very_many_are_kept() -> anyhow::Result<()> {
        let fills = Fills::new();
        fills.add(Instant::now(), entries(5, 100_000)?.into_iter());
        assert_eq!(lens(&fills), [3, 2]);
        fills.add(Instant::now(), entries(1, 10 << 20)?.into_iter());
        assert_eq!(lens(&fills), [1], "however large it is");
        fills.add(Instant::now(), entries(2 * MAX_WAITING, 0)?.into_iter());
        assert_eq!(lens(&fills).iter().sum::<usize>(), MAX_WAITING);
        Ok(())
    }
}
