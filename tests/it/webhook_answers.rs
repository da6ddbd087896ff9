//! What a webhook gets: the first of its key, its twins, and everybody after it. Contract, section 7.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    Answer, Database, KEY_HEADER, Redis, Reply, Route, Service, Setup, Upstream, ids_of, request, send, settings_file, sign_with, tally,
    wait_until,
};

const STORES: [&str; 3] = ["memory", "redis", "postgres"];
const SHARED: [&str; 2] = ["redis", "postgres"];
const REQUESTS: &str = "idempotency_requests_total";
const RECORDS: &str = "idempotency_records";

/// A service with a route for each store, the work of all done by one upstream.
struct Stage {
    service: Service,
    upstream: Upstream,
    redis: Redis,
    database: Database,
    routes: Vec<Route>,
}

fn path(store: &str) -> String {
    format!("/webhooks/{store}")
}

impl Stage {
    async fn new() -> Self {
        Self::with(|route, _| route).await
    }

    async fn with(change: impl Fn(Route, &Upstream) -> Route) -> Self {
        let (database, redis, upstream) = (Database::new().await, Redis::start().await, Upstream::start());
        let routes: Vec<_> =
            STORES.iter().map(|store| change(Route::new(&path(store)).store(store).forward(&upstream), &upstream)).collect();
        let service = Setup::on(&database).redis(&redis).webhooks(&routes).start().await;
        Self { service, upstream, redis, database, routes }
    }

    /// Another instance on the same stores.
    async fn another_service(&self) -> Service {
        Setup::on(&self.database).redis(&self.redis).webhooks(&self.routes).start().await
    }

    async fn post(&self, store: &str, key: &str, body: &str) -> Reply {
        self.service.webhook(&path(store), key, body).await
    }

    /// Begins a webhook, and waits until its work is under way.
    async fn begun(&self, store: &str, key: &str, body: &str) -> tokio::task::JoinHandle<Reply> {
        let before = self.upstream.started();
        let call = tokio::spawn(send(self.service.hook(&path(store), key, body.to_owned())));
        self.upstream.has_started(before + 1).await;
        call
    }

    /// A webhook that is run, whatever became of earlier ones with its key.
    async fn is_run(&self, store: &str, key: &str) -> Reply {
        let before = self.upstream.started();
        let reply = self.post(store, key, "{}").await;
        assert_eq!((reply.replayed(), self.upstream.started()), (false, before + 1), "{store} {key}: {}", reply.text());
        reply
    }
}

#[tokio::test]
async fn everybody_after_the_first_gets_its_answer_byte_for_byte() {
    let stage = Stage::new().await;
    let other = stage.another_service().await;
    let binary = b"\x00\xff\xfe {\"a\": 1 }\r\n\r\n".to_vec();
    let odd = Answer::new(201).header("Content-Type", "application/vnd.x+json; charset=\"utf-8\"").header("Set-Cookie", "s=1");
    for store in STORES {
        stage.upstream.answer(odd.clone().body(binary.clone()));
        let first = stage.post(store, "k", "{}").await;
        assert_eq!((first.status, first.replayed(), &first.body), (201, false, &binary), "{store}");
        assert_eq!(first.header("content-type"), Some("application/vnd.x+json; charset=\"utf-8\""));
        assert_eq!(first.header("set-cookie"), None, "no other header is passed on");
        stage.upstream.answer(Answer::default());
        for service in if SHARED.contains(&store) { vec![&stage.service, &other] } else { vec![&stage.service; 2] } {
            let again = send(service.hook(&path(store), "k", "{}").header("X-Request-Id", "call-7")).await;
            assert_eq!((again.status, again.replayed(), &again.body), (201, true, &first.body), "{store}");
            assert_eq!(again.header("content-type"), first.header("content-type"), "{store}");
            assert_eq!(again.request_id(), "call-7", "the answer is old, the request is not");
        }
    }
    assert_eq!(stage.upstream.started(), 3);
}

