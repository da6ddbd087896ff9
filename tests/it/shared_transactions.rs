//! Lookups that arrive together go out together, and nobody notices: each gets its own, and nobody suffers for another.

mod behind;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::support::{Database, Reply, Service, Setup, ids_of, request, tally, wait_until};

const SIZE: &str = "cxone_dataaction_shared_transaction_size";

/// Uncached, with one shared transaction under way at a time and patience with it.
fn setup(database: &Database) -> Setup {
    let setup = Setup::on(database).set("CXDA_CACHE__TTL", "0").set("CXDA_DATABASE__SHARED_IN_FLIGHT", "1");
    setup.patient().set("CXDA_DATABASE__STATEMENT_TIMEOUT", "30s")
}

async fn ask(service: &Service, tenant: &str, id: Uuid) -> Reply {
    service.lookup(tenant, &[id]).await
}

/// The numbers of audit rows by the transaction that wrote them, the fewest first.
async fn transactions(database: &Database) -> Vec<i64> {
    let sql = "SELECT count(*) FROM audit_log GROUP BY xmin::text ORDER BY 1";
    database.owner.query(sql, &[]).await.expect("counts").iter().map(|row| row.get(0)).collect()
}

/// The same, of how many tenants each.
async fn tenants_of_transactions(database: &Database) -> BTreeSet<i64> {
    let sql = "SELECT count(DISTINCT tenant_id) FROM audit_log GROUP BY xmin::text";
    database.owner.query(sql, &[]).await.expect("counts").iter().map(|row| row.get(0)).collect()
}

/// Waits until exactly so many lookups wait for a transaction.
async fn waiting(service: &Service, lookups: u64) {
    let are = async || (service.metrics().await.count("cxone_dataaction_lookups_waiting", &[]) == lookups).then_some(());
    wait_until(&format!("{lookups} lookups wait"), are).await;
}

/// Has `work` begin while a lookup holds the only transaction, and ends that one once all of it waits.
async fn behind_another<T>(database: &Database, service: &Service, waiting: u64, work: impl Future<Output = T>) -> T {
    let first = database.customer("first", "Ann").await;
    let lock = database.lock_customers().await;
    let begun = async {
        database.waiting_sessions(1).await;
        work.await
    };
    let release = async {
        database.waiting_sessions(1).await;
        wait_until("all of them wait", async || {
            (service.metrics().await.count("cxone_dataaction_lookups_waiting", &[]) >= waiting).then_some(())
        })
        .await;
        lock.batch_execute("ROLLBACK").await.expect("unlocked");
    };
    let (reply, outcome, ()) = tokio::join!(ask(service, "first", first), begun, release);
    assert_eq!(reply.names(), ["Ann"]);
    outcome
}

#[tokio::test]
async fn a_lone_lookup_goes_out_alone() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    let id = database.customer("acme42", "Ann").await;
    for _ in 0..5 {
        assert_eq!(service.lookup("acme42", &[id]).await.status, 200);
    }
    assert_eq!(transactions(&database).await, [1; 5]);
    let metrics = service.metrics().await;
    assert_eq!((metrics.count(&format!("{SIZE}_count"), &[]), metrics.sum(&format!("{SIZE}_sum"), &[])), (5, 5.0));
    assert_eq!(metrics.count("cxone_dataaction_shared_transaction_wait_seconds_count", &[]), 5);
}

#[tokio::test]
async fn lookups_that_wait_go_out_together_and_each_gets_its_own() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    // The same ids for several tenants, some of them absent for some.
    let ids: Vec<_> = (0..6).map(|_| Uuid::new_v4()).collect();
    for (nth, id) in ids.iter().enumerate().take(4) {
        for tenant in 0..4 {
            if (nth + tenant) % 3 > 0 {
                database.customer_with_id(&format!("t{tenant}"), *id, &format!("{nth} of t{tenant}")).await;
            }
        }
    }
    let call = |nth: usize| {
        let (service, ids) = (&service, &ids);
        async move {
            let tenant = format!("t{}", nth % 4);
            let asked: Vec<_> = (0..5).map(|place| ids[(nth + place * 5) % 6]).collect();
            let mut body = request(&tenant, &asked);
            body["context"] = json!({ "contactId": format!("contact {nth}") });
            let reply = service.post(body).await;
            (nth, tenant, asked, reply)
        }
    };
    let replies = behind_another(&database, &service, 20, join_all((0..20).map(call))).await;
    for (nth, tenant, asked, reply) in &replies {
        let there: Vec<_> = asked
            .iter()
            .filter(|id| ids.iter().position(|other| other == *id).is_some_and(|at| at < 4 && (at + nth % 4) % 3 > 0))
            .collect();
        let output = reply.output();
        assert_eq!(ids_of(&output["customers"]).iter().collect::<Vec<_>>(), there);
        let place = |id: &Uuid| ids.iter().position(|other| other == id).unwrap_or_default();
        assert_eq!(reply.names(), there.iter().map(|id| format!("{} of {tenant}", place(id))).collect::<Vec<_>>());
        let row = database.audit_row(&reply.request_id()).await;
        assert_eq!((&row.tenant_id, &row.customer_ids, row.contact_id.as_deref()), (tenant, asked, Some(&*format!("contact {nth}"))));
        assert_eq!(row.missing_ids, ids_of(&output["missing"]));
        assert_eq!((row.missing_ids.len() + there.len(), row.source.as_str()), (5, "database"));
    }
    assert_eq!(transactions(&database).await, [1, 20]);
}

