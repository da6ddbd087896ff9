//! The routes that are attacked, and requests to them: proven by a right signature, or with a wrong one of the right form.

use crate::customer;
use crate::support::sign_with;

/// Signs the good load.
pub(crate) const GOOD_SECRET: &str = "a secret of the good load, at least 32 bytes long";
/// Signs the proven part of an attack.
pub(crate) const OTHER_SECRET: &str = "a secret of the attack, at least 32 bytes long";

/// Both keys, each for every tenant.
pub(crate) const KEYS: &str = r#"
[[signing.keys]]
id = "good"
secret = "a secret of the good load, at least 32 bytes long"

[[signing.keys]]
id = "other"
secret = "a secret of the attack, at least 32 bytes long"
"#;

/// A route that is attacked.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    signature: &'static str,
    /// Members that the route wants, without braces. `$SALT` stands for a number of its own.
    pub(crate) members: &'static str,
    /// `key` and `action` of a webhook, as TOML.
    webhook: Option<(&'static str, &'static str)>,
}

const LOOKUP: &str = r#""action":"process_customer_batch","input":{"customer_ids":["00000000-0000-4000-8000-000000000001"],"tenant_id":"acme42"},"salt":"$SALT""#;
const FIELDS: &str = r#""dialogId":"dialog-$SALT","nodeId":"node-7","sequence":1"#;
const WEBHOOK: &str = "X-Cognigy-Signature";
const PLATFORM: &str = "X-CXone-Signature";

pub(crate) const ROUTES: [Route; 6] = [
    Route { path: "/data-action", signature: PLATFORM, members: LOOKUP, webhook: None },
    Route { path: "/hooks/canonical", signature: WEBHOOK, members: LOOKUP, webhook: Some(("{ body = 'canonical' }", "{ echo = {} }")) },
    Route { path: "/hooks/raw", signature: WEBHOOK, members: LOOKUP, webhook: Some(("{ body = 'raw' }", "{ echo = {} }")) },
    Route {
        path: "/hooks/fields",
        signature: WEBHOOK,
        members: FIELDS,
        webhook: Some(("{ fields = ['/dialogId', '/nodeId', '/sequence'] }", "{ echo = {} }")),
    },
    Route { path: "/hooks/lookup", signature: WEBHOOK, members: LOOKUP, webhook: Some(("{ body = 'raw' }", "{ lookup = {} }")) },
    Route { path: "/genesys/actions/x/execute", signature: PLATFORM, members: r#""customerId":"$SALT""#, webhook: None },
];

/// The `[[webhooks]]` of the settings file.
pub(crate) fn routes_toml() -> String {
    let toml = |route: &Route| {
        let (key, action) = route.webhook?;
        // An answer is forgotten soon, so that a long search does not fill the memory.
        Some(format!(
            "[[webhooks]]\npath = '{}'\nauth = {{ hmac = {{}} }}\nkey = {key}\nkeep = '1s'\nstore = 'memory'\naction = {action}\n",
            route.path
        ))
    };
    ROUTES.iter().filter_map(toml).collect()
}

impl Route {
    /// A request with this body.
    pub(crate) fn request(&self, body: &[u8], proven: bool) -> Vec<u8> {
        let signature = if proven { sign_with(OTHER_SECRET, body) } else { "5a".repeat(32) };
        post(self.path, &format!("{}: {signature}\r\n", self.signature), body)
    }

    /// The members that the route wants, with a salt of their own.
    pub(crate) fn salted(&self, salt: u64) -> String {
        self.members.replace("$SALT", &format!("{salt:08}"))
    }
}

/// A signed lookup of these customers of a tenant.
pub(crate) fn lookup(tenant: &str, customers: impl Iterator<Item = i32>) -> Vec<u8> {
    let ids: Vec<_> = customers.map(|n| format!("\"{}\"", customer(n))).collect();
    let body = format!(r#"{{"action":"process_customer_batch","input":{{"customer_ids":[{}],"tenant_id":"{tenant}"}}}}"#, ids.join(","));
    let headers = format!("{PLATFORM}: {}\r\nX-CXone-Key-Id: good\r\n", sign_with(GOOD_SECRET, &body));
    post("/data-action", &headers, body.as_bytes())
}

/// A POST with these headers, each with its line end.
pub(crate) fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
