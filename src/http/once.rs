//! What routes have in common that do work once: how their keys come in, and how their answers go out.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse};
use anyhow::anyhow;

use super::error::{ApiError, FieldError};
use super::request::note;
use crate::app::once::Answer;
use crate::domain::canonical::Unclear;
use crate::domain::{Hasher, SigningKey};

/// Says that an answer was given before.
pub(super) const REPLAYED_HEADER: &str = "Idempotent-Replayed";

/// The longest key that a header may hold, in bytes.
pub(super) const MAX_KEY: usize = 255;

/// What keys are hashed with: what the settings say, or else what the caller's key gives.
pub(super) fn hasher<'h>(configured: Option<&'h Hasher>, caller: &SigningKey) -> Result<Cow<'h, Hasher>, ApiError> {
    match configured {
        Some(hasher) => Ok(Cow::Borrowed(hasher)),
        None => Hasher::of(caller).map(Cow::Owned).ok_or(ApiError::Internal(None)),
    }
}

/// The one value of the header that holds the key.
pub(super) fn key_header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ApiError> {
    let invalid = |code, detail: String| ApiError::invalid_input(vec![FieldError { pointer: String::new(), code, detail }]);
    let mut values = headers.get_all(name);
    let (Some(value), None) = (values.next(), values.next()) else {
        let twice = headers.contains_key(name);
        return if twice { Err(invalid("duplicate_header", format!("the header {name} is there twice"))) } else { Ok(None) };
    };
    match value.to_str() {
        Ok(value) if value.len() <= MAX_KEY && value.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(value)),
        _ => Err(invalid("invalid_header", format!("the header {name} must be at most {MAX_KEY} visible ASCII characters"))),
    }
}

impl From<Unclear> for ApiError {
    fn from(unclear: Unclear) -> Self {
        match unclear {
            Unclear::NotJson => Self::InvalidJson,
            Unclear::At { pointer, why } => Self::invalid_input(vec![FieldError { pointer, code: why.as_str(), detail: why.to_string() }]),
        }
    }
}

/// The work's answer, or an earlier one's, which says so. A record that an earlier release stored is held to HTTP too.
pub(super) fn respond(request: &HttpRequest, answer: Answer) -> Result<HttpResponse, ApiError> {
    let Answer { reply, replayed } = answer;
    note(request, |notes| notes.replayed = Some(replayed));
    let invalid = |status: u16| ApiError::UpstreamAnswered(anyhow!("status {status} is not that of a final response"));
    let stored = reply.status;
    let reply = reply.sendable().ok_or_else(|| invalid(stored))?;
    let status = StatusCode::from_u16(reply.status).map_err(|_| invalid(stored))?;
    let mut response = HttpResponse::build(status);
    for (name, value) in &reply.headers {
        response.insert_header((name.as_str(), value.as_str()));
    }
    if replayed {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    Ok(match status {
        // Without a Content-Length: 204 has none, and that of a 304 would be the length of another response.
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => response.finish(),
        _ => response.body(reply.body),
    })
}
