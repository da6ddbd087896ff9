//! Postgres killed, hung and back: 503 in good time, then 200 again, and every 200 has its row.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use crate::support::{Cluster, Database, Gate, Kept, PATIENCE, Redis, Service, Setup, ids_of, wait_until};

/// Room for a slow machine beside a promised time.
const SLACK: Duration = Duration::from_millis(1500);

/// Neither hits nor group effects: each lookup needs the database.
fn setup(database: &Database) -> Setup {
    Setup::on(database).set("CXDA_CACHE__TTL", "0").set("CXDA_SHUTDOWN__GRACE", "1s")
}

/// Calls until there is a 200, and holds all other answers to be honest 503s.
async fn recovered(service: &Service, ids: &[Uuid]) -> Duration {
    let began = Instant::now();
    wait_until("lookups are answered again", async || {
        let reply = service.lookup("acme42", ids).await;
        if reply.status != 200 {
            reply.problem(503, "database_unavailable");
        }
        (reply.status == 200).then(|| began.elapsed())
    })
    .await
}

#[tokio::test]
async fn a_killed_postgres_is_503_with_retry_after_and_200_once_it_is_back() {
    let mut cluster = Cluster::start(&[]).await;
    let mut database = cluster.database().await;
    let service = setup(&database).start().await;
    let ids = database.customers("acme42", 3).await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);

    cluster.kill().await;
    for _ in 0..5 {
        let began = Instant::now();
        let reply = service.lookup("acme42", &ids).await;
        let problem = reply.problem(503, "database_unavailable");
        assert_eq!(problem["retryable"], true);
        assert!(reply.header("retry-after").is_some() && problem["retry_after_ms"].is_u64(), "{problem}");
        assert!(began.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", began.elapsed());
    }
    cluster.start_again().await;
    database.reconnect().await;
    let took = recovered(&service, &ids).await;
    assert!(took < Duration::from_secs(1) + SLACK, "first 200 after {took:?}");
}

