//! `migrate` and what `serve` does about a schema that is not up to date.

use futures_util::future::join_all;
use uuid::Uuid;

use crate::support::{Cluster, Database, Outcome, Setup, Tool};

async fn migrate(database: &Database, args: &[&str]) -> Outcome {
    Tool::new(&["migrate"]).set("DATABASE_URL", &database.owner_url).args(args).run().await
}

async fn tables(database: &Database) -> i64 {
    database.value("SELECT count(*) FROM pg_class WHERE relname IN ('customers', 'audit_log')").await
}

#[tokio::test]
async fn status_tells_what_is_pending_and_changes_nothing() {
    let database = Cluster::shared().await.empty_database().await;
    let before = migrate(&database, &["status"]).await;
    assert!(before.printed().to_lowercase().contains("pending"), "{}", before.printed());
    assert_eq!(tables(&database).await, 0);

    assert_eq!(migrate(&database, &["apply"]).await.code, Some(0));
    assert_eq!(tables(&database).await, 2);
    let after = migrate(&database, &["status"]).await;
    assert_eq!(after.code, Some(0), "{}", after.printed());
    assert_ne!(after.printed(), before.printed());
}

#[tokio::test]
async fn applying_twice_is_applying_once() {
    let database = Cluster::shared().await.empty_database().await;
    for _ in 0..2 {
        let outcome = migrate(&database, &["apply"]).await;
        assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn three_processes_may_apply_at_once() {
    let cluster = Cluster::shared().await;
    for _ in 0..3 {
        let database = cluster.empty_database().await;
        for outcome in join_all((0..3).map(|_| migrate(&database, &["apply"]))).await {
            assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
        }
        assert_eq!(tables(&database).await, 2);
    }
}

#[tokio::test]
async fn databases_of_one_server_may_be_migrated_at_once() {
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let databases = join_all((0..4).map(|_| cluster.empty_database())).await;
    for outcome in join_all(databases.iter().map(|database| migrate(database, &["apply"]))).await {
        assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn serve_refuses_while_migrations_are_pending_and_says_what_to_run() {
    let database = Cluster::shared().await.empty_database().await;
    let outcome = Setup::on(&database).set("DATABASE_URL", &database.owner_url).refused().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    assert!(outcome.printed().contains("cxone-data-action migrate apply"), "{}", outcome.printed());
    assert_eq!(tables(&database).await, 0);
}

#[tokio::test]
async fn serve_applies_them_where_it_is_told_to() {
    let database = Cluster::shared().await.empty_database().await;
    let service = Setup::on(&database).set("DATABASE_URL", &database.owner_url).arg("--auto-migrate").start().await;
    let id = database.customer("acme42", "Ann").await;
    assert_eq!(service.lookup("acme42", &[id]).await.names(), ["Ann"]);
}

#[tokio::test]
async fn three_services_may_start_on_an_empty_database_at_once() {
    let database = Cluster::shared().await.empty_database().await;
    let setup = Setup::on(&database).set("DATABASE_URL", &database.owner_url).arg("--auto-migrate");
    for service in join_all((0..3).map(|_| setup.clone().start())).await {
        assert_eq!(service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
    }
}

#[tokio::test]
async fn migrations_run_as_the_owner_while_the_service_runs_as_another() {
    let database = Cluster::shared().await.empty_database().await;
    let setup = Setup::on(&database).set("CXDA_DATABASE__MIGRATE_URL", &database.owner_url).arg("--auto-migrate");
    // The role is granted what the migrations grant only once they have made their group.
    assert_eq!(migrate(&database, &["apply"]).await.code, Some(0));
    database.run("GRANT cxda_runtime TO cxda_service").await;
    let service = setup.start().await;
    let reply = service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    assert_eq!(database.audit_row(&reply.request_id()).await.source, "database");
}

#[tokio::test]
async fn a_database_with_another_text_of_a_migration_is_refused() {
    let database = Database::new().await;
    database.run("UPDATE refinery_schema_history SET checksum = '1' WHERE version = 1").await;
    for outcome in [migrate(&database, &["apply"]).await, Setup::on(&database).refused().await] {
        assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn demo_data_is_of_two_tenants_and_may_be_loaded_again() {
    let database = Cluster::shared().await.empty_database().await;
    for _ in 0..2 {
        let outcome = migrate(&database, &["apply", "--demo"]).await;
        assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    }
    assert_eq!(database.value::<i64>("SELECT count(DISTINCT tenant_id) FROM customers").await, 2);
}

#[tokio::test]
async fn without_a_database_to_reach_commands_fail_and_say_so() {
    for args in [["migrate", "status"], ["migrate", "apply"]] {
        let url = "postgresql://nobody:hunter2secret@127.0.0.1:1/none";
        let outcome = Tool::new(&args).set("DATABASE_URL", url).set("CXDA_DATABASE__STARTUP_WAIT", "0").run().await;
        assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
        assert!(!outcome.printed().contains("hunter2secret"), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn a_plain_customer_survives_a_second_apply() {
    let database = Database::new().await;
    let id = database.customer("acme42", "Ann").await;
    assert_eq!(migrate(&database, &["apply"]).await.code, Some(0));
    assert_eq!(database.value::<Uuid>("SELECT id FROM customers").await, id);
}
