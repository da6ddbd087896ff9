//! How long webhooks take is told to Cognigy, in the background: whatever becomes of Cognigy, no caller notices. Contract,
//! section 8.

mod outages;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Answer, COGNIGY_PASSWORD, COGNIGY_USER, Cognigy, Database, Push, Route, SECRET, Service, Setup, Upstream, jwt, scratch_file, send,
    unix_now, wait_until,
};

const ECHO: &str = "/webhooks/echo";
const FORWARD: &str = "/webhooks/forward";
const OK: (&str, &str) = ("success", "false");
const REPLAYED: (&str, &str) = ("success", "true");
const FAILED: (&str, &str) = ("error", "false");

/// A service that tells a Cognigy about its two webhook routes, the work of one of which is done by an upstream.
struct Stage {
    service: Service,
    cognigy: Cognigy,
    upstream: Upstream,
    database: Database,
}

impl Stage {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With these settings, each without the `CXDA_` before it.
    async fn with(settings: &[(&str, &str)]) -> Self {
        let (database, cognigy, upstream) = (Database::new().await, Cognigy::start(), Upstream::start());
        let routes = [Route::new(ECHO), Route::new(FORWARD).forward(&upstream)];
        let setup = Setup::on(&database).webhooks(&routes).cognigy(&cognigy);
        let set = |setup: Setup, (name, value): &(&str, &str)| setup.set(&format!("CXDA_{name}"), *value);
        let service = settings.iter().fold(setup, set).start().await;
        Self { service, cognigy, upstream, database }
    }

    /// One that has logged in already.
    async fn logged_in(settings: &[(&str, &str)]) -> Self {
        let stage = Self::with(settings).await;
        stage.webhooks(1).await;
        stage.sent(1).await;
        stage
    }

