//! While changes are not heard of, the cache is passed by; afterwards nothing of before is believed.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{LISTENER, all_keep, cached, has_heard, instances, listens, name, rename, setup};
use crate::support::{Database, Gate, Kept, Proxy, Redis, free_port, wait_until};

/// Room for a slow machine beside the second that is promised.
const SLACK: Duration = Duration::from_secs(2);

#[tokio::test]
async fn while_nobody_listens_the_cache_is_passed_by_and_afterwards_what_changed_meanwhile_is_seen() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    for service in &services {
        cached(service, "acme42", id).await;
    }
    database.configure("ALLOW_CONNECTIONS false").await;
    database.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENER}")).await;
    rename(&database, id, "Beth").await;
    for service in &services {
        wait_until("it is noticed", async || (!listens(service).await).then_some(())).await;
        let reply = service.lookup("acme42", &[id]).await;
        assert_eq!((reply.cache(), reply.names()), ("bypass", vec!["Beth".to_owned()]));
    }
    rename(&database, id, "Cleo").await;
    database.configure("ALLOW_CONNECTIONS true").await;
    for service in &services {
        wait_until("it listens again", async || listens(service).await.then_some(())).await;
    }
    all_keep(&services, "acme42", id, "Cleo").await;
}

#[tokio::test]
async fn listeners_that_are_ended_again_and_again_cost_no_answer() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    for round in 0..5 {
        for service in &services {
            cached(service, "acme42", id).await;
        }
        database.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENER}")).await;
        let now = format!("Ann {round}");
        rename(&database, id, &now).await;
        for service in &services {
            let seen = async || {
                let reply = service.lookup("acme42", &[id]).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                (reply.names() == [&*now]).then_some(())
            };
            wait_until("the new name is seen", seen).await;
        }
    }
}

#[tokio::test]
async fn a_listener_that_has_gone_silent_is_noticed_and_nothing_cached_is_believed() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    let id = database.customer("acme42", "Ann").await;
    cached(&service, "acme42", id).await;
    let pid = database.value::<i32>(&format!("SELECT pid FROM pg_stat_activity WHERE {LISTENER}")).await;
    let signal = |signal| kill(Pid::from_raw(pid), signal).expect("a session of our own server");
    signal(Signal::SIGSTOP);
    rename(&database, id, "Beth").await;
    wait_until("the new name is seen", async || (name(&service, "acme42", id).await.as_deref() == Some("Beth")).then_some(())).await;
    signal(Signal::SIGCONT);
    all_keep(&[service], "acme42", id, "Beth").await;
}

#[tokio::test]
async fn changes_are_heard_of_where_the_settings_say_and_within_a_second_it_is_noticed_that_they_are_not() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let gate = Gate::before_postgres(&database).await;
    let service = setup(&database).redis(&redis).set("CXDA_DATABASE__LISTEN_URL", &gate.url).start().await;
    let id = database.customer("acme42", "Ann").await;
    cached(&service, "acme42", id).await;
    gate.keep(Kept::Answers);
    rename(&database, id, "Beth").await;
    let changed = Instant::now();
    let seen = async || Some(service.lookup("acme42", &[id]).await).filter(|reply| reply.names() == ["Beth"]);
    let reply = wait_until("the new name is seen", seen).await;
    assert!(changed.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", changed.elapsed());
    assert_eq!(reply.cache(), "bypass");
    assert!(!listens(&service).await);
    // It asks again and again, and gets no answer.
    rename(&database, id, "Cleo").await;
    assert_eq!(name(&service, "acme42", id).await.as_deref(), Some("Cleo"));
    gate.open();
    wait_until("it listens again", async || listens(&service).await.then_some(())).await;
    all_keep(&[service], "acme42", id, "Cleo").await;
}

#[tokio::test]
async fn a_service_that_cannot_listen_starts_and_answers_and_keeps_nothing() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let nowhere = format!("postgresql://nobody@127.0.0.1:{}/none", free_port());
    let service = setup(&database).redis(&redis).set("CXDA_DATABASE__LISTEN_URL", nowhere).start().await;
    let id = database.customer("acme42", "Ann").await;
    for _ in 0..3 {
        let reply = service.lookup("acme42", &[id]).await;
        assert_eq!((reply.cache(), reply.names()), ("bypass", vec!["Ann".to_owned()]));
    }
    assert!(!listens(&service).await);
    assert_eq!(redis.run::<usize>(&["DBSIZE"]).await, 0);
}

#[tokio::test]
async fn a_change_that_redis_could_not_be_told_of_is_not_answered_from_it() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let cable = Proxy::before(redis.port).await;
    let setup = setup(&database).set("REDIS_URL", format!("redis://127.0.0.1:{}", cable.port)).set("CXDA_CACHE__LOCAL_CAPACITY", "0");
    let service = setup.set("CXDA_CACHE__TIMEOUT", "200ms").start().await;
    let id = database.customer("acme42", "Ann").await;
    cached(&service, "acme42", id).await;
    cable.hang(true);
    rename(&database, id, "Beth").await;
    has_heard(&service, 2).await;
    wait_until("the new name is seen", async || (name(&service, "acme42", id).await.as_deref() == Some("Beth")).then_some(())).await;
    assert_eq!(redis.cached("acme42", id).await.expect("still there")["name"], "Ann");
    cable.hang(false);
    all_keep(&[service], "acme42", id, "Beth").await;
}

#[tokio::test]
async fn a_service_that_goes_leaves_no_listener() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE {LISTENER}");
    assert_eq!(database.value::<i64>(&sessions).await, 1);
    let outcome = service.stop().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert!(!outcome.printed().contains("not heard of"), "{}", outcome.printed());
    wait_until("its session has ended", async || (database.value::<i64>(&sessions).await == 0).then_some(())).await;
}
