//! What every request gets: an id, a span, a log line, its share of the metrics, and a problem document where it fails.

use std::sync::Arc;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};
use tracing::Span;
use tracing_actix_web::RootSpanBuilder;

use super::challenge;
use super::connections::Connection;
use super::error::ApiError;
use crate::app::ports::{Datum, MetricSink};
use crate::domain::{Reason, RequestId, TenantId};
use crate::metrics::Metrics;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where a caller's own id for the request may stand, the first well-formed one taken.
const CALLER_IDS: [HeaderName; 3] =
    [REQUEST_ID, HeaderName::from_static("x-correlation-id"), HeaderName::from_static("inin-correlation-id")];

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What is found out about a request on its way, for its answer and its log line. One for each request: every value of its own
/// among a request's extensions is an allocation.
pub(super) struct Notes {
    began: Instant,
    id: RequestId,
    pub(super) tenant: Option<TenantId>,
    pub(super) cache: Option<&'static str>,
    /// Whether this answer is an earlier one's.
    pub(super) replayed: Option<bool>,
    /// Whether the route is one of the settings'.
    pub(super) webhook: bool,
    /// Why nobody is proven to have sent it.
    pub(super) reason: Option<Reason>,
    /// What a failure leaves behind, once its response is a document.
    failure: Option<Failure>,
}

struct Failure {
    code: &'static str,
    cause: Option<String>,
}

impl Notes {
    fn new(headers: &HeaderMap) -> Self {
        let named = |name| headers.get(name).and_then(|value| RequestId::parse(value.to_str().ok()?));
        let id = CALLER_IDS.into_iter().find_map(named).unwrap_or_else(RequestId::generate);
        Self { began: Instant::now(), id, tenant: None, cache: None, replayed: None, webhook: false, reason: None, failure: None }
    }
}

/// The id given to this request.
pub(super) fn request_id(request: &HttpRequest) -> RequestId {
    request.extensions().get::<Notes>().map_or_else(RequestId::generate, |notes| notes.id.clone())
}

/// Adds to the request's notes.
pub(super) fn note(request: &HttpRequest, change: impl FnOnce(&mut Notes)) {
    if let Some(notes) = request.extensions_mut().get_mut() {
        change(notes);
    }
}

/// Every answer leaves through here: with its id, and as a problem document where it is a failure.
pub(super) async fn finish(request: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Result<ServiceResponse<BoxBody>, Error> {
    // The span has made the notes already, where there is a span; the admin listener has none.
    if !request.extensions().contains::<Notes>() {
        let notes = Notes::new(request.headers());
        request.extensions_mut().insert(notes);
    }
    let connection = request.request().conn_data::<Arc<Connection>>().cloned();
    let open_request = match &connection {
        Some(connection) => Some(connection.begin_request().await),
        None => None,
    };
    let response = next.call(request).await?.map_into_boxed_body();
    drop(open_request);
    let id = request_id(response.request());
    let mut response = match response.response().error() {
        Some(error) => {
            let unforeseen = ApiError::Internal(None);
            let error = error.as_error().unwrap_or(&unforeseen);
            let cause = error.cause().map(describe);
            let failure = Some(Failure { code: error.code(), cause });
            note(response.request(), |notes| notes.failure = failure);
            let document = error.response(&id);
            challenge::added(response.into_response(document))
        }
        None => response,
    };
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if connection.is_some_and(|connection| connection.closes_after_answer()) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// The error and its causes in one line.
fn describe(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source()).fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

/// One span and one log line a request.
pub struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let notes = Notes::new(request.headers());
        let span = tracing::info_span!("request", request_id = notes.id.as_str());
        request.extensions_mut().insert(notes);
        span
    }

    fn on_request_end<B: MessageBody>(_: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        match outcome {
            Ok(response) => finished(response.request(), response.status()),
            Err(error) => tracing::error!(error = error.to_string(), "request failed in the middle of the stack"),
        }
    }
}

fn finished(request: &HttpRequest, status: StatusCode) {
    let extensions = request.extensions();
    let Some(notes) = extensions.get::<Notes>() else { return };
    let took = notes.began.elapsed();
    let route = request.match_pattern().filter(|pattern| !pattern.is_empty()).unwrap_or_else(|| "unmatched".to_owned());
    let method = known_method(request);
    if let Some(metrics) = request.app_data::<Data<Metrics>>() {
        metrics.answered(&route, method, status.as_str(), took);
    }
    if let Some(sink) = request.app_data::<Data<dyn MetricSink>>().filter(|_| notes.webhook) {
        sink.push(Datum { latency: took, success: status.as_u16() < 400, replayed: notes.replayed == Some(true) });
    }
    tracing::info!(
        parent: None, // the line says all that the span would add
        request_id = notes.id.as_str(),
        trace_id = trace_id(request.headers()),
        method,
        route,
        status = status.as_u16(),
        outcome = notes.failure.as_ref().map_or("ok", |failure| failure.code),
        reason = notes.reason.map(Reason::code),
        tenant = notes.tenant.as_ref().map(TenantId::as_str),
        cache = notes.cache,
        replayed = notes.replayed,
        duration_ms = took.as_secs_f64() * 1e3,
        error = notes.failure.as_ref().and_then(|failure| failure.cause.as_deref()),
        "request"
    );
}

/// The method, or `OTHER`: callers may invent methods, and each would be a metric of its own.
fn known_method(request: &HttpRequest) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|known| *known == request.method().as_str())
        .unwrap_or("OTHER")
}

/// The trace's id out of a W3C `traceparent` (Trace Context level 1, section 3.2): `00-{trace}-{parent}-{flags}`.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let parts: Vec<_> = headers.get(TRACEPARENT)?.to_str().ok()?.split('-').collect();
    let lower_hex = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match parts[..] {
        [version, trace, parent, flags, ..] => {
            let well_formed = lower_hex(version, 2) && lower_hex(trace, 32) && lower_hex(parent, 16) && lower_hex(flags, 2);
            (well_formed && version != "ff" && (version != "00" || parts.len() == 4) && trace.bytes().any(|b| b != b'0')).then_some(trace)
        }
        _ => None,
    }
}
