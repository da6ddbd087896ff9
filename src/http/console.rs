//! The console: one page on the admin listener for a person who looks, without resources from elsewhere.
//!
//! The listener asks nobody who they are, and a browser may have been led there by a foreign page. So the console answers only to
//! a `Host` that no name server can point at it, its GETs change nothing, and what it takes is a lookup that its own page sends,
//! which is proven as every lookup is: by a signature made in the browser, of whose secret nothing ever arrives here.

mod state;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{Error, HttpResponse, Resource};
use tracing_actix_web::TracingLogger;

use super::data_action;
use super::error::{self, ApiError};
use super::host;
use super::ops::Ops;
use super::request::{self, RequestSpan};
use crate::config::Hosts;
use crate::domain::data_action::PATH;
pub use state::Console;

/// What a browser may do with the page: load its own two files, and ask its own origin.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const STRICT: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
    (header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
];

/// Mounts the page, its files, its numbers, and the lookup that it sends.
pub(super) fn mount(config: &mut ServiceConfig) {
    let lookup = web::resource(PATH)
        .default_service(error::method_not_allowed("POST"))
        .route(web::post().to(data_action::post))
        .wrap(from_fn(request::finish))
        .wrap(TracingLogger::<RequestSpan>::new());
    let files = web::scope("/console")
        .service(file("/console.css", "text/css; charset=utf-8", include_str!("console/console.css")))
        .service(file("/console.js", "text/javascript; charset=utf-8", include_str!("console/console.js")))
        .service(file("/icon.svg", "image/svg+xml", include_str!("console/icon.svg")))
        .service(get_only("/state.json").route(web::get().to(state)))
        .service(lookup)
        .default_service(web::to(error::not_found))
        .wrap(from_fn(guard));
    let page = file("/", "text/html; charset=utf-8", include_str!("console/index.html")).wrap(from_fn(guard));
    config.service(page).service(files);
}

fn get_only(path: &str) -> Resource {
    web::resource(path).default_service(error::method_not_allowed("GET"))
}

fn file(path: &str, content_type: &'static str, text: &'static str) -> Resource {
    get_only(path).route(web::get().to(move || async move { HttpResponse::Ok().content_type(content_type).body(text) }))
}

/// The numbers, as JSON.
async fn state(ops: Data<Ops>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(ops.console.state(&ops).await)
}

/// Lets in who is meant to come in, and tells the browser to be strict.
async fn guard(request: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Result<ServiceResponse<BoxBody>, Error> {
    let hosts = request.app_data::<Data<Ops>>().map(|ops| ops.hosts.clone()).unwrap_or_default();
    if !is_own(request.method(), request.headers(), &hosts) {
        return Ok(request.error_response(ApiError::ForeignOrigin));
    }
    let mut response = next.call(request).await?.map_into_boxed_body();
    for (name, value) in STRICT {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Whether the page that asks can only be our own: its `Host` is there and not foreign, and its `Origin` is that host.
fn is_own(method: &Method, headers: &HeaderMap, hosts: &Hosts) -> bool {
    let Ok(Some(host)) = host::host(headers) else { return false };
    let own_origin = match headers.get(header::ORIGIN) {
        Some(origin) => {
            origin.to_str().is_ok_and(|origin| ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host)))
        }
        // Browsers name the origin of whatever may change something.
        None => method.is_safe(),
    };
    host::is_trusted(host, hosts) && own_origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(method: &Method, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("")));
        if let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(origin).ok()) {
            headers.insert(header::ORIGIN, origin);
        }
        is_own(method, &headers, &Hosts::default())
    }

    #[test]
    fn addresses_and_localhost_are_own_and_names_are_not() {
        for host in ["127.0.0.1:9090", "localhost:9090", "LOCALHOST", "[::1]:9090", "10.1.2.3"] {
            assert!(own(&Method::GET, host, None), "{host}");
        }
        for host in ["evil.example:9090", "127.0.0.1.evil.example", "localhost.evil.example", "a@b:c:d", ""] {
            assert!(!own(&Method::GET, host, None), "{host}");
        }
    }

    #[test]
    fn what_may_change_something_comes_from_the_own_page() {
        let host = "127.0.0.1:9090";
        assert!(own(&Method::POST, host, Some("http://127.0.0.1:9090")));
        assert!(own(&Method::POST, host, Some("https://127.0.0.1:9090")));
        for origin in [None, Some("null"), Some("http://127.0.0.1"), Some("http://127.0.0.1:9091"), Some("http://evil.example")] {
            assert!(!own(&Method::POST, host, origin), "{origin:?}");
        }
        assert!(!own(&Method::GET, host, Some("http://evil.example")));
    }
}
