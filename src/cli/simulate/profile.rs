//! What each platform does and bears. From its vendor's documents, where they say it.

use std::time::Duration;

use uuid::Uuid;

use super::checks::{self, Check};
use crate::domain::TenantId;
use crate::domain::data_action::{CONTACT_ID, CUSTOMER_IDS, LOOKUP, TENANT_ID};

/// One platform.
pub(super) struct Profile {
    pub(super) name: &'static str,
    /// The time in which an answer is of use.
    pub(super) within: Duration,
    /// The time after which it gives up, whatever is set.
    pub(super) gives_up: Duration,
    /// The longest answer that it takes, in bytes.
    pub(super) max_answer: usize,
    /// Its content type where nobody sets one.
    pub(super) content_type: &'static str,
    /// The header in which it names its own request.
    pub(super) correlation_header: &'static str,
    /// Such a name.
    pub(super) correlation_id: fn() -> String,
    /// How often it sends what fails, the first time included.
    pub(super) tries: usize,
    /// How many calls it makes at a time.
    pub(super) at_once: usize,
    /// A lookup as it spells it.
    pub(super) lookup: fn(&TenantId, &[Uuid]) -> String,
    /// What is checked for it beside what is checked for all.
    pub(super) own_checks: &'static [Check],
}

/// A REST API action of Studio.
pub(super) const CXONE: Profile = Profile {
    name: "cxone",
    within: Duration::from_secs(2),
    gives_up: Duration::from_secs(90),
    max_answer: 32 * 1024,
    content_type: "application/x-www-form-urlencoded",
    correlation_header: "X-Correlation-Id",
    correlation_id: || Uuid::new_v4().as_u64_pair().0.to_string(),
    tries: 3,
    at_once: 100,
    lookup: nested,
    own_checks: checks::OF_CXONE,
};

/// A web services data action.
pub(super) const GENESYS: Profile = Profile {
    name: "genesys",
    within: Duration::from_secs(10),
    gives_up: Duration::from_mins(1),
    max_answer: 256 * 1024,
    content_type: "application/json",
    correlation_header: "ININ-Correlation-Id",
    correlation_id: || Uuid::new_v4().to_string(),
    tries: 2,
    at_once: 50,
    lookup: |tenant, ids| rendered(tenant, &joined(ids)),
    own_checks: checks::OF_GENESYS,
};

/// An HTTP request node.
pub(super) const COGNIGY: Profile = Profile {
    name: "cognigy",
    within: Duration::from_secs(8),
    gives_up: Duration::from_secs(15),
    max_answer: 512 * 1024,
    content_type: "application/x-www-form-urlencoded",
    correlation_header: "X-Correlation-Id",
    correlation_id: || Uuid::new_v4().to_string(),
    tries: 2,
    at_once: 50,
    lookup: nested,
    own_checks: checks::OF_COGNIGY,
};

/// The longest body that Cognigy sends, in bytes.
pub(super) const COGNIGY_MAX_REQUEST: usize = 64 * 1024;

/// The deepest JSON that Genesys reads.
pub(super) const GENESYS_MAX_DEPTH: usize = 50;

/// On one line, each value of the context a string.
fn nested(tenant: &TenantId, ids: &[Uuid]) -> String {
    let ids: Vec<_> = ids.iter().map(|id| format!("\"{id}\"")).collect();
    body(tenant, &format!("[{}]", ids.join(",")))
}

/// As a request template renders it whose inputs cannot be lists.
pub(super) fn rendered(tenant: &TenantId, ids: &str) -> String {
    body(tenant, &format!("\"{ids}\""))
}

pub(super) fn joined(ids: &[Uuid]) -> String {
    ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",")
}

/// The contact shows whose audit rows these are.
fn body(tenant: &TenantId, ids: &str) -> String {
    format!(
        r#"{{"action":"{LOOKUP}","input":{{"{CUSTOMER_IDS}":{ids},"{TENANT_ID}":"{tenant}"}},"context":{{"{CONTACT_ID}":"simulated"}}}}"#
    )
}
