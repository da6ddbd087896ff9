//! Idempotency keys in Postgres: each step one statement, which a crash either keeps or has never seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::connect::Connector;
use super::connection::Parameter;
use super::failure::retryable;
use super::in_time;
use super::pool::Pool;
use crate::app::ports::{Claimed, Completed, IdempotencyStore, Records, StoreDown, StoreError, Unresolved};
use crate::config;
use crate::domain::{Digest, IdempotencyKey, Owner, StoredReply};

/// Reads what is there; where there is nothing, or only what is over, takes the key. No row: somebody took it in between, and
/// the next try sees who.
const CLAIM: &str = "\
    WITH there AS ( \
        SELECT CASE WHEN state = 'leased' AND leased_until <= now() THEN 'unknown' ELSE state END AS state, \
            fingerprint, owner, status, headers, body FROM idempotency \
        WHERE scope = $1 AND key_hash = $2 AND (expires_at IS NULL OR expires_at > now()) \
    ), taken AS ( \
        INSERT INTO idempotency AS i (scope, key_hash, state, owner, fingerprint, expires_at) \
        SELECT $1, $2, 'leased', $3, $4, now() + $5::float8 * interval '1 second' WHERE NOT EXISTS (SELECT FROM there) \
        ON CONFLICT (scope, key_hash) DO UPDATE \
            SET state = 'leased', owner = EXCLUDED.owner, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at, \
                leased_until = NULL, created_at = now(), status = NULL, headers = NULL, body = NULL \
            WHERE i.expires_at <= now() \
        RETURNING state, fingerprint, owner, status, headers, body \
    ) SELECT * FROM there UNION ALL SELECT * FROM taken";

/// Holds on to what is one's own, or nobody's: not there, or over. An intent is kept for a time that begins when its lease ends.
const RENEW: &str = "\
    INSERT INTO idempotency AS i (scope, key_hash, state, owner, fingerprint, expires_at) \
    VALUES ($1, $2, 'leased', $3, $4, now() + $5::float8 * interval '1 second') \
    ON CONFLICT (scope, key_hash) DO UPDATE \
        SET state = 'leased', owner = EXCLUDED.owner, fingerprint = EXCLUDED.fingerprint, \
            expires_at = CASE WHEN i.owner = EXCLUDED.owner AND i.leased_until IS NOT NULL \
                THEN EXCLUDED.expires_at + (i.expires_at - i.leased_until) ELSE EXCLUDED.expires_at END, \
            leased_until = CASE WHEN i.owner = EXCLUDED.owner AND i.leased_until IS NOT NULL THEN EXCLUDED.expires_at END, \
            status = NULL, headers = NULL, body = NULL \
        WHERE (i.state = 'leased' AND i.owner = EXCLUDED.owner) OR i.expires_at <= now() \
    RETURNING 1";

/// The same, with an intent.
const INTEND: &str = "\
    INSERT INTO idempotency AS i (scope, key_hash, state, owner, fingerprint, expires_at, leased_until) \
    VALUES ($1, $2, 'leased', $3, $4, now() + ($5::float8 + $6::float8) * interval '1 second', now() + $5::float8 * interval '1 second') \
    ON CONFLICT (scope, key_hash) DO UPDATE \
        SET state = 'leased', owner = EXCLUDED.owner, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at, \
            leased_until = EXCLUDED.leased_until, \
            created_at = CASE WHEN i.owner = EXCLUDED.owner THEN i.created_at ELSE now() END, status = NULL, headers = NULL, body = NULL \
        WHERE (i.state = 'leased' AND i.owner = EXCLUDED.owner) OR i.expires_at <= now() \
    RETURNING 1";

/// Puts the answer in the place of a lease that is one's own, or nobody's.
const COMPLETE: &str = "\
    INSERT INTO idempotency AS i (scope, key_hash, state, owner, fingerprint, expires_at, status, headers, body) \
    VALUES ($1, $2, 'done', $3, $4, now() + $5::float8 * interval '1 second', $6, $7, $8) \
    ON CONFLICT (scope, key_hash) DO UPDATE \
        SET state = 'done', owner = EXCLUDED.owner, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at, \
            leased_until = NULL, status = EXCLUDED.status, headers = EXCLUDED.headers, body = EXCLUDED.body \
        WHERE (i.state = 'leased' AND i.owner = EXCLUDED.owner) OR i.expires_at <= now() \
    RETURNING 1";

