//! `export cxone`: a sheet to copy from. CXone documents no file that could be imported.

use anyhow::ensure;

use super::{Target, body, context, fill, patience};
use crate::config::Config;
use crate::domain::data_action::{CUSTOMER_IDS, LOOKUP, PING, TENANT_ID};

/// No longer answer reaches a script.
const LONGEST_ANSWER: usize = 32_768;

const SHEET: &str = include_str!("cxone.md");

pub(super) fn sheet(config: &Config, target: &Target) -> anyhow::Result<String> {
    let longest = config.lookup.max_response_bytes;
    ensure!(
        (1..=LONGEST_ANSWER).contains(&longest),
        "lookup.max_response_bytes must be between 1 and {LONGEST_ANSWER} for CXone, which takes no longer answer"
    );
    let tenant = target.tenant.as_ref().map_or_else(|| "{tenantId}".to_owned(), ToString::to_string);
    let ids = (CUSTOMER_IDS, "{customerIds}".to_owned());
    let tenant_id = (TENANT_ID, tenant.clone());
    let marks = [
        ("url", target.data_action()),
        ("api_key_header", config.signing.api_key_header.clone()),
        ("lookup", body(LOOKUP, &[ids, tenant_id.clone()], &context("{contactId}"))),
        ("ping", body(PING, &[tenant_id], "")),
        ("tenant", tenant),
        ("action", LOOKUP.to_owned()),
        ("max_batch", config.lookup.max_batch.to_string()),
        ("longest", longest.to_string()),
        ("timeout", patience(config).as_millis().to_string()),
    ];
    let marks: Vec<_> = marks.iter().map(|(mark, value)| (*mark, value.as_str())).collect();
    Ok(fill(SHEET, &marks).trim_end().to_owned())
}
