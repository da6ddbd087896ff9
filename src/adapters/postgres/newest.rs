//! The newest audit rows, by the one index that there is: tenant, then time.

use std::time::Instant;

use chrono::{DateTime, Datelike, Days, NaiveTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connection::Parameter;
use super::in_time;
use super::pool::Lease;
use crate::app::ports::{AuditGlance, StoreError};

/// An index on the time alone would make every lookup dearer. So: one step down the index for each tenant, which finds its newest
/// row; then the newest rows of those tenants that have the newest. The bounds keep to the partitions of one month, or two.
const NEWEST: &str = "\
    WITH RECURSIVE last_rows AS ( \
        (SELECT tenant_id, occurred_at FROM audit_log WHERE occurred_at >= $1 AND occurred_at < $2 \
         ORDER BY tenant_id DESC, occurred_at DESC LIMIT 1) \
        UNION ALL \
        SELECT next.tenant_id, next.occurred_at FROM last_rows, LATERAL ( \
            SELECT tenant_id, occurred_at FROM audit_log \
            WHERE tenant_id < last_rows.tenant_id AND occurred_at >= $1 AND occurred_at < $2 \
            ORDER BY tenant_id DESC, occurred_at DESC LIMIT 1) AS next \
    ), tenants AS (SELECT tenant_id FROM last_rows ORDER BY occurred_at DESC LIMIT $3) \
    SELECT entry.occurred_at, tenants.tenant_id, entry.source, cardinality(entry.customer_ids), entry.customer_ids[1], \
        cardinality(entry.missing_ids), entry.key_id, entry.request_id \
    FROM tenants, LATERAL ( \
        SELECT * FROM audit_log WHERE tenant_id = tenants.tenant_id AND occurred_at >= $1 AND occurred_at < $2 \
        ORDER BY occurred_at DESC LIMIT $3) AS entry \
    ORDER BY entry.occurred_at DESC LIMIT $3";

pub(super) async fn newest(connection: &Lease, most: u16, deadline: Instant) -> Result<Vec<AuditGlance>, StoreError> {
    let now = Utc::now();
    let (since, until) = (start_of_month(now - Days::new(1)), now + Days::new(1));
    let parameters: [Parameter<'_>; 3] = [(&since, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ), (&i64::from(most), Type::INT8)];
    let rows = in_time(deadline, connection.query(NEWEST, &parameters)).await?;
    rows.iter().map(glance).collect::<Result<_, _>>().map_err(|error| StoreError::Refused(error.into()))
}

/// A whole month, so that no row of a partition lies outside: then each step down the index is one.
fn start_of_month(time: DateTime<Utc>) -> DateTime<Utc> {
    time.with_day(1).and_then(|day| day.with_time(NaiveTime::MIN).single()).unwrap_or(time)
}

fn glance(row: &Row) -> Result<AuditGlance, tokio_postgres::Error> {
    let count = |at| row.try_get::<_, i32>(at).map(|count| u32::try_from(count).unwrap_or_default());
    Ok(AuditGlance {
        occurred_at: row.try_get(0)?,
        tenant: row.try_get(1)?,
        source: row.try_get(2)?,
        customers: count(3)?,
        first_id: row.try_get(4)?,
        missing: count(5)?,
        key_id: row.try_get(6)?,
        request_id: row.try_get(7)?,
    })
}
