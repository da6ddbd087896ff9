//! Whether anybody suffers for a request that fails in the database: one a second among others that share its transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::interval;

use crate::client::{self, Until};
use crate::support::{Service, send, tally};
use crate::{Options, customer, database};

/// Contacts of this name are refused by the audit log.
const POISON: &str = "poison";

/// How many different requests the others send.
const REQUESTS: usize = 20_000;

pub(crate) async fn run(options: &Options) {
    let customers = options.main_customers();
    let (_cluster, database) = database(customers).await;
    database.run(&format!("ALTER TABLE audit_log ADD CONSTRAINT no_poison CHECK (contact_id <> '{POISON}')")).await;
    let service = options.service(&database).set("CXDA_CACHE__TTL", "0").start().await;
    let over = Arc::new(AtomicBool::new(false));
    let requests = client::requests(REQUESTS, customers);
    let others = client::run(&service.url, &requests, options.connections, Until::Told(Arc::clone(&over)));
    let poisoned = async {
        let mut statuses = Vec::new();
        let mut second = interval(Duration::from_secs(1));
        for _ in 0..options.seconds.unwrap_or(30) {
            second.tick().await;
            statuses.push(poisoned(&service).await);
        }
        over.store(true, Ordering::Relaxed);
        statuses
    };
    let (others, poisoned) = tokio::join!(others, poisoned);
    let rows: i64 = database.value("SELECT count(*) FROM audit_log").await;
    let apart = service.metrics().await.count("cxone_dataaction_shared_transactions_taken_apart_total", &[]);
    let (others, poisoned) = (tally(others.iter().map(|sample| sample.status)), tally(poisoned));
    println!("poisoned requests, by status: {poisoned:?}; shared transactions taken apart for them: {apart}");
    println!("all others, by status: {others:?}; audit rows: {rows}");
    assert_eq!(others.keys().copied().collect::<Vec<_>>(), [200], "no other request fails");
    assert!(!poisoned.contains_key(&200) && apart > 0, "the poison works");
    assert_eq!(usize::try_from(rows).ok(), others.get(&200).copied(), "an audit row for each 200, and none for anything else");
}

/// The status of a request that the database refuses.
async fn poisoned(service: &Service) -> u16 {
    let body = format!(
        r#"{{"action":"process_customer_batch","input":{{"customer_ids":["{}"],"tenant_id":"acme42"}},"context":{{"contactId":"{POISON}"}}}}"#,
        customer(1)
    );
    send(service.signed(body)).await.status
}
