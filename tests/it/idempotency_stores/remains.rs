//! What remains in a store of work whose outcome nobody knows: every instance sees it, and it is not for ever.

use std::sync::Arc;

use cxone_data_action::app::ports::{Claimed, IdempotencyStore};

use super::unknown::{ends_unknown, intended, is_listed, resolve, told, unknown};
use super::{LONG, SHORT, key, postgres_store, redis_store, reply, won};
use crate::support::{Database, Redis, wait_until};

/// What a process leaves behind when it is killed: an intent, and nobody to speak of it.
async fn is_seen_by_another_instance(one: &dyn IdempotencyStore, other: &dyn IdempotencyStore) {
    let (over, left) = (key("of a dead one", "a"), key("of a leaving one", "a"));
    intended(one, &over, SHORT, LONG).await;
    ends_unknown(other, &over).await;
    unknown(one, &left).await;
    for (key, answer) in [(over, Some("done")), (left, None)] {
        assert_eq!(told(other, &key).await, Claimed::Unknown(key.fingerprint));
        assert!(is_listed(other, &key).await);
        assert!(resolve(other, &key, answer).await);
        assert!(!resolve(one, &key, answer).await && !is_listed(one, &key).await);
    }
}

#[tokio::test]
async fn what_one_instance_left_unknown_in_redis_is_seen_by_every_other() {
    let redis = Redis::start().await;
    is_seen_by_another_instance(&redis_store(&redis), &redis_store(&redis)).await;
}

#[tokio::test]
async fn what_one_instance_left_unknown_in_postgres_is_seen_by_every_other() {
    let database = Database::new().await;
    is_seen_by_another_instance(&postgres_store(&database), &postgres_store(&database)).await;
}

/// Every key in a Redis has an end.
async fn nothing_is_for_ever(redis: &Redis, after: &str) {
    let names: Vec<String> = redis.run(&["KEYS", "*"]).await;
    assert!(!names.is_empty(), "{after}");
    for name in names {
        // -2: gone meanwhile; -1: no end.
        assert_ne!(redis.run::<i64>(&["PTTL", &name]).await, -1, "{name} after {after}");
    }
}

#[tokio::test]
async fn redis_keeps_nothing_for_ever() {
    let redis = Redis::start().await;
    let (store, name) = (redis_store(&redis), key("every step", "a"));
    let owner = won(&store, &name, LONG).await;
    nothing_is_for_ever(&redis, "claim").await;
    assert!(store.intend(&name, owner, LONG, LONG).await.expect("an answer"));
    nothing_is_for_ever(&redis, "intend").await;
    assert!(store.renew(&name, owner, LONG).await.expect("an answer"));
    nothing_is_for_ever(&redis, "renew").await;
    store.leave_unknown(&name, owner).await.expect("an answer");
    nothing_is_for_ever(&redis, "leave_unknown").await;
    assert!(is_listed(&store, &name).await && resolve(&store, &name, Some("x")).await);
    nothing_is_for_ever(&redis, "resolve").await;
    let completed = key("completed", "a");
    let owner = intended(&store, &completed, LONG, LONG).await;
    store.complete(&completed, owner, &reply("x"), LONG).await.expect("an answer");
    nothing_is_for_ever(&redis, "complete").await;
    store.count(&[Arc::clone(&name.scope)]).await.expect("a count");
    nothing_is_for_ever(&redis, "count").await;
}

#[tokio::test]
async fn a_sweep_of_postgres_takes_what_was_unknown_for_long_enough() {
    let database = Database::new().await;
    let (store, brief) = (postgres_store(&database), key("swept at last", "a"));
    let owner = intended(&store, &brief, SHORT, SHORT).await;
    store.leave_unknown(&brief, owner).await.expect("an answer");
    let swept = async || Some(store.sweep().await.expect("a sweep").0).filter(|rows| *rows > 0);
    assert_eq!(wait_until("it is swept", swept).await, 1);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM idempotency").await, 0);
}
