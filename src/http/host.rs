//! Which `Host` the admin listener answers to.
//!
//! The listener has no authentication, and a foreign page in an operator's browser can have a name of its own point at it (DNS
//! rebinding). So the listener takes a `Host` that no public name server resolves, and the names of `admin.hosts`.

use std::net::{Ipv4Addr, Ipv6Addr};

use actix_web::Error;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HOST, HeaderMap};
use actix_web::middleware::Next;
use actix_web::web::Data;

use super::error::ApiError;
use super::ops::Ops;
use crate::config::{Hosts, is_label};

/// Refuses a request whose `Host` may be foreign. A probe may send none.
pub(super) async fn guard(request: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Result<ServiceResponse<BoxBody>, Error> {
    let is_trusted = match host(request.headers()) {
        Ok(None) => true,
        Ok(Some(host)) => request.app_data::<Data<Ops>>().is_some_and(|ops| is_trusted(host, &ops.hosts)),
        Err(Malformed) => false,
    };
    if !is_trusted {
        return Ok(request.error_response(ApiError::ForeignOrigin));
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// A `Host` that is there twice or is no text.
pub(super) struct Malformed;

/// The value of the one `Host` header.
pub(super) fn host(headers: &HeaderMap) -> Result<Option<&str>, Malformed> {
    let mut values = headers.get_all(HOST);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Malformed),
        (Some(_), Some(_)) => Err(Malformed),
    }
}

/// Whether a `Host`, with or without a port, is an IP address, `localhost`, a name of one label, or one of the names.
pub(super) fn is_trusted(host: &str, names: &Hosts) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (name, has_port) = host.split_once(':').map_or((host, true), |(name, port)| (name, is_port(port)));
    has_port && (name.parse::<Ipv4Addr>().is_ok() || is_label(name) || names.contains(name))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_public_name_server_resolves_is_trusted() {
        let names: Hosts = "Admin.example.com, other.example".parse().unwrap_or_default();
        for host in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "10.1.2.3:1",
            "[::1]",
            "[::1]:9090",
            "[::ffff:127.0.0.1]:9090",
            "localhost",
            "LOCALHOST:9090",
            "app:9090",
            "cxone-data-action",
            "my_app-1:65535",
            "admin.example.com:9090",
            "ADMIN.example.COM",
            "other.example",
        ] {
            assert!(is_trusted(host, &names), "{host}");
        }
    }

    #[test]
    fn every_other_host_is_foreign() {
        let names: Hosts = "admin.example.com".parse().unwrap_or_default();
        for host in [
            "",
            ":9090",
            "evil.example",
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "admin.example.com.evil.example",
            "admin.example.com.",
            "app.",
            "[::1].evil",
            "[::1].evil:9090",
            "[::1]evil",
            "[::1]:",
            "[::1]:x",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "[app]",
            "127.1",
            "127.0.0.1:",
            "127.0.0.1:65536",
            "127.0.0.1:+80",
            "app:9090:1",
            "app:evil.example",
            "a@b",
            "user@app:9090",
            "app/evil",
            "a b",
        ] {
            assert!(!is_trusted(host, &names), "{host}");
        }
    }
}
