//! How many requests a key may make in a minute and at a time, on all its routes together.

use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{Database, Genesys, ROUTE_SECRET, Reply, Route, Service, Setup, Upstream, send, settings_file, sign_with, wait_until};

const SCARCE: &str = "the secret of the scarce key, 32 bytes or more";
const AMPLE: &str = "the secret of the ample key, 32 bytes or more";
const PING: &str = r#"{"action":"ping","input":{"tenant_id":"acme42"}}"#;
const HEADER: &str = "X-CXone-Signature";
const HOOK: &str = "/hooks/it";

fn keys(limits: &str) -> String {
    let key = |id: &str, secret: &str, more: &str| format!("[[signing.keys]]\nid = '{id}'\nsecret = '{secret}'\n{more}\n");
    format!("{}{}", key("scarce", SCARCE, limits), key("ample", AMPLE, ""))
}

fn hook() -> Route {
    Route::new(HOOK).set("auth", &format!("{{ hmac = {{ header = '{HEADER}' }} }}"))
}

async fn post(service: &Service, path: &str, secret: &str, body: &str) -> Reply {
    let key = ("X-Correlation-Id", "k");
    service.post_to(path, &[(HEADER, &sign_with(secret, body)), key], body).await
}

fn is_refused(reply: &Reply) -> u64 {
    reply.problem(429, "rate_limited");
    reply.header("retry-after").unwrap().parse().unwrap()
}

async fn counted(service: &Service, key_id: &str, limit: &str) -> u64 {
    service.metrics().await.count("cxone_dataaction_key_refused_total", &[("key_id", key_id), ("limit", limit)])
}

#[tokio::test]
async fn past_its_rate_a_key_is_refused_on_every_route_and_another_key_is_not() {
    let (database, genesys) = (Database::new().await, Genesys::start());
    let file = format!("{}{}", settings_file(&[hook()]), keys("rate_per_minute = 3"));
    let setup = Setup::bare().set("DATABASE_URL", &database.url).genesys(&genesys).member("STORE", "memory");
    let service = setup.file(&file).start().await;
    // What no key has signed is no request of any key.
    for _ in 0..5 {
        post(&service, "/data-action", ROUTE_SECRET, PING).await.problem(401, "invalid_signature");
    }
    let executed = "/genesys/actions/a/execute";
    for (path, body) in [("/data-action", PING), (HOOK, "{}"), (executed, "{}")] {
        assert_eq!(post(&service, path, SCARCE, body).await.status, 200, "{path}");
    }
    // A body that is no JSON is not looked at.
    for (path, body) in [("/data-action", PING), (HOOK, "{}"), (executed, "{}"), ("/data-action", "{")] {
        let pause = is_refused(&post(&service, path, SCARCE, body).await);
        assert!((1..=20).contains(&pause), "{path}: {pause}");
        assert_eq!(post(&service, path, AMPLE, if body == "{" { PING } else { body }).await.status, 200, "{path}");
    }
    post(&service, "/data-action", ROUTE_SECRET, PING).await.problem(401, "invalid_signature");
    assert_eq!(genesys.asked().0, 2);
    assert_eq!((counted(&service, "scarce", "rate_per_minute").await, counted(&service, "ample", "rate_per_minute").await), (4, 0));
}

/// A service whose webhook waits for an upstream that holds its answers.
async fn held() -> (Database, Upstream, Service) {
    let (database, upstream) = (Database::new().await, Upstream::start());
    upstream.hold();
    let file = format!("{}{}", settings_file(&[hook().forward(&upstream)]), keys("max_in_flight = 1"));
    let service = Setup::bare().set("DATABASE_URL", &database.url).file(&file).start().await;
    (database, upstream, service)
}

