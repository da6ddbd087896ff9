//! A dump that is restored into another cluster comes without the rights of the service's role.

use crate::support::{Database, Setup, Tool};

/// What a restore leaves of the rights.
const RESTORED: &str = "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM cxda_runtime; \
    REVOKE ALL ON FUNCTION audit_ensure_partitions FROM cxda_runtime; REVOKE ALL ON SCHEMA public FROM cxda_runtime";

#[tokio::test]
async fn start_up_says_what_grants_the_rights_again_and_that_is_told_too() {
    let database = Database::new().await;
    let id = database.customer("acme42", "Ann").await;
    database.run(RESTORED).await;
    let refused = Setup::on(&database).refused().await;
    assert_eq!(refused.code, Some(1), "{}", refused.printed());
    for word in ["42501", "cxone-data-action migrate apply", "GRANT cxda_runtime"] {
        assert!(refused.printed().contains(word), "{word}: {}", refused.printed());
    }
    let apply = async || Tool::new(&["migrate", "apply"]).set("DATABASE_URL", &database.owner_url).run().await;
    let (repaired, again) = (apply().await, apply().await);
    assert_eq!((repaired.code, again.code), (Some(0), Some(0)), "{}", repaired.printed());
    assert!(repaired.stdout.contains("granted") && repaired.stdout.contains("cxda_runtime"), "{}", repaired.printed());
    assert_eq!(again.stdout, "nothing to apply");
    assert_eq!(Setup::on(&database).start().await.lookup("acme42", &[id]).await.names(), ["Ann"]);
}
