//! What is kept where reading and changing meet: never what was read before a change.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use uuid::Uuid;

use super::{all_keep, all_see, cached, has_heard, instances, name, rename, setup};
use crate::support::{Database, Gate, Kept, Redis, Service, Setup, wait_until};

/// How long anything is kept in these tests at most, in milliseconds: a minute, and a tenth of it.
const LONGEST: i64 = 66_000;

async fn key(redis: &Redis, id: Uuid) -> String {
    redis.customer_key("acme42", id).await
}

fn mark(version: u64) -> String {
    format!(r#"{{"version":"{version:019}"}}"#)
}

/// Waits until the mark of a change to that version stands in Redis.
async fn marked(redis: &Redis, id: Uuid, version: u64) {
    let there = async || redis.run::<Option<String>>(&["GET", &key(redis, id).await]).await.filter(|value| *value == mark(version));
    wait_until(&format!("version {version} is marked"), there).await;
}

/// A service that has only Redis.
fn far_alone(database: &Database) -> Setup {
    setup(database).set("CXDA_CACHE__LOCAL_CAPACITY", "0")
}

/// Two customers that are known and marked to be new, so that nothing more is told of them, while Redis knows the scripts.
async fn two(database: &Database, redis: &Redis, services: &[Service]) -> [Uuid; 2] {
    let ids = database.customers("acme42", 3).await;
    for id in &ids {
        marked(redis, *id, 1).await;
    }
    for service in services {
        has_heard(service, 3).await;
        service.lookup("acme42", &ids[2..]).await;
    }
    redis.filled("acme42", &ids[2..]).await;
    [ids[0], ids[1]]
}

#[tokio::test]
async fn what_was_read_before_a_change_is_not_kept_after_it() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let other = setup(&database).redis(&redis).start().await;
    let service = setup(&database).redis(&redis).patient().set("CXDA_DATABASE__STATEMENT_TIMEOUT", "30s").start().await;
    let id = database.customer("acme42", "Ann").await;
    has_heard(&service, 1).await;
    let lock = database.hold_audit_rows().await;
    let late = async {
        assert_eq!(name(&service, "acme42", id).await.as_deref(), Some("Ann"), "as it was when it was asked for");
    };
    let change = async {
        database.waiting_sessions(1).await;
        rename(&database, id, "Beth").await;
        has_heard(&service, 2).await;
        lock.batch_execute("ROLLBACK").await.expect("unlocked");
    };
    tokio::join!(late, change);
    all_keep(&[service, other], "acme42", id, "Beth").await;
    redis.filled("acme42", &[id]).await;
    assert_eq!(redis.cached("acme42", id).await.expect("kept")["name"], "Beth");
}

#[tokio::test]
async fn an_absence_that_was_read_before_an_insert_is_not_kept_after_it() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let other = setup(&database).redis(&redis).start().await;
    let service = setup(&database).redis(&redis).patient().set("CXDA_DATABASE__STATEMENT_TIMEOUT", "30s").start().await;
    let id = Uuid::new_v4();
    let lock = database.hold_audit_rows().await;
    let late = async {
        assert_eq!(name(&service, "acme42", id).await, None, "as it was when it was asked for");
    };
    let change = async {
        database.waiting_sessions(1).await;
        database.customer_with_id("acme42", id, "Ann").await;
        has_heard(&service, 1).await;
        lock.batch_execute("ROLLBACK").await.expect("unlocked");
    };
    tokio::join!(late, change);
    all_keep(&[service, other], "acme42", id, "Ann").await;
}

#[tokio::test]
async fn what_was_read_before_a_change_of_very_many_is_not_believed_after_it() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let other = setup(&database).redis(&redis).start().await;
    let service = setup(&database).redis(&redis).patient().set("CXDA_DATABASE__STATEMENT_TIMEOUT", "30s").start().await;
    let ids = database.customers("acme42", 101).await;
    has_heard(&service, 1).await;
    let lock = database.hold_audit_rows().await;
    let late = service.lookup("acme42", &ids[..1]);
    let change = async {
        database.waiting_sessions(1).await;
        database.run("UPDATE customers SET name = 'Beth'").await;
        has_heard(&service, 2).await;
        has_heard(&other, 2).await;
        lock.batch_execute("ROLLBACK").await.expect("unlocked");
    };
    let (late, ()) = tokio::join!(late, change);
    assert_ne!(late.names(), ["Beth"], "as it was when it was asked for");
    all_keep(&[service, other], "acme42", ids[0], "Beth").await;
}

