//! Cognigy fails, is slow, asks for a pause or is gone: data arrive later, and nobody waits for them.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{ECHO, FORWARD, OK, Stage};
use crate::support::{Answer, COGNIGY_PASSWORD, Cognigy, send, wait_until};

/// A pause of three seconds that is asked for is kept by all, and nothing is lost by it.
async fn is_obeyed(status: u16, retry_after: impl FnOnce() -> String) {
    let stage = Stage::logged_in(&[]).await;
    let began = Instant::now();
    stage.cognigy.upstream.answer_once(Answer::new(status).header("Retry-After", &retry_after()));
    stage.webhooks(1).await;
    stage.service.has_noticed("cognigy", if status == 429 { "429" } else { "5xx" }, 1).await;
    stage.webhooks(20).await;
    let waited = wait_until("there is a call again", async || (stage.cognigy.pushes().len() > 2).then(|| began.elapsed())).await;
    assert!(waited >= Duration::from_secs(3), "a {status} was obeyed for {waited:?}");
    stage.all_sent(22).await;
    assert_eq!(stage.cognigy.pushes().len(), 23);
}

#[tokio::test]
async fn a_pause_that_is_asked_for_is_kept_in_either_spelling() {
    let date = || {
        // A date is of whole seconds: rounded up, it is three seconds away or more.
        let then: DateTime<Utc> = Utc::now() + TimeDelta::seconds(4);
        then.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    tokio::join!(is_obeyed(429, || "3".to_owned()), is_obeyed(503, || "3".to_owned()), is_obeyed(429, date));
}

#[tokio::test]
async fn a_failure_of_cognigys_is_tried_again() {
    let stage = Stage::logged_in(&[]).await;
    let failures = [Answer::new(500), Answer::new(502), Answer::new(503), Answer::cut()];
    for failure in &failures {
        stage.cognigy.upstream.answer_once(failure.clone());
    }
    stage.webhooks(1).await;
    stage.all_sent(2).await;
    let pushes = stage.cognigy.pushes();
    assert_eq!(pushes.len(), 1 + failures.len() + 1);
    assert!(pushes[1..].iter().all(|push| push.datum == pushes[1].datum), "{pushes:?}");
    assert_eq!(stage.cognigy.logins().len(), 1);
}

#[tokio::test]
async fn a_slow_cognigy_is_given_up_and_asked_again() {
    let stage = Stage::logged_in(&[("COGNIGY__METRICS__TIMEOUT", "300ms")]).await;
    stage.cognigy.upstream.hold();
    stage.webhooks(1).await;
    stage.service.has_noticed("cognigy", "lost", 1).await;
    stage.cognigy.upstream.release();
    stage.all_sent(2).await;
}

#[tokio::test]
async fn what_could_not_be_sent_to_a_dead_cognigy_is_sent_when_it_is_back() {
    let mut stage = Stage::logged_in(&[]).await;
    stage.cognigy.upstream.stop().await;
    stage.webhooks(30).await;
    stage.service.has_noticed("cognigy", "not_sent", 1).await;
    wait_until("the breaker opens", async || (stage.service.circuit("cognigy").await == "open").then_some(())).await;
    assert_eq!(stage.counted("sent").await, 1);
    stage.cognigy.upstream.start_again();
    stage.all_sent(31).await;
    assert_eq!(stage.cognigy.pushes().len(), 31);
}

/// However a login fails, it is tried again, and then everything arrives.
async fn fails_to_log_in(failure: Answer) {
    let stage = Stage::new().await;
    stage.cognigy.upstream.answer(failure);
    stage.webhooks(50).await;
    stage.cognigy.upstream.has_started(1).await;
    let tried = stage.cognigy.logins().len();
    assert!(tried < 20, "{tried} logins");
    assert_eq!(stage.cognigy.pushes().len(), 0);
    stage.cognigy.upstream.answer(Cognigy::token("token-1"));
    stage.all_sent(50).await;
    assert_eq!(stage.cognigy.pushes().len(), 50);
}

#[tokio::test]
async fn a_login_that_fails_costs_no_datum_and_is_not_tried_for_each() {
    let failures = [Answer::new(401), Answer::new(500), Answer::cut(), Answer::new(200).body("{}")];
    join_all(failures.map(fails_to_log_in)).await;
}

#[tokio::test]
async fn a_datum_that_cognigy_refuses_is_counted_and_gone() {
    let stage = Stage::logged_in(&[]).await;
    let refusals = [400, 403, 404, 413, 422];
    for (nth, status) in refusals.into_iter().enumerate() {
        stage.cognigy.upstream.answer_once(Answer::new(status));
        stage.webhooks(1).await;
        let refused = nth as u64 + 1;
        wait_until("the refusal is counted", async || (stage.counted("refused").await == refused).then_some(())).await;
    }
    stage.webhooks(1).await;
    stage.sent(2).await;
    assert_eq!((stage.counted("dropped").await, stage.counted("refused").await), (0, refusals.len() as u64));
    assert_eq!(stage.cognigy.pushes().len(), 1 + refusals.len() + 1);
}

#[tokio::test]
async fn when_too_many_wait_the_oldest_go_and_are_counted() {
    let stage = Stage::logged_in(&[("COGNIGY__METRICS__QUEUE", "10")]).await;
    let began = Instant::now();
    stage.cognigy.upstream.answer_once(Answer::new(429).header("Retry-After", "5"));
    stage.webhooks(1).await;
    stage.service.has_noticed("cognigy", "429", 1).await;
    for _ in 0..20 {
        stage.service.post_to(ECHO, &[], "{}").await.problem(401, "missing_signature");
    }
    stage.webhooks(10).await;
    let (queued, dropped) = (stage.service.metrics().await.count("cognigy_metrics_queued", &[]), stage.counted("dropped").await);
    assert!(began.elapsed() < Duration::from_secs(5), "this machine is too slow: {:?}", began.elapsed());
    // The one that was told to wait may be kept beside the queue.
    assert!((10..=11).contains(&queued) && queued + dropped == 31, "{queued} queued, {dropped} dropped");
    stage.sent(1 + queued).await;
    let pushes = stage.cognigy.pushes();
    let newest = pushes[2..].iter().filter(|push| push.tags() == OK).count();
    assert!(newest >= 10 && pushes.len() as u64 == 2 + queued, "{newest} of the newest in {pushes:?}");
    assert_eq!((stage.counted("dropped").await, stage.counted("refused").await), (dropped, 0));
    assert_eq!(stage.service.metrics().await.count("cognigy_metrics_queued", &[]), 0);
}

#[tokio::test]
async fn webhooks_are_answered_while_cognigy_says_nothing() {
    let stage = Stage::with(&[("COGNIGY__METRICS__TIMEOUT", "30s")]).await;
    stage.cognigy.upstream.hold();
    let began = Instant::now();
    // The first of them are answered while the login hangs, the others while data do.
    stage.webhooks(100).await;
    stage.cognigy.upstream.has_started(1).await;
    stage.cognigy.upstream.release();
    stage.all_sent(100).await;
    stage.cognigy.upstream.hold();
    stage.webhooks(100).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    stage.cognigy.upstream.release();
    stage.all_sent(200).await;
    assert_eq!(stage.cognigy.pushes().len(), 200);
}

#[tokio::test]
async fn what_is_left_at_sigterm_is_sent_before_the_service_goes() {
    let stage = Stage::logged_in(&[("COGNIGY__METRICS__TIMEOUT", "30s")]).await;
    stage.cognigy.upstream.hold();
    // So slow that they are not all sent while everything else goes down.
    stage.cognigy.upstream.answer(Answer::new(200).after(Duration::from_secs(1)));
    stage.webhooks(30).await;
    stage.upstream.hold();
    let last = tokio::spawn(send(stage.service.hook(FORWARD, "last", "{}")));
    stage.upstream.has_started(1).await;
    stage.service.is_told_to_go().await;
    stage.upstream.release();
    assert_eq!(last.await.unwrap().status, 200);
    stage.cognigy.upstream.release();
    let outcome = stage.service.gone().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert_eq!(stage.cognigy.pushes().len(), 1 + 30 + 1);
}

/// With data that this Cognigy does not take, the service goes all the same, and in time.
async fn goes_in_time(kill: impl AsyncFnOnce(&mut Cognigy)) {
    let mut stage = Stage::logged_in(&[("SHUTDOWN__GRACE", "3s"), ("COGNIGY__METRICS__TIMEOUT", "30s")]).await;
    kill(&mut stage.cognigy).await;
    stage.webhooks(30).await;
    let began = Instant::now();
    stage.service.signal(Signal::SIGTERM);
    let outcome = stage.service.gone().await;
    assert!(began.elapsed() < Duration::from_millis(4500), "a grace of 3 s took {:?}", began.elapsed());
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    let log = outcome.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    assert_eq!(log.filter_map(|line| line["left"].as_u64()).sum::<u64>(), 30, "what was not sent is told: {}", outcome.printed());
    for secret in [COGNIGY_PASSWORD, "token-1"] {
        assert!(!outcome.printed().contains(secret), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn a_cognigy_that_takes_nothing_holds_no_shutdown_past_the_grace() {
    let pause = Answer::new(429).header("Retry-After", "60");
    tokio::join!(
        goes_in_time(async |cognigy| cognigy.upstream.hold()),
        goes_in_time(async |cognigy| cognigy.upstream.stop().await),
        goes_in_time(async |cognigy| cognigy.upstream.answer(pause)),
    );
}