const READ: &str = "SELECT state, fingerprint, owner, status, headers, body FROM idempotency WHERE scope = $1 AND key_hash = $2";

const RELEASE: &str = "DELETE FROM idempotency WHERE scope = $1 AND key_hash = $2 AND owner = $3 AND state = 'leased'";

const LEAVE_UNKNOWN: &str = "\
    UPDATE idempotency SET leased_until = now(), expires_at = now() + (expires_at - leased_until) \
    WHERE scope = $1 AND key_hash = $2 AND owner = $3 AND state = 'leased' AND leased_until > now()";

const UNRESOLVED: &str = "\
    SELECT scope, key_hash, created_at, expires_at FROM idempotency \
    WHERE scope = ANY($1) AND state = 'leased' AND leased_until <= now() AND expires_at > now() ORDER BY created_at";

const RESOLVE_AS_NOT_DONE: &str = "\
    DELETE FROM idempotency \
    WHERE scope = $1 AND key_hash = $2 AND state = 'leased' AND leased_until <= now() AND expires_at > now() RETURNING 1";

const RESOLVE_AS_DONE: &str = "\
    UPDATE idempotency SET state = 'done', owner = gen_random_uuid(), leased_until = NULL, expires_at = now() + $3::float8 * interval '1 second', \
        status = $4, headers = $5, body = $6 \
    WHERE scope = $1 AND key_hash = $2 AND state = 'leased' AND leased_until <= now() AND expires_at > now() RETURNING 1";

/// Deletes some of what is over, unless another instance is at it.
const SWEEP: &str = "\
    WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS ours) \
    DELETE FROM idempotency WHERE (scope, key_hash) IN ( \
        SELECT scope, key_hash FROM idempotency WHERE expires_at <= now() AND (SELECT ours FROM turn) \
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED) \
    RETURNING 1";

/// Exactly, by an index of the few rows that are leases: those at work, and those of which nobody knows.
const COUNT_LEASED: &str = "\
    SELECT scope, (count(*) FILTER (WHERE leased_until IS NULL OR leased_until > now()))::float8, \
        (count(*) FILTER (WHERE leased_until <= now()))::float8 FROM idempotency \
    WHERE state = 'leased' AND (expires_at IS NULL OR expires_at > now()) GROUP BY scope";

/// From some of the table's pages: all of them where there are few.
const COUNT_DONE: &str = "\
    SELECT scope, count(*) * 100 / $1::float8 FROM idempotency TABLESAMPLE SYSTEM ($1::float8) \
    WHERE state = 'done' AND expires_at > now() GROUP BY scope";

/// How much of the table, in percent, may be read for a count.
const SAMPLE: &str =
    "SELECT least(100, 100 * $1::float8 * current_setting('block_size')::int / greatest(1, pg_relation_size('idempotency')))";
const SAMPLE_PAGES: f64 = 2000.0;

/// Held while deleting. Any number that no other program takes.
const SWEEP_LOCK: i64 = 0x6378_6461_5f73_7770;
/// Rows deleted by one statement.
const SWEEP_ROWS: i64 = 500;

/// Idempotency keys in the table of that name, over connections of their own: lookups and webhooks do not wait for each
/// other.
pub struct PostgresIdempotency {
    pool: Pool,
    timeout: Duration,
}

impl PostgresIdempotency {
    /// Connects on first use. `timeout`: for one step.
    pub fn new(connector: Connector, settings: &config::Database, connections: usize, timeout: Duration) -> anyhow::Result<Self> {
        Ok(Self { pool: Pool::new(connector, settings, connections)?, timeout })
    }