/// A service whose way to Redis has a gate.
async fn slow(database: &Database, gate: &Gate) -> Service {
    // It must not wait for Redis for so long that its listener misses a beat.
    far_alone(database).set("REDIS_URL", &gate.url).set("CXDA_CACHE__TIMEOUT", "200ms").start().await
}

/// Where nothing is there, a fill is a `SET` that finds nothing; where something is, a script that looks at it.
#[derive(Clone, Copy)]
enum Fill {
    Set,
    Script,
}

impl Fill {
    /// What it alone sends.
    fn mark(self, key: &str) -> String {
        match self {
            Self::Set => format!(r#""key":"{key}""#),
            // A version behind the last key.
            Self::Script => format!("{key}\r\n$19\r\n"),
        }
    }
}

/// Has that service read both, and keeps the fill of both at the gate, while it has a way to Redis beside it.
async fn held_up(slow: &Service, gate: &Gate, redis: &Redis, ids: [Uuid; 2], fill: Fill) {
    gate.keep(Kept::Sent(fill.mark(&key(redis, ids[1]).await).into_bytes()));
    let held = async || {
        slow.lookup("acme42", &ids).await;
        gate.holds().then_some(())
    };
    wait_until("a fill is held up", held).await;
    let answers = async || (slow.lookup("acme42", &[Uuid::from_u128(7)]).await.cache() != "bypass").then_some(());
    wait_until("it has given that connection up", answers).await;
}

#[tokio::test]
async fn a_fill_that_comes_to_redis_after_a_change_is_refused() {
    comes_too_late(Fill::Set).await;
}

#[tokio::test]
async fn a_fill_of_what_has_changed_before_is_refused_after_another_change() {
    comes_too_late(Fill::Script).await;
}

async fn comes_too_late(fill: Fill) {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let gate = Gate::before_redis(&redis).await;
    let services =
        [slow(&database, &gate).await, far_alone(&database).redis(&redis).start().await, setup(&database).redis(&redis).start().await];
    let [changed, other] = two(&database, &redis, &services).await;
    let other = match fill {
        // Nobody, so that there is no mark.
        Fill::Set => Uuid::new_v4(),
        Fill::Script => other,
    };
    held_up(&services[0], &gate, &redis, [changed, other], fill).await;
    rename(&database, changed, "Beth").await;
    for service in &services {
        has_heard(service, 4).await;
    }
    marked(&redis, changed, 2).await;
    gate.open();
    redis.filled("acme42", &[other]).await;
    all_keep(&services, "acme42", changed, "Beth").await;
}

#[tokio::test]
async fn a_mark_is_replaced_by_what_is_as_new_and_by_nothing_older() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = [far_alone(&database).redis(&redis).start().await];
    for (version, is_refused) in [(2, true), (10, true), (1, false)] {
        let [id, other] = two(&database, &redis, &services).await;
        // Both come by the same script.
        for (id, version) in [(id, version), (other, 0)] {
            redis.run::<()>(&["SET", &key(&redis, id).await, &mark(version), "PX", "60000"]).await;
        }
        assert_eq!(services[0].lookup("acme42", &[id, other]).await.cache(), "miss");
        redis.filled("acme42", &[other]).await;
        assert_eq!(redis.cached("acme42", id).await.is_none(), is_refused, "a customer's first version after a mark of {version}");
    }
}

#[tokio::test]
async fn a_change_leaves_its_mark_for_whoever_reads_late() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let _services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    marked(&redis, id, 1).await;
    rename(&database, id, "Beth").await;
    marked(&redis, id, 2).await;
    let left = redis.run::<i64>(&["PTTL", &key(&redis, id).await]).await;
    assert!((LONGEST..=LONGEST + 15_000).contains(&left), "the mark ends after {left} ms");
    database.run("DELETE FROM customers").await;
    marked(&redis, id, 3).await;
}

