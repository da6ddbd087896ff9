//! Whatever dies, and whenever: every key gets its answer, one answer only, and its work is not done again unless the crash
//! came between the work and its record.

mod stage;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{Answer, KEY_HEADER, ROUTE_SECRET, Reply, Runs, Service, Stop, send, sign_with, wait_until};
use stage::{Fate, LONG, PATH, Point, Stage, Store, answered, body, call, keys, webhook};

/// What a 200 says.
fn said(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text()
}

async fn leases_lost(service: &Service) -> u64 {
    service.metrics().await.count("idempotency_leases_lost_total", &[("route", PATH)])
}

async fn kills(store: Store, point: Point, started: usize, completed: usize) {
    let stage = Stage::new(store).await;
    let mut service = stage.service(LONG).await;
    // From now on Redis knows the scripts.
    webhook(&service, "first").await;
    for _ in 0..3 {
        let fates;
        (service, fates) = stage.kill(service, point, &keys(10)).await;
        for Fate { answers, runs } in fates {
            assert_eq!(answers.len(), 1, "{answers:?}");
            assert_eq!(answers.first().unwrap().as_ref().map(|(status, _)| *status), Some(200), "{answers:?}");
            assert_eq!(runs, Runs { started, completed });
        }
    }
}

async fn a_kill_between_claim_and_work_leaves_the_work_to_the_next(store: Store) {
    kills(store, Point::Claimed, 1, 1).await;
}

async fn a_kill_amid_the_work_has_it_done_by_the_next(store: Store) {
    kills(store, Point::Working, 2, 1).await;
}

async fn a_kill_between_work_and_record_is_the_only_one_that_does_the_work_twice(store: Store) {
    kills(store, Point::Worked, 2, 2).await;
}

async fn a_kill_between_record_and_answer_leaves_the_answer_to_be_replayed(store: Store) {
    kills(store, Point::Stored, 1, 1).await;
}

/// A call whose connection is held until it is reset, on which an HTTP server drops the handler.
async fn call_to_be_reset(service: &Service, key: &str) -> TcpStream {
    let (body, address) = (body(key), service.url.trim_start_matches("http://"));
    let (signature, length) = (sign_with(ROUTE_SECRET, &body), body.len());
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nX-Cognigy-Signature: {signature}\r\n{KEY_HEADER}: {key}\r\nContent-Length: {length}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream
}

async fn reset(stream: TcpStream, service: &Service) {
    stream.set_zero_linger().unwrap();
    drop(stream);
    for _ in 0..20 {
        send(service.call(Method::GET, PATH)).await.problem(405, "method_not_allowed");
    }
}

async fn the_work_of_a_caller_that_resets_goes_on_and_is_stored(store: Store) {
    let stage = Stage::new(store).await;
    let service = stage.service(LONG).await;
    stage.upstream.hold();
    let stream = call_to_be_reset(&service, "k").await;
    stage.upstream.has_started(1).await;
    reset(stream, &service).await;
    webhook(&service, "k").await.problem(409, "in_flight");
    stage.upstream.release();
    stage.has("done", 1).await;
    let reply = webhook(&service, "k").await;
    assert_eq!((reply.status, reply.replayed()), (200, true));
    assert_eq!(stage.runs("k"), Runs { started: 1, completed: 1 });
}

async fn work_under_way_at_sigterm_is_finished_and_stored(store: Store) {
    let stage = Stage::new(store).await;
    let service = stage.service(LONG).await;
    stage.upstream.hold();
    let waiting = call(&service, "waited-for");
    let stream = call_to_be_reset(&service, "left-alone").await;
    stage.upstream.has_started(2).await;
    reset(stream, &service).await;
    service.signal(Signal::SIGTERM);
    let address = service.url.trim_start_matches("http://");
    wait_until("no more connections are taken", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    stage.upstream.release();
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status, reply.replayed()), (200, false));
    let outcome = service.gone().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());

    let next = stage.service(LONG).await;
    let again = webhook(&next, "waited-for").await;
    assert_eq!((again.replayed(), said(&again)), (true, said(&reply)));
    assert!(webhook(&next, "left-alone").await.replayed());
    assert_eq!(stage.upstream.started(), 2);
}

async fn past_the_grace_a_lease_is_freed_at_once(store: Store) {
    let stage = Stage::new(store).await;
    let service = stage.setup(LONG).set("CXDA_SHUTDOWN__GRACE", "1s").start().await;
    let next = stage.service(LONG).await;
    stage.upstream.hold();
    let stream = call_to_be_reset(&service, "k").await;
    stage.upstream.has_started(1).await;
    service.signal(Signal::SIGTERM);
    service.gone().await;
    drop(stream);
    stage.upstream.release();
    let reply = webhook(&next, "k").await;
    assert_eq!((reply.status, reply.replayed()), (200, false), "{}", reply.text());
    assert_eq!(stage.runs("k"), Runs { started: 2, completed: 1 });
}

