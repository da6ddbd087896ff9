//! One transaction for a group of lookups and of audit entries: what is read and written, in as few round trips as can be.

use std::collections::HashMap;
use std::time::Instant;

use futures_util::TryStreamExt;
use futures_util::future::join;
use tokio::time::timeout_at;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::failure::{Failure, store_error};
use super::pool::Lease;
use crate::app::ports::{Reading, StoreError};
use crate::domain::{AuditEntry, CustomerDocument, CustomerId, CustomerRecord, TenantId};
use crate::metrics::Rollback;

/// The database's time, as caches count it, of the statement that asks for it: a row in front of the customers, without an id. A
/// statement of its own would be one answer more to wake up for.
macro_rules! lookup {
    ($seen:literal, $customers:literal) => {
        concat!(
            "SELECT NULL::uuid, pg_snapshot_xmax(pg_current_snapshot())::text::bigint, NULL, NULL, NULL::timestamptz, NULL",
            $seen,
            " UNION ALL SELECT c.id, c.version, c.name, c.status, c.updated_at, c.attributes::text",
            $customers
        )
    };
}

/// Of one tenant.
const LOOKUP: &str = lookup!("", " FROM customers c WHERE c.tenant_id = $1 AND c.id = ANY($2)");

/// Of several tenants, who come last in each row.
const LOOKUP_PAIRS: &str =
    lookup!(", NULL", ", c.tenant_id FROM unnest($1::text[], $2::uuid[]) AS asked (tenant_id, id) JOIN customers c USING (tenant_id, id)");

/// All rows at once. Arrays of different lengths make no array of arrays, so the ids of all rows come in one, and each row cuts
/// out its own.
macro_rules! audit {
    ($conflict:literal) => {
        concat!(
            "INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, customer_ids, missing_ids) ",
            "SELECT tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, ",
            "($9::uuid[])[first_id:last_id], ($12::uuid[])[first_missing:last_missing] ",
            "FROM unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], ",
            "$10::int[], $11::int[], $13::int[], $14::int[]) ",
            "AS entry (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, ",
            "first_id, last_id, first_missing, last_missing)",
            $conflict
        )
    };
}

/// Whether the entries may be there already.
#[derive(Clone, Copy)]
pub(super) enum Attempt {
    /// They cannot.
    First,
    /// The commit of an earlier attempt may have gone through. To look for that made a row a third dearer for Postgres.
    Again,
}

impl Attempt {
    fn audit(self) -> &'static str {
        match self {
            Self::First => audit!(""),
            Self::Again => audit!(" ON CONFLICT DO NOTHING"),
        }
    }
}

/// What one caller wants of a transaction.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) entry: AuditEntry,
    /// To be looked up; none for the entry of an answer that came from a cache.
    pub(super) asked: Vec<CustomerId>,
    /// Known to be missing.
    pub(super) missing: Vec<CustomerId>,
}

/// Reads for all of them, writes their audit rows, commits; each gets what it asked for.
///
/// The commit is sent only once the customers are read and understood, so that whatever fails before leaves no row: a
/// connection that is given up in between rolls back. A failed insert makes Postgres turn the commit after it into a rollback.
pub(super) async fn run(connection: &Lease, wishes: &[&Wish], attempt: Attempt, deadline: Instant) -> Result<Vec<Reading>, Failure> {
    if wishes.iter().all(|wish| wish.asked.is_empty()) {
        let audit = in_time(deadline, connection.prepare_cached(attempt.audit())).await.map_err(Failure::outside_transaction)?;
        let missing: Vec<_> = wishes.iter().map(|wish| wish.missing.as_slice()).collect();
        let rows = Rows::new(wishes, &missing);
        // A transaction of its own.
        in_time(deadline, connection.execute(&audit, &rows.parameters())).await.map_err(Failure::outside_transaction)?;
        return Ok(wishes.iter().map(|_| Reading::default()).collect());
    }
    let mut readings = read(connection, wishes, deadline).await?;
    let missing: Vec<_> = wishes.iter().zip(&mut readings).map(|(wish, reading)| missing(wish, reading)).collect();
    let missing: Vec<_> = missing.iter().map(Vec::as_slice).collect();
    let rows = Rows::new(wishes, &missing);
    let parameters = rows.parameters();
    let audit = in_time(deadline, connection.prepare_cached(attempt.audit())).await.map_err(Failure::inside)?;
    // Both are sent at the first poll, one after the other.
    let write = join(connection.execute(&audit, &parameters), connection.batch_execute("COMMIT"));
    let (inserted, committed) = timeout_at(deadline.into(), write).await.map_err(|_| Failure::timeout())?;
    inserted.map_err(|error| Failure::at(Rollback::Audit, &error))?;
    committed.map_err(|error| Failure::at(Rollback::Commit, &error))?;
    Ok(readings)
}

