//! Logical replication into `customers`: from this very schema, and from a table that knows no versions.

use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::{TENANT, cached, seen, service};
use crate::support::{Cluster, Database, Ear, wait_until};

/// A table as another program may have it.
const PLAIN: &str =
    "CREATE TABLE customers (tenant_id text, id uuid, name text NOT NULL, status text NOT NULL, PRIMARY KEY (tenant_id, id))";

/// A publisher and a subscriber, side by side in one server: a subscription cannot make its slot there itself.
struct Replication {
    source: Database,
    target: Database,
    _cluster: Cluster,
}

impl Replication {
    async fn of_this_schema() -> Self {
        let cluster = Self::cluster().await;
        Self { source: cluster.database().await, target: cluster.database().await, _cluster: cluster }
    }

    async fn of_another_schema() -> Self {
        let cluster = Self::cluster().await;
        let source = cluster.empty_database().await;
        source.run(PLAIN).await;
        Self { source, target: cluster.database().await, _cluster: cluster }
    }

    async fn cluster() -> Cluster {
        Cluster::start(&[("wal_level", "logical"), ("fsync", "off")]).await
    }

    /// Begins, and waits until what is there is copied.
    async fn subscribe(&self) {
        for database in [&self.source, &self.target] {
            database.run("CREATE TABLE marks (id uuid PRIMARY KEY)").await;
        }
        self.source.run("CREATE PUBLICATION loading FOR TABLE customers, marks").await;
        self.source.run("SELECT pg_create_logical_replication_slot('loading', 'pgoutput')").await;
        let source = &self.source.owner_url;
        let subscribe = format!(
            "CREATE SUBSCRIPTION loading CONNECTION '{source}' PUBLICATION loading WITH (create_slot = false, slot_name = 'loading')"
        );
        self.target.run(&subscribe).await;
        self.settles("the first copy is done", "SELECT count(*) = 2 FROM pg_subscription_rel WHERE srsubstate = 'r'", true).await;
    }

    /// Waits until the subscriber says so.
    async fn settles<T: for<'a> FromSql<'a> + PartialEq>(&self, what: &str, sql: &str, expected: T) {
        wait_until(what, async || (self.target.value::<T>(sql).await == expected).then_some(())).await;
    }

    /// Waits until all that is committed at the publisher is applied.
    async fn caught_up(&self) {
        let mark = Uuid::new_v4();
        self.source.run(&format!("INSERT INTO marks VALUES ('{mark}')")).await;
        self.settles("it has caught up", &format!("SELECT count(*) FROM marks WHERE id = '{mark}'"), 1_i64).await;
    }
}

fn inserted(id: Uuid, name: &str) -> String {
    format!("INSERT INTO customers (tenant_id, id, name, status) VALUES ('{TENANT}', '{id}', '{name}', 'active')")
}

/// What both sides say of the customer, but for its attributes.
async fn row(database: &Database, id: Uuid) -> String {
    database.value(&format!("SELECT concat_ws('|', tenant_id, name, status, updated_at, version) FROM customers WHERE id = '{id}'")).await
}

/// Every kind of change at the publisher is seen by a service of the subscriber.
async fn every_change_is_seen(replication: &Replication) {
    let Replication { source, target, .. } = replication;
    let service = service(target).await;
    let (id, moved) = (Uuid::new_v4(), Uuid::new_v4());
    source.run(&inserted(id, "Ann")).await;
    cached(&service, id, None).await;
    replication.subscribe().await;
    seen(&service, id, Some("Ann"), "the first copy").await;
    for (statements, name) in [
        ("UPDATE customers SET name = 'Beth'".to_owned(), Some("Beth")),
        ("UPDATE customers SET name = 'x'; UPDATE customers SET name = 'Cleo'".to_owned(), Some("Cleo")),
        ("UPDATE customers SET status = 'a'; UPDATE customers SET name = 'Dora'".to_owned(), Some("Dora")),
        ("DELETE FROM customers".to_owned(), None),
        (inserted(id, "Emma"), Some("Emma")),
        (format!("UPDATE customers SET id = '{moved}'"), None),
        (format!("UPDATE customers SET id = '{id}'"), Some("Emma")),
        ("TRUNCATE customers".to_owned(), None),
        // The worker has told of nothing yet when the row is truncated.
        (format!("BEGIN; {}; TRUNCATE customers; COMMIT; {}", inserted(moved, "x"), inserted(id, "Fay")), Some("Fay")),
    ] {
        source.run(&statements).await;
        seen(&service, id, name, &statements).await;
        cached(&service, id, name).await;
    }
    target.run("DROP SUBSCRIPTION loading").await;
}

