//! The dry run: it proves signature, key, tenant and dependencies, and leaves nothing behind.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Cluster, Database, KEY_HEADER, ROUTE_SECRET, Redis, Reply, Route, Service, Setup, request, send, sign, sign_with, wait_until,
};

const KEYS: &str = r#"
[[signing.keys]]
id = "bound"
secret = "a secret for one tenant, of 32 bytes.."
tenants = ["acme42"]

[[signing.keys]]
id = "sent"
api_key = "an-api-key-of-the-tests-with-40-letters."
"#;
const BOUND: &str = "a secret for one tenant, of 32 bytes..";

fn ping(tenant: &str) -> Value {
    json!({ "action": "ping", "input": { "tenant_id": tenant } })
}

/// A ping's answer, and whatever it must never leave behind.
fn pong(reply: &Reply, redis: &str) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-cache"), None);
    let output = reply.output();
    assert_eq!((&output["status"], &output["dependencies"]), (&json!("ok"), &json!({ "postgres": "up", "redis": redis })), "{output}");
    output
}

#[tokio::test]
async fn a_ping_names_its_tenant_its_key_and_what_is_up() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let service = Setup::bare().set("DATABASE_URL", &database.url).redis(&redis).file(KEYS).start().await;
    let body = ping("acme42").to_string();
    let call = service.call(Method::POST, "/data-action").body(body.clone());
    let signed = send(call.try_clone().unwrap().header("X-CXone-Signature", sign_with(BOUND, &body))).await;
    assert_eq!(
        pong(&signed, "up"),
        json!({ "status": "ok", "tenant_id": "acme42", "key_id": "bound", "dependencies": { "postgres": "up", "redis": "up" } })
    );
    let sent = send(call.header("X-API-Key", "an-api-key-of-the-tests-with-40-letters.")).await;
    assert_eq!(pong(&sent, "up")["key_id"], "sent");
}

#[tokio::test]
async fn a_ping_leaves_no_audit_row_and_nothing_in_a_cache() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    // Before the service hears of changes, and marks them in Redis.
    let id = database.customer("acme42", "Ada Example").await;
    let service = Setup::on(&database).redis(&redis).start().await;
    let mut naming = request("acme42", &[id]);
    naming["action"] = json!("ping");
    for body in [ping("acme42"), naming] {
        pong(&service.post(body).await, "up");
    }
    assert_eq!(database.audit_count().await, 0);
    assert_eq!(redis.run::<usize>(&["DBSIZE"]).await, 0);
    assert_eq!(service.metrics().await.count("cxone_dataaction_query_duration_seconds_count", &[]), 0);
    assert_eq!(service.lookup("acme42", &[id]).await.cache(), "miss");
    assert_eq!(database.audit_count().await, 1);
}

#[tokio::test]
async fn a_ping_is_refused_where_a_lookup_would_be() {
    let (database, wrong) = (Database::new().await, sign("another body"));
    let service = Setup::bare().set("DATABASE_URL", &database.url).file(KEYS).start().await;
    let post = async |body: &Value, signature: Option<&str>| {
        let call = service.call(Method::POST, "/data-action").body(body.to_string());
        let right = sign_with(BOUND, body.to_string());
        send(call.header("X-CXone-Signature", signature.unwrap_or(&right))).await
    };
    let unsigned = service.call(Method::POST, "/data-action").body(ping("acme42").to_string());
    send(unsigned).await.problem(401, "missing_signature");
    post(&ping("acme42"), Some(&wrong)).await.problem(401, "invalid_signature");
    post(&ping("globex"), None).await.problem(403, "tenant_not_allowed");
    assert_eq!(database.audit_count().await, 0);
}

