//! Webhook routes: how they are set, and how their callers sign.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, RequestBuilder};
use sha2::Sha256;

use super::{Reply, Service, Setup, Upstream, send, sign_with};

/// The secret of every route that a test does not give another one.
pub(crate) const ROUTE_SECRET: &str = "a secret of one route, at least 32 bytes long";

/// The header that holds a caller's key, unless a test says otherwise.
pub(crate) const KEY_HEADER: &str = "X-Correlation-Id";

/// One `[[webhooks]]` of the settings file.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// By name, as TOML.
    members: BTreeMap<String, String>,
}

impl Route {
    /// One that echoes, with a secret of its own, its key in a header, and a store that asks nobody.
    pub(crate) fn new(path: &str) -> Self {
        let auth = format!(r#"{{ hmac = {{ secret = "{ROUTE_SECRET}" }} }}"#);
        let route = Self { members: BTreeMap::new() }.text("path", path).set("auth", &auth);
        route.set("key", &format!(r#"{{ header = "{KEY_HEADER}" }}"#)).store("memory").set("action", "{ echo = {} }")
    }

    /// Any member, as TOML.
    pub(crate) fn set(mut self, member: &str, toml: &str) -> Self {
        self.members.insert(member.to_owned(), toml.to_owned());
        self
    }

    /// Without that member.
    pub(crate) fn without(mut self, member: &str) -> Self {
        self.members.remove(member);
        self
    }

    /// Any member that is a string.
    pub(crate) fn text(self, member: &str, value: &str) -> Self {
        self.set(member, &format!("'{value}'"))
    }

    pub(crate) fn store(self, store: &str) -> Self {
        self.text("store", store)
    }

    pub(crate) fn lease(self, lease: &str) -> Self {
        self.text("lease", lease)
    }

    pub(crate) fn keep(self, keep: &str) -> Self {
        self.text("keep", keep)
    }

    pub(crate) fn wait(self, wait: &str) -> Self {
        self.text("wait", wait)
    }

    /// Its work is done by that upstream, which may take as long as tests wait.
    pub(crate) fn forward(self, upstream: &Upstream) -> Self {
        self.forward_to(&upstream.url(), "30s")
    }

    pub(crate) fn forward_to(self, url: &str, timeout: &str) -> Self {
        self.set("action", &format!(r#"{{ forward = {{ url = "{url}", timeout = "{timeout}" }} }}"#))
    }

    /// As it stands in the settings file.
    pub(crate) fn toml(&self) -> String {
        let members = self.members.iter().map(|(name, value)| format!("{name} = {value}\n"));
        format!("[[webhooks]]\n{}\n", members.collect::<String>())
    }
}

/// A settings file with these routes.
pub(crate) fn settings_file(routes: &[Route]) -> String {
    routes.iter().map(Route::toml).collect()
}

impl Setup {
    /// With these webhook routes, and no other settings file.
    pub(crate) fn webhooks(self, routes: &[Route]) -> Self {
        self.file(&settings_file(routes))
    }
}

impl Service {
    /// A webhook signed as [`Route::new`] wants it, that a test may add to before it is sent.
    pub(crate) fn hook(&self, path: &str, key: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let body = body.into();
        let call = self.call(Method::POST, path).header("X-Cognigy-Signature", sign_with(ROUTE_SECRET, &body));
        call.header(KEY_HEADER, key).body(body)
    }

    /// The same, sent.
    pub(crate) async fn webhook(&self, path: &str, key: &str, body: impl Into<Vec<u8>>) -> Reply {
        send(self.hook(path, key, body)).await
    }

    /// A POST with exactly these headers.
    pub(crate) async fn post_to(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Reply {
        let call = self.call(Method::POST, path).body(body.into());
        send(headers.iter().fold(call, |call, (name, value)| call.header(*name, *value))).await
    }
}

impl Reply {
    /// Whether it says that it was given before.
    pub(crate) fn replayed(&self) -> bool {
        let said = self.header("idempotent-replayed");
        assert!(said.is_none_or(|said| said == "true"), "Idempotent-Replayed: {said:?}");
        said.is_some()
    }
}

/// The signature of the Standard Webhooks specification, `v1,…`. The secret is what stands behind `whsec_`, decoded.
pub(crate) fn standard_signature(secret: &[u8], id: &str, timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length will do");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970").as_secs()
}
