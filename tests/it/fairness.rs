//! What one tenant or caller does, however much of it, leaves others their share.

use std::time::Duration;

use futures_util::future::join_all;
use uuid::Uuid;

use crate::support::{Database, Redis, Route, Service, Setup, request, send, tally, wait_until};

/// Lookups of a tenant that wait for the database.
fn flood(service: &Service, calls: usize) -> Vec<tokio::task::JoinHandle<u16>> {
    let body = request("flood", &[Uuid::from_u128(7)]).to_string();
    (0..calls)
        .map(|_| tokio::spawn(send(service.signed(body.clone()))))
        .map(|call| tokio::spawn(async { call.await.unwrap().status }))
        .collect()
}

async fn waiting(service: &Service) -> u64 {
    service.metrics().await.count("cxone_dataaction_lookups_waiting", &[])
}

#[tokio::test]
async fn a_tenant_that_takes_all_places_it_can_leaves_some_for_others() {
    let database = Database::new().await;
    let setup = Setup::on(&database).set("CXDA_HTTP__MAX_IN_FLIGHT", "32").set("CXDA_LOOKUP__DEADLINE", "20s");
    let setup = setup.set("CXDA_DATABASE__STATEMENT_TIMEOUT", "20s").set("CXDA_DATABASE__WAIT_TIMEOUT", "20s");
    let service = setup.set("CXDA_CACHE__TTL", "0").start().await;
    let lock = database.lock_customers().await;
    let calls = flood(&service, 60);
    wait_until("the flood has all that it gets", async || {
        (service.metrics().await.count("http_requests_total", &[("status", "503")]) == 30).then_some(())
    })
    .await;
    let other = tokio::spawn(send(service.signed(request("other", &[Uuid::from_u128(7)]).to_string())));
    wait_until("another tenant's lookup waits, too", async || (waiting(&service).await == 30).then_some(())).await;
    lock.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(other.await.unwrap().status, 200);
    let statuses = tally(join_all(calls).await.into_iter().map(Result::unwrap));
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [(200, 30), (503, 30)]);
}

#[tokio::test]
async fn a_lookup_goes_with_the_next_transaction_however_many_another_tenant_has_waiting() {
    let database = Database::new().await;
    let setup = Setup::on(&database).patient().set("CXDA_DATABASE__STATEMENT_TIMEOUT", "20s").set("CXDA_DATABASE__SHARED_IN_FLIGHT", "1");
    let service = setup.set("CXDA_CACHE__TTL", "0").start().await;
    let lock = database.lock_customers().await;
    let calls = flood(&service, 400);
    wait_until("the flood waits", async || (waiting(&service).await == 399).then_some(())).await;
    let other = tokio::spawn(send(service.signed(request("other", &[Uuid::from_u128(7)]).to_string())));
    wait_until("another tenant's lookup waits behind it", async || (waiting(&service).await == 400).then_some(())).await;
    lock.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(other.await.unwrap().status, 200);
    join_all(calls).await;
    let sql = "SELECT count(*) FROM audit_log WHERE tenant_id = 'flood' AND xmin::text::bigint < \
        (SELECT xmin::text::bigint FROM audit_log WHERE tenant_id = 'other')";
    let before: i64 = database.value(sql).await;
    // The one that held the lock's place, and at most the one that was sent behind it.
    assert!(before < 200, "{before} of 400 were written before the other tenant's");
}

#[tokio::test]
async fn a_caller_that_fills_the_key_store_leaves_room_for_others_and_keeps_its_own_answers() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "12mb"]).await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    let routes = ["/hooks/greedy", "/hooks/other"].map(|path| Route::new(path).store("redis"));
    let service = Setup::on(&database).redis(&redis).webhooks(&routes).start().await;
    let body = format!("\"{}\"", "x".repeat(60_000));
    let mut kept = 0;
    let refused = wait_until("it has its share", async || {
        let reply = service.webhook("/hooks/greedy", &format!("key {kept}").replace(' ', "-"), body.clone()).await;
        kept += usize::from(reply.status == 200);
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!(refused.problem(429, "rate_limited")["retryable"], true);
    let pause: u64 = refused.header("retry-after").expect("a pause").parse().unwrap();
    assert!(pause <= Duration::from_hours(26).as_secs());
    assert!(kept > 20, "{kept} answers");
    assert!(service.webhook("/hooks/greedy", "key-0", body.clone()).await.replayed(), "what it has kept is given again");
    for nth in 0..10 {
        assert_eq!(service.webhook("/hooks/other", &format!("key-{nth}"), body.clone()).await.status, 200);
    }
}
