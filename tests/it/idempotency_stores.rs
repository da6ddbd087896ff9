//! One promise, three stores of idempotency keys: what holds for one holds for all.

mod remains;
mod unknown;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cxone_data_action::adapters::guard::GuardSettings;
use cxone_data_action::adapters::memory::idempotency::MemoryIdempotency;
use cxone_data_action::adapters::postgres::connect::Connector;
use cxone_data_action::adapters::postgres::idempotency::PostgresIdempotency;
use cxone_data_action::adapters::redis::idempotency::RedisIdempotency;
use cxone_data_action::app::ports::{Claimed, Completed, IdempotencyStore, Records, StoreDown};
use cxone_data_action::config::{Config, Flags};
use cxone_data_action::domain::{Hasher, IdempotencyKey, KeySource, Owner, StoredReply};
use cxone_data_action::metrics::Metrics;
use futures_util::future::join_all;

use crate::support::{Database, Redis, connect, tally, wait_until};

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(100);

/// The key of a name, with a payload.
fn key(name: &str, payload: &str) -> IdempotencyKey {
    let hasher = Hasher::new(&[7; 32]).expect("a hasher");
    let source = KeySource::Header("x".to_owned());
    IdempotencyKey::new(&hasher, &"/webhooks/x".into(), "caller", &source, Some(name), payload.as_bytes()).expect("a key")
}

fn reply(text: &'static str) -> StoredReply {
    let headers = vec![("content-type".to_owned(), "text/plain".to_owned()), ("x-cache".to_owned(), "hit".to_owned())];
    StoredReply { status: 201, headers, body: Bytes::from_static(text.as_bytes()) }
}

/// Waits until a claim of this key is won, and gives its owner.
async fn won(store: &dyn IdempotencyStore, key: &IdempotencyKey, lease: Duration) -> Owner {
    wait_until("the key is free", async || {
        let owner = Owner::draw();
        (store.claim(key, owner, lease).await.expect("an answer") == Claimed::Won).then_some(owner)
    })
    .await
}

async fn holds_the_contract(store: &dyn IdempotencyStore) {
    store.ready().await.expect("ready");
    one_of_many_twins_wins(store).await;
    an_answer_is_given_again_and_never_changed(store).await;
    an_answer_ends(store).await;
    a_dead_owners_lease_is_freed(store).await;
    a_late_finisher_changes_nothing(store).await;
    an_owner_that_nobody_followed_may_still_finish(store).await;
    a_renewed_lease_is_held(store).await;
    a_released_key_is_free_for_its_owner_alone_to_release(store).await;
    another_payload_is_told(store).await;
    every_step_may_be_repeated(store).await;
    scopes_are_apart_and_counted(store).await;
    unknown::holds_the_contract(store).await;
}

async fn one_of_many_twins_wins(store: &dyn IdempotencyStore) {
    let key = key("twins", "a");
    let claims = join_all((0..50).map(|_| store.claim(&key, Owner::draw(), LONG))).await;
    let counts = tally(claims.into_iter().map(|claim| match claim.expect("an answer") {
        Claimed::Won => "won",
        Claimed::Leased(fingerprint) if fingerprint == key.fingerprint => "in flight",
        other => panic!("{other:?}"),
    }));
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("in flight", 49), ("won", 1)]);
}

async fn an_answer_is_given_again_and_never_changed(store: &dyn IdempotencyStore) {
    let key = key("done", "a");
    let owner = won(store, &key, LONG).await;
    assert_eq!(store.complete(&key, owner, &reply("first\n\u{0}"), LONG).await.expect("an answer"), Completed::Stored);
    let stranger = Owner::draw();
    let done = Claimed::Done(key.fingerprint, reply("first\n\u{0}"));
    assert_eq!(store.claim(&key, stranger, LONG).await.expect("an answer"), done);
    assert_eq!(
        store.complete(&key, stranger, &reply("second"), LONG).await.expect("an answer"),
        Completed::Lost(Some((key.fingerprint, reply("first\n\u{0}"))))
    );
    assert!(!store.renew(&key, stranger, LONG).await.expect("an answer"), "a finished record is no lease");
    store.release(&key, stranger).await.expect("an answer");
    store.release(&key, owner).await.expect("an answer");
    assert_eq!(store.claim(&key, stranger, LONG).await.expect("an answer"), done);
}

