//! The database's clock decides when an audit row was written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, TimeDelta, Utc};
use cxone_data_action::adapters::postgres::PostgresStore;
use cxone_data_action::adapters::postgres::connect::Connector;
use cxone_data_action::app::ports::CustomerStore;
use cxone_data_action::config::{Config, Flags};
use cxone_data_action::domain::{AuditEntry, CustomerId, RequestId, Source, audit};
use cxone_data_action::metrics::Metrics;
use uuid::Uuid;

use crate::support::{Database, Gate, Kept, Setup, wait_until};

const OFFSET: &str = "cxone_dataaction_clock_offset_seconds";

fn store(url: &str) -> PostgresStore {
    let flags = Flags { set: vec![("database.url".to_owned(), url.to_owned())], ..Flags::default() };
    let settings = Config::load(&flags).expect("settings").database;
    let connector = Connector::for_lookups(settings.url.as_ref().expect("set"), &settings).expect("a connector");
    PostgresStore::new(connector, &settings, Arc::new(Metrics::new(10).expect("metrics"))).expect("a store")
}

fn entry(occurred_at: DateTime<Utc>) -> AuditEntry {
    AuditEntry {
        id: Uuid::now_v7(),
        occurred_at,
        tenant: "acme42".parse().expect("a tenant"),
        action: "process_customer_batch",
        source: Source::Cache,
        customer_ids: vec![CustomerId::from_uuid(Uuid::from_u128(7)).expect("not nil")],
        key_id: "default".into(),
        request_id: RequestId::generate(),
        contact_id: None,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Both statement families: with a lookup, and alone.
async fn write(store: &PostgresStore, entry: &AuditEntry, looks_up: bool) {
    if looks_up {
        store.lookup_and_audit(entry.clone(), entry.customer_ids.clone(), soon()).await.expect("a reading");
    } else {
        store.audit(entry.clone(), Vec::new(), soon()).await.expect("a row");
    }
}

async fn seconds_from_now(database: &Database, id: Uuid) -> f64 {
    database.value(&format!("SELECT abs(extract(epoch FROM now() - occurred_at))::float8 FROM audit_log WHERE id = '{id}'")).await
}

#[tokio::test]
async fn an_entry_whose_time_is_far_off_lands_now() {
    let database = Database::new().await;
    let store = store(&database.url);
    let now = audit::now();
    for time in [now - Days::new(30), now + Days::new(30), now - Days::new(20_000), now - TimeDelta::seconds(90)] {
        for looks_up in [true, false] {
            let entry = entry(time);
            write(&store, &entry, looks_up).await;
            assert!(seconds_from_now(&database, entry.id).await < 60.0, "{time}");
        }
    }
    let in_default = "SELECT count(*) FROM audit_log_default";
    assert_eq!(database.value::<i64>(in_default).await, 0, "all are in this month's partition");
}

#[tokio::test]
async fn an_entry_whose_time_is_near_keeps_it() {
    let database = Database::new().await;
    let store = store(&database.url);
    for offset in [-30, 0, 30] {
        for looks_up in [true, false] {
            let entry = entry(audit::now() + TimeDelta::seconds(offset));
            write(&store, &entry, looks_up).await;
            let sql = format!("SELECT occurred_at FROM audit_log WHERE id = '{}'", entry.id);
            assert_eq!(database.value::<DateTime<Utc>>(&sql).await, entry.occurred_at);
        }
    }
}

#[tokio::test]
async fn a_commit_that_is_not_heard_of_leaves_one_row_at_any_offset() {
    let database = Database::new().await;
    let gate = Gate::before_postgres(&database).await;
    let store = store(&gate.url);
    let mut rows = 0;
    for days in [0, 30] {
        for looks_up in [true, false] {
            write(&store, &entry(audit::now()), looks_up).await;
            gate.keep(Kept::Answers);
            let entry = entry(audit::now() - Days::new(days));
            tokio::join!(write(&store, &entry, looks_up), async {
                wait_until("it is committed", async || (database.audit_count().await == rows + 2).then_some(())).await;
                gate.waited_at().await;
                gate.cut();
            });
            rows += 2;
            assert_eq!(database.audit_count().await, rows, "{days} days off");
        }
    }
}

/// Gives the database a clock that is thirty days ahead, for sessions with the database's own search path.
async fn set_clock_ahead(database: &Database) {
    database
        .run(
            "CREATE SCHEMA ahead;
             GRANT USAGE ON SCHEMA ahead TO PUBLIC;
             CREATE FUNCTION ahead.now() RETURNS timestamptz STABLE LANGUAGE sql AS $$ SELECT pg_catalog.now() + interval '30 days' $$;
             CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql
                 AS $$ SELECT pg_catalog.clock_timestamp() + interval '30 days' $$;",
        )
        .await;
    database.configure("SET search_path = ahead, pg_catalog, public").await;
}

#[tokio::test]
async fn a_clock_that_differs_is_told_once_and_its_rows_get_the_databases_time() {
    let database = Database::new().await;
    set_clock_ahead(&database).await;
    let mut service = Setup::on(&database).start().await;
    let mut last = String::new();
    for _ in 0..3 {
        assert_eq!(service.ready().await.status, 200);
        last = service.lookup("acme42", &[Uuid::from_u128(7)]).await.request_id();
    }
    service.request_line(&last).await;
    let days = service.metrics().await.sum(OFFSET, &[]) / 86_400.0;
    assert!((-30.1..-29.9).contains(&days), "{days} days");
    let warning = |line: &serde_json::Value| line["event"] == "clock_offset";
    assert_eq!(service.log().into_iter().filter(warning).count(), 1);
    let apart = "SELECT max(abs(extract(epoch FROM pg_catalog.now() + interval '30 days' - occurred_at)))::float8 FROM audit_log";
    assert!(database.value::<f64>(apart).await < 60.0);
    assert_eq!(database.audit_count().await, 3);
}

#[tokio::test]
async fn clocks_that_agree_are_told_as_such() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    assert_eq!(service.ready().await.status, 200);
    let metrics = service.metrics().await;
    assert_eq!(metrics.kind(OFFSET), Some("gauge"));
    assert!(metrics.sum(OFFSET, &[]).abs() < 60.0);
    assert!(service.log().iter().all(|line| line["event"] != "clock_offset"));
}
