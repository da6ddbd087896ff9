//! What is hard to make happen from outside: a shared tier that misbehaves at the worst moment.

use uuid::Uuid;

use super::*;
use crate::app::ports::MockCache;
use crate::domain::ServerStart;

fn tenant() -> TenantId {
    "acme42".parse().expect("a tenant")
}

fn id() -> CustomerId {
    CustomerId::from_uuid(Uuid::from_u128(1)).expect("not nil")
}

fn cached(seen: u64) -> Cached {
    Cached { known: Known::Present(b"{}".as_slice().into()), version: 1, seen, epoch: Epoch(1), keep: Duration::from_mins(1) }
}

fn beat(number: u64, seen: u64) -> Beat {
    Beat { number, seen, server: ServerStart(1), epoch: Epoch(1) }
}

fn cache(shared: MockCache) -> CustomerCache {
    let cache = CustomerCache::new(100, Some(Arc::new(shared)), true, Arc::new(Metrics::new(1).expect("metrics")));
    cache.beat_sent(1);
    cache.beat_heard(beat(1, 50));
    cache
}

fn shared(incarnation: u64) -> MockCache {
    let mut shared = MockCache::new();
    shared.expect_tier().return_const("redis");
    shared.expect_incarnation().return_const(incarnation);
    shared.expect_get().returning(|_, _, _| Ok(vec![Some(cached(60))]));
    shared
}

async fn found_far(cache: &CustomerCache, vantage: &Vantage) -> usize {
    cache.far(&tenant(), &[id()], vantage).await.expect("an answer").len()
}

#[tokio::test]
async fn what_was_got_from_the_shared_tier_while_a_change_was_told_is_not_kept() {
    let mut shared = shared(0);
    shared.expect_invalidate().returning(|_, _| Ok(()));
    let cache = cache(shared);
    let vantage = cache.vantage(&tenant()).expect("believed");
    cache.changed(vec![Change::Customers(vec![(tenant(), id(), 2)])]).await;
    assert_eq!(found_far(&cache, &vantage).await, 1);
    assert!(cache.near(&tenant(), id(), &cache.vantage(&tenant()).expect("believed")).is_none());
}

#[tokio::test]
async fn a_shared_tier_that_could_not_be_told_of_a_change_is_asked_again_after_a_beat() {
    let mut shared = shared(0);
    shared.expect_invalidate().returning(|_, _| Err(CacheError::Timeout));
    let cache = cache(shared);
    assert!(cache.far_tier(&cache.vantage(&tenant()).expect("believed")).is_some());
    cache.changed(vec![Change::Customers(vec![(tenant(), id(), 2)])]).await;
    assert!(cache.far_tier(&cache.vantage(&tenant()).expect("believed")).is_none());
    cache.beat_sent(2);
    cache.beat_heard(beat(2, 60));
    let vantage = cache.vantage(&tenant()).expect("believed");
    assert!(cache.far_tier(&vantage).is_some());
    assert_eq!(found_far(&cache, &vantage).await, 0, "it was read before the beat");
}

#[tokio::test]
async fn a_shared_tier_that_turns_out_to_be_another_is_not_believed() {
    let mut shared = MockCache::new();
    shared.expect_incarnation().times(1).return_const(0u64);
    shared.expect_incarnation().return_const(1u64);
    shared.expect_get().returning(|_, _, _| Ok(vec![Some(cached(60))]));
    let cache = cache(shared);
    assert_eq!(found_far(&cache, &cache.vantage(&tenant()).expect("believed")).await, 0);
}

#[tokio::test]
async fn what_has_waited_to_be_shared_lives_no_longer_for_it() {
    let mut shared = shared(0);
    let half = |entries: &[(TenantId, CustomerId, Cached)]| match entries {
        [(_, _, Cached { keep, .. })] => (20..=30).contains(&keep.as_secs()),
        _ => false,
    };
    shared.expect_put().times(1).withf(half).returning(|_| Ok(()));
    let cache = cache(shared);
    let vantage = cache.vantage(&tenant()).expect("believed");
    for waited in [60, 30] {
        let at = vantage.at.checked_sub(Duration::from_secs(waited)).expect("a time");
        assert!(cache.keep(&tenant(), vec![(id(), cached(60))], &Vantage { at, ..vantage }), "nobody fills yet");
    }
    cache.share().await;
}

#[tokio::test]
async fn a_reading_from_another_server_is_not_kept_and_nothing_is_believed_until_the_next_beat() {
    let cache = cache(shared(0));
    let vantage = cache.vantage(&tenant()).expect("believed");
    let reading = |server| Reading { server: ServerStart(server), ..Reading::default() };
    assert_eq!(cache.epoch_of(&reading(1), &vantage), Some(Epoch(1)));
    assert!(cache.vantage(&tenant()).is_some());
    assert_eq!(cache.epoch_of(&reading(2), &vantage), None);
    assert!(cache.vantage(&tenant()).is_none());
}
