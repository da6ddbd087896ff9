//! The tables that other programs write and read: contract, section 6.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::support::{Database, Setup, wait_until};

/// The partition of the audit row with that request id; empty for the default one.
async fn partition(database: &Database, request_id: &str) -> String {
    let sql = "SELECT CASE pg_get_expr(relpartbound, c.oid) WHEN 'DEFAULT' THEN '' ELSE relname END
        FROM audit_log a JOIN pg_class c ON c.oid = a.tableoid WHERE request_id = ";
    database.value(&format!("{sql}'{request_id}'")).await
}

async fn audit(database: &Database, request_id: &str, occurred_at: &str) {
    let sql = format!(
        "INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, customer_ids, missing_ids, key_id, request_id)
            VALUES ('acme42', {occurred_at}, gen_random_uuid(), 'a', 'database', '{{}}', '{{}}', 'k', '{request_id}')"
    );
    database.run(&sql).await;
}

#[tokio::test]
async fn a_plain_insert_of_four_columns_is_enough() {
    let database = Database::new().await;
    let before = Utc::now();
    database.run("INSERT INTO customers (tenant_id, id, name, status) VALUES ('acme42', gen_random_uuid(), 'Ann', 'active')").await;
    let row = database.owner.query_one("SELECT attributes::text, updated_at, version FROM customers", &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, i64>(2)), ("{}".to_owned(), 1));
    assert!((row.get::<_, DateTime<Utc>>(1) - before).num_seconds().abs() < 60);
}

#[tokio::test]
async fn version_rises_by_one_with_each_change() {
    let database = Database::new().await;
    let changed = database.customer("acme42", "Ann").await;
    let untouched = database.customer("acme42", "Beth").await;
    let version = async |id: Uuid| database.value::<i64>(&format!("SELECT version FROM customers WHERE id = '{id}'")).await;
    for (nth, change) in ["name = 'x'", "status = 'blocked'", "attributes = '{\"a\":1}'", "name = 'y', status = 'z'"].iter().enumerate() {
        database.run(&format!("UPDATE customers SET {change} WHERE id = '{changed}'")).await;
        assert_eq!(version(changed).await, i64::try_from(nth).unwrap() + 2, "{change}");
    }
    assert_eq!(version(untouched).await, 1);
}

#[tokio::test]
async fn nobody_can_turn_a_version_back() {
    let database = Database::new().await;
    database.customer("acme42", "Ann").await;
    for version in [1, 0, -5, 1000] {
        let before: i64 = database.value("SELECT version FROM customers").await;
        database.run(&format!("UPDATE customers SET name = name || 'x', version = {version}")).await;
        assert_eq!(database.value::<i64>("SELECT version FROM customers").await, before + 1);
    }
}

#[tokio::test]
async fn a_change_moves_updated_at() {
    let database = Database::new().await;
    database.customer("acme42", "Ann").await;
    let before: DateTime<Utc> = database.value("SELECT updated_at FROM customers").await;
    database.run("UPDATE customers SET name = 'x'").await;
    assert!(database.value::<DateTime<Utc>>("SELECT updated_at FROM customers").await > before);
}

#[tokio::test]
async fn a_customer_is_there_once_a_tenant() {
    let database = Database::new().await;
    let id = database.customer("acme42", "Ann").await;
    database.customer_with_id("globex", id, "Ann").await;
    let sql = format!("INSERT INTO customers (tenant_id, id, name, status) VALUES ('acme42', '{id}', 'x', 'x')");
    assert!(database.owner.batch_execute(&sql).await.is_err());
}

#[tokio::test]
async fn attributes_are_an_object() {
    let database = Database::new().await;
    database.customer("acme42", "Ann").await;
    for wrong in ["'[]'", "'7'", "'null'", "NULL"] {
        let result = database.owner.batch_execute(&format!("UPDATE customers SET attributes = {wrong}")).await;
        if result.is_ok() {
            // Where the table takes it, the service must still answer.
            let service = Setup::on(&database).start().await;
            let id: Uuid = database.value("SELECT id FROM customers").await;
            let customer: Value = service.lookup("acme42", &[id]).await.output()["customers"][0].clone();
            assert!(customer.get("attributes").is_none_or(Value::is_object), "{wrong}: {customer}");
        }
    }
}

#[tokio::test]
async fn tenant_id_stands_first_in_every_key() {
    let database = Database::new().await;
    let sql = "SELECT count(*) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid IN ('customers'::regclass, 'audit_log'::regclass) AND a.attname <> 'tenant_id'";
    assert_eq!(database.value::<i64>(sql).await, 0);
    let sql =
        "SELECT string_agg(a.attname, ',' ORDER BY k.n) FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, n), pg_attribute a
        WHERE i.indisprimary AND i.indrelid = $1::text::regclass AND a.attrelid = i.indrelid AND a.attnum = k.attnum";
    for (table, key) in [("customers", "tenant_id,id"), ("audit_log", "tenant_id,occurred_at,id")] {
        let found: String = database.owner.query_one(sql, &[&table]).await.unwrap().get(0);
        assert_eq!(found, key);
    }
}

#[tokio::test]
async fn tables_have_the_columns_that_are_promised() {
    let database = Database::new().await;
    let sql = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped";
    let columns = async |table: &str| -> String { database.owner.query_one(sql, &[&table]).await.unwrap().get(0) };
    let customers =
        "tenant_id text, id uuid, name text, status text, attributes jsonb, updated_at timestamp with time zone, version bigint";
    assert_eq!(columns("customers").await, customers);
    let audit = "tenant_id text, occurred_at timestamp with time zone, id uuid, action text, source text, customer_ids uuid[], missing_ids uuid[], key_id text, request_id text, contact_id text";
    assert_eq!(columns("audit_log").await, audit);
}

#[tokio::test]
async fn the_default_partition_catches_what_no_other_takes() {
    let database = Database::new().await;
    for (request_id, when) in [("past", "'2001-01-01'"), ("future", "'2999-01-01'")] {
        audit(&database, request_id, when).await;
        assert_eq!(partition(&database, request_id).await, "");
    }
}

#[tokio::test]
async fn a_running_service_keeps_partitions_ready_ahead() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    let mut found = Vec::new();
    for months in 0..=3 {
        let request_id = format!("in {months} months");
        audit(&database, &request_id, &format!("date_trunc('month', now()) + interval '{months} months 3 days'")).await;
        found.push(partition(&database, &request_id).await);
    }
    assert!(found.iter().all(|name| !name.is_empty()), "{found:?}");
    found.dedup();
    assert_eq!(found.len(), 4, "one a month");
}

#[tokio::test]
async fn how_far_ahead_is_a_setting() {
    let database = Database::new().await;
    let _service = Setup::on(&database).set("CXDA_AUDIT__PARTITIONS_AHEAD", "14").start().await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_log'::regclass";
    wait_until("the partitions are there", async || (database.value::<i64>(partitions).await == 16).then_some(())).await;
    audit(&database, "later", "date_trunc('month', now()) + interval '14 months 3 days'").await;
    assert_ne!(partition(&database, "later").await, "");
}

#[tokio::test]
async fn partitions_can_be_made_where_the_default_one_holds_rows_of_that_month() {
    let database = Database::new().await;
    audit(&database, "early", "date_trunc('month', now()) + interval '20 months 3 days'").await;
    database.run("SELECT audit_ensure_partitions(24)").await;
    assert_eq!(database.audit_count().await, 1, "nothing is lost");
    let service = Setup::on(&database).start().await;
    assert_eq!(service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
}
