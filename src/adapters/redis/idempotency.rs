//! Idempotency keys in Redis: each step one script, which runs as a whole or not at all.
//!
//! A key's lease, record and intent stand apart, under one hash tag. What a scope holds is told by sorted sets. Those of leases
//! and records are brought up to date by each count: they serve the metrics, and nothing else depends on them. That of intents
//! names each before it is on record, so that no unknown outcome is ever overlooked.

mod spelling;
mod steps;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bb8_redis::redis::{self, InfoDict, Script, ScriptInvocation};
use chrono::{DateTime, Utc};

use super::pool::Pool;
use super::refusal::Refused;
use super::{millis, unix_millis};
use crate::adapters::guard::{Guard, GuardSettings};
use crate::app::ports::{Claimed, Completed, IdempotencyStore, Records, StoreDown, Unresolved};
use crate::domain::{Digest, IdempotencyKey, Owner, StoredReply};
use crate::metrics::Metrics;
use spelling::{Intent, decode, encode, fingerprint, keys, lease_value};
use steps::STEPS;

/// Its name in metrics and logs.
const DEPENDENCY: &str = "idempotency";
/// Changes that wait for the next count; more than these are left out of the count.
const MAX_CHANGES: usize = 100_000;
/// Commands that are sent in one go.
const BATCH: usize = 1000;
/// An intent is counted from a little before it is on record. What has been counted for longer than this and is not on record
/// is over.
const INTENT_PATIENCE: Duration = Duration::from_mins(1);
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
    Left,
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
        let pool = Pool::new(DEPENDENCY, url, ca_file, connections, settings.deadline, Arc::clone(&metrics))?;
        Ok(Self { pool, guard: Guard::new(DEPENDENCY, settings, metrics), changes: Mutex::default() })
    }

    /// What the server does when its memory is full; anything but `noeviction` may take a lease away.
    pub async fn eviction_policy(&self) -> anyhow::Result<Option<String>> {
        Ok(self.memory().await?.get("maxmemory_policy"))
    }

    async fn memory(&self) -> anyhow::Result<InfoDict> {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        self.pool.run::<InfoDict>(&info).await
    }

    /// Runs a step on a key as its owner, for a time and with whatever else it needs.
    async fn run<T: redis::FromRedisValue + Send>(
        &self,
        step: &Script,
        key: &IdempotencyKey,
        owner: Owner,
        time: Duration,
        more: &[&[u8]],
    ) -> Result<T, StoreDown> {
        self.run_as(step, &key.hash, &lease_value(key, owner), time, more).await
    }

    async fn run_as<T: redis::FromRedisValue + Send>(
        &self,
        step: &Script,
        hash: &Digest,
        owner: &str,
        time: Duration,
        more: &[&[u8]],
    ) -> Result<T, StoreDown> {
        let [lease, record, intent] = keys(hash);
        let mut invocation = step.key(lease);
        invocation.key(record).key(intent).arg(owner).arg(millis(time).max(1)).arg(more);
        self.invoke(&invocation).await
    }

    /// Names a key in a list.
    async fn list(&self, list: &str, hash: &Digest, at: u64) -> Result<(), StoreDown> {
        let mut invocation = STEPS.list.key(list);
        invocation.arg(hash.to_string()).arg(at).arg(FORGET.as_secs());
        self.invoke(&invocation).await
    }

    async fn invoke<T: redis::FromRedisValue + Send>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, StoreDown> {
        let in_doubt = AtomicBool::default();
        let store_down = |error: anyhow::Error| {
            if in_doubt.load(Ordering::Relaxed) { StoreDown::NoAnswer(error) } else { StoreDown::NotAsked(error) }
        };
        let answer = async {
            match self.pool.run_in_doubt(invocation, &in_doubt).await {
                // On a full server, what is done can still be replayed: the breaker stays closed.
                Err(error) if serves_others(&error) => Ok(Err(store_down(error))),
                answer => answer.map(Ok),
            }
        };
        match self.guard.call(answer).await {
            Ok(answer) => answer,
            Err(error) => Err(store_down(error.into())),
        }
    }

    /// The intents that are listed, and what there is of them.
    async fn intents(&self, scope: &str) -> anyhow::Result<Vec<(Digest, Intended)>> {
        let mut listed = redis::cmd("ZRANGE");
        listed.arg(index(scope, "intended")).arg(0).arg(-1).arg("WITHSCORES");
        let listed: Vec<(String, u64)> = self.pool.run(&listed).await?;
        let listed: Vec<_> = listed.iter().filter_map(|(hash, at)| Some((Digest::parse(hash)?, *at))).collect();
        let mut intents = Vec::new();
        for some in listed.chunks(BATCH / 3) {
            let mut pipeline = redis::pipe();
            for (hash, _) in some {
                let [lease, _, intent] = keys(hash);
                pipeline.exists(lease).get(&intent).pttl(intent);
            }
            let found: Vec<redis::Value> = self.pool.run(&pipeline).await?;
            for ((hash, listed), found) in some.iter().zip(found.chunks(3)) {
                let [at_work, value, left] = found else { anyhow::bail!("as many answers as questions") };
                let value: Option<String> = redis::from_redis_value_ref(value)?;
                let intended = Intended {
                    listed: *listed,
                    at_work: redis::from_redis_value_ref(at_work)?,
                    intent: value.as_deref().map(Intent::parse).transpose()?,
                    left: redis::from_redis_value_ref(left)?,
                };
                intents.push((*hash, intended));
            }
        }
        Ok(intents)
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
                    Change::Left => pipeline.zrem(leased, &member),
                };
            }
            self.pool.run::<()>(pipeline.ignore()).await?;
        }
        let indices: Vec<_> = scopes.iter().flat_map(|scope| ["leased", "done"].map(|state| (scope, state))).collect();
        let mut pipeline = redis::pipe();
        for (scope, state) in &indices {
            let index = index(scope, state);
            pipeline.zrembyscore(&index, "-inf", unix_millis()).ignore().expire(&index, forget()).ignore().zcard(&index);
        }
        let counts: Vec<u64> = self.pool.run(&pipeline).await?;
        let records = |((scope, state), count): ((&Arc<str>, &'static str), u64)| Records { scope: scope.to_string(), state, count };
        let mut records: Vec<_> = indices.into_iter().zip(counts).map(records).collect();
        for scope in scopes {
            let intents = self.intents(scope).await?;
            let count = intents.iter().filter(|(_, intended)| intended.unknown().is_some()).count() as u64;
            records.push(Records { scope: scope.to_string(), state: "unknown", count });
            for (hash, intended) in intents.iter().filter(|(_, intended)| intended.is_over()) {
                let mut unlist = STEPS.unlist.key(index(scope, "intended"));
                self.pool.run::<()>(unlist.arg(hash.to_string()).arg(intended.listed)).await?;
            }
        }
        Ok(records)
    }
}

