//! Signing keys: rotation, an end, and the tenants that a key is good for.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use uuid::Uuid;

use crate::support::{Database, Reply, Service, Setup, request, send, sign_with, wait_until};

const OLD: &str = "the old secret, of at least 32 bytes";
const NEW: &str = "the new secret, of at least 32 bytes";
const ENDED: &str = "a secret past its end, of 32 bytes....";
const BOUND: &str = "a secret for one tenant, of 32 bytes..";

const FILE: &str = r#"
[[signing.keys]]
id = "old"
secret = "the old secret, of at least 32 bytes"
not_after = "2096-12-01T00:00:00Z"

[[signing.keys]]
id = "new"
secret = "the new secret, of at least 32 bytes"

[[signing.keys]]
id = "ended"
secret = "a secret past its end, of 32 bytes...."
not_after = "2020-01-01T00:00:00Z"

[[signing.keys]]
id = "bound"
secret = "a secret for one tenant, of 32 bytes.."
tenants = ["acme42", "globex"]
"#;

async fn service() -> (Database, Service) {
    let database = Database::new().await;
    let service = Setup::bare().set("DATABASE_URL", &database.url).file(FILE).start().await;
    (database, service)
}

async fn lookup(service: &Service, secret: &str, key_ids: &[&str], tenant: &str) -> Reply {
    let body = request(tenant, &[Uuid::from_u128(7)]).to_string();
    let call = service.call(reqwest::Method::POST, "/data-action").header("X-CXone-Signature", sign_with(secret, &body)).body(body);
    send(key_ids.iter().fold(call, |call, id| call.header("X-CXone-Key-Id", *id))).await
}

#[tokio::test]
async fn old_and_new_key_are_good_at_once_and_the_audit_says_which() {
    let (database, service) = service().await;
    for (secret, id) in [(OLD, "old"), (NEW, "new")] {
        for key_ids in [&[][..], &[id][..]] {
            let reply = lookup(&service, secret, key_ids, "acme42").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(database.audit_row(&reply.request_id()).await.key_id, id);
        }
    }
}

#[tokio::test]
async fn a_key_past_its_end_is_refused() {
    let (_database, service) = service().await;
    lookup(&service, ENDED, &[], "acme42").await.problem(401, "invalid_signature");
    lookup(&service, ENDED, &["ended"], "acme42").await.problem(401, "invalid_signature");
}

#[tokio::test]
async fn a_key_ends_while_the_service_runs() {
    let database = Database::new().await;
    let end = (Utc::now() + Duration::from_secs(3)).to_rfc3339_opts(SecondsFormat::Millis, true);
    let file = format!(
        "[[signing.keys]]\nid = \"short\"\nsecret = \"{OLD}\"\nnot_after = \"{end}\"\n[[signing.keys]]\nid = \"next\"\nsecret = \"{NEW}\"\n"
    );
    let service = Setup::bare().set("DATABASE_URL", &database.url).file(&file).start().await;
    assert_eq!(lookup(&service, OLD, &[], "acme42").await.status, 200);
    wait_until("the key has ended", async || (lookup(&service, OLD, &[], "acme42").await.status == 401).then_some(())).await;
    assert!(Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true) >= end, "it ended too early");
    assert_eq!(lookup(&service, NEW, &[], "acme42").await.status, 200);
}

#[tokio::test]
async fn the_key_named_is_the_only_one_tried() {
    let (_database, service) = service().await;
    lookup(&service, OLD, &["new"], "acme42").await.problem(401, "invalid_signature");
    for unknown in ["nobody", "", "OLD", "old "] {
        let reply = lookup(&service, OLD, &[unknown], "acme42").await;
        // A trailing blank is no part of a header's value.
        if unknown.trim() != "old" {
            reply.problem(401, "invalid_signature");
        }
    }
}

#[tokio::test]
async fn two_key_ids_are_a_wrong_signature() {
    let (_database, service) = service().await;
    lookup(&service, OLD, &["old", "old"], "acme42").await.problem(401, "invalid_signature");
    lookup(&service, OLD, &["old", "new"], "acme42").await.problem(401, "invalid_signature");
}

#[tokio::test]
async fn an_unknown_key_and_a_wrong_signature_look_the_same() {
    let (_database, service) = service().await;
    let replies = [lookup(&service, OLD, &["nobody"], "acme42").await, lookup(&service, OLD, &["new"], "acme42").await];
    let [unknown, wrong] = replies.map(|reply| {
        let mut problem = reply.problem(401, "invalid_signature");
        problem.as_object_mut().unwrap().remove("request_id");
        problem
    });
    assert_eq!(unknown, wrong);
}

#[tokio::test]
async fn a_key_is_good_for_its_own_tenants_alone() {
    let (database, service) = service().await;
    for tenant in ["acme42", "globex"] {
        assert_eq!(lookup(&service, BOUND, &[], tenant).await.status, 200);
    }
    let before = database.audit_count().await;
    for foreign in ["initech", "ACME42", "acme4", "acme422"] {
        for key_ids in [&[][..], &["bound"][..]] {
            let reply = lookup(&service, BOUND, key_ids, foreign).await;
            assert_eq!(reply.problem(403, "tenant_not_allowed")["retryable"], false);
            assert!(!reply.text().contains(foreign), "{}", reply.text());
        }
    }
    assert_eq!(database.audit_count().await, before);
}

#[tokio::test]
async fn a_single_secret_is_a_key_named_default() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let reply = lookup(&service, crate::support::SECRET, &["default"], "acme42").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(database.audit_row(&reply.request_id()).await.key_id, "default");
}

#[tokio::test]
async fn a_keys_secret_may_lie_in_a_file() {
    let database = Database::new().await;
    let secret = crate::support::scratch_file(format!("{NEW}\n"));
    let file = format!("[[signing.keys]]\nid = \"filed\"\nsecret_file = \"{}\"\n", secret.display());
    let service = Setup::bare().set("DATABASE_URL", &database.url).file(&file).start().await;
    assert_eq!(lookup(&service, NEW, &["filed"], "acme42").await.status, 200);
}
