//! Ways of loading that no trigger fires for: what helps is what the page says.

use uuid::Uuid;

use super::{TENANT, cached, migrate, notify_all, seen, service};
use crate::support::Database;

#[tokio::test]
async fn a_partition_that_is_attached_or_detached_is_seen_once_told() {
    let database = Database::new().await;
    database
        .run(
            "ALTER TABLE customers RENAME TO customers_before; \
             CREATE TABLE customers (LIKE customers_before INCLUDING ALL) PARTITION BY LIST (tenant_id); \
             CREATE TABLE customers_acme (LIKE customers INCLUDING ALL)",
        )
        .await;
    let printed = migrate(&database, "apply").await.stdout;
    assert!(printed.contains("repaired trigger customers_inserted is missing"), "{printed}");
    let (service, id) = (service(&database).await, Uuid::new_v4());
    database.run(&format!("INSERT INTO customers_acme (tenant_id, id, name, status) VALUES ('{TENANT}', '{id}', 'Ann', 'active')")).await;
    cached(&service, id, None).await;
    database.run(&format!("ALTER TABLE customers ATTACH PARTITION customers_acme FOR VALUES IN ('{TENANT}')")).await;
    cached(&service, id, None).await;
    notify_all(&database).await;
    seen(&service, id, Some("Ann"), "ATTACH PARTITION and NOTIFY").await;
    cached(&service, id, Some("Ann")).await;
    database.run("UPDATE customers SET name = 'Beth'").await;
    seen(&service, id, Some("Beth"), "an update of the whole table").await;
    cached(&service, id, Some("Beth")).await;
    database.run("ALTER TABLE customers DETACH PARTITION customers_acme").await;
    cached(&service, id, Some("Beth")).await;
    notify_all(&database).await;
    seen(&service, id, None, "DETACH PARTITION and NOTIFY").await;
}

#[tokio::test]
async fn a_table_that_is_swapped_in_is_seen_once_migrate_apply_has_made_its_triggers() {
    let database = Database::new().await;
    let id = database.customer(TENANT, "Ann").await;
    let service = service(&database).await;
    cached(&service, id, Some("Ann")).await;
    database
        .run(
            "BEGIN; CREATE TABLE loaded (LIKE customers INCLUDING ALL); GRANT SELECT ON loaded TO cxda_runtime; \
             INSERT INTO loaded SELECT * FROM customers; UPDATE loaded SET name = 'Beth'; \
             ALTER TABLE customers RENAME TO customers_before; ALTER TABLE loaded RENAME TO customers; COMMIT",
        )
        .await;
    cached(&service, id, Some("Ann")).await;
    let printed = migrate(&database, "apply").await.stdout;
    assert!(printed.contains("repaired trigger customers_updated is missing"), "{printed}");
    seen(&service, id, Some("Beth"), "migrate apply").await;
    database.run("UPDATE customers SET name = 'Cleo'").await;
    seen(&service, id, Some("Cleo"), "an update of the new table").await;
}