    /// Closes all connections that are not in use, and the others as they come back.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Runs one statement, and once more on another connection where that one broke: every step may be repeated.
    async fn run(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreDown> {
        let deadline = Instant::now() + self.timeout;
        let mut outcome = self.run_once(statement, parameters, deadline).await;
        let broken = outcome.as_ref().is_err_and(retryable);
        if broken {
            outcome = self.run_once(statement, parameters, deadline).await;
        }
        outcome.map_err(|error| match error {
            StoreError::Unavailable(_) | StoreError::Busy | StoreError::Misconfigured(_) | StoreError::Refused(_) if !broken => {
                StoreDown::NotAsked(error.into())
            }
            _ => StoreDown::NoAnswer(error.into()),
        })
    }

    async fn run_once(&self, statement: &str, parameters: &[Parameter<'_>], deadline: Instant) -> Result<Vec<Row>, StoreError> {
        let connection = self.pool.lend(deadline).await?;
        let outcome = in_time(deadline, connection.query(statement, parameters)).await;
        connection.end(outcome.as_ref().err());
        outcome
    }
}

/// A row as it stands.
struct Found {
    fingerprint: Digest,
    owner: Owner,
    state: State,
}

enum State {
    Leased,
    Unknown,
    Done(StoredReply),
}

fn found(row: &Row) -> anyhow::Result<Found> {
    let fingerprint = Digest::from_bytes(row.try_get(1)?).context("this is no fingerprint of this service's")?;
    let owner = Owner::from_uuid(row.try_get(2)?);
    let state = match row.try_get::<_, &str>(0)? {
        "done" => State::Done(StoredReply {
            status: u16::try_from(row.try_get::<_, i16>(3)?)?,
            headers: serde_json::from_str(row.try_get(4)?)?,
            body: Bytes::copy_from_slice(row.try_get(5)?),
        }),
        "unknown" => State::Unknown,
        _ => State::Leased,
    };
    Ok(Found { fingerprint, owner, state })
}

/// A key and the holder of its lease, as each statement about a lease is told of them: scope, hash, owner and fingerprint.
struct Holder<'k> {
    scope: &'k str,
    hash: &'k [u8],
    owner: Uuid,
    fingerprint: &'k [u8],
}

impl<'k> Holder<'k> {
    fn of(key: &'k IdempotencyKey, owner: Owner) -> Self {
        Self { scope: &key.scope, hash: key.hash.as_bytes(), owner: owner.uuid(), fingerprint: key.fingerprint.as_bytes() }
    }

