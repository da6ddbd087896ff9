//! Triggers of customers that are missing, disabled or in another firing mode: who says so, and what puts them right.

use reqwest::Method;
use serde_json::Value;

use crate::support::{Database, Outcome, Setup, Tool, wait_until};

const FAULTS: &str = "cxone_dataaction_customer_trigger_faults";

/// All triggers as they are made, and when they fire.
const ALL: &str = "SELECT tgname || ' ' || tgenabled::text || ' ' || pg_get_triggerdef(oid) FROM pg_trigger \
    WHERE tgrelid = 'customers'::regclass AND NOT tgisinternal ORDER BY tgname";

async fn migrate(database: &Database, step: &str) -> Outcome {
    let outcome = Tool::new(&["migrate", step]).set("DATABASE_URL", &database.owner_url).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    outcome
}

async fn all(database: &Database) -> Vec<String> {
    database.owner.query(ALL, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn migrate_makes_every_trigger_again_as_the_migrations_made_it() {
    let database = Database::new().await;
    let made = all(&database).await;
    let names: Vec<_> = made.iter().map(|trigger| trigger.split_once(' ').unwrap().0.to_owned()).collect();
    assert_eq!(names.len(), 12, "{names:?}");
    for name in &names {
        database.run(&format!("DROP TRIGGER {name} ON customers")).await;
    }
    let status = migrate(&database, "status").await.stdout;
    let printed = migrate(&database, "apply").await.stdout;
    for name in &names {
        assert!(status.contains(&format!("trigger {name} is missing")), "{status}");
        assert!(printed.contains(&format!("repaired trigger {name} is missing")), "{printed}");
    }
    assert_eq!(all(&database).await, made);
    assert_eq!(migrate(&database, "apply").await.stdout.trim(), "nothing to apply");
}

#[tokio::test]
async fn migrate_sets_every_firing_mode_as_the_migrations_set_it() {
    let database = Database::new().await;
    let made = all(&database).await;
    for (how, found) in [("DISABLE", "is disabled"), ("ENABLE", "is set to ORIGIN in place of"), ("ENABLE ALWAYS", "is set to ALWAYS")] {
        for name in made.iter().map(|trigger| trigger.split_once(' ').unwrap().0) {
            database.run(&format!("ALTER TABLE customers {how} TRIGGER {name}")).await;
        }
        assert!(migrate(&database, "status").await.stdout.contains(found));
        assert!(migrate(&database, "apply").await.stdout.contains(found));
        assert_eq!(all(&database).await, made, "{how}");
    }
}

#[tokio::test]
async fn a_running_service_says_which_trigger_is_wrong_and_stays_ready() {
    let database = Database::new().await;
    database.run("ALTER TABLE customers DISABLE TRIGGER customers_updated").await;
    let service = Setup::on(&database).start().await;
    let logged =
        |line: &Value| line["event"] == "trigger_fault" && line["fault"].as_str().unwrap_or_default().contains("customers_updated");
    wait_until("it is logged", async || service.log().iter().any(logged).then_some(())).await;
    assert_eq!(service.metrics().await.count(FAULTS, &[]), 1);
    assert_eq!(service.ready().await.json(), serde_json::json!({ "status": "ready" }));
    let verbose = service.admin(Method::GET, "/readyz?verbose").await;
    assert_eq!((verbose.status, &verbose.json()["status"]), (200, &"ready".into()));
    let problem = verbose.json()["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.contains("customers_updated is disabled") && problem.contains("migrate apply"), "{problem}");

    migrate(&database, "apply").await;
    let verbose = service.admin(Method::GET, "/readyz?verbose").await.json();
    assert_eq!(verbose.get("problems"), None, "{verbose}");
    assert_eq!(service.metrics().await.count(FAULTS, &[]), 0);
}
