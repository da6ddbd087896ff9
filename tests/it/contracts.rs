//! One promise, every implementation: what holds for a seam holds for all that stand behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cxone_data_action::adapters::guard::GuardSettings;
use cxone_data_action::adapters::memory::MemoryStore;
use cxone_data_action::adapters::postgres::PostgresStore;
use cxone_data_action::adapters::postgres::connect::Connector;
use cxone_data_action::adapters::redis::RedisCache;
use cxone_data_action::app::ports::{Cache, Cached, CustomerStore};
use cxone_data_action::config::{Config, Flags};
use cxone_data_action::domain::{AuditEntry, CustomerId, CustomerRecord, Epoch, Known, RequestId, Source, TenantId, audit};
use cxone_data_action::metrics::Metrics;
use uuid::Uuid;

use crate::support::{Database, Redis, wait_until};

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant")
}

fn new_id() -> CustomerId {
    CustomerId::from_uuid(Uuid::new_v4()).expect("not nil")
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(10).expect("metrics"))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn entry(tenant: &TenantId, ids: &[CustomerId]) -> AuditEntry {
    AuditEntry {
        id: Uuid::now_v7(),
        occurred_at: audit::now(),
        tenant: *tenant,
        action: "process_customer_batch",
        source: Source::Database,
        customer_ids: ids.to_vec(),
        key_id: "default".into(),
        request_id: RequestId::generate(),
        contact_id: Some("42".to_owned()),
    }
}

