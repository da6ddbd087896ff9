//! One transaction for a group of lookups and of audit entries: what is read and written, in as few round trips as can be.

use std::collections::HashMap;
use std::time::Instant;

use futures_util::future::join;
use futures_util::{join, try_join};
use tokio::time::timeout_at;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::failure::{Failure, store_error};
use super::pool::Lease;
use crate::app::ports::{Reading, StoreError};
use crate::domain::{AuditEntry, CustomerDocument, CustomerId, CustomerRecord};
use crate::metrics::Rollback;

/// The database's time, as caches count it. Asked for before the customers, so that it is never later than they are.
const SEEN: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";

const LOOKUP: &str = "\
    SELECT tenant_id, id, version, name, status, updated_at, attributes::text FROM customers WHERE tenant_id = $1 AND id = ANY($2)";

/// The same for several tenants.
const LOOKUP_PAIRS: &str = "\
    SELECT c.tenant_id, c.id, c.version, c.name, c.status, c.updated_at, c.attributes::text \
    FROM unnest($1::text[], $2::uuid[]) AS asked (tenant_id, id) JOIN customers c USING (tenant_id, id)";

/// All rows at once. Arrays of different lengths make no array of arrays, so the ids of all rows come in one, and each row cuts
/// out its own.
const AUDIT: &str = "\
    INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, customer_ids, missing_ids) \
    SELECT tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, \
           ($9::uuid[])[first_id:last_id], ($12::uuid[])[first_missing:last_missing] \
    FROM unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
                $10::int[], $11::int[], $13::int[], $14::int[]) \
         AS entry (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, \
                   first_id, last_id, first_missing, last_missing) \
    ON CONFLICT DO NOTHING";

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
pub(super) async fn run(connection: &Lease, wishes: &[&Wish], deadline: Instant) -> Result<Vec<Reading>, Failure> {
    if wishes.iter().all(|wish| wish.asked.is_empty()) {
        let audit = in_time(deadline, connection.prepare_cached(AUDIT)).await.map_err(Failure::outside_transaction)?;
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
    let audit = in_time(deadline, connection.prepare_cached(AUDIT)).await.map_err(Failure::inside)?;
    // Both are sent at the first poll, one after the other.
    let write = join(connection.execute(&audit, &parameters), connection.batch_execute("COMMIT"));
    let (inserted, committed) = timeout_at(deadline.into(), write).await.map_err(|_| Failure::timeout())?;
    inserted.map_err(|error| Failure::at(Rollback::Audit, &error))?;
    committed.map_err(|error| Failure::at(Rollback::Commit, &error))?;
    Ok(readings)
}

/// Begins, and reads each customer once, however many ask for it.
async fn read(connection: &Lease, wishes: &[&Wish], deadline: Instant) -> Result<Vec<Reading>, Failure> {
    let mut asked: Vec<_> = wishes.iter().flat_map(|wish| wish.asked.iter().map(|id| (&wish.entry.tenant, *id))).collect();
    asked.sort_unstable();
    asked.dedup();
    let ids: Vec<_> = asked.iter().map(|(_, id)| id.uuid()).collect();
    let tenants: Vec<_> = asked.iter().map(|(tenant, _)| tenant.as_str()).collect();
    // The tenants are sorted.
    let one_tenant = tenants.first().copied().filter(|first| tenants.last() == Some(first));
    let lookup = if one_tenant.is_some() { LOOKUP } else { LOOKUP_PAIRS };
    let prepare = async { try_join!(connection.prepare_cached(SEEN), connection.prepare_cached(lookup)) };
    let (seen, lookup) = in_time(deadline, prepare).await.map_err(Failure::outside_transaction)?;
    let whose: &(dyn ToSql + Sync) = one_tenant.as_ref().map_or(&tenants as _, |tenant| tenant as _);
    let parameters = [whose, &ids];
    let (began, seen, rows) = flight(connection, &seen, &lookup, &parameters, deadline).await?;
    began.map_err(|error| Failure::outside_transaction(store_error(&error)))?;
    let failed = |error: tokio_postgres::Error| Failure::at(Rollback::Lookup, &error);
    let refused = |error: anyhow::Error| Failure { error: StoreError::Refused(error), rolled_back: Some(Rollback::Lookup) };
    let seen: i64 = seen.map_err(failed)?.try_get(0).map_err(failed)?;
    let seen = u64::try_from(seen).map_err(|error| refused(error.into()))?;
    let rows = rows.map_err(failed)?;
    let found: Result<HashMap<_, _>, _> = rows.iter().map(document).collect();
    let found = found.map_err(refused)?;
    let reading = |wish: &&Wish| {
        let tenant = wish.entry.tenant.as_str();
        Reading { found: wish.asked.iter().filter_map(|id| found.get(&(tenant, *id)).cloned()).collect(), seen }
    };
    Ok(wishes.iter().map(reading).collect())
}

type Answer<T> = Result<T, tokio_postgres::Error>;

/// The first round trip: all three are sent at the first poll, one after the other.
async fn flight(
    connection: &Lease,
    seen: &Statement,
    lookup: &Statement,
    parameters: &[&(dyn ToSql + Sync)],
    deadline: Instant,
) -> Result<(Answer<()>, Answer<Row>, Answer<Vec<Row>>), Failure> {
    let all = async { join!(connection.batch_execute("BEGIN"), connection.query_one(seen, &[]), connection.query(lookup, parameters)) };
    timeout_at(deadline.into(), all).await.map_err(|_| Failure::timeout())
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

fn document(row: &Row) -> anyhow::Result<((&str, CustomerId), CustomerDocument)> {
    let id = CustomerId::from_uuid(row.try_get(1)?).ok_or_else(|| anyhow::anyhow!("a customer has the nil id"))?;
    let record = CustomerRecord {
        id,
        version: u64::try_from(row.try_get::<_, i64>(2)?)?,
        name: row.try_get(3)?,
        status: row.try_get(4)?,
        updated_at: row.try_get(5)?,
        attributes: row.try_get(6)?,
    };
    Ok(((row.try_get(0)?, id), record.document()?))
}
