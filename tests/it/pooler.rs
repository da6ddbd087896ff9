//! Through PgBouncer in transaction mode, which gives each transaction any server session: the same answers, audit rows and limits,
//! and nothing of the service is left in a server session.

mod commands;
mod limits;
mod webhooks;

use futures_util::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{Database, PgBouncer, PoolMode, Reply, Service, Setup, tally, wait_until};

/// Without a cache, and with many transactions at a time.
fn busy(database: &Database, url: &str) -> Setup {
    let setup = Setup::on(database).patient().set("DATABASE_URL", url).set("CXDA_CACHE__TTL", "0");
    setup.set("CXDA_DATABASE__SHARE_TRANSACTIONS", "off")
}

/// So many lookups at the same time, of customers of two tenants.
async fn lookups(service: &Service, ids: &[Uuid], n: usize) -> Vec<Reply> {
    join_all((0..n).map(|nth| {
        let tenant = if nth % 2 == 0 { "acme42" } else { "globex" };
        service.lookup(tenant, &ids[nth % ids.len()..])
    }))
    .await
}

async fn pooling_lines(service: &Service, n: usize) -> Vec<Value> {
    wait_until("the log tells how the database is reached", async || {
        let lines: Vec<_> = service.log().into_iter().filter(|line| line["event"] == "pooling").collect();
        (lines.len() >= n).then_some(lines)
    })
    .await
}

/// Rounds of concurrent lookups: each is answered with its customers, and leaves one audit row.
async fn is_answered_exactly(database: &Database, url: &str, sharing: &str) -> Service {
    let ids = database.customers("acme42", 5).await;
    let service = busy(database, url).set("CXDA_DATABASE__SHARE_TRANSACTIONS", sharing).start().await;
    for round in 1..=5 {
        let replies = lookups(&service, &ids, 60).await;
        assert_eq!(tally(replies.iter().map(|reply| reply.status)), [(200, 60)].into(), "{sharing}: {}", service.printed());
        for (nth, reply) in replies.iter().enumerate() {
            let expected = if nth % 2 == 0 { ids.len() - nth % ids.len() } else { 0 };
            assert_eq!(reply.names().len(), expected, "{}", reply.text());
        }
        assert_eq!(database.audit_count().await, 60 * round);
    }
    service
}

#[tokio::test]
async fn concurrent_lookups_are_all_answered_and_each_leaves_one_row() {
    for sharing in ["off", "all", "tenant"] {
        let database = Database::new().await;
        let pooler = PgBouncer::before(&database, 3).await;
        let service = is_answered_exactly(&database, &pooler.url(), sharing).await;
        assert!(!service.printed().contains("prepared statement"), "{}", service.printed());
    }
}

#[tokio::test]
async fn a_pool_of_one_serves_everything() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 1).await;
    let service = is_answered_exactly(&database, &pooler.url(), "all").await;
    assert_eq!(service.ready().await.status, 200);
    assert_eq!(pooling_lines(&service, 1).await[0]["pooling"], "transaction");
}

#[tokio::test]
async fn named_statements_where_they_are_forced_do_not_survive_an_untracked_pooler() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let ids = database.customers("acme42", 5).await;
    let service = busy(&database, &pooler.url()).set("CXDA_DATABASE__PREPARED_STATEMENTS", "named").start().await;
    wait_until("a lookup fails", async || lookups(&service, &ids, 60).await.iter().any(|reply| reply.status == 503).then_some(())).await;
    assert!(service.printed().contains("prepared statement"), "{}", service.printed());
}

#[tokio::test]
async fn a_pooler_that_tracks_names_is_given_named_statements() {
    let database = Database::new().await;
    let pooler = PgBouncer::tracking(&database, 1).await;
    let service = is_answered_exactly(&database, &pooler.url(), "all").await;
    let line = pooling_lines(&service, 1).await.remove(0);
    let tracks = PgBouncer::can_track();
    assert_eq!((&line["tracks_statements"], line["statements"] == "named"), (&Value::Bool(tracks), tracks), "{line}");
    // The pool of one: this client has the server session of the service.
    let client = pooler.client(&pooler.url()).await;
    let rows = client.query_typed("SELECT name FROM pg_prepared_statements WHERE statement LIKE 'WITH found%'", &[]).await.unwrap();
    assert_eq!(!rows.is_empty(), tracks, "{rows:?}");
}

#[tokio::test]
async fn start_up_says_how_the_database_is_reached_and_what_helps() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let through = Setup::on(&database).set("DATABASE_URL", pooler.url());

    let line = pooling_lines(&through.clone().start().await, 1).await.remove(0);
    assert_eq!(
        (&line["level"], &line["pooling"], &line["statements"]),
        (&"WARN".into(), &"transaction".into(), &"unnamed".into()),
        "{line}"
    );
    assert!(line["message"].as_str().unwrap().contains("CXDA_DATABASE__LISTEN_URL"), "{line}");

    let helped = through.set("CXDA_DATABASE__LISTEN_URL", &database.url).start().await;
    let line = pooling_lines(&helped, 1).await.into_iter().find(|line| line["setting"] == "database.url").unwrap();
    assert!(line["pooling"] == "transaction" && !line["message"].as_str().unwrap().contains("LISTEN_URL"), "{line}");

    let line = pooling_lines(&Setup::on(&database).start().await, 1).await.remove(0);
    assert_eq!((&line["level"], &line["pooling"], &line["statements"]), (&"INFO".into(), &"direct".into(), &"named".into()), "{line}");
}

#[tokio::test]
async fn a_pooler_in_session_mode_is_used_like_a_direct_connection() {
    let database = Database::new().await;
    let pooler = PgBouncer::start(&database, PoolMode::Session, 20, false).await;
    let service = is_answered_exactly(&database, &pooler.url(), "all").await;
    assert_eq!(pooling_lines(&service, 1).await[0]["pooling"], "direct");
}

#[tokio::test]
async fn what_stands_there_after_an_outage_is_looked_at_again() {
    let database = Database::new().await;
    let mut pooler = PgBouncer::start(&database, PoolMode::Session, 20, false).await;
    let ids = database.customers("acme42", 5).await;
    let service = busy(&database, &pooler.url()).start().await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    assert_eq!(pooling_lines(&service, 1).await[0]["pooling"], "direct");
    pooler.restart(PoolMode::Transaction, 2).await;
    wait_until("lookups work again", async || (service.lookup("acme42", &ids).await.status == 200).then_some(())).await;
    assert_eq!(pooling_lines(&service, 2).await[1]["pooling"], "transaction");
    for _ in 0..3 {
        let replies = lookups(&service, &ids, 60).await;
        assert_eq!(tally(replies.iter().map(|reply| reply.status)), [(200, 60)].into(), "{}", service.printed());
    }
    assert!(!service.printed().contains("prepared statement"), "{}", service.printed());
}
