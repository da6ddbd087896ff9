//! One transaction for a group of lookups and of audit entries: what is read and written, in one round trip.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use tokio::time::timeout_at;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::connection::{Failed, Parameter, Prepared};
use super::failure::{Failure, store_error};
use super::pool::Lease;
use crate::app::ports::{Reading, StoreError};
use crate::domain::{AuditEntry, CustomerDocument, CustomerId, CustomerRecord, ServerStart, TenantId};
use crate::metrics::Rollback;

/// A statement for each kind of group.
struct Statements {
    /// Customers of one tenant.
    one_tenant: String,
    /// Of several, who come last in each row.
    pairs: String,
    /// Nobody is looked up.
    audit: String,
}

/// The entries cannot be there already.
static FIRST: LazyLock<Statements> = LazyLock::new(|| Statements::new(""));

/// The row's time: that of the entry, or the transaction's where the two are more than a minute apart. The database's clock decides
/// in which partition a row is, and when its time to be pruned comes; this instance's clock may be wrong by days.
const OCCURRED_AT: &str = "CASE WHEN occurred_at BETWEEN (SELECT now() - interval '1 minute') AND (SELECT now() + interval '1 minute') \
     THEN occurred_at ELSE now() END";

/// The commit of an earlier attempt may have gone through. To look for that made a row a third dearer for Postgres.
///
/// An entry whose time is that far off has got another time in each transaction, so it is looked for by its id. The margin is half
/// of that minute, so that an entry which was too far off for the first attempt is not near enough for the next.
static AGAIN: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(
        " WHERE occurred_at BETWEEN now() - interval '30 seconds' AND now() + interval '30 seconds' OR NOT EXISTS \
         (SELECT FROM audit_log AS written WHERE written.tenant_id = entry.tenant_id AND written.id = entry.id \
         AND written.occurred_at > now() - interval '10 minutes') ON CONFLICT DO NOTHING",
    )
});

/// Whether the entries may be there already.
#[derive(Clone, Copy)]
pub(super) enum Attempt {
    First,
    Again,
}

impl Attempt {
    fn statements(self) -> &'static Statements {
        match self {
            Self::First => &FIRST,
            Self::Again => &AGAIN,
        }
    }
}

impl Statements {
    fn new(repeated: &str) -> Self {
        let one_tenant = Self::lookup(
            "",
            "FROM customers c WHERE c.tenant_id = $18 AND c.id = ANY($19)",
            "asked NOT IN (SELECT id FROM found)",
            repeated,
        );
        let pairs = Self::lookup(
            ", tenant_id",
            "FROM unnest($18::text[], $19::uuid[]) AS pair (tenant_id, id) JOIN customers c USING (tenant_id, id)",
            "(tenant_id, asked) NOT IN (SELECT tenant_id, id FROM found)",
            repeated,
        );
        Self { one_tenant, pairs, audit: Self::audit("", "", "", repeated) }
    }

    /// Customers and audit rows in one statement, which is a transaction of its own: nothing waits for an answer in between. So
    /// the database itself finds out who is missing, and looks for them only where not all are found. The last row is no
    /// customer, but the database's time as caches count it, and the start of the server in the place of `updated_at`.
    fn lookup(tenant: &str, customers: &str, is_missing: &str, repeated: &str) -> String {
        let missing = format!(
            " || CASE WHEN (SELECT count(*) FROM found) = cardinality($19) THEN '{{}}' \
             ELSE ARRAY(SELECT asked FROM unnest(($15::uuid[])[first_asked:last_asked]) AS asked WHERE {is_missing}) END"
        );
        let audit = Self::audit(&missing, ", $16::int[], $17::int[]", ", first_asked, last_asked", repeated);
        let no_tenant = if tenant.is_empty() { "" } else { ", NULL" };
        format!(
            "WITH found AS MATERIALIZED \
             (SELECT c.id, c.version, c.name, c.status, c.updated_at, c.attributes::text{tenant} {customers}), logged AS ({audit}) \
             SELECT * FROM found UNION ALL \
             SELECT NULL, pg_snapshot_xmax(pg_current_snapshot())::text::bigint, NULL, NULL, pg_postmaster_start_time(), NULL{no_tenant}"
        )
    }

