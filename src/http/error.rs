//! The one place where failures become status codes and problem documents (RFC 9457).
//!
//! To add a code: a variant, its row in `facts`, its row in the README.

use std::fmt;
use std::time::{Duration, SystemTime};

use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError, Route, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::lookup::LookupError;
use crate::app::once::OnceError;
use crate::app::ports::{ExecuteError, StoreDown, StoreError, UpstreamError};
use crate::domain::RequestId;

/// Everything that a caller can be told instead of an answer.
#[derive(Debug)]
pub(super) enum ApiError {
    InvalidJson,
    InvalidInput(Vec<FieldError>),
    UnknownAction,
    MissingSignature,
    InvalidSignature,
    StaleSignature,
    TenantNotAllowed,
    NotFound,
    MethodNotAllowed(&'static str),
    MalformedRequest,
    HeadTooLarge,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedEncoding,
    MissingIdempotencyKey,
    InFlight,
    IdempotencyKeyReused,
    KeyNotAllowed,
    ForeignOrigin,
    RateLimited(Duration),
    StoreShareFull(Duration),
    KeyBusy,
    UpstreamFailed(anyhow::Error),
    UpstreamAnswered(anyhow::Error),
    UpstreamLogin(anyhow::Error),
    UpstreamThrottled(Duration),
    UpstreamTimeout(anyhow::Error),
    UnknownOutcome(Option<anyhow::Error>),
    StoreUnavailable(StoreDown),
    DatabaseUnavailable(LookupError),
    Overloaded(Option<LookupError>),
    ShuttingDown,
    Internal(Option<LookupError>),
}

/// What is wrong with one member of a body. Never its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// A JSON pointer (RFC 6901).
    pub(super) pointer: String,
    /// Stable, for programs.
    pub(super) code: &'static str,
    /// For people.
    pub(super) detail: String,
}

/// What is the same for all problems of a kind.
pub(super) struct Facts {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) title: &'static str,
    pub(super) detail: &'static str,
    /// Worth trying again, and after how long.
    pub(super) retry_after: Option<Duration>,
}

/// What every failure is told as (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct Problem<'a> {
    /// The code as a URN.
    r#type: String,
    /// The same for all problems of a code.
    title: &'a str,
    /// That of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// For people.
    detail: &'a str,
    /// Stable, for programs.
    code: &'a str,
    /// Whether the same request may do better later.
    retryable: bool,
    /// That of the header X-Request-Id.
    request_id: &'a str,
    /// What Retry-After says, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
    /// What is wrong with the input: sorted, without repetition. Never an input's value.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false, min_items = 1, max_items = 20)]
    errors: &'a [FieldError],
}

/// The most field errors in one answer.
pub(super) const MAX_FIELD_ERRORS: usize = 20;

/// As soon as anybody is asked to try again: the header knows whole seconds.
const SOON: Duration = Duration::from_secs(1);

impl ApiError {
    /// Sorted, without repetition, and not too many.
    pub(super) fn invalid_input(mut errors: Vec<FieldError>) -> Self {
        errors.sort();
        errors.dedup();
        errors.truncate(MAX_FIELD_ERRORS);
        Self::InvalidInput(errors)
    }