async fn an_answer_ends(store: &dyn IdempotencyStore) {
    let key = key("expiry", "a");
    let owner = won(store, &key, LONG).await;
    assert_eq!(store.complete(&key, owner, &reply("old"), SHORT).await.expect("an answer"), Completed::Stored);
    let next = won(store, &key, LONG).await;
    assert_eq!(store.complete(&key, next, &reply("new"), LONG).await.expect("an answer"), Completed::Stored);
    assert_eq!(store.claim(&key, owner, LONG).await.expect("an answer"), Claimed::Done(key.fingerprint, reply("new")));
}

async fn a_dead_owners_lease_is_freed(store: &dyn IdempotencyStore) {
    let key = key("takeover", "a");
    let dead = won(store, &key, SHORT).await;
    let next = won(store, &key, LONG).await;
    assert_ne!(dead, next);
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(key.fingerprint));
}

async fn a_late_finisher_changes_nothing(store: &dyn IdempotencyStore) {
    let key = key("late", "a");
    let late = won(store, &key, SHORT).await;
    let next = won(store, &key, LONG).await;
    assert!(!store.renew(&key, late, LONG).await.expect("an answer"));
    assert_eq!(store.complete(&key, late, &reply("late"), LONG).await.expect("an answer"), Completed::Lost(None));
    store.release(&key, late).await.expect("an answer");
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(key.fingerprint), "still the next one's");
    assert_eq!(store.complete(&key, next, &reply("next"), LONG).await.expect("an answer"), Completed::Stored);
    assert_eq!(
        store.complete(&key, late, &reply("late"), LONG).await.expect("an answer"),
        Completed::Lost(Some((key.fingerprint, reply("next"))))
    );
}

async fn an_owner_that_nobody_followed_may_still_finish(store: &dyn IdempotencyStore) {
    let key = key("alone", "a");
    let owner = won(store, &key, Duration::from_millis(1)).await;
    // Whether the store has noticed the end by now or not, it comes to the same.
    assert!(store.renew(&key, owner, LONG).await.expect("an answer"));
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(key.fingerprint));
    assert_eq!(store.complete(&key, owner, &reply("late"), LONG).await.expect("an answer"), Completed::Stored);
    let forgotten = self::key("forgotten by the store", "a");
    assert_eq!(store.complete(&forgotten, owner, &reply("x"), LONG).await.expect("an answer"), Completed::Stored);
}

async fn a_renewed_lease_is_held(store: &dyn IdempotencyStore) {
    let (key, brief) = (key("renewal", "a"), key("not renewed", "a"));
    let owner = won(store, &key, SHORT).await;
    won(store, &brief, SHORT).await;
    assert!(store.renew(&key, owner, LONG).await.expect("an answer"));
    won(store, &brief, LONG).await;
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(key.fingerprint));
}

async fn a_released_key_is_free_for_its_owner_alone_to_release(store: &dyn IdempotencyStore) {
    let key = key("release", "a");
    let owner = won(store, &key, LONG).await;
    store.release(&key, Owner::draw()).await.expect("an answer");
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(key.fingerprint));
    store.release(&key, owner).await.expect("an answer");
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Won);
}

