//! What a newer version finds in a database of an older one, and what the older one still does while both run.

use std::sync::Arc;
use std::time::Duration;

use cxone_data_action::adapters::postgres::connect::Connector;
use cxone_data_action::adapters::postgres::idempotency::PostgresIdempotency;
use cxone_data_action::app::ports::{Claimed, IdempotencyStore};
use cxone_data_action::config::{Config, Flags};
use cxone_data_action::domain::{Hasher, IdempotencyKey, KeySource, Owner, StoredReply};
use refinery::Target;

use crate::support::{Cluster, Database, Tool, connect};

mod embedded {
    refinery::embed_migrations!("migrations");
}

const SCOPE: &str = "/webhooks/x";
const LONG: Duration = Duration::from_mins(1);

/// How the version before intents claims a key.
const OLD_CLAIM: &str = "\
    INSERT INTO idempotency AS i (scope, key_hash, state, owner, fingerprint, expires_at) \
    VALUES ($1, $2, 'leased', gen_random_uuid(), $3, now() + interval '1 hour') \
    ON CONFLICT (scope, key_hash) DO UPDATE \
        SET state = 'leased', owner = EXCLUDED.owner, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at, \
            created_at = now(), status = NULL, headers = NULL, body = NULL \
        WHERE i.expires_at <= now()";

/// How it keeps an answer.
const OLD_COMPLETE: &str = "\
    INSERT INTO idempotency AS i (scope, key_hash, state, owner, fingerprint, expires_at, status, headers, body) \
    SELECT scope, key_hash, 'done', owner, fingerprint, now() + interval '1 hour', 200, '[[\"x-cache\",\"hit\"]]', 'old' \
        FROM idempotency WHERE scope = $1 AND key_hash = $2 \
    ON CONFLICT (scope, key_hash) DO UPDATE \
        SET state = 'done', owner = EXCLUDED.owner, fingerprint = EXCLUDED.fingerprint, expires_at = EXCLUDED.expires_at, \
            status = EXCLUDED.status, headers = EXCLUDED.headers, body = EXCLUDED.body \
        WHERE (i.state = 'leased' AND i.owner = EXCLUDED.owner) OR i.expires_at <= now()";

fn key(name: &str) -> IdempotencyKey {
    let hasher = Hasher::new(&[7; 32]).unwrap();
    IdempotencyKey::new(&hasher, &SCOPE.into(), "caller", &KeySource::Header("x".to_owned()), Some(name), b"{}").unwrap()
}

fn old_answer() -> StoredReply {
    StoredReply { status: 200, headers: vec![("x-cache".to_owned(), "hit".to_owned())], body: "old".into() }
}

/// A database as that version leaves it.
async fn database_of_version(version: i32) -> Database {
    let database = Cluster::shared().await.empty_database().await;
    let mut owner = connect(&database.owner_url).await.unwrap();
    let report = embedded::migrations::runner().set_target(Target::Version(version)).run_async(&mut owner).await.unwrap();
    assert_eq!(report.applied_migrations().len(), usize::try_from(version).unwrap());
    database
}

/// Does to a key what the version before intents does.
async fn by_the_old_version(database: &Database, key: &IdempotencyKey, done: bool) {
    let rows = database.owner.execute(OLD_CLAIM, &[&SCOPE, &key.hash.as_bytes(), &key.fingerprint.as_bytes()]).await.unwrap();
    assert_eq!(rows, 1);
    if done {
        assert_eq!(database.owner.execute(OLD_COMPLETE, &[&SCOPE, &key.hash.as_bytes()]).await.unwrap(), 1);
    }
}

fn store(database: &Database) -> PostgresIdempotency {
    let set = vec![("database.url".to_owned(), database.owner_url.clone()), ("database.wait_timeout".to_owned(), "10s".to_owned())];
    let settings = Config::load(&Flags { set, ..Flags::default() }).unwrap().database;
    let connector = Connector::for_lookups(settings.url.as_ref().unwrap(), &settings).unwrap();
    PostgresIdempotency::new(connector, &settings, 4, Duration::from_secs(10)).unwrap()
}

async fn apply(database: &Database) {
    let outcome = Tool::new(&["migrate", "apply"]).set("DATABASE_URL", &database.owner_url).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
}

async fn claimed(store: &PostgresIdempotency, key: &IdempotencyKey) -> Claimed {
    store.claim(key, Owner::draw(), LONG).await.unwrap()
}

#[tokio::test]
async fn keys_of_before_intents_stay_what_they_were() {
    let database = database_of_version(3).await;
    let [leased, done, endless, over] = ["leased", "done", "endless", "over"].map(key);
    for (key, is_done) in [(&leased, false), (&done, true), (&endless, false), (&over, false)] {
        by_the_old_version(&database, key, is_done).await;
    }
    for (key, end) in [(&endless, "NULL"), (&over, "now()")] {
        let sql = format!("UPDATE idempotency SET expires_at = {end} WHERE key_hash = $1");
        database.owner.execute(&sql, &[&key.hash.as_bytes()]).await.unwrap();
    }
    apply(&database).await;

    let store = store(&database);
    let scopes: [Arc<str>; 1] = [SCOPE.into()];
    assert_eq!(store.unresolved(&scopes).await.unwrap(), [], "nothing of it is unknown");
    let counts: Vec<_> = store.count(&scopes).await.unwrap().into_iter().map(|records| (records.state, records.count)).collect();
    assert_eq!(counts, [("leased", 2), ("done", 1), ("unknown", 0)]);
    for key in [leased, endless] {
        assert_eq!(claimed(&store, &key).await, Claimed::Leased(key.fingerprint));
    }
    assert_eq!(claimed(&store, &done).await, Claimed::Done(done.fingerprint, old_answer()));
    assert_eq!(claimed(&store, &over).await, Claimed::Won);
}

#[tokio::test]
async fn an_older_instance_works_on_beside_a_newer_one() {
    let database = database_of_version(3).await;
    apply(&database).await;
    let store = store(&database);
    let [leased, done, intended, left] = ["leased", "done", "intended", "left"].map(key);
    by_the_old_version(&database, &leased, false).await;
    by_the_old_version(&database, &done, true).await;
    assert_eq!(claimed(&store, &leased).await, Claimed::Leased(leased.fingerprint));
    assert_eq!(claimed(&store, &done).await, Claimed::Done(done.fingerprint, old_answer()));

    // What the newer one intends is not the older one's, whatever has become of it.
    let owner = Owner::draw();
    for key in [&intended, &left] {
        assert!(store.intend(key, owner, LONG, LONG).await.unwrap());
    }
    store.leave_unknown(&left, owner).await.unwrap();
    for key in [&intended, &left] {
        let rows = database.owner.execute(OLD_CLAIM, &[&SCOPE, &key.hash.as_bytes(), &key.fingerprint.as_bytes()]).await.unwrap();
        assert_eq!(rows, 0, "the older one does not get it");
    }
    assert_eq!(claimed(&store, &left).await, Claimed::Unknown(left.fingerprint));
}
