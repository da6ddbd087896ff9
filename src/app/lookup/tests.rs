//! What is hard to make happen from outside: each fault by a mock at its seam.

use super::*;
use crate::app::ports::{Cache, CacheError, MockCache, MockCustomerStore};
use crate::domain::ServerStart;

fn id(n: u128) -> CustomerId {
    CustomerId::from_uuid(Uuid::from_u128(n)).expect("not nil")
}

fn request(ids: &[u128]) -> LookupRequest {
    LookupRequest {
        tenant: "acme42".parse().expect("a tenant"),
        batch: CustomerBatch::new(ids.iter().map(|n| id(*n)), 100).expect("a batch"),
        action: "process_customer_batch",
        key_id: "default".into(),
        request_id: RequestId::generate(),
        contact_id: None,
    }
}

fn present(text: &'static str) -> Cached {
    Cached { known: Known::Present(text.as_bytes().into()), version: 1, seen: 1, epoch: Epoch::default(), keep: Duration::from_secs(1) }
}

fn lookup(store: MockCustomerStore, shared: Option<MockCache>) -> Lookup {
    let limits = Limits {
        deadline: Duration::from_secs(1),
        max_in_flight: 1,
        audit_cache_hits: true,
        ttl: Duration::from_mins(1),
        absent_ttl: Duration::ZERO,
    };
    let metrics = Arc::new(Metrics::new(1).expect("metrics"));
    let cache = CustomerCache::new(0, shared.map(|cache| Arc::new(cache) as Arc<dyn Cache>), false, Arc::clone(&metrics));
    Lookup::new(Arc::new(store), Arc::new(cache), metrics, limits)
}

fn knowing(answers: Vec<Option<Cached>>) -> MockCache {
    let mut cache = MockCache::new();
    cache.expect_tier().return_const("redis");
    cache.expect_get().returning(move |_, _, _| Ok(answers.clone()));
    cache
}

fn reading(found: &[u128]) -> Reading {
    let document = |n: &u128| CustomerDocument { id: id(*n), version: 1, json: n.to_string().into_bytes().into() };
    Reading { found: found.iter().map(document).collect(), seen: 1, server: ServerStart::default() }
}

fn finding(found: &'static [u128]) -> MockCustomerStore {
    let mut store = MockCustomerStore::new();
    store.expect_lookup_and_audit().times(1).returning(move |_, _, _| Ok(reading(found)));
    store
}

#[tokio::test]
async fn a_cache_that_fails_is_passed_by_and_an_absence_of_no_duration_is_not_kept() {
    let mut cache = MockCache::new();
    cache.expect_tier().return_const("redis");
    cache.expect_get().returning(|_, _, _| Err(CacheError::CircuitOpen));
    cache.expect_put().times(1).withf(|entries| entries.iter().map(|(_, id, _)| *id).eq([id(2)])).returning(|_| Ok(()));
    let lookup = lookup(finding(&[2]), Some(cache));
    let answer = lookup.run(request(&[1, 2])).await.expect("an answer");
    lookup.finish().await;
    assert_eq!((answer.cache, answer.missing, answer.found.len()), (CacheUse::Bypass, vec![id(1)], 1));
}

#[tokio::test]
async fn the_store_is_asked_for_what_the_cache_lacks_and_again_for_what_it_holds_as_absent() {
    let absent = Cached { known: Known::Absent, version: 0, seen: 1, epoch: Epoch::default(), keep: Duration::from_secs(1) };
    let mut cache = knowing(vec![Some(present("1")), Some(absent), None]);
    cache.expect_put().returning(|_| Ok(()));
    let mut store = MockCustomerStore::new();
    let wanted = |entry: &AuditEntry, asked: &Vec<CustomerId>, _: &Instant| {
        entry.source == Source::Mixed && entry.customer_ids == [id(1), id(2), id(3)] && *asked == [id(2), id(3)]
    };
    store.expect_lookup_and_audit().times(1).withf(wanted).returning(|_, _, _| Ok(reading(&[2])));
    let answer = lookup(store, Some(cache)).run(request(&[1, 2, 3])).await.expect("an answer");
    let found: Vec<_> = answer.found.iter().map(|(id, _)| *id).collect();
    assert_eq!((answer.cache, found, answer.missing), (CacheUse::Partial, vec![id(1), id(2)], vec![id(3)]));
}

#[tokio::test]
async fn an_answer_from_the_cache_that_cannot_be_audited_is_not_given() {
    let mut store = MockCustomerStore::new();
    store.expect_audit().times(1).returning(|_, _, _| Err(StoreError::Timeout));
    let result = lookup(store, Some(knowing(vec![Some(present("1"))]))).run(request(&[1])).await;
    assert!(matches!(result, Err(LookupError::Store(StoreError::Timeout))), "{result:?}");
}

#[tokio::test]
async fn work_that_panics_is_an_error_and_frees_its_slot() {
    let mut store = MockCustomerStore::new();
    store.expect_lookup_and_audit().returning(|_, _, _| panic!("a defect"));
    let lookup = lookup(store, None);
    for _ in 0..3 {
        let result = lookup.run(request(&[1])).await;
        assert!(matches!(result, Err(LookupError::Panicked)), "{result:?}");
    }
}

#[tokio::test]
async fn nothing_is_taken_once_the_service_goes_down() {
    let lookup = lookup(MockCustomerStore::new(), None);
    lookup.finish().await;
    assert!(matches!(lookup.run(request(&[1])).await, Err(LookupError::ShuttingDown)));
}

#[test]
fn entries_filled_together_do_not_end_together() {
    let ttl = Duration::from_secs(10);
    let times: Vec<_> = (0..1000).map(|_| jittered(ttl)).collect();
    assert!(times.iter().all(|time| (ttl.mul_f64(0.9)..ttl.mul_f64(1.1)).contains(time)));
    assert!(times.iter().max() > times.iter().min());
}
