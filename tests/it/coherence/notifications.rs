//! What the trigger tells of a statement: once, and no more than Postgres takes.

use serde_json::{Value, json};

use crate::support::{Database, Ear};

/// The longest payload that the trigger may make; Postgres refuses one of 8,000 bytes.
const LONGEST: usize = 7_900;

/// Runs statements, and hears what is told of them.
struct Trial {
    database: Database,
    ear: Ear,
}

impl Trial {
    async fn new() -> Self {
        let database = Database::new().await;
        let ear = Ear::at(&database).await;
        Self { database, ear }
    }

    /// All that is told of by these statements.
    async fn told(&mut self, statements: &str) -> Vec<Value> {
        self.database.run(statements).await;
        let told = self.ear.heard().await;
        for payload in &told {
            assert!(payload.len() <= LONGEST, "{} bytes by {statements}", payload.len());
        }
        told.iter().map(|payload| serde_json::from_str(payload).expect("JSON")).collect()
    }

    /// What one statement tells.
    async fn tell(&mut self, statement: &str) -> Option<Value> {
        let mut all = self.told(statement).await;
        assert!(all.len() <= 1, "{statement}: {all:?}");
        all.pop()
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

fn row(tenant: &str, n: u8) -> String {
    format!("('{tenant}', '{}', 'Ann', 'active')", id(n))
}

/// A payload that names customers.
#[expect(clippy::unnecessary_wraps, reason = "as what is told, which may be nothing")]
fn customers(all: &[(&str, u8, u64)]) -> Option<Value> {
    let all: Vec<_> = all.iter().map(|(tenant, n, version)| json!([tenant, id(*n), version])).collect();
    Some(json!({ "customers": all }))
}

/// How many of them are named.
fn count(value: Option<&Value>, what: &str) -> Option<usize> {
    value?[what].as_array().map(Vec::len)
}

#[tokio::test]
async fn each_changed_customer_is_named_with_its_new_version() {
    let mut trial = Trial::new().await;
    let values = row("acme42", 1);
    assert_eq!(
        trial.tell(&format!("INSERT INTO customers (tenant_id, id, name, status) VALUES {values}")).await,
        customers(&[("acme42", 1, 1)])
    );
    assert_eq!(trial.tell("UPDATE customers SET name = 'Beth'").await, customers(&[("acme42", 1, 2)]));
    let upsert = format!(
        "INSERT INTO customers (tenant_id, id, name, status) VALUES {values} ON CONFLICT (tenant_id, id) DO UPDATE SET name = 'Cleo'"
    );
    assert_eq!(trial.tell(&upsert).await, customers(&[("acme42", 1, 3)]));
    assert_eq!(trial.tell("DELETE FROM customers").await, customers(&[("acme42", 1, 4)]), "one more than it had");
}

#[tokio::test]
async fn a_changed_key_is_named_as_it_was_and_as_it_is() {
    let mut trial = Trial::new().await;
    trial.tell(&format!("INSERT INTO customers (tenant_id, id, name, status) VALUES {}", row("acme42", 1))).await;
    for (change, old, new) in [
        (format!("UPDATE customers SET id = '{}'", id(2)), ("acme42", 1, 2), ("acme42", 2, 2)),
        ("UPDATE customers SET tenant_id = 'globex'".to_owned(), ("acme42", 2, 3), ("globex", 2, 3)),
    ] {
        let told = trial.tell(&change).await;
        assert!([customers(&[old, new]), customers(&[new, old])].contains(&told), "{change}: {told:?}");
    }
}

#[tokio::test]
async fn nothing_is_told_where_nothing_changes() {
    let mut trial = Trial::new().await;
    for statement in [
        "DELETE FROM customers".to_owned(),
        "UPDATE customers SET name = 'nobody'".to_owned(),
        insert("'acme42'", 0),
        format!("BEGIN; {}; ROLLBACK", insert("'acme42'", 1)),
        "BEGIN; TRUNCATE customers; ROLLBACK".to_owned(),
    ] {
        assert_eq!(trial.tell(&statement).await, None, "{statement}");
    }
    let values = row("acme42", 1);
    trial.tell(&format!("INSERT INTO customers (tenant_id, id, name, status) VALUES {values}")).await;
    let refused = format!("INSERT INTO customers (tenant_id, id, name, status) VALUES {values} ON CONFLICT DO NOTHING");
    assert_eq!(trial.tell(&refused).await, None);
}

#[tokio::test]
async fn more_customers_than_fit_are_told_of_by_tenant() {
    let mut trial = Trial::new().await;
    assert_eq!(count(trial.tell(&insert("'acme42'", 100)).await.as_ref(), "customers"), Some(100));
    assert_eq!(count(trial.tell("UPDATE customers SET name = 'all'").await.as_ref(), "customers"), Some(100));
    assert_eq!(trial.tell(&insert("'acme42'", 101)).await, Some(json!({ "tenants": ["acme42"] })));
    // Fewer customers, but of a name as long as may be.
    let long = "t".repeat(64);
    assert_eq!(count(trial.tell(&insert(&format!("'{long}'"), 50)).await.as_ref(), "customers"), Some(50));
    assert_eq!(trial.tell(&insert(&format!("'{long}'"), 100)).await, Some(json!({ "tenants": [long] })));
    assert_eq!(trial.tell(&insert("'globex'", 10_000)).await, Some(json!({ "tenants": ["globex"] })));
    assert_eq!(trial.tell("UPDATE customers SET name = 'all' WHERE tenant_id = 'globex'").await, Some(json!({ "tenants": ["globex"] })));
    assert_eq!(count(trial.tell("UPDATE customers SET name = 'all'").await.as_ref(), "tenants"), Some(3));
    let moved = trial.tell("UPDATE customers SET tenant_id = 'initech' WHERE tenant_id = 'globex'").await;
    assert!([Some(json!({ "tenants": ["globex", "initech"] })), Some(json!({ "tenants": ["initech", "globex"] }))].contains(&moved));
    assert_eq!(count(trial.tell("DELETE FROM customers").await.as_ref(), "tenants"), Some(3));
}

#[tokio::test]
async fn more_tenants_than_fit_are_all() {
    let mut trial = Trial::new().await;
    // Of 64 characters each, with quotes and a comma, and the braces around them.
    let most = (LONGEST - 20) / 67;
    let tenants = |n: usize| insert("lpad(n::text, 64, 't')", n);
    assert_eq!(count(trial.tell(&tenants(most - 3)).await.as_ref(), "tenants"), Some(most - 3));
    assert_eq!(trial.tell(&insert("lpad(n::text, 64, 'u')", most + 3)).await, Some(json!({ "all": true })));
    assert_eq!(trial.tell("UPDATE customers SET name = 'all'").await, Some(json!({ "all": true })));
    assert_eq!(trial.tell("DELETE FROM customers").await, Some(json!({ "all": true })));
    for _ in 0..2 {
        assert_eq!(trial.tell("TRUNCATE customers").await, Some(json!({ "all": true })));
    }
}

#[tokio::test]
async fn a_copy_is_one_statement_and_so_is_what_a_query_changes_on_the_way() {
    let mut trial = Trial::new().await;
    let lines = [1, 2].map(|n| format!("acme42,{},Ann,active", id(n))).join(" ");
    let copy = format!(r"COPY customers (tenant_id, id, name, status) FROM PROGRAM 'printf %s\\n {lines}' CSV");
    assert_eq!(count(trial.tell(&copy).await.as_ref(), "customers"), Some(2));
    let changed = trial.tell("WITH changed AS (UPDATE customers SET name = 'Beth' RETURNING id) SELECT count(*) FROM changed").await;
    assert_eq!(count(changed.as_ref(), "customers"), Some(2));
}

#[tokio::test]
async fn an_upsert_tells_of_what_it_inserts_and_of_what_it_changes() {
    let mut trial = Trial::new().await;
    trial.tell(&format!("INSERT INTO customers (tenant_id, id, name, status) VALUES {}", row("acme42", 1))).await;
    let upsert = format!(
        "INSERT INTO customers (tenant_id, id, name, status) VALUES {}, {} ON CONFLICT (tenant_id, id) DO UPDATE SET name = EXCLUDED.name",
        row("acme42", 1),
        row("acme42", 2)
    );
    // Triggers of an INSERT and of an UPDATE know nothing of one another.
    let mut told = trial.told(&upsert).await;
    told.sort_by_key(ToString::to_string);
    assert_eq!(told, [customers(&[("acme42", 1, 2)]), customers(&[("acme42", 2, 1)])].map(|told| told.expect("some")));
}