#[tokio::test]
async fn changes_that_come_from_this_schema_are_seen() {
    every_change_is_seen(&Replication::of_this_schema().await).await;
}

#[tokio::test]
async fn changes_that_come_from_a_table_without_versions_are_seen() {
    every_change_is_seen(&Replication::of_another_schema().await).await;
}

#[tokio::test]
async fn versions_are_the_publishers_where_it_has_some_and_rise_in_any_case() {
    let replication = Replication::of_this_schema().await;
    let Replication { source, target, .. } = &replication;
    let id = source.customer(TENANT, "Ann").await;
    source.run("UPDATE customers SET name = 'Beth'; UPDATE customers SET name = 'Cleo'").await;
    replication.subscribe().await;
    assert_eq!(row(target, id).await, row(source, id).await);
    source.run("BEGIN; UPDATE customers SET name = 'Dora'; UPDATE customers SET name = 'Emma'; COMMIT").await;
    replication.caught_up().await;
    assert_eq!(row(target, id).await, row(source, id).await, "the same version and time");
    // Changed here as well: ahead of the publisher.
    target.run("UPDATE customers SET name = 'x'; UPDATE customers SET name = 'y'; UPDATE customers SET name = 'z'").await;
    let before: i64 = target.value(&format!("SELECT version FROM customers WHERE id = '{id}'")).await;
    source.run("UPDATE customers SET name = 'Fay'").await;
    replication.caught_up().await;
    assert_eq!(target.value::<i64>(&format!("SELECT version FROM customers WHERE id = '{id}' AND name = 'Fay'")).await, before + 1);
    target.run("DROP SUBSCRIPTION loading").await;
}

#[tokio::test]
async fn a_transaction_of_the_publisher_is_told_of_once() {
    let replication = Replication::of_another_schema().await;
    let Replication { source, target, .. } = &replication;
    replication.subscribe().await;
    let mut ear = Ear::at(target).await;
    let insert =
        |n: usize| format!("INSERT INTO customers SELECT '{TENANT}', gen_random_uuid(), 'Ann', 'active' FROM generate_series(1, {n})");
    for (statements, what, count) in [
        (insert(50), "customers", 50),
        ("UPDATE customers SET name = 'Beth'".to_owned(), "customers", 50),
        ("BEGIN; UPDATE customers SET name = 'x'; UPDATE customers SET name = 'y'; COMMIT".to_owned(), "customers", 50),
        (insert(5_000), "tenants", 1),
        ("DELETE FROM customers".to_owned(), "tenants", 1),
    ] {
        source.run(&statements).await;
        replication.caught_up().await;
        let told = ear.heard().await;
        assert_eq!(told.len(), 1, "{statements}: {told:?}");
        let told: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
        assert_eq!(told[what].as_array().map(Vec::len), Some(count), "{statements}");
    }
    target.run("DROP SUBSCRIPTION loading").await;
}

/// From Postgres 16 on, rows are applied with the rights of the table's owner, in a context that refuses deferred triggers.
#[tokio::test]
async fn changes_of_a_table_that_another_role_owns_are_seen() {
    let replication = Replication::of_another_schema().await;
    replication.target.run("CREATE ROLE holder; GRANT ALL ON SCHEMA public TO holder; ALTER TABLE customers OWNER TO holder").await;
    every_change_is_seen(&replication).await;
}