/// Stops a service, which takes a moment.
async fn put_to_sleep(service: &Service) {
    service.signal(Signal::SIGSTOP);
    let silent = async || tokio::time::timeout(Duration::from_millis(300), service.ready()).await.is_err().then_some(());
    wait_until("it answers nobody", silent).await;
}

async fn who_slept_through_its_lease_gives_the_others_answer(store: Store) {
    let stage = Stage::new(store).await;
    let (sleeper, other) = (stage.service("1s").await, stage.service("1s").await);
    stage.upstream.hold();
    let first = call(&sleeper, "k");
    stage.upstream.has_started(1).await;
    put_to_sleep(&sleeper).await;
    let (twin, ()) = tokio::join!(answered(&other, "k"), async {
        stage.upstream.has_started(2).await;
        stage.upstream.release();
    });
    assert!(!twin.replayed(), "the second one did the work itself");
    sleeper.signal(Signal::SIGCONT);
    let first = first.await.unwrap();
    assert_eq!((first.replayed(), said(&first)), (true, said(&twin)));
    for service in [&sleeper, &other] {
        let again = webhook(service, "k").await;
        assert_eq!((again.replayed(), said(&again)), (true, said(&twin)));
    }
    assert_eq!((leases_lost(&sleeper).await, leases_lost(&other).await), (1, 0));
    assert_eq!(stage.upstream.started(), 2);
}

async fn who_wakes_up_while_another_is_at_work_leaves_the_answer_to_it(store: Store) {
    let stage = Stage::new(store).await;
    let (sleeper, other) = (stage.service("1s").await, stage.service("1s").await);
    stage.upstream.hold();
    let first = call(&sleeper, "k");
    stage.upstream.has_started(1).await;
    put_to_sleep(&sleeper).await;
    stage.upstream.release();
    wait_until("the work is done", async || (stage.upstream.completed() == 1).then_some(())).await;
    stage.upstream.hold();
    let (twin, ()) = tokio::join!(answered(&other, "k"), async {
        stage.upstream.has_started(2).await;
        sleeper.signal(Signal::SIGCONT);
        first.await.unwrap().problem(409, "in_flight");
        stage.upstream.release();
    });
    let again = webhook(&sleeper, "k").await;
    assert_eq!((twin.replayed(), again.replayed(), said(&again)), (false, true, said(&twin)));
    assert_eq!(leases_lost(&sleeper).await, 1);
}

async fn work_of_thrice_the_lease_runs_once(store: Store) {
    let stage = Stage::new(store).await;
    let (one, other) = (stage.service("1s").await, stage.service("1s").await);
    stage.upstream.answer(Answer::new(200).after(Duration::from_secs(3)));
    let first = call(&one, "k");
    stage.upstream.has_started(1).await;
    let mut refused = 0;
    let twin = wait_until("a twin is answered", async || {
        let reply = webhook(&other, "k").await;
        refused += usize::from(reply.status == 409);
        (reply.status != 409).then_some(reply)
    })
    .await;
    assert!(refused >= 10, "{refused}");
    assert_eq!((twin.replayed(), said(&twin)), (true, said(&first.await.unwrap())));
    assert_eq!(stage.runs("k"), Runs { started: 1, completed: 1 });
}

async fn what_was_done_while_the_store_died_is_stored_once_it_is_back(store: Store) {
    let mut stage = Stage::mortal(store).await;
    let service = stage.service(LONG).await;
    stage.upstream.hold();
    let first = call(&service, "k");
    stage.upstream.has_started(1).await;
    stage.lose_store().await;
    stage.upstream.release();
    let first = first.await.unwrap();
    assert_eq!((first.status, first.replayed()), (200, false), "{}", first.text());
    stage.regain_store().await;
    stage.has("done", 1).await;
    let replay = answered(&service, "k").await;
    assert_eq!((replay.replayed(), said(&replay)), (true, said(&first)));
    assert_eq!(stage.upstream.started(), 1);
}

async fn a_record_whose_confirmation_got_lost_counts(store: Store) {
    let stage = Stage::new(store).await;
    let service = stage.service(LONG).await;
    webhook(&service, "first").await;
    stage.upstream.hold();
    let call = call(&service, "k");
    stage.upstream.has_started(2).await;
    stage.cable.stop(Stop::After(2));
    stage.upstream.release();
    stage.has("done", 2).await;
    stage.cable.cut();
    let first = call.await.unwrap();
    let replay = webhook(&service, "k").await;
    assert_eq!((replay.replayed(), said(&replay)), (true, said(&first)));
    assert_eq!(leases_lost(&service).await, 0);
    assert_eq!(stage.runs("k"), Runs { started: 1, completed: 1 });
}

