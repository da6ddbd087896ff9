//! Redis fails over: its primary is demoted, or its name moves to another server while the old one runs on.

mod webhooks;

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{Database, Proxy, Redis, Service, Setup, wait_until};

/// A service for which Redis is the only cache.
fn setup(database: &Database, url: impl Into<String>) -> Setup {
    let setup = Setup::on(database).set("REDIS_URL", url).set("CXDA_CACHE__TIMEOUT", "900ms");
    setup.set("CXDA_CACHE__LOCAL_CAPACITY", "0").set("CXDA_CACHE__BREAKER_OPEN", "900ms")
}

async fn name(service: &Service, id: Uuid) -> String {
    service.lookup("acme42", &[id]).await.names().concat()
}

/// Asks until it is answered so.
async fn sees(service: &Service, id: Uuid, expected: &str) {
    wait_until(&format!("it sees {expected}"), async || (name(service, id).await == expected).then_some(())).await;
}

/// Asks until it is answered so from the cache, and never answered anything else.
async fn keeps(service: &Service, id: Uuid, expected: &str) {
    let kept = async || {
        let reply = service.lookup("acme42", &[id]).await;
        assert_eq!(reply.names(), [expected]);
        (reply.cache() == "hit").then_some(())
    };
    wait_until("it is cached", kept).await;
}

async fn rename(database: &Database, id: Uuid, name: &str) {
    database.run(&format!("UPDATE customers SET name = '{name}' WHERE id = '{id}'")).await;
}

/// What `/readyz?verbose` says that Redis refuses.
pub(crate) async fn refusal(service: &Service, check: &str) -> Value {
    service.admin(Method::GET, "/readyz?verbose").await.json()["checks"][check].clone()
}

async fn refuses(service: &Service, code: &str) {
    wait_until(&format!("Redis refuses: {code}"), async || (refusal(service, "redis_refusal").await == code).then_some(())).await;
}

#[tokio::test]
async fn a_demoted_primary_serves_nothing_and_a_promoted_one_serves_again() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let service = setup(&database, redis.url()).start().await;
    let id = database.customer("acme42", "Ann").await;
    keeps(&service, id, "Ann").await;
    for _ in 0..3 {
        redis.demote().await;
        refuses(&service, "REPLICA").await;
        let reply = service.lookup("acme42", &[id]).await;
        assert_eq!((reply.names(), reply.cache()), (vec!["Ann".to_owned()], "bypass"));
        redis.promote().await;
        keeps(&service, id, "Ann").await;
        wait_until("nothing is refused", async || refusal(&service, "redis_refusal").await.is_null().then_some(())).await;
    }
}

#[tokio::test]
async fn a_primary_that_was_another_ones_replica_meanwhile_is_not_believed() {
    let (database, redis, stale) = (Database::new().await, Redis::start().await, Redis::start().await);
    let service = setup(&database, redis.url()).start().await;
    let id = database.customer("acme42", "Ann").await;
    keeps(&service, id, "Ann").await;
    // A replica that has fallen behind: it has the value, and not the mark of the change.
    stale.follow(&redis).await;
    stale.promote().await;
    rename(&database, id, "Beth").await;
    sees(&service, id, "Beth").await;

    redis.follow(&stale).await;
    assert_eq!(redis.cached("acme42", id).await.expect("the old value is back")["name"], "Ann");
    refuses(&service, "REPLICA").await;
    redis.promote().await;
    keeps(&service, id, "Beth").await;
}

/// Ends all connections but those that read last.
async fn cut_all_but_readers(redis: &Redis) {
    let clients: String = redis.run(&["CLIENT", "LIST"]).await;
    let field =
        |client: &str, name: &str| client.split(' ').find_map(|field| Some(field.strip_prefix(name)?.strip_prefix('=')?.to_owned()));
    assert!(clients.contains("cmd=mget"), "{clients}");
    for client in clients.lines().filter(|client| field(client, "cmd").is_some_and(|command| command != "mget")) {
        let id = field(client, "id").expect("an id");
        // Some have gone, such as the one that has asked.
        let _ended = redis.run::<usize>(&["CLIENT", "KILL", "ID", &id]).await;
    }
}

#[tokio::test]
async fn a_pool_is_never_over_two_servers() {
    let (database, old, new) = (Database::new().await, Redis::start().await, Redis::start().await);
    let proxy = Proxy::before(old.port).await;
    let service = setup(&database, proxy.url()).start().await;
    let id = database.customer("acme42", "Ann").await;
    keeps(&service, id, "Ann").await;
    old.filled("acme42", &[id]).await;

    proxy.redirect(new.port);
    for name in ["Beth", "Cleo"] {
        keeps(&service, id, if name == "Beth" { "Ann" } else { "Beth" }).await;
        if name == "Beth" {
            // Marks of changes need a new connection now, and reads do not.
            cut_all_but_readers(&old).await;
        }
        rename(&database, id, name).await;
        sees(&service, id, name).await;
    }
    keeps(&service, id, "Cleo").await;
    new.filled("acme42", &[id]).await;
}

#[tokio::test]
async fn a_name_that_moves_while_no_connection_fails_is_followed() {
    let (database, old, new) = (Database::new().await, Redis::start().await, Redis::start().await);
    let proxy = Proxy::before(old.port).await;
    let services = [setup(&database, proxy.url()).start().await, setup(&database, proxy.url()).start().await];
    let id = database.customer("acme42", "Ann").await;
    for service in &services {
        keeps(service, id, "Ann").await;
    }
    proxy.redirect(new.port);
    let moved = async || {
        for service in &services {
            assert_eq!(name(service, id).await, "Ann");
        }
        let clients: String = new.run(&["CLIENT", "LIST"]).await;
        (clients.matches("cmd=mget").count() >= services.len()).then_some(())
    };
    wait_until("both read from the new server", moved).await;
    rename(&database, id, "Beth").await;
    for service in &services {
        sees(service, id, "Beth").await;
        keeps(service, id, "Beth").await;
    }
}
