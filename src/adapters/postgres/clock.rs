//! How far this instance's clock is from the database's. Audit rows of an instance whose clock is wrong get the database's time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use tokio_postgres::{Client, Error};

use crate::metrics::Metrics;

/// As far apart as the time of an audit entry and that of its transaction may be.
const TOLERANCE: TimeDelta = TimeDelta::minutes(1);

const DATABASE_TIME: &str = "SELECT clock_timestamp()";

/// Compares the clocks, exports the offset, and warns once while it is beyond the tolerance.
pub(super) struct ClockCheck {
    metrics: Arc<Metrics>,
    is_off: AtomicBool,
}

impl ClockCheck {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, is_off: AtomicBool::new(false) }
    }

    /// One round trip.
    pub(super) async fn measure(&self, client: &Client) -> Result<(), Error> {
        let sent = Utc::now();
        let rows = client.query_typed(DATABASE_TIME, &[]).await?;
        let received = Utc::now();
        if let Some(row) = rows.first() {
            let database: DateTime<Utc> = row.try_get(0)?;
            self.report(sent + (received - sent) / 2 - database);
        }
        Ok(())
    }

    /// `offset`: the instance's time less the database's.
    fn report(&self, offset: TimeDelta) {
        let seconds = offset.as_seconds_f64();
        self.metrics.clock_offset(seconds);
        let is_off = offset.abs() > TOLERANCE;
        let was_off = self.is_off.swap(is_off, Ordering::Relaxed);
        if is_off && !was_off {
            tracing::warn!(
                event = "clock_offset",
                offset_seconds = seconds,
                "clock differs from the database's; audit rows get the database's time"
            );
        }
    }
}