async fn a_claim_whose_confirmation_got_lost_counts(store: Store) {
    let stage = Stage::new(store).await;
    let service = stage.service(LONG).await;
    webhook(&service, "first").await;
    stage.cable.stop(Stop::After(1));
    let call = call(&service, "k");
    stage.has("leased", 1).await;
    stage.cable.cut();
    // Where it is tried again over a connection that was cut too, it is given back.
    let first = call.await.unwrap();
    if first.status != 200 {
        first.problem(503, "store_unavailable");
    }
    let again = answered(&service, "k").await;
    assert!(first.status == 503 || said(&first) == said(&again));
    assert_eq!(stage.runs("k"), Runs { started: 1, completed: 1 });
}

async fn a_claim_whose_confirmation_came_too_late_is_given_back(store: Store) {
    let stage = Stage::new(store).await;
    let service = stage.setup(LONG).set("CXDA_IDEMPOTENCY__TIMEOUT", "1s").start().await;
    webhook(&service, "first").await;
    stage.cable.stop(Stop::After(1));
    webhook(&service, "k").await.problem(503, "store_unavailable");
    stage.cable.cut();
    assert_eq!(answered(&service, "k").await.status, 200);
    assert_eq!(stage.runs("k"), Runs { started: 1, completed: 1 });
}

async fn a_lease_without_an_end_is_held(store: Store) {
    let stage = Stage::new(store).await;
    let owner = stage.service(LONG).await;
    stage.upstream.hold();
    let call = call_to_be_reset(&owner, "k").await;
    stage.upstream.has_started(1).await;
    owner.signal(Signal::SIGKILL);
    owner.gone().await;
    drop(call);
    stage.upstream.release();
    stage.change_leases(&["PERSIST"], "NULL").await;

    let next = stage.service("100ms").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        webhook(&next, "k").await.problem(409, "in_flight");
    }
    assert_eq!((stage.records("leased").await, stage.upstream.started()), (1, 1));
    stage.end_leases().await;
    assert!(!webhook(&next, "k").await.replayed());
}

macro_rules! with_either_store {
    ($($promise:ident)*) => {
        mod redis { $(#[tokio::test] async fn $promise() { super::$promise(super::Store::Redis).await; })* }
        mod postgres { $(#[tokio::test] async fn $promise() { super::$promise(super::Store::Postgres).await; })* }
    };
}

with_either_store! {
    a_kill_between_claim_and_work_leaves_the_work_to_the_next
    a_kill_amid_the_work_has_it_done_by_the_next
    a_kill_between_work_and_record_is_the_only_one_that_does_the_work_twice
    a_kill_between_record_and_answer_leaves_the_answer_to_be_replayed
    the_work_of_a_caller_that_resets_goes_on_and_is_stored
    work_under_way_at_sigterm_is_finished_and_stored
    past_the_grace_a_lease_is_freed_at_once
    who_slept_through_its_lease_gives_the_others_answer
    who_wakes_up_while_another_is_at_work_leaves_the_answer_to_it
    work_of_thrice_the_lease_runs_once
    what_was_done_while_the_store_died_is_stored_once_it_is_back
    a_record_whose_confirmation_got_lost_counts
    a_claim_whose_confirmation_got_lost_counts
    a_claim_whose_confirmation_came_too_late_is_given_back
    a_lease_without_an_end_is_held
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_gets_the_lease_again_from_its_owner() {
    let mut stage = Stage::new(Store::Redis).await;
    let (one, other) = (stage.service("1500ms").await, stage.service("1500ms").await);
    stage.upstream.hold();
    let first = call(&one, "k");
    stage.upstream.has_started(1).await;
    stage.redis.kill();
    stage.redis.start_again().await;
    stage.has("leased", 1).await;
    wait_until("the other instance is connected again", async || (webhook(&other, "k").await.status == 409).then_some(())).await;
    stage.upstream.release();
    let first = first.await.unwrap();
    assert!(!first.replayed());
    let replay = webhook(&other, "k").await;
    assert_eq!((replay.replayed(), said(&replay)), (true, said(&first)));
    assert_eq!(stage.upstream.started(), 1);
}

#[tokio::test]
async fn a_twin_that_comes_before_that_may_work_too_and_both_give_one_answer() {
    let mut stage = Stage::new(Store::Redis).await;
    let (one, other) = (stage.service(LONG).await, stage.service(LONG).await);
    stage.upstream.hold();
    let first = call(&one, "k");
    stage.upstream.has_started(1).await;
    stage.redis.kill();
    stage.redis.start_again().await;
    let (twin, ()) = tokio::join!(answered(&other, "k"), async {
        stage.upstream.has_started(2).await;
        stage.upstream.release();
    });
    let first = first.await.unwrap();
    if first.status == 409 {
        first.problem(409, "in_flight");
    } else {
        assert_eq!(said(&first), said(&twin));
    }
    for service in [&one, &other] {
        assert_eq!(said(&answered(service, "k").await), said(&twin));
    }
    assert_eq!(stage.upstream.started(), 2);
}
