//! A plan outlives the size of the table that it was made for: lookups go by the primary key of a small table, too.

use std::fs;

use crate::support::{Cluster, Setup, wait_until};

const AUTO_EXPLAIN: &[(&str, &str)] =
    &[("fsync", "off"), ("autovacuum", "off"), ("session_preload_libraries", "auto_explain"), ("auto_explain.log_min_duration", "0")];

/// How customers were found, by the server's log from `start` on.
fn scans(log: &str) -> Vec<&str> {
    log.lines()
        .map(str::trim)
        .filter(|line| line.contains("Scan") && (line.contains("customers c") || line.contains("customers_pkey")))
        .collect()
}

#[tokio::test]
async fn the_primary_key_serves_lookups_before_and_after_the_table_grows() {
    let cluster = Cluster::start(AUTO_EXPLAIN).await;
    let database = cluster.database().await;
    let log_file = cluster.data_dir().with_added_extension("log");
    let log = || fs::read_to_string(&log_file).expect("a log");
    let ids = database.customers("acme42", 20).await;
    database.customers("globex", 20).await;
    database.run("ANALYZE customers").await;
    let setup = Setup::on(&database).patient().set("CXDA_CACHE__TTL", "0").set("CXDA_DATABASE__MAX_CONNECTIONS", "1");
    let service = setup.start().await;
    let mut seen = log().len();
    for grown in [false, true] {
        if grown {
            let copy = "INSERT INTO customers (tenant_id, id, name, status) \
                SELECT 'acme42', gen_random_uuid(), 'customer', 'active' FROM generate_series(1, 50000)";
            database.run(copy).await;
            seen = log().len();
        }
        // Of one tenant, and of two in one transaction.
        assert_eq!(service.lookup("acme42", &ids[..3]).await.names().len(), 3);
        let scans_of_pairs = async || {
            let calls = (0..20).map(|nth| service.lookup(if nth % 2 == 0 { "acme42" } else { "globex" }, &ids));
            futures_util::future::join_all(calls).await;
            log()[seen..].contains("AS pair (tenant_id, id)").then_some(())
        };
        wait_until("two tenants share a transaction", scans_of_pairs).await;
        let new = log()[seen..].to_owned();
        let scans = scans(&new);
        assert!(scans.len() >= 2 && scans.iter().all(|scan| scan.contains("customers_pkey")), "grown: {grown}: {scans:#?}");
        assert!(!new.contains("Join") || !new.contains("Hash Join") && !new.contains("Merge Join"), "grown: {grown}");
    }
}
