//! A lookup that is sent behind another over the same connection, and what stops the one that is before it.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep_until;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{setup, waiting};
use crate::support::{Database, Gate, Kept, Reply, Service, request, wait_until};

/// Two lookups over one connection, whose commits are held up until each may go on.
struct Pair {
    database: Database,
    /// So many and so large ones that the first of them come before the commit.
    before: Vec<Uuid>,
    behind: Uuid,
    holder: Client,
}

impl Pair {
    async fn new() -> Self {
        let database = Database::new().await;
        let before = database.customers("acme42", 60).await;
        database.run("UPDATE customers SET attributes = jsonb_build_object('note', repeat('x', 400))").await;
        let behind = database.customer("acme42", "Ann").await;
        let trigger = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            PERFORM pg_advisory_xact_lock_shared(hashtext(NEW.contact_id)); RETURN NULL; END $$; \
            CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON audit_log \
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold()";
        database.run(trigger).await;
        let holder = database.lock_customers().await;
        let locks = "SELECT pg_advisory_lock(hashtext(contact)) FROM unnest('{before,behind}'::text[]) AS contact";
        holder.batch_execute(locks).await.expect("held up");
        Self { database, before, behind, holder }
    }

    /// Both, the latter once the former is under way, and not before `later`; and what goes on meanwhile.
    async fn ask(&self, service: &Service, later: Duration, meanwhile: impl Future<Output = ()>) -> [Reply; 2] {
        let call = async |contact: &str, ids: &[Uuid]| {
            let mut body = request("acme42", ids);
            body["context"] = json!({ "contactId": contact });
            service.post(body).await
        };
        let begun = tokio::time::Instant::now();
        let behind = async {
            self.database.waiting_sessions(1).await;
            sleep_until(begun + later).await;
            call("behind", &[self.behind]).await
        };
        let along = async {
            waiting(service, 1).await;
            self.holder.batch_execute("ROLLBACK").await.expect("the customers may be read");
            // It is sent behind the other.
            waiting(service, 0).await;
            meanwhile.await;
        };
        let (before, behind, ()) = tokio::join!(call("before", &self.before), behind, along);
        [before, behind]
    }

    async fn let_go(&self, contact: &str) {
        self.holder.batch_execute(&format!("SELECT pg_advisory_unlock(hashtext('{contact}'))")).await.expect("let go");
    }

    async fn given_up(&self, service: &Service, times: u64) {
        let rollbacks = async || service.metrics().await.count("cxone_dataaction_rollback_total", &[("reason", "timeout")]);
        wait_until("it is given up", async || (rollbacks().await >= times).then_some(())).await;
    }
}

#[tokio::test]
async fn what_postgres_ends_by_itself_takes_nothing_behind_it_along() {
    let pair = Pair::new().await;
    let service = setup(&pair.database).start().await;
    let meanwhile = async {
        pair.database.waiting_sessions(1).await;
        let stop = "SELECT bool_and(pg_cancel_backend(pid)) FROM pg_stat_activity \
            WHERE datname = current_database() AND usename = 'cxda_service' AND wait_event = 'advisory'";
        assert!(pair.database.value::<bool>(stop).await);
        pair.given_up(&service, 1).await;
        pair.database.waiting_sessions(1).await;
        pair.let_go("behind").await;
    };
    let [before, behind] = pair.ask(&service, Duration::ZERO, meanwhile).await;
    before.problem(503, "database_unavailable");
    assert_eq!(behind.names(), ["Ann"]);
    pair.database.audit_row(&behind.request_id()).await;
    let rollbacks = service.metrics().await.count("cxone_dataaction_rollback_total", &[]);
    assert_eq!((rollbacks, pair.database.audit_count().await), (1, 1));
}

#[tokio::test]
async fn what_is_stopped_in_place_of_the_one_before_it_is_tried_again() {
    let pair = Pair::new().await;
    let gate = Gate::before_postgres(&pair.database).await;
    let service = setup(&pair.database).set("DATABASE_URL", &gate.url).set("CXDA_LOOKUP__DEADLINE", "12s").start().await;
    // The code that a request to cancel begins with.
    gate.keep(Kept::Sent(80_877_102_u32.to_be_bytes().to_vec()));
    let meanwhile = async {
        gate.waited_at().await;
        pair.let_go("before").await;
        wait_until("it is done after all", async || (pair.database.audit_count().await == 1).then_some(())).await;
        pair.database.waiting_sessions(1).await;
        gate.open();
        pair.given_up(&service, 2).await;
        pair.let_go("behind").await;
    };
    let [before, behind] = pair.ask(&service, Duration::from_secs(6), meanwhile).await;
    before.problem(503, "database_unavailable");
    assert_eq!(behind.names(), ["Ann"]);
    pair.database.audit_row(&behind.request_id()).await;
}
