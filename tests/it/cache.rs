//! Two tiers of cache: what `X-Cache` says of them, what they hold, and that they change no answer.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::support::{Database, Redis, Setup, customer_key, ids_of, wait_until};

const LOOKUPS: &str = "cxone_dataaction_cache_lookups_total";

/// How often each result was counted for a tier.
async fn counted(service: &crate::support::Service, tier: &str) -> [u64; 4] {
    let metrics = service.metrics().await;
    ["hit", "miss", "absent", "error"].map(|result| metrics.count(LOOKUPS, &[("tier", tier), ("result", result)]))
}

#[tokio::test]
async fn an_answer_says_how_much_of_it_was_cached() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ids = database.customers("acme42", 3).await;
    assert_eq!(service.lookup("acme42", &ids[..1]).await.cache(), "miss");
    assert_eq!(service.lookup("acme42", &ids[..1]).await.cache(), "hit");
    assert_eq!(service.lookup("acme42", &ids[..2]).await.cache(), "partial");
    assert_eq!(service.lookup("acme42", &ids[2..]).await.cache(), "miss");
    assert_eq!(service.lookup("acme42", &ids).await.cache(), "hit");
}

#[tokio::test]
async fn without_a_ttl_there_is_no_cache() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).set("CXDA_CACHE__TTL", "0").start().await;
    let id = database.customer("acme42", "Ann").await;
    for name in ["Ann", "Beth"] {
        database.run(&format!("UPDATE customers SET name = '{name}'")).await;
        let reply = service.lookup("acme42", &[id, Uuid::from_u128(7)]).await;
        assert_eq!((reply.cache(), reply.names()), ("bypass", vec![name.to_owned()]));
    }
    assert_eq!(redis.run::<usize>(&["DBSIZE"]).await, 0);
}

#[tokio::test]
async fn a_cached_customer_is_read_afresh_after_the_ttl() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).set("CXDA_CACHE__TTL", "1s").start().await;
    let id = database.customer("acme42", "Ann").await;
    database.run("ALTER TABLE customers DISABLE TRIGGER USER").await;
    assert_eq!(service.lookup("acme42", &[id]).await.names(), ["Ann"]);
    database.run("UPDATE customers SET name = 'Beth'").await;
    wait_until("the new name is seen", async || (service.lookup("acme42", &[id]).await.names() == ["Beth"]).then_some(())).await;
}

#[tokio::test]
async fn an_absence_is_cached_for_a_short_while_only() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).set("CXDA_CACHE__ABSENT_TTL", "1s").start().await;
    let id = Uuid::new_v4();
    assert_eq!(service.lookup("acme42", &[id]).await.cache(), "miss");
    assert_eq!(service.lookup("acme42", &[id]).await.cache(), "hit");
    database.run("ALTER TABLE customers DISABLE TRIGGER USER").await;
    database.customer_with_id("acme42", id, "Ann").await;
    wait_until("the customer is seen", async || (service.lookup("acme42", &[id]).await.names() == ["Ann"]).then_some(())).await;
}

#[tokio::test]
async fn another_instance_finds_in_redis_what_the_first_one_read() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let first = Setup::on(&database).redis(&redis).start().await;
    let second = Setup::on(&database).redis(&redis).start().await;
    let mut ids = database.customers("acme42", 3).await;
    ids.push(Uuid::new_v4());
    let from_database = first.lookup("acme42", &ids).await;
    redis.filled("acme42", &ids).await;
    let from_redis = second.lookup("acme42", &ids).await;
    assert_eq!((from_database.cache(), from_redis.cache()), ("miss", "hit"));
    assert_eq!(from_redis.body, from_database.body);
    assert_eq!(counted(&second, "redis").await, [3, 0, 1, 0]);
    assert_eq!(counted(&second, "local").await, [0, 4, 0, 0]);
    second.lookup("acme42", &ids).await;
    assert_eq!(counted(&second, "local").await, [3, 4, 1, 0]);
    assert_eq!(counted(&second, "redis").await, [3, 0, 1, 0], "the near tier answers first");
}

#[tokio::test]
async fn without_a_local_tier_redis_serves_alone() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).set("CXDA_CACHE__LOCAL_CAPACITY", "0").start().await;
    let ids = database.customers("acme42", 2).await;
    assert_eq!(service.lookup("acme42", &ids).await.cache(), "miss");
    redis.filled("acme42", &ids).await;
    assert_eq!(service.lookup("acme42", &ids).await.cache(), "hit");
    assert_eq!(counted(&service, "local").await, [0; 4]);
    redis.run::<()>(&["FLUSHALL"]).await;
    assert_eq!(service.lookup("acme42", &ids).await.cache(), "miss");
}

