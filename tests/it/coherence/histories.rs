//! Another history of the database: a backup restored, a standby that lags promoted, another database behind the same Redis. What was
//! cached of one is never answered for another.

use reqwest::Method;
use uuid::Uuid;

use super::{all_keep, all_see, cached, listens, name, rename, setup};
use crate::support::{Backup, Cluster, Database, Redis, Service, Setup, connect, free_port, wait_until};

/// Three instances of both tiers, of Redis alone, and of no Redis.
async fn three(setup: impl Fn() -> Setup, redis: &Redis) -> [Service; 3] {
    [setup().redis(redis).start().await, setup().redis(redis).set("CXDA_CACHE__LOCAL_CAPACITY", "0").start().await, setup().start().await]
}

/// Waits until an instance answers with this name. Refusals are passed over: the database is away for a while.
async fn comes_to_see(service: &Service, id: Uuid, expected: &str) {
    let seen = async || {
        let reply = service.lookup("acme42", &[id]).await;
        (reply.status == 200 && reply.names() == [expected]).then_some(())
    };
    wait_until(&format!("{expected} is seen"), seen).await;
}

#[tokio::test]
async fn after_a_backup_is_restored_nothing_is_answered_that_was_cached_before() {
    let mut cluster = Cluster::start(&[]).await;
    let (mut database, redis) = (cluster.database().await, Redis::start().await);
    let id = database.customer("acme42", "Ann").await;
    let port = cluster.listen(&[]).await;
    cluster.stop().await;
    let backup = Backup::of(&cluster);
    cluster.start_again().await;
    database.owner_url = cluster.url_of(&database);
    database.reconnect().await;
    let url = database.url_of_primary(&[port]);
    let services = three(|| setup(&database).set("DATABASE_URL", &url), &redis).await;
    // Transaction ids of the history that is lost are ahead of those that the restored one gives out.
    for n in 0..50 {
        rename(&database, id, &format!("Beth {n}")).await;
    }
    all_keep(&services, "acme42", id, "Beth 49").await;
    redis.filled("acme42", &[id]).await;
    cluster.kill().await;
    backup.restore(&cluster);
    cluster.start_again().await;
    database.owner_url = cluster.url_of(&database);
    database.reconnect().await;
    for service in &services {
        comes_to_see(service, id, "Ann").await;
    }
    all_keep(&services, "acme42", id, "Ann").await;
    let later = setup(&database).set("DATABASE_URL", &url).redis(&redis).start().await;
    assert_eq!(name(&later, "acme42", id).await.as_deref(), Some("Ann"));
    // The version of the lost history is higher than that of this change.
    rename(&database, id, "Cleo").await;
    all_see(&services, "acme42", id, Some("Cleo")).await;
    all_keep(&services, "acme42", id, "Cleo").await;
}

#[tokio::test]
async fn after_a_standby_that_lags_is_promoted_nothing_is_answered_that_it_never_had() {
    let mut primary = Cluster::start(&[("max_wal_senders", "4"), ("hot_standby_feedback", "off")]).await;
    let mut database = primary.database().await;
    let id = database.customer("acme42", "Ann").await;
    let port = primary.listen(&[]).await;
    let standby_port = free_port();
    let standby = primary.standby(port, standby_port).await;
    database.owner_url = primary.url_of(&database);
    database.reconnect().await;
    let both = database.url_of_primary(&[port, standby_port]);
    let redis = Redis::start().await;
    let services = three(|| setup(&database).set("DATABASE_URL", &both), &redis).await;
    let replica = connect(&standby.url_of(&database)).await.expect("the standby answers");
    // From now on it lags.
    replica.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.expect("a setting");
    replica.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    let cut_off = async || {
        let row = replica.query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[]).await.expect("a count");
        (row.get::<_, i64>(0) == 0).then_some(())
    };
    wait_until("it receives nothing", cut_off).await;
    for n in 0..50 {
        rename(&database, id, &format!("Beth {n}")).await;
    }
    all_keep(&services, "acme42", id, "Beth 49").await;
    redis.filled("acme42", &[id]).await;
    primary.kill().await;
    replica.batch_execute("SELECT pg_promote()").await.expect("it is the primary");
    database.owner_url = standby.url_of(&database);
    database.reconnect().await;
    for service in &services {
        comes_to_see(service, id, "Ann").await;
    }
    all_keep(&services, "acme42", id, "Ann").await;
    rename(&database, id, "Cleo").await;
    all_see(&services, "acme42", id, Some("Cleo")).await;
    let later = setup(&database).set("DATABASE_URL", &both).redis(&redis).start().await;
    all_keep(&[later], "acme42", id, "Cleo").await;
}

#[tokio::test]
async fn two_databases_behind_one_redis_never_answer_for_each_other() {
    let (production, staging, redis) = (Database::new().await, Database::new().await, Redis::start().await);
    let id = Uuid::new_v4();
    production.customer_with_id("acme42", id, "Ann").await;
    staging.customer_with_id("acme42", id, "Test").await;
    let services = [setup(&production).redis(&redis).start().await, setup(&staging).redis(&redis).start().await];
    for _ in 0..3 {
        for (service, own) in services.iter().zip(["Ann", "Test"]) {
            cached(service, "acme42", id).await;
            assert_eq!(name(service, "acme42", id).await.as_deref(), Some(own));
        }
    }
    rename(&staging, id, "Tested").await;
    all_see(&services[1..], "acme42", id, Some("Tested")).await;
    all_keep(&services[..1], "acme42", id, "Ann").await;
}

#[tokio::test]
async fn a_listener_of_another_database_than_that_of_lookups_is_none() {
    let (database, other, redis) = (Database::new().await, Database::new().await, Redis::start().await);
    let service = setup(&database).redis(&redis).set("CXDA_DATABASE__LISTEN_URL", &other.url).start().await;
    let id = database.customer("acme42", "Ann").await;
    for _ in 0..3 {
        let reply = service.lookup("acme42", &[id]).await;
        assert_eq!((reply.cache(), reply.names()), ("bypass", vec!["Ann".to_owned()]));
    }
    assert!(!listens(&service).await);
    let verbose = service.admin(Method::GET, "/readyz?verbose").await.json();
    assert!(verbose["problems"].to_string().contains("not heard of"), "{verbose}");
    assert!(service.printed().contains("database.listen_url"), "{}", service.printed());
}

#[tokio::test]
async fn after_a_crash_of_postgres_what_was_committed_without_waiting_is_not_answered_from_the_cache() {
    let cluster = Cluster::start(&[("synchronous_commit", "off"), ("wal_writer_delay", "10s")]).await;
    let (mut database, redis) = (cluster.database().await, Redis::start().await);
    let id = database.customer("acme42", "Ann").await;
    let services = three(|| setup(&database), &redis).await;
    all_keep(&services, "acme42", id, "Ann").await;
    let before = redis.epoch().await;
    // The postmaster stays, and starts its other processes anew.
    let session = database.value::<i32>("SELECT pg_backend_pid()").await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(session), nix::sys::signal::Signal::SIGKILL).expect("our own server");
    database.reconnect().await;
    for service in &services {
        let sees = async || {
            let reply = service.lookup("acme42", &[id]).await;
            (reply.status == 200 && reply.cache() == "hit").then_some(())
        };
        wait_until("it answers from the cache again", sees).await;
    }
    let other_epoch = async || {
        let keys: Vec<String> = redis.run(&["KEYS", "cxda:v3:*"]).await;
        keys.iter().any(|key| !key.contains(&before)).then_some(())
    };
    wait_until("keys name another epoch", other_epoch).await;
}
