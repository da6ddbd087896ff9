//! One line a request, and in no line a secret, a customer or a body.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use uuid::Uuid;

use crate::support::{Cluster, Database, Redis, SECRET, Service, Setup, client, free_port, request, send, sign, wait_until};

const CANARY: &str = "Zaphod Canary";

async fn service() -> (Database, Service) {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    (database, service)
}

#[tokio::test]
async fn an_answered_request_is_one_line_with_what_matters() {
    let (database, mut service) = service().await;
    let id = database.customer("acme42", CANARY).await;
    for cache in ["miss", "hit"] {
        let reply = service.lookup("acme42", &[id]).await;
        let line = service.request_line(&reply.request_id()).await;
        assert_eq!((&line["tenant"], &line["outcome"], &line["cache"]), (&json!("acme42"), &json!("ok"), &json!(cache)));
        assert_eq!((&line["status"], &line["route"], &line["method"]), (&json!(200), &json!("/data-action"), &json!("POST")));
        assert!(line["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{line}");
        let about = |line: &&serde_json::Value| line["request_id"] == reply.request_id();
        assert_eq!(service.log().iter().filter(about).count(), 1, "{:#?}", service.log());
    }
}

#[tokio::test]
async fn a_refused_request_is_one_line_with_its_code() {
    let (_database, mut service) = service().await;
    let replies = [
        (service.post("{").await, "invalid_json"),
        (service.post("{}").await, "invalid_input"),
        (send(service.call(reqwest::Method::POST, "/data-action")).await, "missing_signature"),
        (send(service.call(reqwest::Method::GET, "/data-action")).await, "method_not_allowed"),
        (send(service.call(reqwest::Method::GET, "/x")).await, "not_found"),
    ];
    for (reply, code) in replies {
        let line = service.request_line(&reply.request_id()).await;
        assert_eq!((&line["outcome"], &line["status"]), (&json!(code), &json!(reply.status)));
    }
}

#[tokio::test]
async fn a_trace_of_the_caller_is_taken_up() {
    let (_database, mut service) = service().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let body = request("acme42", &[Uuid::from_u128(7)]).to_string();
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let reply = send(service.signed(body.clone()).header("traceparent", parent)).await;
    assert_eq!(service.request_line(&reply.request_id()).await["trace_id"], trace);
    let none = "00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned();
    for bad in
        ["nonsense".to_owned(), none, format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()), format!("ff-{trace}-00f067aa0ba902b7-01")]
    {
        let reply = send(service.signed(body.clone()).header("traceparent", &bad)).await;
        assert_eq!(reply.status, 200);
        assert!(service.request_line(&reply.request_id()).await.get("trace_id").is_none_or(serde_json::Value::is_null), "{bad}");
    }
}

#[tokio::test]
async fn every_line_is_json() {
    let (_database, service) = service().await;
    service.post("{").await;
    service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    let outcome = service.stop().await;
    for line in outcome.stdout.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    assert_eq!(outcome.stderr, "");
}

#[tokio::test]
async fn a_newline_in_a_header_or_path_cannot_forge_a_line() {
    let (_database, service) = service().await;
    send(service.call(reqwest::Method::GET, "/x%0a%7B%22message%22%3A%22forged%22%7D")).await;
    assert!(!service.log().iter().any(|line| line["message"] == "forged"));
}

/// Everything that may go wrong goes wrong once, while the service logs as much as it can.
#[tokio::test]
async fn no_line_holds_a_secret_a_customer_or_a_body() {
    let mut cluster = Cluster::start(&[("fsync", "off")]).await;
    let database = cluster.database().await;
    let mut redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).set("CXDA_CACHE__TIMEOUT", "50ms").set("RUST_LOG", "debug").start().await;
    let id = database.customer("acme42", CANARY).await;
    database.run(&format!("UPDATE customers SET attributes = '{{\"note\": \"{CANARY}\"}}'")).await;
    let mut body = request("acme42", &[id]);
    body["context"] = json!({ "contactId": "contact-7", "note": CANARY });
    for _ in 0..2 {
        assert_eq!(service.post(&body).await.status, 200);
    }
    service.post(format!("{{\"note\":\"{CANARY}\"")).await;
    service.post(json!({ "action": CANARY, "input": CANARY })).await;
    let signature = sign(body.to_string());
    send(
        service.call(reqwest::Method::POST, &format!("/data-action?note={CANARY}")).header("X-CXone-Signature", "x").body(body.to_string()),
    )
    .await;
    redis.kill();
    service.lookup("acme42", &[Uuid::new_v4()]).await;
    database.run("ALTER TABLE customers RENAME COLUMN name TO title").await;
    service.lookup("acme42", &[Uuid::new_v4()]).await;
    cluster.kill().await;
    service.lookup("acme42", &[Uuid::new_v4()]).await;
    wait_until("the failures are logged", async || {
        service.log().iter().any(|line| line["outcome"] == "database_unavailable").then_some(())
    })
    .await;
    let printed = service.printed();
    for secret in [CANARY, "Canary", SECRET, &signature, "customer_ids\\\":"] {
        let line = printed.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret:?} was logged");
    }
}

#[tokio::test]
async fn urls_with_passwords_are_not_logged() {
    let database = Database::new().await;
    let url = database.url.replacen('@', ":hunter2hunter2@", 1);
    let service = Setup::on(&database)
        .set("DATABASE_URL", url)
        .set("REDIS_URL", "redis://:hunter2@127.0.0.1:1")
        .set("RUST_LOG", "debug")
        .start()
        .await;
    for _ in 0..10 {
        assert_eq!(service.lookup("acme42", &[Uuid::new_v4()]).await.status, 200);
    }
    assert!(!service.printed().contains("hunter2"), "{}", service.printed());
}

#[tokio::test]
async fn lines_may_be_pretty() {
    let database = Database::new().await;
    let process = Setup::on(&database).set("CXDA_LOG__FORMAT", "pretty").process();
    wait_until("it listens", async || process.printed().contains("listening").then_some(())).await;
    assert!(process.log().is_empty());
}

#[tokio::test]
async fn the_filter_is_rust_log() {
    let database = Database::new().await;
    let address = format!("127.0.0.1:{}", free_port());
    let process = Setup::on(&database).set("RUST_LOG", "off").set("CXDA_ADMIN__LISTEN", &address).process();
    wait_until("it is up", async || tokio::net::TcpStream::connect(&address).await.ok()).await;
    let outcome = process.stop(Signal::SIGTERM).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_log_that_nobody_takes_stops_nobody() {
    let database = Database::new().await;
    let (http, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let setup = Setup::on(&database).set("CXDA_HTTP__LISTEN", &http).set("CXDA_ADMIN__LISTEN", &admin);
    let mut process = setup.unheard();
    wait_until("it is up", async || tokio::net::TcpStream::connect(&admin).await.ok()).await;
    let client = client();
    // A pipe holds 64 KiB: the lines of fewer than 300 of these.
    for _ in 0..1000 {
        assert_eq!(send(client.get(format!("http://{http}/nobody-is-here"))).await.status, 404);
    }
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM).expect("told to stop");
    wait_until("it has stopped", async || process.try_wait().expect("our own child")).await;
}
