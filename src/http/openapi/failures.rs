//! The failures of each route, told by the same lines of code that answer with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::anyhow;
use serde_json::json;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Header, Ref, RefOr};

use super::parts::{ANYTHING, Answers, any_value, anything, replayed_header};
use crate::app::lookup::LookupError;
use crate::app::ports::StoreDown;
use crate::domain::RequestId;
use crate::http::error::{ApiError, FieldError};
use crate::http::once::REPLAYED_HEADER;

/// The component that all problem documents are instances of.
pub(super) const PROBLEM: &str = "Problem";

pub(super) fn of_lookup() -> Vec<ApiError> {
    [posted(), looked_up()].into_iter().flatten().collect()
}

pub(super) fn of_execution_route() -> Vec<ApiError> {
    let own = [ApiError::KeyNotAllowed, ApiError::NotFound, ApiError::MissingIdempotencyKey];
    [posted(), once(), executed(), own.into()].into_iter().flatten().collect()
}

pub(super) fn of_probe() -> Vec<ApiError> {
    vec![ApiError::ForeignOrigin, ApiError::MethodNotAllowed("GET, HEAD")]
}

pub(super) fn of_readiness() -> Vec<ApiError> {
    let unready = [ApiError::DatabaseUnavailable(LookupError::ShuttingDown), ApiError::Overloaded(None), ApiError::ShuttingDown];
    of_probe().into_iter().chain(unready).chain([ApiError::Internal(None)]).collect()
}

pub(super) fn of_metrics() -> Vec<ApiError> {
    of_probe().into_iter().chain([ApiError::Internal(None)]).collect()
}

/// Of every route for platforms.
pub(super) fn posted() -> Vec<ApiError> {
    vec![
        ApiError::MalformedRequest,
        ApiError::HeadTooLarge,
        ApiError::InvalidJson,
        ApiError::MissingSignature,
        ApiError::InvalidSignature,
        ApiError::StaleSignature,
        ApiError::MethodNotAllowed("POST"),
        ApiError::RequestTimeout,
        ApiError::BodyTooLarge,
        ApiError::UnsupportedEncoding,
        ApiError::RateLimited(Duration::from_secs(7)),
        ApiError::KeyBusy,
        ApiError::Internal(None),
    ]
}

pub(super) fn looked_up() -> Vec<ApiError> {
    vec![
        invalid_input("/input/customer_ids/0", "invalid_uuid", "is not a UUID, or the nil UUID"),
        ApiError::UnknownAction,
        ApiError::TenantNotAllowed,
        ApiError::DatabaseUnavailable(LookupError::ShuttingDown),
        ApiError::Overloaded(None),
        ApiError::ShuttingDown,
    ]
}

/// Of every route that does work once.
pub(super) fn once() -> Vec<ApiError> {
    vec![
        invalid_input("", "duplicate_header", "the header that holds the key is there twice"),
        ApiError::InFlight,
        ApiError::IdempotencyKeyReused,
        ApiError::StoreShareFull(Duration::from_secs(7)),
        ApiError::StoreUnavailable(StoreDown::NotAsked(anyhow!("down"))),
        ApiError::Overloaded(None),
        ApiError::ShuttingDown,
    ]
}

pub(super) fn executed() -> Vec<ApiError> {
    vec![
        invalid_input("/customer", "not_scalar", "must be a string, a number, a boolean or null"),
        ApiError::RateLimited(Duration::from_secs(7)),
        ApiError::UpstreamFailed(anyhow!("failed")),
        ApiError::UpstreamAnswered(anyhow!("answered")),
        ApiError::UpstreamLogin(anyhow!("refused")),
        ApiError::UnknownOutcome(None),
        ApiError::UpstreamThrottled(Duration::from_secs(7)),
        ApiError::UpstreamTimeout(anyhow!("late")),
    ]
}

pub(super) fn forwarded() -> Vec<ApiError> {
    vec![ApiError::UpstreamFailed(anyhow!("failed")), ApiError::UpstreamTimeout(anyhow!("late"))]
}

fn invalid_input(pointer: &str, code: &'static str, detail: &str) -> ApiError {
    ApiError::invalid_input(vec![FieldError { pointer: pointer.to_owned(), code, detail: detail.to_owned() }])
}