    /// So many webhooks, each the first of its key.
    async fn webhooks(&self, n: usize) {
        for _ in 0..n {
            let reply = self.service.webhook(ECHO, &Uuid::new_v4().to_string(), "{}").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }

    async fn counted(&self, result: &str) -> u64 {
        self.service.metrics().await.count("cognigy_metrics_total", &[("result", result)])
    }

    /// Waits until so many data have arrived.
    async fn sent(&self, n: u64) {
        wait_until(&format!("{n} data have arrived"), async || (self.counted("sent").await >= n).then_some(())).await;
    }

    /// Everything has arrived, so many data, and none was given up.
    async fn all_sent(&self, n: u64) {
        self.sent(n).await;
        let results = [self.counted("sent").await, self.counted("dropped").await, self.counted("refused").await];
        assert_eq!(results, [n, 0, 0], "sent, dropped and refused");
    }
}

/// What was measured, in milliseconds.
fn value(push: &Push) -> f64 {
    push.datum["value"].as_f64().unwrap_or_else(|| panic!("no value in {}", push.datum))
}

#[tokio::test]
async fn a_datum_is_what_the_webhook_took_in_exactly_the_documented_shape() {
    let stage = Stage::new().await;
    stage.upstream.answer(Answer::default().after(Duration::from_millis(300)));
    let began = Instant::now();
    assert_eq!(stage.service.webhook(FORWARD, "k", "{}").await.status, 200);
    let took = began.elapsed().as_secs_f64() * 1e3;
    let [push] = &stage.cognigy.has(1).await[..] else { panic!("one datum") };
    let value = value(push);
    assert!((300.0..=took).contains(&value), "{value} ms, where the caller waited for {took} ms");
    let expected = json!({ "metricName": "webhook_latency_ms", "value": value, "tags": { "status": "success", "cache_hit": "false" } });
    assert_eq!(push.datum, expected);
    assert_eq!((push.token.as_str(), push.content_type.as_str()), ("token-1", "application/json"));
}

#[tokio::test]
async fn every_webhook_is_one_datum_whatever_became_of_it() {
    let mut stage = Stage::new().await;
    let mut expected = Vec::new();
    // What each webhook was answered, and the tags of its datum. The next one is not sent before that is there.
    let mut told = async |stage: &Stage, status: u16, wanted: u16, tags: (&'static str, &'static str)| {
        assert_eq!(status, wanted);
        expected.push(tags);
        let pushes = stage.cognigy.has(expected.len()).await;
        assert_eq!(pushes.iter().map(Push::tags).collect::<Vec<_>>(), expected, "after a {status}");
    };
    for (key, body, status, tags) in [
        ("k", "{}", 200, OK),
        ("k", "{}", 200, REPLAYED),
        ("k", r#"{"other":1}"#, 422, FAILED),
        ("no key", "{}", 400, FAILED),
        ("not-json", "{", 400, FAILED),
    ] {
        told(&stage, stage.service.webhook(ECHO, key, body).await.status, status, tags).await;
    }
    told(&stage, stage.service.post_to(ECHO, &[], "{}").await.status, 401, FAILED).await;
    told(&stage, stage.service.post_to(ECHO, &[("X-Cognigy-Signature", "00")], "{}").await.status, 401, FAILED).await;
    told(&stage, stage.service.webhook(ECHO, "long", vec![b' '; 65_537]).await.status, 413, FAILED).await;

    for (status, first, second) in [(302, OK, OK), (404, FAILED, ("error", "true")), (503, FAILED, FAILED)] {
        stage.upstream.answer(Answer::new(status));
        for tags in [first, second] {
            told(&stage, stage.service.webhook(FORWARD, &status.to_string(), "{}").await.status, status, tags).await;
        }
    }
    stage.upstream.stop().await;
    told(&stage, stage.service.webhook(FORWARD, "refused", "{}").await.status, 502, FAILED).await;
    stage.upstream.start_again();

    stage.upstream.answer(Answer::default());
    stage.upstream.hold();
    let before = stage.upstream.started();
    let first = tokio::spawn(send(stage.service.hook(FORWARD, "twins", "{}")));
    stage.upstream.has_started(before + 1).await;
    told(&stage, stage.service.webhook(FORWARD, "twins", "{}").await.status, 409, FAILED).await;
    stage.upstream.release();
    told(&stage, first.await.unwrap().status, 200, OK).await;

    let n = expected.len();
    stage.all_sent(n as u64).await;
    assert_eq!(stage.cognigy.pushes().len(), n);
}

#[tokio::test]
async fn only_webhooks_are_told_of() {
    let stage = Stage::new().await;
    let id = stage.database.customer("acme42", "Ann").await;
    for _ in 0..2 {
        assert_eq!(stage.service.lookup("acme42", &[id]).await.names(), ["Ann"]);
    }
    stage.service.post("{}").await.errors();
    stage.service.webhook("/webhooks/other", "k", "{}").await.problem(404, "not_found");
    assert_eq!(stage.service.ready().await.status, 200);
    assert_eq!(stage.service.metrics().await.count("cognigy_metrics_queued", &[]), 0);
    stage.webhooks(1).await;
    stage.all_sent(1).await;
    assert_eq!(stage.cognigy.pushes().len(), 1);
}

#[tokio::test]
async fn without_the_setting_nobody_is_told() {
    let database = Database::new().await;
    let service = Setup::on(&database).webhooks(&[Route::new(ECHO)]).start().await;
    assert_eq!(service.webhook(ECHO, "k", "{}").await.status, 200);
    let metrics = service.metrics().await;
    for name in ["cxone_dataaction_circuit_state", "outbound_requests_total"] {
        let dependencies = metrics.values_of(name, "dependency");
        assert!(dependencies.iter().all(|dependency| !dependency.contains("cognigy")), "{name}: {dependencies:?}");
    }
    let results = ["sent", "dropped", "refused"].map(|result| metrics.count("cognigy_metrics_total", &[("result", result)]));
    assert_eq!(results, [0, 0, 0]);
    let gone = service.stop().await;
    assert!(!gone.printed().to_lowercase().contains("cognigy"), "{}", gone.printed());
}

#[tokio::test]
async fn nothing_is_served_with_half_of_the_settings() {
    let (base_url, http) = (("BASE_URL", "https://cognigy.example"), ("BASE_URL", "http://cognigy.example"));
    let (username, password) = (("USERNAME", "ann"), ("PASSWORD", COGNIGY_PASSWORD));
    let file = scratch_file(COGNIGY_PASSWORD);
    let password_file = ("PASSWORD_FILE", file.to_str().unwrap());
    for (members, wrong) in [
        (&[http, username, password][..], &["BASE_URL"][..]),
        (&[base_url, password], &["USERNAME"]),
        (&[base_url, username], &["PASSWORD"]),
        (&[("QUEUE", "5")], &["BASE_URL", "USERNAME", "PASSWORD"]),
        (&[base_url, username, password, password_file], &["PASSWORD"]),
    ] {
        let setup = Setup::bare().set("DATABASE_URL", "postgresql://service@db.example/crm").set("CXDA_SIGNING__SECRET", SECRET);
        let set = |setup: Setup, (name, value): &(&str, &str)| setup.set(&format!("CXDA_COGNIGY__METRICS__{name}"), *value);
        let outcome = members.iter().fold(setup, set).refused().await;
        assert_eq!(outcome.code, Some(78), "{members:?}: {}", outcome.printed());
        for member in wrong {
            let told = outcome.printed().contains(&format!("(CXDA_COGNIGY__METRICS__{member})"));
            assert!(told, "{member} is not named in {}", outcome.printed());
        }
        assert!(!outcome.printed().contains(COGNIGY_PASSWORD), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn one_login_serves_many() {
    let stage = Stage::new().await;
    let hooks = (0..100).map(|nth| send(stage.service.hook(ECHO, &nth.to_string(), "{}")));
    assert!(join_all(hooks).await.iter().all(|reply| reply.status == 200));
    stage.all_sent(100).await;
    stage.webhooks(1).await;
    stage.all_sent(101).await;
    let pushes = stage.cognigy.pushes();
    assert_eq!(pushes.len(), 101);
    assert!(pushes.iter().all(|push| push.token == "token-1"), "{pushes:?}");
    let [login] = &stage.cognigy.logins()[..] else { panic!("one login: {:?}", stage.cognigy.logins()) };
    assert_eq!(login.header("content-type"), Some("application/json"));
    assert_eq!(login.header("authorization"), None);
    let said: Value = serde_json::from_slice(&login.body).unwrap();
    assert_eq!(said, json!({ "username": COGNIGY_USER, "password": COGNIGY_PASSWORD }));
}

#[tokio::test]
async fn both_endpoints_are_where_the_settings_say() {
    let stage = Stage::with(&[("COGNIGY__METRICS__LOGIN_PATH", "/in/here"), ("COGNIGY__METRICS__METRICS_PATH", "/v9/data")]).await;
    stage.webhooks(1).await;
    stage.all_sent(1).await;
    let paths: Vec<_> = stage.cognigy.upstream.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/in/here", "/v9/data"]);
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once_by_all_who_used_it() {
    let stage = Stage::logged_in(&[]).await;
    let cognigy = &stage.cognigy;
    cognigy.upstream.hold();
    cognigy.upstream.answer(Cognigy::token("token-2"));
    for _ in 0..8 {
        cognigy.upstream.answer_once(Answer::new(401));
    }
    stage.webhooks(20).await;
    cognigy.has(1 + 8).await;
    stage.service.metrics().await;
    assert_eq!(cognigy.pushes().len(), 1 + 8, "calls at a time");
    cognigy.upstream.release();
    stage.all_sent(1 + 20).await;
    assert_eq!(cognigy.logins().len(), 2);
    let pushes = cognigy.pushes();
    let tokens: Vec<_> = pushes.iter().map(|push| push.token.as_str()).collect();
    assert_eq!(tokens, [["token-1"; 9].as_slice(), &["token-2"; 20]].concat());
    for refused in &pushes[1..9] {
        assert!(pushes[9..].iter().any(|push| push.datum == refused.datum), "{} was not sent again", refused.datum);
    }
}

/// The tokens of a datum at once, and of another one three and a half seconds later, where the first login answered that.
async fn tokens(first: impl FnOnce() -> Answer) -> [String; 2] {
    let stage = Stage::new().await;
    stage.cognigy.upstream.answer(Cognigy::token("later"));
    stage.cognigy.upstream.answer_once(first());
    let began = Instant::now();
    stage.webhooks(1).await;
    stage.sent(1).await;
    tokio::time::sleep(Duration::from_millis(3500).saturating_sub(began.elapsed())).await;
    stage.webhooks(1).await;
    stage.all_sent(2).await;
    let tokens: Vec<_> = stage.cognigy.pushes().into_iter().map(|push| push.token).collect();
    tokens.try_into().expect("two data")
}

#[tokio::test]
async fn a_token_is_used_for_as_long_as_it_says() {
    let later = "later".to_owned();
    let soon = || jwt(&json!({ "sub": "metrics", "exp": unix_now() + 3 }));
    let endless = jwt(&json!({ "sub": "metrics" }));
    let (by_answer, by_claim, by_both, by_nothing, by_claims) = tokio::join!(
        tokens(|| Cognigy::token_for("three-seconds", 3)),
        tokens(|| Cognigy::token(&soon())),
        tokens(|| Cognigy::token_for(&soon(), 3600)),
        tokens(|| Cognigy::token("opaque.token")),
        tokens(|| Cognigy::token(&endless)),
    );
    assert_eq!(by_answer, ["three-seconds".to_owned(), later.clone()]);
    assert!(by_claim[0].starts_with("ey") && by_claim[1] == later, "{by_claim:?}");
    assert_eq!(by_both[0], by_both[1], "what the answer says goes before the claim");
    assert_eq!(by_nothing, ["opaque.token".to_owned(), "opaque.token".to_owned()]);
    assert_eq!(by_claims, [endless.clone(), endless]);
}
