//! The API's document and a page to read it by, on the admin listener. The page is Swagger UI, out of this binary: it needs
//! nothing from outside, and its browser is told to fetch nothing from there.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use actix_web::web::{Data, Path};
use utoipa_swagger_ui::{Config, serve};

use super::Ops;
use super::error::ApiError;

/// Images are those that its style sheet holds.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// In place of Swagger UI's own page, which has neither a title of ours nor a width that suits a phone.
const PAGE: &str = include_str!("docs.html");

/// `/openapi.json`
pub(super) async fn document(ops: Data<Ops>) -> HttpResponse {
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(ops.document.clone())
}

/// `/docs/…`
pub(super) async fn file(path: Path<String>) -> Result<HttpResponse, ApiError> {
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_SECURITY_POLICY, POLICY)).insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    if path.is_empty() {
        return Ok(response.insert_header((CONTENT_TYPE, "text/html; charset=utf-8")).body(PAGE));
    }
    let file = serve(&path, Arc::new(config())).map_err(|_| ApiError::Internal(None))?.ok_or(ApiError::NotFound)?;
    if file.gzpipped {
        // Whatever the browser says: there is none that does not take it.
        response.insert_header((CONTENT_ENCODING, "gzip"));
    }
    Ok(response.insert_header((CONTENT_TYPE, file.content_type)).body(file.bytes.into_owned()))
}

/// Nothing can be sent from the page: what it could send is not signed, and platforms call another listener.
fn config() -> Config<'static> {
    Config::from("../openapi.json")
        .use_base_layout()
        .validator_url("none")
        .supported_submit_methods(Vec::<String>::new())
        .query_config_enabled(false)
        .default_models_expand_depth(0)
}
