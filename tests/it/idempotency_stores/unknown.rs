//! Work that cannot be taken back: what a store keeps of an intent, until somebody says what became of it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cxone_data_action::app::ports::{Claimed, Completed, IdempotencyStore, Unresolved};
use cxone_data_action::domain::{IdempotencyKey, Owner};
use futures_util::future::join_all;

use super::{LONG, SHORT, has_counts, key, reply, won};
use crate::support::{tally, wait_until};

/// What clocks of one machine may be apart, and what stores may round away.
const SLACK: TimeDelta = TimeDelta::seconds(1);

/// A key whose intent is on record.
pub(super) async fn intended(store: &dyn IdempotencyStore, key: &IdempotencyKey, lease: Duration, keep: Duration) -> Owner {
    let owner = won(store, key, lease).await;
    assert!(store.intend(key, owner, lease, keep).await.expect("an answer"));
    owner
}

/// A key of which nobody knows whether its work was done.
pub(super) async fn unknown(store: &dyn IdempotencyStore, key: &IdempotencyKey) -> Owner {
    let owner = intended(store, key, LONG, LONG).await;
    store.leave_unknown(key, owner).await.expect("an answer");
    owner
}

/// What somebody is told who comes now.
pub(super) async fn told(store: &dyn IdempotencyStore, key: &IdempotencyKey) -> Claimed {
    store.claim(key, Owner::draw(), LONG).await.expect("an answer")
}

/// Waits for the end of a lease that nobody is to win.
pub(super) async fn ends_unknown(store: &dyn IdempotencyStore, key: &IdempotencyKey) {
    wait_until("the lease has ended", async || match told(store, key).await {
        Claimed::Leased(fingerprint) if fingerprint == key.fingerprint => None,
        Claimed::Unknown(fingerprint) if fingerprint == key.fingerprint => Some(()),
        other => panic!("{other:?}"),
    })
    .await;
}

async fn listed(store: &dyn IdempotencyStore, scopes: &[Arc<str>]) -> Vec<Unresolved> {
    store.unresolved(scopes).await.expect("a list")
}

pub(super) async fn is_listed(store: &dyn IdempotencyStore, key: &IdempotencyKey) -> bool {
    listed(store, &[Arc::clone(&key.scope)]).await.iter().any(|found| found.hash == key.hash)
}

pub(super) async fn resolve(store: &dyn IdempotencyStore, key: &IdempotencyKey, answer: Option<&'static str>) -> bool {
    let answer = answer.map(|text| (reply(text), LONG));
    store.resolve(&key.scope, &key.hash, answer).await.expect("an answer")
}

/// The same for every store.
pub(super) async fn holds_the_contract(store: &dyn IdempotencyStore) {
    an_intent_is_held_by_its_lease_and_unknown_after_it(store).await;
    an_intent_needs_no_claim_that_the_store_remembers(store).await;
    renewing_and_claiming_again_keep_the_intent(store).await;
    an_owner_that_comes_late_has_its_key_still(store).await;
    leaving_it_unknown_ends_the_lease_at_once_and_needs_an_intent(store).await;
    an_answer_takes_the_place_of_an_intent(store).await;
    a_release_takes_the_intent_away(store).await;
    a_stranger_changes_nothing(store).await;
    what_is_unknown_ends(store).await;
    what_is_unknown_is_kept_from_the_end_of_its_lease(store).await;
    a_sweep_leaves_what_is_unknown(store).await;
    the_payload_of_what_is_unknown_is_told(store).await;
    a_freed_key_is_like_new(store).await;
    an_answer_that_somebody_gives_is_kept(store).await;
    only_what_is_unknown_can_be_resolved(store).await;
    nobody_wins_what_is_unknown(store).await;
    nobody_wins_when_the_lease_of_an_intent_ends(store).await;
    of_many_who_resolve_a_key_one_does(store).await;
    what_is_done_is_never_changed(store).await;
    what_is_unknown_is_listed_oldest_first(store).await;
    all_three_states_are_counted(store).await;
}

async fn an_intent_is_held_by_its_lease_and_unknown_after_it(store: &dyn IdempotencyStore) {
    let (held, over) = (key("intent held", "a"), key("intent over", "a"));
    intended(store, &held, LONG, LONG).await;
    intended(store, &over, SHORT, LONG).await;
    ends_unknown(store, &over).await;
    assert_eq!(told(store, &held).await, Claimed::Leased(held.fingerprint));
    assert!(!is_listed(store, &held).await && is_listed(store, &over).await);
}

