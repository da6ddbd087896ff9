//! The one place where failures become status codes and problem documents (RFC 9457).
//!
//! To add a code: a variant, its row in `facts`, its row in the README.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError, Route, web};
use serde::Serialize;

use crate::app::lookup::LookupError;
use crate::app::once::OnceError;
use crate::app::ports::{StoreDown, StoreError, UpstreamError};
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
    RequestTimeout,
    BodyTooLarge,
    MissingIdempotencyKey,
    InFlight,
    IdempotencyKeyReused,
    UpstreamFailed(UpstreamError),
    UpstreamTimeout(UpstreamError),
    StoreUnavailable(StoreDown),
    DatabaseUnavailable(LookupError),
    Overloaded(Option<LookupError>),
    ShuttingDown,
    Internal(Option<LookupError>),
}

/// What is wrong with one member of a body. Never its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct FieldError {
    /// A JSON pointer (RFC 6901).
    pub(super) pointer: String,
    pub(super) code: &'static str,
    pub(super) detail: String,
}

/// What is the same for all problems of a kind.
struct Facts {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: &'static str,
    /// Worth trying again, and after how long.
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    retryable: bool,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

/// The most field errors in one answer.
const MAX_FIELD_ERRORS: usize = 20;

impl ApiError {
    /// Sorted, without repetition, and not too many.
    pub(super) fn invalid_input(mut errors: Vec<FieldError>) -> Self {
        errors.sort();
        errors.dedup();
        errors.truncate(MAX_FIELD_ERRORS);
        Self::InvalidInput(errors)
    }

    fn facts(&self) -> Facts {
        let facts = |status, code, title, detail| Facts { status, code, title, detail, retry_after_ms: None };
        let again = |ms, facts: Facts| Facts { retry_after_ms: Some(ms), ..facts };
        match self {
            Self::InvalidJson => facts(StatusCode::BAD_REQUEST, "invalid_json", "Not JSON", "The body is not JSON."),
            Self::InvalidInput(_) => facts(
                StatusCode::BAD_REQUEST,
                "invalid_input",
                "Invalid input",
                "The body is JSON, but not a request of this route; see errors.",
            ),
            Self::UnknownAction => {
                facts(StatusCode::BAD_REQUEST, "unknown_action", "Unknown action", "This route knows one action: process_customer_batch.")
            }
            Self::MissingSignature => {
                facts(StatusCode::UNAUTHORIZED, "missing_signature", "Not signed", "A header that signs the request is missing.")
            }
            Self::InvalidSignature => facts(
                StatusCode::UNAUTHORIZED,
                "invalid_signature",
                "Wrong signature",
                "The signature is not that of this request by a key that is valid now.",
            ),
            Self::StaleSignature => facts(
                StatusCode::UNAUTHORIZED,
                "stale_signature",
                "Signature too old",
                "The signed timestamp is too far from the present time.",
            ),
            Self::TenantNotAllowed => {
                facts(StatusCode::FORBIDDEN, "tenant_not_allowed", "Tenant not allowed", "The signing key is not for this tenant.")
            }
            Self::NotFound => facts(StatusCode::NOT_FOUND, "not_found", "Not found", "There is no such route."),
            Self::MethodNotAllowed(_) => facts(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
                "The route has other methods; see the Allow header.",
            ),
            Self::RequestTimeout => {
                facts(StatusCode::REQUEST_TIMEOUT, "request_timeout", "Body too slow", "The body did not arrive in time.")
            }
            Self::BodyTooLarge => {
                facts(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large", "The body is longer than this service takes.")
            }
            Self::MissingIdempotencyKey => facts(
                StatusCode::BAD_REQUEST,
                "missing_idempotency_key",
                "No idempotency key",
                "What this route tells repetitions by is missing or empty.",
            ),
            Self::InFlight => again(
                1000,
                facts(StatusCode::CONFLICT, "in_flight", "Still under way", "A request with the same idempotency key is being worked on."),
            ),
            Self::IdempotencyKeyReused => facts(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "Idempotency key reused",
                "The idempotency key was used before with another payload.",
            ),
            Self::UpstreamFailed(_) => facts(
                StatusCode::BAD_GATEWAY,
                "upstream_failed",
                "Upstream failed",
                "The service behind this route could not be reached, or broke off its answer.",
            ),
            Self::UpstreamTimeout(_) => facts(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "Upstream too slow",
                "The service behind this route did not answer in time.",
            ),
            Self::StoreUnavailable(_) => again(
                1000,
                facts(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "store_unavailable",
                    "Store unavailable",
                    "The store of idempotency keys did not answer; nothing was done.",
                ),
            ),
            Self::DatabaseUnavailable(_) => again(
                1000,
                facts(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "database_unavailable",
                    "Database unavailable",
                    "The database did not answer in time.",
                ),
            ),
            Self::Overloaded(_) => {
                again(1000, facts(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded", "Too many requests are under way."))
            }
            Self::ShuttingDown => {
                again(1000, facts(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "Shutting down", "This instance is going down."))
            }
            Self::Internal(_) => facts(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", "This is a defect of the service."),
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
            Self::UpstreamFailed(cause) | Self::UpstreamTimeout(cause) => Some(cause),
            Self::StoreUnavailable(cause) => Some(cause),
            _ => None,
        }
    }

    /// Worth trying again, though nobody can say when.
    fn is_passing(&self) -> bool {
        matches!(self, Self::RequestTimeout | Self::UpstreamFailed(_) | Self::UpstreamTimeout(_))
    }

    /// The whole answer.
    pub(super) fn response(&self, request_id: &RequestId) -> HttpResponse {
        let Facts { status, code, title, detail, retry_after_ms } = self.facts();
        let errors: &[FieldError] = if let Self::InvalidInput(errors) = self { errors } else { &[] };
        let problem = Problem {
            r#type: format!("urn:cxone-data-action:problem:{code}"),
            title,
            status: status.as_u16(),
            detail,
            code,
            retryable: retry_after_ms.is_some() || self.is_passing(),
            request_id: request_id.as_str(),
            retry_after_ms,
            errors,
        };
        let mut response = HttpResponse::build(status);
        response.insert_header((CONTENT_TYPE, HeaderValue::from_static("application/problem+json")));
        if let Some(ms) = retry_after_ms {
            response.insert_header((RETRY_AFTER, ms.div_ceil(1000)));
        }
        if let Self::MethodNotAllowed(allowed) = self {
            response.insert_header((ALLOW, HeaderValue::from_static(allowed)));
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
        self.facts().status
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
            LookupError::Store(StoreError::Unavailable(_) | StoreError::Timeout | StoreError::Interrupted(_)) => {
                Self::DatabaseUnavailable(error)
            }
            LookupError::Store(StoreError::Refused(_)) | LookupError::Panicked => Self::Internal(Some(error)),
        }
    }
}

impl From<UpstreamError> for ApiError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Timeout => Self::UpstreamTimeout(error),
            UpstreamError::Failed(_) => Self::UpstreamFailed(error),
        }
    }
}

impl From<OnceError<ApiError>> for ApiError {
    fn from(error: OnceError<ApiError>) -> Self {
        match error {
            OnceError::InFlight => Self::InFlight,
            OnceError::Mismatch => Self::IdempotencyKeyReused,
            OnceError::Store(error) => Self::StoreUnavailable(error),
            OnceError::Work(error) => error,
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

/// For methods that a route does not have.
pub(super) fn method_not_allowed(allowed: &'static str) -> Route {
    web::to(move || async move { Err::<HttpResponse, _>(ApiError::MethodNotAllowed(allowed)) })
}
