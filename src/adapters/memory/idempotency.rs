//! Idempotency keys in this process's memory: for `dev` and for tests, since instances do not share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

use crate::app::ports::{Claimed, Completed, IdempotencyStore, Records, StoreDown, Unresolved};
use crate::domain::{Digest, IdempotencyKey, Owner, StoredReply};

/// A store without a server. Everything is gone when the process ends.
#[derive(Default)]
pub struct MemoryIdempotency(Mutex<HashMap<(Arc<str>, Digest), Record>>);

struct Record {
    owner: Owner,
    fingerprint: Digest,
    since: SystemTime,
    state: State,
    until: Instant,
}

enum State {
    Leased,
    /// Work that cannot be taken back, under way until then. After that, nobody knows, for so long.
    Intended(Instant, Duration),
    Done(StoredReply),
}

impl MemoryIdempotency {
    fn records(&self) -> MutexGuard<'_, HashMap<(Arc<str>, Digest), Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(key: &IdempotencyKey) -> (Arc<str>, Digest) {
    (Arc::clone(&key.scope), key.hash)
}

impl Record {
    fn new(key: &IdempotencyKey, owner: Owner, state: State, keep: Duration) -> Self {
        Self { owner, fingerprint: key.fingerprint, since: SystemTime::now(), state, until: Instant::now() + keep }
    }

    /// Whether somebody else has the key, or its work is done.
    fn is_taken_from(&self, owner: Owner) -> bool {
        self.until > Instant::now() && (self.owner != owner || matches!(self.state, State::Done(_)))
    }

    /// Its name in metrics.
    fn state(&self, now: Instant) -> &'static str {
        match self.state {
            State::Done(_) => "done",
            State::Intended(lease, _) if lease <= now => "unknown",
            State::Leased | State::Intended(..) => "leased",
        }
    }

    fn is_unknown(&self) -> bool {
        let now = Instant::now();
        self.until > now && self.state(now) == "unknown"
    }
}

/// Holds on to what is one's own, or nobody's. An intent is kept for a time that begins when its lease ends.
fn hold(records: &mut HashMap<(Arc<str>, Digest), Record>, key: &IdempotencyKey, owner: Owner, lease: Duration) {
    let end = Instant::now() + lease;
    match records.get_mut(&name(key)) {
        Some(Record { owner: author, state: State::Intended(at_work, keep), until, .. }) if *author == owner => {
            (*at_work, *until) = (end, end + *keep);
        }
        _ => drop(records.insert(name(key), Record::new(key, owner, State::Leased, lease))),
    }
}

#[async_trait]
impl IdempotencyStore for MemoryIdempotency {
    async fn claim(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<Claimed, StoreDown> {
        let mut records = self.records();
        if let Some(record) = records.get(&name(key)).filter(|record| record.is_taken_from(owner)) {
            return Ok(match &record.state {
                State::Done(reply) => Claimed::Done(record.fingerprint, reply.clone()),
                State::Leased | State::Intended(..) if record.is_unknown() => Claimed::Unknown(record.fingerprint),
                State::Leased | State::Intended(..) => Claimed::Leased(record.fingerprint),
            });
        }
        hold(&mut records, key, owner, lease);
        Ok(Claimed::Won)
    }

    async fn renew(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<bool, StoreDown> {
        let mut records = self.records();
        let ours = !records.get(&name(key)).is_some_and(|record| record.is_taken_from(owner));
        if ours {
            hold(&mut records, key, owner, lease);
        }
        Ok(ours)
    }

    async fn intend(&self, key: &IdempotencyKey, owner: Owner, lease: Duration, keep: Duration) -> Result<bool, StoreDown> {
        let mut records = self.records();
        let ours = !records.get(&name(key)).is_some_and(|record| record.is_taken_from(owner));
        if ours {
            let since = records.get(&name(key)).filter(|record| record.owner == owner).map(|record| record.since);
            let state = State::Intended(Instant::now() + lease, keep);
            let record = Record::new(key, owner, state, lease + keep);
            records.insert(name(key), Record { since: since.unwrap_or(record.since), ..record });
        }
        Ok(ours)
    }

    async fn leave_unknown(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown> {
        let mut records = self.records();
        let now = Instant::now();
        if let Some(Record { owner: author, state: State::Intended(lease, keep), until, .. }) = records.get_mut(&name(key))
            && *author == owner
            && *lease > now
        {
            (*lease, *until) = (now, now + *keep);
        }
        Ok(())
    }

    async fn unresolved(&self, scopes: &[Arc<str>]) -> Result<Vec<Unresolved>, StoreDown> {
        let records = self.records();
        let unknown = records.iter().filter(|((scope, _), record)| scopes.contains(scope) && record.is_unknown());
        let mut unresolved: Vec<_> = unknown
            .map(|((scope, hash), record)| Unresolved {
                scope: scope.to_string(),
                hash: *hash,
                since: record.since.into(),
                until: (SystemTime::now() + record.until.saturating_duration_since(Instant::now())).into(),
            })
            .collect();
        unresolved.sort_by_key(|found| found.since);
        Ok(unresolved)
    }

    async fn resolve(&self, scope: &str, hash: &Digest, answer: Option<(StoredReply, Duration)>) -> Result<bool, StoreDown> {
        let mut records = self.records();
        let name = (Arc::from(scope), *hash);
        let Some(record) = records.get_mut(&name).filter(|record| record.is_unknown()) else { return Ok(false) };
        match answer {
            Some((reply, keep)) => {
                record.owner = Owner::draw();
                record.state = State::Done(reply);
                record.until = Instant::now() + keep;
            }
            None => drop(records.remove(&name)),
        }
        Ok(true)
    }

    async fn complete(&self, key: &IdempotencyKey, owner: Owner, reply: &StoredReply, keep: Duration) -> Result<Completed, StoreDown> {
        let mut records = self.records();
        match records.get(&name(key)).filter(|record| record.is_taken_from(owner)) {
            Some(record) if record.owner == owner => return Ok(Completed::Stored),
            Some(Record { fingerprint, state: State::Done(reply), .. }) => return Ok(Completed::Lost(Some((*fingerprint, reply.clone())))),
            Some(_) => return Ok(Completed::Lost(None)),
            None => {}
        }
        records.insert(name(key), Record::new(key, owner, State::Done(reply.clone()), keep));
        Ok(Completed::Stored)
    }

    async fn release(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown> {
        let mut records = self.records();
        if records.get(&name(key)).is_some_and(|record| record.owner == owner && !matches!(record.state, State::Done(_))) {
            records.remove(&name(key));
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<(u64, bool), StoreDown> {
        let mut records = self.records();
        let (before, now) = (records.len(), Instant::now());
        records.retain(|_, record| record.until > now);
        Ok(((before - records.len()) as u64, false))
    }

    async fn count(&self, scopes: &[Arc<str>]) -> Result<Vec<Records>, StoreDown> {
        let (records, now) = (self.records(), Instant::now());
        let count = |scope: &Arc<str>, state: &'static str| {
            let counted = records.iter().filter(|((of, _), record)| of == scope && record.until > now && record.state(now) == state);
            Records { scope: scope.to_string(), state, count: counted.count() as u64 }
        };
        Ok(scopes.iter().flat_map(|scope| ["leased", "done", "unknown"].map(|state| count(scope, state))).collect())
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StoreDown> {
        Ok(None)
    }

    async fn ready(&self) -> Result<(), StoreDown> {
        Ok(())
    }
}