async fn an_intent_needs_no_claim_that_the_store_remembers(store: &dyn IdempotencyStore) {
    let (key, owner) = (key("intent of nobody's key", "a"), Owner::draw());
    for _ in 0..2 {
        assert!(store.intend(&key, owner, LONG, LONG).await.expect("an answer"), "it may be repeated");
    }
    assert_eq!(told(store, &key).await, Claimed::Leased(key.fingerprint));
    store.leave_unknown(&key, owner).await.expect("an answer");
    assert_eq!(told(store, &key).await, Claimed::Unknown(key.fingerprint));
}

async fn renewing_and_claiming_again_keep_the_intent(store: &dyn IdempotencyStore) {
    let key = key("intent renewed", "a");
    let owner = intended(store, &key, LONG, LONG).await;
    assert_eq!(store.claim(&key, owner, LONG).await.expect("an answer"), Claimed::Won);
    for lease in [LONG, SHORT] {
        assert!(store.renew(&key, owner, lease).await.expect("an answer"));
    }
    ends_unknown(store, &key).await;
}

async fn an_owner_that_comes_late_has_its_key_still(store: &dyn IdempotencyStore) {
    let key = key("intent late", "a");
    let owner = intended(store, &key, SHORT, LONG).await;
    for again in ["renew", "intend"] {
        ends_unknown(store, &key).await;
        let ours = match again {
            "renew" => store.renew(&key, owner, LONG).await,
            _ => store.intend(&key, owner, LONG, LONG).await,
        };
        assert!(ours.expect("an answer"), "{again}");
        assert_eq!(told(store, &key).await, Claimed::Leased(key.fingerprint), "{again}");
        store.leave_unknown(&key, owner).await.expect("an answer");
    }
}

async fn leaving_it_unknown_ends_the_lease_at_once_and_needs_an_intent(store: &dyn IdempotencyStore) {
    let left = key("left", "a");
    let owner = intended(store, &left, LONG, LONG).await;
    for _ in 0..2 {
        store.leave_unknown(&left, owner).await.expect("an answer");
        assert_eq!(told(store, &left).await, Claimed::Unknown(left.fingerprint));
    }

    let without = key("left without intent", "a");
    let owner = won(store, &without, LONG).await;
    store.leave_unknown(&without, owner).await.expect("an answer");
    assert_eq!(told(store, &without).await, Claimed::Leased(without.fingerprint), "still held");
    store.release(&without, owner).await.expect("an answer");
    store.leave_unknown(&without, owner).await.expect("an answer");
    assert_eq!(told(store, &without).await, Claimed::Won, "still free");
}

async fn an_answer_takes_the_place_of_an_intent(store: &dyn IdempotencyStore) {
    let (early, late, left) = (key("answer early", "a"), key("answer late", "a"), key("answer left", "a"));
    let of_early = intended(store, &early, LONG, LONG).await;
    let of_late = intended(store, &late, SHORT, LONG).await;
    ends_unknown(store, &late).await;
    let of_left = unknown(store, &left).await;
    for (key, owner) in [(early, of_early), (late, of_late), (left, of_left)] {
        for _ in 0..2 {
            assert_eq!(store.complete(&key, owner, &reply("done"), LONG).await.expect("an answer"), Completed::Stored);
        }
        assert_eq!(told(store, &key).await, Claimed::Done(key.fingerprint, reply("done")));
        assert!(!is_listed(store, &key).await && !resolve(store, &key, None).await);
    }
    // The intent is gone, so that it cannot come back when the answer ends.
    let brief = key("answer brief", "a");
    let owner = intended(store, &brief, LONG, LONG).await;
    assert_eq!(store.complete(&brief, owner, &reply("brief"), SHORT).await.expect("an answer"), Completed::Stored);
    won(store, &brief, LONG).await;
}

async fn a_release_takes_the_intent_away(store: &dyn IdempotencyStore) {
    let (early, late, left) = (key("release early", "a"), key("release late", "a"), key("release left", "a"));
    let of_early = intended(store, &early, LONG, LONG).await;
    let of_late = intended(store, &late, SHORT, LONG).await;
    ends_unknown(store, &late).await;
    let of_left = unknown(store, &left).await;
    for (key, owner) in [(early, of_early), (late, of_late), (left, of_left)] {
        for _ in 0..2 {
            store.release(&key, owner).await.expect("an answer");
        }
        assert!(!is_listed(store, &key).await);
        let next = Owner::draw();
        assert_eq!(store.claim(&key, next, SHORT).await.expect("an answer"), Claimed::Won);
        // A plain lease, which leaves nothing behind.
        assert_ne!(won(store, &key, LONG).await, next);
    }
}

