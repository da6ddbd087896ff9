//! What is told of rows that a subscription applies: its worker fires row triggers and no statement triggers, and so do these
//! sessions. Once a transaction, at the commit, within the bounds that a statement has elsewhere.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::{Database, Ear, connect};

/// The longest payload that the triggers may make; Postgres refuses one of 8,000 bytes.
const LONGEST: usize = 7_900;

struct Worker {
    database: Database,
    session: Client,
    ear: Ear,
}

impl Worker {
    async fn new() -> Self {
        let database = Database::new().await;
        for trigger in ["statement", "inserted", "updated", "deleted"] {
            database.run(&format!("ALTER TABLE customers DISABLE TRIGGER customers_{trigger}")).await;
        }
        let session = connect(&database.owner_url).await.expect("a session");
        session.batch_execute("SET session_replication_role = replica").await.expect("the superuser's right");
        let ear = Ear::at(&database).await;
        Self { database, session, ear }
    }

    /// What one transaction of these statements tells.
    async fn told(&mut self, statements: &str) -> Vec<Value> {
        self.session.batch_execute(&format!("BEGIN; {statements}; COMMIT")).await.unwrap_or_else(|e| panic!("{statements}: {e:?}"));
        let told = self.ear.heard().await;
        assert!(told.iter().all(|payload| payload.len() <= LONGEST), "{statements}");
        told.iter().map(|payload| serde_json::from_str(payload).expect("JSON")).collect()
    }

    /// What it tells, at most once.
    async fn tell(&mut self, statements: &str) -> Option<Value> {
        let mut told = self.told(statements).await;
        assert!(told.len() <= 1, "{statements}: {told:?}");
        told.pop()
    }
}

fn insert(tenant: &str, n: usize) -> String {
    format!(
        "INSERT INTO customers (tenant_id, id, name, status) SELECT {tenant}, gen_random_uuid(), 'Ann', 'active' FROM generate_series(1, {n}) n"
    )
}

fn id(n: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{n:02x}")
}

fn one(tenant: &str, n: u8) -> String {
    format!("INSERT INTO customers (tenant_id, id, name, status) VALUES ('{tenant}', '{}', 'Ann', 'active')", id(n))
}

fn update(n: u8) -> String {
    format!("UPDATE customers SET name = name || '.' WHERE id = '{}'", id(n))
}

fn customers(all: &[(&str, u8, u64)]) -> Value {
    let all: Vec<_> = all.iter().map(|(tenant, n, version)| json!([tenant, id(*n), version])).collect();
    json!({ "customers": all })
}

fn count(value: Option<&Value>, what: &str) -> Option<usize> {
    value?[what].as_array().map(Vec::len)
}

#[tokio::test]
async fn a_transaction_is_told_of_once_and_each_customer_by_its_last_version() {
    let mut worker = Worker::new().await;
    let first = format!("{}; {}", one("acme42", 1), one("globex", 2));
    assert_eq!(worker.tell(&first).await, Some(customers(&[("acme42", 1, 1), ("globex", 2, 1)])));
    let second = format!("{}; {}; {}", update(1), update(2), update(1));
    assert_eq!(worker.tell(&second).await, Some(customers(&[("acme42", 1, 3), ("globex", 2, 2)])));
    let third = format!("DELETE FROM customers WHERE id = '{}'; {}", id(1), one("acme42", 1));
    assert_eq!(worker.tell(&third).await, Some(customers(&[("acme42", 1, 4)])), "one more than the last version of what is gone");
    assert_eq!(worker.tell("DELETE FROM customers WHERE false").await, None);
}

#[tokio::test]
async fn a_changed_key_is_told_as_it_was_and_as_it_is() {
    let mut worker = Worker::new().await;
    worker.tell(&one("acme42", 1)).await;
    let told = worker.tell(&format!("UPDATE customers SET id = '{}'", id(2))).await;
    assert_eq!(told, Some(customers(&[("acme42", 1, 2), ("acme42", 2, 2)])));
    let told = worker.tell("UPDATE customers SET tenant_id = 'globex'").await;
    assert_eq!(told, Some(customers(&[("acme42", 2, 3), ("globex", 2, 3)])));
}