    /// All rows at once. Arrays of different lengths make no array of arrays, so the ids of all rows come in one, and each row
    /// cuts out its own.
    fn audit(missing: &str, parameters: &str, columns: &str, repeated: &str) -> String {
        format!(
            "INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, customer_ids, missing_ids) \
             SELECT tenant_id, {OCCURRED_AT}, id, action, source, key_id, request_id, contact_id, \
             ($9::uuid[])[first_id:last_id], ($12::uuid[])[first_missing:last_missing]{missing} \
             FROM unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
             $10::int[], $11::int[], $13::int[], $14::int[]{parameters}) \
             AS entry (tenant_id, occurred_at, id, action, source, key_id, request_id, contact_id, \
             first_id, last_id, first_missing, last_missing{columns}){repeated}"
        )
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

/// Reads for all of them and writes their audit rows: all of it or nothing. What is found is not looked at yet.
///
/// `rows_come`: called at the first row, where there are so many that they do not all come at the end. Postgres holds them back
/// until the whole statement has run, so that the commit alone is left; what is sent over this connection from then on is done
/// after it, without a pause in between.
pub(super) async fn run(
    connection: &Lease,
    wishes: &[&Wish],
    attempt: Attempt,
    deadline: Instant,
    rows_come: impl FnOnce(),
) -> Result<Found, Failure> {
    // Each customer once, however many ask for it.
    let mut asked: Vec<_> = wishes.iter().flat_map(|wish| wish.asked.iter().map(|id| (wish.entry.tenant, *id))).collect();
    asked.sort_unstable();
    asked.dedup();
    let ids: Vec<_> = asked.iter().map(|(_, id)| id.uuid()).collect();
    let tenants: Vec<_> = asked.iter().map(|(tenant, _)| tenant.as_str()).collect();
    // They are sorted.
    let one_tenant = asked.first().map(|(first, _)| *first).filter(|first| asked.last().is_some_and(|(last, _)| last == first));
    let entries = Entries::of(wishes);
    let mut parameters = entries.parameters();
    let statements = attempt.statements();
    let statement = if asked.is_empty() {
        &statements.audit
    } else {
        parameters.extend(entries.asked.parameters());
        parameters.push(if one_tenant.is_some() { (&tenants[0], Type::TEXT) } else { (&tenants, Type::TEXT_ARRAY) });
        parameters.push((&ids, Type::UUID_ARRAY));
        if one_tenant.is_some() { &statements.one_tenant } else { &statements.pairs }
    };
    let prepared = timeout_at(deadline.into(), connection.prepare(statement)).await;
    let prepared = prepared.map_err(|_| Failure::timeout(None))?;
    let statement = prepared.map_err(|error| match error.as_db_error() {
        // Postgres understands a statement in a transaction, too.
        Some(_) => Failure::of_statement(&error),
        None => Failure::outside_transaction(store_error(&error)),
    })?;
    let rows = connection.in_transaction(rows(connection, &statement, &parameters, rows_come));
    let rows = timeout_at(deadline.into(), rows).await.map_err(|_| Failure::timeout(Some(Rollback::Timeout)))?;
    let rows = rows.map_err(|failed| match failed {
        Failed::Begin(error) => Failure::outside_transaction(store_error(&error)),
        Failed::Work(failure) => failure,
        Failed::Commit(error) => Failure::at(Rollback::Commit, &error),
    })?;
    Ok(Found { rows, one_tenant })
}

/// Runs a statement to its end.
async fn rows(
    connection: &Lease,
    statement: &Prepared<'_>,
    parameters: &[Parameter<'_>],
    rows_come: impl FnOnce(),
) -> Result<Vec<Row>, Failure> {
    let stream = connection.execute(statement, parameters).await.map_err(|error| Failure::of_statement(&error))?;
    tokio::pin!(stream);
    let (mut rows, mut rows_come) = (Vec::new(), Some(rows_come));
    loop {
        match stream.try_next().await {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => return Ok(rows),
            // Postgres says how many rows there are before it commits.
            Err(error) if stream.rows_affected().is_some() => return Err(Failure::at(Rollback::Commit, &error)),
            Err(error) => return Err(Failure::of_statement(&error)),
        }
        if let Some(rows_come) = rows_come.take() {
            rows_come();
        }
    }
}

/// None: it is the last row, with the database's time.
fn id_of(row: &Row) -> Result<Option<Uuid>, tokio_postgres::Error> {
    row.try_get(0)
}

/// What a group of wishes has found together: rows as they came, and whose they are, if they are all one tenant's.
pub(super) struct Found {
    rows: Vec<Row>,
    one_tenant: Option<TenantId>,
}

impl Found {
    /// To each what it asked for.
    pub(super) fn readings(&self, wishes: &[&Wish]) -> anyhow::Result<Vec<Reading>> {
        let (mut customers, mut seen, mut server) = (HashMap::with_capacity(self.rows.len()), 0, ServerStart::default());
        for row in &self.rows {
            match self.customer(row)? {
                (Some((tenant, document)), _) => drop(customers.insert((tenant, document.id), document)),
                (None, time) => {
                    seen = time;
                    server = ServerStart(row.try_get::<_, DateTime<Utc>>(4)?.timestamp_micros());
                }
            }
        }
        let reading = |wish: &&Wish| {
            let found = wish.asked.iter().filter_map(|id| customers.get(&(wish.entry.tenant, *id)).cloned());
            Reading { found: found.collect(), seen, server }
        };
        Ok(wishes.iter().map(reading).collect())
    }

    /// A customer and its version; or nobody and the database's time.
    fn customer(&self, row: &Row) -> anyhow::Result<(Option<(TenantId, CustomerDocument)>, u64)> {
        let number = u64::try_from(row.try_get::<_, i64>(1)?)?;
        let Some(id) = id_of(row)? else { return Ok((None, number)) };
        let tenant = match self.one_tenant {
            Some(tenant) => tenant,
            None => row.try_get::<_, &str>(6)?.parse()?,
        };
        let record = CustomerRecord {
            id: CustomerId::from_uuid(id).ok_or_else(|| anyhow::anyhow!("a customer has the nil id"))?,
            version: number,
            name: row.try_get(2)?,
            status: row.try_get(3)?,
            updated_at: row.try_get(4)?,
            attributes: row.try_get(5)?,
        };
        Ok((Some((tenant, record.document()?)), number))
    }
}

pub(super) async fn in_time<T>(deadline: Instant, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
    timeout_at(deadline.into(), work).await.map_err(|_| StoreError::Timeout)?.map_err(|error| store_error(&error))
}

/// The audit rows: a column each.
struct Entries<'a> {
    tenants: Vec<&'a str>,
    times: Vec<DateTime<Utc>>,
    ids: Vec<Uuid>,
    actions: Vec<&'a str>,
    sources: Vec<&'a str>,
    keys: Vec<&'a str>,
    requests: Vec<&'a str>,
    contacts: Vec<Option<&'a str>>,
    customers: Slices,
    missing: Slices,
    asked: Slices,
}

impl<'a> Entries<'a> {
    fn of(wishes: &[&'a Wish]) -> Self {
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
            missing: Slices::of(wishes.iter().map(|wish| wish.missing.as_slice())),
            asked: Slices::of(wishes.iter().map(|wish| wish.asked.as_slice())),
        }
    }

    /// Without who was asked for.
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let Self { tenants, times, ids, actions, sources, keys, requests, contacts, customers, missing, asked: _ } = self;
        let mut all: Vec<Parameter<'_>> = vec![
            (tenants, Type::TEXT_ARRAY),
            (times, Type::TIMESTAMPTZ_ARRAY),
            (ids, Type::UUID_ARRAY),
            (actions, Type::TEXT_ARRAY),
            (sources, Type::TEXT_ARRAY),
            (keys, Type::TEXT_ARRAY),
            (requests, Type::TEXT_ARRAY),
            (contacts, Type::TEXT_ARRAY),
        ];
        all.extend(customers.parameters());
        all.extend(missing.parameters());
        all
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

    fn parameters(&self) -> [Parameter<'_>; 3] {
        [(&self.all, Type::UUID_ARRAY), (&self.first, Type::INT4_ARRAY), (&self.last, Type::INT4_ARRAY)]
    }
}