async fn a_stranger_changes_nothing(store: &dyn IdempotencyStore) {
    let (held, left) = (key("stranger held", "a"), key("stranger left", "a"));
    intended(store, &held, LONG, LONG).await;
    unknown(store, &left).await;
    let since = async || {
        listed(store, std::slice::from_ref(&left.scope)).await.into_iter().find(|found| found.hash == left.hash).map(|found| found.since)
    };
    let before = since().await.expect("it is listed");
    a_moment_later().await;
    for (key, expected) in [(&held, Claimed::Leased(held.fingerprint)), (&left, Claimed::Unknown(left.fingerprint))] {
        let stranger = Owner::draw();
        assert!(!store.renew(key, stranger, LONG).await.expect("an answer"), "{expected:?}");
        assert!(!store.intend(key, stranger, LONG, LONG).await.expect("an answer"), "{expected:?}");
        assert_eq!(store.complete(key, stranger, &reply("x"), LONG).await.expect("an answer"), Completed::Lost(None), "{expected:?}");
        store.leave_unknown(key, stranger).await.expect("an answer");
        store.release(key, stranger).await.expect("an answer");
        assert_eq!(told(store, key).await, expected);
    }
    assert_eq!(since().await, Some(before), "it is as old as it was");
}

async fn what_is_unknown_ends(store: &dyn IdempotencyStore) {
    const KEEP: Duration = Duration::from_secs(2);
    let key = key("unknown no more", "a");
    let owner = intended(store, &key, SHORT, KEEP).await;
    ends_unknown(store, &key).await;
    wait_until("the key is free", async || {
        // Saying it again does not make it last.
        store.leave_unknown(&key, owner).await.expect("an answer");
        (told(store, &key).await == Claimed::Won).then_some(())
    })
    .await;
    assert!(!store.renew(&key, owner, LONG).await.expect("an answer"), "it is the next one's");
    assert!(!is_listed(store, &key).await && !resolve(store, &key, None).await);
}

/// However short that is beside the lease, and however often that is renewed.
async fn what_is_unknown_is_kept_from_the_end_of_its_lease(store: &dyn IdempotencyStore) {
    const LEASE: Duration = Duration::from_secs(3);
    const KEEP: Duration = Duration::from_secs(2);
    let [dead, renewed, left] = ["dead", "renewed", "left"].map(|name| key(&format!("kept from the end {name}"), "a"));
    intended(store, &dead, LEASE, KEEP).await;
    let owner = intended(store, &renewed, SHORT, KEEP).await;
    assert!(store.renew(&renewed, owner, LEASE).await.expect("an answer"));
    let owner = intended(store, &left, LONG, KEEP).await;
    store.leave_unknown(&left, owner).await.expect("an answer");
    let of = async |key| {
        ends_unknown(store, key).await;
        won(store, key, LONG).await
    };
    tokio::join!(of(&dead), of(&renewed), of(&left));
}

async fn a_sweep_leaves_what_is_unknown(store: &dyn IdempotencyStore) {
    let (over, left) = (key("swept over", "a"), key("swept left", "a"));
    intended(store, &over, SHORT, LONG).await;
    ends_unknown(store, &over).await;
    unknown(store, &left).await;
    store.sweep().await.expect("a sweep");
    for key in [over, left] {
        assert_eq!(told(store, &key).await, Claimed::Unknown(key.fingerprint));
        assert!(is_listed(store, &key).await);
    }
}

async fn the_payload_of_what_is_unknown_is_told(store: &dyn IdempotencyStore) {
    let (first, other) = (key("unknown mismatch", "a"), key("unknown mismatch", "b"));
    intended(store, &first, SHORT, LONG).await;
    ends_unknown(store, &first).await;
    assert_eq!(told(store, &other).await, Claimed::Unknown(first.fingerprint));
    assert!(resolve(store, &other, Some("done")).await);
    assert_eq!(told(store, &other).await, Claimed::Done(first.fingerprint, reply("done")));
}

