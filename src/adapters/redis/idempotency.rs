//! Idempotency keys in Redis: each step one script, which runs as a whole or not at all.
//!
//! A key's lease and its record stand apart, under one hash tag. What a scope holds is told by two sorted sets that are
//! brought up to date by each count: they serve the metrics, and nothing else depends on them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bb8_redis::redis::{self, ErrorKind, InfoDict, RedisError, Script};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::pool::Pool;
use super::{millis, unix_millis};
use crate::adapters::guard::{Guard, GuardSettings};
use crate::app::ports::{Claimed, Completed, IdempotencyStore, Records, StoreDown};
use crate::domain::{Digest, IdempotencyKey, Owner, StoredReply};
use crate::metrics::Metrics;

/// Takes the lease unless there is a record, or somebody else's lease. A lease without an end is a lease.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local record = redis.call('GET', KEYS[2])
        if record then return {'done', record} end
        local lease = redis.call('GET', KEYS[1])
        if lease and lease ~= ARGV[1] then return {'leased', lease} end
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        return {'won', false}",
    )
});

/// Holds on to what is one's own, or nobody's.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
        local lease = redis.call('GET', KEYS[1])
        if lease and lease ~= ARGV[1] then return 0 end
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        return 1",
    )
});

/// Puts the record in the place of a lease that is one's own, or nobody's. The record goes first: where there is no memory for
/// it, nothing has changed.
static COMPLETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local record = redis.call('GET', KEYS[2])
        if record then return {0, record} end
        local lease = redis.call('GET', KEYS[1])
        if lease and lease ~= ARGV[1] then return {0, false} end
        redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
        redis.call('DEL', KEYS[1])
        return {1, false}",
    )
});

/// Ends one's own lease.
static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"));

/// Changes that wait for the next count; more than these are left out of the count.
const MAX_CHANGES: usize = 100_000;
/// Commands that are sent in one go.
const BATCH: usize = 1000;
/// The count of a route that is not there any more goes away after this: longer than any record is kept.
const FORGET: Duration = Duration::from_hours(8 * 24);

/// Idempotency keys in one Redis, behind a breaker.
pub struct RedisIdempotency {
    pool: Pool,
    guard: Guard,
    changes: Mutex<HashMap<(Arc<str>, Digest), Change>>,
}

/// Where a key has come to, and until when, in Unix milliseconds.
#[derive(Clone, Copy)]
enum Change {
    Leased(u64),
    Done(u64),
    Gone,
}

impl RedisIdempotency {
    /// Connects on first use, so Redis need not be up. Fails where the URL or the CA file is no good.
    pub fn new(
        url: &str,
        ca_file: Option<&Path>,
        connections: u32,
        settings: GuardSettings,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let pool = Pool::new(url, ca_file, connections, settings.deadline)?;
        Ok(Self { pool, guard: Guard::new("idempotency", settings, metrics), changes: Mutex::default() })
    }

    /// What the server does when its memory is full; anything but `noeviction` may take a lease away.
    pub async fn eviction_policy(&self) -> anyhow::Result<Option<String>> {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        Ok(self.pool.run::<InfoDict>(&info).await?.get("maxmemory_policy"))
    }

    /// Runs a script on a key as its owner, for a time and perhaps with a record.
    async fn run<T: redis::FromRedisValue>(
        &self,
        script: &Script,
        key: &IdempotencyKey,
        owner: Owner,
        time: Duration,
        record: &[u8],
    ) -> Result<T, StoreDown> {
        let mut invocation = script.key(format!("cxda:idem:v1:{{{}}}:lease", key.hash));
        invocation.key(format!("cxda:idem:v1:{{{}}}:done", key.hash));
        invocation.arg(lease_value(key, owner)).arg(millis(time).max(1)).arg(record);
        // A server that refuses is there: on a full one, what is done can still be replayed.
        let answer = async {
            match self.pool.run_script(&invocation).await {
                Err(error) if is_refusal(&error) => Ok(Err(StoreDown::NotAsked(error))),
                answer => answer.map(Ok),
            }
        };
        self.guard.call(answer).await?
    }

