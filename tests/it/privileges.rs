//! What the service's own role in Postgres can do, and what it cannot: contract, section 6.

use tokio_postgres::error::SqlState;

use crate::support::{Database, Setup, connect};

#[tokio::test]
async fn the_runtime_role_may_do_its_work() {
    let database = Database::new().await;
    let runtime = connect(&database.url).await.unwrap();
    let allowed = [
        "SELECT tenant_id, id, name, status, attributes, updated_at, version FROM customers",
        "SELECT * FROM audit_log",
        "INSERT INTO audit_log (tenant_id, id, action, source, customer_ids, missing_ids, key_id, request_id, contact_id)
            VALUES ('acme42', gen_random_uuid(), 'a', 'database', '{}', '{}', 'k', 'r', NULL)",
        "SELECT audit_ensure_partitions(2)",
    ];
    for sql in allowed {
        runtime.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

#[tokio::test]
async fn the_runtime_role_may_do_nothing_else() {
    let database = Database::new().await;
    database.customer("acme42", "Ann").await;
    Setup::on(&database).start().await.lookup("acme42", &[uuid::Uuid::from_u128(7)]).await;
    let default_partition: String = database
        .value("SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'audit_log'::regclass AND pg_get_expr(relpartbound, inhrelid) = 'DEFAULT'")
        .await;
    let into_partition = format!(
        "INSERT INTO {default_partition} (tenant_id, occurred_at, id, action, source, customer_ids, missing_ids, key_id, request_id)
            VALUES ('acme42', '2001-01-01', gen_random_uuid(), 'a', 'database', '{{}}', '{{}}', 'k', 'r')"
    );
    let (update_partition, drop_partition) =
        (format!("UPDATE {default_partition} SET action = 'x'"), format!("DROP TABLE {default_partition}"));
    let detach = format!("ALTER TABLE audit_log DETACH PARTITION {default_partition}");
    let forbidden = [
        "UPDATE audit_log SET action = 'x'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "DROP TABLE audit_log",
        "ALTER TABLE audit_log ADD COLUMN x int",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        &detach,
        &into_partition,
        &update_partition,
        &drop_partition,
        "INSERT INTO customers (tenant_id, id, name, status) VALUES ('acme42', gen_random_uuid(), 'x', 'x')",
        "UPDATE customers SET name = 'x'",
        "DELETE FROM customers",
        "TRUNCATE customers",
        "DROP TABLE customers",
        "SELECT * FROM customers FOR UPDATE",
        "LOCK TABLE customers IN ACCESS EXCLUSIVE MODE",
        "ALTER TABLE customers DISABLE TRIGGER ALL",
        "ALTER TABLE customers OWNER TO cxda_service",
        "CREATE INDEX ON customers (name)",
        "CREATE TRIGGER t BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TABLE mine (x int)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "CREATE EXTENSION hstore",
        "SET ROLE app",
        "SET SESSION AUTHORIZATION app",
        "COPY customers TO PROGRAM 'cat'",
        "COPY customers TO '/tmp/cxda-never'",
        "SELECT pg_read_file('PG_VERSION')",
        "ALTER SYSTEM SET fsync = off",
        "SELECT * FROM pg_authid",
        "SELECT pg_reload_conf()",
    ];
    let runtime = connect(&database.url).await.unwrap();
    for sql in forbidden {
        // One transaction each, rolled back: what was wrongly allowed must not spoil the next attempt.
        let result = runtime.batch_execute(&format!("BEGIN; {sql}")).await;
        runtime.batch_execute("ROLLBACK").await.unwrap();
        let error = result.err().unwrap_or_else(|| panic!("allowed: {sql}"));
        let expected = [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::ACTIVE_SQL_TRANSACTION];
        assert!(error.code().is_some_and(|code| expected.contains(code)), "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn the_runtime_role_cannot_log_in_and_owns_nothing() {
    let database = Database::new().await;
    let row = database.owner.query_one(
        "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = 'cxda_runtime'",
        &[],
    );
    let row = row.await.unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(|at| row.get::<_, bool>(at)), [false; 5]);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM pg_class WHERE relowner = 'cxda_runtime'::regrole").await, 0);
}

#[tokio::test]
async fn no_function_lends_its_owners_rights_to_everybody() {
    let database = Database::new().await;
    let sql = "SELECT count(*) FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace
        AND (NOT coalesce(proconfig::text, '') LIKE '%search_path%' OR has_function_privilege('public', oid, 'EXECUTE'))";
    assert_eq!(database.value::<i64>(sql).await, 0, "each has its search_path fixed, and is not PUBLIC's");
    let sql = "SELECT count(*) FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace";
    assert!(database.value::<i64>(sql).await >= 1);
}
