//! One lookup, one transaction: where it fails there is neither a row nor an answer, and the reason is counted.

use crate::support::{Database, Reply, Service, Setup, tally};

const ROLLBACKS: &str = "cxone_dataaction_rollback_total";
const CANARY: &str = "Zaphod Canary";

struct Stage {
    database: Database,
    service: Service,
    ids: Vec<uuid::Uuid>,
}

async fn stage() -> Stage {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_CACHE__TTL", "0").patient().start().await;
    let ids = vec![database.customer("acme42", CANARY).await];
    Stage { database, service, ids }
}

impl Stage {
    async fn lookup(&self) -> Reply {
        self.service.lookup("acme42", &self.ids).await
    }

    /// A failure with nothing of the customer or of Postgres' words in it, and no row; counted under that reason alone.
    async fn fails_as(&self, reason: &str) {
        let before = self.database.audit_count().await;
        let reply = self.lookup().await;
        assert!(reply.status >= 500, "{}", reply.text());
        reply.problem(reply.status, reply.json()["code"].as_str().unwrap());
        for word in [CANARY, "audit_log", "customers", "constraint", "ERROR", "relation", "timeout\"", "violates", "db error"] {
            assert!(!reply.text().contains(word), "{word:?} in {}", reply.text());
        }
        assert_eq!(self.database.audit_count().await, before);
        let metrics = self.service.metrics().await;
        assert!(metrics.count(ROLLBACKS, &[("tenant_id", "acme42"), ("reason", reason)]) >= 1, "no rollback for {reason}");
        assert_eq!(
            metrics
                .values_of(ROLLBACKS, "reason")
                .into_iter()
                .filter(|r| metrics.count(ROLLBACKS, &[("reason", r)]) > 0)
                .collect::<Vec<_>>(),
            [reason]
        );
        self.database.no_open_transaction().await;
    }

    async fn works(&self) {
        let before = self.database.audit_count().await;
        assert_eq!(self.lookup().await.names(), [CANARY]);
        assert_eq!(self.database.audit_count().await, before + 1);
    }
}

#[tokio::test]
async fn where_the_audit_row_is_refused_nothing_is_answered() {
    let stage = stage().await;
    stage.database.run("ALTER TABLE audit_log ADD CONSTRAINT nothing CHECK (action = '') NOT VALID").await;
    stage.fails_as("audit").await;
    stage.database.run("ALTER TABLE audit_log DROP CONSTRAINT nothing").await;
    stage.works().await;
}

#[tokio::test]
async fn where_the_lookup_is_refused_nothing_is_audited() {
    let stage = stage().await;
    stage.database.run("REVOKE SELECT ON customers FROM cxda_runtime").await;
    stage.fails_as("lookup").await;
    stage.database.run("GRANT SELECT ON customers TO cxda_runtime").await;
    stage.works().await;
}

#[tokio::test]
async fn where_the_commit_fails_nothing_is_answered() {
    let stage = stage().await;
    let sql = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
        DO $$ DECLARE part regclass; BEGIN
            FOR part IN SELECT relid FROM pg_partition_tree('audit_log') WHERE isleaf LOOP
                EXECUTE format('CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()', part);
            END LOOP;
        END $$";
    stage.database.run(sql).await;
    stage.fails_as("commit").await;
    stage.database.run("DROP FUNCTION refuse() CASCADE").await;
    stage.works().await;
}

#[tokio::test]
async fn where_time_is_up_nothing_is_answered() {
    let stage = stage().await;
    // On a connection that has prepared its statements: a new one would wait for the lock before it began a transaction.
    stage.works().await;
    let lock = stage.database.lock_customers().await;
    stage.fails_as("timeout").await;
    lock.batch_execute("ROLLBACK").await.unwrap();
    stage.works().await;
}

#[tokio::test]
async fn where_no_transaction_began_none_is_counted_as_rolled_back() {
    let stage = stage().await;
    stage.service.post("{").await.problem(400, "invalid_json");
    assert_eq!(stage.service.metrics().await.count(ROLLBACKS, &[]), 0);
}

#[tokio::test]
async fn one_callers_failure_is_not_its_neighbours() {
    let stage = stage().await;
    stage.database.run("ALTER TABLE audit_log ADD CONSTRAINT not_globex CHECK (tenant_id <> 'globex') NOT VALID").await;
    let calls = (0..60).map(async |nth| {
        let tenant = if nth % 4 == 0 { "globex" } else { "acme42" };
        (tenant, stage.service.lookup(tenant, &stage.ids).await.status)
    });
    let counts = tally(futures_util::future::join_all(calls).await);
    assert_eq!(counts.get(&("acme42", 200)), Some(&45), "{counts:?}");
    assert!(counts.keys().all(|(tenant, status)| *tenant == "acme42" || *status >= 500), "{counts:?}");
    assert_eq!(stage.database.audit_count().await, 45);
}