/// A store with one customer of tenant `a`.
async fn holds_the_store_contract(store: &dyn CustomerStore, known: CustomerId, audited: impl AsyncFn(Uuid) -> Vec<Vec<CustomerId>>) {
    let (a, b, nobody) = (tenant("a"), tenant("b"), new_id());
    store.ready(soon()).await.expect("ready");

    let asked = [nobody, known];
    let lookup = entry(&a, &asked);
    let found = store.lookup_and_audit(lookup.clone(), asked.to_vec(), soon()).await.expect("an answer").found;
    assert_eq!(found.iter().map(|document| document.id).collect::<Vec<_>>(), [known]);
    let json: serde_json::Value = serde_json::from_slice(&found[0].json).expect("JSON");
    assert_eq!((&json["id"], &json["name"]), (&known.to_string().into(), &"Ann".into()));
    assert_eq!(audited(lookup.id).await, [vec![nobody]], "one row, which names who was missing");

    let again = store.lookup_and_audit(lookup.clone(), asked.to_vec(), soon()).await.expect("an answer").found;
    assert_eq!((again, audited(lookup.id).await.len()), (found, 1), "an entry written twice is one row");

    let other = entry(&b, &[known]);
    assert!(
        store.lookup_and_audit(other.clone(), vec![known], soon()).await.expect("an answer").found.is_empty(),
        "another tenant's customer"
    );
    assert_eq!(audited(other.id).await, [vec![known]]);

    let hit = AuditEntry { source: Source::Cache, ..entry(&a, &asked) };
    store.audit(hit.clone(), vec![nobody], soon()).await.expect("a row");
    store.audit(hit.clone(), vec![nobody], soon()).await.expect("the same row");
    assert_eq!(audited(hit.id).await, [vec![nobody]]);

    let newest = store.newest(2, soon()).await.expect("rows");
    let ids: Vec<_> = newest.iter().map(|row| (row.request_id.as_deref(), row.tenant.as_str(), row.source.as_str())).collect();
    let (last, before) = (hit.request_id.as_str(), other.request_id.as_str());
    assert_eq!(ids, [(Some(last), "a", "cache"), (Some(before), "b", "database")], "the newest rows of all tenants");
    assert_eq!((newest[0].customers, newest[0].missing, newest[0].first_id), (2, 1, Some(nobody.uuid())));
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract_of_a_store() {
    let (store, id) = (MemoryStore::default(), new_id());
    let record = CustomerRecord { id, version: 1, name: "Ann", status: "active", updated_at: audit::now(), attributes: "{}" };
    store.insert(tenant("a"), record.document().expect("a document"));
    let audited = async |row: Uuid| store.audited().into_iter().filter(|(entry, _)| entry.id == row).map(|(_, missing)| missing).collect();
    holds_the_store_contract(&store, id, audited).await;
}

#[tokio::test]
async fn the_postgres_store_keeps_the_contract_of_a_store() {
    let database = Database::new().await;
    let id = new_id();
    database.customer_with_id("a", id.uuid(), "Ann").await;
    let settings = Config::load(&Flags { set: vec![("database.url".to_owned(), database.url.clone())], ..Flags::default() })
        .expect("settings")
        .database;
    let connector = Connector::for_lookups(settings.url.as_ref().expect("set"), &settings).expect("a connector");
    let store = PostgresStore::new(connector, &settings, metrics()).expect("a store");
    let ids = |ids: Vec<Uuid>| ids.into_iter().filter_map(CustomerId::from_uuid).collect::<Vec<_>>();
    let audited = async |row: Uuid| {
        let rows = database.owner.query("SELECT missing_ids FROM audit_log WHERE id = $1", &[&row]).await.expect("rows");
        rows.iter().map(|row| ids(row.get(0))).collect()
    };
    holds_the_store_contract(&store, id, audited).await;
}

#[tokio::test]
async fn the_redis_tier_keeps_the_contract_of_a_cache() {
    let redis = Redis::start().await;
    let guard = GuardSettings { deadline: Duration::from_secs(5), failures: 5, open: Duration::from_secs(1), probes: 1 };
    let cache = RedisCache::new(&redis.url_of("cxda-cache").await, None, 2, guard, Duration::from_mins(1), metrics()).expect("a cache");
    let (a, b, epoch) = (tenant("a"), tenant("b"), Epoch(1));
    let (there, absent, short, unknown) = (new_id(), new_id(), new_id(), new_id());
    let present = Known::Present(br#"{"name":"Ann"}"#.as_slice().into());
    let of = |known: &Known, version| Cached { known: known.clone(), version, seen: 7, epoch, keep: Duration::from_mins(1) };
    cache.ready().await.expect("ready");

    let brief = Cached { keep: Duration::from_millis(30), ..of(&present, 1) };
    cache.put(&[(a, there, of(&present, 5)), (a, absent, of(&Known::Absent, 0)), (a, short, brief)]).await.expect("kept");
    let known = async |tenant: &TenantId| {
        let answers = cache.get(epoch, tenant, &[unknown, there, absent]).await.expect("answers");
        answers.into_iter().map(|cached| cached.map(|cached| (cached.known, cached.version, cached.seen))).collect::<Vec<_>>()
    };
    let all = [None, Some((present.clone(), 5, 7)), Some((Known::Absent, 0, 7))];
    assert_eq!(known(&a).await, all, "in the order asked");
    assert_eq!(known(&b).await, [None, None, None], "nothing of another tenant's");
    let left = cache.get(epoch, &a, &[there]).await.expect("answers").remove(0).expect("kept").keep;
    assert!(left > Duration::from_secs(50) && left <= Duration::from_mins(1), "{left:?} left of a minute");
    wait_until("the short-lived one is gone", async || cache.get(epoch, &a, &[short]).await.expect("answers")[0].is_none().then_some(()))
        .await;

    cache.put(&[(a, there, of(&Known::Absent, 4)), (a, absent, of(&present, 1))]).await.expect("looked at");
    assert_eq!(known(&a).await, [None, Some((present.clone(), 5, 7)), Some((present.clone(), 1, 7))], "the higher version counts");

    assert_eq!(cache.get(Epoch(2), &a, &[there]).await.expect("answers"), [None], "nothing of another epoch");
    cache.invalidate(Epoch(2), &[(a, there, 6)]).await.expect("marked");
    assert_eq!(known(&a).await[1], Some((present.clone(), 5, 7)), "a mark of another epoch changes nothing");

    cache.invalidate(epoch, &[(a, there, 6), (a, absent, 1), (b, unknown, 2)]).await.expect("marked");
    assert_eq!(known(&a).await, [None, None, Some((present.clone(), 1, 7))], "what is as new as the change stays");
    cache.put(&[(a, there, of(&present, 5)), (b, unknown, of(&Known::Absent, 0))]).await.expect("looked at");
    assert_eq!((known(&a).await[1].clone(), known(&b).await[0].clone()), (None, None), "nothing older than the change is taken");
    cache.put(&[(a, there, of(&present, 6))]).await.expect("kept");
    assert_eq!(known(&a).await[1], Some((present, 6, 7)));
}
