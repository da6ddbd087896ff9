//! API keys, for platforms that cannot sign a body: off unless set, as narrow as signatures, and never in the place of a wrong one.

use reqwest::Method;
use uuid::Uuid;

use crate::support::{
    ACTION, Database, Genesys, KEY_HEADER, Outcome, Reply, Route, SECRET, Service, Setup, Tool, request, scratch_file, send, settings_file,
    sign, sign_with,
};

const API_KEY: &str = "an-api-key-of-the-tests-with-40-letters.";
const BOUND: &str = "an-api-key-for-one-tenant-with-40-letters";
const SECRET_OF_BOTH: &str = "another secret of the tests, at least 32 bytes";
const ENDED: &str = "an-api-key-past-its-end-with-40-letters..";

/// Keys with a secret alone, an API key alone, and both.
const FILE: &str = r#"
[[signing.keys]]
id = "signs"
secret = "a secret of the tests, at least 32 bytes long"

[[signing.keys]]
id = "both"
secret = "another secret of the tests, at least 32 bytes"
api_key = "an-api-key-of-the-tests-with-40-letters."

[[signing.keys]]
id = "bound"
api_key = "an-api-key-for-one-tenant-with-40-letters"
tenants = ["acme42"]

[[signing.keys]]
id = "ended"
api_key = "an-api-key-past-its-end-with-40-letters.."
not_after = "2020-01-01T00:00:00Z"
"#;

async fn service() -> (Database, Service) {
    let database = Database::new().await;
    let service = Setup::bare().set("DATABASE_URL", &database.url).file(FILE).start().await;
    (database, service)
}

fn body_for(tenant: &str) -> String {
    request(tenant, &[Uuid::from_u128(7)]).to_string()
}

async fn ask(service: &Service, headers: &[(&str, &str)], body: &str) -> Reply {
    let call = service.call(Method::POST, "/data-action").body(body.to_owned());
    send(headers.iter().fold(call, |call, (name, value)| call.header(*name, *value))).await
}

async fn lookup(service: &Service, headers: &[(&str, &str)]) -> Reply {
    ask(service, headers, &body_for("acme42")).await
}

fn bearer(api_key: &str) -> String {
    format!("Bearer {api_key}")
}

#[tokio::test]
async fn an_api_key_opens_by_its_header_or_as_a_bearer_and_the_audit_names_its_key() {
    let (database, service) = service().await;
    let ways = [("X-API-Key", API_KEY.to_owned()), ("Authorization", bearer(API_KEY)), ("authorization", format!("bearer  {API_KEY}"))];
    for (header, value) in ways {
        let reply = lookup(&service, &[(header, &value)]).await;
        assert_eq!(reply.status, 200, "{header}: {}", reply.text());
        assert_eq!(database.audit_row(&reply.request_id()).await.key_id, "both");
    }
    let reply = lookup(&service, &[("X-API-Key", BOUND)]).await;
    assert_eq!(database.audit_row(&reply.request_id()).await.key_id, "bound");
}

#[tokio::test]
async fn without_a_key_that_has_one_api_keys_are_not_even_looked_at() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    for (header, value) in [("X-API-Key", SECRET.to_owned()), ("Authorization", bearer(SECRET))] {
        lookup(&service, &[(header, &value)]).await.problem(401, "missing_signature");
    }
    assert!(!service.printed().contains("API keys"), "no warning where there are none");
}

#[tokio::test]
async fn a_wrong_api_key_is_a_wrong_signature_and_none_a_missing_one() {
    let (_database, service) = service().await;
    lookup(&service, &[]).await.problem(401, "missing_signature");
    lookup(&service, &[("Authorization", "Basic dXNlcjpwYXNz")]).await.problem(401, "missing_signature");
    let almost = API_KEY.replace("40", "41");
    let upper = API_KEY.to_uppercase();
    for wrong in ["", "x", &API_KEY[1..], &almost, &upper, &format!("{API_KEY}x"), SECRET_OF_BOTH, SECRET] {
        lookup(&service, &[("X-API-Key", wrong)]).await.problem(401, "invalid_signature");
        // Nothing after "Bearer" is no API key at all.
        let code = if wrong.is_empty() { "missing_signature" } else { "invalid_signature" };
        lookup(&service, &[("Authorization", &bearer(wrong))]).await.problem(401, code);
    }
}