/// Begins, and reads each customer once, however many ask for it.
async fn read(connection: &Lease, wishes: &[&Wish], deadline: Instant) -> Result<Vec<Reading>, Failure> {
    let mut asked: Vec<_> = wishes.iter().flat_map(|wish| wish.asked.iter().map(|id| (wish.entry.tenant, *id))).collect();
    asked.sort_unstable();
    asked.dedup();
    let ids: Vec<_> = asked.iter().map(|(_, id)| id.uuid()).collect();
    let tenants: Vec<_> = asked.iter().map(|(tenant, _)| tenant.as_str()).collect();
    // They are sorted.
    let one_tenant = asked.first().map(|(first, _)| *first).filter(|first| asked.last().is_some_and(|(last, _)| last == first));
    let (sql, whose): (_, &(dyn ToSql + Sync)) = match &one_tenant {
        Some(_) => (LOOKUP, &tenants[0]),
        None => (LOOKUP_PAIRS, &tenants),
    };
    let lookup = in_time(deadline, connection.prepare_cached(sql)).await.map_err(Failure::outside_transaction)?;
    let lookup = found(connection, &lookup, [whose, &ids], one_tenant);
    // Both are sent at the first poll, one after the other.
    let flight = join(connection.batch_execute("BEGIN"), lookup);
    let (began, found) = timeout_at(deadline.into(), flight).await.map_err(|_| Failure::timeout())?;
    began.map_err(|error| Failure::outside_transaction(store_error(&error)))?;
    let Found { customers, seen } = found?;
    let reading = |wish: &&Wish| {
        let found = wish.asked.iter().filter_map(|id| customers.get(&(wish.entry.tenant, *id)).cloned());
        Reading { found: found.collect(), seen }
    };
    Ok(wishes.iter().map(reading).collect())
}

/// What a group of wishes has found together.
#[derive(Default)]
struct Found {
    customers: HashMap<(TenantId, CustomerId), CustomerDocument>,
    seen: u64,
}

/// Takes the rows in as they come, so that the last are still read while the first are made into documents.
async fn found(
    connection: &Lease,
    lookup: &Statement,
    parameters: [&(dyn ToSql + Sync); 2],
    one_tenant: Option<TenantId>,
) -> Result<Found, Failure> {
    let failed = |error: tokio_postgres::Error| Failure::at(Rollback::Lookup, &error);
    let rows = connection.query_raw(lookup, parameters).await.map_err(failed)?;
    tokio::pin!(rows);
    let mut found = Found::default();
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let refused = |error| Failure { error: StoreError::Refused(error), rolled_back: Some(Rollback::Lookup) };
        found.take(&row, one_tenant).map_err(refused)?;
    }
    Ok(found)
}