#[tokio::test]
async fn keys_name_version_tenant_epoch_and_customer_and_none_lives_for_ever() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    let mut ids = database.customers("acme42", 40).await;
    ids.push(Uuid::new_v4());
    service.lookup("acme42", &ids).await;
    redis.filled("acme42", &ids).await;
    let keys: BTreeSet<String> = redis.run(&["KEYS", "*"]).await;
    let epoch = redis.epoch().await;
    assert_eq!(epoch.len(), 16, "{epoch}");
    assert_eq!(keys, ids.iter().map(|id| format!("cxda:v3:{{acme42}}:{epoch}:{id}")).collect());

    let mut ends = BTreeSet::new();
    for id in &ids {
        let key = customer_key(&epoch, "acme42", *id);
        let value: Vec<u8> = redis.run(&["GET", &key]).await;
        assert!(serde_json::from_slice::<Value>(&value).is_ok_and(|value| value.is_object()), "a JSON object");
        let left = redis.run::<i64>(&["PTTL", &key]).await;
        if *id == ids[40] {
            assert!((1..=5_500).contains(&left), "an absence ends after {left} ms");
        } else {
            assert!((50_000..=66_000).contains(&left), "a customer ends after {left} ms");
            ends.insert(left / 100);
        }
    }
    assert!(ends.len() > 5, "all end at the same time: {ends:?}");
}

#[tokio::test]
async fn redis_may_ask_for_a_password_and_go_by_another_name() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let id = database.customer("acme42", "Ann").await;
    redis.run::<()>(&["CONFIG", "SET", "requirepass", "hunter2"]).await;
    for scheme in ["redis", "valkey"] {
        let url = format!("{scheme}://:hunter2@127.0.0.1:{}/3", redis.port);
        let setup = || Setup::on(&database).set("REDIS_URL", &url).set("CXDA_CACHE__LOCAL_CAPACITY", "0").start();
        let (first, second) = (setup().await, setup().await);
        first.lookup("acme42", &[id]).await;
        wait_until("the other one finds it", async || (second.lookup("acme42", &[id]).await.cache() == "hit").then_some(())).await;
    }
}

#[tokio::test]
async fn a_cached_customer_needs_no_database_but_for_the_audit() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ids = database.customers("acme42", 5).await;
    service.lookup("acme42", &ids).await;
    let before = service.metrics().await.count("cxone_dataaction_query_duration_seconds_count", &[]);
    // Without its triggers, nobody hears of it.
    database.run("ALTER TABLE customers DISABLE TRIGGER USER; DELETE FROM customers").await;
    let reply = service.lookup("acme42", &ids[1..4]).await;
    assert_eq!((reply.cache(), ids_of(&reply.output()["customers"])), ("hit", ids[1..4].to_vec()));
    assert_eq!(database.audit_count().await, 2);
    assert_eq!(service.metrics().await.count("cxone_dataaction_query_duration_seconds_count", &[]), before);
}

#[tokio::test]
async fn a_customer_that_appears_is_found_beside_cached_ones() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let (there, coming) = (database.customer("acme42", "Ann").await, Uuid::new_v4());
    service.lookup("acme42", &[there, coming]).await;
    database.run("ALTER TABLE customers DISABLE TRIGGER USER").await;
    database.customer_with_id("acme42", coming, "Beth").await;
    // A third, never asked for: the database is asked, and so the absence is checked again.
    let reply = service.lookup("acme42", &[there, coming, Uuid::new_v4()]).await;
    assert_eq!((reply.cache(), reply.names()), ("partial", vec!["Ann".to_owned(), "Beth".to_owned()]));
}

#[tokio::test]
async fn a_local_tier_of_few_places_forgets_and_goes_on() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_CACHE__LOCAL_CAPACITY", "10").start().await;
    let ids = database.customers("acme42", 100).await;
    for _ in 0..3 {
        assert_eq!(service.lookup("acme42", &ids).await.output()["count"], 100);
    }
}

#[tokio::test]
async fn hits_are_fast_while_the_database_is_slow_to_read() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let ids = database.customers("acme42", 1).await;
    service.lookup("acme42", &ids).await;
    let _lock = database.lock_customers().await;
    let began = std::time::Instant::now();
    assert_eq!(service.lookup("acme42", &ids).await.cache(), "hit");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}