#[tokio::test]
async fn a_pings_input_is_checked_like_a_lookups() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_LOOKUP__MAX_BATCH", "2").start().await;
    let with = |member: &str, value: Value| {
        let mut body = ping("acme42");
        body["input"][member] = value;
        body
    };
    let good = Uuid::from_u128(7);
    let bad = [
        (with("customer_id", json!("x")), "/input/customer_id"),
        (with("tenant_id", json!("no tenant")), "/input/tenant_id"),
        (with("tenant_id", json!(null)), "/input/tenant_id"),
        (with("customer_ids", json!([good, "nobody"])), "/input/customer_ids/1"),
        (with("customer_ids", json!([])), "/input/customer_ids"),
        (with("customer_ids", json!("")), "/input/customer_ids"),
        (with("customer_ids", json!(7)), "/input/customer_ids"),
        (with("customer_ids", json!([good, Uuid::from_u128(8), Uuid::from_u128(9)])), "/input/customer_ids"),
        (json!({ "action": "ping" }), "/input"),
        (json!({ "action": "ping", "input": {} }), "/input/tenant_id"),
        (json!({ "action": "ping", "input": { "tenant_id": "acme42" }, "context": { "a": [] } }), "/context/a"),
        (json!({ "input": { "tenant_id": "acme42" } }), "/action"),
    ];
    for (body, pointer) in bad {
        let reply = service.post(&body).await;
        assert!(reply.pointers().iter().any(|at| at == pointer), "{body}: {}", reply.text());
    }
    for good in [with("customer_ids", json!([good])), with("customer_ids", json!(format!("{good},"))), with("customer_ids", json!(null))] {
        pong(&service.post(&good).await, "off");
    }
    for unknown in ["Ping", "ping ", "pong", ""] {
        service.post(json!({ "action": unknown, "input": { "tenant_id": "acme42" } })).await.problem(400, "unknown_action");
    }
    assert_eq!(database.audit_count().await, 0);
}

#[tokio::test]
async fn a_lookup_still_has_to_name_somebody() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let body = json!({ "action": "process_customer_batch", "input": { "tenant_id": "acme42" } });
    assert_eq!(service.post(body).await.errors(), [("/input/customer_ids".to_owned(), "required".to_owned())]);
}

#[tokio::test]
async fn without_postgres_a_ping_is_503_at_once_or_by_its_deadline() {
    let mut cluster = Cluster::start(&[]).await;
    let database = cluster.database().await;
    let service = Setup::on(&database).set("CXDA_LOOKUP__DEADLINE", "1s").start().await;
    pong(&service.post(ping("acme42")).await, "off");
    let frozen = cluster.freeze().await;
    let asked = Instant::now();
    let reply = service.post(ping("acme42")).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(reply.problem(503, "database_unavailable")["retryable"], true);
    drop(frozen);
    wait_until("Postgres is back", async || (service.post(ping("acme42")).await.status == 200).then_some(())).await;
    cluster.kill().await;
    service.post(ping("acme42")).await.problem(503, "database_unavailable");
}

#[tokio::test]
async fn without_redis_a_ping_says_so_and_is_200() {
    let (database, mut redis) = (Database::new().await, Redis::start().await);
    let service = Setup::on(&database).redis(&redis).start().await;
    pong(&service.post(ping("acme42")).await, "up");
    redis.kill();
    pong(&service.post(ping("acme42")).await, "down");
    assert_eq!(service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200, "the same as for a lookup");
}

#[tokio::test]
async fn a_redis_that_hangs_is_down_within_the_deadline_of_a_lookup() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    // With more patience towards Redis than the whole ping may take.
    let service = Setup::on(&database).redis(&redis).set("CXDA_CACHE__TIMEOUT", "9s").set("CXDA_CACHE__BREAKER_OPEN", "9s").start().await;
    pong(&service.post(ping("acme42")).await, "up");
    redis.freeze();
    let asked = Instant::now();
    pong(&service.post(ping("acme42")).await, "down");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    redis.thaw();
    let is_up = async || (service.post(ping("acme42")).await.output()["dependencies"]["redis"] == "up").then_some(());
    wait_until("Redis is back", is_up).await;
}

#[tokio::test]
async fn a_ping_takes_a_place_like_a_lookup() {
    let database = Database::new().await;
    let service = Setup::on(&database).patient().set("CXDA_HTTP__MAX_IN_FLIGHT", "1").start().await;
    let (locked, ids) = (database.lock_customers().await, [Uuid::from_u128(7)]);
    let (held, ()) = tokio::join!(service.lookup("acme42", &ids), async {
        database.waiting_sessions(1).await;
        service.post(ping("acme42")).await.problem(503, "overloaded");
        drop(locked);
    });
    assert_eq!(held.status, 200);
    pong(&service.post(ping("acme42")).await, "off");
}

#[tokio::test]
async fn a_webhook_that_looks_up_knows_no_ping_since_its_answer_would_be_kept() {
    let database = Database::new().await;
    let route = Route::new("/webhooks/customers").set("action", "{ lookup = {} }");
    let service: Service = Setup::on(&database).webhooks(&[route]).start().await;
    let body = ping("acme42").to_string();
    let signature = sign_with(ROUTE_SECRET, &body);
    let headers = [("X-Cognigy-Signature", signature.as_str()), (KEY_HEADER, "k")];
    service.post_to("/webhooks/customers", &headers, body).await.problem(400, "unknown_action");
}
