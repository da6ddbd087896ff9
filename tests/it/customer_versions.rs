//! No row of customers has a version that lookups cannot read; an upgrade says what to do about rows of before.

use refinery::Target;
use tokio_postgres::error::SqlState;

use crate::support::{Cluster, Database, Outcome, Setup, Tool, connect, wait_until};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// A database as the release before leaves it.
async fn database_of_version_5() -> Database {
    let database = Cluster::shared().await.empty_database().await;
    let mut owner = connect(&database.owner_url).await.unwrap();
    embedded::migrations::runner().set_target(Target::Version(5)).run_async(&mut owner).await.unwrap();
    database
}

fn apply(database: &Database) -> Tool {
    Tool::new(&["migrate", "apply"]).set("DATABASE_URL", &database.owner_url)
}

async fn applied(database: &Database) -> Outcome {
    let outcome = apply(database).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    outcome
}

#[tokio::test]
async fn a_negative_version_is_refused_and_lookups_go_on() {
    let database = Database::new().await;
    let id = database.customer("acme42", "Ann").await;
    let service = Setup::on(&database).set("CXDA_CACHE__TTL", "0").start().await;
    let insert = "INSERT INTO customers (tenant_id, id, name, status, version) VALUES ('acme42', gen_random_uuid(), 'Beth', 'active', -1)";
    for role in ["origin", "replica"] {
        database.run(&format!("SET session_replication_role = {role}")).await;
        let refused = database.owner.batch_execute(insert).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::CHECK_VIOLATION));
        database.run("UPDATE customers SET version = -5").await;
        assert!(database.value::<i64>("SELECT version FROM customers").await > 1, "the trigger counts");
    }
    assert_eq!(service.lookup("acme42", &[id]).await.names(), ["Ann"]);
}

#[tokio::test]
async fn an_upgrade_leaves_customers_as_they_are() {
    let database = database_of_version_5().await;
    let ids = database.customers("acme42", 3).await;
    database.run(&format!("UPDATE customers SET name = 'Ann' WHERE id = '{}'", ids[0])).await;
    let rows = "SELECT string_agg(c::text, ';' ORDER BY id) FROM customers c";
    let before: String = database.value(rows).await;
    applied(&database).await;
    assert_eq!(database.value::<String>(rows).await, before);
    assert!(database.value::<bool>("SELECT convalidated FROM pg_constraint WHERE conname = 'customers_version_check'").await);
    let service = Setup::on(&database).set("DATABASE_URL", &database.owner_url).start().await;
    assert_eq!(service.lookup("acme42", &ids[..1]).await.names(), ["Ann"]);
}

#[tokio::test]
async fn an_upgrade_of_a_table_with_negative_versions_says_how_many_and_what_to_do() {
    let database = database_of_version_5().await;
    let ids = database.customers("acme42", 3).await;
    database
        .run("INSERT INTO customers (tenant_id, id, name, status, version) SELECT 'globex', gen_random_uuid(), 'Beth', 'active', -n FROM generate_series(1, 2) n")
        .await;
    let refused = apply(&database).run().await;
    let printed = refused.printed();
    assert_eq!(refused.code, Some(1), "{printed}");
    let mend = "UPDATE customers SET name = name WHERE version < 0";
    assert!(printed.contains("2 rows of customers have a negative version") && printed.contains(mend), "{printed}");
    // No new row gets one meanwhile.
    let insert = "INSERT INTO customers (tenant_id, id, name, status, version) VALUES ('acme42', gen_random_uuid(), 'x', 'y', -1)";
    assert_eq!(database.owner.batch_execute(insert).await.unwrap_err().code(), Some(&SqlState::CHECK_VIOLATION));
    database.run(mend).await;
    applied(&database).await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM customers WHERE tenant_id = 'globex' AND version = 1").await, 2);
    let service = Setup::on(&database).set("DATABASE_URL", &database.owner_url).start().await;
    assert_eq!(service.lookup("acme42", &ids).await.names().len(), 3);
}

#[tokio::test]
async fn lookups_do_not_wait_for_an_upgrade_that_waits() {
    let database = database_of_version_5().await;
    let reader = connect(&database.owner_url).await.unwrap();
    reader.batch_execute("BEGIN; SELECT FROM customers").await.unwrap();
    let upgrade = apply(&database).start("KILL");
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%customers_version_check%' AND pid <> pg_backend_pid()";
    wait_until("it is at the constraint", async || (database.value::<i64>(waits).await > 0).then_some(())).await;
    for _ in 0..5 {
        database.run("SELECT FROM customers WHERE tenant_id = 'acme42'").await;
    }
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(upgrade.ended("the upgrade is done").await.code, Some(0));
}
