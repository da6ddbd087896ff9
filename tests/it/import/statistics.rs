//! The planner's statistics after an import: those of the table as it is now, so that no lookup is planned for the size it had.

use super::{good, import, many};
use crate::support::Database;

const COUNTED: &str = "SELECT reltuples::bigint FROM pg_class WHERE oid = 'customers'::regclass";

#[tokio::test]
async fn the_table_is_analyzed() {
    let database = Database::new().await;
    good(&import(&database, "csv").input(many(2_000, "Ann")).run().await);
    assert_eq!(database.value::<i64>(COUNTED).await, 2_000);
    let analyzed: i64 = database.value("SELECT count(*) FROM pg_stats WHERE tablename = 'customers' AND attname = 'id'").await;
    assert_eq!(analyzed, 1);
}

#[tokio::test]
async fn a_role_that_may_not_analyze_loads_all_the_same_and_is_told() {
    let database = Database::new().await;
    database
        .run("CREATE ROLE loader LOGIN; GRANT SELECT, INSERT, UPDATE ON customers TO loader; GRANT SELECT ON refinery_schema_history TO loader")
        .await;
    let url = database.owner_url.replacen("app@", "loader@", 1);
    let outcome = import(&database, "csv").set("DATABASE_URL", &url).input(many(20, "Ann")).run().await;
    assert_eq!(good(&outcome), "read 20: inserted 20, updated 0, unchanged 0, bad 0");
    assert!(outcome.stderr.contains("ANALYZE customers"), "{}", outcome.printed());
    // Postgres 17 and newer have a right for it.
    if database.value::<i32>("SELECT current_setting('server_version_num')::int").await >= 170_000 {
        database.run("GRANT MAINTAIN ON customers TO loader").await;
        let outcome = import(&database, "csv").set("DATABASE_URL", &url).input(many(30, "Ann")).run().await;
        assert!(!outcome.stderr.contains("ANALYZE"), "{}", outcome.printed());
    }
    database.run("DROP OWNED BY loader; DROP ROLE loader").await;
}
