//! An answer, and what must be true of every failure.

use std::collections::BTreeSet;

use reqwest::header::HeaderMap;
use serde_json::Value;

/// One whole HTTP answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.expect("a whole body").into() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of visible characters"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    /// The `output` of a 200.
    pub(crate) fn output(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()["output"].clone()
    }

    /// How the cache served a 200.
    pub(crate) fn cache(&self) -> &str {
        assert_eq!(self.status, 200, "{}", self.text());
        self.header("x-cache").expect("an X-Cache header")
    }

    pub(crate) fn request_id(&self) -> String {
        self.header("x-request-id").expect("an X-Request-Id header").to_owned()
    }

    /// Ids and names of the customers of a 200, in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        let customers = self.output()["customers"].as_array().expect("a list of customers").clone();
        customers.iter().map(|customer| customer["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Holds a failure to RFC 9457 and to our contract, and returns it.
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["type", "title", "detail", "request_id"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {problem}");
        }
        assert!(problem["retryable"].is_boolean(), "{problem}");
        assert_eq!(problem["request_id"], self.request_id(), "{problem}");

        let known = ["type", "title", "status", "detail", "code", "retryable", "request_id", "retry_after_ms", "errors"];
        let members: BTreeSet<_> = problem.as_object().expect("an object").keys().map(String::as_str).collect();
        assert!(members.is_subset(&BTreeSet::from(known)), "an unknown member in {problem}");
        assert_eq!(
            self.header("retry-after").is_some(),
            problem.get("retry_after_ms").is_some(),
            "Retry-After and retry_after_ms go together: {problem}"
        );
        if let Some(seconds) = self.header("retry-after") {
            assert!(seconds.parse::<u64>().is_ok_and(|seconds| seconds >= 1), "Retry-After: {seconds}");
            assert_eq!(problem["retryable"], true, "{problem}");
        }
        problem
    }

    /// Pointers and codes of the errors of a 400 `invalid_input`, held to their rules.
    pub(crate) fn errors(&self) -> Vec<(String, String)> {
        let problem = self.problem(400, "invalid_input");
        let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("no errors in {problem}"));
        let text = |error: &Value, member: &str| error[member].as_str().unwrap_or_else(|| panic!("no {member} in {error}")).to_owned();
        let listed: Vec<_> = errors.iter().map(|error| (text(error, "pointer"), text(error, "code"))).collect();
        assert!(errors.iter().all(|error| !text(error, "detail").is_empty()), "{problem}");
        assert!(!listed.is_empty() && listed.len() <= 20, "{problem}");
        assert!(listed.is_sorted(), "errors are sorted: {problem}");
        assert_eq!(problem["retryable"], false);
        listed
    }

    /// The pointers alone.
    pub(crate) fn pointers(&self) -> Vec<String> {
        self.errors().into_iter().map(|(pointer, _)| pointer).collect()
    }
}