    fn note(&self, key: &IdempotencyKey, change: Change) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.len() < MAX_CHANGES {
            changes.insert((Arc::clone(&key.scope), key.hash), change);
        }
    }

    /// Brings the sorted sets up to date, and counts.
    async fn update_and_count(&self, scopes: &[Arc<str>], changes: &HashMap<(Arc<str>, Digest), Change>) -> anyhow::Result<Vec<Records>> {
        let changes: Vec<_> = changes.iter().collect();
        for some in changes.chunks(BATCH / 2) {
            let mut pipeline = redis::pipe();
            for ((scope, hash), change) in some {
                let (leased, done, member) = (index(scope, "leased"), index(scope, "done"), hash.to_string());
                match change {
                    Change::Leased(until) => pipeline.zadd(leased, &member, *until).zrem(done, &member),
                    Change::Done(until) => pipeline.zadd(done, &member, *until).zrem(leased, &member),
                    Change::Gone => pipeline.zrem(leased, &member).zrem(done, &member),
                };
            }
            self.pool.run_all::<()>(pipeline.ignore()).await?;
        }
        let indices: Vec<_> = scopes.iter().flat_map(|scope| ["leased", "done"].map(|state| (scope, state))).collect();
        let mut pipeline = redis::pipe();
        for (scope, state) in &indices {
            let index = index(scope, state);
            let forget = i64::try_from(FORGET.as_secs()).unwrap_or(i64::MAX);
            pipeline.zrembyscore(&index, "-inf", unix_millis()).ignore().expire(&index, forget).ignore().zcard(&index);
        }
        let counts: Vec<u64> = self.pool.run_all(&pipeline).await?;
        let records = |((scope, state), count): ((&Arc<str>, &'static str), u64)| Records { scope: scope.to_string(), state, count };
        Ok(indices.into_iter().zip(counts).map(records).collect())
    }
}

/// Whether the server itself answered with an error; then its script has changed nothing.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<RedisError>().is_some_and(|error| matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension))
}

fn index(scope: &str, state: &str) -> String {
    format!("cxda:idem:v1:index:{scope}:{state}")
}

fn lease_value(key: &IdempotencyKey, owner: Owner) -> String {
    format!("{}:{}", owner.uuid().simple(), key.fingerprint)
}

fn lease_fingerprint(value: &[u8]) -> anyhow::Result<Digest> {
    let text = std::str::from_utf8(value)?;
    text.split_once(':').and_then(|(_, fingerprint)| Digest::parse(fingerprint)).context("this is no lease of this service's")
}

/// What stands before the body of a record, in one line.
#[derive(Serialize, Deserialize)]
struct Head {
    owner: Uuid,
    fingerprint: String,
    status: u16,
    headers: Vec<(String, String)>,
}

fn encode(key: &IdempotencyKey, owner: Owner, reply: &StoredReply) -> anyhow::Result<Vec<u8>> {
    let head = Head { owner: owner.uuid(), fingerprint: key.fingerprint.to_string(), status: reply.status, headers: reply.headers.clone() };
    let mut record = serde_json::to_vec(&head)?;
    record.push(b'\n');
    record.extend_from_slice(&reply.body);
    Ok(record)
}

fn decode(record: &[u8]) -> anyhow::Result<(Owner, Digest, StoredReply)> {
    const FOREIGN: &str = "this is no record of this service's";
    let end = record.iter().position(|byte| *byte == b'\n').context(FOREIGN)?;
    let head: Head = serde_json::from_slice(&record[..end]).context(FOREIGN)?;
    let fingerprint = Digest::parse(&head.fingerprint).context(FOREIGN)?;
    let reply = StoredReply { status: head.status, headers: head.headers, body: Bytes::copy_from_slice(&record[end + 1..]) };
    Ok((Owner::from_uuid(head.owner), fingerprint, reply))
}

