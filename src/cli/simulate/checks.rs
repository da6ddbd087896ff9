//! What is checked. To add a check: a function that gives a [`Verdict`], and its line in one of the lists here.

mod batches;
mod cognigy;
mod connections;
mod genesys;
mod lookups;
mod refusals;
mod webhooks;

use futures_util::future::LocalBoxFuture;
use serde_json::Value;

use super::target::Target;
use super::verdict::Verdict;

/// One promise of the contract that a platform depends on.
pub(super) struct Check {
    /// Stable, for machines.
    pub(super) name: &'static str,
    pub(super) promise: &'static str,
    pub(super) run: fn(&Target) -> LocalBoxFuture<'_, Verdict>,
}

/// Without it, nothing else needs to be tried.
pub(super) const FIRST: Check =
    Check { name: "reachable", promise: "the service answers at this URL", run: |t| Box::pin(lookups::reachable(t)) };

/// For every platform.
pub(super) const OF_ALL: &[Check] = &[
    Check { name: "lookup", promise: "customers that are there come back, in the order asked", run: |t| Box::pin(lookups::found(t)) },
    Check {
        name: "missing",
        promise: "an unknown id is in `missing`, and the others are answered",
        run: |t| Box::pin(lookups::missing(t)),
    },
    Check { name: "in-time", promise: "lookups one after the other are answered in time", run: |t| Box::pin(lookups::in_time(t)) },
    Check { name: "content-type", promise: "the content type of a request does not matter", run: |t| Box::pin(lookups::any_type(t)) },
    Check { name: "request-id", promise: "each answer has an X-Request-Id of its own", run: |t| Box::pin(lookups::request_id(t)) },
    Check { name: "correlation-id", promise: "the platform's own id for a request comes back", run: |t| Box::pin(lookups::correlated(t)) },
    Check { name: "repeat", promise: "a call that is tried again gets the same answer", run: |t| Box::pin(lookups::repeated(t)) },
    Check { name: "ping", promise: "`ping` says that signature, key and tenant are right", run: |t| Box::pin(lookups::ping(t)) },
    Check { name: "unsigned", promise: "a request without a proof is refused", run: |t| Box::pin(refusals::unproven(t)) },
    Check { name: "wrong-signature", promise: "a request with a wrong proof is refused", run: |t| Box::pin(refusals::wrongly_proven(t)) },
    Check { name: "foreign-tenant", promise: "another tenant's customers are not given away", run: |t| Box::pin(refusals::foreign(t)) },
    Check { name: "not-json", promise: "a body that is no JSON is refused with a reason", run: |t| Box::pin(refusals::not_json(t)) },
    Check { name: "invalid-input", promise: "an id that is none is refused with a reason", run: |t| Box::pin(refusals::invalid_input(t)) },
    Check { name: "unknown-action", promise: "an unknown action is refused with a reason", run: |t| Box::pin(refusals::unknown_action(t)) },
    Check {
        name: "too-many",
        promise: "more ids than a call may hold are refused with a reason",
        run: |t| Box::pin(refusals::too_many(t)),
    },
    Check {
        name: "full-batch",
        promise: "a full batch fits time and size, and `next_ids` lead to everybody",
        run: |t| Box::pin(batches::full(t)),
    },
    Check { name: "burst", promise: "as many calls at once as the platform makes are all answered", run: |t| Box::pin(batches::burst(t)) },
    Check { name: "slow-body", promise: "a body that comes in two pieces is answered", run: |t| Box::pin(connections::slow_body(t)) },
    Check { name: "broken-off", promise: "a try that breaks off does no harm to the next", run: |t| Box::pin(connections::broken_off(t)) },
];

pub(super) const OF_CXONE: &[Check] = &[
    Check { name: "strings", promise: "a context of strings is taken, whatever they spell", run: |t| Box::pin(lookups::strings(t)) },
    Check { name: "reserved-name", promise: "no member is named `__type`", run: |t| Box::pin(lookups::reserved_name(t)) },
];

pub(super) const OF_GENESYS: &[Check] = &[
    Check {
        name: "empty-optional",
        promise: "the comma that an empty input leaves is no id",
        run: |t| Box::pin(genesys::empty_optional(t)),
    },
    Check { name: "unfilled", promise: "an input that was not filled in is refused", run: |t| Box::pin(genesys::unfilled(t)) },
    Check { name: "flat-output", promise: "no list within a list, and nothing too deep", run: |t| Box::pin(genesys::flat_output(t)) },
];

pub(super) const OF_COGNIGY: &[Check] = &[
    Check { name: "largest-request", promise: "the longest body that Cognigy sends is taken", run: |t| Box::pin(cognigy::largest(t)) },
    Check { name: "webhook-retry", promise: "a retry gets the first answer, and is told so", run: |t| Box::pin(webhooks::retry(t)) },
    Check { name: "webhook-twins", promise: "of deliveries at once, one does the work", run: |t| Box::pin(webhooks::twins(t)) },
    Check { name: "webhook-reused-key", promise: "a key with another payload is refused", run: |t| Box::pin(webhooks::reused_key(t)) },
    Check { name: "webhook-no-key", promise: "a delivery without a key is refused", run: |t| Box::pin(webhooks::no_key(t)) },
    Check { name: "webhook-unsigned", promise: "a delivery without a proof is refused", run: |t| Box::pin(webhooks::unproven(t)) },
];

/// A value somewhere in a document.
struct Place<'v> {
    /// The member names and indices that lead there.
    path: Vec<String>,
    /// Whether one of these is an index.
    in_list: bool,
    value: &'v Value,
}

/// Every value of a document.
fn places(document: &Value) -> Vec<Place<'_>> {
    let mut found = vec![Place { path: Vec::new(), in_list: false, value: document }];
    let mut at = 0;
    while at < found.len() {
        let Place { path, in_list, value } = &found[at];
        let step = |name: String| [path.as_slice(), &[name]].concat();
        let below: Vec<_> = match value {
            Value::Array(items) => {
                items.iter().enumerate().map(|(nth, value)| Place { path: step(nth.to_string()), in_list: true, value }).collect()
            }
            Value::Object(members) => {
                members.iter().map(|(name, value)| Place { path: step(name.clone()), in_list: *in_list, value }).collect()
            }
            _ => Vec::new(),
        };
        found.extend(below);
        at += 1;
    }
    found
}