async fn another_payload_is_told(store: &dyn IdempotencyStore) {
    let (first, other) = (key("mismatch", "a"), key("mismatch", "b"));
    assert_eq!(first.hash, other.hash);
    let owner = won(store, &first, LONG).await;
    assert_eq!(store.claim(&other, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(first.fingerprint));
    store.complete(&first, owner, &reply("first"), LONG).await.expect("an answer");
    assert_eq!(store.claim(&other, Owner::draw(), LONG).await.expect("an answer"), Claimed::Done(first.fingerprint, reply("first")));
}

async fn every_step_may_be_repeated(store: &dyn IdempotencyStore) {
    let (key, owner) = (key("again", "a"), Owner::draw());
    for _ in 0..2 {
        assert_eq!(store.claim(&key, owner, LONG).await.expect("an answer"), Claimed::Won);
    }
    for _ in 0..2 {
        assert!(store.renew(&key, owner, LONG).await.expect("an answer"));
    }
    for _ in 0..2 {
        assert_eq!(store.complete(&key, owner, &reply("x"), LONG).await.expect("an answer"), Completed::Stored);
    }
    let freed = self::key("freed again", "a");
    let owner = won(store, &freed, LONG).await;
    for _ in 0..2 {
        store.release(&freed, owner).await.expect("an answer");
    }
    assert_eq!(store.claim(&freed, Owner::draw(), LONG).await.expect("an answer"), Claimed::Won);
}

/// Waits until there are so many records, by scope and state.
async fn has_counts(store: &dyn IdempotencyStore, scopes: &[Arc<str>], expected: BTreeMap<String, BTreeMap<&'static str, u64>>) {
    wait_until("the count is right", async || {
        let mut counts = BTreeMap::<_, BTreeMap<_, _>>::new();
        for Records { scope, state, count } in store.count(scopes).await.expect("a count") {
            assert_eq!(counts.entry(scope).or_default().insert(state, count), None, "{state} is counted once");
        }
        (counts == expected).then_some(())
    })
    .await;
}

async fn scopes_are_apart_and_counted(store: &dyn IdempotencyStore) {
    let scopes: [Arc<str>; 2] = ["/counted".into(), "/empty".into()];
    for nth in 0..5 {
        let key = IdempotencyKey { scope: Arc::clone(&scopes[0]), ..key(&format!("counted {nth}"), "a") };
        let owner = won(store, &key, LONG).await;
        if nth < 3 {
            store.complete(&key, owner, &reply("x"), LONG).await.expect("an answer");
        }
    }
    let over = IdempotencyKey { scope: Arc::clone(&scopes[0]), ..key("over", "a") };
    won(store, &over, SHORT).await;
    let expected = [("/counted", [2, 3, 0]), ("/empty", [0, 0, 0])];
    let expected = expected.map(|(scope, counts)| (scope.to_owned(), ["leased", "done", "unknown"].into_iter().zip(counts).collect()));
    has_counts(store, &scopes, expected.into()).await;
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    holds_the_contract(&MemoryIdempotency::default()).await;
}

fn guard() -> GuardSettings {
    GuardSettings { deadline: Duration::from_secs(10), failures: 5, open: Duration::from_secs(10), probes: 1 }
}

fn redis_store(redis: &Redis) -> RedisIdempotency {
    redis_store_at(&redis.url())
}

fn redis_store_at(url: &str) -> RedisIdempotency {
    RedisIdempotency::new(url, None, 4, guard(), Arc::new(Metrics::new(1).expect("metrics"))).expect("a store")
}

fn postgres_store(database: &Database) -> PostgresIdempotency {
    let set = vec![("database.url".to_owned(), database.url.clone()), ("database.wait_timeout".to_owned(), "10s".to_owned())];
    let settings = Config::load(&Flags { set, ..Flags::default() }).expect("settings").database;
    let connector = Connector::for_lookups(settings.url.as_ref().expect("set"), &settings).expect("a connector");
    PostgresIdempotency::new(connector, &settings, 4, Duration::from_secs(10)).expect("a store")
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract() {
    let redis = Redis::start().await;
    holds_the_contract(&redis_store_at(&redis.url_of("cxda-keys").await)).await;
}

#[tokio::test]
async fn the_postgres_store_keeps_the_contract() {
    let database = Database::new().await;
    holds_the_contract(&postgres_store(&database)).await;
}

#[tokio::test]
async fn of_two_claims_at_the_very_same_moment_the_second_loses() {
    let database = Database::new().await;
    let (store, key) = (postgres_store(&database), key("moment", "a"));
    let other = connect(&database.owner_url).await.expect("the superuser gets in");
    other.batch_execute("BEGIN").await.expect("a transaction");
    let insert = "INSERT INTO idempotency (scope, key_hash, state, owner, fingerprint, expires_at) \
        VALUES ($1, $2, 'leased', gen_random_uuid(), $3, now() + interval '1 hour')";
    other.execute(insert, &[&&*key.scope, &key.hash.as_bytes(), &key.fingerprint.as_bytes()]).await.expect("a row");
    let commit = async {
        database.waiting_sessions(1).await;
        other.batch_execute("COMMIT").await.expect("a commit");
    };
    let (claim, ()) = tokio::join!(store.claim(&key, Owner::draw(), LONG), commit);
    assert_eq!(claim.expect("an answer"), Claimed::Leased(key.fingerprint));
}

#[tokio::test]
async fn a_lease_without_an_end_is_held_by_redis() {
    let redis = Redis::start().await;
    let (store, key) = (redis_store(&redis), key("endless", "a"));
    won(&store, &key, SHORT).await;
    let name = format!("cxda:idem:v1:{{{}}}:lease", key.hash);
    assert!(redis.run::<bool>(&["PERSIST", &name]).await, "it was there, and had an end");
    assert_eq!(redis.run::<i64>(&["PTTL", &name]).await, -1);
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(key.fingerprint));
}

#[tokio::test]
async fn a_lease_without_an_end_is_held_by_postgres() {
    let database = Database::new().await;
    let (store, key) = (postgres_store(&database), key("endless", "a"));
    won(&store, &key, LONG).await;
    database.run("UPDATE idempotency SET expires_at = NULL").await;
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(key.fingerprint));
    assert_eq!(store.sweep().await.expect("a sweep"), (0, false));
    assert_eq!(store.count(&["/webhooks/x".into()]).await.expect("a count")[0].count, 1);
}