    /// Those four, and what a statement wants beyond.
    fn parameters<'p>(&'p self, more: &[Parameter<'p>]) -> Vec<Parameter<'p>> {
        let Self { scope, hash, owner, fingerprint } = self;
        let four: [Parameter<'_>; 4] = [(scope, Type::TEXT), (hash, Type::BYTEA), (owner, Type::UUID), (fingerprint, Type::BYTEA)];
        [&four, more].concat()
    }
}

/// An answer's status and headers, as the table has them.
fn columns(reply: &StoredReply) -> Result<(i16, String), StoreDown> {
    let headers = serde_json::to_string(&reply.headers).map_err(|error| StoreDown::NotAsked(error.into()))?;
    let status = i16::try_from(reply.status).map_err(|error| StoreDown::NotAsked(error.into()))?;
    Ok((status, headers))
}

#[async_trait]
impl IdempotencyStore for PostgresIdempotency {
    async fn claim(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<Claimed, StoreDown> {
        const TRIES: usize = 5;
        let (holder, lease) = (Holder::of(key, owner), lease.as_secs_f64());
        let parameters = holder.parameters(&[(&lease, Type::FLOAT8)]);
        for _ in 0..TRIES {
            if let Some(row) = self.run(CLAIM, &parameters).await?.first() {
                let found = found(row).map_err(StoreDown::NoAnswer)?;
                return Ok(match found.state {
                    State::Done(reply) => Claimed::Done(found.fingerprint, reply),
                    State::Unknown => Claimed::Unknown(found.fingerprint),
                    State::Leased if found.owner == owner => Claimed::Won,
                    State::Leased => Claimed::Leased(found.fingerprint),
                });
            }
        }
        Err(StoreDown::NoAnswer(anyhow::anyhow!("the key changed hands {TRIES} times while it was claimed")))
    }

    async fn renew(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<bool, StoreDown> {
        let (holder, lease) = (Holder::of(key, owner), lease.as_secs_f64());
        Ok(!self.run(RENEW, &holder.parameters(&[(&lease, Type::FLOAT8)])).await?.is_empty())
    }

    async fn complete(&self, key: &IdempotencyKey, owner: Owner, reply: &StoredReply, keep: Duration) -> Result<Completed, StoreDown> {
        let (status, headers) = columns(reply)?;
        let (holder, keep, body) = (Holder::of(key, owner), keep.as_secs_f64(), &*reply.body);
        let parameters = holder.parameters(&[(&keep, Type::FLOAT8), (&status, Type::INT2), (&headers, Type::TEXT), (&body, Type::BYTEA)]);
        if !self.run(COMPLETE, &parameters).await?.is_empty() {
            return Ok(Completed::Stored);
        }
        let rows = self.run(READ, &parameters[..2]).await?;
        let there = rows.first().map(found).transpose().map_err(StoreDown::NoAnswer)?;
        Ok(match there {
            // Kept by an earlier try whose answer was lost.
            Some(Found { owner: author, state: State::Done(_), .. }) if author == owner => Completed::Stored,
            Some(Found { fingerprint, state: State::Done(reply), .. }) => Completed::Lost(Some((fingerprint, reply))),
            _ => Completed::Lost(None),
        })
    }

    async fn release(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown> {
        self.run(RELEASE, &Holder::of(key, owner).parameters(&[])[..3]).await.map(drop)
    }

    async fn intend(&self, key: &IdempotencyKey, owner: Owner, lease: Duration, keep: Duration) -> Result<bool, StoreDown> {
        let (holder, lease, keep) = (Holder::of(key, owner), lease.as_secs_f64(), keep.as_secs_f64());
        Ok(!self.run(INTEND, &holder.parameters(&[(&lease, Type::FLOAT8), (&keep, Type::FLOAT8)])).await?.is_empty())
    }

    async fn leave_unknown(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown> {
        self.run(LEAVE_UNKNOWN, &Holder::of(key, owner).parameters(&[])[..3]).await.map(drop)
    }

    async fn unresolved(&self, scopes: &[Arc<str>]) -> Result<Vec<Unresolved>, StoreDown> {
        let scopes: Vec<&str> = scopes.iter().map(|scope| &**scope).collect();
        let unresolved = |row: &Row| {
            let hash = Digest::from_bytes(row.try_get(1)?).context("this is no key of this service's")?;
            Ok(Unresolved { scope: row.try_get(0)?, hash, since: row.try_get(2)?, until: row.try_get(3)? })
        };
        let rows = self.run(UNRESOLVED, &[(&scopes, Type::TEXT_ARRAY)]).await?;
        rows.iter().map(unresolved).collect::<anyhow::Result<_>>().map_err(StoreDown::NoAnswer)
    }

    async fn resolve(&self, scope: &str, hash: &Digest, answer: Option<(StoredReply, Duration)>) -> Result<bool, StoreDown> {
        let rows = match answer {
            None => self.run(RESOLVE_AS_NOT_DONE, &[(&scope, Type::TEXT), (&hash.as_bytes(), Type::BYTEA)]).await?,
            Some((reply, keep)) => {
                let (status, headers) = columns(&reply)?;
                let parameters: [Parameter<'_>; 6] = [
                    (&scope, Type::TEXT),
                    (&hash.as_bytes(), Type::BYTEA),
                    (&keep.as_secs_f64(), Type::FLOAT8),
                    (&status, Type::INT2),
                    (&headers, Type::TEXT),
                    (&&*reply.body, Type::BYTEA),
                ];
                self.run(RESOLVE_AS_DONE, &parameters).await?
            }
        };
        Ok(!rows.is_empty())
    }

    async fn sweep(&self) -> Result<(u64, bool), StoreDown> {
        let rows = self.run(SWEEP, &[(&SWEEP_LOCK, Type::INT8), (&SWEEP_ROWS, Type::INT8)]).await?.len() as u64;
        Ok((rows, rows == SWEEP_ROWS.unsigned_abs()))
    }

    async fn count(&self, scopes: &[Arc<str>]) -> Result<Vec<Records>, StoreDown> {
        let leased = self.run(COUNT_LEASED, &[]).await?;
        let sample = self.run(SAMPLE, &[(&SAMPLE_PAGES, Type::FLOAT8)]).await?.first().map_or(100.0, |row| row.get::<_, f64>(0));
        let done = self.run(COUNT_DONE, &[(&sample, Type::FLOAT8)]).await?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = |rows: &[Row], column: usize, scope: &str| {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == scope);
            row.map_or(0, |row| row.get::<_, f64>(column).round() as u64)
        };
        let records = |scope: &Arc<str>| {
            [("leased", &leased, 1), ("done", &done, 1), ("unknown", &leased, 2)].map(|(state, rows, column)| Records {
                scope: scope.to_string(),
                state,
                count: count(rows, column, scope),
            })
        };
        Ok(scopes.iter().flat_map(records).collect())
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StoreDown> {
        Ok(None)
    }

    async fn ready(&self) -> Result<(), StoreDown> {
        self.run("SELECT 1", &[]).await.map(drop)
    }
}