async fn a_freed_key_is_like_new(store: &dyn IdempotencyStore) {
    let key = key("resolved free", "a");
    let before = unknown(store, &key).await;
    assert!(resolve(store, &key, None).await);
    assert!(!is_listed(store, &key).await && !resolve(store, &key, None).await);
    let next = Owner::draw();
    assert_eq!(store.claim(&key, next, LONG).await.expect("an answer"), Claimed::Won);
    assert!(!resolve(store, &key, None).await, "it is under way");
    assert!(!store.renew(&key, before, LONG).await.expect("an answer"));
    store.release(&key, before).await.expect("an answer");
    assert_eq!(told(store, &key).await, Claimed::Leased(key.fingerprint));
    assert_eq!(store.complete(&key, next, &reply("next"), LONG).await.expect("an answer"), Completed::Stored);
}

async fn an_answer_that_somebody_gives_is_kept(store: &dyn IdempotencyStore) {
    let given = key("resolved done", "a");
    let before = unknown(store, &given).await;
    assert!(resolve(store, &given, Some("given\n\u{0}")).await);
    let done = Claimed::Done(given.fingerprint, reply("given\n\u{0}"));
    assert_eq!(told(store, &given).await, done);
    assert!(!is_listed(store, &given).await && !resolve(store, &given, Some("again")).await && !resolve(store, &given, None).await);
    store.release(&given, before).await.expect("an answer");
    store.leave_unknown(&given, before).await.expect("an answer");
    assert_eq!(told(store, &given).await, done);

    let brief = key("resolved briefly", "a");
    unknown(store, &brief).await;
    let answer = Some((reply("brief"), SHORT));
    assert!(store.resolve(&brief.scope, &brief.hash, answer).await.expect("an answer"));
    won(store, &brief, LONG).await;
}

async fn only_what_is_unknown_can_be_resolved(store: &dyn IdempotencyStore) {
    let [absent, leased, held, done, left] = ["absent", "leased", "held", "done", "left"].map(|name| key(&format!("resolve {name}"), "a"));
    won(store, &leased, LONG).await;
    intended(store, &held, LONG, LONG).await;
    let owner = won(store, &done, LONG).await;
    store.complete(&done, owner, &reply("done"), LONG).await.expect("an answer");
    unknown(store, &left).await;
    let elsewhere = IdempotencyKey { scope: "/elsewhere".into(), ..left.clone() };
    for key in [&absent, &leased, &held, &done, &elsewhere] {
        for answer in [None, Some("x")] {
            assert!(!resolve(store, key, answer).await, "{key:?}");
        }
    }
    assert_eq!(told(store, &absent).await, Claimed::Won);
    for key in [leased, held] {
        assert_eq!(told(store, &key).await, Claimed::Leased(key.fingerprint));
    }
    assert_eq!(told(store, &done).await, Claimed::Done(done.fingerprint, reply("done")));
    assert_eq!(told(store, &left).await, Claimed::Unknown(left.fingerprint));
}

async fn nobody_wins_what_is_unknown(store: &dyn IdempotencyStore) {
    let key = key("unknown to a hundred", "a");
    unknown(store, &key).await;
    for claim in join_all((0..100).map(|_| told(store, &key))).await {
        assert_eq!(claim, Claimed::Unknown(key.fingerprint));
    }
}

async fn nobody_wins_when_the_lease_of_an_intent_ends(store: &dyn IdempotencyStore) {
    for nth in 0..5 {
        let key = key(&format!("unknown from now {nth}"), "a");
        intended(store, &key, SHORT, LONG).await;
        join_all((0..20).map(|_| ends_unknown(store, &key))).await;
    }
}

async fn of_many_who_resolve_a_key_one_does(store: &dyn IdempotencyStore) {
    let key = key("resolved by many", "a");
    unknown(store, &key).await;
    let answers = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let resolved = join_all(answers.map(|answer| resolve(store, &key, Some(answer)))).await;
    let winners: Vec<_> = answers.iter().zip(&resolved).filter(|(_, done)| **done).map(|(answer, _)| *answer).collect();
    assert_eq!(winners.len(), 1, "{resolved:?}");
    assert_eq!(told(store, &key).await, Claimed::Done(key.fingerprint, reply(winners[0])));

    let freed = self::key("freed by many", "a");
    unknown(store, &freed).await;
    let resolved = join_all((0..10).map(|_| resolve(store, &freed, None))).await;
    assert_eq!(tally(resolved).into_iter().collect::<Vec<_>>(), [(false, 9), (true, 1)]);
}

