//! What was not executed is asked for again: as often as it may be, when it may be, and never past the deadline. Contract,
//! section 8.

mod limits;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{Answer, Reply, Scene, send, tally, wait_until};

/// Room for a slow machine beside a promised time.
const SLACK: Duration = Duration::from_secs(2);
/// What the system's clock and the monotonic one may differ by.
const CLOCKS: Duration = Duration::from_millis(50);

fn body(n: usize) -> String {
    format!(r#"{{"n":{n}}}"#)
}

/// Which of many executions that was.
fn number(body: &[u8]) -> usize {
    let input: Value = serde_json::from_slice(body).expect("JSON");
    input["n"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or_else(|| panic!("no number in {input}"))
}

/// As RFC 9110 spells a time.
fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn retry_after(status: u16, value: &str) -> Answer {
    Answer::new(status).header("Retry-After", value)
}

/// Seconds until it may be tried again, of a 503 that passes on a 429.
fn throttled(reply: &Reply) -> u64 {
    let problem = reply.problem(503, "upstream_failed");
    assert_eq!(problem["retryable"], true, "{problem}");
    reply.header("retry-after").and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("no Retry-After: {problem}"))
}

/// That many executions at a time, and when each was asked for and answered.
async fn burst(scene: &Scene, n: usize) -> Vec<(Instant, Instant, Reply)> {
    let one = async |n: usize| {
        let began = Instant::now();
        let reply = scene.service.execute(body(n)).await;
        (began, Instant::now(), reply)
    };
    join_all((0..n).map(one)).await
}

#[tokio::test]
async fn a_pause_in_seconds_is_kept() {
    for status in [429, 503] {
        let scene = Scene::new().await;
        scene.genesys.api.answer_once(retry_after(status, "2"));
        let reply = scene.service.execute("{}").await;
        assert_eq!((reply.status, reply.replayed()), (200, false), "{}", reply.text());
        let calls = scene.genesys.api.requests();
        let waited = calls[1].at - calls[0].at;
        assert!((Duration::from_secs(2)..Duration::from_secs(4) + SLACK).contains(&waited), "a {status} was waited for {waited:?}");
        assert_eq!((calls.len(), &calls[0].body), (2, &calls[1].body));
        assert_eq!(scene.service.metrics().await.count("outbound_retries_total", &[("dependency", "genesys")]), 1);
    }
}

#[tokio::test]
async fn a_pause_until_a_date_is_kept() {
    for status in [429, 503] {
        let scene = Scene::logged_in(&[]).await;
        // A date is of whole seconds: at least two of them are left.
        let (now, clock) = (Utc::now(), Instant::now());
        let date = DateTime::from_timestamp((now + TimeDelta::seconds(3)).timestamp(), 0).unwrap();
        let until = clock + (date - now).to_std().unwrap();
        scene.genesys.api.answer_once(retry_after(status, &http_date(date)));
        assert_eq!(scene.service.execute("{}").await.status, 200);
        let again = scene.genesys.api.requests()[2].at;
        assert!(again + CLOCKS >= until, "a {status} was tried again {:?} too early", until - again);
        assert!(again < until + Duration::from_secs(2) + SLACK, "a {status} was tried again {:?} too late", again - until);
    }
}

#[tokio::test]
async fn without_a_time_that_makes_sense_it_is_tried_again_soon() {
    let scene = Scene::new().await;
    let past = http_date(Utc::now() - TimeDelta::days(1));
    let answers = [
        Answer::new(429),
        retry_after(429, "soon"),
        retry_after(429, "0"),
        retry_after(503, "0"),
        retry_after(429, &past),
        retry_after(503, &past),
    ];
    for (n, answer) in answers.into_iter().enumerate() {
        let before = scene.genesys.api.started();
        scene.genesys.api.answer_once(answer);
        let reply = scene.service.execute(body(n)).await;
        assert_eq!((reply.status, scene.genesys.api.started()), (200, before + 2), "{n}: {}", reply.text());
        let calls = scene.genesys.api.requests();
        assert!(calls[before + 1].at - calls[before].at < SLACK, "{n}");
    }
}

#[tokio::test]
async fn a_pause_past_the_deadline_is_told_at_once() {
    let scene = Scene::logged_in(&[("DEADLINE", "5s")]).await;
    let date = http_date(Utc::now() + TimeDelta::seconds(100));
    for (n, (value, told)) in [("30", 30..=30), ("3600", 300..=300), (date.as_str(), 60..=101)].into_iter().enumerate() {
        let before = scene.genesys.api.started();
        scene.genesys.api.answer_once(retry_after(429, value));
        let began = Instant::now();
        let seconds = throttled(&scene.service.execute(body(n)).await);
        assert!(told.contains(&seconds), "{value} was told as {seconds}");
        scene.genesys.api.answer_once(retry_after(503, value));
        scene.service.execute(body(n)).await.is_failed();
        assert!(began.elapsed() < Duration::from_secs(5), "both took {:?}", began.elapsed());
        assert_eq!(scene.genesys.api.started(), before + 2);
        scene.is_executed(&body(n)).await;
    }
}

#[tokio::test]
async fn no_call_is_made_past_the_deadline() {
    const DEADLINE: Duration = Duration::from_secs(2);
    for (answer, is_429) in [(Answer::new(429), true), (retry_after(429, "1"), true), (retry_after(503, "0"), false)] {
        let scene = Scene::logged_in(&[("DEADLINE", "2s")]).await;
        scene.genesys.api.answer(answer);
        let began = Instant::now();
        let reply = scene.service.execute("{}").await;
        let ended = Instant::now();
        if is_429 {
            assert!(throttled(&reply) >= 1);
        } else {
            drop(reply.is_failed());
        }
        assert!(ended - began < DEADLINE + SLACK, "after {:?}", ended - began);
        scene.genesys.api.answer(Answer::default());
        scene.is_executed(&body(0)).await;
        let calls = scene.genesys.api.requests();
        let tries: Vec<_> = calls[1..calls.len() - 1].iter().map(|call| call.at - began).collect();
        assert!(tries.len() >= 2, "it was tried again: {tries:?}");
        assert!(tries.iter().all(|at| *at <= DEADLINE + SLACK / 4 && began + *at <= ended), "{tries:?}");
        scene.is_executed("{}").await;
    }
}

#[tokio::test]
async fn a_pause_past_the_deadline_is_told_even_where_it_is_that_of_the_second_answer() {
    let scene = Scene::logged_in(&[("DEADLINE", "5s")]).await;
    scene.genesys.api.answer_once(retry_after(429, "1"));
    scene.genesys.api.answer_once(retry_after(429, "60"));
    assert_eq!(throttled(&scene.service.execute("{}").await), 60);
    scene.is_executed("{}").await;
    assert_eq!(scene.genesys.api.started(), 4);
}

#[tokio::test]
async fn a_pause_that_leaves_no_time_for_the_call_is_told_as_what_it_is() {
    let scene = Scene::logged_in(&[("DEADLINE", "4s")]).await;
    for n in 0..2 {
        let (status, pause) = [(429, "3"), (503, "3")][n];
        scene.genesys.api.answer_once(retry_after(status, pause));
        let reply = scene.service.execute(body(n)).await;
        match (reply.status, status) {
            (200, _) => {}
            (_, 429) => assert_eq!(throttled(&reply), 3),
            _ => drop(reply.is_failed()),
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_until_somebody_is_there() {
    let mut scene = Scene::logged_in(&[]).await;
    scene.genesys.api.stop().await;
    let call = tokio::spawn(send(scene.service.action("late", "{}")));
    scene.service.has_noticed("genesys", "not_sent", 1).await;
    scene.genesys.api.start_again();
    let reply = call.await.unwrap();
    assert_eq!((reply.status, reply.replayed()), (200, false), "{}", reply.text());
    assert_eq!(scene.genesys.api.started(), 2);
}

#[tokio::test]
async fn a_connection_that_is_refused_for_good_is_told_and_leaves_the_key_free() {
    let mut scene = Scene::logged_in(&[("DEADLINE", "4s")]).await;
    scene.genesys.api.stop().await;
    let began = Instant::now();
    scene.service.execute("{}").await.is_failed();
    assert!(began.elapsed() < Duration::from_secs(4) + SLACK, "after {:?}", began.elapsed());
    assert!(scene.service.outbound("genesys", "not_sent").await >= 2, "it was tried again");
    scene.genesys.api.start_again();
    let answered = async || {
        let reply = scene.service.execute("{}").await;
        if reply.status != 200 {
            reply.is_failed();
        }
        (reply.status == 200).then_some(reply)
    };
    assert!(!wait_until("the breaker lets a call through", answered).await.replayed());
    assert_eq!(scene.genesys.api.started(), 2);
}

#[tokio::test]
async fn connections_that_fail_in_a_row_open_the_breaker_and_one_that_does_not_closes_it() {
    let mut scene = Scene::logged_in(&[("DEADLINE", "4s")]).await;
    assert_eq!(scene.service.circuit("genesys").await, "closed");
    scene.genesys.api.stop().await;
    let not_sent = async || scene.service.outbound("genesys", "not_sent").await;
    let opened = async || {
        scene.service.execute("{}").await.is_failed();
        scene.service.metrics().await.count("cxone_dataaction_circuit_transitions_total", &[("dependency", "genesys"), ("state", "open")])
    };
    wait_until("the breaker is open", async || (opened().await >= 1).then_some(())).await;
    assert!(not_sent().await >= 10, "it takes ten");
    // From now on one call a second tries, if that.
    let (began, before) = (Instant::now(), not_sent().await);
    for reply in join_all((0..50).map(|n| scene.service.execute(body(n)))).await {
        reply.is_failed();
    }
    let (tried, seconds) = (not_sent().await - before, began.elapsed().as_secs());
    assert!(tried <= 2 + seconds, "{tried} calls within {seconds} s");
    scene.genesys.api.start_again();
    wait_until("a call gets through", async || (scene.service.execute("{}").await.status == 200).then_some(())).await;
    assert_eq!(scene.service.circuit("genesys").await, "closed");
    scene.is_executed(&body(0)).await;
}

#[tokio::test]
async fn no_answer_however_bad_opens_the_breaker() {
    let scene = Scene::new().await;
    let answers = [Answer::new(500), Answer::cut(), Answer::default().torn(), retry_after(429, "300"), retry_after(503, "300")];
    for n in 0..30 {
        scene.genesys.api.answer_once(answers[n % answers.len()].clone());
        assert!(scene.service.execute(body(n)).await.status >= 502);
        assert_eq!(scene.service.circuit("genesys").await, "closed");
    }
    assert_eq!(scene.genesys.api.started(), 30);
    scene.is_executed(&body(30)).await;
}

#[tokio::test]
async fn a_connection_that_is_never_made_has_sent_nothing() {
    // Who hangs up instead of shaking hands, and who takes no connection, since its backlog is full.
    let rude = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = rude.local_addr().unwrap().port();
    tokio::spawn(async move { while rude.accept().await.is_ok() {} });
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let silent = socket.listen(1).unwrap();
    let address = silent.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(stream);
    }
    for url in [format!("https://127.0.0.1:{port}"), format!("http://{address}")] {
        let scene = Scene::with(&[("BASE_URL", &url), ("DEADLINE", "3s")]).await;
        for _ in 0..2 {
            let reply = scene.service.execute("{}").await;
            if reply.status == 504 {
                reply.problem(504, "upstream_timeout")
            } else {
                reply.is_failed()
            };
        }
        assert_eq!(scene.service.outbound("genesys", "lost").await, 0, "{url}");
        assert!(scene.service.outbound("genesys", "not_sent").await >= 1, "{url}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_made_anew() {
    let mut scene = Scene::new().await;
    for n in 0..20 {
        scene.is_executed(&body(n)).await;
        scene.genesys.api.stop().await;
        scene.genesys.api.start_again();
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_and_the_call_repeated_once() {
    let scene = Scene::logged_in(&[]).await;
    scene.genesys.gives("token-2", 3600);
    scene.genesys.api.answer_once(Answer::new(401));
    let reply = scene.service.execute("{}").await;
    assert_eq!((reply.status, reply.replayed()), (200, false));
    assert_eq!(scene.genesys.tokens(), ["token-1", "token-1", "token-2"]);
    assert_eq!(scene.genesys.login.started(), 2);
    assert!(scene.service.execute("{}").await.replayed());
}

#[tokio::test]
async fn a_second_401_is_passed_on_and_not_kept() {
    let scene = Scene::logged_in(&[]).await;
    scene.genesys.gives("token-2", 3600);
    let refusal = Answer::new(401).header("Content-Type", "application/json").body(r#"{"code":"bad.credentials"}"#);
    scene.genesys.api.answer(refusal);
    for _ in 0..2 {
        let reply = scene.service.execute("{}").await;
        assert_eq!((reply.status, reply.text().as_str(), reply.replayed()), (401, r#"{"code":"bad.credentials"}"#, false));
    }
    scene.genesys.api.answer(Answer::default());
    // The second time the token may be believed to be as good as any.
    assert!((4..=5).contains(&scene.genesys.api.started()), "{:?}", scene.genesys.tokens());
    assert_eq!(scene.genesys.tokens()[..3], ["token-1", "token-1", "token-2"]);
    scene.is_executed("{}").await;
}

#[tokio::test]
async fn a_call_may_be_refused_in_more_than_one_way_before_it_is_taken() {
    let scene = Scene::logged_in(&[]).await;
    for refusal in [429, 401, 503] {
        scene.genesys.api.answer_once(retry_after(refusal, "0"));
    }
    assert_eq!(scene.service.execute("{}").await.status, 200);
    assert_eq!(scene.genesys.asked(), (5, 2));
}

#[tokio::test]
async fn a_burst_that_gets_nothing_but_429_is_hardly_multiplied() {
    const BURST: usize = 400;
    const DEADLINE: Duration = Duration::from_secs(8);
    for answer in [Answer::new(429), retry_after(429, "1")] {
        let scene = Scene::logged_in(&[("RATE_PER_MINUTE", "100000"), ("MAX_IN_FLIGHT", "100"), ("DEADLINE", "8s")]).await;
        scene.genesys.api.answer(answer);
        let ends = burst(&scene, BURST).await;
        for (began, ended, reply) in &ends {
            throttled(reply);
            assert!(*ended - *began < DEADLINE + SLACK, "after {:?}", *ended - *began);
        }
        let calls = &scene.genesys.api.requests()[1..];
        assert!(calls.len() > BURST, "some were tried again");
        assert!(calls.len() <= BURST + BURST / 10 + 10, "{} calls for {BURST} requests", calls.len());
        for call in calls {
            let (began, ended, _) = &ends[number(&call.body)];
            assert!(call.at - *began <= DEADLINE + SLACK && call.at <= *ended, "a call {:?} after its request", call.at - *began);
        }
        let retries = scene.service.metrics().await.count("outbound_retries_total", &[("dependency", "genesys")]);
        assert_eq!(usize::try_from(retries).unwrap(), calls.len() - BURST);
        let each = tally(calls.iter().map(|call| number(&call.body)));
        assert_eq!(each.len(), BURST, "nobody went without");
        scene.genesys.api.answer(Answer::default());
        let all: BTreeMap<_, _> = tally(burst(&scene, BURST).await.iter().map(|(_, _, reply)| (reply.status, reply.replayed())));
        assert_eq!(all, [((200, false), BURST)].into(), "every key is free");
        // That many requests have paid for retries again.
        scene.genesys.api.answer_once(Answer::new(429));
        assert_eq!(scene.service.execute(body(BURST)).await.status, 200);
    }
}