#[tokio::test]
async fn a_secret_is_no_api_key_and_an_api_key_signs_nothing() {
    let (_database, service) = service().await;
    let body = body_for("acme42");
    for api_key in [API_KEY, BOUND] {
        lookup(&service, &[("X-CXone-Signature", &sign_with(api_key, &body))]).await.problem(401, "invalid_signature");
        lookup(&service, &[("X-CXone-Signature", api_key)]).await.problem(401, "invalid_signature");
    }
}

#[tokio::test]
async fn two_api_keys_are_a_wrong_one() {
    let (_database, service) = service().await;
    let bearer = bearer(API_KEY);
    let twins = [
        [("X-API-Key", API_KEY), ("X-API-Key", API_KEY)],
        [("X-API-Key", API_KEY), ("Authorization", &bearer)],
        [("Authorization", &bearer), ("Authorization", &bearer)],
        [("Authorization", &bearer), ("Authorization", "Basic dXNlcjpwYXNz")],
    ];
    for headers in twins {
        lookup(&service, &headers).await.problem(401, "invalid_signature");
    }
    // Whatever else stands between may authorize itself in its own way.
    assert_eq!(lookup(&service, &[("X-API-Key", API_KEY), ("Authorization", "Basic dXNlcjpwYXNz")]).await.status, 200);
}

