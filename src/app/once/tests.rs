//! What is hard to make happen from outside: a store that fails at each step, by a mock in its place. Time is the runtime's
//! own, and passes when nothing else does.

use std::sync::atomic::AtomicUsize;

use anyhow::anyhow;
use bytes::Bytes;

use super::*;
use crate::app::ports::{Intent, MockIdempotencyStore};
use crate::domain::{Digest, Hasher, KeySource};

type Told = &'static str;

const TIMES: Times = Times { lease: Duration::from_secs(30), keep: Duration::from_mins(5), wait: Duration::ZERO };

fn key() -> IdempotencyKey {
    let hasher = Hasher::new(&[7; 32]).expect("a hasher");
    IdempotencyKey::new(&hasher, &"/x".into(), "caller", &KeySource::RawBody, None, b"{}").expect("a key")
}

fn reply(status: u16) -> StoredReply {
    StoredReply { status, headers: Vec::new(), body: Bytes::from_static(b"done") }
}

fn first(status: u16) -> Answer {
    Answer { reply: reply(status), replayed: false }
}

fn down() -> StoreDown {
    StoreDown::NotAsked(anyhow!("gone"))
}

/// A store that gives the key to whoever asks.
fn free() -> MockIdempotencyStore {
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().times(1).returning(|_, _, _| Ok(Claimed::Won));
    store
}

fn engine(store: MockIdempotencyStore, times: Times) -> Arc<Once> {
    let metrics = Arc::new(Metrics::new(1).expect("metrics"));
    Arc::new(Once::new(Arc::new(store), Arc::new(Works::new(2)), metrics, times))
}

fn metric(once: &Once, line: &str) -> bool {
    let text = String::from_utf8(once.metrics.render().expect("metrics").1).expect("text");
    text.lines().any(|found| found == line)
}

/// Work that takes so long, and counts how often it is begun.
fn work(began: &Arc<AtomicUsize>, takes: Duration, status: u16) -> impl Future<Output = Result<StoredReply, Told>> + Send + use<> {
    let began = Arc::clone(began);
    async move {
        began.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(takes).await;
        Ok(reply(status))
    }
}

/// The same as an error in words, since errors of stores cannot be compared.
fn told(answer: Result<Answer, OnceError<Told>>) -> Result<Answer, String> {
    answer.map_err(|error| format!("{error:?}"))
}

