//! A 401 names the proofs that its route takes: without that, clients such as Java's `HttpClient` hide it from their callers.

use reqwest::Method;

use crate::support::{Database, Genesys, ROUTE_SECRET, Reply, Route, Service, Setup, send, sign};

const SIGNED: &str = r#"HMAC-SHA256 realm="cxone-data-action", header="X-CXone-Signature""#;
const BEARER: &str = r#"Bearer realm="cxone-data-action""#;
const API_KEY: &str = "an-api-key-of-the-tests-at-least-32-bytes-long";

fn challenges(reply: &Reply) -> Vec<&str> {
    reply.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect()
}

async fn refused(service: &Service, path: &str, header: Option<(&str, &str)>) -> Reply {
    let call = service.call(Method::POST, path).body("{}");
    let reply = send(header.into_iter().fold(call, |call, (name, value)| call.header(name, value))).await;
    assert_eq!(reply.status, 401, "{path}: {}", reply.text());
    reply
}

#[tokio::test]
async fn every_401_of_a_signed_route_asks_for_a_signature_in_the_header_of_the_settings() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_SIGNING__TIMESTAMP_HEADER", "X-Timestamp").start().await;
    assert_eq!(challenges(&refused(&service, "/data-action", None).await), [SIGNED]);
    assert_eq!(challenges(&refused(&service, "/data-action", Some(("X-CXone-Signature", "x"))).await), [SIGNED]);
    let stale = service.call(Method::POST, "/data-action").header("X-Timestamp", "1").header("X-CXone-Signature", sign_at_1());
    let stale = send(stale.body("{}")).await;
    stale.problem(401, "stale_signature");
    assert_eq!(challenges(&stale), [SIGNED]);
}

fn sign_at_1() -> String {
    sign("1.{}")
}

#[tokio::test]
async fn a_route_that_takes_api_keys_asks_for_a_bearer_too() {
    let (database, genesys) = (Database::new().await, Genesys::start());
    let setup = Setup::on(&database).genesys(&genesys).member("STORE", "memory").set("CXDA_SIGNING__API_KEY", API_KEY);
    let service = setup.start().await;
    for path in ["/data-action", "/genesys/actions/a/execute"] {
        for header in [None, Some(("X-API-Key", "wrong")), Some(("Authorization", "Bearer wrong"))] {
            assert_eq!(challenges(&refused(&service, path, header).await), [SIGNED, BEARER], "{path}");
        }
    }
}

#[tokio::test]
async fn a_webhook_asks_for_its_own_proof_and_never_for_a_password() {
    let database = Database::new().await;
    let auths = [
        (
            "/hooks/hmac",
            "hmac = { header = 'X-Hub-Signature-256'",
            r#"HMAC-SHA256 realm="cxone-data-action", header="X-Hub-Signature-256""#,
        ),
        ("/hooks/key", "api_key = { header = 'X-Token'", r#"ApiKey realm="cxone-data-action", header="X-Token""#),
        (
            "/hooks/standard",
            "standard_webhooks = { tolerance = '5m'",
            r#"HMAC-SHA256 realm="cxone-data-action", header="webhook-signature""#,
        ),
    ];
    let routes = auths.map(|(path, auth, _)| Route::new(path).set("auth", &format!("{{ {auth}, secret = '{ROUTE_SECRET}' }} }}")));
    let service = Setup::on(&database).set("CXDA_SIGNING__API_KEY", API_KEY).webhooks(&routes).start().await;
    for (path, _, challenge) in auths {
        let reply = refused(&service, path, None).await;
        assert_eq!(challenges(&reply), [challenge]);
    }
}

#[tokio::test]
async fn other_failures_carry_no_challenge() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let replies =
        [service.post("{}").await, send(service.call(Method::GET, "/data-action")).await, send(service.call(Method::POST, "/x")).await];
    assert_eq!(replies.each_ref().map(|reply| reply.status), [400, 405, 404]);
    assert!(replies.iter().all(|reply| challenges(reply).is_empty()));
}
