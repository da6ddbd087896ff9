//! Cognigy's login and its endpoint for metrics.
//!
//! An [`Upstream`] that answers everything with a token: the login reads it, and to the metrics any 2xx is as good as another.
//! What a test tells it to answer holds for both, so the order of the calls says which of them gets it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use super::upstream::Received;
use super::{Answer, Setup, Upstream, wait_until};

pub(crate) const COGNIGY_USER: &str = "metrics@example.com";
pub(crate) const COGNIGY_PASSWORD: &str = "cognigy's password, seen nowhere";

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Cognigy {
    /// To be told what to answer, to be held and to be stopped.
    pub(crate) upstream: Upstream,
}

/// One call with a datum, whatever it was answered.
#[derive(Debug)]
pub(crate) struct Push {
    /// The bearer token.
    pub(crate) token: String,
    pub(crate) content_type: String,
    pub(crate) datum: Value,
}

impl Cognigy {
    /// Gives the token `token-1` to whoever logs in.
    pub(crate) fn start() -> Self {
        let upstream = Upstream::start();
        upstream.answer(Self::token("token-1"));
        Self { upstream }
    }

    /// A login's answer that does not tell how long the token lives.
    pub(crate) fn token(token: &str) -> Answer {
        Answer::new(200).body(json!({ "token": token }).to_string())
    }

    /// One that does.
    pub(crate) fn token_for(token: &str, seconds: u64) -> Answer {
        Answer::new(200).body(json!({ "token": token, "expires_in": seconds }).to_string())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.upstream.port)
    }

    fn calls(&self, path: &str) -> Vec<Received> {
        let calls = self.upstream.requests().into_iter().filter(|call| call.path == path);
        calls.inspect(|call| assert_eq!(call.method, "POST", "{path}")).collect()
    }

    /// Every login so far.
    pub(crate) fn logins(&self) -> Vec<Received> {
        self.calls("/api/v2/auth/login")
    }

    /// Every call with a datum so far.
    pub(crate) fn pushes(&self) -> Vec<Push> {
        self.calls("/api/v2/metrics").iter().map(Push::of).collect()
    }

    /// Waits until so many calls with a datum have come.
    pub(crate) async fn has(&self, pushes: usize) -> Vec<Push> {
        let what = format!("{pushes} calls with a datum have come");
        wait_until(&what, async || Some(self.pushes()).filter(|all| all.len() >= pushes)).await
    }
}

impl Push {
    fn of(call: &Received) -> Self {
        let bearer = call.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        Self {
            token: bearer.expect("a bearer token").to_owned(),
            content_type: call.header("content-type").unwrap_or_default().to_owned(),
            datum: serde_json::from_slice(&call.body).expect("a datum is JSON"),
        }
    }

    /// Its tags: how the webhook ended, and whether its answer was an old one.
    pub(crate) fn tags(&self) -> (&str, &str) {
        let tag = |name: &str| self.datum["tags"][name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.datum));
        (tag("status"), tag("cache_hit"))
    }
}

/// A token that holds these claims.
pub(crate) fn jwt(claims: &Value) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims), BASE64.encode("a signature"))
}

impl Setup {
    /// Reports to that Cognigy.
    pub(crate) fn cognigy(self, cognigy: &Cognigy) -> Self {
        let setup = self.set("CXDA_COGNIGY__METRICS__BASE_URL", cognigy.url()).set("CXDA_COGNIGY__METRICS__ALLOW_HTTP", "true");
        setup.set("CXDA_COGNIGY__METRICS__USERNAME", COGNIGY_USER).set("CXDA_COGNIGY__METRICS__PASSWORD", COGNIGY_PASSWORD)
    }
}
