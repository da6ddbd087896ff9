//! Properties that hold for any input: no forgery is taken, no answer is a 500, every batch is answered whole.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Database, SECRET, Service, Setup, hmac, ids_of, request, send, sign};

/// Runs a property against one running service.
fn check<S: Strategy>(cases: u32, inputs: &S, property: &impl AsyncFn(&Stage, S::Value)) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stage = runtime.block_on(Stage::new());
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(inputs, |input| {
        runtime.block_on(property(&stage, input));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

struct Stage {
    database: Database,
    service: Service,
    ids: Vec<Uuid>,
}

impl Stage {
    async fn new() -> Self {
        let database = Database::new().await;
        let ids = database.customers("acme42", 20).await;
        let service = Setup::on(&database).start().await;
        Self { database, service, ids }
    }
}

#[test]
fn no_changed_body_passes_under_the_old_signature() {
    let body = request("acme42", &[Uuid::from_u128(7)]).to_string();
    let changes = (any::<prop::sample::Index>(), any::<u8>(), 0..3u8);
    check(400, &changes, &async |stage: &Stage, (at, byte, how)| {
        let mut forged = body.clone().into_bytes();
        let at = at.index(forged.len());
        match how {
            0 => forged[at] = byte,
            1 => forged.insert(at, byte),
            _ => drop(forged.remove(at)),
        }
        if forged != body.as_bytes() {
            let call = stage.service.call(Method::POST, "/data-action").header("X-CXone-Signature", sign(&body)).body(forged);
            send(call).await.problem(401, "invalid_signature");
        }
    });
}

#[test]
fn no_changed_signature_passes() {
    let body = request("acme42", &[Uuid::from_u128(7)]).to_string();
    let tag = hmac(SECRET, body.as_bytes());
    let changes = (0..32usize, 1..=u8::MAX, any::<prop::sample::Index>(), 0..4u8);
    check(400, &changes, &async |stage: &Stage, (at, flip, cut, how)| {
        let text = hex::encode(tag);
        let forged = match how {
            0 => hex::encode(std::array::from_fn::<u8, 32, _>(|n| if n == at { tag[n] ^ flip } else { tag[n] })),
            1 => text[..cut.index(64)].to_owned(),
            2 => format!("{text}{flip:02x}"),
            _ => format!("{}{text}", &text[..=cut.index(63)]),
        };
        let call = stage.service.call(Method::POST, "/data-action").header("X-CXone-Signature", forged).body(body.clone());
        send(call).await.problem(401, "invalid_signature");
    });
}

#[test]
fn no_header_of_any_bytes_passes_or_upsets() {
    let body = request("acme42", &[Uuid::from_u128(7)]).to_string();
    check(300, &prop::collection::vec(any::<u8>(), 0..100), &async |stage: &Stage, bytes| {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return };
        let call = stage.service.call(Method::POST, "/data-action").header("X-CXone-Signature", value).body(body.clone());
        send(call).await.problem(401, "invalid_signature");
    });
}

/// JSON of any shape, with the words of our own requests among it.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        "action",
        "input",
        "customer_ids",
        "tenant_id",
        "context",
        "contactId",
        "process_customer_batch",
        "acme42",
        "\\PC{0,8}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        any::<u128>().prop_map(|n| Value::from(Uuid::from_u128(n).to_string())),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(word.clone(), inner, 0..6).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

#[test]
fn any_signed_json_gets_a_200_or_an_honest_400() {
    check(500, &any_json(), &async |stage: &Stage, body| {
        let reply = stage.service.post(&body).await;
        if reply.status != 200 {
            reply.problem(400, reply.json()["code"].as_str().expect("a code"));
        }
    });
}

#[test]
fn any_input_gets_a_200_or_an_honest_400() {
    let inputs = (any_json(), any_json(), prop::option::of(any_json()));
    check(500, &inputs, &async |stage: &Stage, (customer_ids, tenant_id, context)| {
        let mut body = json!({ "action": "process_customer_batch", "input": { "customer_ids": customer_ids, "tenant_id": tenant_id } });
        if let Some(context) = context {
            body["context"] = context;
        }
        let reply = stage.service.post(&body).await;
        if reply.status != 200 {
            reply.problem(400, reply.json()["code"].as_str().expect("a code"));
        }
    });
}

#[test]
fn any_bytes_get_an_honest_400() {
    check(300, &prop::collection::vec(any::<u8>(), 0..200), &async |stage: &Stage, bytes| {
        // A digit or two is JSON.
        let code = if serde_json::from_slice::<Value>(&bytes).is_ok() { "invalid_input" } else { "invalid_json" };
        send(stage.service.signed(bytes)).await.problem(400, code);
    });
}

/// How one id of a batch is spelled.
fn spelled(id: Uuid, how: u8) -> String {
    match how {
        0 => id.to_string(),
        1 => id.to_string().to_uppercase(),
        2 => id.simple().to_string(),
        3 => id.urn().to_string(),
        _ => id.braced().to_string(),
    }
}

#[test]
fn every_batch_is_answered_whole_in_order_and_once() {
    let batches = prop::collection::vec((0..30usize, 0..5u8), 1..60);
    check(300, &batches, &async |stage: &Stage, picks| {
        let id = |nth: usize| stage.ids.get(nth).copied().unwrap_or_else(|| Uuid::from_u128(nth as u128));
        let spellings: Vec<_> = picks.iter().map(|(nth, how)| spelled(id(*nth), *how)).collect();
        let body = json!({ "action": "process_customer_batch", "input": { "customer_ids": spellings, "tenant_id": "acme42" } });
        let output = stage.service.post(body).await.output();

        let mut seen = BTreeSet::new();
        let asked: Vec<_> = picks.iter().map(|(nth, _)| id(*nth)).filter(|id| seen.insert(*id)).collect();
        let (there, absent): (Vec<Uuid>, Vec<Uuid>) = asked.into_iter().partition(|id| stage.ids.contains(id));
        assert_eq!(ids_of(&output["customers"]), there);
        assert_eq!(ids_of(&output["missing"]), absent);
        assert_eq!(output["count"], there.len());
        assert!(stage.database.audit_count().await > 0);
    });
}