#[async_trait]
impl IdempotencyStore for RedisIdempotency {
    async fn claim(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<Claimed, StoreDown> {
        let (outcome, found): (String, Option<Vec<u8>>) = self.run(&CLAIM, key, owner, lease, b"").await?;
        let found = found.unwrap_or_default();
        match outcome.as_str() {
            "done" => decode(&found).map(|(_, fingerprint, reply)| Claimed::Done(fingerprint, reply)).map_err(StoreDown::NoAnswer),
            "leased" => lease_fingerprint(&found).map(Claimed::Leased).map_err(StoreDown::NoAnswer),
            _ => {
                self.note(key, Change::Leased(unix_millis() + millis(lease)));
                Ok(Claimed::Won)
            }
        }
    }

    async fn renew(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<bool, StoreDown> {
        let ours: bool = self.run(&RENEW, key, owner, lease, b"").await?;
        if ours {
            self.note(key, Change::Leased(unix_millis() + millis(lease)));
        }
        Ok(ours)
    }

    async fn complete(&self, key: &IdempotencyKey, owner: Owner, reply: &StoredReply, keep: Duration) -> Result<Completed, StoreDown> {
        let record = encode(key, owner, reply).map_err(StoreDown::NoAnswer)?;
        let (stored, found): (bool, Option<Vec<u8>>) = self.run(&COMPLETE, key, owner, keep, &record).await?;
        let theirs = found.as_deref().map(decode).transpose().map_err(StoreDown::NoAnswer)?;
        match theirs {
            // Kept by an earlier try whose answer was lost.
            Some((author, ..)) if author == owner => {}
            Some((_, fingerprint, reply)) => return Ok(Completed::Lost(Some((fingerprint, reply)))),
            None if !stored => return Ok(Completed::Lost(None)),
            None => {}
        }
        self.note(key, Change::Done(unix_millis() + millis(keep)));
        Ok(Completed::Stored)
    }

    async fn release(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown> {
        let () = self.run(&RELEASE, key, owner, Duration::ZERO, b"").await?;
        self.note(key, Change::Gone);
        Ok(())
    }

    /// Redis itself removes what is over.
    async fn sweep(&self) -> Result<(u64, bool), StoreDown> {
        Ok((0, false))
    }

    async fn count(&self, scopes: &[Arc<str>]) -> Result<Vec<Records>, StoreDown> {
        let changes = std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner));
        self.update_and_count(scopes, &changes).await.map_err(|error| {
            let mut newer = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, change) in changes {
                newer.entry(key).or_insert(change);
            }
            StoreDown::NoAnswer(error)
        })
    }

    async fn ready(&self) -> Result<(), StoreDown> {
        self.pool.run::<()>(&redis::cmd("PING")).await.context("ping Redis").map_err(StoreDown::NoAnswer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Hasher, KeySource};

    #[test]
    fn a_record_is_read_as_it_was_written_whatever_its_body() -> anyhow::Result<()> {
        let hasher = Hasher::new(&[7; 32]).context("a hasher")?;
        let key =
            IdempotencyKey::new(&hasher, &"/x".into(), "k", &KeySource::RawBody, None, b"{}").map_err(|_| anyhow::anyhow!("a key"))?;
        let owner = Owner::draw();
        for body in [&b""[..], b"\n", b"{\"a\":1}\n\xff\0"] {
            let headers = vec![("content-type".to_owned(), "text/plain; x=\"\n\"".to_owned())];
            let reply = StoredReply { status: 201, headers, body: Bytes::copy_from_slice(body) };
            assert_eq!(decode(&encode(&key, owner, &reply)?)?, (owner, key.fingerprint, reply));
        }
        for foreign in [&b""[..], b"x", b"{}\n", b"\n\n"] {
            assert!(decode(foreign).is_err());
        }
        Ok(())
    }
}
