//! A lookup's answer: contract, section 1.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Database, Reply, Service, Setup, ids_of, request, send};

async fn service() -> (Database, Service) {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    (database, service)
}

/// A request in which one member of `input` is something else.
fn with_ids(ids: impl Into<Value>) -> Value {
    json!({ "action": "process_customer_batch", "input": { "tenant_id": "acme42", "customer_ids": ids.into() } })
}

#[tokio::test]
async fn a_signed_request_gets_the_customer_and_nothing_else() {
    let (database, service) = service().await;
    let id = database.customer("acme42", "Ann Lee").await;
    database.run("UPDATE customers SET attributes = '{\"tier\":\"gold\"}'").await;
    let updated_at: DateTime<Utc> = database.value("SELECT updated_at FROM customers").await;

    let reply = service.lookup("acme42", &[id]).await;

    let customer = json!({
        "id": id, "name": "Ann Lee", "status": "active", "attributes": { "tier": "gold" },
        "updated_at": updated_at.to_rfc3339_opts(SecondsFormat::Micros, true),
    });
    let output = json!({ "customers": [customer], "count": 1, "missing": [], "truncated": false, "next_ids": [] });
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json(), json!({ "output": output }));
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn the_contracts_own_example_is_answered_literally() {
    let (database, service) = service().await;
    let id: Uuid = "6f1c0000-0000-4000-8000-00000000cafe".parse().unwrap();
    let sql = "INSERT INTO customers (tenant_id, id, name, status, attributes, updated_at) VALUES
        ('acme42', '6f1c0000-0000-4000-8000-00000000cafe', 'Ann', 'active', '{\"tier\":\"gold\"}', '2026-01-02T03:04:05.678901Z')";
    database.run(sql).await;
    let body = r#"{"action":"process_customer_batch","input":{"customer_ids":["6F1C0000-0000-4000-8000-00000000CAFE"],"tenant_id":"acme42"},"context":{"contactId":"123456"}}"#;
    let expected = format!(
        r#"{{"output":{{"customers":[{{"id":"{id}","name":"Ann","status":"active","updated_at":"2026-01-02T03:04:05.678901Z","attributes":{{"tier":"gold"}}}}],"count":1,"missing":[],"truncated":false,"next_ids":[]}}}}"#
    );
    let first = service.post(body).await;
    assert_eq!(first.json(), serde_json::from_str::<Value>(&expected).unwrap());
    let second = service.post(body).await;
    assert_eq!(second.cache(), "hit");
    assert_eq!(second.body, first.body, "an answer from the cache is the same, byte for byte");
}

#[tokio::test]
async fn customers_and_missing_ids_come_in_the_order_asked() {
    let (database, service) = service().await;
    let there = database.customers("acme42", 12).await;
    let asked: Vec<_> = there.iter().rev().flat_map(|id| [*id, Uuid::new_v4()]).collect();

    for cache in ["miss", "hit"] {
        let reply = service.lookup("acme42", &asked).await;
        assert_eq!(reply.cache(), cache);
        let output = reply.output();
        let (found, missing): (Vec<Uuid>, Vec<Uuid>) = asked.iter().partition(|id| there.contains(id));
        assert_eq!(ids_of(&output["customers"]), found);
        assert_eq!(ids_of(&output["missing"]), missing);
        assert_eq!(output["count"], 12);
    }
}

#[tokio::test]
async fn where_nobody_is_found_the_lists_are_empty_and_not_null() {
    let (_database, service) = service().await;
    let id = Uuid::new_v4();
    let output = service.lookup("acme42", &[id]).await.output();
    assert_eq!(output, json!({ "customers": [], "count": 0, "missing": [id], "truncated": false, "next_ids": [] }));
}

#[tokio::test]
async fn one_missing_customer_spoils_nothing() {
    let (database, service) = service().await;
    let mut ids = database.customers("acme42", 3).await;
    ids.insert(1, Uuid::new_v4());
    let output = service.lookup("acme42", &ids).await.output();
    assert_eq!((&output["count"], ids_of(&output["missing"])), (&json!(3), vec![ids[1]]));
}

#[tokio::test]
async fn duplicates_collapse_to_their_first_place_whatever_their_spelling() {
    let (database, service) = service().await;
    let [a, b] = database.customers("acme42", 2).await[..] else { unreachable!() };
    let ids = [b.to_string(), a.to_string().to_uppercase(), b.simple().to_string(), a.to_string()];
    assert_eq!(ids_of(&service.post(with_ids(json!(ids))).await.output()["customers"]), [b, a]);
}

#[tokio::test]
async fn a_hundred_ids_named_three_times_are_still_a_hundred() {
    let (database, service) = service().await;
    let ids = database.customers("acme42", 100).await.repeat(3);
    assert_eq!(service.lookup("acme42", &ids).await.output()["count"], 100);
}

#[tokio::test]
async fn any_spelling_of_a_uuid_is_taken_and_the_plain_one_given_back() {
    let (database, service) = service().await;
    let id = database.customer("acme42", "Ann").await;
    let spellings = [
        id.hyphenated().to_string(),
        id.hyphenated().to_string().to_uppercase(),
        id.simple().to_string(),
        id.braced().to_string(),
        id.urn().to_string(),
    ];
    for spelling in spellings {
        let output = service.post(with_ids(json!([spelling]))).await.output();
        assert_eq!(output["customers"][0]["id"], id.to_string(), "{spelling}");
    }
}

