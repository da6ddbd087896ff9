//! A Redis that refuses: the code is in the log once, in a metric, and in `/readyz?verbose`; lookups go on from Postgres.

use uuid::Uuid;

use crate::redis_failover::refusal;
use crate::support::{Database, Redis, Route, Service, Setup, scratch_dir, wait_until};

const REFUSALS: &str = "cxone_dataaction_redis_refusals_total";
const PATH: &str = "/webhooks/dialog";

/// A service whose cache and whose idempotency keys are in that Redis.
fn setup(database: &Database, url: &str) -> Setup {
    let setup = Setup::on(database).set("REDIS_URL", url).set("CXDA_CACHE__TIMEOUT", "900ms").set("CXDA_CACHE__LOCAL_CAPACITY", "0");
    setup.webhooks(&[Route::new(PATH).store("redis")])
}

/// The code is in the log once, in the metric and in the readiness probe. Lookups are answered; webhooks are not.
pub(crate) async fn is_told(database: &Database, service: &Service, pools: &[&str], code: &str) {
    let id = database.customer("acme42", "Ann").await;
    for pool in pools {
        let check = if *pool == "redis" { "redis_refusal" } else { "idempotency_redis_refusal" };
        let told = async || {
            assert_eq!(service.lookup("acme42", &[id, Uuid::from_u128(7)]).await.names(), ["Ann"]);
            if *pool == "idempotency" {
                service.webhook(PATH, &Uuid::new_v4().to_string(), "{}").await.problem(503, "store_unavailable");
            }
            (refusal(service, check).await == code).then_some(())
        };
        wait_until(&format!("{pool} refuses: {code}"), told).await;
        let labels = [("dependency", *pool), ("code", code)];
        assert!(service.metrics().await.count(REFUSALS, &labels) >= 1, "{labels:?}");
        let lines = service.log().into_iter().filter(|line| line["event"] == "redis_refused" && line["dependency"] == *pool);
        assert_eq!(lines.filter(|line| line["code"] == code).count(), 1, "{pool}: {}", service.printed());
    }
    assert_eq!(service.ready().await.json()["status"], "degraded");
}

const BOTH: &[&str] = &["redis", "idempotency"];

#[tokio::test]
async fn a_replica_named_as_the_server_is_refused_and_asked_for_nothing() {
    let (database, primary) = (Database::new().await, Redis::start().await);
    let replica = primary.replica().await;
    let service = setup(&database, &replica.url()).start().await;
    is_told(&database, &service, BOTH, "REPLICA").await;
    let stats = replica.info("commandstats").await;
    for command in ["mget", "set", "evalsha"] {
        assert_eq!(stats.get::<String>(&format!("cmdstat_{command}")), None);
    }
    replica.promote().await;
    wait_until("keys are taken", async || (service.webhook(PATH, "k", "{}").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_node_of_a_cluster_named_as_the_server_is_refused_and_asked_for_nothing() {
    let file = format!("{}.conf", Uuid::new_v4());
    let node = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-config-file", &file]).await;
    let database = Database::new().await;
    let service = setup(&database, &node.url()).start().await;
    is_told(&database, &service, BOTH, "CLUSTER").await;
    assert_eq!(node.info("commandstats").await.get::<String>("cmdstat_mget"), None);
}

#[tokio::test]
async fn a_wrong_password_is_told() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let url = redis.url_of("cxda-cache").await.replace("SECRET", "wrong");
    let service = setup(&database, &url).start().await;
    is_told(&database, &service, BOTH, "WRONGPASS").await;
    assert!(!service.printed().contains("wrong@"), "{}", service.printed());
}

#[tokio::test]
async fn a_password_that_is_missing_is_told() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    redis.run::<()>(&["CONFIG", "SET", "requirepass", "SECRET"]).await;
    let service = setup(&database, &redis.url()).start().await;
    is_told(&database, &service, BOTH, "NOAUTH").await;
}

#[tokio::test]
async fn a_right_that_is_missing_is_told() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let url = redis.url_of("cxda-cache").await;
    redis.run::<()>(&["ACL", "SETUSER", "cxda-cache", "-mget"]).await;
    let service = setup(&database, &url).start().await;
    is_told(&database, &service, BOTH, "NOPERM").await;
}

#[tokio::test]
async fn a_full_server_is_told_and_replays_what_is_done() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let service = setup(&database, &redis.url()).start().await;
    assert_eq!(service.webhook(PATH, "done", "{}").await.status, 200);
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    is_told(&database, &service, BOTH, "OOM").await;
    assert!(service.webhook(PATH, "done", "{}").await.replayed());
    let breaker = [("dependency", "idempotency"), ("state", "closed")];
    assert_eq!(service.metrics().await.count("cxone_dataaction_circuit_state", &breaker), 1);
}

#[tokio::test]
async fn a_server_that_could_not_save_is_told() {
    let database = Database::new().await;
    let dir = scratch_dir();
    let redis = Redis::start_with(&["--dir", dir.to_str().unwrap()]).await;
    // What is saved is to get the name of a directory.
    std::fs::create_dir(dir.join("dump.rdb")).unwrap();
    let service = setup(&database, &redis.url()).start().await;
    redis.run::<()>(&["CONFIG", "SET", "save", "3600 1"]).await;
    redis.run::<()>(&["BGSAVE"]).await;
    let status = async || redis.info("persistence").await.get::<String>("rdb_last_bgsave_status");
    wait_until("it could not save", async || status().await.filter(|status| status == "err")).await;
    is_told(&database, &service, BOTH, "MISCONF").await;
}

#[tokio::test]
async fn a_primary_without_its_replicas_is_told_and_keeps_its_connections() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let service = setup(&database, &redis.url()).start().await;
    redis.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    is_told(&database, &service, &["idempotency"], "NOREPLICAS").await;
    redis.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    assert_eq!(service.webhook(PATH, "k", "{}").await.status, 200);
}