#[tokio::test]
async fn where_there_is_a_signature_it_alone_decides() {
    let (database, service) = service().await;
    for wrong in [sign("another body"), String::new(), "x".to_owned()] {
        lookup(&service, &[("X-CXone-Signature", &wrong), ("X-API-Key", API_KEY)]).await.problem(401, "invalid_signature");
    }
    let right = sign(body_for("acme42"));
    let reply = lookup(&service, &[("X-CXone-Signature", &right), ("X-API-Key", "wrong"), ("Authorization", "Bearer wrong")]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(database.audit_row(&reply.request_id()).await.key_id, "signs");
}

#[tokio::test]
async fn the_key_named_is_the_only_one_tried() {
    let (_database, service) = service().await;
    assert_eq!(lookup(&service, &[("X-API-Key", API_KEY), ("X-CXone-Key-Id", "both")]).await.status, 200);
    for other in ["bound", "signs", "nobody", ""] {
        lookup(&service, &[("X-API-Key", API_KEY), ("X-CXone-Key-Id", other)]).await.problem(401, "invalid_signature");
    }
}

#[tokio::test]
async fn an_api_key_keeps_to_its_tenants_and_to_its_end() {
    let (database, service) = service().await;
    ask(&service, &[("X-API-Key", BOUND)], &body_for("globex")).await.problem(403, "tenant_not_allowed");
    assert_eq!(ask(&service, &[("X-API-Key", API_KEY)], &body_for("globex")).await.status, 200);
    lookup(&service, &[("X-API-Key", ENDED)]).await.problem(401, "invalid_signature");
    lookup(&service, &[("X-API-Key", ENDED), ("X-CXone-Key-Id", "ended")]).await.problem(401, "invalid_signature");
    assert_eq!(database.audit_count().await, 1);
}

#[tokio::test]
async fn nothing_is_said_about_a_body_that_nobody_vouches_for() {
    let (_database, service) = service().await;
    for garbage in ["{", "", "{}", r#"{"action":"x"}"#] {
        ask(&service, &[], garbage).await.problem(401, "missing_signature");
        ask(&service, &[("X-API-Key", "wrong")], garbage).await.problem(401, "invalid_signature");
        assert_eq!(ask(&service, &[("X-API-Key", API_KEY)], garbage).await.status, 400);
    }
}

#[tokio::test]
async fn the_settings_one_key_may_have_an_api_key_beside_its_secret_or_alone() {
    let database = Database::new().await;
    let file = scratch_file(format!("{API_KEY}\n"));
    let both = Setup::on(&database).set("CXDA_SIGNING__API_KEY_FILE", file.to_str().unwrap()).start().await;
    let alone = Setup::bare().set("DATABASE_URL", &database.url).set("CXDA_SIGNING__API_KEY", API_KEY);
    let alone = alone.set("CXDA_SIGNING__API_KEY_HEADER", "X-Token").start().await;
    for (service, header) in [(&both, "X-API-Key"), (&alone, "X-Token")] {
        let reply = lookup(service, &[(header, API_KEY)]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(database.audit_row(&reply.request_id()).await.key_id, "default");
        assert_eq!(lookup(service, &[("Authorization", &bearer(API_KEY))]).await.status, 200);
    }
    assert_eq!(both.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
    lookup(&alone, &[("X-API-Key", API_KEY)]).await.problem(401, "missing_signature");
    alone.lookup("acme42", &[Uuid::from_u128(7)]).await.problem(401, "invalid_signature");
}

#[tokio::test]
async fn start_up_warns_that_api_keys_need_tls_and_nothing_prints_one() {
    let (_database, service) = service().await;
    let warned = |line: &serde_json::Value| line["level"] == "WARN" && line["message"].as_str().unwrap_or_default().contains("TLS");
    assert!(service.log().iter().any(warned), "{:#?}", service.log());
    lookup(&service, &[("X-API-Key", API_KEY)]).await;
    lookup(&service, &[("X-API-Key", ENDED)]).await;
    lookup(&service, &[("Authorization", &bearer(BOUND))]).await;
    let outcome = service.stop().await;
    for api_key in [API_KEY, ENDED, BOUND] {
        assert!(!outcome.printed().contains(api_key));
    }
}

#[tokio::test]
async fn an_execution_is_asked_for_by_api_key_and_done_once() {
    let (genesys, database) = (Genesys::start(), Database::new().await);
    let setup = Setup::bare().set("DATABASE_URL", &database.url).file(FILE).genesys(&genesys).member("STORE", "memory");
    let service = setup.start().await;
    let execute = async |api_key: &str| {
        let path = format!("/genesys/actions/{ACTION}/execute");
        let call = service.call(Method::POST, &path).header("X-API-Key", api_key).header("Idempotency-Key", "order-1");
        send(call.body(r#"{"CASE":"1"}"#)).await
    };
    execute("wrong").await.problem(401, "invalid_signature");
    execute(BOUND).await.problem(403, "key_not_allowed");
    for replayed in [false, true] {
        let reply = execute(API_KEY).await;
        assert_eq!((reply.status, reply.replayed()), (200, replayed), "{}", reply.text());
    }
    assert_eq!(genesys.api.started(), 1);
}

#[tokio::test]
async fn what_is_executed_by_api_key_is_found_again_though_the_key_can_sign_nothing() {
    let (genesys, database) = (Genesys::start(), Database::new().await);
    let setup = Setup::bare().set("DATABASE_URL", &database.url).set("CXDA_SIGNING__API_KEY", API_KEY);
    let service = setup.genesys(&genesys).member("STORE", "postgres").start().await;
    let path = format!("/genesys/actions/{ACTION}/execute");
    for replayed in [false, true] {
        let reply = send(service.call(Method::POST, &path).header("X-API-Key", API_KEY).body(r#"{"CASE":"1"}"#)).await;
        assert_eq!((reply.status, reply.replayed()), (200, replayed), "{}", reply.text());
    }
    assert_eq!(genesys.api.started(), 1);
}

#[tokio::test]
async fn a_webhook_by_api_key_knows_a_signing_key_by_its_own_or_else_by_its_secret() {
    let database = Database::new().await;
    let route = |path: &str, auth: &str| Route::new(path).set("auth", auth);
    let routes = [route("/webhooks/sent", "{ api_key = {} }"), route("/webhooks/signed", "{ hmac = {} }")];
    let file = format!("{}{FILE}", settings_file(&routes));
    let service = Setup::bare().set("DATABASE_URL", &database.url).file(&file).start().await;
    let post = async |path: &str, api_key: &str| service.post_to(path, &[("X-API-Key", api_key), (KEY_HEADER, "k")], "{}").await;
    for good in [SECRET, API_KEY, BOUND] {
        let reply = post("/webhooks/sent", good).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    for bad in [SECRET_OF_BOTH, ENDED] {
        post("/webhooks/sent", bad).await.problem(401, "invalid_signature");
    }
    // A route that asks for signatures takes nothing else.
    post("/webhooks/signed", API_KEY).await.problem(401, "missing_signature");
}

fn check(file: &str) -> Tool {
    let path = scratch_file(file);
    let tool = Tool::new(&["config", "check"]).set("DATABASE_URL", "postgresql://db.example/crm");
    tool.set("CXDA_CONFIG", path.to_str().unwrap())
}

fn assert_refused(outcome: &Outcome, names: &[&str]) {
    assert_eq!(outcome.code, Some(78), "{}", outcome.printed());
    assert!(names.iter().all(|name| outcome.printed().contains(name)), "{names:?}: {}", outcome.printed());
    assert!(!outcome.printed().contains("letters"), "{}", outcome.printed());
}

#[tokio::test]
async fn an_api_key_that_is_short_or_cannot_be_sent_or_is_a_secret_too_is_refused_by_name() {
    let key = |id: &str, members: &str| format!("[[signing.keys]]\nid = \"{id}\"\n{members}\n");
    let secret = format!("secret = \"{API_KEY}\"");
    let api_key = format!("api_key = \"{API_KEY}\"");
    let cases = [
        (key("a", "api_key = \"letters\""), "signing.keys[0].api_key"),
        (key("a", "api_key = \"with blanks in it and forty letters long...\""), "signing.keys[0].api_key"),
        (key("a", "api_key = \"mit Ümläuten und vierzig letters lang, ganz.\""), "signing.keys[0].api_key"),
        (key("a", ""), "signing.keys[0].secret"),
        (key("a", &format!("{secret}\n{api_key}")), "signing.keys[0].api_key"),
        (key("a", &secret) + &key("b", &api_key), "signing.keys[1].api_key"),
        (key("a", &api_key) + &key("b", &api_key), "signing.keys[1].api_key"),
        (key("a", &api_key) + &format!("[idempotency]\n{secret}\n"), "idempotency.secret"),
        (
            key("a", &api_key)
                + &format!(
                    "[[webhooks]]\npath = \"/x\"\nauth = {{ hmac = {{ {secret} }} }}\nkey = {{ body = \"raw\" }}\nstore = \"memory\"\naction = {{ echo = {{}} }}\n"
                ),
            "webhooks[0].auth.hmac.secret",
        ),
    ];
    for (file, name) in cases {
        assert_refused(&check(&file).run().await, &[name]);
    }
    for header in ["Authorization", "x-cxone-signature", "X-CXone-Key-Id", "no header"] {
        let outcome = check(&key("a", &api_key)).set("CXDA_SIGNING__API_KEY_HEADER", header).run().await;
        assert_refused(&outcome, &["CXDA_SIGNING__API_KEY_HEADER"]);
    }
    let outcome = check(&key("a", &api_key)).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
}

#[tokio::test]
async fn printed_settings_hold_no_api_key() {
    let path = scratch_file(FILE);
    let print = Tool::new(&["config", "print"]).set("CXDA_SIGNING__API_KEY", "one-more-api-key-with-more-than-40-letters");
    let outcome = print.set("CXDA_CONFIG", path.to_str().unwrap()).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert!(!outcome.printed().contains("letters"), "{}", outcome.printed());
    for name in ["signing.api_key = \"********\"", "signing.keys[1].api_key = \"********\"", "signing.api_key_header = \"X-API-Key\""] {
        assert!(outcome.stdout.contains(name), "{name}: {}", outcome.stdout);
    }
}

#[tokio::test]
async fn commands_sign_with_a_key_that_can_and_say_where_one_cannot() {
    let path = scratch_file(FILE.replacen("secret = \"a secret", "api_key = \"an-api-key", 1).replacen(
        "key of the tests, at least 32 bytes long",
        "key-of-the-tests-at-least-32-bytes-long",
        1,
    ));
    let sign = |args: &[&str]| Tool::new(&[&["sign"], args].concat()).set("CXDA_CONFIG", path.to_str().unwrap()).input("body");
    let outcome = sign(&[]).run().await;
    assert_eq!(outcome.stdout.trim(), sign_with(SECRET_OF_BOTH, "body"), "{}", outcome.printed());
    let outcome = sign(&["--key-id", "bound"]).run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    assert!(outcome.stderr.contains("\"bound\" has no secret"), "{}", outcome.stderr);
}
