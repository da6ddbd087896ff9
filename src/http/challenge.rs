//! What a 401 says of the proofs that its route takes (RFC 9110 section 11.6.1). Clients such as Java's `HttpClient` throw a 401
//! without a challenge away. `Basic` is never among them, so that no browser asks for a password.

use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, WWW_AUTHENTICATE};
use actix_web::web::Data;

use super::webhook::Webhook;
use crate::config::{Auth, SigningScheme};

const REALM: &str = env!("CARGO_PKG_NAME");

/// Adds the challenges of the route to a 401 of this service.
pub(super) fn added<B>(mut response: ServiceResponse<B>) -> ServiceResponse<B> {
    if response.status() != StatusCode::UNAUTHORIZED {
        return response;
    }
    let request = response.request();
    let challenges = match (request.app_data::<Data<Webhook>>(), request.app_data::<Data<SigningScheme>>()) {
        (Some(webhook), _) => of_auth(&webhook.auth),
        (None, Some(scheme)) => of_scheme(scheme),
        (None, None) => Vec::new(),
    };
    for challenge in challenges.into_iter().filter_map(|challenge| HeaderValue::from_str(&challenge).ok()) {
        response.headers_mut().append(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// The challenges of a webhook.
pub(super) fn of_auth(auth: &Auth) -> Vec<String> {
    match auth {
        Auth::Hmac { scheme, .. } => of_scheme(scheme),
        Auth::ApiKey { header, .. } => vec![by_header("ApiKey", header)],
        Auth::StandardWebhooks { .. } => vec![by_header("HMAC-SHA256", "webhook-signature")],
    }
}

/// The challenges of a route whose requests are signed.
pub(super) fn of_scheme(scheme: &SigningScheme) -> Vec<String> {
    let bearer = scheme.api_key_header.iter().map(|_| format!(r#"Bearer realm="{REALM}""#));
    [by_header("HMAC-SHA256", &scheme.header)].into_iter().chain(bearer).collect()
}

fn by_header(scheme: &str, header: &str) -> String {
    format!(r#"{scheme} realm="{REALM}", header="{header}""#)
}
