//! One defect after the other, each found by the check that is there for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::double::{Call, Defect};
use super::problem;
use super::stage::{Stage, check};
use crate::support::{Answer, KEY_HEADER, ROUTE_SECRET, Reply, sign_with};

/// The platform, the check, and what is wrong.
type Case = (&'static str, &'static str, &'static str, Defect);

#[tokio::test]
async fn each_defect_is_found_by_the_check_that_is_there_for_it() {
    let stage = Stage::new().await;
    // So slow that deliveries meet.
    stage.upstream.answer(Answer::new(200).after(Duration::from_millis(100)));
    for (platform, name, wrong, defect) in all() {
        stage.double.spoil(defect);
        let tool = stage.simulate(&stage.double.url, platform).args(&["--only", name, "--json"]);
        // Only one of them is about time; the others are not to depend on this machine's.
        let within = if wrong == SLOW { "100ms" } else { "30s" };
        let first_only = name == "reachable";
        let foreign = ["--foreign-tenant", "foreign1"];
        let tool = if first_only { stage.simulate(&stage.double.url, platform).arg("--json") } else { tool };
        let outcome = tool.args(&["--within", within]).args(&foreign).run().await;
        assert_eq!(outcome.code, Some(1), "{platform}, {name}: {wrong}: {}", outcome.printed());
        let report: Value = serde_json::from_str(&outcome.stdout).expect("a report");
        let found = check(&report, name);
        assert_eq!(found["result"], "failed", "{wrong}: {report}");
        assert!(["expected", "came"].iter().all(|said| !found[said].as_str().unwrap().is_empty()), "{found}");
    }
}

const SLOW: &str = "answers are late";

pub(super) fn all() -> Vec<Case> {
    [of_lookups(), of_refusals(), of_amounts(), of_platforms(), of_webhooks()].into_iter().flatten().collect()
}

fn of_lookups() -> Vec<Case> {
    let nth = AtomicUsize::new(0);
    vec![
        ("cxone", "reachable", "another place is named", Defect::answer(|_| true, || moved("/data-action/"))),
        ("cxone", "lookup", "customers are in another order", Defect::output(|output| customers(output).reverse())),
        ("cxone", "lookup", "one customer is left out", Defect::output(without_last)),
        ("cxone", "lookup", "a customer has no name", Defect::output(|output| drop(object(&mut output["customers"][0]).remove("name")))),
        ("cxone", "lookup", "nothing is null", Defect::output(|output| output["customers"][0]["attributes"] = Value::Null)),
        ("cxone", "lookup", "a list is null", Defect::output(|output| output["next_ids"] = Value::Null)),
        ("cxone", "lookup", "a list is left out", Defect::output(|output| drop(object(output).remove("missing")))),
        ("cxone", "lookup", "the count is wrong", Defect::output(|output| output["count"] = json!(7))),
        ("cxone", "lookup", "the content type is wrong", Defect::status(200, |reply| set(reply, "content-type", "text/html"))),
        ("genesys", "lookup", "ids with commas are refused", Defect::answer(|call| !call.has("customer_ids\":["), invalid_input)),
        ("cxone", "missing", "the missing are not named", Defect::output(|output| output["missing"] = json!([]))),
        ("cognigy", "missing", "one unknown id is a failure", Defect::status(200, |reply| *reply = problem(404, "not_found", &[]))),
        ("cxone", "in-time", SLOW, Defect::slow(Duration::from_millis(150))),
        ("cxone", "in-time", "answers are too long", Defect::output(|output| output["padding"] = json!("x".repeat(40_000)))),
        ("cognigy", "content-type", "plain text is refused", Defect::answer(|call| call.header("content-type").is_none(), invalid_input)),
        ("cxone", "request-id", "there is none", Defect::after(|reply| drop(reply.headers.remove("x-request-id")))),
        ("cxone", "request-id", "it is always the same", Defect::after(|reply| set(reply, "x-request-id", "1"))),
        ("genesys", "correlation-id", "the caller's is ignored", Defect::request(|call| drop(call.headers.remove("inin-correlation-id")))),
        ("cxone", "correlation-id", "the caller's is ignored", Defect::after(|reply| set(reply, "x-request-id", "another"))),
        (
            "cxone",
            "repeat",
            "each answer is another",
            Defect::output(move |output| output["nth"] = json!(nth.fetch_add(1, Ordering::Relaxed))),
        ),
        ("cxone", "ping", "all is not well", Defect::answer(|call| call.has("\"ping\""), || ok(&json!({ "output": { "status": "bad" } })))),
    ]
}

fn of_refusals() -> Vec<Case> {
    vec![
        (
            "cxone",
            "unsigned",
            "no signature is needed",
            Defect::request(|call| {
                if call.header("x-cxone-signature").is_none() {
                    call.sign();
                }
            }),
        ),
        ("cxone", "wrong-signature", "any signature is taken", Defect::request(Call::sign)),
        ("cxone", "foreign-tenant", "the tenant is ignored", Defect::request(|call| call.replace("foreign1", "acme42"))),
        ("cxone", "not-json", "it is a defect of the service", Defect::status(400, |reply| *reply = problem(500, "internal", &[]))),
        ("cxone", "not-json", "it is told to people", Defect::status(400, |reply| set(reply, "content-type", "text/html"))),
        ("cxone", "invalid-input", "it is called otherwise", Defect::json(400, |problem| problem["code"] = json!("bad_request"))),
        ("cxone", "unknown-action", "it is done anyway", Defect::request(|call| call.replace("no_such_action", "process_customer_batch"))),
        ("cxone", "unknown-action", "the document has another id", Defect::json(400, |problem| problem["request_id"] = json!("another"))),
        ("cxone", "unknown-action", "the document has another status", Defect::json(400, |problem| problem["status"] = json!(500))),
        ("genesys", "too-many", "all are looked up", Defect::status(400, |reply| *reply = nobody_found())),
    ]
}

fn of_amounts() -> Vec<Case> {
    let (nth, broken) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    vec![
        ("cxone", "full-batch", "the cap is ignored", Defect::output(|output| output["padding"] = json!("x".repeat(32_768)))),
        ("genesys", "full-batch", "the cap is ignored", Defect::output(|output| output["padding"] = json!("x".repeat(262_144)))),
        ("cognigy", "full-batch", "the cap is ignored", Defect::output(|output| output["padding"] = json!("x".repeat(524_288)))),
        ("cxone", "full-batch", "one is forgotten", Defect::output(without_last)),
        ("cxone", "full-batch", "one comes twice", Defect::output(|output| output["customers"][1] = output["customers"][0].clone())),
        ("cxone", "full-batch", "some are there for none", Defect::output(|output| output["missing"][0] = output["missing"][1].clone())),
        ("cxone", "full-batch", "all are for the next call, each time", Defect::output(put_off)),
        (
            "cxone",
            "burst",
            "it breaks down",
            Defect::answer(move |_| nth.fetch_add(1, Ordering::Relaxed) > 20, || problem(500, "internal", &[])),
        ),
        ("cxone", "burst", "nobody is told when to come again", Defect::every_other_time(|| problem(503, "overloaded", &[]))),
        ("genesys", "burst", "nobody is let in", Defect::answer(|_| true, || problem(429, "rate_limited", &[("retry-after", "1")]))),
        ("cxone", "burst", "answers are mixed up", Defect::output(|output| output["missing"] = json!([uuid::Uuid::new_v4()]))),
        (
            "cxone",
            "slow-body",
            "only the first piece is read",
            Defect::answer(|call| call.pieces > 1, || problem(401, "invalid_signature", &[])),
        ),
        (
            "cxone",
            "broken-off",
            "it never recovers",
            Defect::answer(
                move |call| !call.whole && !broken.swap(true, Ordering::Relaxed) || broken.load(Ordering::Relaxed),
                || problem(500, "internal", &[]),
            ),
        ),
    ]
}

fn of_platforms() -> Vec<Case> {
    vec![
        ("cxone", "strings", "a string is no flag", Defect::answer(|call| call.has("\"true\""), invalid_input)),
        (
            "cxone",
            "reserved-name",
            "it is there",
            Defect::output(|output| output["customers"][0]["attributes"] = json!({ "a": [{ "__type": "x" }] })),
        ),
        ("genesys", "empty-optional", "the last comma is an id", Defect::answer(|call| call.has(",\",\"tenant_id"), invalid_input)),
        ("genesys", "unfilled", "nobody is found", Defect::answer(|call| call.has("${"), nobody_found)),
        (
            "genesys",
            "flat-output",
            "a customer has a list",
            Defect::output(|output| output["customers"][0]["attributes"] = json!({ "tags": ["a"] })),
        ),
        (
            "genesys",
            "flat-output",
            "it is too deep",
            Defect::output(|output| output["deep"] = (0..60).fold(json!(1), |inside, _| json!({ "in": inside }))),
        ),
        (
            "cognigy",
            "largest-request",
            "it is too long",
            Defect::answer(|call| call.body.len() > 60_000, || problem(413, "body_too_large", &[])),
        ),
    ]
}

fn of_webhooks() -> Vec<Case> {
    let nth = AtomicUsize::new(0);
    let new_key = |call: &mut Call| {
        let key = uuid::Uuid::new_v4().to_string();
        call.set(KEY_NAME, &key);
    };
    vec![
        ("cognigy", "webhook-retry", "it does not say so", Defect::after(|reply| drop(reply.headers.remove("idempotent-replayed")))),
        ("cognigy", "webhook-retry", "the work is done again", Defect::request(new_key)),
        (
            "cognigy",
            "webhook-retry",
            "the answer is another",
            Defect::after(move |reply| reply.body.extend(format!(" {}", nth.fetch_add(1, Ordering::Relaxed)).bytes())),
        ),
        ("cognigy", "webhook-twins", "each does the work", Defect::request(new_key)),
        (
            "cognigy",
            "webhook-twins",
            "they are not told when to come again",
            Defect::status(409, |reply| drop(reply.headers.remove("retry-after"))),
        ),
        ("cognigy", "webhook-reused-key", "the first answer is given", Defect::status(422, |reply| *reply = ok(&json!({ "run": 1 })))),
        (
            "cognigy",
            "webhook-no-key",
            "it is done without",
            Defect::request(move |call| {
                if call.header(KEY_HEADER).is_none() {
                    new_key(call);
                }
            }),
        ),
        (
            "cognigy",
            "webhook-unsigned",
            "it is done without",
            Defect::request(|call| {
                let signature = sign_with(ROUTE_SECRET, &call.body);
                call.set("x-cognigy-signature", &signature);
            }),
        ),
    ]
}

/// [`KEY_HEADER`], as HTTP/2 spells it.
const KEY_NAME: &str = "x-correlation-id";

fn customers(output: &mut Value) -> &mut Vec<Value> {
    output["customers"].as_array_mut().expect("a list")
}

fn object(value: &mut Value) -> &mut serde_json::Map<String, Value> {
    value.as_object_mut().expect("an object")
}

/// As if there were one fewer.
fn without_last(output: &mut Value) {
    customers(output).pop();
    output["count"] = json!(customers(output).len());
}

fn put_off(output: &mut Value) {
    let ids: Vec<_> = customers(output).drain(..).map(|customer| customer["id"].clone()).collect();
    let missing = output["missing"].as_array().expect("a list").clone();
    let everybody = [ids, missing].concat();
    *output = json!({ "customers": [], "count": 0, "missing": [], "truncated": true, "next_ids": everybody });
}

fn set(reply: &mut Reply, name: &'static str, value: &'static str) {
    reply.headers.insert(name, value.parse().expect("a value"));
}

fn invalid_input() -> Reply {
    problem(400, "invalid_input", &[])
}

fn ok(json: &Value) -> Reply {
    let mut reply = problem(200, "none", &[]);
    set(&mut reply, "content-type", "application/json");
    reply.body = json.to_string().into_bytes();
    reply
}

fn nobody_found() -> Reply {
    ok(&json!({ "output": { "customers": [], "count": 0, "missing": [], "truncated": false, "next_ids": [] } }))
}

fn moved(to: &'static str) -> Reply {
    problem(308, "moved", &[("location", to)])
}
