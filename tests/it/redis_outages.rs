//! Redis is never needed for an answer: killed, hung, restarted or poisoned, lookups go on from Postgres.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::support::{Database, Proxy, Redis, Service, Setup, customer_key, ids_of, wait_until};

const REJECTED: &str = "cxone_dataaction_cache_rejected_total";

/// A service for which Redis is the only cache, and whose breaker opens and closes quickly.
fn setup(database: &Database, redis: &Redis) -> Setup {
    let setup = Setup::on(database).redis(redis).set("CXDA_CACHE__LOCAL_CAPACITY", "0");
    setup.set("CXDA_CACHE__BREAKER_FAILURES", "3").set("CXDA_CACHE__BREAKER_OPEN", "200ms").set("CXDA_CACHE__TIMEOUT", "200ms")
}

/// All answers are right whatever Redis does; returns the slowest.
async fn lookups(service: &Service, ids: &[Uuid], n: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..n {
        let began = Instant::now();
        let output = service.lookup("acme42", ids).await.output();
        assert_eq!(ids_of(&output["customers"]), ids);
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

/// Goes on asking until the breaker is in that state: it changes only where there is traffic.
async fn lookups_until(service: &Service, ids: &[Uuid], state: &str) {
    let series = [("dependency", "redis"), ("state", state)];
    wait_until(&format!("the breaker is {state}"), async || {
        lookups(service, ids, 1).await;
        (service.metrics().await.count("cxone_dataaction_circuit_state", &series) >= 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn exactly_one_state_of_the_breaker_is_shown() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = setup(&database, &redis).start().await;
    let metrics = service.metrics().await;
    let state = |state| metrics.count("cxone_dataaction_circuit_state", &[("dependency", "redis"), ("state", state)]);
    assert_eq!(["closed", "open", "half_open"].map(state), [1, 0, 0]);
    assert_eq!(metrics.kind("cxone_dataaction_circuit_state"), Some("gauge"));
}

#[tokio::test]
async fn a_killed_redis_opens_the_breaker_and_a_restarted_one_closes_it() {
    let database = Database::new().await;
    let mut redis = Redis::start().await;
    let service = setup(&database, &redis).start().await;
    let ids = database.customers("acme42", 3).await;
    lookups(&service, &ids, 5).await;

    redis.kill();
    lookups_until(&service, &ids, "open").await;
    let reply = service.lookup("acme42", &ids).await;
    assert_eq!((reply.status, reply.cache()), (200, "bypass"));

    redis.start_again().await;
    lookups_until(&service, &ids, "closed").await;
    wait_until("the cache serves again", async || (service.lookup("acme42", &ids).await.cache() == "hit").then_some(())).await;
    assert_eq!(service.metrics().await.count("http_requests_total", &[("status", "500")]), 0);
}

#[tokio::test]
async fn a_hung_redis_delays_only_the_first_few() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let cable = Proxy::before(redis.port).await;
    let setup = setup(&database, &redis).set("REDIS_URL", format!("redis://127.0.0.1:{}", cable.port));
    let service = setup.set("CXDA_CACHE__BREAKER_OPEN", "10s").set("CXDA_CACHE__TIMEOUT", "50ms").start().await;
    let ids = database.customers("acme42", 3).await;
    lookups(&service, &ids, 5).await;

    redis.freeze();
    let slowest = lookups(&service, &ids, 3).await;
    assert!(slowest < Duration::from_millis(800), "each Redis call has its deadline: {slowest:?}");
    lookups_until(&service, &ids, "open").await;
    let errors = service.metrics().await.count("cxone_dataaction_cache_lookups_total", &[("tier", "redis"), ("result", "error")]);
    assert!(errors >= 9, "customers that could not be looked for are counted: {errors}");
    cable.reads_since();
    lookups(&service, &ids, 20).await;
    assert_eq!(cable.reads_since(), 0, "while the breaker is open nobody waits for Redis");
    redis.thaw();
}

#[tokio::test]
async fn however_patient_with_redis_a_lookup_has_time_for_postgres() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let setup = setup(&database, &redis).set("CXDA_LOOKUP__DEADLINE", "2s");
    let service = setup.set("CXDA_CACHE__TIMEOUT", "9s").set("CXDA_CACHE__BREAKER_OPEN", "9s").start().await;
    let ids = database.customers("acme42", 3).await;
    lookups(&service, &ids, 5).await;
    redis.freeze();
    lookups(&service, &ids, 1).await;
    redis.thaw();
}

#[tokio::test]
async fn a_thawed_redis_is_used_again() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = setup(&database, &redis).start().await;
    let ids = database.customers("acme42", 3).await;
    redis.freeze();
    lookups_until(&service, &ids, "open").await;
    redis.thaw();
    lookups_until(&service, &ids, "closed").await;
    wait_until("the cache serves again", async || (service.lookup("acme42", &ids).await.cache() == "hit").then_some(())).await;
}

#[tokio::test]
async fn a_service_starts_and_serves_while_redis_is_away() {
    let database = Database::new().await;
    let mut redis = Redis::start().await;
    redis.kill();
    let service = setup(&database, &redis).start().await;
    let ids = database.customers("acme42", 2).await;
    lookups(&service, &ids, 10).await;
    redis.start_again().await;
    wait_until("the cache serves", async || (service.lookup("acme42", &ids).await.cache() == "hit").then_some(())).await;
}

#[tokio::test]
async fn the_local_tier_serves_on_while_redis_is_away() {
    let database = Database::new().await;
    let mut redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    let ids = database.customers("acme42", 2).await;
    service.lookup("acme42", &ids).await;
    redis.kill();
    for _ in 0..5 {
        assert_eq!(service.lookup("acme42", &ids).await.cache(), "hit");
    }
}

#[tokio::test]
async fn a_half_open_breaker_lets_only_a_few_through() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let cable = Proxy::before(redis.port).await;
    let open = Duration::from_millis(300);
    let setup =
        setup(&database, &redis).set("REDIS_URL", format!("redis://127.0.0.1:{}", cable.port)).set("CXDA_CACHE__BREAKER_OPEN", "300ms");
    let service = setup.start().await;
    let ids = database.customers("acme42", 1).await;
    lookups(&service, &ids, 3).await;
    cable.hang(true);
    lookups_until(&service, &ids, "open").await;

    cable.reads_since();
    let began = Instant::now();
    let one_after_the_other = async || {
        while began.elapsed() < open * 10 {
            lookups(&service, &ids, 1).await;
        }
    };
    futures_util::future::join_all((0..16).map(|_| one_after_the_other())).await;
    let probes = cable.reads_since();
    assert!((1..=14).contains(&probes), "{probes} reads while the breaker had 10 openings at most");

    cable.hang(false);
    lookups_until(&service, &ids, "closed").await;
}

#[tokio::test]
async fn garbage_in_the_cache_is_a_miss_and_is_counted() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = setup(&database, &redis).start().await;
    for garbage in ["", "garbage", "{", "{}", "[]", "null", "0", "\"x\"", "\u{0}\u{1}", "{\"customer\":null}"] {
        let id = database.customer("acme42", "Ann").await;
        let key = redis.customer_key("acme42", id).await;
        wait_until("the insert has left its mark", async || (redis.run::<usize>(&["EXISTS", &key]).await == 1).then_some(())).await;
        redis.run::<()>(&["SET", &key, garbage]).await;
        let before = service.metrics().await.count(REJECTED, &[("reason", "corrupt")]);
        let reply = service.lookup("acme42", &[id]).await;
        assert_eq!((reply.names(), reply.cache()), (vec!["Ann".to_owned()], "miss"), "{garbage:?}");
        assert_eq!(service.metrics().await.count(REJECTED, &[("reason", "corrupt")]), before + 1, "{garbage:?}");
        wait_until("the entry is mended", async || (service.lookup("acme42", &[id]).await.cache() == "hit").then_some(())).await;
    }
}