#[tokio::test]
async fn transactions_are_shared_by_all_by_those_of_one_tenant_or_not_at_all() {
    for (sharing, expected, tenants) in
        [("all", vec![1, 12], vec![1, 3]), ("tenant", vec![1, 4, 4, 4], vec![1]), ("off", vec![1; 13], vec![1])]
    {
        let database = Database::new().await;
        let service =
            setup(&database).set("CXDA_DATABASE__SHARE_TRANSACTIONS", sharing).set("CXDA_DATABASE__MAX_CONNECTIONS", "1").start().await;
        let calls = (0..12).map(|nth| {
            let service = &service;
            async move { service.lookup(&format!("t{}", nth % 3), &[Uuid::new_v4()]).await.status }
        });
        assert_eq!(tally(behind_another(&database, &service, 12, join_all(calls)).await), BTreeMap::from([(200, 12)]), "{sharing}");
        assert_eq!(transactions(&database).await, expected, "{sharing}");
        assert_eq!(tenants_of_transactions(&database).await, tenants.into_iter().collect(), "{sharing}");
    }
}

#[tokio::test]
async fn the_row_of_a_cached_answer_rides_along() {
    let database = Database::new().await;
    let service = setup(&database).set("CXDA_CACHE__TTL", "1m").start().await;
    let id = database.customer("acme42", "Ann").await;
    wait_until("it is cached", async || (service.lookup("acme42", &[id]).await.cache() == "hit").then_some(())).await;
    database.run("TRUNCATE audit_log").await;
    let calls = async { tokio::join!(ask(&service, "acme42", id), ask(&service, "acme42", Uuid::new_v4())) };
    let (hit, miss) = behind_another(&database, &service, 2, calls).await;
    assert_eq!((hit.cache(), miss.cache()), ("hit", "miss"));
    assert_eq!(database.audit_row(&hit.request_id()).await.source, "cache");
    assert_eq!(transactions(&database).await, [1, 2]);
}

#[tokio::test]
async fn one_that_fails_in_the_database_fails_alone() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    database.run("ALTER TABLE audit_log ADD CHECK (contact_id IS DISTINCT FROM 'poison')").await;
    let id = database.customer("acme42", "Ann").await;
    let calls = (0..10).map(|nth| {
        let service = &service;
        async move {
            let mut body = request("acme42", &[id]);
            body["context"] = json!({ "contactId": if nth == 4 { "poison" } else { "42" } });
            service.post(body).await
        }
    });
    let replies = behind_another(&database, &service, 10, join_all(calls)).await;
    for (nth, reply) in replies.iter().enumerate() {
        if nth == 4 {
            reply.problem(500, "internal");
        } else {
            assert_eq!(reply.names(), ["Ann"]);
            database.audit_row(&reply.request_id()).await;
        }
    }
    assert_eq!(transactions(&database).await, [1; 10]);
    let metrics = service.metrics().await;
    assert_eq!(metrics.count("cxone_dataaction_shared_transactions_taken_apart_total", &[]), 1);
    assert_eq!(metrics.count("cxone_dataaction_rollback_total", &[("reason", "audit")]), 2, "together and alone");
}

#[tokio::test]
async fn who_hangs_up_while_waiting_leaves_no_row_and_disturbs_nobody() {
    let database = Database::new().await;
    let service = setup(&database).set("CXDA_CACHE__TTL", "1m").start().await;
    let id = database.customer("acme42", "Ann").await;
    wait_until("it is cached", async || (service.lookup("acme42", &[id]).await.cache() == "hit").then_some(())).await;
    database.run("TRUNCATE audit_log").await;
    let calls = async {
        let gone = service.lookup_to_be_reset("acme42", &[id]).await;
        let stay = async {
            waiting(&service, 2).await;
            gone.reset(&service).await;
            waiting(&service, 1).await;
            tokio::join!(ask(&service, "acme42", id), ask(&service, "acme42", id))
        };
        tokio::join!(ask(&service, "acme42", id), stay)
    };
    let (one, (two, three)) = Box::pin(behind_another(&database, &service, 3, calls)).await;
    assert_eq!([one.status, two.status, three.status], [200; 3]);
    assert_eq!(transactions(&database).await, [1, 3]);
}

#[tokio::test]
async fn each_keeps_to_its_own_bounds_while_another_holds_the_transaction() {
    for (setting, value, code) in
        [("CXDA_DATABASE__WAIT_TIMEOUT", "300ms", "overloaded"), ("CXDA_LOOKUP__DEADLINE", "400ms", "database_unavailable")]
    {
        let database = Database::new().await;
        let service = setup(&database).set(setting, value).start().await;
        let id = database.customer("acme42", "Ann").await;
        let lock = database.lock_customers().await;
        let calls = async { join_all((0..5).map(|_| ask(&service, "acme42", id))).await };
        let release = async {
            let refused = async || service.metrics().await.count("http_requests_total", &[("status", "503")]);
            wait_until("those who wait are refused", async || (refused().await >= 4).then_some(())).await;
            lock.batch_execute("ROLLBACK").await.expect("unlocked");
        };
        let (replies, ()) = tokio::join!(calls, release);
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            reply.problem(503, code);
        }
        assert!(replies.iter().filter(|reply| reply.status == 503).count() >= 4, "{setting}");
        wait_until("it is answered again", async || (service.lookup("acme42", &[id]).await.status == 200).then_some(())).await;
        database.no_open_transaction().await;
    }
}