#[tokio::test]
async fn a_mark_of_an_instance_that_keeps_for_longer_is_not_shortened() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let brief = Setup::on(&database).redis(&redis).set("CXDA_CACHE__TTL", "1s").set("CXDA_CACHE__ABSENT_TTL", "1s");
    let service = brief.start().await;
    let ids = database.customers("acme42", 3).await;
    has_heard(&service, 3).await;
    // Of a change before the one that is heard of next, of that one, and of a customer before it was deleted.
    for (id, version) in ids.iter().zip([1, 2, 5]) {
        redis.run::<()>(&["SET", &key(&redis, *id).await, &mark(version), "PX", "80000"]).await;
    }
    database.run("UPDATE customers SET name = 'Beth'").await;
    has_heard(&service, 6).await;
    // All are told of at once, and the first shows when.
    for (id, version) in ids.into_iter().zip([2, 2, 5]) {
        marked(&redis, id, version).await;
        let left = redis.run::<i64>(&["PTTL", &key(&redis, id).await]).await;
        assert!(left > 60_000, "a mark of version {version} ends after {left} ms");
    }
}

#[tokio::test]
async fn a_notification_that_comes_late_drops_nothing_newer() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    rename(&database, id, "Beth").await;
    all_see(&services, "acme42", id, Some("Beth")).await;
    for service in &services {
        has_heard(service, 2).await;
        cached(service, "acme42", id).await;
    }
    redis.filled("acme42", &[id]).await;
    let tell = async |version: u64| {
        let payload = json!({ "customers": [["acme42", id, version]] });
        database.run(&format!("SELECT pg_notify('cxda_customers', '{payload}')")).await;
    };
    for version in [1, 2] {
        tell(version).await;
    }
    for service in &services {
        has_heard(service, 4).await;
        assert_eq!(service.lookup("acme42", &[id]).await.cache(), "hit");
    }
    tell(3).await;
    marked(&redis, id, 3).await;
    for service in &services {
        has_heard(service, 5).await;
        assert_eq!(service.lookup("acme42", &[id]).await.cache(), "miss");
    }
}

#[tokio::test]
async fn a_mark_stays_for_as_long_as_the_last_change_needs_it() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let gate = Gate::before_redis(&redis).await;
    let services = [slow(&database, &gate).await, far_alone(&database).redis(&redis).start().await];
    let [changed, other] = two(&database, &redis, &services).await;
    // Of a customer that was deleted nearly as long ago as marks stay, and that has come back since.
    redis.run::<()>(&["SET", &key(&redis, changed).await, &mark(5), "PX", "3000"]).await;
    held_up(&services[0], &gate, &redis, [changed, other], Fill::Script).await;
    rename(&database, changed, "Beth").await;
    for service in &services {
        has_heard(service, 4).await;
    }
    let is_over = async || {
        let left = redis.run::<i64>(&["PTTL", &key(&redis, changed).await]).await;
        (!(0..=3_000).contains(&left)).then_some(())
    };
    wait_until("the first mark is over, or was renewed", is_over).await;
    gate.open();
    redis.filled("acme42", &[other]).await;
    assert_eq!(redis.cached("acme42", changed).await, None, "the mark is still there");
    all_see(&services, "acme42", changed, Some("Beth")).await;
}

#[tokio::test]
async fn a_service_that_stood_still_does_not_answer_with_what_it_had_kept() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    let id = database.customer("acme42", "Ann").await;
    for name in ["Beth", "Cleo", "Dora"] {
        cached(&service, "acme42", id).await;
        service.signal(Signal::SIGSTOP);
        rename(&database, id, name).await;
        // It is long gone by when beats would have to be heard; the request is there before it goes on.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let goes_on = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            service.signal(Signal::SIGCONT);
        };
        let ids = [id];
        let (reply, ()) = tokio::join!(service.lookup("acme42", &ids), goes_on);
        assert_eq!(reply.names(), [name]);
    }
}
