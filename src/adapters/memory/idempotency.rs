//! Idempotency keys in this process's memory: for `dev` and for tests, since instances do not share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::app::ports::{Claimed, Completed, IdempotencyStore, Records, StoreDown};
use crate::domain::{Digest, IdempotencyKey, Owner, StoredReply};

/// A store without a server. Everything is gone when the process ends.
#[derive(Default)]
pub struct MemoryIdempotency(Mutex<HashMap<(Arc<str>, Digest), Record>>);

struct Record {
    owner: Owner,
    fingerprint: Digest,
    /// `None`: a lease.
    reply: Option<StoredReply>,
    until: Instant,
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
    fn leased(key: &IdempotencyKey, owner: Owner, lease: Duration) -> Self {
        Self { owner, fingerprint: key.fingerprint, reply: None, until: Instant::now() + lease }
    }

    /// Whether somebody else has the key, or its work is done.
    fn is_taken_from(&self, owner: Owner) -> bool {
        self.until > Instant::now() && (self.owner != owner || self.reply.is_some())
    }
}

#[async_trait]
impl IdempotencyStore for MemoryIdempotency {
    async fn claim(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<Claimed, StoreDown> {
        let mut records = self.records();
        match records.get(&name(key)).filter(|record| record.is_taken_from(owner)) {
            Some(Record { fingerprint, reply: Some(reply), .. }) => return Ok(Claimed::Done(*fingerprint, reply.clone())),
            Some(Record { fingerprint, reply: None, .. }) => return Ok(Claimed::Leased(*fingerprint)),
            None => {}
        }
        records.insert(name(key), Record::leased(key, owner, lease));
        Ok(Claimed::Won)
    }

    async fn renew(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<bool, StoreDown> {
        let mut records = self.records();
        let ours = !records.get(&name(key)).is_some_and(|record| record.is_taken_from(owner));
        if ours {
            records.insert(name(key), Record::leased(key, owner, lease));
        }
        Ok(ours)
    }

    async fn complete(&self, key: &IdempotencyKey, owner: Owner, reply: &StoredReply, keep: Duration) -> Result<Completed, StoreDown> {
        let mut records = self.records();
        match records.get(&name(key)).filter(|record| record.is_taken_from(owner)) {
            Some(record) if record.owner == owner => return Ok(Completed::Stored),
            Some(record) => return Ok(Completed::Lost(record.reply.clone().map(|reply| (record.fingerprint, reply)))),
            None => {}
        }
        records.insert(name(key), Record { reply: Some(reply.clone()), ..Record::leased(key, owner, keep) });
        Ok(Completed::Stored)
    }

    async fn release(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown> {
        let mut records = self.records();
        if records.get(&name(key)).is_some_and(|record| record.owner == owner && record.reply.is_none()) {
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
            let counted =
                records.iter().filter(|((of, _), record)| of == scope && record.until > now && record.reply.is_some() == (state == "done"));
            Records { scope: scope.to_string(), state, count: counted.count() as u64 }
        };
        Ok(scopes.iter().flat_map(|scope| ["leased", "done"].map(|state| count(scope, state))).collect())
    }

    async fn ready(&self) -> Result<(), StoreDown> {
        Ok(())
    }
}
