//! Ways of loading customers (docs/changes-of-customers.md): a service that has cached a customer answers with what was loaded, long
//! before the time to live ends.

mod applied;
mod replication;
mod restores;
mod unheard;

use uuid::Uuid;

use crate::support::{Database, Outcome, Service, Setup, Tool, wait_until};

const TENANT: &str = "acme42";

/// No time to live ends while a test waits.
async fn service(database: &Database) -> Service {
    Setup::on(database).set("CXDA_CACHE__TTL", "1h").set("CXDA_CACHE__ABSENT_TTL", "1h").start().await
}

async fn name(service: &Service, id: Uuid) -> Option<String> {
    service.lookup(TENANT, &[id]).await.names().pop()
}

/// Waits until the service answers from its cache with this.
async fn cached(service: &Service, id: Uuid, expected: Option<&str>) {
    let hit = async || {
        let reply = service.lookup(TENANT, &[id]).await;
        (reply.names().pop().as_deref() == expected && reply.cache() == "hit").then_some(())
    };
    wait_until(&format!("{expected:?} is cached"), hit).await;
}

/// Waits until the service answers with this.
async fn seen(service: &Service, id: Uuid, expected: Option<&str>, way: &str) {
    let seen = async || (name(service, id).await.as_deref() == expected).then_some(());
    wait_until(&format!("{expected:?} is seen after: {way}"), seen).await;
}

/// Tells every instance by hand that any customer may have changed, as the page says.
async fn notify_all(database: &Database) {
    database.run(r#"NOTIFY cxda_customers, '{"all":true}'"#).await;
}

async fn migrate(database: &Database, step: &str) -> Outcome {
    let outcome = Tool::new(&["migrate", step]).set("DATABASE_URL", &database.owner_url).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    outcome
}

/// What statements do to a customer.
struct Way {
    /// `$ID` is the customer who is looked up, `$OTHER` one that is there.
    statements: &'static str,
    /// Whether that customer is there before, with the name of Ann.
    present: bool,
    /// Its name afterwards.
    expected: Option<&'static str>,
}

const fn way(statements: &'static str, present: bool, expected: Option<&'static str>) -> Way {
    Way { statements, present, expected }
}

const WAYS: [Way; 10] = [
    way("INSERT INTO customers (tenant_id, id, name, status) VALUES ('acme42', '$ID', 'Beth', 'active')", false, Some("Beth")),
    way(r"COPY customers (tenant_id, id, name, status) FROM PROGRAM 'echo acme42,$ID,Beth,active' CSV", false, Some("Beth")),
    way(
        "INSERT INTO customers (tenant_id, id, name, status) VALUES ('acme42', '$ID', 'Beth', 'active') \
         ON CONFLICT (tenant_id, id) DO UPDATE SET name = excluded.name",
        true,
        Some("Beth"),
    ),
    way("UPDATE customers SET name = 'Beth' WHERE id = '$ID'", true, Some("Beth")),
    way("UPDATE customers SET id = gen_random_uuid() WHERE id = '$ID'", true, None),
    way("UPDATE customers SET id = '$ID' WHERE id = '$OTHER'", false, Some("Other")),
    way("UPDATE customers SET tenant_id = 'globex7' WHERE id = '$ID'", true, None),
    way("DELETE FROM customers WHERE id = '$ID'", true, None),
    way("TRUNCATE customers", true, None),
    // As a tool does that stages what it loads.
    way(
        "BEGIN; CREATE TEMPORARY TABLE staged (LIKE customers INCLUDING DEFAULTS) ON COMMIT DROP; \
         INSERT INTO staged (tenant_id, id, name, status) VALUES ('acme42', '$ID', 'Beth', 'active'); \
         DELETE FROM customers c USING staged s WHERE (c.tenant_id, c.id) = (s.tenant_id, s.id); \
         INSERT INTO customers SELECT * FROM staged; COMMIT",
        true,
        Some("Beth"),
    ),
];

const MERGE: Way = way(
    "MERGE INTO customers c USING (VALUES ('acme42', '$ID'::uuid)) AS s (tenant_id, id) ON (c.tenant_id, c.id) = (s.tenant_id, s.id) \
     WHEN MATCHED THEN UPDATE SET name = 'Beth' WHEN NOT MATCHED THEN DO NOTHING",
    true,
    Some("Beth"),
);

/// Goes each way in sessions of that role.
async fn each_way_is_seen(role: &str) {
    let database = Database::new().await;
    let service = service(&database).await;
    let merge = database.value::<i32>("SELECT current_setting('server_version_num')::int").await >= 150_000;
    for Way { statements, present, expected } in WAYS.iter().chain(merge.then_some(&MERGE)) {
        let (id, other) = (Uuid::new_v4(), database.customer(TENANT, "Other").await);
        if *present {
            database.customer_with_id(TENANT, id, "Ann").await;
        }
        cached(&service, id, present.then_some("Ann")).await;
        let statements = statements.replace("$ID", &id.to_string()).replace("$OTHER", &other.to_string());
        database.run(&format!("SET session_replication_role = {role}")).await;
        database.run(&statements).await;
        database.run("RESET session_replication_role").await;
        seen(&service, id, *expected, &format!("{statements} ({role})")).await;
    }
}

#[tokio::test]
async fn changes_of_ordinary_sessions_are_seen() {
    each_way_is_seen("origin").await;
}

#[tokio::test]
async fn changes_of_sessions_that_act_as_a_replica_are_seen() {
    each_way_is_seen("replica").await;
}

#[tokio::test]
async fn a_statement_of_a_session_that_acts_as_a_replica_is_told_of_once_and_raises_versions() {
    let database = Database::new().await;
    database.customers(TENANT, 50).await;
    let mut ear = crate::support::Ear::at(&database).await;
    database.run("SET session_replication_role = replica; UPDATE customers SET name = 'Beth'").await;
    let told = ear.heard().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(database.value::<i64>("SELECT count(*) FROM customers WHERE version = 2").await, 50);
    // What a replica says itself counts, where it is newer.
    database.run("UPDATE customers SET name = 'Cleo', version = 1").await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM customers WHERE version = 3").await, 50);
    database.run("UPDATE customers SET name = 'Dora', version = 70, updated_at = '2026-01-02'").await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM customers WHERE version = 70 AND updated_at = '2026-01-02'").await, 50);
}