#[tokio::test(start_paused = true)]
async fn without_a_claim_nothing_is_done() {
    let began = Arc::default();
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().returning(|_, _, _| Err(down()));
    let once = engine(store, TIMES);
    let answer = once.run(key(), work(&began, Duration::ZERO, 200)).await;
    assert!(matches!(answer, Err(OnceError::Store(_))));
    assert_eq!(began.load(Ordering::Relaxed), 0);
    assert!(metric(&once, r#"idempotency_requests_total{outcome="store_down",route="/x"} 1"#));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_kept_at_once_is_kept_before_it_leaves() {
    let mut store = free();
    let mut tries = 0;
    store.expect_complete().times(3).returning(move |_, _, _, _| {
        tries += 1;
        if tries < 3 { Err(down()) } else { Ok(Completed::Stored) }
    });
    let once = engine(store, TIMES);
    assert_eq!(told(once.run(key(), work(&Arc::default(), Duration::ZERO, 200)).await), Ok(first(200)));
    assert!(!metric(&once, r#"idempotency_unstored_total{route="/x"} 1"#));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_kept_for_long_leaves_and_is_kept_later() {
    let kept = Arc::new(AtomicUsize::new(0));
    let mut store = free();
    let (began, count) = (Instant::now(), Arc::clone(&kept));
    store.expect_complete().returning(move |_, _, _, _| {
        if began.elapsed() < Duration::from_secs(20) {
            return Err(down());
        }
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Completed::Stored)
    });
    let once = engine(store, TIMES);
    assert_eq!(told(once.run(key(), work(&Arc::default(), Duration::ZERO, 200)).await), Ok(first(200)));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(kept.load(Ordering::Relaxed), 0);
    assert!(metric(&once, r#"idempotency_unstored_total{route="/x"} 1"#));
    once.works.finish().await;
    assert_eq!(kept.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_freed_keeps_nobody_from_being_answered() {
    let mut store = free();
    // Tried again in the background, and told twice in the end.
    let mut tries = 0;
    store.expect_release().times(5).returning(move |_, _| {
        tries += 1;
        if tries < 4 { Err(down()) } else { Ok(()) }
    });
    let once = engine(store, TIMES);
    assert_eq!(told(once.run(key(), work(&Arc::default(), Duration::ZERO, 500)).await), Ok(first(500)));
    tokio::time::sleep(Duration::from_secs(20)).await;
    once.works.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_between_leaves_the_work_alone() {
    let mut store = free();
    let mut renewals = 0;
    store.expect_renew().times(8).returning(move |_, _, _| {
        renewals += 1;
        if renewals % 2 == 0 { Ok(true) } else { Err(down()) }
    });
    store.expect_complete().times(1).returning(|_, _, _, _| Ok(Completed::Stored));
    let began = Arc::default();
    let once = engine(store, TIMES);
    assert_eq!(told(once.run(key(), work(&began, Duration::from_secs(55), 200)).await), Ok(first(200)));
    assert_eq!(began.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_lost_the_key_gives_the_answer_of_whoever_has_it() {
    let foreign = key().hash;
    for (theirs, expected) in [
        (Some((key().fingerprint, reply(201))), Ok(Answer { reply: reply(201), replayed: true })),
        (Some((foreign, reply(201))), Err("Mismatch".to_owned())),
        (None, Err("InFlight".to_owned())),
    ] {
        let mut store = free();
        store.expect_renew().times(1).returning(|_, _, _| Ok(false));
        store.expect_complete().times(1).returning(move |_, _, _, _| Ok(Completed::Lost(theirs.clone())));
        let once = engine(store, TIMES);
        assert_eq!(told(once.run(key(), work(&Arc::default(), Duration::from_mins(2), 200)).await), expected);
        assert!(metric(&once, r#"idempotency_leases_lost_total{route="/x"} 1"#), "told once");
    }
}

#[tokio::test]
async fn whoever_stood_still_after_the_claim_looks_again_before_the_work_begins() {
    for still_ours in [true, false] {
        let mut store = MockIdempotencyStore::new();
        store.expect_claim().returning(|_, _, _| {
            // As a stopped process has it: the clock goes on, and nothing else.
            let stopped = std::time::Instant::now();
            while stopped.elapsed() < Duration::from_millis(150) {
                std::hint::spin_loop();
            }
            Ok(Claimed::Won)
        });
        store.expect_renew().times(1).returning(move |_, _, _| Ok(still_ours));
        store.expect_release().returning(|_, _| Ok(()));
        store.expect_complete().returning(|_, _, _, _| Ok(Completed::Stored));
        let began = Arc::default();
        let answer =
            engine(store, Times { lease: Duration::from_millis(200), ..TIMES }).run(key(), work(&began, Duration::ZERO, 200)).await;
        assert_eq!((answer.is_ok(), began.load(Ordering::Relaxed)), (still_ours, usize::from(still_ours)));
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_panics_frees_its_key() {
    let mut store = free();
    store.expect_release().times(1).returning(|_, _| Ok(()));
    let once = engine(store, TIMES);
    let answer = once.run(key(), async { panic!("on purpose") }).await;
    assert_eq!(told(answer), Err("Panicked".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn work_that_is_given_up_frees_its_key() {
    let mut store = free();
    store.expect_renew().returning(|_, _, _| Ok(true));
    store.expect_release().times(1).returning(|_, _| Ok(()));
    let once = engine(store, TIMES);
    let began: Arc<AtomicUsize> = Arc::default();
    let running = tokio::spawn({
        let (once, work) = (Arc::clone(&once), work(&began, Duration::from_hours(1), 200));
        async move { once.run(key(), work).await }
    });
    while began.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(tokio::time::timeout(Duration::from_mins(1), once.works.finish()).await.is_err(), "it is waited for");
    once.works.give_up();
    once.works.finish().await;
    assert_eq!(told(running.await.expect("an answer")), Err("ShuttingDown".to_owned()));
    assert_eq!(told(once.run(key(), work(&Arc::default(), Duration::ZERO, 200)).await), Err("ShuttingDown".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_changes_nothing() {
    let kept = Arc::new(AtomicUsize::new(0));
    let mut store = free();
    let count = Arc::clone(&kept);
    store.expect_complete().times(1).returning(move |_, _, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Completed::Stored)
    });
    let once = engine(store, TIMES);
    let impatient = tokio::time::timeout(Duration::from_secs(1), once.run(key(), work(&Arc::default(), Duration::from_secs(5), 200)));
    assert!(impatient.await.is_err());
    once.works.finish().await;
    assert_eq!(kept.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn twins_in_one_process_look_one_at_a_time() {
    let looks = Arc::new(AtomicUsize::new(0));
    let mut store = MockIdempotencyStore::new();
    let (began, count) = (Instant::now(), Arc::clone(&looks));
    store.expect_claim().returning(move |key, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
        let done = began.elapsed() > Duration::from_secs(4);
        Ok(if done { Claimed::Done(key.fingerprint, reply(200)) } else { Claimed::Leased(key.fingerprint) })
    });
    let metrics = Arc::new(Metrics::new(1).expect("metrics"));
    let times = Times { wait: Duration::from_secs(10), ..TIMES };
    let once = Arc::new(Once::new(Arc::new(store), Arc::new(Works::new(200)), metrics, times));
    let twins = (0..100).map(|_| once.run(key(), work(&Arc::default(), Duration::ZERO, 200)));
    for answer in futures_util::future::join_all(twins).await {
        assert_eq!(told(answer), Ok(Answer { reply: reply(200), replayed: true }));
    }
    // Each looks once to begin with and once in the end; in between, one of them, at most some ten times a second.
    let looks = looks.load(Ordering::Relaxed);
    assert!((200..260).contains(&looks), "{looks} looks");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_nobody_heard_of_is_taken_back() {
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().times(1).returning(|_, _, _| Err(StoreDown::NoAnswer(anyhow!("hung"))));
    store.expect_release().times(2).returning(|_, _| Ok(()));
    let once = engine(store, TIMES);
    assert!(once.run(key(), work(&Arc::default(), Duration::ZERO, 200)).await.is_err());
    tokio::time::sleep(Duration::from_secs(5)).await;
    once.works.finish().await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_take_no_works_place_and_go_with_their_callers() {
    let claims = Arc::new(AtomicUsize::new(0));
    let mut store = MockIdempotencyStore::new();
    let count = Arc::clone(&claims);
    store.expect_claim().returning(move |key, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Claimed::Leased(key.fingerprint))
    });
    let once = engine(store, Times { wait: Duration::from_mins(1), ..TIMES });
    let twins = (0..2).map(|_| once.run(key(), work(&Arc::default(), Duration::ZERO, 200)));
    let impatient = tokio::time::timeout(Duration::from_secs(2), futures_util::future::join_all(twins)).await;
    assert!(impatient.is_err());
    assert_eq!(once.works.slots.free(), 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = claims.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(claims.load(Ordering::Relaxed), before, "nobody looks for a caller who has gone");
    assert!(once.rooms.is_empty());
}

#[tokio::test(start_paused = true)]
async fn past_what_is_allowed_there_is_no_more_work() {
    let mut store = MockIdempotencyStore::new();
    store.expect_claim().returning(|_, _, _| Ok(Claimed::Won));
    store.expect_complete().returning(|_, _, _, _| Ok(Completed::Stored));
    let once = engine(store, TIMES);
    let three = (0..3).map(|_| once.run(key(), work(&Arc::default(), Duration::from_secs(1), 200)));
    let answers: Vec<_> = futures_util::future::join_all(three).await.into_iter().map(told).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2);
    assert!(answers.contains(&Err("Overloaded".to_owned())));
}

/// A store that gives the key to whoever asks, takes an intent, and wants to hear once that nobody knows; never that the key is
/// free.
fn left_unknown() -> MockIdempotencyStore {
    let mut store = free();
    store.expect_intend().times(2..).returning(|_, _, _, _| Ok(true));
    store.expect_leave_unknown().times(1).returning(|_, _| Ok(()));
    store
}

#[tokio::test(start_paused = true)]
async fn work_of_which_nobody_knows_leaves_its_key_unknown() {
    let once = engine(left_unknown(), TIMES);
    let answer = once
        .run_intended(key(), |intention| async move {
            assert!(matches!(intention.record().await, Ok(true)));
            Err(Failure::Unknown("lost"))
        })
        .await;
    assert_eq!(told(answer), Err(r#"Unknown(Some("lost"))"#.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn intended_work_that_panics_or_is_given_up_leaves_its_key_unknown() {
    let answer = engine(left_unknown(), TIMES)
        .run_intended::<Told, _>(key(), |intention| async move {
            let _recorded = intention.record().await;
            panic!("on purpose")
        })
        .await;
    assert_eq!(told(answer), Err("Unknown(None)".to_owned()));

    let once = engine(left_unknown(), TIMES);
    let running = tokio::spawn({
        let once = Arc::clone(&once);
        async move {
            let work = |intention: Intention| async move {
                let _recorded = intention.record().await;
                std::future::pending().await
            };
            once.run_intended::<Told, _>(key(), work).await
        }
    });
    tokio::time::sleep(Duration::from_mins(1)).await;
    once.works.give_up();
    once.works.finish().await;
    assert_eq!(told(running.await.expect("an answer")), Err("Unknown(None)".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn intended_work_that_was_not_done_after_all_frees_its_key() {
    // What the store may still do unheard is taken back: twice, beside the release itself.
    for (recorded, releases) in [(Ok(true), 1), (Ok(false), 1), (Err(true), 1), (Err(false), 3)] {
        let mut store = free();
        store
            .expect_intend()
            .times(1)
            .returning(move |_, _, _, _| recorded.map_err(|refused| if refused { down() } else { StoreDown::NoAnswer(anyhow!("hung")) }));
        store.expect_release().times(releases).returning(|_, _| Ok(()));
        let work = move |intention: Intention| async move {
            assert_eq!(intention.record().await.ok(), recorded.ok());
            Err(Failure::NotDone("not done"))
        };
        let once = engine(store, TIMES);
        assert_eq!(told(once.run_intended(key(), work).await), Err(r#"Work("not done")"#.to_owned()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        once.works.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_waits_after_a_refusal_can_be_given_up_and_frees_its_key() {
    let mut store = free();
    store.expect_intend().times(1).returning(|_, _, _, _| Ok(true));
    store.expect_renew().returning(|_, _, _| Ok(true));
    store.expect_release().times(1).returning(|_, _| Ok(()));
    let once = engine(store, TIMES);
    let running = tokio::spawn({
        let once = Arc::clone(&once);
        let work = |intention: Intention| async move {
            let _recorded = intention.record().await;
            intention.refused();
            std::future::pending().await
        };
        async move { once.run_intended::<Told, _>(key(), work).await }
    });
    tokio::time::sleep(Duration::from_mins(1)).await;
    once.works.give_up();
    once.works.finish().await;
    assert_eq!(told(running.await.expect("an answer")), Err("ShuttingDown".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_intent_is_renewed_with_its_lease_since_a_store_may_have_lost_both() {
    let intended = Arc::new(AtomicUsize::new(0));
    let mut store = free();
    let count = Arc::clone(&intended);
    store.expect_intend().returning(move |_, _, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    });
    store.expect_complete().times(1).returning(|_, _, _, _| Ok(Completed::Stored));
    let work = |intention: Intention| async move {
        let _recorded = intention.record().await;
        tokio::time::sleep(Duration::from_secs(35)).await;
        Ok(reply(200))
    };
    assert_eq!(told(engine(store, TIMES).run_intended::<Told, _>(key(), work).await), Ok(first(200)));
    assert_eq!(intended.load(Ordering::Relaxed), 4, "once before the work, and at each third of the lease");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_work_of_which_nobody_knows_is_told_so() {
    let other = Digest::from_bytes(&[1; 32]).expect("a digest");
    for (theirs, expected) in [(key().fingerprint, "Unknown(None)"), (other, "Mismatch")] {
        let mut store = MockIdempotencyStore::new();
        store.expect_claim().times(1).returning(move |_, _, _| Ok(Claimed::Unknown(theirs)));
        let once = engine(store, Times { wait: Duration::from_secs(5), ..TIMES });
        let began = Arc::default();
        assert_eq!(told(once.run(key(), work(&began, Duration::ZERO, 200)).await), Err(expected.to_owned()));
        assert_eq!(began.load(Ordering::Relaxed), 0);
        assert_eq!(metric(&once, r#"idempotency_requests_total{outcome="unknown",route="/x"} 1"#), expected == "Unknown(None)");
    }
}