#[tokio::test]
async fn ids_may_come_as_one_comma_separated_string() {
    let (database, service) = service().await;
    let ids = database.customers("acme42", 3).await;
    for text in [format!("{},{},{}", ids[0], ids[1], ids[2]), format!("{}, {} ,{}", ids[0], ids[1], ids[2])] {
        assert_eq!(ids_of(&service.post(with_ids(text)).await.output()["customers"]), ids);
    }
    assert_eq!(ids_of(&service.post(with_ids(ids[1].to_string())).await.output()["customers"]), [ids[1]]);
}

#[tokio::test]
async fn unknown_members_at_the_top_are_ignored() {
    let (database, service) = service().await;
    let id = database.customer("acme42", "Ann").await;
    let mut body = request("acme42", &[id]);
    body["version"] = json!({ "deep": [1, null, { "x": "y" }] });
    body["tenant_id"] = json!("other");
    assert_eq!(service.post(body).await.names(), ["Ann"]);
}

#[tokio::test]
async fn context_takes_any_scalar_as_text() {
    let (database, service) = service().await;
    let id = database.customer("acme42", "Ann").await;
    for (contact, expected) in [(json!("c-1"), "c-1"), (json!(123_456), "123456"), (json!(true), "true"), (json!(12.5), "12.5")] {
        let mut body = request("acme42", &[id]);
        body["context"] = json!({ "contactId": contact, "skill": 7, "vip": false });
        let reply = service.post(body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(database.audit_row(&reply.request_id()).await.contact_id.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn thirty_two_context_entries_are_taken_and_none_is_needed() {
    let (database, service) = service().await;
    let id = database.customer("acme42", "Ann").await;
    for n in [0, 32] {
        let mut body = request("acme42", &[id]);
        body["context"] = (0..n).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
        assert_eq!(service.post(body).await.names(), ["Ann"]);
    }
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let (database, service) = service().await;
    let id = database.customer("acme42", "Ann").await;
    for content_type in [Some("application/x-www-form-urlencoded"), Some("text/plain; charset=utf-16"), Some("nonsense"), None] {
        let mut call = service.signed(request("acme42", &[id]).to_string());
        if let Some(content_type) = content_type {
            call = call.header("content-type", content_type);
        }
        assert_eq!(send(call).await.names(), ["Ann"], "{content_type:?}");
    }
}

#[tokio::test]
async fn attributes_are_left_out_where_empty() {
    let (database, service) = service().await;
    let id = database.customer("acme42", "Ann").await;
    assert!(service.lookup("acme42", &[id]).await.output()["customers"][0].get("attributes").is_none());
}

#[tokio::test]
async fn no_member_is_ever_named_as_cxone_reserves_it() {
    let (database, service) = service().await;
    let id = database.customer("acme42", "Ann").await;
    let attributes = r#"{"__type": "x", "kept": 1, "deep": {"__type": 1, "list": [{"__type": null, "also": true}]}, "text": "__type"}"#;
    database.run(&format!("UPDATE customers SET attributes = '{attributes}'")).await;
    let kept = json!({ "kept": 1, "deep": { "list": [{ "also": true }] }, "text": "__type" });
    for _from in ["database", "cache"] {
        assert_eq!(service.lookup("acme42", &[id]).await.output()["customers"][0]["attributes"], kept);
    }
    database.run("UPDATE customers SET attributes = '{\"__type\": \"x\"}'").await;
    let fresh = Setup::on(&database).start().await;
    assert!(fresh.lookup("acme42", &[id]).await.output()["customers"][0].get("attributes").is_none());
}

#[tokio::test]
async fn names_and_attributes_come_through_unharmed() {
    let (database, service) = service().await;
    let name = "Zoë \"Z\" O'Neil \\ <b>\u{1F600}\u{2028}\n";
    let id = database.customer("acme42", name).await;
    database.run("UPDATE customers SET attributes = '{\"big\": 12345678901234567890123, \"fine\": 0.1234567890123456789}'").await;
    let reply = service.lookup("acme42", &[id]).await;
    assert_eq!(reply.names(), [name]);
    assert!(reply.text().contains("12345678901234567890123"), "{}", reply.text());
    assert!(reply.text().contains("0.1234567890123456789"), "{}", reply.text());
}

#[tokio::test]
async fn a_request_id_is_taken_from_the_caller_or_made() {
    let (database, service) = service().await;
    let body = request("acme42", &database.customers("acme42", 1).await).to_string();
    for header in ["X-Request-Id", "X-Correlation-Id", "ININ-Correlation-Id"] {
        let given = format!("call-{}", Uuid::new_v4());
        let reply = send(service.signed(body.clone()).header(header, &given)).await;
        assert_eq!(reply.request_id(), given, "{header}");
    }
    let (first, second) = (service.post(&body).await, service.post(&body).await);
    assert!(!first.request_id().is_empty());
    assert_ne!(first.request_id(), second.request_id());
}

#[tokio::test]
async fn a_malformed_request_id_is_replaced() {
    let (database, service) = service().await;
    let body = request("acme42", &database.customers("acme42", 1).await).to_string();
    for bad in ["", "has blanks", "quote\"", "brace}{", &"x".repeat(300), "<script>", "a,b"] {
        let reply = send(service.signed(body.clone()).header("X-Request-Id", bad)).await;
        assert_eq!(reply.status, 200);
        assert!(reply.request_id() != bad && !reply.request_id().is_empty(), "{bad:?}");
    }
    let obs_text = reqwest::header::HeaderValue::from_bytes(b"caf\xe9").unwrap();
    assert_eq!(send(service.signed(body).header("X-Request-Id", obs_text)).await.status, 200);
}

#[tokio::test]
async fn a_failure_carries_the_callers_request_id_too() {
    let (_database, service) = service().await;
    let reply: Reply = send(service.signed("not json").header("X-Request-Id", "call-7")).await;
    assert_eq!(reply.problem(400, "invalid_json")["request_id"], "call-7");
}
