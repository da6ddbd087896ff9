//! Redis, Postgres or the service restarted: what was kept before is not believed where something may have changed since.

use super::{LISTENER, all_keep, all_see, cached, instances, name, rename, setup};
use crate::support::{Cluster, Database, Redis, Service, wait_until};

/// Puts a value back, as out of a snapshot.
async fn restore(redis: &Redis, key: &str, dump: &[u8]) {
    let mut restore = redis::cmd("RESTORE");
    restore.arg(key).arg(0).arg(dump).arg("REPLACE");
    restore.query_async::<()>(&mut redis.connection().await).await.expect("restored");
}

#[tokio::test]
async fn what_was_kept_in_redis_before_an_unheard_change_is_not_believed() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let id = database.customer("acme42", "Ann").await;
    let before = setup(&database).redis(&redis).start().await;
    name(&before, "acme42", id).await;
    redis.filled("acme42", &[id]).await;
    before.stop().await;
    rename(&database, id, "Beth").await;
    assert_eq!(redis.cached("acme42", id).await.expect("still there")["name"], "Ann");
    let after = setup(&database).redis(&redis).start().await;
    all_keep(&[after], "acme42", id, "Beth").await;
}

/// A Redis that comes back with an old value, of before a change made while it was there, or while it was away.
async fn old_values_are_not_believed(while_it_was_there: bool) {
    let (database, mut redis) = (Database::new().await, Redis::start().await);
    let setup = || setup(&database).redis(&redis).set("CXDA_CACHE__LOCAL_CAPACITY", "0").set("CXDA_CACHE__BREAKER_OPEN", "900ms");
    let services = [setup().start().await, setup().start().await];
    let id = database.customer("acme42", "Ann").await;
    cached(&services[0], "acme42", id).await;
    redis.filled("acme42", &[id]).await;
    let key = redis.customer_key("acme42", id).await;
    let old: Vec<u8> = redis.run(&["DUMP", &key]).await;
    if while_it_was_there {
        rename(&database, id, "Beth").await;
        all_see(&services, "acme42", id, Some("Beth")).await;
        redis.kill();
    } else {
        redis.kill();
        rename(&database, id, "Beth").await;
    }
    redis.start_again().await;
    restore(&redis, &key, &old).await;
    all_keep(&services, "acme42", id, "Beth").await;
    // And it is told of changes as before.
    rename(&database, id, "Cleo").await;
    all_see(&services, "acme42", id, Some("Cleo")).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_with_values_of_before_a_change_is_not_believed() {
    old_values_are_not_believed(true).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_with_values_of_before_a_change_made_meanwhile_is_not_believed() {
    old_values_are_not_believed(false).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_filled_and_told_of_changes_again() {
    let (database, mut redis) = (Database::new().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    all_keep(&services, "acme42", id, "Ann").await;
    redis.kill();
    rename(&database, id, "Beth").await;
    all_see(&services, "acme42", id, Some("Beth")).await;
    redis.start_again().await;
    all_keep(&services, "acme42", id, "Beth").await;
    let filled = async || {
        name(&services[2], "acme42", id).await;
        redis.cached("acme42", id).await
    };
    wait_until("Redis is filled", filled).await;
    rename(&database, id, "Cleo").await;
    all_see(&services, "acme42", id, Some("Cleo")).await;
}

#[tokio::test]
async fn a_postgres_that_was_killed_is_listened_to_again_and_what_changed_meanwhile_is_seen() {
    let mut cluster = Cluster::start(&[]).await;
    let (mut database, redis) = (cluster.database().await, Redis::start().await);
    let services = instances(&database, &redis).await;
    let id = database.customer("acme42", "Ann").await;
    for service in &services {
        cached(service, "acme42", id).await;
    }
    cluster.kill().await;
    cluster.start_again().await;
    database.reconnect().await;
    rename(&database, id, "Beth").await;
    let seen = async |service: &Service| {
        let reply = service.lookup("acme42", &[id]).await;
        (reply.status == 200 && reply.names() == ["Beth"]).then_some(())
    };
    for service in &services {
        wait_until("the new name is seen", async || seen(service).await).await;
    }
    let listeners = format!("SELECT count(*) FROM pg_stat_activity WHERE {LISTENER}");
    wait_until("all listen again", async || (database.value::<i64>(&listeners).await == 3).then_some(())).await;
    all_keep(&services, "acme42", id, "Beth").await;
    rename(&database, id, "Cleo").await;
    all_see(&services, "acme42", id, Some("Cleo")).await;
}
