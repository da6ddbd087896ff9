//! A cached customer is never answered as it was for longer than a notification takes.

mod fills;
mod histories;
mod notifications;
mod outages;
mod restarts;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::support::{Database, Redis, Service, Setup, wait_until};

const LISTENER_UP: &str = "cxone_dataaction_cache_listener_up";
const LAG: &str = "cxone_dataaction_cache_notification_lag_seconds";
const INVALIDATIONS: &str = "cxone_dataaction_cache_invalidations_total";

/// Sessions that listen.
const LISTENER: &str = "application_name = 'cxone-data-action listener' AND datname = current_database()";

/// No time to live ends while a test waits: what is seen was told.
fn setup(database: &Database) -> Setup {
    Setup::on(database).set("CXDA_CACHE__ABSENT_TTL", "60s")
}

/// Three instances that share a Redis; one of them has no tier of its own.
async fn instances(database: &Database, redis: &Redis) -> [Service; 3] {
    let setup = || setup(database).redis(redis);
    [setup().start().await, setup().start().await, setup().set("CXDA_CACHE__LOCAL_CAPACITY", "0").start().await]
}

/// The one name found, or none.
async fn name(service: &Service, tenant: &str, id: Uuid) -> Option<String> {
    service.lookup(tenant, &[id]).await.names().pop()
}

/// Asks until it is known from the cache.
async fn cached(service: &Service, tenant: &str, id: Uuid) {
    wait_until("it is cached", async || (service.lookup(tenant, &[id]).await.cache() == "hit").then_some(())).await;
}

/// All instances come to answer this.
async fn all_see(services: &[Service], tenant: &str, id: Uuid, expected: Option<&str>) {
    for (nth, service) in services.iter().enumerate() {
        let seen = async || (name(service, tenant, id).await.as_deref() == expected).then_some(());
        wait_until(&format!("instance {nth} sees {expected:?}"), seen).await;
    }
}

/// All instances come to answer this, from the cache, and nothing else on the way.
async fn all_keep(services: &[Service], tenant: &str, id: Uuid, expected: &str) {
    for service in services {
        let kept = async || {
            let reply = service.lookup(tenant, &[id]).await;
            assert_eq!(reply.names(), [expected]);
            (reply.cache() == "hit").then_some(())
        };
        wait_until("it is cached", kept).await;
    }
}

async fn rename(database: &Database, id: Uuid, name: &str) {
    let parameters: [&(dyn ToSql + Sync); 2] = [&name, &id];
    database.owner.execute("UPDATE customers SET name = $1 WHERE id = $2", &parameters).await.expect("an update");
}

/// How many changes a service has heard of.
async fn heard(service: &Service) -> u64 {
    service.metrics().await.count(INVALIDATIONS, &[])
}

async fn has_heard(service: &Service, changes: u64) {
    let what = format!("{changes} changes are heard of");
    wait_until(&what, async || (heard(service).await >= changes).then_some(())).await;
}

async fn listens(service: &Service) -> bool {
    service.metrics().await.count(LISTENER_UP, &[]) == 1
}

#[tokio::test]
async fn every_instance_sees_a_change_an_insert_a_delete_and_a_customer_that_comes_back() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    seen_by_all(&database, &instances(&database, &redis).await).await;
}

#[tokio::test]
async fn without_redis_every_instance_sees_the_same() {
    let database = Database::new().await;
    seen_by_all(&database, &[setup(&database).start().await, setup(&database).start().await]).await;
}

async fn seen_by_all(database: &Database, services: &[Service]) {
    let id = Uuid::new_v4();
    let cached_everywhere = async || {
        for service in services {
            cached(service, "acme42", id).await;
        }
    };
    cached_everywhere().await;
    database.customer_with_id("acme42", id, "Ann").await;
    all_see(services, "acme42", id, Some("Ann")).await;
    cached_everywhere().await;
    rename(database, id, "Beth").await;
    all_see(services, "acme42", id, Some("Beth")).await;
    cached_everywhere().await;
    database.run("DELETE FROM customers").await;
    all_see(services, "acme42", id, None).await;
    // Its versions begin at 1 again.
    database.customer_with_id("acme42", id, "Cleo").await;
    all_see(services, "acme42", id, Some("Cleo")).await;
    rename(database, id, "Dora").await;
    all_see(services, "acme42", id, Some("Dora")).await;
}

#[tokio::test]
async fn a_customer_that_is_given_to_another_tenant_is_gone_from_the_first() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    for service in &services {
        cached(service, "acme42", id).await;
        cached(service, "globex", id).await;
    }
    database.run("UPDATE customers SET tenant_id = 'globex'").await;
    all_see(&services, "acme42", id, None).await;
    all_see(&services, "globex", id, Some("Ann")).await;
}