async fn what_is_done_is_never_changed(store: &dyn IdempotencyStore) {
    let key = key("done for good", "a");
    let owner = won(store, &key, LONG).await;
    store.complete(&key, owner, &reply("done"), LONG).await.expect("an answer");
    for whoever in [owner, Owner::draw()] {
        assert!(!store.intend(&key, whoever, LONG, LONG).await.expect("an answer"));
        store.leave_unknown(&key, whoever).await.expect("an answer");
        assert!(!resolve(store, &key, None).await && !resolve(store, &key, Some("other")).await);
        assert_eq!(told(store, &key).await, Claimed::Done(key.fingerprint, reply("done")));
    }
    assert!(!is_listed(store, &key).await);
}

async fn all_three_states_are_counted(store: &dyn IdempotencyStore) {
    let scopes: [Arc<str>; 2] = ["/counted unknown".into(), "/empty too".into()];
    let key = |name: &str| IdempotencyKey { scope: Arc::clone(&scopes[0]), ..key(&format!("three states {name}"), "a") };
    won(store, &key("leased"), LONG).await;
    intended(store, &key("intended"), LONG, LONG).await;
    intended(store, &key("over"), SHORT, LONG).await;
    for name in ["left", "left too", "freed", "given"] {
        unknown(store, &key(name)).await;
    }
    let owner = intended(store, &key("released"), LONG, LONG).await;
    store.release(&key("released"), owner).await.expect("an answer");
    let owner = intended(store, &key("completed"), LONG, LONG).await;
    store.complete(&key("completed"), owner, &reply("x"), LONG).await.expect("an answer");
    assert!(resolve(store, &key("freed"), None).await && resolve(store, &key("given"), Some("x")).await);
    let expected = [("leased", [2, 0]), ("done", [2, 0]), ("unknown", [3, 0])];
    let of = |nth: usize| (scopes[nth].to_string(), expected.iter().map(|(state, counts)| (*state, counts[nth])).collect());
    has_counts(store, &scopes, [of(0), of(1)].into()).await;
}

/// Later than everything before, by the clock that stores go by.
async fn a_moment_later() -> DateTime<Utc> {
    let before = Utc::now();
    wait_until("time has passed", async || Some(Utc::now()).filter(|now| *now - before > TimeDelta::milliseconds(5))).await
}

async fn what_is_unknown_is_listed_oldest_first(store: &dyn IdempotencyStore) {
    let scopes: [Arc<str>; 3] = ["/listed".into(), "/listed too".into(), "/not asked for".into()];
    assert_eq!(listed(store, &scopes).await, []);
    let keys: Vec<_> =
        (0..9).map(|nth| IdempotencyKey { scope: Arc::clone(&scopes[nth % 3]), ..key(&format!("list {nth}"), "a") }).collect();
    let mut begun = Vec::new();
    for (nth, key) in (0..).zip(&keys) {
        let before = a_moment_later().await;
        // Whoever came first stays longest.
        let keep = Duration::from_mins(20 - nth);
        let owner = intended(store, key, LONG, keep).await;
        begun.push((key, owner, before, Utc::now(), keep));
    }
    assert_eq!(listed(store, &scopes).await, [], "all are under way");
    for (key, owner, ..) in begun.iter().rev() {
        store.leave_unknown(key, *owner).await.expect("an answer");
    }
    let found = listed(store, &scopes[..2]).await;
    let expected: Vec<_> = begun.iter().filter(|(key, ..)| key.scope != scopes[2]).collect();
    let names = |scope: &str, hash: &dyn std::fmt::Display| format!("{scope} {hash}");
    assert_eq!(
        found.iter().map(|found| names(&found.scope, &found.hash)).collect::<Vec<_>>(),
        expected.iter().map(|(key, ..)| names(&key.scope, &key.hash)).collect::<Vec<_>>()
    );
    for (found, (_, _, before, after, keep)) in found.iter().zip(expected) {
        let keep = TimeDelta::from_std(*keep).expect("minutes");
        assert!((*before - SLACK..=*after + SLACK).contains(&found.since), "{found:?} begun at {before}");
        assert!((*before + keep - SLACK..=*after + keep + SLACK).contains(&found.until), "{found:?} begun at {before}");
    }
    assert_eq!(listed(store, &[]).await, []);
}
