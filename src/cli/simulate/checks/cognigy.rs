//! What only Cognigy does, webhooks apart.

use super::super::profile::COGNIGY_MAX_REQUEST;
use super::super::target::Target;
use super::super::verdict::Verdict;

pub(super) async fn largest(target: &Target) -> Verdict {
    let body = target.lookup(&target.sample());
    // A member that the contract ignores.
    let (open, close) = (r#","padding":""#, r#""}"#);
    let room = COGNIGY_MAX_REQUEST - body.len() - open.len() - close.len() + 1;
    let largest = format!("{}{open}{}{close}", &body[..body.len() - 1], "x".repeat(room));
    target.ask(&largest).await?.output()?;
    Ok(format!("{} bytes", largest.len()))
}
