//! Demo customers of two tenants, to see the service work.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::adapters::memory::MemoryStore;
use crate::adapters::postgres::connect::Connector;
use crate::adapters::postgres::migrate;
use crate::domain::{CustomerId, CustomerRecord, audit};

/// The customers, as a JSON list.
const CUSTOMERS: &str = include_str!("demo.json");

/// A request for some of the demo customers; the last id is nobody's.
pub(super) const REQUEST: &str = r#"{"action":"process_customer_batch","input":{"customer_ids":["6f1c0000-0000-4000-8000-000000000001","6f1c0000-0000-4000-8000-000000000002","6f1c0000-0000-4000-8000-0000000000ff"],"tenant_id":"acme42"},"context":{"contactId":"123456"}}"#;

#[derive(Deserialize)]
struct Demo<'a> {
    tenant_id: &'a str,
    id: &'a str,
    name: &'a str,
    status: &'a str,
    attributes: &'a RawValue,
}

/// Adds them to a migrated database; those that are there stay as they are.
pub(super) async fn load(owner: &Connector) -> anyhow::Result<()> {
    migrate::add_customers(owner, CUSTOMERS).await
}

/// A store that holds them.
pub(super) fn in_memory() -> anyhow::Result<MemoryStore> {
    let store = MemoryStore::default();
    for demo in serde_json::from_str::<Vec<Demo<'_>>>(CUSTOMERS)? {
        let id = CustomerId::parse(demo.id).ok_or_else(|| anyhow::anyhow!("a demo customer has no id"))?;
        let Demo { name, status, attributes, .. } = demo;
        let record = CustomerRecord { id, version: 1, name, status, updated_at: audit::now(), attributes: attributes.get() };
        store.insert(demo.tenant_id.parse()?, record.document()?);
    }
    Ok(store)
}