#[tokio::test]
async fn a_value_of_another_type_is_no_failure() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = setup(&database, &redis).start().await;
    let id = database.customer("acme42", "Ann").await;
    let key = redis.customer_key("acme42", id).await;
    wait_until("the insert has left its mark", async || (redis.run::<usize>(&["EXISTS", &key]).await == 1).then_some(())).await;
    redis.run::<()>(&["DEL", &key]).await;
    redis.run::<()>(&["RPUSH", &key, "x"]).await;
    for _ in 0..10 {
        assert_eq!(service.lookup("acme42", &[id]).await.names(), ["Ann"]);
    }
}

#[tokio::test]
async fn another_tenants_value_is_never_served() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = setup(&database, &redis).start().await;
    let id = database.customer("globex", "Zaphod").await;
    database.customer_with_id("acme42", id, "Ann").await;
    assert_eq!(service.lookup("globex", &[id]).await.names(), ["Zaphod"]);
    redis.filled("globex", &[id]).await;
    let epoch = redis.epoch().await;
    let [ours, theirs] = ["acme42", "globex"].map(|tenant| customer_key(&epoch, tenant, id));
    redis.run::<()>(&["COPY", &theirs, &ours, "REPLACE"]).await;

    let reply = service.lookup("acme42", &[id]).await;
    assert_eq!((reply.names(), reply.cache()), (vec!["Ann".to_owned()], "miss"));
    assert_eq!(service.metrics().await.count(REJECTED, &[("reason", "foreign")]), 1);
}

#[tokio::test]
async fn another_customers_value_is_never_served() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = setup(&database, &redis).start().await;
    let (ann, zaphod) = (database.customer("acme42", "Ann").await, database.customer("acme42", "Zaphod").await);
    service.lookup("acme42", &[zaphod]).await;
    redis.filled("acme42", &[zaphod]).await;
    let epoch = redis.epoch().await;
    let [hers, his] = [ann, zaphod].map(|id| customer_key(&epoch, "acme42", id));
    redis.run::<()>(&["COPY", &his, &hers, "REPLACE"]).await;
    assert_eq!(service.lookup("acme42", &[ann]).await.names(), ["Ann"]);
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_still_serves_reads() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = setup(&database, &redis).start().await;
    let ids = database.customers("acme42", 2).await;
    service.lookup("acme42", &ids[..1]).await;
    redis.filled("acme42", &ids[..1]).await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for _ in 0..3 {
        assert_eq!(service.lookup("acme42", &ids[1..]).await.status, 200);
    }
    wait_until("what is there is served", async || (service.lookup("acme42", &ids[..1]).await.cache() == "hit").then_some(())).await;
}