impl Found {
    fn take(&mut self, row: &Row, one_tenant: Option<TenantId>) -> anyhow::Result<()> {
        let number = u64::try_from(row.try_get::<_, i64>(1)?)?;
        let Some(id) = row.try_get(0)? else {
            self.seen = number;
            return Ok(());
        };
        let id = CustomerId::from_uuid(id).ok_or_else(|| anyhow::anyhow!("a customer has the nil id"))?;
        let tenant = match one_tenant {
            Some(tenant) => tenant,
            None => row.try_get::<_, &str>(6)?.parse()?,
        };
        let record = CustomerRecord {
            id,
            version: number,
            name: row.try_get(2)?,
            status: row.try_get(3)?,
            updated_at: row.try_get(4)?,
            attributes: row.try_get(5)?,
        };
        self.customers.insert((tenant, id), record.document()?);
        Ok(())
    }
}

/// The asked ids that were not found, with those known before.
fn missing(wish: &Wish, reading: &mut Reading) -> Vec<CustomerId> {
    // Those found are in the order asked.
    let mut found = reading.found.iter().map(|document| document.id).peekable();
    let not_found = wish.asked.iter().copied().filter(|id| found.next_if_eq(id).is_none());
    wish.missing.iter().copied().chain(not_found).collect()
}

pub(super) async fn in_time<T>(deadline: Instant, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
    timeout_at(deadline.into(), work).await.map_err(|_| StoreError::Timeout)?.map_err(|error| store_error(&error))
}

/// The parameters of the audit statement: a column each.
struct Rows<'a> {
    tenants: Vec<&'a str>,
    times: Vec<chrono::DateTime<chrono::Utc>>,
    ids: Vec<Uuid>,
    actions: Vec<&'a str>,
    sources: Vec<&'a str>,
    keys: Vec<&'a str>,
    requests: Vec<&'a str>,
    contacts: Vec<Option<&'a str>>,
    customers: Slices,
    missing: Slices,
}

impl<'a> Rows<'a> {
    fn new(wishes: &[&'a Wish], missing: &[&[CustomerId]]) -> Self {
        fn column<'a, T>(wishes: &[&'a Wish], value: impl Fn(&'a AuditEntry) -> T) -> Vec<T> {
            wishes.iter().map(|wish| value(&wish.entry)).collect()
        }
        Self {
            tenants: column(wishes, |entry| entry.tenant.as_str()),
            times: column(wishes, |entry| entry.occurred_at),
            ids: column(wishes, |entry| entry.id),
            actions: column(wishes, |entry| entry.action),
            sources: column(wishes, |entry| entry.source.as_str()),
            keys: column(wishes, |entry| &*entry.key_id),
            requests: column(wishes, |entry| entry.request_id.as_str()),
            contacts: column(wishes, |entry| entry.contact_id.as_deref()),
            customers: Slices::of(wishes.iter().map(|wish| wish.entry.customer_ids.as_slice())),
            missing: Slices::of(missing.iter().copied()),
        }
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 14] {
        let Self { tenants, times, ids, actions, sources, keys, requests, contacts, customers, missing } = self;
        [
            tenants,
            times,
            ids,
            actions,
            sources,
            keys,
            requests,
            contacts,
            &customers.all,
            &customers.first,
            &customers.last,
            &missing.all,
            &missing.first,
            &missing.last,
        ]
    }
}

/// Lists one after the other, and where in them each begins and ends, as SQL counts.
#[derive(Default)]
struct Slices {
    all: Vec<Uuid>,
    first: Vec<i32>,
    last: Vec<i32>,
}

impl Slices {
    fn of<'a>(lists: impl Iterator<Item = &'a [CustomerId]>) -> Self {
        let mut slices = Self::default();
        let count = |ids: &Vec<Uuid>| i32::try_from(ids.len()).unwrap_or(i32::MAX);
        for list in lists {
            slices.first.push(count(&slices.all) + 1);
            slices.all.extend(list.iter().map(|id| id.uuid()));
            slices.last.push(count(&slices.all));
        }
        slices
    }
}