/// Every code there is, with one of its failures.
pub(super) fn by_code() -> BTreeMap<&'static str, ApiError> {
    // The last one of a code stays: the first of the lookup's, where it has one.
    let all = of_probe().into_iter().chain(of_execution_route().into_iter().rev()).chain(of_lookup().into_iter().rev());
    all.map(|failure| (failure.facts().code, failure)).collect()
}

/// The schema of `code`.
pub(super) fn codes() -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some("Stable, for programs."));
    text.enum_values(Some(by_code().into_keys())).into()
}

/// A document of each code, under its name.
pub(super) fn examples() -> impl Iterator<Item = (String, RefOr<Example>)> {
    let id = RequestId::parse("call-4711").unwrap_or_else(RequestId::generate);
    by_code().into_iter().map(move |(code, failure)| {
        let example = ExampleBuilder::new().summary(failure.facts().title).value(Some(json!(failure.problem(&id))));
        (code.to_owned(), example.into())
    })
}

/// Adds the failures to an operation, by status.
pub(super) fn tell(operation: &mut Operation, failures: Vec<ApiError>, answers: Answers) {
    let mut by_status = BTreeMap::<u16, Vec<ApiError>>::new();
    for failure in failures {
        by_status.entry(failure.facts().status).or_default().push(failure);
    }
    let responses = by_status.into_iter().map(|(status, failures)| (status.to_string(), response(status, &failures, answers).into()));
    operation.responses.responses.extend(responses);
}

fn response(status: u16, failures: &[ApiError], answers: Answers) -> Response {
    let facts: Vec<_> = failures.iter().map(ApiError::facts).collect();
    let lines: BTreeSet<_> = facts.iter().map(|facts| format!("- `{}`: {}", facts.code, facts.detail)).collect();
    let mut lines = Vec::from_iter(lines);
    let passed_on = answers.may_pass_on(status);
    if passed_on {
        lines.push("- or that answer of the service behind this route, as it came".to_owned());
    }
    let codes: BTreeSet<_> = facts.iter().map(|facts| facts.code).collect();
    let narrowed = ObjectBuilder::new()
        .property("status", ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([status])))
        .property("code", ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes)));
    let own = AllOfBuilder::new().item(Ref::from_schema_name(PROBLEM)).item(narrowed);
    let schema = if passed_on { AnyOfBuilder::new().item(own).item(any_value()).into() } else { RefOr::from(own) };
    let examples = facts.iter().map(|facts| (facts.code, RefOr::Ref(Ref::new(format!("#/components/examples/{}", facts.code)))));
    let content = ContentBuilder::new().schema(Some(schema)).examples_from_iter(examples).build();
    let mut response = ResponseBuilder::new().description(lines.join("\n")).content("application/problem+json", content);
    if passed_on {
        response = response.content(ANYTHING, anything()).header(REPLAYED_HEADER, replayed_header());
    }
    if facts.iter().any(|facts| facts.retry_after.is_some()) {
        response = response.header("Retry-After", retry_after());
    }
    if status == 401 {
        response = response.header("WWW-Authenticate", challenge());
    }
    if failures.iter().any(|failure| matches!(failure, ApiError::UnsupportedEncoding)) {
        response = response.header("Accept-Encoding", accept_encoding());
    }
    let allowed = failures.iter().find_map(|failure| if let ApiError::MethodNotAllowed(allowed) = failure { Some(*allowed) } else { None });
    if let Some(allowed) = allowed {
        response = response.header("Allow", allow(allowed));
    }
    response.build()
}

fn retry_after() -> Header {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds after which to try again.")).build()
}

fn challenge() -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^(HMAC-SHA256|ApiKey|Bearer) realm="));
    let description = "What the route takes as a proof, a challenge a line (RFC 9110 section 11.6.1), such as \
        `HMAC-SHA256 realm=\"cxone-data-action\", header=\"X-CXone-Signature\"`.";
    HeaderBuilder::new().schema(Some(text)).description(Some(description)).build()
}

fn accept_encoding() -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["identity"]));
    HeaderBuilder::new().schema(Some(text)).description(Some("How a body is sent.")).build()
}

fn allow(methods: &str) -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([methods]));
    HeaderBuilder::new().schema(Some(text)).description(Some("The methods there are.")).build()
}
