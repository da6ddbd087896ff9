//! Bounds: past them there is a clear answer, and nothing piles up.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use uuid::Uuid;

use crate::support::{Database, Redis, Setup, request, send, tally};

#[tokio::test]
async fn past_the_lookups_in_flight_there_is_an_honest_503_at_once() {
    let database = Database::new().await;
    let setup = Setup::on(&database).set("CXDA_HTTP__MAX_IN_FLIGHT", "2").set("CXDA_LOOKUP__DEADLINE", "20s");
    let setup = setup.set("CXDA_DATABASE__STATEMENT_TIMEOUT", "20s").set("CXDA_DATABASE__SHARED_IN_FLIGHT", "2");
    let service = setup.start().await;
    let lock = database.lock_customers().await;
    let body = request("acme42", &[Uuid::from_u128(7)]).to_string();
    let under_way: Vec<_> = (0..2).map(|_| tokio::spawn(send(service.signed(body.clone())))).collect();
    database.waiting_sessions(2).await;

    let began = Instant::now();
    let reply = service.post(&body).await;
    assert_eq!(reply.problem(503, "overloaded")["retryable"], true);
    assert!(reply.header("retry-after").is_some());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    lock.batch_execute("ROLLBACK").await.unwrap();
    for call in under_way {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(service.post(&body).await.status, 200);
    assert_eq!(database.audit_count().await, 3);
}

#[tokio::test]
async fn where_all_connections_stay_busy_there_is_an_honest_503_after_the_wait() {
    let database = Database::new().await;
    let setup = Setup::on(&database).set("CXDA_DATABASE__MAX_CONNECTIONS", "1").set("CXDA_DATABASE__WAIT_TIMEOUT", "300ms");
    let service = setup.set("CXDA_DATABASE__STATEMENT_TIMEOUT", "20s").set("CXDA_LOOKUP__DEADLINE", "20s").start().await;
    let lock = database.lock_customers().await;
    let body = request("acme42", &[Uuid::from_u128(7)]).to_string();
    let under_way = tokio::spawn(send(service.signed(body.clone())));
    database.waiting_sessions(1).await;
    let began = Instant::now();
    service.post(&body).await.problem(503, "overloaded");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    lock.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(under_way.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_rush_is_answered_without_a_failure_and_audited_to_the_row() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).patient().start().await;
    let ids = database.customers("acme42", 200).await;
    let caller = async |nth: usize| {
        let mut statuses = Vec::new();
        for round in 0..40 {
            let at = (nth * 31 + round * 17) % 190;
            statuses.push(service.lookup("acme42", &ids[at..at + 10]).await.status);
        }
        statuses
    };
    let statuses = join_all((0..32).map(caller)).await.concat();
    assert_eq!(tally(statuses).into_iter().collect::<Vec<_>>(), [(200, 32 * 40)]);
    assert_eq!(database.audit_count().await, 32 * 40);
}

#[tokio::test]
async fn no_more_connections_are_opened_than_set() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_DATABASE__MAX_CONNECTIONS", "3").set("CXDA_CACHE__TTL", "0").start().await;
    let ids = database.customers("acme42", 50).await;
    let calls = (0..300).map(|nth| service.lookup("acme42", &ids[nth % 50..=nth % 50]));
    let counts = tally(join_all(calls).await.iter().map(|reply| reply.status));
    assert!(counts.keys().all(|status| [200, 503].contains(status)), "{counts:?}");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'cxda_service'";
    assert!(database.value::<i64>(sql).await <= 3);
}