#[tokio::test]
async fn a_customer_that_gets_another_id_is_found_by_it_and_gone_from_the_old_one() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let (old, new) = (database.customer("acme42", "Ann").await, Uuid::new_v4());
    for service in &services {
        cached(service, "acme42", old).await;
        cached(service, "acme42", new).await;
    }
    database.run(&format!("UPDATE customers SET id = '{new}'")).await;
    all_see(&services, "acme42", old, None).await;
    all_see(&services, "acme42", new, Some("Ann")).await;
}

#[tokio::test]
async fn a_change_that_is_rolled_back_drops_nothing() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let id = database.customer("acme42", "Ann").await;
    cached(&service, "acme42", id).await;
    has_heard(&service, 1).await;
    database.run("BEGIN; UPDATE customers SET name = 'Beth'; ROLLBACK").await;
    // A later one is heard of after whatever came before.
    database.customer("acme42", "Cleo").await;
    has_heard(&service, 2).await;
    assert_eq!(service.lookup("acme42", &[id]).await.cache(), "hit");
    assert_eq!(heard(&service).await, 2);
}

#[tokio::test]
async fn a_change_of_very_many_customers_empties_their_tenants_cache_and_no_other() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let (changed, other) = (database.customers("acme42", 300).await, database.customer("globex", "Zaphod").await);
    for service in &services {
        cached(service, "acme42", changed[0]).await;
        cached(service, "globex", other).await;
    }
    database.run("UPDATE customers SET name = 'Beth' WHERE tenant_id = 'acme42'").await;
    all_see(&services, "acme42", changed[0], Some("Beth")).await;
    for service in &services {
        assert_eq!(service.lookup("globex", &[other]).await.cache(), "hit");
    }
    all_keep(&services, "acme42", changed[0], "Beth").await;
    database.run("TRUNCATE customers").await;
    all_see(&services, "globex", other, None).await;
}

#[tokio::test]
async fn customers_that_come_back_after_very_many_were_deleted_are_seen_as_they_change() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let ids = database.customers("acme42", 300).await;
    for name in ["Ann", "Beth", "Cleo"] {
        rename(&database, ids[0], name).await;
    }
    all_see(&services, "acme42", ids[0], Some("Cleo")).await;
    all_keep(&services, "acme42", ids[0], "Cleo").await;
    redis.filled("acme42", &ids[..1]).await;
    database.run("DELETE FROM customers").await;
    all_see(&services, "acme42", ids[0], None).await;
    // Older than what Redis holds.
    database.customer_with_id("acme42", ids[0], "Dora").await;
    all_see(&services, "acme42", ids[0], Some("Dora")).await;
    rename(&database, ids[0], "Emma").await;
    all_see(&services, "acme42", ids[0], Some("Emma")).await;
}

#[tokio::test]
async fn what_is_heard_is_counted_by_how_much_it_covers() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ids = database.customers("acme42", 3).await;
    database.customers("globex", 101).await;
    database.run("UPDATE customers SET name = 'Beth'; TRUNCATE customers").await;
    database.customer_with_id("acme42", ids[0], "Ann").await;
    // What cannot be understood may be about anybody.
    for nonsense in ["", "nonsense", "{}", r#"{"customers":[["acme42","no id",1]]}"#, r#"{"tenants":7}"#] {
        database.run(&format!("SELECT pg_notify('cxda_customers', '{nonsense}')")).await;
    }
    has_heard(&service, 13).await;
    let metrics = service.metrics().await;
    let counted = ["customer", "tenant", "all"].map(|scope| metrics.count(INVALIDATIONS, &[("scope", scope)]));
    assert_eq!(counted, [3 + 1, 1 + 2, 1 + 5]);
    assert_eq!(metrics.labels_of(INVALIDATIONS), ["scope"]);
    assert_eq!((metrics.kind(INVALIDATIONS), metrics.kind(LISTENER_UP)), (Some("counter"), Some("gauge")));
    all_keep(&[service], "acme42", ids[0], "Ann").await;
}

#[tokio::test]
async fn how_long_a_notification_takes_is_measured_while_nothing_changes() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let beats = async || service.metrics().await.count(&format!("{LAG}_count"), &[]);
    let first = beats().await;
    assert!(first >= 1, "it has heard one before it took requests");
    wait_until("more come", async || (beats().await >= first + 2).then_some(())).await;
    assert_eq!(service.metrics().await.kind(LAG), Some("histogram"));
    assert!(listens(&service).await);
}
