//! `POST /data-action`: the batch lookup of NICE CXone.

mod answer;
mod body;
#[doc(hidden)]
pub mod pieces;

use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use super::Bounds;
use super::error::ApiError;
use super::request::{note, request_id};
use super::signed::Signed;
use crate::app::lookup::{CacheUse, Lookup, LookupRequest};
use crate::domain::RequestId;
use body::ACTION;
pub(super) use body::Body;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Looks up, and answers what fits.
pub(super) async fn post(
    request: HttpRequest,
    signed: Signed<Body>,
    lookup: Data<Lookup>,
    bounds: Data<Bounds>,
) -> Result<HttpResponse, ApiError> {
    let (cache, json) = answer(&lookup, &bounds, signed, request_id(&request)).await?;
    note(&request, |notes| notes.cache = Some(cache));
    let (json_type, cache) = (HeaderValue::from_static("application/json"), HeaderValue::from_static(cache));
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, json_type)).insert_header((X_CACHE, cache)).body(json))
}

/// How the cache served, and the answer's JSON.
pub(super) async fn answer(
    lookup: &Lookup,
    bounds: &Bounds,
    signed: Signed<Body>,
    request_id: RequestId,
) -> Result<(&'static str, Vec<u8>), ApiError> {
    let Signed { key_id, value: Body { tenant, batch, contact_id } } = signed;
    let found = lookup.run(LookupRequest { tenant, batch, action: ACTION, key_id, request_id, contact_id }).await?;
    let cache = match found.cache {
        CacheUse::Hit => "hit",
        CacheUse::Partial => "partial",
        CacheUse::Miss => "miss",
        CacheUse::Bypass => "bypass",
    };
    Ok((cache, answer::render(&found, bounds.max_response_bytes)))
}
