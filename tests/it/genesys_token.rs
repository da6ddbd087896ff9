//! One login for all who need it, early enough that nobody waits, and none for each where it fails. Contract, section 8.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::{Answer, Database, Genesys, Reply, Scene, Setup, send, tally, wait_until};

fn body(n: usize) -> String {
    format!(r#"{{"n":{n}}}"#)
}

/// Without limits of its own.
const FAST: (&str, &str) = ("RATE_PER_MINUTE", "100000");

/// These many executions at a time, each of its own.
async fn all_are_executed(scene: &Scene, n: usize) {
    let replies = join_all((0..n).map(|n| scene.service.execute(body(n)))).await;
    assert_eq!(tally(replies.iter().map(|reply| (reply.status, reply.replayed()))), [((200, false), n)].into());
}

/// Says that it was the login that failed.
fn is_failed_login(reply: &Reply) {
    let problem = reply.is_failed();
    assert!(problem["detail"].as_str().unwrap().to_lowercase().contains("log in"), "{problem}");
}

/// The first execution that is answered, where until then the login fails.
async fn executed_once_the_login_works(scene: &Scene, body: &str) -> Reply {
    wait_until("the login is tried again", async || {
        let reply = scene.service.execute(body).await;
        if reply.status != 200 {
            is_failed_login(&reply);
        }
        (reply.status == 200).then_some(reply)
    })
    .await
}

#[tokio::test]
async fn two_hundred_first_requests_share_one_login() {
    let scene = Scene::new().await;
    scene.genesys.login.answer(Genesys::token("token-1", 3600).after(Duration::from_millis(300)));
    all_are_executed(&scene, 200).await;
    assert_eq!(scene.genesys.asked(), (200, 1));
    assert_eq!(tally(scene.genesys.tokens()), [("token-1".to_owned(), 200)].into());
}

#[tokio::test]
async fn two_hundred_requests_that_find_the_token_expired_share_one_login() {
    let scene = Scene::with(&[FAST]).await;
    scene.genesys.gives("token-1", 1);
    scene.is_executed("{}").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Whatever was renewed in the meantime without being asked for has expired too.
    let before = scene.genesys.login.started();
    scene.genesys.login.answer(Genesys::token("token-2", 3600).after(Duration::from_millis(300)));
    all_are_executed(&scene, 200).await;
    assert_eq!(scene.genesys.asked(), (201, before + 1));
    assert_eq!(tally(scene.genesys.tokens().split_off(1)), [("token-2".to_owned(), 200)].into());
}

#[tokio::test]
async fn a_token_serves_as_long_as_it_lives_and_no_longer() {
    let scene = Scene::with(&[FAST]).await;
    scene.genesys.gives("short", 3);
    let began = Instant::now();
    scene.is_executed("{}").await;
    scene.genesys.gives("next", 3600);
    let mut n = 0;
    wait_until("there is another token", async || {
        n += 1;
        scene.is_executed(&body(n)).await;
        (scene.genesys.tokens().last().unwrap() == "next").then_some(())
    })
    .await;
    let calls = scene.genesys.api.requests();
    let late = calls.iter().filter(|call| call.header("authorization") == Some("Bearer short") && call.at - began > Duration::from_secs(3));
    assert_eq!(late.count(), 0, "an expired token was used");
    let tokens = scene.genesys.tokens();
    assert!(tokens.iter().filter(|token| *token == "short").count() > 1, "{tokens:?}");
    assert!(tokens.is_sorted_by_key(|token| token == "next"), "the old one does not come back: {tokens:?}");
    assert_eq!(scene.genesys.login.started(), 2);
    assert!(began.elapsed() >= Duration::from_secs(2), "it was replaced after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_token_is_renewed_by_one_while_the_old_one_still_serves() {
    // Its margin is a tenth: from 16 s on it is renewed, and at 18 s it is over.
    let scene = Scene::with(&[FAST]).await;
    scene.genesys.gives("old", 20);
    let began = Instant::now();
    scene.is_executed("{}").await;
    scene.genesys.gives("new", 3600);
    scene.genesys.login.hold();
    let mut n = 1000;
    wait_until("it is renewed", async || {
        n += 1;
        scene.is_executed(&body(n)).await;
        (scene.genesys.login.started() == 2).then_some(())
    })
    .await;
    let after = began.elapsed();
    assert!(after >= Duration::from_millis(15_500), "renewed after {after:?} already");
    all_are_executed(&scene, 20).await;
    let tokens = tally(scene.genesys.tokens());
    assert_eq!(tokens.keys().collect::<Vec<_>>(), ["old"], "nobody waited for the new one");
    assert_eq!(scene.genesys.login.started(), 2);
    scene.genesys.login.release();
    wait_until("the new one is used", async || {
        n += 1;
        scene.is_executed(&body(n)).await;
        (scene.genesys.tokens().last().unwrap() == "new").then_some(())
    })
    .await;
    assert_eq!(scene.genesys.login.started(), 2);
}

#[tokio::test]
async fn a_renewal_that_fails_harms_nobody_while_the_old_token_serves() {
    let scene = Scene::with(&[FAST]).await;
    scene.genesys.gives("old", 20);
    scene.is_executed("{}").await;
    scene.genesys.login.answer(Answer::new(500));
    let mut n = 0;
    wait_until("the renewal has failed", async || {
        n += 1;
        scene.is_executed(&body(n)).await;
        (scene.service.outbound("genesys_login", "5xx").await >= 1).then_some(())
    })
    .await;
    scene.is_executed("{\"still\":true}").await;
    assert!(scene.genesys.tokens().iter().all(|token| token == "old"));
    scene.genesys.gives("new", 3600);
    let reply = executed_once_the_login_works(&scene, "{\"later\":true}").await;
    assert!(!reply.replayed());
}

#[tokio::test]
async fn a_login_that_fails_is_told_clearly_and_nothing_is_executed() {
    let answers = [
        Answer::new(400).body(r#"{"error":"invalid_client"}"#),
        Answer::new(401),
        Answer::new(403).header("Content-Type", "text/html").body("<html>"),
        Answer::new(302).header("Location", "/elsewhere"),
        Answer::new(500),
        Answer::new(204),
        Answer::new(200).body("{}"),
        Answer::new(200).body("nonsense"),
        Answer::new(200).body(r#"{"access_token":"","token_type":"bearer","expires_in":3600}"#),
        Answer::new(200).body(r#"{"access_token":"a\r\nX-Evil: 1","token_type":"bearer","expires_in":3600}"#),
        Answer::new(200).body(r#"{"access_token":7,"token_type":"bearer","expires_in":3600}"#),
        Answer::new(200).body(vec![b' '; 1 << 20]),
        Answer::default().torn(),
        Answer::cut(),
    ];
    let fails = async |answer: Answer| {
        let scene = Scene::new().await;
        scene.genesys.login.answer(answer.clone());
        is_failed_login(&scene.service.execute("{}").await);
        let asked = scene.genesys.asked();
        for n in 0..5 {
            is_failed_login(&scene.service.execute(body(n)).await);
        }
        assert_eq!((scene.genesys.asked(), asked.0), (asked, 0), "no call, and no login for each, after {answer:?}");
        scene.genesys.gives("token-2", 3600);
        let reply = executed_once_the_login_works(&scene, "{}").await;
        assert!(!reply.replayed(), "the key is free after {answer:?}");
        assert_eq!(scene.genesys.tokens(), ["token-2"]);
    };
    for some in answers.chunks(5) {
        join_all(some.iter().cloned().map(fails)).await;
    }
}

#[tokio::test]
async fn a_login_that_fails_is_not_hammered() {
    let scene = Scene::with(&[FAST, ("DEADLINE", "3s")]).await;
    scene.genesys.login.answer(Answer::new(401).after(Duration::from_millis(200)));
    let replies = join_all((0..50).map(|n| scene.service.execute(body(n)))).await;
    replies.iter().for_each(is_failed_login);
    // There is none for five seconds now.
    let failed = Instant::now();
    assert_eq!(scene.genesys.login.started(), 1, "those who came together have failed together");
    assert_eq!(scene.service.circuit("genesys_login").await, "open");
    while failed.elapsed() < Duration::from_secs(3) {
        is_failed_login(&scene.service.execute("{}").await);
    }
    assert_eq!(scene.genesys.login.started(), 1);
    scene.genesys.gives("token-2", 3600);
    executed_once_the_login_works(&scene, "{}").await;
    assert!(failed.elapsed() > Duration::from_secs(4), "after {:?} already", failed.elapsed());
    assert_eq!(scene.genesys.asked(), (1, 2));
    assert_eq!(scene.service.circuit("genesys_login").await, "closed");
    all_are_executed(&scene, 50).await;
}

#[tokio::test]
async fn a_login_that_cannot_be_reached_is_told_and_used_once_it_is_back() {
    let mut scene = Scene::new().await;
    scene.genesys.login.stop().await;
    is_failed_login(&scene.service.execute("{}").await);
    assert!(scene.service.outbound("genesys_login", "not_sent").await >= 1);
    scene.genesys.login.start_again();
    executed_once_the_login_works(&scene, "{}").await;
    assert_eq!(scene.genesys.asked(), (1, 1));
}

#[tokio::test]
async fn a_login_that_comes_up_in_time_is_used_at_once() {
    let mut scene = Scene::new().await;
    scene.genesys.login.stop().await;
    let call = tokio::spawn(send(scene.service.action("late", "{}")));
    scene.service.has_noticed("genesys_login", "not_sent", 1).await;
    scene.genesys.login.start_again();
    let reply = call.await.unwrap();
    if reply.status != 200 {
        is_failed_login(&reply);
        executed_once_the_login_works(&scene, "{}").await;
    }
    assert_eq!(scene.genesys.asked(), (1, 1));
}

#[tokio::test]
async fn a_login_slower_than_the_deadline_is_a_504_that_leaves_the_key_free() {
    let scene = Scene::with(&[("DEADLINE", "1s")]).await;
    scene.genesys.login.hold();
    let began = Instant::now();
    let replies = join_all((0..5).map(|n| scene.service.execute(body(n)))).await;
    for reply in &replies {
        assert_eq!(reply.problem(504, "upstream_timeout")["retryable"], true);
    }
    assert!(began.elapsed() >= Duration::from_millis(500), "after {:?}", began.elapsed());
    assert_eq!(scene.genesys.asked(), (0, 1), "no call past the deadline");
    scene.genesys.login.release();
    wait_until("the login is over", async || {
        let reply = scene.service.execute(body(0)).await;
        if reply.status != 200 {
            reply.problem(504, "upstream_timeout");
        }
        (reply.status == 200 && !reply.replayed()).then_some(())
    })
    .await;
    assert_eq!(scene.genesys.asked(), (1, 1), "the one login went on");
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_no_login() {
    let scene = Scene::new().await;
    scene.genesys.login.hold();
    let gone = scene.service.open("gone", "{}").await;
    scene.genesys.login.has_started(1).await;
    let waiting = tokio::spawn(send(scene.service.action("waiting", "{}")));
    gone.reset(&scene.service).await;
    scene.genesys.login.release();
    assert_eq!(waiting.await.unwrap().status, 200);
    scene.genesys.api.has_started(2).await;
    assert_eq!(scene.genesys.asked(), (2, 1), "and what was asked for is done");
}

#[tokio::test]
async fn a_token_refused_to_many_is_replaced_once_by_all_of_them() {
    const MANY: usize = 30;
    let scene = Scene::logged_in(&[FAST]).await;
    scene.genesys.api.hold();
    scene.genesys.gives("token-2", 3600);
    for _ in 0..MANY {
        scene.genesys.api.answer_once(Answer::new(401));
    }
    let all = async { all_are_executed_with_two_calls_each(&scene, MANY).await };
    let released = async {
        scene.genesys.api.has_started(1 + MANY).await;
        scene.genesys.api.release();
    };
    tokio::join!(all, released);
    let expected = [("token-1".to_owned(), 1 + MANY), ("token-2".to_owned(), MANY)];
    assert_eq!(tally(scene.genesys.tokens()), expected.into());
    assert_eq!(scene.genesys.login.started(), 2);
}

async fn all_are_executed_with_two_calls_each(scene: &Scene, n: usize) {
    all_are_executed(scene, n).await;
    assert_eq!(scene.genesys.api.started(), 1 + 2 * n);
}

#[tokio::test]
async fn a_late_refusal_of_an_old_token_does_not_drop_the_new_one() {
    let scene = Scene::logged_in(&[]).await;
    scene.genesys.gives("token-2", 3600);
    scene.genesys.api.hold();
    scene.genesys.api.answer_once(Answer::new(401));
    let early = tokio::spawn(send(scene.service.action("early", "{}")));
    scene.genesys.api.has_started(2).await;
    scene.genesys.api.answer_once(Answer::new(401).after(Duration::from_secs(1)));
    let late = tokio::spawn(send(scene.service.action("late", "{}")));
    scene.genesys.api.has_started(3).await;
    scene.genesys.api.release();
    assert_eq!(early.await.unwrap().status, 200);
    assert_eq!(scene.genesys.login.started(), 2);
    scene.genesys.gives("token-3", 3600);
    assert_eq!(late.await.unwrap().status, 200);
    assert_eq!(scene.genesys.tokens(), ["token-1", "token-1", "token-1", "token-2", "token-2"]);
    assert_eq!(scene.genesys.login.started(), 2);
}

#[tokio::test]
async fn nothing_but_a_401_drops_a_token() {
    let scene = Scene::logged_in(&[("DEADLINE", "2s")]).await;
    let refused = |status| Answer::new(status).header("Retry-After", "300");
    let answers = [refused(400), refused(403), refused(429), refused(500), refused(503), Answer::cut(), Answer::default().torn()];
    for (n, answer) in answers.into_iter().enumerate() {
        scene.genesys.api.answer_once(answer);
        assert_ne!(scene.service.execute(body(n)).await.status, 200);
    }
    scene.is_executed("{}").await;
    assert_eq!(scene.genesys.login.started(), 1);
}

#[tokio::test]
async fn a_token_that_was_refused_is_not_used_again_even_where_no_other_is_to_be_had() {
    let scene = Scene::logged_in(&[]).await;
    scene.genesys.login.answer(Answer::new(500));
    scene.genesys.api.answer_once(Answer::new(401));
    let reply = scene.service.execute("{}").await;
    // The call was refused, so nothing was executed.
    is_failed_login(&reply);
    is_failed_login(&scene.service.execute("{}").await);
    assert_eq!(scene.genesys.api.started(), 2);
    scene.genesys.gives("token-2", 3600);
    executed_once_the_login_works(&scene, "{}").await;
    assert_eq!(scene.genesys.tokens(), ["token-1", "token-1", "token-2"]);
}

#[tokio::test]
async fn a_genesys_that_refuses_every_token_costs_no_login_for_each_call() {
    let scene = Scene::logged_in(&[FAST]).await;
    scene.genesys.api.answer(Answer::new(401));
    let began = Instant::now();
    for n in 0..30 {
        let reply = scene.service.execute(body(n)).await;
        assert_eq!((reply.status, reply.replayed()), (401, false), "{}", reply.text());
    }
    let (logins, fives) = (scene.genesys.login.started(), began.elapsed().as_secs() / 5);
    assert!(logins as u64 <= 3 + fives, "{logins} logins");
    scene.genesys.api.answer(Answer::default());
    scene.is_executed("{}").await;
}

#[tokio::test]
async fn an_action_that_is_always_refused_costs_the_others_no_more_than_one_login_each_time() {
    const ROUNDS: usize = 5;
    let scene = Scene::logged_in(&[FAST]).await;
    for n in 0..ROUNDS {
        scene.genesys.api.answer(Answer::new(401));
        assert_eq!(send(scene.service.action("refused", body(n))).await.status, 401);
        scene.genesys.api.answer(Answer::default());
        scene.is_executed(&body(n)).await;
    }
    assert!(scene.genesys.login.started() <= 1 + ROUNDS, "{} logins", scene.genesys.login.started());
}

#[tokio::test]
async fn a_token_is_this_process_own_and_is_fetched_when_it_is_needed() {
    let (database, genesys) = (Database::new().await, Genesys::start());
    for n in 1..=2 {
        let service = Setup::on(&database).genesys(&genesys).member("STORE", "memory").start().await;
        assert_eq!(service.ready().await.status, 200);
        assert_eq!(genesys.login.started(), n - 1, "nobody has asked for anything");
        genesys.gives(&format!("token-{n}"), 3600);
        assert_eq!(service.execute("{}").await.status, 200);
        assert_eq!(genesys.asked(), (n, n));
        service.stop().await;
    }
    assert_eq!(genesys.tokens(), ["token-1", "token-2"]);
}

#[tokio::test]
async fn a_token_without_an_end_or_with_a_long_one_is_good() {
    let scene = Scene::with(&[FAST]).await;
    for (n, rest) in ["", r#","expires_in":86400"#, r#","expires_in":1e19"#].into_iter().enumerate() {
        let scene = if n == 0 { &scene } else { &Scene::with(&[FAST]).await };
        scene.genesys.login.answer(Answer::new(200).body(format!(r#"{{"access_token":"t","token_type":"Bearer"{rest}}}"#)));
        all_are_executed(scene, 3).await;
        assert_eq!(scene.genesys.asked(), (3, 1), "{rest}");
    }
}