#[tokio::test]
async fn every_200_has_its_row_though_postgres_dies_under_load() {
    let mut cluster = Cluster::start(&[]).await;
    let mut database = cluster.database().await;
    let service = setup(&database).start().await;
    let ids = database.customers("acme42", 30).await;
    let began = Instant::now();
    let over = std::sync::atomic::AtomicBool::new(false);
    let caller = async |nth: usize| {
        let mut answered = Vec::new();
        while !over.load(std::sync::atomic::Ordering::Relaxed) && began.elapsed() < PATIENCE {
            let reply = service.lookup("acme42", &ids[nth..nth + 5]).await;
            match reply.status {
                200 => answered.push(reply.request_id()),
                _ => drop(reply.problem(503, "database_unavailable")),
            }
        }
        answered
    };
    let outage = async {
        for _ in 0..3 {
            let count = database.audit_count().await;
            wait_until("some are answered", async || (database.audit_count().await > count + 100).then_some(())).await;
            cluster.kill().await;
            cluster.start_again().await;
            database.reconnect().await;
        }
        let count = database.audit_count().await;
        wait_until("lookups go on", async || (database.audit_count().await > count + 100).then_some(())).await;
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (answered, ()) = tokio::join!(join_all((0..8).map(caller)), outage);
    let answered: BTreeSet<String> = answered.into_iter().flatten().collect();
    let rows = database.owner.query("SELECT request_id FROM audit_log", &[]).await.unwrap();
    let rows: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(answered.len() > 300, "{}", answered.len());
    assert_eq!(answered.difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test]
async fn a_hung_postgres_is_503_within_the_deadline_and_no_restart_is_needed() {
    let cluster = Cluster::start(&[]).await;
    let database = cluster.database().await;
    let service = setup(&database).set("CXDA_LOOKUP__DEADLINE", "1s").set("CXDA_DATABASE__STATEMENT_TIMEOUT", "700ms").start().await;
    let ids = database.customers("acme42", 3).await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);

    let frozen = cluster.freeze().await;
    let calls = (0..40).map(async |_| {
        let began = Instant::now();
        let reply = service.lookup("acme42", &ids).await;
        let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
        assert!(["database_unavailable", "overloaded"].contains(&code.as_str()), "{}", reply.text());
        reply.problem(503, &code);
        began.elapsed()
    });
    let slowest = join_all(calls).await.into_iter().max().unwrap();
    assert!(slowest < Duration::from_secs(1) + SLACK, "{slowest:?}");
    assert_eq!(service.ready().await.status, 503);

    drop(frozen);
    let took = recovered(&service, &ids).await;
    assert!(took < Duration::from_secs(2) + SLACK, "first 200 after {took:?}");
    assert_eq!(wait_until("it is ready", async || Some(service.ready().await.status).filter(|status| *status == 200)).await, 200);
}

#[tokio::test]
async fn a_lookup_that_waits_for_a_lock_is_given_up_in_time() {
    let database = Database::new().await;
    let service = setup(&database).set("CXDA_LOOKUP__DEADLINE", "1s").set("CXDA_DATABASE__STATEMENT_TIMEOUT", "500ms").start().await;
    let ids = database.customers("acme42", 3).await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    let lock = database.lock_customers().await;
    let began = Instant::now();
    service.lookup("acme42", &ids).await.problem(503, "database_unavailable");
    assert!(began.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", began.elapsed());
    assert_eq!(database.audit_count().await, 1);
    lock.batch_execute("ROLLBACK").await.unwrap();
    database.no_open_transaction().await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
}

#[tokio::test]
async fn what_is_given_up_is_stopped_in_postgres_long_before_its_own_bound() {
    let database = Database::new().await;
    let service = setup(&database).set("CXDA_LOOKUP__DEADLINE", "1s").set("CXDA_DATABASE__STATEMENT_TIMEOUT", "1h").start().await;
    let ids = database.customers("acme42", 3).await;
    let _lock = database.lock_customers().await;
    service.lookup("acme42", &ids).await.problem(503, "database_unavailable");
    // While the lock is held still.
    database.no_open_transaction().await;
}

#[tokio::test]
async fn a_lookup_whose_commit_is_not_heard_of_is_answered_and_has_one_row() {
    let database = Database::new().await;
    let gate = Gate::before_postgres(&database).await;
    let service = setup(&database).patient().set("DATABASE_URL", &gate.url).start().await;
    let ids = database.customers("acme42", 3).await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    gate.keep(Kept::Answers);
    let (reply, ()) = tokio::join!(service.lookup("acme42", &ids), async {
        wait_until("it is committed", async || (database.audit_count().await == 2).then_some(())).await;
        gate.waited_at().await;
        gate.cut();
    });
    assert_eq!(ids_of(&reply.output()["customers"]), ids);
    assert_eq!(database.audit_count().await, 2);
}

#[tokio::test]
async fn a_statement_has_a_bound_of_its_own() {
    let database = Database::new().await;
    let service = setup(&database).set("CXDA_LOOKUP__DEADLINE", "15s").set("CXDA_DATABASE__STATEMENT_TIMEOUT", "300ms").start().await;
    let ids = database.customers("acme42", 3).await;
    let _lock = database.lock_customers().await;
    let began = Instant::now();
    service.lookup("acme42", &ids).await.problem(503, "database_unavailable");
    assert!(began.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", began.elapsed());
}

#[tokio::test]
async fn ended_sessions_are_replaced() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    let ids = database.customers("acme42", 3).await;
    let end =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'cxda_service'";
    for _ in 0..5 {
        join_all((0..10).map(|_| service.lookup("acme42", &ids))).await;
        assert!(database.value::<i64>(end).await > 0, "the service has sessions");
        recovered(&service, &ids).await;
    }
}

#[tokio::test]
async fn a_database_that_takes_no_connections_is_unavailable_and_no_defect() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    let ids = database.customers("acme42", 3).await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'cxda_service'";
    for (shut, open) in [("REVOKE CONNECT", "GRANT CONNECT"), ("ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true")] {
        database.configure(shut).await;
        database.run(end).await;
        service.lookup("acme42", &ids).await.problem(503, "database_unavailable");
        database.configure(open).await;
        recovered(&service, &ids).await;
    }
}

#[tokio::test]
async fn a_session_that_is_ended_within_its_transaction_leaves_neither_row_nor_answer() {
    let database = Database::new().await;
    let service = setup(&database).start().await;
    let ids = database.customers("acme42", 3).await;
    let lock = database.lock_customers().await;
    let end = async {
        database.waiting_sessions(1).await;
        database
            .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
            .await;
        lock.batch_execute("ROLLBACK").await.unwrap();
    };
    let (reply, ()) = tokio::join!(service.lookup("acme42", &ids), end);
    let rows = database.audit_count().await;
    if reply.status == 200 {
        assert_eq!(rows, 1, "tried again, and audited once");
    } else {
        reply.problem(503, "database_unavailable");
        assert_eq!(rows, 0);
    }
}

#[tokio::test]
async fn without_its_database_a_service_is_not_ready_but_alive() {
    let mut cluster = Cluster::start(&[]).await;
    let mut database = cluster.database().await;
    let service = setup(&database).start().await;
    assert_eq!(service.ready().await.status, 200);
    cluster.kill().await;
    wait_until("it is not ready", async || (service.ready().await.status == 503).then_some(())).await;
    assert_eq!(service.admin(reqwest::Method::GET, "/livez").await.status, 200);
    cluster.start_again().await;
    database.reconnect().await;
    wait_until("it is ready again", async || (service.ready().await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_service_waits_at_its_start_for_a_database_that_is_not_up_yet() {
    let mut cluster = Cluster::start(&[]).await;
    let database = cluster.database().await;
    cluster.kill().await;
    let mut process = setup(&database).set("CXDA_DATABASE__STARTUP_WAIT", "1m").process();
    process.logged("it waits", |line| line["level"] == "WARN").await;
    cluster.start_again().await;
    let service = Service::over(process).await;
    assert_eq!(service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
}

#[tokio::test]
async fn cached_customers_are_not_given_out_unaudited() {
    let mut cluster = Cluster::start(&[]).await;
    let database = cluster.database().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    let id = database.customer("acme42", "Zaphod").await;
    service.lookup("acme42", &[id]).await;
    cluster.kill().await;
    let reply = service.lookup("acme42", &[id]).await;
    reply.problem(503, "database_unavailable");
    assert!(!reply.text().contains("Zaphod"));
}

#[tokio::test]
async fn without_a_database_nothing_cached_is_answered_even_where_hits_need_no_row() {
    let mut cluster = Cluster::start(&[]).await;
    let database = cluster.database().await;
    let service = Setup::on(&database).set("CXDA_AUDIT__CACHE_HITS", "false").start().await;
    let id = database.customer("acme42", "Zaphod").await;
    service.lookup("acme42", &[id]).await;
    assert_eq!(service.lookup("acme42", &[id]).await.cache(), "hit");
    cluster.kill().await;
    // Nobody tells of changes any more.
    wait_until("the cache is passed by", async || (service.lookup("acme42", &[id]).await.status == 503).then_some(())).await;
    cluster.start_again().await;
    wait_until("it is cached again", async || {
        let reply = service.lookup("acme42", &[id]).await;
        (reply.status == 200 && reply.cache() == "hit").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_open_transaction() {
    let database = Database::new().await;
    let service =
        setup(&database).set("CXDA_DATABASE__MAX_CONNECTIONS", "2").patient().set("CXDA_DATABASE__STATEMENT_TIMEOUT", "30s").start().await;
    let ids = database.customers("acme42", 3).await;
    let lock = database.lock_customers().await;
    let calls = [service.lookup_to_be_reset("acme42", &ids).await, service.lookup_to_be_reset("acme42", &ids).await];
    database.waiting_sessions(1).await;
    for call in calls {
        call.reset(&service).await;
    }
    lock.batch_execute("ROLLBACK").await.unwrap();
    wait_until("both are audited: work goes on to its end", async || (database.audit_count().await == 2).then_some(())).await;
    database.no_open_transaction().await;
    for _ in 0..5 {
        assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    }
}

#[tokio::test]
async fn a_session_that_stands_still_holds_up_nobody_else_for_long() {
    let database = Database::new().await;
    let service = setup(&database).set("CXDA_DATABASE__MAX_CONNECTIONS", "1").set("CXDA_LOOKUP__DEADLINE", "1s").start().await;
    let ids = database.customers("acme42", 3).await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'cxda_service'";
    let sessions: Vec<Pid> = database.owner.query(sql, &[]).await.unwrap().iter().map(|row| Pid::from_raw(row.get(0))).collect();
    assert!(!sessions.is_empty());
    for session in &sessions {
        kill(*session, Signal::SIGSTOP).unwrap();
    }
    service.lookup("acme42", &ids).await.problem(503, "database_unavailable");
    recovered(&service, &ids).await;
    for session in sessions {
        let _ = kill(session, Signal::SIGCONT);
    }
}
