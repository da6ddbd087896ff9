//! An answer, held to the contract. What it says about an answer tells of its form alone: a 200 holds customers' data, and an
//! error page of a defective service could hold anything.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::verdict::{NotPassed, failed};

/// The longest name of a problem or of a content type that is shown.
const MAX_SHOWN: usize = 60;

/// One whole answer, and the time until it was there.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) took: Duration,
}

/// The `output` of a lookup.
#[derive(Debug, Deserialize)]
pub(super) struct Output {
    pub(super) customers: Vec<Customer>,
    pub(super) count: usize,
    pub(super) missing: Vec<Uuid>,
    pub(super) truncated: bool,
    pub(super) next_ids: Vec<Uuid>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "most of it is read for its type alone")]
pub(super) struct Customer {
    pub(super) id: Uuid,
    name: String,
    status: String,
    updated_at: DateTime<Utc>,
    #[serde(default)]
    attributes: Map<String, Value>,
}

#[derive(Deserialize)]
struct Envelope {
    output: Output,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The `code` of a problem document.
    pub(super) fn code(&self) -> Option<String> {
        let document = self.json()?;
        let is_name = |code: &&str| code.len() <= MAX_SHOWN && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        document["code"].as_str().filter(is_name).map(str::to_owned)
    }

    /// Whether it says when to come again, in seconds or as a date.
    pub(super) fn has_retry_after(&self) -> bool {
        let said = self.header(RETRY_AFTER.as_str());
        said.is_some_and(|said| said.parse::<u32>().is_ok() || httpdate::parse_http_date(said).is_ok())
    }

    /// Its form in a few words.
    pub(super) fn form(&self) -> String {
        let status = self.status.as_u16();
        if self.status.is_redirection() {
            return format!("{status}, a redirect, which no platform follows");
        }
        let is_plain = |name: &&str| name.len() <= MAX_SHOWN && name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        let media_type = self.header(CONTENT_TYPE.as_str()).filter(is_plain).unwrap_or("no content type");
        match self.code() {
            Some(code) => format!("{status}, {media_type}, code {code}"),
            None => format!("{status}, {media_type}, {} bytes", self.body.len()),
        }
    }

    fn is_of_type(&self, media_type: &str) -> bool {
        let essence = self.header(CONTENT_TYPE.as_str()).and_then(|value| value.split(';').next());
        essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
    }

    /// Holds it to being a problem document of that kind.
    pub(super) fn is_problem(&self, status: u16, code: &str) -> Result<(), NotPassed> {
        let expected = format!("{status}, application/problem+json, code {code}");
        let right = self.status.as_u16() == status && self.is_of_type("application/problem+json");
        if !right || self.code().as_deref() != Some(code) {
            return Err(failed(expected, self.form()));
        }
        let document = self.json().unwrap_or_default();
        if document["status"] != status {
            return Err(failed("the document's `status` is that of the answer", "another one, or none"));
        }
        if self.header("x-request-id").is_none() || document["request_id"].as_str() != self.header("x-request-id") {
            return Err(failed("the document's `request_id` is the answer's X-Request-Id", "another one, or none"));
        }
        Ok(())
    }

    /// The output of a lookup that was answered as the contract says.
    pub(super) fn output(&self) -> Result<Output, NotPassed> {
        if self.status != StatusCode::OK || !self.is_of_type("application/json") {
            return Err(failed("200, application/json", self.form()));
        }
        let mut json = serde_json::Deserializer::from_slice(&self.body);
        let envelope: Envelope = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            // The error itself could quote a customer; the name of a member that is not there is ours.
            let cause = error.inner().to_string();
            let absent = cause.split_once(" at line").map(|(said, _)| said).filter(|said| said.starts_with("missing field"));
            let wrong = format!("at `{}`: {}", error.path(), absent.unwrap_or("not the JSON that belongs there"));
            failed(r#"{"output":{"customers":[…],"count":…,"missing":[…],"truncated":…,"next_ids":[…]}}"#, wrong)
        })?;
        let output = envelope.output;
        if output.count != output.customers.len() || output.truncated == output.next_ids.is_empty() {
            let expected = "`count` is the number of customers, and `truncated` is true where there are `next_ids`";
            return Err(failed(expected, output.form()));
        }
        Ok(output)
    }
}

impl Output {
    pub(super) fn found(&self) -> Vec<Uuid> {
        self.customers.iter().map(|customer| customer.id).collect()
    }

    pub(super) fn form(&self) -> String {
        let Self { customers, count, missing, truncated, next_ids } = self;
        let (customers, missing, next) = (customers.len(), missing.len(), next_ids.len());
        format!("customers: {customers}, count: {count}, missing: {missing}, truncated: {truncated}, next_ids: {next}")
    }
}
