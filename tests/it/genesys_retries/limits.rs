//! So many calls a minute, and so many at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;

use super::{CLOCKS, SLACK, body, burst, number, retry_after};
use crate::support::{Answer, Genesys, Scene, send, tally};

#[tokio::test]
async fn past_the_rate_nothing_is_sent_and_the_caller_is_told_when_to_come_again() {
    let scene = Scene::with(&[("RATE_PER_MINUTE", "5"), ("DEADLINE", "2s")]).await;
    let replies = burst(&scene, 8).await;
    assert_eq!(tally(replies.iter().map(|(_, _, reply)| reply.status)), [(200, 5), (429, 3)].into());
    for (_, _, reply) in replies.iter().filter(|(_, _, reply)| reply.status == 429) {
        let problem = reply.problem(429, "rate_limited");
        let seconds: u64 = reply.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("a time");
        assert!((50..=60).contains(&seconds) && problem["retryable"] == true, "{problem}");
    }
    let refused = replies.iter().position(|(_, _, reply)| reply.status == 429).unwrap();
    scene.service.execute(body(refused)).await.problem(429, "rate_limited");
    let passed = replies.iter().position(|(_, _, reply)| reply.status == 200).unwrap();
    assert!(scene.service.execute(body(passed)).await.replayed(), "what was executed is replayed whatever the rate");
    assert_eq!(scene.genesys.api.started(), 5);
}

#[tokio::test]
async fn every_call_counts_against_the_rate() {
    let scene = Scene::with(&[("RATE_PER_MINUTE", "3"), ("DEADLINE", "2s")]).await;
    scene.genesys.api.answer_once(Answer::new(429));
    scene.genesys.api.answer_once(Answer::new(401));
    assert_eq!(scene.service.execute("{}").await.status, 200);
    scene.service.execute(body(0)).await.problem(429, "rate_limited");
    assert_eq!(scene.genesys.api.started(), 3);
}

#[tokio::test]
async fn there_are_no_more_calls_in_any_minute_and_who_can_wait_is_called_for_later() {
    const RATE: usize = 3;
    let scene = Scene::with(&[("RATE_PER_MINUTE", "3"), ("DEADLINE", "100s")]).await;
    let patient = |n| send(scene.service.action("slow", body(n)).timeout(Duration::from_secs(110)));
    let first = patient(0).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let others = join_all((1..2 * RATE).map(patient)).await;
    assert!(others.iter().chain([&first]).all(|reply| reply.status == 200), "{others:?}");
    let times: Vec<_> = scene.genesys.api.requests().iter().map(|call| call.at).collect();
    for window in times.windows(RATE + 1) {
        let took = window[RATE] - window[0];
        assert!(took + CLOCKS >= Duration::from_mins(1), "{} calls within {took:?}", RATE + 1);
    }
    // Room is used as soon as it is there: the first one's five seconds before the others'.
    assert!(times[RATE] - times[0] < Duration::from_secs(63) + SLACK, "{:?}", times[RATE] - times[0]);
}

#[tokio::test]
async fn no_more_calls_are_out_at_a_time_than_allowed_and_others_wait_for_their_turn() {
    const WORK: Duration = Duration::from_millis(200);
    let scene = Scene::logged_in(&[("MAX_IN_FLIGHT", "2")]).await;
    scene.genesys.api.answer(Answer::default().after(WORK));
    let replies = burst(&scene, 8).await;
    assert!(replies.iter().all(|(_, _, reply)| reply.status == 200));
    let times: Vec<_> = scene.genesys.api.requests()[1..].iter().map(|call| call.at).collect();
    for window in times.windows(3) {
        assert!(window[2] - window[0] >= WORK, "three calls at a time: {times:?}");
    }
}

#[tokio::test]
async fn who_finds_no_place_by_its_deadline_is_told_so_and_nothing_was_sent() {
    let scene = Scene::logged_in(&[("MAX_IN_FLIGHT", "2"), ("DEADLINE", "2s")]).await;
    scene.genesys.api.hold();
    let ends = burst(&scene, 20).await;
    // Whoever was sent is held past its deadline, which may leave its place to another at the last moment.
    let sent: BTreeSet<_> = scene.genesys.api.requests()[1..].iter().map(|call| number(&call.body)).collect();
    assert!(sent.len() >= 2 && scene.genesys.api.started() == 1 + sent.len(), "{sent:?}");
    scene.genesys.api.release();
    for (n, (_, _, reply)) in ends.iter().enumerate() {
        match reply.status {
            502 => drop(reply.is_unknown()),
            // It got a place when there was no time left.
            504 => drop(reply.problem(504, "upstream_timeout")),
            _ => drop(reply.problem(503, "overloaded")),
        }
        assert!(reply.status == 502 || !sent.contains(&n), "{n} was sent, and is told {}", reply.status);
    }
    let free: Vec<_> = (0..ends.len()).filter(|n| ends[*n].2.status != 502).collect();
    assert!(free.len() > 5, "only {} were not sent", free.len());
    for n in free {
        scene.is_executed(&body(n)).await;
    }
}

#[tokio::test]
async fn a_place_is_given_back_whatever_becomes_of_a_call() {
    let genesys = Genesys::start();
    let answers = [Answer::new(500), Answer::cut(), Answer::default().torn(), retry_after(429, "300"), Answer::new(302), Answer::new(204)];
    for answer in &answers {
        genesys.api.answer_once(answer.clone());
    }
    let scene = Scene::of(genesys, &[("MAX_IN_FLIGHT", "1"), ("DEADLINE", "5s")]).await;
    for n in 0..answers.len() {
        scene.service.execute(body(n)).await;
    }
    assert_eq!(scene.genesys.api.started(), answers.len());
    scene.is_executed("{}").await;
}
