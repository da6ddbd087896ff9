//! What is refused, and in which words: 400 of contract, section 2.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Database, Service, Setup, request, send};

const CANARY: &str = "canary-8c1f";

async fn service() -> (Database, Service) {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    (database, service)
}

fn body() -> Value {
    request("acme42", &[Uuid::from_u128(7)])
}

/// The body with one value replaced or added, by JSON pointer of an object's member.
fn with(pointer: &str, value: Value) -> Value {
    let mut body = body();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[member] = value;
    body
}

fn without(pointer: &str) -> Value {
    let mut body = body();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(member);
    body
}

#[tokio::test]
async fn what_is_not_json_is_invalid_json() {
    let (_database, service) = service().await;
    let good = body().to_string();
    let cases: [&[u8]; 10] = [
        b"",
        b"   ",
        b"{",
        b"customer_ids=1&tenant_id=acme42",
        b"{\"action\":\"process_customer_batch\",}",
        b"{'action':'x'}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":\"\xff\xfe\"}",
        b"{\"a\":1e999999}x",
        b"<xml/>",
    ];
    for case in cases {
        send(service.signed(case)).await.problem(400, "invalid_json");
    }
    service.post(format!("{good} trailing")).await.problem(400, "invalid_json");
    service.post(&good[..good.len() - 1]).await.problem(400, "invalid_json");
}

#[tokio::test]
async fn json_of_another_shape_is_invalid_input() {
    let (_database, service) = service().await;
    for case in [json!(null), json!([]), json!([body()]), json!("text"), json!(7), json!(true)] {
        service.post(&case).await.errors();
    }
    // Serde takes an array for a struct, member by member, where nobody forbids it.
    let as_array = json!({ "action": "process_customer_batch", "input": [[Uuid::from_u128(7)], "acme42"] });
    assert_eq!(service.post(as_array).await.pointers(), ["/input"]);
    service.post(json!(["process_customer_batch", { "customer_ids": [Uuid::from_u128(7)], "tenant_id": "acme42" }, null])).await.errors();
}

#[tokio::test]
async fn each_member_that_is_wrong_is_pointed_at() {
    let (_database, service) = service().await;
    let cases = [
        (without("/action"), "/action"),
        (with("/action", json!(7)), "/action"),
        (with("/action", json!(null)), "/action"),
        (without("/input"), "/input"),
        (with("/input", json!(null)), "/input"),
        (with("/input", json!("text")), "/input"),
        (without("/input/customer_ids"), "/input/customer_ids"),
        (with("/input/customer_ids", json!(null)), "/input/customer_ids"),
        (with("/input/customer_ids", json!([])), "/input/customer_ids"),
        (with("/input/customer_ids", json!("")), "/input/customer_ids"),
        (with("/input/customer_ids", json!(7)), "/input/customer_ids"),
        (with("/input/customer_ids", json!({ "0": Uuid::from_u128(7) })), "/input/customer_ids"),
        (without("/input/tenant_id"), "/input/tenant_id"),
        (with("/input/tenant_id", json!(null)), "/input/tenant_id"),
        (with("/input/tenant_id", json!(42)), "/input/tenant_id"),
        (with("/input/tenant_id", json!(["acme42"])), "/input/tenant_id"),
        (with("/context", json!([])), "/context"),
        (with("/context", json!("text")), "/context"),
        (with("/context", json!({ "contactId": { "deep": 1 } })), "/context/contactId"),
        (with("/context", json!({ "contactId": ["x"] })), "/context/contactId"),
    ];
    for (case, pointer) in cases {
        let reply = service.post(&case).await;
        assert_eq!(reply.pointers(), [pointer], "{case}");
    }
}

#[tokio::test]
async fn a_bad_id_is_pointed_at_by_its_place() {
    let (_database, service) = service().await;
    let good = Uuid::from_u128(7).to_string();
    let wrong = [
        json!("6f1c"),
        json!("not-a-uuid"),
        json!(Uuid::nil()),
        json!(""),
        json!(" "),
        json!(7),
        json!(null),
        json!([good]),
        json!(format!("{good} ")),
        json!(format!("{good}\u{0}")),
        json!("zzzzzzzz-zzzz-4zzz-8zzz-zzzzzzzzzzzz"),
    ];
    for wrong in wrong {
        let reply = service.post(with("/input/customer_ids", json!([good, good, wrong]))).await;
        assert_eq!(reply.pointers(), ["/input/customer_ids/2"], "{wrong}");
    }
    let nil = "00000000000000000000000000000000";
    for text in [format!("{good},{nil}"), format!("{good},x"), format!("{good},{good} x")] {
        let reply = service.post(with("/input/customer_ids", json!(text))).await;
        assert_eq!(reply.pointers(), ["/input/customer_ids/1"], "{text}");
    }
}

#[tokio::test]
async fn a_batch_holds_at_most_what_the_settings_say() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_LOOKUP__MAX_BATCH", "5").start().await;
    let ids = |n: u128| (1..=n).map(Uuid::from_u128).collect::<Vec<_>>();
    assert_eq!(service.lookup("acme42", &ids(5)).await.status, 200);
    assert_eq!(service.lookup("acme42", &ids(6)).await.pointers(), ["/input/customer_ids"]);
    let by_default = Setup::on(&database).start().await;
    assert_eq!(by_default.lookup("acme42", &ids(100)).await.status, 200);
    assert_eq!(by_default.lookup("acme42", &ids(101)).await.pointers(), ["/input/customer_ids"]);
}

