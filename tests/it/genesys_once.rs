//! An action is executed once: a key has its answer, or it is told that nobody knows, and in neither case is Genesys called
//! again. Contract, sections 7 and 8.

mod crashes;
mod stage;
mod webhook;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::{
    ACTION, Answer, Database, EXECUTE, Genesys, Reply, SECRET, Scene, Service, Setup, send, sign_with, tally, wait_until,
};
use stage::{Stage, has_records, outcomes};

fn body(n: usize) -> String {
    format!(r#"{{"n":{n}}}"#)
}

/// Begins an execution, and waits until it has been called for.
async fn begun(stage: &Stage, service: &Service, key: &str) -> tokio::task::JoinHandle<Reply> {
    let before = stage.genesys.api.started();
    let call = tokio::spawn(send(service.keyed(key, "{}")));
    stage.genesys.api.has_started(before + 1).await;
    call
}

async fn everybody_after_the_first_gets_its_answer_byte_for_byte(store: &'static str) {
    let stage = Stage::new(store).await;
    let service = stage.service(&[]).await;
    let other = if store == "memory" { None } else { Some(stage.service(&[]).await) };
    let binary = b"\x00\xff\xfe {\"a\": 1 }\r\n\r\n".to_vec();
    for (n, status) in [200, 201, 204, 404].into_iter().enumerate() {
        let answer = Answer::new(status).header("Content-Type", "application/vnd.x+json").header("ININ-Correlation-Id", "c-1");
        stage.genesys.api.answer(answer.header("Set-Cookie", "s=1").body(binary.clone()));
        let first = service.execute_as(&status.to_string(), "{}").await;
        assert_eq!((first.status, first.replayed(), first.body == binary), (status, false, status != 204), "{}", first.text());
        stage.genesys.api.answer(Answer::default());
        for service in [&service, other.as_ref().unwrap_or(&service)] {
            let again = send(service.keyed(&status.to_string(), "{}").header("X-Request-Id", "call-7")).await;
            assert_eq!((again.status, again.replayed(), &again.body), (status, true, &first.body));
            for name in ["content-type", "inin-correlation-id", "set-cookie"] {
                assert_eq!(again.header(name), first.header(name), "{name}");
            }
            assert_eq!((again.header("inin-correlation-id"), again.request_id().as_str()), (Some("c-1"), "call-7"));
        }
        assert_eq!(stage.genesys.api.started(), n + 1);
    }
}

async fn a_twin_of_a_call_under_way_is_told_to_come_again(store: &'static str) {
    let stage = Stage::new(store).await;
    let service = stage.service(&[]).await;
    stage.genesys.api.hold();
    let first = begun(&stage, &service, "k").await;
    let twin = service.execute_as("k", "{}").await;
    assert_eq!(twin.problem(409, "in_flight")["retryable"], true);
    assert!(twin.header("retry-after").is_some());
    service.execute_as("k", r#"{"other":1}"#).await.problem(422, "idempotency_key_reused");
    has_records(&service, EXECUTE, [("leased", 1), ("done", 0), ("unknown", 0)]).await;
    stage.genesys.api.release();
    let first = first.await.unwrap();
    assert_eq!((first.status, first.replayed()), (200, false));
    let later = service.execute_as("k", "{}").await;
    assert_eq!((later.replayed(), later.body), (true, first.body));
    assert_eq!(stage.genesys.api.started(), 1);
    has_records(&service, EXECUTE, [("leased", 0), ("done", 1), ("unknown", 0)]).await;
}

async fn twins_that_wait_all_get_the_answer_of_the_one_call(store: &'static str) {
    let stage = Stage::new(store).await;
    let members = [("WAIT", "30s")];
    let services = [stage.service(&members).await, stage.service(&members).await];
    let services = if store == "memory" { [&services[0]; 2] } else { services.each_ref() };
    stage.genesys.api.hold();
    let twins: Vec<_> = (0..40).map(|at| tokio::spawn(send(services[at % 2].keyed("k", "{}")))).collect();
    stage.genesys.api.has_started(1).await;
    let late = tokio::spawn(send(services[1].keyed("k", "{}")));
    stage.genesys.api.release();
    let replies: Vec<_> = join_all(twins.into_iter().chain([late])).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(tally(replies.iter().map(|reply| (reply.status, reply.replayed()))), [((200, false), 1), ((200, true), 40)].into());
    assert_eq!(replies.iter().map(|reply| &reply.body).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(stage.genesys.api.started(), 1);
}

async fn what_was_not_executed_leaves_its_key_free(store: &'static str) {
    let mut stage = Stage::new(store).await;
    let service = stage.service(&[("DEADLINE", "2s")]).await;
    for status in [500, 302, 429, 503, 403, 408, 409, 425] {
        for _ in 0..2 {
            let before = stage.genesys.api.started();
            stage.genesys.api.answer_once(Answer::new(status).header("Retry-After", "300"));
            let reply = service.execute_as("k", "{}").await;
            assert!(reply.status >= 400 && !reply.replayed(), "{status}: {}", reply.text());
            assert_eq!(stage.genesys.api.started(), before + 1, "{status}");
        }
    }
    stage.genesys.api.stop().await;
    service.execute_as("k", "{}").await.is_failed();
    stage.genesys.api.start_again();
    has_records(&service, EXECUTE, [("leased", 0), ("done", 0), ("unknown", 0)]).await;
    wait_until("the breaker is closed", async || (service.execute_as("other", "{}").await.status == 200).then_some(())).await;
    stage.is_executed(&service, "k").await;
    assert!(service.execute_as("k", "{}").await.replayed());
    assert_eq!(outcomes(&service, "unknown").await, 0);
}

/// The first of its key that got no answer, and what everybody after it is told.
async fn is_held(stage: &Stage, service: &Service, key: &str, answer: Answer) {
    let before = stage.genesys.api.started();
    stage.genesys.api.answer_once(answer.clone());
    service.execute_as(key, "{}").await.is_unknown();
    assert_eq!(stage.genesys.api.started(), before + 1, "{answer:?}");
    for _ in 0..3 {
        let began = Instant::now();
        service.execute_as(key, "{}").await.is_unknown();
        assert!(began.elapsed() < Duration::from_secs(1), "at once, not after {:?}", began.elapsed());
    }
    service.execute_as(key, r#"{"other":1}"#).await.problem(422, "idempotency_key_reused");
    assert_eq!(stage.genesys.api.started(), before + 1, "{answer:?} is not asked for again");
}

async fn a_call_whose_answer_is_lost_is_never_made_again(store: &'static str) {
    let stage = Stage::new(store).await;
    let service = stage.service(&[("DEADLINE", "2s")]).await;
    stage.is_executed(&service, "first").await;
    let too_long = vec![b' '; (1 << 20) + 1];
    let answers = [
        Answer::cut(),
        Answer::default().torn(),
        Answer::new(202).body(vec![b'x'; 100_000]).torn(),
        Answer::default().stalled(),
        Answer::default().after(Duration::from_secs(4)),
        Answer::new(200).body(&too_long[..]),
        Answer::new(200).body(&too_long[..]).chunked(),
    ];
    let n = answers.len();
    for (at, answer) in answers.into_iter().enumerate() {
        is_held(&stage, &service, &format!("k{at}"), answer).await;
    }
    has_records(&service, EXECUTE, [("leased", 0), ("done", 1), ("unknown", n as u64)]).await;
    assert_eq!(outcomes(&service, "unknown").await, 3 * n as u64);
    assert_eq!(outcomes(&service, "mismatch").await, n as u64);
    let calls = service.metrics().await.count("outbound_requests_total", &[("dependency", "genesys")]);
    assert_eq!(calls, 1 + n as u64, "each call is counted once");
    assert!(service.outbound("genesys", "lost").await >= 2, "those of which not even the head came are lost");
    stage.is_executed(&service, "last").await;
}

async fn a_hundred_lost_answers_are_a_hundred_calls_whoever_asks_again(store: &'static str) {
    const KEYS: usize = 100;
    let stage = Stage::new(store).await;
    let service = stage.service(&[("RATE_PER_MINUTE", "100000")]).await;
    let all = async |service: &Service| join_all((0..KEYS).map(|n| service.execute(body(n)))).await;
    // Over connections that have served before, too.
    let warm = join_all((KEYS..KEYS + 20).map(|n| service.execute(body(n)))).await;
    assert!(warm.iter().all(|reply| reply.status == 200));
    let other = if store == "memory" { None } else { Some(stage.service(&[]).await) };
    stage.genesys.api.answer(Answer::cut());
    for service in [Some(&service), Some(&service), other.as_ref()].into_iter().flatten() {
        all(service).await.iter().for_each(|reply| drop(reply.is_unknown()));
        assert_eq!(stage.genesys.api.started(), KEYS + 20);
    }
    let each = tally(stage.genesys.api.requests().into_iter().map(|call| call.body));
    assert_eq!((each.len(), each.values().max()), (KEYS + 20, Some(&1)));
    // By one that has had nothing to do: a count that had to wait is not made again soon.
    let idle = if store == "memory" { None } else { Some(stage.service(&[]).await) };
    let records = [("leased", 0), ("done", 20), ("unknown", KEYS as u64)];
    has_records(idle.as_ref().unwrap_or(&service), EXECUTE, records).await;
    assert_eq!((outcomes(&service, "first").await, outcomes(&service, "unknown").await), (KEYS as u64 + 20, KEYS as u64));
    let warnings: Vec<_> = service.log().into_iter().filter(|line| line["level"] == "WARN" && line["key"].is_string()).collect();
    let keys: BTreeSet<_> = warnings.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!((warnings.len(), keys.len()), (KEYS, KEYS), "one warning each");
    assert!(keys.iter().all(|key| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit())), "{keys:?}");
    assert!(warnings.iter().all(|line| line["route"] == EXECUTE), "{warnings:?}");
}

async fn an_unknown_outcome_is_held_until_keep_is_over(store: &'static str) {
    let stage = Stage::new(store).await;
    let service = stage.service(&[("DEADLINE", "500ms"), ("LEASE", "1s"), ("KEEP", "3s")]).await;
    stage.genesys.api.answer_once(Answer::cut());
    let began = Instant::now();
    service.execute_as("k", "{}").await.is_unknown();
    let again = wait_until("it is executed again", async || {
        let reply = service.execute_as("k", "{}").await;
        if reply.status != 200 {
            reply.is_unknown();
        }
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert!(began.elapsed() >= Duration::from_secs(3), "forgotten after {:?}", began.elapsed());
    assert_eq!((again.replayed(), stage.genesys.api.started()), (false, 2));
    has_records(&service, EXECUTE, [("leased", 0), ("done", 0), ("unknown", 0)]).await;
}

async fn a_caller_that_hangs_up_changes_nothing(store: &'static str) {
    let stage = Stage::new(store).await;
    let service = stage.service(&[]).await;
    stage.genesys.api.hold();
    let gone = service.open(ACTION, "{}").await;
    stage.genesys.api.has_started(1).await;
    gone.reset(&service).await;
    service.execute("{}").await.problem(409, "in_flight");
    stage.genesys.api.release();
    let reply = wait_until("it is answered", async || Some(service.execute("{}").await).filter(|reply| reply.status != 409)).await;
    assert_eq!((reply.status, reply.replayed(), stage.genesys.api.started()), (200, true, 1));
}

/// Each of many keys is asked for until it is settled, by two instances, while Genesys does whatever it does at its worst.
async fn is_executed_at_most_once(store: &'static str) {
    const KEYS: usize = 60;
    // How each call is answered, and whether it may have been executed.
    let fates = [
        (Answer::default(), true),
        (Answer::new(429), false),
        (Answer::cut(), true),
        (Answer::new(503).header("Retry-After", "0"), false),
        (Answer::default().torn(), true),
        (Answer::new(401), false),
        (Answer::new(500), false),
        (Answer::default().after(Duration::from_millis(100)), true),
        (Answer::new(429).header("Retry-After", "60"), false),
    ];
    let stage = Stage::new(store).await;
    let members = [("RATE_PER_MINUTE", "100000"), ("MAX_IN_FLIGHT", "8")];
    let services = [stage.service(&members).await, stage.service(&members).await];
    let script: Vec<_> = std::iter::repeat_with(|| fates[fastrand::usize(..fates.len())].clone()).take(40 * KEYS).collect();
    for (answer, _) in &script {
        stage.genesys.api.answer_once(answer.clone());
    }
    let settled = async |n: usize| {
        wait_until("the key is settled", async || {
            let reply = services[fastrand::usize(..2)].execute(body(n)).await;
            let unknown = reply.status == 502 && reply.json()["code"] == "unknown_outcome";
            (reply.status == 200 || unknown).then_some(reply.status)
        })
        .await
    };
    // Two callers a key.
    let ends = tally(join_all((0..2 * KEYS).map(|n| settled(n % KEYS))).await);
    assert_eq!(ends.keys().collect::<Vec<_>>(), [&200, &502], "some of either kind");
    let calls = stage.genesys.api.requests();
    assert!(calls.len() < script.len(), "the script was long enough");
    let executed = tally(calls.iter().zip(&script).filter(|(_, (_, executed))| *executed).map(|(call, _)| &call.body));
    assert_eq!((executed.len(), executed.values().max()), (KEYS, Some(&1)), "{executed:?}");
}

macro_rules! with_each_store {
    ($($promise:ident)*) => {
        mod memory { $(#[tokio::test] async fn $promise() { super::$promise("memory").await; })* }
        mod redis { $(#[tokio::test] async fn $promise() { super::$promise("redis").await; })* }
        mod postgres { $(#[tokio::test] async fn $promise() { super::$promise("postgres").await; })* }
    };
}

with_each_store! {
    everybody_after_the_first_gets_its_answer_byte_for_byte
    a_twin_of_a_call_under_way_is_told_to_come_again
    twins_that_wait_all_get_the_answer_of_the_one_call
    what_was_not_executed_leaves_its_key_free
    a_call_whose_answer_is_lost_is_never_made_again
    a_hundred_lost_answers_are_a_hundred_calls_whoever_asks_again
    an_unknown_outcome_is_held_until_keep_is_over
    a_caller_that_hangs_up_changes_nothing
}

#[tokio::test]
async fn whatever_genesys_does_no_key_is_executed_twice() {
    tokio::join!(is_executed_at_most_once("redis"), is_executed_at_most_once("postgres"));
}

#[tokio::test]
async fn without_a_key_of_the_callers_own_the_same_input_is_the_same_work() {
    let scene = Scene::new().await;
    for same in [r#"{"a":1,"b":"é"}"#, r#"{"b":"é","a":1}"#, "\t{ \"b\" : \"\\u00e9\",\r\n\"a\":1.0e0 } "] {
        assert_eq!(scene.service.execute(same).await.status, 200);
    }
    assert_eq!(String::from_utf8(scene.genesys.api.request().body).unwrap(), r#"{"a":1,"b":"é"}"#);
    for other in [r#"{"a":1,"b":"e"}"#, r#"{"a":"1","b":"é"}"#, r#"{"a":1}"#, "{}", r#"{"a":null}"#] {
        scene.is_executed(other).await;
    }
    for action in ["another", "a%2Fnother"] {
        let before = scene.genesys.api.started();
        let reply = send(scene.service.action(action, "{}")).await;
        assert_eq!((reply.status, reply.replayed(), scene.genesys.api.started()), (200, false, before + 1), "{action}");
    }
}

#[tokio::test]
async fn a_key_of_the_callers_own_is_one_input_of_one_action() {
    let scene = Scene::new().await;
    let first = scene.service.execute_as("k", r#"{"a":1,"b":2}"#).await;
    assert_eq!((first.status, first.replayed()), (200, false));
    let same = scene.service.execute_as("k", r#"{ "b":2.0, "a":1 }"#).await;
    assert_eq!((same.replayed(), same.body), (true, first.body));
    for (action, other) in [(ACTION, r#"{"a":1,"b":3}"#), (ACTION, "{}"), ("another", r#"{"a":1,"b":2}"#)] {
        let reply = send(scene.service.action(action, other).header("Idempotency-Key", "k")).await;
        assert_eq!(reply.problem(422, "idempotency_key_reused")["retryable"], false, "{action} {other}");
    }
    assert_eq!(scene.genesys.api.started(), 1);
    // Each of these is another piece of work, though the input is the same.
    for key in ["K", "k2", "0", &"k".repeat(255), "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"] {
        let reply = scene.service.execute_as(key, r#"{"a":1,"b":2}"#).await;
        assert_eq!((reply.status, reply.replayed()), (200, false), "{key}: {}", reply.text());
    }
    scene.is_executed(r#"{"a":1,"b":2}"#).await;
    assert_eq!(scene.genesys.api.started(), 7);
}

#[tokio::test]
async fn an_ill_formed_key_is_refused() {
    let scene = Scene::new().await;
    for key in [&b""[..], b"a b", b"a\tb", b"\xc3\xa9", &[b'k'; 256]] {
        let reply = send(scene.service.action(ACTION, "{}").header("Idempotency-Key", key)).await;
        assert_eq!((reply.status, &reply.json()["retryable"]), (400, &false.into()), "{}: {}", String::from_utf8_lossy(key), reply.text());
    }
    let twice = scene.service.keyed("k", "{}").header("Idempotency-Key", "k");
    assert_eq!(send(twice).await.status, 400);
    assert_eq!(scene.genesys.asked(), (0, 0));
}

#[tokio::test]
async fn callers_and_environments_never_meet() {
    const OTHER: &str = "the secret of another, at least 32 bytes long";
    let (database, genesys) = (Database::new().await, Genesys::start());
    let keys = format!("[[signing.keys]]\nid = 'one'\nsecret = '{SECRET}'\n[[signing.keys]]\nid = 'two'\nsecret = '{OTHER}'\n");
    // What keys are hashed with is the same for all, so that nothing but their scope tells them apart.
    let setup = Setup::bare().set("DATABASE_URL", &database.url).file(&keys).genesys(&genesys).member("STORE", "postgres");
    let setup = setup.set("CXDA_IDEMPOTENCY__SECRET", "what keys are hashed with, 32 bytes or more");
    let environment = |name: &str| setup.clone().member("ENVIRONMENT", name).start();
    let services = [environment("prod").await, environment("test").await, setup.clone().start().await];
    for key in [Some("k"), None] {
        let before = genesys.api.started();
        let mut seen = Vec::new();
        for (service, name) in services.iter().zip(["prod", "test", "prod"]) {
            for secret in [SECRET, OTHER] {
                let signature = sign_with(secret, "{}");
                let headers: Vec<_> =
                    [("X-CXone-Signature", signature.as_str())].into_iter().chain(key.map(|key| ("Idempotency-Key", key))).collect();
                let reply = service.post_to(&EXECUTE.replace("{action_id}", ACTION), &headers, "{}").await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert_eq!(reply.replayed(), seen.contains(&(name, secret)), "{name} {key:?}");
                seen.push((name, secret));
            }
        }
        assert_eq!(genesys.api.started(), before + 4);
    }
}

#[tokio::test]
async fn a_definite_answer_is_kept_and_no_other() {
    let scene = Scene::with(&[("RATE_PER_MINUTE", "100000")]).await;
    for (statuses, is_kept) in
        [(&[200, 201, 202, 204, 206, 400, 402, 404, 405, 410, 412, 418, 422, 451][..], true), (&[401, 403, 408, 409, 425][..], false)]
    {
        for status in statuses {
            scene.genesys.api.answer(Answer::new(*status));
            let key = status.to_string();
            let replies = [scene.service.execute_as(&key, "{}").await, scene.service.execute_as(&key, "{}").await];
            let seen = replies.each_ref().map(|reply| (reply.status, reply.replayed()));
            assert_eq!(seen, [(*status, false), (*status, is_kept)], "{}", replies[1].text());
            assert!(replies[0].body == replies[1].body || !is_kept, "{status}");
        }
    }
}