/// What is listed as an intent.
struct Intended {
    /// Since when, in Unix milliseconds.
    listed: u64,
    /// Whether somebody has the lease.
    at_work: bool,
    /// `None`: it is over, or not on record yet.
    intent: Option<Intent>,
    /// Milliseconds for which it stays on record.
    left: i64,
}

impl Intended {
    fn unknown(&self) -> Option<&Intent> {
        self.intent.as_ref().filter(|_| !self.at_work)
    }

    fn is_over(&self) -> bool {
        self.intent.is_none() && self.listed + millis(INTENT_PATIENCE) < unix_millis()
    }
}

/// Whether the server refused this step alone.
fn serves_others(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|Refused(refusal)| refusal.is_partial())
}

fn forget() -> i64 {
    i64::try_from(FORGET.as_secs()).unwrap_or(i64::MAX)
}

fn index(scope: &str, state: &str) -> String {
    format!("cxda:idem:v1:index:{scope}:{state}")
}

/// A point in time, of Unix milliseconds.
fn time(millis: u64) -> DateTime<Utc> {
    i64::try_from(millis).ok().and_then(DateTime::from_timestamp_millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[async_trait]
impl IdempotencyStore for RedisIdempotency {
    async fn claim(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<Claimed, StoreDown> {
        let (outcome, found): (String, Option<Vec<u8>>) = self.run(&STEPS.claim, key, owner, lease, &[]).await?;
        let found = found.unwrap_or_default();
        match outcome.as_str() {
            "done" => decode(&found).map(|(_, fingerprint, reply)| Claimed::Done(fingerprint, reply)).map_err(StoreDown::NoAnswer),
            "leased" => fingerprint(&found).map(Claimed::Leased).map_err(StoreDown::NoAnswer),
            "unknown" => fingerprint(&found).map(Claimed::Unknown).map_err(StoreDown::NoAnswer),
            _ => {
                self.note(key, Change::Leased(unix_millis() + millis(lease)));
                Ok(Claimed::Won)
            }
        }
    }

    async fn renew(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<bool, StoreDown> {
        let ours: bool = self.run(&STEPS.renew, key, owner, lease, &[]).await?;
        if ours {
            self.note(key, Change::Leased(unix_millis() + millis(lease)));
        }
        Ok(ours)
    }

    async fn complete(&self, key: &IdempotencyKey, owner: Owner, reply: &StoredReply, keep: Duration) -> Result<Completed, StoreDown> {
        let record = encode(owner, &key.fingerprint, reply).map_err(StoreDown::NoAnswer)?;
        let (stored, found): (bool, Option<Vec<u8>>) = self.run(&STEPS.complete, key, owner, keep, &[&record]).await?;
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
        let () = self.run(&STEPS.release, key, owner, Duration::ZERO, &[]).await?;
        self.note(key, Change::Left);
        Ok(())
    }

    async fn intend(&self, key: &IdempotencyKey, owner: Owner, lease: Duration, keep: Duration) -> Result<bool, StoreDown> {
        // Listed first: an intent that nobody finds would be worse than a list that names too many.
        self.list(&index(&key.scope, "intended"), &key.hash, unix_millis()).await?;
        let [keep, since] = [millis(keep), unix_millis()].map(|number| number.to_string());
        let more = [keep.as_bytes(), since.as_bytes(), key.scope.as_bytes()];
        let ours: bool = self.run(&STEPS.intend, key, owner, lease, &more).await?;
        if ours {
            self.note(key, Change::Leased(unix_millis() + millis(lease)));
        }
        Ok(ours)
    }

    async fn leave_unknown(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown> {
        let () = self.run(&STEPS.leave_unknown, key, owner, Duration::ZERO, &[]).await?;
        self.note(key, Change::Left);
        Ok(())
    }

    async fn unresolved(&self, scopes: &[Arc<str>]) -> Result<Vec<Unresolved>, StoreDown> {
        let mut unresolved = Vec::new();
        for scope in scopes {
            let intents = self.intents(scope).await.map_err(StoreDown::NoAnswer)?;
            unresolved.extend(intents.iter().filter_map(|(hash, intended)| {
                let (scope, since) = (scope.to_string(), time(intended.unknown()?.since));
                Some(Unresolved { scope, hash: *hash, since, until: time(unix_millis().saturating_add_signed(intended.left)) })
            }));
        }
        unresolved.sort_by_key(|found| found.since);
        Ok(unresolved)
    }

    async fn resolve(&self, scope: &str, hash: &Digest, answer: Option<(StoredReply, Duration)>) -> Result<bool, StoreDown> {
        let [_, _, intent] = keys(hash);
        let intent: Option<String> = self.pool.run(&redis::Cmd::get(intent)).await.map_err(StoreDown::NoAnswer)?;
        let intent = intent.as_deref().map(Intent::parse).transpose().map_err(StoreDown::NoAnswer)?;
        let Some(Intent { lease, .. }) = intent.filter(|intent| intent.scope == scope) else { return Ok(false) };
        let fingerprint = fingerprint(lease.as_bytes()).map_err(StoreDown::NoAnswer)?;
        let done = answer.is_some();
        let (record, keep) = match answer {
            Some((reply, keep)) => (encode(Owner::draw(), &fingerprint, &reply).map_err(StoreDown::NoAnswer)?, keep),
            None => (Vec::new(), Duration::ZERO),
        };
        let resolved = self.run_as(&STEPS.resolve, hash, &lease, keep, &[&record]).await?;
        if resolved && done {
            // Only the count misses it.
            let _uncounted = self.list(&index(scope, "done"), hash, unix_millis() + millis(keep)).await;
        }
        Ok(resolved)
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

    async fn free_bytes(&self) -> Result<Option<u64>, StoreDown> {
        let memory = self.memory().await.map_err(StoreDown::NotAsked)?;
        let (most, used) = (memory.get::<u64>("maxmemory"), memory.get::<u64>("used_memory"));
        Ok(most.filter(|most| *most > 0).zip(used).map(|(most, used)| most.saturating_sub(used)))
    }

    async fn ready(&self) -> Result<(), StoreDown> {
        self.pool.run::<()>(&redis::cmd("PING")).await.context("ping Redis").map_err(StoreDown::NoAnswer)
    }

    fn refusal(&self) -> Option<&'static str> {
        self.pool.refusal()
    }
}