#[tokio::test]
async fn a_key_has_no_more_requests_in_flight_than_it_may() {
    let (_database, upstream, service) = held().await;
    let first = service.call(Method::POST, HOOK).header(HEADER, sign_with(SCARCE, "{}")).header("X-Correlation-Id", "k").body("{}");
    let first = tokio::spawn(send(first));
    upstream.has_started(1).await;
    assert_eq!(is_refused(&post(&service, HOOK, SCARCE, "{}").await), 1);
    is_refused(&post(&service, "/data-action", SCARCE, PING).await);
    post(&service, "/data-action", ROUTE_SECRET, PING).await.problem(401, "invalid_signature");
    assert_eq!(post(&service, "/data-action", AMPLE, PING).await.status, 200);
    assert_eq!(counted(&service, "scarce", "max_in_flight").await, 2);
    upstream.release();
    assert_eq!(first.await.unwrap().status, 200);
    wait_until("the place is free", async || (post(&service, "/data-action", SCARCE, PING).await.status == 200).then_some(())).await;
    for _ in 0..5 {
        let failed = post(&service, "/data-action", SCARCE, "{").await;
        assert!([400, 429].contains(&failed.status), "{}", failed.text());
    }
    wait_until("a failure leaves its place", async || (post(&service, "/data-action", SCARCE, PING).await.status == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn a_caller_that_breaks_off_leaves_its_place() {
    let (_database, upstream, service) = held().await;
    let mut stream = TcpStream::connect(service.url.trim_start_matches("http://")).await.unwrap();
    let head = format!("POST {HOOK} HTTP/1.1\r\nHost: x\r\n{HEADER}: {}\r\nX-Correlation-Id: k\r\n", sign_with(SCARCE, "{}"));
    stream.write_all(format!("{head}Content-Length: 2\r\n\r\n{{}}").as_bytes()).await.unwrap();
    upstream.has_started(1).await;
    is_refused(&post(&service, "/data-action", SCARCE, PING).await);
    stream.set_zero_linger().unwrap();
    drop(stream);
    wait_until("the place is free", async || (post(&service, "/data-action", SCARCE, PING).await.status == 200).then_some(())).await;
    upstream.release();
}

#[tokio::test]
async fn a_secret_of_a_route_has_its_own_limits_in_its_auth_table() {
    let database = Database::new().await;
    let auths = [
        ("/hooks/a", format!("{{ hmac = {{ header = '{HEADER}', secret = '{ROUTE_SECRET}', rate_per_minute = 1 }} }}")),
        ("/hooks/b", format!("{{ hmac = {{ header = '{HEADER}', secret = '{ROUTE_SECRET}' }} }}")),
        ("/hooks/c", format!("{{ api_key = {{ secret = '{ROUTE_SECRET}', rate_per_minute = 1 }} }}")),
    ];
    let routes = auths.map(|(path, auth)| Route::new(path).set("auth", &auth));
    let service = Setup::on(&database).webhooks(&routes).start().await;
    assert_eq!(post(&service, "/hooks/a", ROUTE_SECRET, "{}").await.status, 200);
    is_refused(&post(&service, "/hooks/a", ROUTE_SECRET, "{}").await);
    assert_eq!(post(&service, "/hooks/b", ROUTE_SECRET, "{}").await.status, 200);
    let by_key = async || service.post_to("/hooks/c", &[("X-API-Key", ROUTE_SECRET), ("X-Correlation-Id", "k")], "{}").await;
    assert_eq!(by_key().await.status, 200);
    is_refused(&by_key().await);
    assert_eq!(counted(&service, "/hooks/a", "rate_per_minute").await, 1);
}

#[tokio::test]
async fn the_single_key_has_limits_and_its_api_key_counts_with_it() {
    let database = Database::new().await;
    let api_key = "an-api-key-of-the-tests-at-least-32-bytes-long";
    let setup = Setup::on(&database).set("CXDA_SIGNING__RATE_PER_MINUTE", "1").set("CXDA_SIGNING__API_KEY", api_key);
    let service = setup.start().await;
    assert_eq!(service.post(PING).await.status, 200);
    is_refused(&service.post(PING).await);
    is_refused(&service.post_to("/data-action", &[("X-API-Key", api_key)], PING).await);
}

async fn complaint(setup: Setup) -> String {
    let outcome = setup.set("DATABASE_URL", "postgres://localhost/x").refused().await;
    assert_eq!(outcome.code, Some(78), "{}", outcome.printed());
    outcome.stderr
}

#[tokio::test]
async fn limits_that_mean_nothing_are_bad_settings() {
    let printed = complaint(Setup::bare().file(&keys("rate_per_minute = 0\nmax_in_flight = 'many'"))).await;
    assert!(printed.contains("signing.keys[0].rate_per_minute: must be a whole number from 1 to 1000000"), "{printed}");
    assert!(printed.contains("signing.keys[0].max_in_flight: must be a whole number from 1 to 10000"), "{printed}");
    let printed = complaint(Setup::bare().file(&keys("")).set("CXDA_SIGNING__MAX_IN_FLIGHT", "5")).await;
    assert!(printed.contains("signing.max_in_flight (CXDA_SIGNING__MAX_IN_FLIGHT): is for the key of signing.secret"), "{printed}");
    let shared = Route::new(HOOK).set("auth", "{ hmac = { rate_per_minute = 5 } }");
    let printed = complaint(Setup::bare().file(&format!("{}{}", settings_file(&[shared]), keys("")))).await;
    assert!(printed.contains("webhooks[0].auth.hmac.rate_per_minute of /hooks/it: is for a secret of the route's own"), "{printed}");
}
