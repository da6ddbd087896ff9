//! Limits and durability hold for each transaction, and for no other client of its server session.

use tokio_postgres::Client;

use super::busy;
use crate::support::{Database, PgBouncer, Reply, Service};

const ROLLBACKS: &str = "cxone_dataaction_rollback_total";

/// Settings of the session of this client, beside those that PgBouncer passes on by itself.
async fn left_behind(client: &Client) -> Vec<String> {
    let sql = "SELECT name || ' = ' || setting FROM pg_settings WHERE source = 'session' AND name NOT IN \
            ('application_name', 'client_encoding', 'DateStyle', 'IntervalStyle', 'TimeZone', 'standard_conforming_strings') \
        UNION ALL SELECT 'statement ' || name FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$' \
        UNION ALL SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() \
        UNION ALL SELECT 'channel ' || pg_listening_channels()";
    client.query_typed(sql, &[]).await.expect("an answer").iter().map(|row| row.get(0)).collect()
}

/// Of both users, through a pool of one for each: the very server sessions that the service and its commands had.
pub(super) async fn assert_nothing_left_behind(pooler: &PgBouncer) {
    for url in [pooler.url(), pooler.owner_url()] {
        assert_eq!(left_behind(&pooler.client(&url).await).await, Vec::<String>::new(), "{url}");
    }
}

async fn fails_as(service: &Service, reply: Reply, reason: &str) {
    assert!(reply.status >= 500, "{}", reply.text());
    let metrics = service.metrics().await;
    assert!(metrics.count(ROLLBACKS, &[("tenant_id", "acme42"), ("reason", reason)]) >= 1, "{reason}: {}", service.printed());
}

#[tokio::test]
async fn nothing_is_left_in_the_server_session() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 1).await;
    let ids = database.customers("acme42", 3).await;
    let service = busy(&database, &pooler.url()).set("CXDA_DATABASE__LISTEN_URL", &database.url).start().await;
    for _ in 0..3 {
        assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    }
    assert_eq!(service.ready().await.status, 200);
    assert_nothing_left_behind(&pooler).await;
}

#[tokio::test]
async fn a_lock_is_waited_for_no_longer_than_the_limit_allows() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let ids = database.customers("acme42", 3).await;
    let service = busy(&database, &pooler.url()).set("CXDA_DATABASE__STATEMENT_TIMEOUT", "400ms").start().await;
    let lock = database.lock_customers().await;
    // The caller's own deadline is 15 s away: what ends this is the server's limit.
    let reply = service.lookup("acme42", &ids).await;
    fails_as(&service, reply, "timeout").await;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'cxda_service' AND wait_event_type = 'Lock' AND query LIKE '%customers%'";
    assert_eq!(database.value::<i64>(waiting).await, 0);
    lock.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    assert_eq!(database.audit_count().await, 1);
}

#[tokio::test]
async fn a_statement_works_no_longer_than_the_limit_allows() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let service = busy(&database, &pooler.url()).set("CXDA_DATABASE__STATEMENT_TIMEOUT", "400ms").start().await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$; \
        CREATE TRIGGER slow BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION slow()";
    database.run(slow).await;
    let ids = database.customers("acme42", 1).await;
    let reply = service.lookup("acme42", &ids).await;
    fails_as(&service, reply, "timeout").await;
    database.no_open_transaction().await;
    assert_eq!(database.audit_count().await, 0);
}

#[tokio::test]
async fn commits_are_durable_whatever_the_servers_default() {
    let database = Database::new().await;
    database.configure("SET synchronous_commit = off").await;
    let spy = "CREATE TABLE seen (name text, setting text); \
        CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \
            INSERT INTO seen SELECT name, setting FROM pg_settings \
                WHERE name IN ('synchronous_commit', 'statement_timeout', 'lock_timeout', 'enable_seqscan'); RETURN NEW; END $$; \
        CREATE TRIGGER spy BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION spy()";
    database.run(spy).await;
    let pooler = PgBouncer::before(&database, 2).await;
    let ids = database.customers("acme42", 1).await;
    let service = busy(&database, &pooler.url()).start().await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    let seen: String = database.value("SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM seen").await;
    assert_eq!(seen, "enable_seqscan=off lock_timeout=750 statement_timeout=1500 synchronous_commit=on");
}

#[tokio::test]
async fn where_the_commit_fails_nothing_is_answered() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let ids = database.customers("acme42", 1).await;
    let service = busy(&database, &pooler.url()).start().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
        DO $$ DECLARE part regclass; BEGIN
            FOR part IN SELECT relid FROM pg_partition_tree('audit_log') WHERE isleaf LOOP
                EXECUTE format('CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()', part);
            END LOOP;
        END $$";
    database.run(refuse).await;
    let reply = service.lookup("acme42", &ids).await;
    fails_as(&service, reply, "commit").await;
    assert_eq!(database.audit_count().await, 0);
    database.run("DROP FUNCTION refuse() CASCADE").await;
    assert_eq!(service.lookup("acme42", &ids).await.status, 200);
    assert_eq!(database.audit_count().await, 1);
}

#[tokio::test]
async fn a_refused_row_is_counted_as_without_a_pooler_and_spoils_no_neighbour() {
    let database = Database::new().await;
    let pooler = PgBouncer::before(&database, 2).await;
    let ids = database.customers("acme42", 1).await;
    let service = busy(&database, &pooler.url()).set("CXDA_DATABASE__SHARE_TRANSACTIONS", "all").start().await;
    database.run("ALTER TABLE audit_log ADD CONSTRAINT not_globex CHECK (tenant_id <> 'globex') NOT VALID").await;
    let replies = super::lookups(&service, &ids, 60).await;
    for (nth, reply) in replies.iter().enumerate() {
        assert_eq!(reply.status == 200, nth % 2 == 0, "{}", reply.text());
    }
    assert_eq!(database.audit_count().await, 30);
    assert!(service.metrics().await.count(ROLLBACKS, &[("tenant_id", "globex"), ("reason", "audit")]) >= 1);
}