    pub(super) fn facts(&self) -> Facts {
        let facts = |status, code, title, detail| Facts { status, code, title, detail, retry_after: None };
        let again = |pause: Duration, facts: Facts| Facts { retry_after: Some(pause.max(SOON)), ..facts };
        match self {
            Self::InvalidJson => facts(400, "invalid_json", "Not JSON", "The body is not JSON."),
            Self::InvalidInput(_) => {
                facts(400, "invalid_input", "Invalid input", "The body is JSON, but not a request of this route; see errors.")
            }
            Self::UnknownAction => facts(400, "unknown_action", "Unknown action", "This route knows no such action."),
            Self::MissingIdempotencyKey => {
                facts(400, "missing_idempotency_key", "No idempotency key", "What this route tells repetitions by is missing or empty.")
            }
            Self::MissingSignature => facts(401, "missing_signature", "Not signed", "A header that proves who calls is missing."),
            Self::InvalidSignature => {
                let detail = "The signature or API key is not that of this request by a key that is valid now.";
                facts(401, "invalid_signature", "Wrong signature", detail)
            }
            Self::StaleSignature => {
                facts(401, "stale_signature", "Signature too old", "The signed timestamp is too far from the present time.")
            }
            Self::TenantNotAllowed => facts(403, "tenant_not_allowed", "Tenant not allowed", "The signing key is not for this tenant."),
            Self::KeyNotAllowed => facts(403, "key_not_allowed", "Key not allowed", "The key may not use this route."),
            Self::ForeignOrigin => {
                let detail = "The admin listener is reached by an IP address, as localhost, by a name without dots or by one of admin.hosts, and the \
                              console takes requests from its own page alone.";
                facts(403, "foreign_origin", "Foreign origin", detail)
            }
            Self::NotFound => facts(404, "not_found", "Not found", "There is no such route."),
            Self::MethodNotAllowed(_) => {
                facts(405, "method_not_allowed", "Method not allowed", "The route has other methods; see the Allow header.")
            }
            Self::MalformedRequest => {
                facts(400, "malformed_request", "Malformed request", "The request is not HTTP/1.1, or its framing is ambiguous.")
            }
            Self::HeadTooLarge => {
                facts(431, "head_too_large", "Head too large", "The request's line and headers are longer than this service takes.")
            }
            Self::RequestTimeout => facts(408, "request_timeout", "Request too slow", "The request did not arrive in time."),
            Self::InFlight => {
                again(SOON, facts(409, "in_flight", "Still under way", "A request with the same idempotency key is being worked on."))
            }
            Self::BodyTooLarge => facts(413, "body_too_large", "Body too large", "The body is longer than this service takes."),
            Self::UnsupportedEncoding => {
                facts(415, "unsupported_encoding", "Encoded body", "The body must be sent as it is, without a Content-Encoding.")
            }
            Self::IdempotencyKeyReused => {
                let detail = "The idempotency key was used before with another payload.";
                facts(422, "idempotency_key_reused", "Idempotency key reused", detail)
            }
            Self::RateLimited(pause) => {
                let detail = "As many calls as allowed were made within the last minute; nothing was done.";
                again(*pause, facts(429, "rate_limited", "Too many calls", detail))
            }
            Self::StoreShareFull(pause) => {
                let detail = "The kept answers of this caller fill its share of the key store; nothing was done.";
                again(*pause, facts(429, "rate_limited", "Too many kept answers", detail))
            }
            Self::KeyBusy => {
                let detail = "As many requests of this key are in flight as allowed; nothing was done.";
                again(SOON, facts(429, "rate_limited", "Too many calls", detail))
            }
            Self::Internal(_) => facts(500, "internal", "Internal error", "This is a defect of the service."),
            Self::UpstreamFailed(_) => {
                let detail = "The service behind this route could not be reached, failed, or broke off its answer.";
                facts(502, "upstream_failed", "Upstream failed", detail)
            }
            Self::UpstreamAnswered(_) => {
                let detail = "The service behind this route answered with an error.";
                facts(502, "upstream_failed", "Upstream failed", detail)
            }
            Self::UpstreamLogin(_) => {
                let detail = "This service could not log in to the one behind this route; nothing was done.";
                facts(502, "upstream_failed", "Upstream failed", detail)
            }
            Self::UnknownOutcome(_) => {
                let detail = "The call went out and its answer was lost: it may or may not have been done, and is not made again.";
                facts(502, "unknown_outcome", "Outcome unknown", detail)
            }
            Self::UpstreamThrottled(pause) => {
                let detail = "The service behind this route takes no more calls now; nothing was done.";
                again(*pause, facts(503, "upstream_failed", "Upstream busy", detail))
            }
            Self::StoreUnavailable(_) => {
                let detail = "The store of idempotency keys did not answer; nothing was done.";
                again(SOON, facts(503, "store_unavailable", "Store unavailable", detail))
            }
            Self::DatabaseUnavailable(LookupError::Store(StoreError::Misconfigured(_))) => {
                again(SOON, facts(503, "database_unavailable", "Database unavailable", "The database cannot serve this request now."))
            }
            Self::DatabaseUnavailable(_) => {
                again(SOON, facts(503, "database_unavailable", "Database unavailable", "The database did not answer in time."))
            }
            Self::Overloaded(_) => again(SOON, facts(503, "overloaded", "Overloaded", "Too many requests are under way.")),
            Self::ShuttingDown => again(SOON, facts(503, "shutting_down", "Shutting down", "This instance is going down.")),
            Self::UpstreamTimeout(_) => {
                facts(504, "upstream_timeout", "Upstream too slow", "The service behind this route did not answer in time.")
            }
        }
    }