#[tokio::test]
async fn another_payload_under_the_same_key_is_told_so() {
    let stage = Stage::new().await;
    for store in STORES {
        let before = stage.upstream.started();
        let first = stage.post(store, "k", r#"{"a":1,"b":2}"#).await;
        for other in [r#"{"a":1,"b":3}"#, r#"{"a":1}"#, "{}", "", "x"] {
            let reply = stage.post(store, "k", other).await;
            assert_eq!(reply.problem(422, "idempotency_key_reused")["retryable"], false);
            assert!(!reply.replayed());
        }
        // The same payload in other words.
        let same = stage.post(store, "k", r#"{ "b":2.0, "a":1 }"#).await;
        assert_eq!((same.status, same.replayed(), same.body), (200, true, first.body), "{store}");
        assert_eq!(stage.upstream.started(), before + 1, "{store}");
    }
}

#[tokio::test]
async fn a_twin_of_work_under_way_is_told_to_come_again() {
    let stage = Stage::new().await;
    for store in STORES {
        stage.upstream.hold();
        let first = stage.begun(store, "k", "{}").await;
        let twin = stage.post(store, "k", "{}").await;
        assert_eq!(twin.problem(409, "in_flight")["retryable"], true, "{store}");
        assert!(twin.header("retry-after").is_some(), "{store}");
        stage.post(store, "k", r#"{"other":1}"#).await.problem(422, "idempotency_key_reused");
        stage.upstream.release();
        let first = first.await.unwrap();
        assert_eq!((first.status, first.replayed()), (200, false), "{store}");
        let later = stage.post(store, "k", "{}").await;
        assert_eq!((later.replayed(), later.body), (true, first.body), "{store}");
    }
    assert_eq!(stage.upstream.completed(), 3);
}

#[tokio::test]
async fn twins_that_wait_all_get_the_answer_of_the_one_that_ran() {
    let stage = Stage::with(|route, _| route.wait("30s")).await;
    let other = stage.another_service().await;
    for store in STORES {
        let before = stage.upstream.started();
        stage.upstream.hold();
        let services = if SHARED.contains(&store) { [&stage.service, &other] } else { [&stage.service; 2] };
        let twins: Vec<_> = (0..40).map(|at| tokio::spawn(send(services[at % 2].hook(&path(store), "k", "{}")))).collect();
        stage.upstream.has_started(before + 1).await;
        let late = tokio::spawn(send(services[1].hook(&path(store), "k", "{}")));
        stage.upstream.release();
        let replies: Vec<_> = join_all(twins.into_iter().chain([late])).await.into_iter().map(Result::unwrap).collect();
        let replayed = tally(replies.iter().map(|reply| (reply.status, reply.replayed())));
        assert_eq!(replayed, [((200, false), 1), ((200, true), 40)].into(), "{store}");
        assert_eq!(replies.iter().map(|reply| &reply.body).collect::<BTreeSet<_>>().len(), 1, "{store}");
        assert_eq!(stage.upstream.started(), before + 1, "{store}");
    }
}

#[tokio::test]
async fn a_wait_ends_with_the_answer_that_there_is_none_yet() {
    let stage = Stage::with(|route, _| route.wait("300ms")).await;
    for store in STORES {
        stage.upstream.hold();
        let first = stage.begun(store, "k", "{}").await;
        let began = Instant::now();
        stage.post(store, "k", "{}").await.problem(409, "in_flight");
        assert!(began.elapsed() >= Duration::from_millis(290), "{store}: after {:?}", began.elapsed());
        stage.upstream.release();
        assert_eq!(first.await.unwrap().status, 200, "{store}");
    }
}

#[tokio::test]
async fn a_twin_whose_first_one_fails_runs_the_work_itself() {
    let stage = Stage::with(|route, _| route.wait("30s")).await;
    let other = stage.another_service().await;
    for store in STORES {
        let before = stage.upstream.started();
        stage.upstream.hold();
        stage.upstream.answer_once(Answer::new(503));
        let first = stage.begun(store, "k", "{}").await;
        let service = if SHARED.contains(&store) { &other } else { &stage.service };
        let twin = tokio::spawn(send(service.hook(&path(store), "k", "{}")));
        stage.upstream.release();
        let (first, twin) = (first.await.unwrap(), twin.await.unwrap());
        assert_eq!([first.status, twin.status], [503, 200], "{store}: {}", twin.text());
        assert_eq!((first.replayed(), twin.replayed()), (false, false), "{store}");
        assert_eq!(stage.upstream.started(), before + 2, "{store}");
    }
}

#[tokio::test]
async fn a_definite_answer_is_kept_and_no_other() {
    let stage = Stage::new().await;
    let kept = [200, 201, 202, 204, 400, 402, 404, 405, 410, 418, 422];
    let passed_on = [401, 403, 408, 409, 425, 429, 500, 501, 502, 503, 504, 302, 303, 307, 308];
    for (statuses, is_kept) in [(&kept[..], true), (&passed_on[..], false)] {
        for status in statuses {
            let key = status.to_string();
            stage.upstream.answer(Answer::new(*status).header("Location", "/elsewhere"));
            let replies = [stage.is_run("memory", &key).await, stage.post("memory", &key, "{}").await];
            for reply in &replies {
                assert_eq!(reply.status, *status, "{}", reply.text());
                assert_eq!(reply.header("content-type"), Some("application/json"), "{status}: the upstream's own words");
            }
            assert_eq!((replies[1].replayed(), replies[0].body == replies[1].body), (is_kept, is_kept), "{status}");
        }
    }
    assert_eq!(stage.upstream.started(), kept.len() + 2 * passed_on.len());
    assert!(stage.upstream.requests().iter().all(|request| request.path == "/hook"), "no redirect is followed");
}

#[tokio::test]
async fn a_failure_frees_its_key_in_every_store() {
    let stage = Stage::new().await;
    for store in STORES {
        for status in [500, 429] {
            stage.upstream.answer_once(Answer::new(status));
            assert_eq!(stage.is_run(store, "k").await.status, status, "{store}");
        }
        assert_eq!(stage.is_run(store, "k").await.status, 200, "{store}");
        assert!(stage.post(store, "k", "{}").await.replayed(), "{store}");
    }
    let keys: BTreeSet<_> = stage.upstream.requests().iter().map(|request| request.key().to_owned()).collect();
    assert_eq!(keys.len(), 3, "all runs of a key name the same one to the upstream");
}

#[tokio::test]
async fn an_answer_is_kept_for_as_long_as_the_route_says() {
    let stage = Stage::with(|route, _| route.keep("1s")).await;
    for store in STORES {
        let (before, began) = (stage.upstream.started(), Instant::now());
        let first = stage.is_run(store, "k").await;
        let second = wait_until("the work is run again", async || {
            let reply = stage.post(store, "k", "{}").await;
            assert_eq!(reply.status, 200, "{store}: {}", reply.text());
            (!reply.replayed()).then_some(reply)
        })
        .await;
        assert!(began.elapsed() >= Duration::from_secs(1), "{store}: forgotten after {:?}", began.elapsed());
        assert_ne!(first.body, second.body, "{store}");
        assert_eq!(stage.upstream.started(), before + 2, "{store}");
    }
}

#[tokio::test]
async fn an_upstream_sees_the_body_its_type_a_key_and_an_id_and_nothing_else_of_the_caller() {
    let stage = Stage::new().await;
    let body = b"{ \"dialogId\" : \"d\",\r\n\"x\":1.0 }\n".to_vec();
    let hook = stage.service.hook(&path("memory"), "corr-1", body.clone()).header("Content-Type", "text/json; charset=utf-8");
    let secrets = [("Authorization", "Bearer x"), ("Cookie", "s=1"), ("X-Tenant", "acme42"), ("Idempotency-Key", "mine"), ("Via", "1.1 x")];
    let reply = send(secrets.iter().fold(hook, |hook, (name, value)| hook.header(*name, *value))).await;
    let seen = stage.upstream.request();
    assert_eq!((seen.path.as_str(), &seen.body), ("/hook", &body));
    assert_eq!(seen.header("content-type"), Some("text/json; charset=utf-8"));
    assert_eq!(seen.header("x-request-id"), Some(&*reply.request_id()));
    assert!(seen.key().len() == 64 && seen.key().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{}", seen.key());
    let harmless = ["host", "accept", "accept-encoding", "user-agent", "content-length", "traceparent"];
    let named: Vec<_> = ["content-type", "x-request-id", "idempotency-key"].into_iter().chain(harmless).collect();
    let more: Vec<_> = seen.headers.iter().filter(|(name, _)| !named.contains(&name.as_str())).collect();
    assert!(more.is_empty(), "{more:?}");
}

#[tokio::test]
async fn an_upstream_that_fails_is_told_from_one_that_is_slow_and_either_frees_the_key() {
    let mut stage = Stage::new().await;
    let too_long = vec![b' '; 512 * 1024 + 1];
    let fits = Answer::new(200).body(&too_long[1..]);
    let broken =
        [Answer::cut(), Answer::default().torn(), Answer::new(200).body(too_long.clone()), Answer::new(200).body(too_long).chunked()];
    for store in STORES {
        stage.upstream.stop().await;
        stage.post(store, "refused", "{}").await.problem(502, "upstream_failed");
        stage.upstream.start_again();
        assert_eq!(stage.is_run(store, "refused").await.status, 200, "{store}");
        for (at, answer) in broken.iter().enumerate() {
            stage.upstream.answer(answer.clone());
            stage.post(store, &at.to_string(), "{}").await.problem(502, "upstream_failed");
            stage.upstream.answer(fits.clone());
            assert_eq!(stage.is_run(store, &at.to_string()).await.body.len(), 512 * 1024, "{store}");
            assert_eq!(stage.post(store, &at.to_string(), "{}").await.body.len(), 512 * 1024, "{store}");
        }
    }
    let slow = Stage::with(|route, upstream| route.forward_to(&upstream.url(), "300ms")).await;
    for store in STORES {
        slow.upstream.hold();
        slow.post(store, "slow", "{}").await.problem(504, "upstream_timeout");
        slow.upstream.release();
        let reply =
            wait_until("the key is free", async || Some(slow.post(store, "slow", "{}").await).filter(|reply| reply.status == 200)).await;
        assert!(!reply.replayed(), "{store}");
    }
}

#[tokio::test]
async fn a_store_that_is_down_lets_no_work_run_and_no_lookup_fail() {
    let mut stage = Stage::new().await;
    let id = stage.database.customer("acme42", "Ann").await;
    stage.is_run("redis", "before").await;
    stage.redis.kill();
    for key in ["before", "during"] {
        let reply = stage.post("redis", key, "{}").await;
        assert_eq!(reply.problem(503, "store_unavailable")["retryable"], true);
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(stage.upstream.started(), 1);
    assert_eq!(stage.service.lookup("acme42", &[id]).await.names(), ["Ann"]);
    for store in ["memory", "postgres"] {
        assert_eq!(stage.is_run(store, "during").await.status, 200, "{store}");
    }
    let counted = stage.service.metrics().await.count(REQUESTS, &[("route", &path("redis")), ("outcome", "store_down")]);
    assert_eq!(counted, 2);
    stage.redis.start_again().await;
    wait_until("the store is back", async || (stage.post("redis", "during", "{}").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_claim_whose_outcome_nobody_heard_holds_up_nobody() {
    let stage = Stage::with(|route, _| route.lease("1h")).await;
    stage.is_run("redis", "before").await;
    stage.redis.freeze();
    stage.post("redis", "k", "{}").await.problem(503, "store_unavailable");
    stage.redis.thaw();
    wait_until("the key is free", async || (stage.post("redis", "k", "{}").await.status == 200).then_some(())).await;
    assert_eq!(stage.upstream.started(), 2);
}

#[tokio::test]
async fn a_twin_whose_patience_ends_while_it_asks_leaves_no_lease_behind() {
    let stage = Stage::with(|route, _| route.wait("5s").lease("1h")).await;
    let patient = Setup::on(&stage.database).redis(&stage.redis).set("CXDA_IDEMPOTENCY__TIMEOUT", "8s");
    let other = patient.webhooks(&stage.routes).start().await;
    stage.upstream.hold();
    stage.upstream.answer_once(Answer::new(503));
    let first = stage.begun("redis", "k", "{}").await;
    let twin = tokio::spawn(send(other.hook(&path("redis"), "k", "{}")));
    let looks = async || stage.redis.run::<redis::InfoDict>(&["INFO", "commandstats"]).await.get::<String>("cmdstat_evalsha");
    let looks = async || looks().await.and_then(|stats| stats.strip_prefix("calls=")?.split(',').next()?.parse::<u32>().ok());
    // By then the twin pauses between two looks for long enough to miss what comes now.
    wait_until("the twin has looked six times", async || looks().await.filter(|looks| *looks >= 7)).await;
    stage.upstream.release();
    assert_eq!(first.await.unwrap().status, 503);
    stage.redis.freeze();
    let twin = twin.await.unwrap();
    stage.redis.thaw();
    assert!([200, 409, 503].contains(&twin.status), "{}", twin.text());
    wait_until("the key is free", async || (stage.post("redis", "k", "{}").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn past_the_work_in_flight_there_is_an_honest_503_and_no_key_is_taken() {
    let (database, upstream) = (Database::new().await, Upstream::start());
    let setup = Setup::on(&database).set("CXDA_HTTP__MAX_IN_FLIGHT", "2");
    let service = setup.webhooks(&[Route::new("/webhooks/x").forward(&upstream)]).start().await;
    upstream.hold();
    let under_way = ["a", "b"].map(|key| tokio::spawn(send(service.hook("/webhooks/x", key, "{}"))));
    upstream.has_started(2).await;
    assert!(service.webhook("/webhooks/x", "c", "{}").await.problem(503, "overloaded")["retry_after_ms"].is_u64());
    upstream.release();
    join_all(under_way).await;
    assert!(!service.webhook("/webhooks/x", "c", "{}").await.replayed());
    assert_eq!(upstream.completed(), 3);
}

#[tokio::test]
async fn outcomes_and_records_are_counted_by_route() {
    let stage = Stage::new().await;
    for store in STORES {
        stage.is_run(store, "k").await;
        for body in ["{}", "{}", "[]"] {
            stage.post(store, "k", body).await;
        }
        stage.upstream.hold();
        let second = stage.begun(store, "held", "{}").await;
        stage.post(store, "held", "{}").await.problem(409, "in_flight");
        let route = path(store);
        let records = async |state: &str| stage.service.metrics().await.count(RECORDS, &[("route", &route), ("state", state)]);
        let are = async |leased, done| {
            wait_until(&format!("{store} holds {leased} leased and {done} done"), async || {
                ((records("leased").await, records("done").await) == (leased, done)).then_some(())
            })
            .await;
        };
        are(1, 1).await;
        stage.upstream.release();
        second.await.unwrap();
        are(0, 2).await;
        let metrics = stage.service.metrics().await;
        for (outcome, times) in [("first", 2), ("replayed", 2), ("mismatch", 1), ("in_flight", 1), ("store_down", 0)] {
            assert_eq!(metrics.count(REQUESTS, &[("route", &route), ("outcome", outcome)]), times, "{store} {outcome}");
        }
        assert_eq!((metrics.kind(REQUESTS), metrics.kind(RECORDS)), (Some("counter"), Some("gauge")));
    }
}

#[tokio::test]
async fn a_lookup_is_answered_as_on_its_own_route_and_audited_once() {
    let database = Database::new().await;
    let route = Route::new(&path("postgres")).store("postgres").set("action", "{ lookup = {} }");
    let service = Setup::on(&database).webhooks(&[route]).start().await;
    let ids = [database.customer("acme42", "Ann").await, Uuid::new_v4()];
    let body = request("acme42", &ids).to_string();
    let first = service.webhook(&path("postgres"), "k", body.clone()).await;
    let row = database.audit_row(&first.request_id()).await;
    assert_eq!((row.action.as_str(), row.tenant_id.as_str(), &row.customer_ids[..]), ("process_customer_batch", "acme42", &ids[..]));
    assert_eq!(ids_of(&first.output()["missing"]), ids[1..]);
    assert_eq!((first.cache(), first.replayed()), ("miss", false));
    assert_eq!(first.json(), service.lookup("acme42", &ids).await.json());
    assert_eq!(database.audit_count().await, 2);
    for _ in 0..3 {
        let again = service.webhook(&path("postgres"), "k", body.clone()).await;
        assert_eq!((again.status, again.replayed(), again.cache(), &again.body), (200, true, "miss", &first.body));
    }
    assert_eq!(database.audit_count().await, 2);
}

#[tokio::test]
async fn a_lookup_that_is_refused_is_not_kept() {
    const ACME: &str = "the secret of one tenant, 32 bytes long.";
    let database = Database::new().await;
    let keys = format!("[[signing.keys]]\nid = \"acme\"\nsecret = \"{ACME}\"\ntenants = [\"acme42\"]\n");
    let by_key = Route::new("/webhooks/key").set("auth", "{ hmac = {} }").set("action", "{ lookup = {} }");
    let by_route = Route::new("/webhooks/route").set("action", "{ lookup = { tenants = ['acme42'] } }");
    let file = format!("{}{keys}", settings_file(&[by_key, by_route]));
    let service = Setup::bare().set("DATABASE_URL", &database.url).file(&file).start().await;
    let signed = async |path: &str, body: &str| {
        let secret = if path == "/webhooks/key" { ACME } else { crate::support::ROUTE_SECRET };
        service.post_to(path, &[("X-Cognigy-Signature", &sign_with(secret, body)), (KEY_HEADER, "k")], body).await
    };
    let good = request("acme42", &[Uuid::from_u128(7)]).to_string();
    for path in ["/webhooks/key", "/webhooks/route"] {
        signed(path, "{").await.problem(400, "invalid_json");
        signed(path, "{}").await.errors();
        signed(path, &good.replace("process_customer_batch", "another")).await.problem(400, "unknown_action");
        signed(path, &good.replace("acme42", "globex")).await.problem(403, "tenant_not_allowed");
        let first = signed(path, &good).await;
        assert_eq!((first.status, first.replayed()), (200, false), "{path}: {}", first.text());
    }
    assert_eq!(database.audit_count().await, 2);
}

#[tokio::test]
async fn an_echo_gives_the_payload_back() {
    let database = Database::new().await;
    let service = Setup::on(&database).webhooks(&[Route::new("/webhooks/echo")]).start().await;
    let bodies = [json!({ "a": [1, 2.5, null, "é"] }), json!([]), json!("text"), json!(7), json!(null)];
    for (at, body) in bodies.iter().enumerate() {
        let reply = service.webhook("/webhooks/echo", &at.to_string(), body.to_string()).await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "processed", "payload": body })));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let again = service.webhook("/webhooks/echo", &at.to_string(), body.to_string()).await;
        assert_eq!((again.replayed(), again.body), (true, reply.body));
    }
    for body in ["", "{", "a=1"] {
        service.webhook("/webhooks/echo", &format!("bad{}", body.len()), body).await.problem(400, "invalid_json");
    }
}
