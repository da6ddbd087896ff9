//! A webhook whose work is a data action: the route's own key, caller, store and times, and the same promises.

use serde_json::json;

use super::stage::has_records;
use crate::support::{ACTION, Answer, Database, Genesys, Redis, Route, Service, Setup, send};

const STORES: [&str; 3] = ["memory", "redis", "postgres"];

/// A service with a route of that action for each store.
struct Stage {
    service: Service,
    genesys: Genesys,
    /// Holds up what the service needs.
    _stores: (Database, Redis),
}

fn path(store: &str) -> String {
    format!("/webhooks/{store}")
}

impl Stage {
    async fn new() -> Self {
        let (database, redis, genesys) = (Database::new().await, Redis::start().await, Genesys::start());
        let action = format!("{{ genesys = {{ action_id = '{ACTION}' }} }}");
        let routes = STORES.map(|store| Route::new(&path(store)).store(store).set("action", &action));
        let setup = Setup::on(&database).redis(&redis).webhooks(&routes).genesys(&genesys).member("DEADLINE", "2s");
        let service = setup.member("STORE", "memory").start().await;
        Self { service, genesys, _stores: (database, redis) }
    }
}

#[tokio::test]
async fn its_body_is_the_input_and_its_answer_is_passed_on_and_replayed() {
    let stage = Stage::new().await;
    let body = "{ \"dialogId\" : \"d\",\r\n\"x\":1.0 }\n";
    for (at, store) in STORES.into_iter().enumerate() {
        let answer = Answer::new(201).header("Content-Type", "application/vnd.x+json").header("ININ-Correlation-Id", "c-1");
        stage.genesys.api.answer(answer.header("Set-Cookie", "s=1"));
        let first = stage.service.webhook(&path(store), "k", body).await;
        assert_eq!((first.status, first.replayed()), (201, false), "{store}: {}", first.text());
        let call = stage.genesys.api.requests().pop().unwrap();
        assert_eq!(call.path, format!("/api/v2/integrations/actions/{ACTION}/execute"));
        assert_eq!((call.body.as_slice(), call.header("content-type")), (body.as_bytes(), Some("application/json")));
        assert_eq!(call.header("authorization"), Some("Bearer token-1"));
        let again = stage.service.webhook(&path(store), "k", r#"{"x":1,"dialogId":"d"}"#).await;
        assert_eq!((again.status, again.replayed(), &again.body), (201, true, &first.body), "{store}");
        for reply in [first, again] {
            let seen = ["content-type", "inin-correlation-id", "set-cookie"].map(|name| reply.header(name));
            assert_eq!(seen, [Some("application/vnd.x+json"), Some("c-1"), None], "{store}");
        }
        stage.service.webhook(&path(store), "k", "{}").await.problem(422, "idempotency_key_reused");
        assert_eq!(stage.genesys.asked(), (at + 1, 1), "{store}");
    }
}

#[tokio::test]
async fn what_is_not_flat_is_refused_and_not_called() {
    let stage = Stage::new().await;
    for (body, error) in [(r#"{"inputs":{}}"#, ("/inputs", "not_scalar")), ("[]", ("", "not_an_object"))] {
        let errors = stage.service.webhook(&path("memory"), "k", body).await.errors();
        assert_eq!(errors, [(error.0.to_owned(), error.1.to_owned())], "{body}");
    }
    stage.service.webhook(&path("memory"), "k", "{").await.problem(400, "invalid_json");
    // The second of a name must not hide the first.
    for twice in [r#"{"a":{"x":1},"a":1}"#, r#"{"a":1,"a":1}"#] {
        assert_eq!(stage.service.webhook(&path("memory"), "k", twice).await.pointers(), ["/a"], "{twice}");
    }
    stage.service.post_to(&path("memory"), &[], "{}").await.problem(401, "missing_signature");
    assert_eq!(stage.genesys.asked(), (0, 0));
}

#[tokio::test]
async fn what_may_have_been_executed_is_not_executed_again() {
    let stage = Stage::new().await;
    for (at, store) in STORES.into_iter().enumerate() {
        for (key, answer) in [("cut", Answer::cut()), ("torn", Answer::default().torn()), ("slow", Answer::default().stalled())] {
            stage.genesys.api.answer_once(answer);
            for _ in 0..3 {
                stage.service.webhook(&path(store), key, "{}").await.is_unknown();
            }
            stage.service.webhook(&path(store), key, r#"{"other":1}"#).await.problem(422, "idempotency_key_reused");
        }
        assert_eq!(stage.genesys.api.started(), 3 * (at + 1), "{store}");
        has_records(&stage.service, &path(store), [("leased", 0), ("done", 0), ("unknown", 3)]).await;
        let labels = [("route", path(store)), ("outcome", "unknown".to_owned())];
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(stage.service.metrics().await.count("idempotency_requests_total", &labels), 6, "{store}");
    }
    let warned = stage.service.log().into_iter().filter(|line| line["level"] == "WARN" && line["key"].is_string());
    assert_eq!(warned.map(|line| line["route"].clone()).filter(|route| *route == json!(path("redis"))).count(), 3);
}

#[tokio::test]
async fn what_was_not_executed_is_told_as_on_the_route_of_actions_and_leaves_the_key_free() {
    let stage = Stage::new().await;
    for store in STORES {
        for (status, code) in [(500, 502), (302, 502), (503, 502), (429, 503)] {
            stage.genesys.api.answer_once(Answer::new(status).header("Retry-After", "300"));
            let reply = stage.service.webhook(&path(store), "k", "{}").await;
            reply.problem(code, "upstream_failed");
            assert_eq!(reply.header("retry-after").is_some(), code == 503, "{store} {status}");
        }
        let reply = stage.service.webhook(&path(store), "k", "{}").await;
        assert_eq!((reply.status, reply.replayed()), (200, false), "{store}");
    }
    assert_eq!(stage.genesys.api.started(), 5 * STORES.len());
}

#[tokio::test]
async fn it_shares_its_token_and_its_rate_with_the_route_of_actions_but_not_its_keys() {
    let (database, genesys) = (Database::new().await, Genesys::start());
    let action = format!("{{ genesys = {{ action_id = '{ACTION}' }} }}");
    let setup = Setup::on(&database).webhooks(&[Route::new("/webhooks/x").set("action", &action)]).genesys(&genesys);
    let members = [("STORE", "memory"), ("RATE_PER_MINUTE", "2"), ("DEADLINE", "2s")];
    let service = setup.members(&members).start().await;
    assert!(!service.webhook("/webhooks/x", "k", "{}").await.replayed());
    let other = send(service.keyed("k", "{}")).await;
    assert_eq!((other.status, other.replayed(), genesys.asked()), (200, false, (2, 1)));
    service.webhook("/webhooks/x", "k2", "{}").await.problem(429, "rate_limited");
    service.execute_as("k2", "{}").await.problem(429, "rate_limited");
}
