//! What was written and when, and what readers make of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much later than the commit a read may begin and still get what was before.
const MAY_TAKE: Duration = Duration::from_secs(1);
/// The same for what a failover has lost, from when the database takes writes.
const FAILOVER_MAY_TAKE: Duration = Duration::from_secs(2);

/// What one or more runs have counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) reads: usize,
    pub(crate) hits: usize,
    pub(crate) updates: usize,
    pub(crate) stale: usize,
    pub(crate) lost: usize,
    pub(crate) unanswered: usize,
    /// Customers that an instance knew otherwise than the database at the end.
    pub(crate) wrong: usize,
    /// How long after the commit of a newer name the last read of an older one began.
    pub(crate) oldest: Duration,
}

/// The names of each customer that the database has or had, with the time of each commit's acknowledgement.
pub(crate) struct Board {
    names: Vec<Mutex<Vec<(u64, Instant)>>>,
    next: AtomicU64,
    latest: AtomicUsize,
    is_over: AtomicBool,
    /// The database that has what is acknowledged is gone.
    is_away: AtomicBool,
    /// The first name of the history that is not lost, and when the database took writes again.
    failover: Mutex<Option<(u64, Instant)>>,
    tally: Mutex<Tally>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.hits += other.hits;
        self.updates += other.updates;
        self.stale += other.stale;
        self.lost += other.lost;
        self.unanswered += other.unanswered;
        self.wrong += other.wrong;
        self.oldest = self.oldest.max(other.oldest);
    }
}

impl Board {
    /// Of so many customers, all of them with the name 0.
    pub(crate) fn new(keys: usize) -> Self {
        let began = Instant::now();
        Self {
            names: (0..keys).map(|_| Mutex::new(vec![(0, began)])).collect(),
            next: AtomicU64::new(1),
            latest: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            failover: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The customer that was updated last, or is about to be.
    pub(crate) fn latest(&self) -> usize {
        self.latest.load(Ordering::Relaxed)
    }

    pub(crate) fn asked_for(&self, key: usize) {
        self.latest.store(key, Ordering::Relaxed);
    }

    pub(crate) fn next_name(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn acknowledged(&self, key: usize, name: u64) {
        lock(&self.names[key]).push((name, Instant::now()));
        lock(&self.tally).updates += 1;
    }

    /// From now on it is not known which of the acknowledged names the database has.
    pub(crate) fn fails_over(&self) {
        self.is_away.store(true, Ordering::Relaxed);
    }

    /// The database takes writes again, and has these names: what came after them is lost.
    pub(crate) fn failed_over(&self, kept: &HashMap<usize, u64>) {
        for (key, names) in self.names.iter().enumerate() {
            lock(names).retain(|(name, _)| *name <= kept[&key]);
        }
        *lock(&self.failover) = Some((self.next.load(Ordering::Relaxed), Instant::now()));
        self.is_away.store(false, Ordering::Relaxed);
    }

    pub(crate) fn unanswered(&self) {
        lock(&self.tally).unanswered += 1;
    }

    /// Judges an answer to a read that began then.
    pub(crate) fn judge(&self, began: Instant, names: &[(usize, u64)], is_hit: bool) {
        let (mut lost, mut oldest) = (false, Duration::ZERO);
        let failover = *lock(&self.failover);
        // An old name may be all that the new primary has.
        let is_judged = !self.is_away.load(Ordering::Relaxed) && failover.is_none_or(|(_, at)| began > at);
        for (key, name) in names {
            let known = lock(&self.names[*key]);
            match known.iter().position(|(known, _)| known == name) {
                Some(at) if is_judged => {
                    let newer = known.get(at + 1).map(|(_, acknowledged)| began.saturating_duration_since(*acknowledged));
                    oldest = oldest.max(newer.unwrap_or_default());
                }
                Some(_) => {}
                // Not acknowledged yet, or lost.
                None => {
                    lost |= failover.is_some_and(|(first, at)| *name < first && began > at + FAILOVER_MAY_TAKE);
                }
            }
        }
        let mut tally = lock(&self.tally);
        tally.reads += 1;
        tally.hits += usize::from(is_hit);
        tally.stale += usize::from(oldest > MAY_TAKE);
        tally.lost += usize::from(lost);
        tally.oldest = tally.oldest.max(oldest);
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