#[tokio::test]
async fn a_record_that_nobody_can_read_is_held_and_not_overwritten() {
    let redis = Redis::start().await;
    let (store, key) = (redis_store(&redis), key("foreign", "a"));
    let name = format!("cxda:idem:v1:{{{}}}:done", key.hash);
    let () = redis.run(&["SET", &name, "something else"]).await;
    let owner = Owner::draw();
    assert!(store.claim(&key, owner, LONG).await.is_err());
    assert!(store.complete(&key, owner, &reply("x"), LONG).await.is_err());
    assert_eq!(redis.run::<String>(&["GET", &name]).await, "something else");
}

#[tokio::test]
async fn a_redis_that_is_full_still_replays_what_is_done() {
    let redis = Redis::start().await;
    let (store, done) = (redis_store(&redis), key("done before", "a"));
    let owner = won(&store, &done, LONG).await;
    store.complete(&done, owner, &reply("x"), LONG).await.expect("an answer");
    let () = redis.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for nth in 0..20 {
        let claim = store.claim(&key(&format!("new {nth}"), "a"), Owner::draw(), LONG).await;
        assert!(matches!(claim, Err(StoreDown::NotAsked(_))), "{claim:?}");
    }
    assert_eq!(store.claim(&done, Owner::draw(), LONG).await.expect("an answer"), Claimed::Done(done.fingerprint, reply("x")));
}

#[tokio::test]
async fn a_redis_that_is_demoted_has_done_nothing_and_one_that_is_silent_may_have() {
    let redis = Redis::start().await;
    let settings = GuardSettings { deadline: Duration::from_millis(300), ..guard() };
    let store = RedisIdempotency::new(&redis.url(), None, 2, settings, Arc::new(Metrics::new(1).expect("metrics"))).expect("a store");
    let claim = async |name: &str| store.claim(&key(name, "a"), Owner::draw(), LONG).await;
    won(&store, &key("before", "a"), LONG).await;
    redis.demote().await;
    for nth in 0..10 {
        let claim = claim(&format!("demoted {nth}")).await;
        assert!(matches!(claim, Err(StoreDown::NotAsked(_))), "{claim:?}");
    }
    assert_eq!(store.refusal(), Some("REPLICA"));
    redis.promote().await;
    wait_until("keys are taken", async || claim("promoted").await.ok()).await;
    redis.freeze();
    let claim = claim("frozen").await;
    redis.thaw();
    assert!(matches!(claim, Err(StoreDown::NoAnswer(_))), "{claim:?}");
}

