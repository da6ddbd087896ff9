//! Commands through the pooler.

use futures_util::future::join_all;
use uuid::Uuid;

use super::limits::assert_nothing_left_behind;
use crate::support::{Cluster, Database, Outcome, PgBouncer, Route, SECRET, Setup, Tool, scratch_file, settings_file};

async fn run(url: &str, args: &[&str], input: &str) -> Outcome {
    Tool::new(args).set("DATABASE_URL", url).input(input).run().await
}

fn good(outcome: &Outcome) -> &str {
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    &outcome.stdout
}

#[tokio::test]
async fn three_processes_migrate_an_empty_database_through_a_pool_of_two() {
    let database = Cluster::shared().await.empty_database().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let url = pooler.owner_url();
    let outcomes = join_all((0..3).map(|_| run(&url, &["migrate", "apply"], ""))).await;
    let applied: usize = outcomes.iter().map(|outcome| good(outcome).matches("applied  V1__").count()).sum();
    assert_eq!(applied, 1);
    assert!(!good(&run(&url, &["migrate", "status"], "").await).contains("pending"));
    good(&run(&url, &["migrate", "apply", "--demo"], "").await);
    assert!(database.value::<i64>("SELECT count(*) FROM customers").await > 0);
}

#[tokio::test]
async fn migrations_through_a_pool_of_one_fail_and_name_the_setting() {
    let database = Cluster::shared().await.empty_database().await;
    let pooler = PgBouncer::before(&database, 1).await;
    let outcome = run(&pooler.owner_url(), &["migrate", "apply"], "").await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    assert!(outcome.stderr.contains("CXDA_DATABASE__MIGRATE_URL"), "{}", outcome.printed());
    good(&run(&database.owner_url, &["migrate", "apply"], "").await);
    assert_nothing_left_behind(&pooler).await;
}

#[tokio::test]
async fn names_that_another_client_has_left_in_a_server_session_are_stepped_over() {
    let database = Cluster::shared().await.empty_database().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let (one, other) = (pooler.client(&pooler.owner_url()).await, pooler.client(&pooler.owner_url()).await);
    for client in [&one, &other] {
        client.batch_execute("BEGIN").await.unwrap();
    }
    for client in [&one, &other] {
        let statements: Vec<_> = (0..5).map(|n| format!("PREPARE s{n} AS SELECT 1; ")).collect();
        client.batch_execute(&format!("{} COMMIT", statements.concat())).await.unwrap();
    }
    good(&run(&pooler.owner_url(), &["migrate", "apply"], "").await);
    let line = format!("tenant_id,id,name,status\nacme42,{},Ann,active\n", Uuid::from_u128(1));
    assert!(good(&run(&pooler.owner_url(), &["import", "-", "--format", "csv"], &line).await).contains("inserted 1"));
}

#[tokio::test]
async fn customers_are_imported() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 1).await;
    let lines: Vec<_> = (1..=3000).map(|n| format!("acme42,{},Ann {n},active\n", Uuid::from_u128(n))).collect();
    let file = format!("tenant_id,id,name,status\n{}", lines.concat());
    for summary in ["inserted 3000, updated 0, unchanged 0", "inserted 0, updated 0, unchanged 3000"] {
        let outcome = run(&pooler.owner_url(), &["import", "-", "--format", "csv"], &file).await;
        assert!(good(&outcome).contains(summary), "{}", outcome.printed());
    }
    let outcome = run(&pooler.url(), &["import", "-", "--format", "csv"], &file).await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("may not write customers"), "{}", outcome.printed());
    assert_nothing_left_behind(&pooler).await;
}

#[tokio::test]
async fn the_audit_log_is_exported_and_pruned() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 1).await;
    database.configure("SET timezone = 'Asia/Tokyo'").await;
    database.run("CREATE TABLE audit_log_2020_01 PARTITION OF audit_log FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00'); \
        INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, customer_ids) VALUES ('acme42', '2020-01-02 00:00+00', gen_random_uuid(), 'a', 'cache', '{}')").await;
    let rows = run(&pooler.url(), &["audit", "export", "--format", "jsonl", "--from", "2020-01-01"], "").await;
    assert!(good(&rows).contains("2020-01-02T00:00:00Z"), "{}", rows.printed());
    let pruned = run(&pooler.owner_url(), &["audit", "prune", "--older-than", "400d"], "").await;
    assert!(good(&pruned).contains("dropped  audit_log_2020_01  until 2020-02-01T00:00:00Z"), "{}", pruned.printed());
    assert_eq!(database.audit_count().await, 0);
    assert_nothing_left_behind(&pooler).await;
}

#[tokio::test]
async fn partitions_are_made_and_unknown_outcomes_listed() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let before: i64 = database.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_log'::regclass").await;
    let service = Setup::on(&database).set("DATABASE_URL", pooler.url()).set("CXDA_AUDIT__PARTITIONS_AHEAD", "6").start().await;
    crate::support::wait_until("partitions are made", async || {
        let now: i64 = database.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_log'::regclass").await;
        (now == before + 3).then_some(())
    })
    .await;
    assert_eq!(service.ready().await.status, 200);

    let file = scratch_file(settings_file(&[Route::new("/webhooks/x").store("postgres")]));
    let tool = Tool::new(&["idempotency", "show"]).set("CXDA_CONFIG", file.to_str().unwrap()).set("CXDA_SIGNING__SECRET", SECRET);
    assert_eq!(good(&tool.set("DATABASE_URL", pooler.url()).run().await), "no unknown outcome");
}
