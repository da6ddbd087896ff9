//! A right, a table or a partition that is missing: 503 with `Retry-After` until an operator has mended it, and no restart.

use uuid::Uuid;

use crate::support::{Database, Reply, Service, Setup};

struct Stage {
    database: Database,
    service: Service,
    id: Uuid,
}

impl Stage {
    async fn new() -> Self {
        let database = Database::new().await;
        let service = Setup::on(&database).set("CXDA_CACHE__TTL", "0").start().await;
        let id = database.customer("acme42", "Ann").await;
        Self { database, service, id }
    }

    async fn lookup(&self) -> Reply {
        self.service.lookup("acme42", &[self.id]).await
    }

    async fn is_503_until(&mut self, broken: &str, mended: &str, state: &str) {
        assert_eq!(self.lookup().await.names(), ["Ann"]);
        self.database.run(broken).await;
        for _ in 0..2 {
            let reply = self.lookup().await;
            let problem = reply.problem(503, "database_unavailable");
            assert!(reply.header("retry-after").is_some() && problem["retryable"] == true, "{problem}");
            let line = self.service.request_line(&reply.request_id()).await;
            assert!(line["error"].as_str().is_some_and(|error| error.contains(state)), "{line}");
            assert!(!reply.text().contains(state) && !reply.text().contains("audit_log"), "{problem}");
        }
        let label = [("status", "misconfigured")];
        assert!(self.service.metrics().await.count("cxone_dataaction_query_duration_seconds_count", &label) >= 2);
        self.database.run(mended).await;
        assert_eq!(self.lookup().await.names(), ["Ann"], "{mended}");
    }
}

#[tokio::test]
async fn a_missing_right_is_503_until_it_is_granted() {
    for what in ["INSERT ON audit_log", "SELECT ON customers"] {
        let (broken, mended) = (format!("REVOKE {what} FROM cxda_runtime"), format!("GRANT {what} TO cxda_runtime"));
        Stage::new().await.is_503_until(&broken, &mended, "42501").await;
    }
}

#[tokio::test]
async fn a_missing_table_or_column_is_503_until_it_is_there() {
    let cases = [
        ("ALTER TABLE customers RENAME TO clients", "ALTER TABLE clients RENAME TO customers", "42P01"),
        ("ALTER TABLE customers RENAME status TO state", "ALTER TABLE customers RENAME state TO status", "42703"),
    ];
    for (broken, mended, state) in cases {
        Stage::new().await.is_503_until(broken, mended, state).await;
    }
}

#[tokio::test]
async fn a_missing_partition_is_503_until_it_is_made() {
    let broken = "DO $$ DECLARE part regclass; BEGIN
        FOR part IN SELECT relid FROM pg_partition_tree('audit_log') WHERE isleaf LOOP
            EXECUTE format('DROP TABLE %s', part);
        END LOOP;
    END $$";
    Stage::new().await.is_503_until(broken, "CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT", "23514").await;
}

#[tokio::test]
async fn a_row_that_a_constraint_refuses_stays_a_defect() {
    let stage = Stage::new().await;
    stage.database.run("ALTER TABLE audit_log ADD CONSTRAINT nothing CHECK (action = '') NOT VALID").await;
    let reply = stage.lookup().await;
    reply.problem(500, "internal");
    assert_eq!(reply.header("retry-after"), None);
}