    /// The outcome's name in logs: the code of the problem.
    pub(super) fn code(&self) -> &'static str {
        self.facts().code
    }

    /// What happened, for the log alone.
    pub(super) fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::DatabaseUnavailable(cause) | Self::Overloaded(Some(cause)) | Self::Internal(Some(cause)) => Some(cause),
            Self::UpstreamFailed(cause)
            | Self::UpstreamAnswered(cause)
            | Self::UpstreamLogin(cause)
            | Self::UpstreamTimeout(cause)
            | Self::UnknownOutcome(Some(cause)) => Some(cause.as_ref()),
            Self::StoreUnavailable(cause) => Some(cause),
            _ => None,
        }
    }

    /// Worth trying again, though nobody can say when.
    fn is_passing(&self) -> bool {
        matches!(self, Self::RequestTimeout | Self::UpstreamFailed(_) | Self::UpstreamLogin(_) | Self::UpstreamTimeout(_))
    }

    /// The document.
    pub(super) fn problem<'a>(&'a self, request_id: &'a RequestId) -> Problem<'a> {
        let Facts { status, code, title, detail, retry_after } = self.facts();
        let retry_after_ms = retry_after.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let errors: &[FieldError] = if let Self::InvalidInput(errors) = self { errors } else { &[] };
        Problem {
            r#type: format!("urn:cxone-data-action:problem:{code}"),
            title,
            status,
            detail,
            code,
            retryable: retry_after_ms.is_some() || self.is_passing(),
            request_id: request_id.as_str(),
            retry_after_ms,
            errors,
        }
    }

    /// The whole answer as bytes, for a request that the HTTP server refuses before any route sees it. The connection is closed
    /// after it.
    pub(super) fn bare_response(&self) -> Vec<u8> {
        let id = RequestId::generate();
        let json = serde_json::to_string(&self.problem(&id)).unwrap_or_default();
        format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nx-request-id: {}\r\nconnection: close\r\n\
             date: {}\r\n\r\n{json}",
            self.status_code(),
            json.len(),
            id.as_str(),
            httpdate::fmt_http_date(SystemTime::now()),
        )
        .into_bytes()
    }

    /// The whole answer.
    pub(super) fn response(&self, request_id: &RequestId) -> HttpResponse {
        let problem = self.problem(request_id);
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((CONTENT_TYPE, HeaderValue::from_static("application/problem+json")));
        if let Some(ms) = problem.retry_after_ms {
            response.insert_header((RETRY_AFTER, ms.div_ceil(1000)));
        }
        if let Self::MethodNotAllowed(allowed) = self {
            response.insert_header((ALLOW, HeaderValue::from_static(allowed)));
        }
        if matches!(self, Self::UnsupportedEncoding) {
            response.insert_header((ACCEPT_ENCODING, HeaderValue::from_static("identity")));
        }
        response.body(serde_json::to_string(&problem).unwrap_or_default())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.facts().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Only the status: `request::finish` makes the document, since it knows the request's id.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

impl From<LookupError> for ApiError {
    fn from(error: LookupError) -> Self {
        match &error {
            LookupError::Overloaded | LookupError::Store(StoreError::Busy) => Self::Overloaded(Some(error)),
            LookupError::ShuttingDown => Self::ShuttingDown,
            LookupError::Store(
                StoreError::Unavailable(_) | StoreError::Timeout | StoreError::Interrupted(_) | StoreError::Misconfigured(_),
            ) => Self::DatabaseUnavailable(error),
            LookupError::Store(StoreError::Refused(_)) | LookupError::Panicked => Self::Internal(Some(error)),
        }
    }
}

impl From<UpstreamError> for ApiError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Timeout => Self::UpstreamTimeout(error.into()),
            UpstreamError::Failed(_) => Self::UpstreamFailed(error.into()),
        }
    }
}

impl From<ExecuteError> for ApiError {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Failed(_) => Self::UpstreamFailed(error.into()),
            ExecuteError::Answered(_) => Self::UpstreamAnswered(error.into()),
            ExecuteError::NoToken(_) => Self::UpstreamLogin(error.into()),
            ExecuteError::Throttled(pause) => Self::UpstreamThrottled(pause),
            ExecuteError::RateLimited(pause) => Self::RateLimited(pause),
            ExecuteError::Busy => Self::Overloaded(None),
            ExecuteError::Late => Self::UpstreamTimeout(error.into()),
            ExecuteError::NotRecorded(error) => Self::StoreUnavailable(error),
            ExecuteError::KeyLost => Self::InFlight,
            ExecuteError::Unknown(_) => Self::UnknownOutcome(Some(error.into())),
        }
    }
}

impl<E: Into<ApiError>> From<OnceError<E>> for ApiError {
    fn from(error: OnceError<E>) -> Self {
        match error {
            OnceError::InFlight => Self::InFlight,
            OnceError::Mismatch => Self::IdempotencyKeyReused,
            OnceError::Store(error) => Self::StoreUnavailable(error),
            OnceError::Work(error) | OnceError::Unknown(Some(error)) => error.into(),
            OnceError::Unknown(None) => Self::UnknownOutcome(None),
            OnceError::ShareFull(pause) => Self::StoreShareFull(pause),
            OnceError::Overloaded => Self::Overloaded(None),
            OnceError::ShuttingDown => Self::ShuttingDown,
            OnceError::Panicked => Self::Internal(None),
        }
    }
}

/// For paths that no route has.
pub(super) async fn not_found() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NotFound)
}

/// For a target that is no path, such as `OPTIONS *`: it passes by everything that is mounted at a path.
pub(super) async fn unroutable() -> HttpResponse {
    let id = RequestId::generate();
    let mut response = ApiError::NotFound.response(&id);
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(super::request::REQUEST_ID, value);
    }
    response
}

/// For methods that a route does not have.
pub(super) fn method_not_allowed(allowed: &'static str) -> Route {
    web::to(move || async move { Err::<HttpResponse, _>(ApiError::MethodNotAllowed(allowed)) })
}
