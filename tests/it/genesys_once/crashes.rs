//! Whatever dies, and whenever: no key's action is executed twice, and what may have been executed is not said to be free.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::begun;
use super::stage::{LONG, Stage, has_records, settled};
use crate::support::{Answer, EXECUTE, Service, Stop, send, wait_until};

/// Not renewed before a service has been killed, and over soon after.
const SHORT: &str = "6s";

async fn kill(service: Service) {
    service.signal(Signal::SIGKILL);
    service.gone().await;
}

async fn a_kill_while_the_call_is_out_leaves_its_key_in_flight_and_then_unknown(store: &'static str) {
    let stage = Stage::new(store).await;
    let (service, next) = (stage.service(&[("LEASE", SHORT)]).await, stage.service(&[]).await);
    stage.genesys.api.hold();
    let keys: Vec<_> = (0..10).map(|n| format!("k{n}")).collect();
    let calls: Vec<_> = keys.iter().map(|key| tokio::spawn(service.keyed(key, "{}").send())).collect();
    stage.genesys.api.has_started(keys.len()).await;
    kill(service).await;
    stage.genesys.api.release();
    for call in calls {
        assert!(call.await.unwrap().is_err(), "nobody was answered");
    }
    for key in &keys {
        next.execute_as(key, "{}").await.problem(409, "in_flight");
        next.execute_as(key, r#"{"other":1}"#).await.problem(422, "idempotency_key_reused");
    }
    for key in &keys {
        settled(&next, key).await.is_unknown();
        next.execute_as(key, "{}").await.is_unknown();
        next.execute_as(key, r#"{"other":1}"#).await.problem(422, "idempotency_key_reused");
    }
    assert_eq!(stage.genesys.api.started(), keys.len(), "no second call");
    has_records(&next, EXECUTE, [("leased", 0), ("done", 0), ("unknown", keys.len() as u64)]).await;
}

/// A service that is killed where the cable to its store stops, once its key is there; and what the next one says of the key.
/// Returns how often Genesys was called, and whether it is known what became of it.
async fn killed_at(store: &'static str, stop: Stop, calls_by_then: usize) -> (usize, bool) {
    let stage = Stage::new(store).await;
    let next = stage.service(&[]).await;
    let (cable, service) = stage.service_by_cable(SHORT, "20s").await;
    // From now on there is a token, and Redis knows the scripts.
    assert_eq!(service.execute_as("first", "{}").await.status, 200);
    cable.stop(stop);
    let call = tokio::spawn(service.keyed("k", "{}").send());
    cable.reached(1).await;
    if let Stop::After(3) = stop {
        wait_until("the answer is kept", async || (stage.records("done").await == 2).then_some(())).await;
    } else if let Stop::After(_) = stop {
        wait_until("the store has the key", async || (next.execute_as("k", "{}").await.status == 409).then_some(())).await;
    }
    assert_eq!(stage.genesys.api.started(), 1 + calls_by_then);
    kill(service).await;
    assert!(call.await.unwrap().is_err(), "nobody was answered");
    cable.cut();
    let reply = settled(&next, "k").await;
    let known = reply.status == 200;
    if !known {
        reply.is_unknown();
    }
    let again = next.execute_as("k", "{}").await;
    assert_eq!((again.status, again.replayed()), (reply.status, known));
    (stage.genesys.api.started() - 1, known)
}

async fn a_kill_after_the_claim_leaves_the_call_to_the_next(store: &'static str) {
    assert_eq!(killed_at(store, Stop::After(1), 0).await, (1, true));
}

async fn a_kill_before_the_intent_is_on_record_leaves_the_call_to_the_next(store: &'static str) {
    assert_eq!(killed_at(store, Stop::Before(2), 0).await, (1, true));
}

async fn a_kill_once_the_intent_is_on_record_holds_the_key_though_nothing_was_sent(store: &'static str) {
    assert_eq!(killed_at(store, Stop::After(2), 0).await, (0, false));
}

async fn a_kill_between_the_answer_and_its_record_holds_the_key(store: &'static str) {
    assert_eq!(killed_at(store, Stop::Before(3), 1).await, (1, false));
}

async fn a_kill_between_the_record_and_its_telling_leaves_the_answer_to_be_replayed(store: &'static str) {
    assert_eq!(killed_at(store, Stop::After(3), 1).await, (1, true));
}

async fn a_call_that_is_out_past_the_grace_is_unknown_at_once(store: &'static str) {
    let stage = Stage::new(store).await;
    let next = stage.service(&[]).await;
    let setup = stage.setup(&[("LEASE", LONG), ("DEADLINE", "60s")]).set("CXDA_SHUTDOWN__GRACE", "1s");
    let service = setup.start().await;
    stage.genesys.api.hold();
    let call = tokio::spawn(service.keyed("k", "{}").send());
    stage.genesys.api.has_started(1).await;
    service.signal(Signal::SIGTERM);
    let outcome = service.gone().await;
    stage.genesys.api.release();
    if let Ok(response) = call.await.unwrap() {
        crate::support::Reply::read(response).await.is_unknown();
    }
    next.execute_as("k", "{}").await.is_unknown();
    assert_eq!(stage.genesys.api.started(), 1);
    assert!(outcome.printed().contains("nobody knows"), "{}", outcome.printed());
}

async fn a_call_that_is_answered_within_the_grace_is_kept(store: &'static str) {
    let stage = Stage::new(store).await;
    let (service, next) = (stage.service(&[]).await, stage.service(&[]).await);
    stage.genesys.api.hold();
    let call = begun(&stage, &service, "k").await;
    service.is_told_to_go().await;
    stage.genesys.api.release();
    let first = call.await.unwrap();
    assert_eq!((first.status, first.replayed()), (200, false));
    assert_eq!(service.gone().await.code, Some(0));
    let again = next.execute_as("k", "{}").await;
    assert_eq!((again.replayed(), again.body, stage.genesys.api.started()), (true, first.body, 1));
}

async fn a_pause_that_outlasts_the_grace_leaves_the_call_to_the_next(store: &'static str) {
    let stage = Stage::new(store).await;
    let next = stage.service(&[]).await;
    let service = stage.setup(&[("DEADLINE", "60s")]).set("CXDA_SHUTDOWN__GRACE", "1s").start().await;
    stage.genesys.api.answer_once(Answer::new(429).header("Retry-After", "20"));
    let call = tokio::spawn(service.keyed("k", "{}").send());
    service.has_noticed("genesys", "429", 1).await;
    service.signal(Signal::SIGTERM);
    service.gone().await;
    drop(call.await.unwrap());
    assert_eq!(stage.genesys.api.started(), 1);
    // Genesys has refused it, so that the key is free.
    let reply = next.execute_as("k", "{}").await;
    assert_eq!((reply.status, reply.replayed(), stage.genesys.api.started()), (200, false, 2), "{}", reply.text());
}

async fn without_the_store_nothing_is_called(store: &'static str) {
    let mut stage = Stage::mortal(store).await;
    let service = stage.service(&[]).await;
    stage.is_executed(&service, "before").await;
    stage.lose_store().await;
    for key in ["before", "during"] {
        let reply = service.execute_as(key, "{}").await;
        assert_eq!(reply.problem(503, "store_unavailable")["retryable"], true);
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(stage.genesys.api.started(), 1);
    stage.regain_store().await;
    wait_until("the store is back", async || (service.execute_as("during", "{}").await.status == 200).then_some(())).await;
    assert_eq!(stage.genesys.api.started(), 2);
}

async fn without_the_intent_on_record_nothing_is_called(store: &'static str) {
    for stop in [Stop::Before(2), Stop::After(2)] {
        let stage = Stage::new(store).await;
        let (cable, service) = stage.service_by_cable(LONG, "1s").await;
        assert_eq!(service.execute_as("first", "{}").await.status, 200);
        cable.stop(stop);
        service.execute_as("k", "{}").await.problem(503, "store_unavailable");
        assert_eq!(stage.genesys.api.started(), 1, "{stop:?}");
        cable.cut();
        // Nothing was sent, and who knows that frees the key.
        let reply = wait_until("the key is free", async || {
            let reply = service.execute_as("k", "{}").await;
            (![409, 503].contains(&reply.status)).then_some(reply)
        })
        .await;
        assert_eq!((reply.status, reply.replayed(), stage.genesys.api.started()), (200, false, 2), "{stop:?}: {}", reply.text());
    }
}

async fn an_intent_whose_confirmation_got_lost_harms_nobody(store: &'static str) {
    let stage = Stage::new(store).await;
    let (cable, service) = stage.service_by_cable(LONG, "20s").await;
    assert_eq!(service.execute_as("first", "{}").await.status, 200);
    cable.stop(Stop::After(2));
    let call = tokio::spawn(send(service.keyed("k", "{}")));
    cable.reached(1).await;
    cable.cut();
    // Where it is tried again over a connection that was cut too, nothing is sent.
    let first = call.await.unwrap();
    if first.status != 200 {
        first.problem(503, "store_unavailable");
    }
    let again = wait_until("the key is settled", async || {
        let reply = service.execute_as("k", "{}").await;
        (![409, 503].contains(&reply.status)).then_some(reply)
    })
    .await;
    assert_eq!((again.status, stage.genesys.api.started()), (200, 2), "{}", again.text());
}

async fn what_was_answered_while_the_store_was_gone_is_kept_once_it_is_back(store: &'static str) {
    let mut stage = Stage::mortal(store).await;
    let service = stage.service(&[("LEASE", LONG)]).await;
    stage.genesys.api.hold();
    let call = begun(&stage, &service, "k").await;
    stage.lose_store().await;
    stage.genesys.api.release();
    let first = call.await.unwrap();
    assert_eq!((first.status, first.replayed()), (200, false), "{}", first.text());
    stage.regain_store().await;
    wait_until("the answer is kept", async || (stage.records("done").await == 1).then_some(())).await;
    let again = wait_until("the store is used again", async || {
        let reply = service.execute_as("k", "{}").await;
        (reply.status != 503).then_some(reply)
    })
    .await;
    assert_eq!((again.status, again.replayed(), again.body), (200, true, first.body));
    assert_eq!(stage.genesys.api.started(), 1);
}

async fn an_intent_that_the_store_has_forgotten_is_put_back_when_the_answer_is_lost(store: &'static str) {
    let stage = Stage::new(store).await;
    let service = stage.service(&[("LEASE", LONG)]).await;
    stage.genesys.api.hold();
    stage.genesys.api.answer_once(Answer::cut());
    let call = begun(&stage, &service, "k").await;
    stage.forget().await;
    stage.genesys.api.release();
    call.await.unwrap().is_unknown();
    for _ in 0..3 {
        service.execute_as("k", "{}").await.is_unknown();
    }
    assert_eq!(stage.genesys.api.started(), 1);
}

async fn an_intent_that_the_store_has_forgotten_is_put_back_while_the_call_is_out(store: &'static str) {
    let stage = Stage::new(store).await;
    let (service, next) = (stage.service(&[("LEASE", "3s")]).await, stage.service(&[]).await);
    stage.genesys.api.hold();
    let call = tokio::spawn(service.keyed("k", "{}").send());
    stage.genesys.api.has_started(1).await;
    stage.forget().await;
    wait_until("the key is there again", async || (stage.records("leased").await == 1).then_some(())).await;
    kill(service).await;
    assert!(call.await.unwrap().is_err(), "nobody was answered");
    stage.genesys.api.release();
    settled(&next, "k").await.is_unknown();
    assert_eq!(stage.genesys.api.started(), 1);
}

async fn who_has_lost_its_key_in_a_pause_makes_no_further_call(store: &'static str) {
    let stage = Stage::new(store).await;
    let (service, other) = (stage.service(&[("LEASE", LONG)]).await, stage.service(&[]).await);
    stage.genesys.api.answer_once(Answer::new(429).header("Retry-After", "3"));
    let call = tokio::spawn(send(service.keyed("k", "{}")));
    service.has_noticed("genesys", "429", 1).await;
    stage.forget().await;
    let theirs = stage.is_executed(&other, "k").await;
    let ours = call.await.unwrap();
    match ours.status {
        200 => assert_eq!((ours.replayed(), ours.body), (true, theirs.body)),
        _ => drop(ours.problem(409, "in_flight")),
    }
    assert_eq!(stage.genesys.api.started(), 2, "one of which was refused");
}

async fn who_slept_through_its_lease_still_tells_what_became_of_its_call(store: &'static str) {
    let stage = Stage::new(store).await;
    let (sleeper, other) = (stage.service(&[("LEASE", "1s"), ("DEADLINE", "60s")]).await, stage.service(&[]).await);
    stage.genesys.api.hold();
    let call = begun(&stage, &sleeper, "k").await;
    sleeper.signal(Signal::SIGSTOP);
    settled(&other, "k").await.is_unknown();
    stage.genesys.api.release();
    stage.genesys.api.has_started(1).await;
    sleeper.signal(Signal::SIGCONT);
    let first = call.await.unwrap();
    assert_eq!((first.status, first.replayed()), (200, false), "{}", first.text());
    let again = other.execute_as("k", "{}").await;
    assert_eq!((again.status, again.replayed(), again.body), (200, true, first.body));
    assert_eq!(stage.genesys.api.started(), 1);
}

async fn a_call_of_thrice_the_lease_is_made_once(store: &'static str) {
    let stage = Stage::new(store).await;
    let (service, other) = (stage.service(&[("LEASE", "1s")]).await, stage.service(&[("LEASE", "1s")]).await);
    stage.genesys.api.answer_once(Answer::default().after(Duration::from_secs(4)));
    let first = begun(&stage, &service, "k").await;
    let (began, mut told) = (Instant::now(), BTreeSet::new());
    while began.elapsed() < Duration::from_secs(3) {
        told.insert(other.execute_as("k", "{}").await.status);
    }
    assert_eq!(told, [409].into(), "in flight all the time");
    assert_eq!(first.await.unwrap().status, 200);
    assert!(other.execute_as("k", "{}").await.replayed());
    assert_eq!(stage.genesys.api.started(), 1);
}

macro_rules! with_either_store {
    ($($promise:ident)*) => {
        mod redis { $(#[tokio::test] async fn $promise() { super::$promise("redis").await; })* }
        mod postgres { $(#[tokio::test] async fn $promise() { super::$promise("postgres").await; })* }
    };
}

with_either_store! {
    a_kill_while_the_call_is_out_leaves_its_key_in_flight_and_then_unknown
    a_kill_after_the_claim_leaves_the_call_to_the_next
    a_kill_before_the_intent_is_on_record_leaves_the_call_to_the_next
    a_kill_once_the_intent_is_on_record_holds_the_key_though_nothing_was_sent
    a_kill_between_the_answer_and_its_record_holds_the_key
    a_kill_between_the_record_and_its_telling_leaves_the_answer_to_be_replayed
    a_call_that_is_out_past_the_grace_is_unknown_at_once
    a_call_that_is_answered_within_the_grace_is_kept
    a_pause_that_outlasts_the_grace_leaves_the_call_to_the_next
    without_the_store_nothing_is_called
    without_the_intent_on_record_nothing_is_called
    an_intent_whose_confirmation_got_lost_harms_nobody
    what_was_answered_while_the_store_was_gone_is_kept_once_it_is_back
    an_intent_that_the_store_has_forgotten_is_put_back_when_the_answer_is_lost
    an_intent_that_the_store_has_forgotten_is_put_back_while_the_call_is_out
    who_has_lost_its_key_in_a_pause_makes_no_further_call
    who_slept_through_its_lease_still_tells_what_became_of_its_call
    a_call_of_thrice_the_lease_is_made_once
}