#[tokio::test]
async fn what_is_rolled_back_is_not_told() {
    let mut worker = Worker::new().await;
    let mixed = format!(
        "SAVEPOINT a; {}; ROLLBACK TO a; {}; SAVEPOINT b; {}; ROLLBACK TO b; SAVEPOINT c; {}; RELEASE c",
        one("acme42", 1),
        one("acme42", 2),
        one("acme42", 3),
        one("acme42", 4)
    );
    assert_eq!(worker.tell(&mixed).await, Some(customers(&[("acme42", 2, 1), ("acme42", 4, 1)])));
    assert_eq!(worker.tell(&format!("SAVEPOINT a; {}; ROLLBACK TO a", update(2))).await, None);
    worker.session.batch_execute(&format!("BEGIN; {}; ROLLBACK", update(2))).await.unwrap();
    assert_eq!(worker.tell(&update(4)).await, Some(customers(&[("acme42", 4, 2)])), "the transaction before left nothing behind");
}

#[tokio::test]
async fn more_customers_than_fit_are_told_by_tenant() {
    let mut worker = Worker::new().await;
    assert_eq!(count(worker.tell(&insert("'acme42'", 100)).await.as_ref(), "customers"), Some(100));
    assert_eq!(worker.tell(&insert("'acme42'", 101)).await, Some(json!({ "tenants": ["acme42"] })));
    let long = "t".repeat(64);
    assert_eq!(worker.tell(&insert(&format!("'{long}'"), 100)).await, Some(json!({ "tenants": [long] })));
    // A tenant may have the name of a member.
    let three = [insert("'acme42'", 101), insert("'tenants'", 2), insert("'acme'", 2), insert("'tenants'", 2)].join("; ");
    assert_eq!(worker.tell(&three).await, Some(json!({ "tenants": ["acme42", "tenants", "acme"] })));
    let mixed = format!("{}; {}", insert("'globex'", 60), insert("'acme42'", 60));
    assert_eq!(worker.tell(&mixed).await, Some(json!({ "tenants": ["acme42", "globex"] })));
}

#[tokio::test]
async fn more_tenants_than_fit_are_all() {
    let mut worker = Worker::new().await;
    let most = (LONGEST - 20) / 67;
    let tenants = |n: usize| insert("lpad(n::text, 64, 't')", n);
    let told = worker.tell(&format!("{}; {}", tenants(most - 3), insert("lpad('1', 64, 't')", 20))).await;
    assert_eq!(count(told.as_ref(), "tenants"), Some(most - 3));
    assert_eq!(worker.tell(&format!("{}; {}", tenants(most + 3), insert("'acme42'", 10))).await, Some(json!({ "all": true })));
    assert_eq!(worker.tell("DELETE FROM customers").await, Some(json!({ "all": true })));
}

#[tokio::test]
async fn what_is_collected_and_lost_is_told_as_all() {
    let mut worker = Worker::new().await;
    assert_eq!(worker.tell(&format!("{}; SET LOCAL cxda.changes = ''", one("acme42", 1))).await, Some(json!({ "all": true })));
}

#[tokio::test]
async fn constraints_that_are_checked_at_once_send_what_is_collected() {
    let mut worker = Worker::new().await;
    let told = worker.told(&format!("{}; SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED; {}", one("a", 1), one("a", 2))).await;
    assert_eq!(told, [customers(&[("a", 1, 1)]), customers(&[("a", 2, 1)])]);
}

/// As a subscription of Postgres 16 or newer applies rows of a table that another role owns.
#[tokio::test]
async fn rows_that_are_applied_as_another_role_are_told_one_by_one_up_to_a_bound() {
    let mut worker = Worker::new().await;
    worker.database.run("CREATE ROLE applying; GRANT ALL ON customers TO applying").await;
    let as_another = |statements: &str| format!("SET LOCAL ROLE applying; {statements}");
    let two = worker.told(&as_another(&format!("{}; {}", one("acme42", 1), one("acme42", 2)))).await;
    assert_eq!(two, [customers(&[("acme42", 1, 1)]), customers(&[("acme42", 2, 1)])]);
    let many = worker.told(&as_another(&format!("{}; {}", insert("'acme42'", 12_000), insert("'globex'", 12_000)))).await;
    let counted = ["customers", "tenants", "all"].map(|what| many.iter().filter(|told| told.get(what).is_some()).count());
    assert!(counted[0] <= 1_000 && counted[1] == 1 && counted[2] == 1, "{counted:?}");
    worker.database.run("DROP OWNED BY applying; DROP ROLE applying").await;
}