#[tokio::test]
async fn a_tenant_is_1_to_64_ascii_letters_and_digits() {
    let (_database, service) = service().await;
    for good in ["a", "7", "Acme42", &"x".repeat(64)] {
        assert_eq!(service.lookup(good, &[Uuid::from_u128(7)]).await.status, 200, "{good}");
    }
    for bad in ["", " ", "acme-42", "acme_42", "acmé", "٣", "acme42 ", "a'; DROP TABLE customers; --", "a\0", "a{b}", "*", &"x".repeat(65)]
    {
        assert_eq!(service.lookup(bad, &[Uuid::from_u128(7)]).await.pointers(), ["/input/tenant_id"], "{bad:?}");
    }
}

#[tokio::test]
async fn unknown_members_of_input_are_refused() {
    let (_database, service) = service().await;
    let reply = service.post(with("/input/customer_id", json!("x"))).await;
    let pointers = reply.pointers();
    assert!(pointers.iter().all(|pointer| pointer.starts_with("/input")), "{pointers:?}");
}

#[tokio::test]
async fn a_member_named_twice_is_refused() {
    let (_database, service) = service().await;
    let id = Uuid::from_u128(7);
    let twice =
        format!(r#"{{"action":"process_customer_batch","input":{{"customer_ids":["{id}"],"tenant_id":"acme42","tenant_id":"other"}}}}"#);
    service.post(twice).await.errors();
    let twice = format!(
        r#"{{"action":"process_customer_batch","input":{{"customer_ids":["{id}"],"tenant_id":"acme42"}},"input":{{"customer_ids":["{id}"],"tenant_id":"other"}}}}"#
    );
    service.post(twice).await.errors();
}

#[tokio::test]
async fn more_than_32_context_entries_are_refused() {
    let (_database, service) = service().await;
    let entries: serde_json::Map<_, _> = (0..33).map(|n| (format!("k{n}"), json!("v"))).collect();
    assert_eq!(service.post(with("/context", entries.into())).await.pointers(), ["/context"]);
}

#[tokio::test]
async fn no_nul_character_reaches_the_database() {
    let (_database, service) = service().await;
    let reply = service.post(with("/context", json!({ "contactId": "a\u{0}b" }))).await;
    assert!(reply.pointers()[0].starts_with("/context"));
    let reply = service.post(with("/context", json!({ "a\u{0}b": "x" }))).await;
    assert!(reply.status == 200 || reply.status == 400, "{}", reply.text());
}

#[tokio::test]
async fn an_unknown_action_says_so() {
    let (_database, service) = service().await;
    for action in ["process_customers", "PROCESS_CUSTOMER_BATCH", "", CANARY] {
        let reply = service.post(with("/action", json!(action))).await;
        reply.problem(400, "unknown_action");
        assert!(!reply.text().contains(CANARY), "the input is not repeated: {}", reply.text());
    }
}

#[tokio::test]
async fn errors_are_sorted_at_most_twenty_and_never_repeat_the_input() {
    let (_database, service) = service().await;
    let bad: Vec<_> = (0..60).map(|n| format!("{CANARY}-{n}")).collect();
    let mut body = with("/input/customer_ids", json!(bad));
    body["input"]["tenant_id"] = json!(format!("{CANARY}!"));
    let reply = service.post(body).await;
    assert_eq!(reply.errors().len(), 20);
    assert!(!reply.text().contains(CANARY), "{}", reply.text());

    for case in [
        with("/input/tenant_id", json!(format!("{CANARY} "))),
        with("/input", json!(CANARY)),
        with("/context", json!({ "contactId": [CANARY] })),
    ] {
        let reply = service.post(case).await;
        reply.errors();
        assert!(!reply.text().contains(CANARY), "{}", reply.text());
    }
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let (_database, service) = service().await;
    let mut body = with("/input/tenant_id", json!("no tenant"));
    body["input"]["customer_ids"] = json!(["x", Uuid::from_u128(7), Uuid::nil()]);
    let pointers = service.post(body).await.pointers();
    assert_eq!(pointers, ["/input/customer_ids/0", "/input/customer_ids/2", "/input/tenant_id"]);
}

#[tokio::test]
async fn a_bottomless_body_does_no_harm() {
    let (_database, service) = service().await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        let ignored = format!(
            r#"{{"action":"process_customer_batch","input":{{"customer_ids":["{}"],"tenant_id":"acme42"}},"x":{deep}}}"#,
            Uuid::from_u128(7)
        );
        for body in [deep, ignored] {
            let shape: String = body.chars().take(200).collect();
            let reply = service.post(body).await;
            assert!(reply.status == 200 || reply.status == 400, "{shape}: {}", reply.text());
        }
    }
    assert_eq!(service.post(body()).await.status, 200);
}

#[tokio::test]
async fn a_refused_request_leaves_no_audit_row() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    service.post("{").await.problem(400, "invalid_json");
    service.post(with("/action", json!("x"))).await.problem(400, "unknown_action");
    service.post(with("/input/tenant_id", json!("x y"))).await.errors();
    assert_eq!(database.audit_count().await, 0);
}

#[tokio::test]
async fn a_null_of_the_context_counts_and_says_nothing() {
    let (_database, service) = service().await;
    let mut body = body();
    body["context"] = (0..33).map(|n| (format!("k{n}"), Value::Null)).collect::<serde_json::Map<_, _>>().into();
    service.post(&body).await.errors();
    body["context"] = json!({ "contactId": null });
    assert_eq!(service.post(&body).await.status, 200);
    let twice = body.to_string().replace(r#""contactId":null"#, r#""contactId":null,"contactId":"x""#);
    service.post(twice).await.errors();
}