#[tokio::test]
async fn a_redis_that_restarted_empty_gives_the_key_back_to_its_owner() {
    let mut redis = Redis::start().await;
    let (store, key) = (redis_store(&redis), key("restart", "a"));
    let owner = won(&store, &key, LONG).await;
    redis.kill();
    redis.start_again().await;
    assert!(store.renew(&key, owner, LONG).await.expect("an answer on a new connection"));
    assert_eq!(store.claim(&key, Owner::draw(), LONG).await.expect("an answer"), Claimed::Leased(key.fingerprint));
    redis.kill();
    redis.start_again().await;
    assert_eq!(store.complete(&key, owner, &reply("x"), LONG).await.expect("an answer"), Completed::Stored);
}

#[tokio::test]
async fn every_step_says_that_the_store_is_gone() {
    let mut redis = Redis::start().await;
    let mut settings = guard();
    settings.deadline = Duration::from_millis(300);
    let store = RedisIdempotency::new(&redis.url(), None, 2, settings, Arc::new(Metrics::new(1).expect("metrics"))).expect("a store");
    let (key, owner) = (key("gone", "a"), Owner::draw());
    redis.kill();
    assert!(store.claim(&key, owner, LONG).await.is_err());
    assert!(store.renew(&key, owner, LONG).await.is_err());
    assert!(store.complete(&key, owner, &reply("x"), LONG).await.is_err());
    assert!(store.release(&key, owner).await.is_err());
    assert!(store.intend(&key, owner, LONG, LONG).await.is_err());
    assert!(store.leave_unknown(&key, owner).await.is_err());
    assert!(store.unresolved(&[Arc::clone(&key.scope)]).await.is_err());
    assert!(store.resolve(&key.scope, &key.hash, None).await.is_err());
    assert!(store.count(&["/webhooks/x".into()]).await.is_err());
    assert!(store.ready().await.is_err());
}

#[tokio::test]
async fn what_is_over_is_deleted_in_batches_by_one_instance_at_a_time() {
    let database = Database::new().await;
    let fill = "INSERT INTO idempotency (scope, key_hash, state, owner, fingerprint, expires_at, status, headers, body) \
        SELECT '/webhooks/x', decode(lpad(to_hex(n), 64, '0'), 'hex'), 'done', gen_random_uuid(), '\\x00', \
            now() + CASE WHEN n > 1200 THEN 1 ELSE -1 END * interval '1 hour', 200, '[]', '' FROM generate_series(1, 1300) n";
    database.run(fill).await;
    let (one, other) = (postgres_store(&database), postgres_store(&database));
    database.run("BEGIN").await;
    database.run("SELECT pg_advisory_xact_lock(x'637864615f737770'::bigint)").await;
    assert_eq!(one.sweep().await.expect("a sweep"), (0, false), "somebody else is at it");
    database.run("COMMIT").await;
    let mut removed = Vec::new();
    while let (rows, true) = if removed.len() % 2 == 0 { &one } else { &other }.sweep().await.expect("a sweep") {
        removed.push(rows);
    }
    assert_eq!(removed, [500, 500], "and 200 with which it ended");
    assert_eq!(database.value::<i64>("SELECT count(*) FROM idempotency").await, 100);
}

#[tokio::test]
async fn a_large_table_is_counted_without_reading_all_of_it() {
    let database = Database::new().await;
    let fill = "INSERT INTO idempotency (scope, key_hash, state, owner, fingerprint, expires_at, status, headers, body) \
        SELECT '/webhooks/x', decode(lpad(to_hex(n), 64, '0'), 'hex'), 'done', gen_random_uuid(), '\\x00', now() + interval '1 hour', \
            200, repeat('x', 700), '' FROM generate_series(1, 60000) n";
    database.run(fill).await;
    let counts = postgres_store(&database).count(&["/webhooks/x".into()]).await.expect("a count");
    assert_eq!((counts[0].state, counts[0].count, counts[1].state), ("leased", 0, "done"));
    assert!((54_000..=66_000).contains(&counts[1].count), "{} of 60000", counts[1].count);
}
