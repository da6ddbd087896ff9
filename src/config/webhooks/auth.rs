//! `webhooks[].auth`: how callers of a route prove who they are.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::ExposeSecret;

use super::super::reader::Reader;
use super::super::signing::{API_KEY_HEADER, Signing, SigningScheme, limited, limits};
use super::{Auth, SIGNATURE_HEADER, headers, one_of, too_short};
use crate::domain::signing::{BASE64_SECRET, KeyLimits, MIN_SECRET_LEN};
use crate::domain::{Encoding, Keyring, Secret, SignedTarget, SigningKey};

/// No shorter secret makes a signature (Standard Webhooks 1.0.0, "Signature scheme").
const MIN_STANDARD_SECRET_LEN: usize = 24;

pub(super) fn read(r: &mut Reader, route: &str, path: &str, signing: &Signing) -> Option<Auth> {
    let name = format!("{route}.auth");
    // What executes a data action is worth a captured signature.
    let executes = r.has(&format!("{route}.action.genesys"));
    let unless_set = if executes { SignedTarget::Accept } else { SignedTarget::Off };
    let kind = one_of(r, &name, &["hmac", "api_key", "standard_webhooks"])?;
    let name = format!("{name}.{kind}");
    r.empty_table(&name);
    let limited = limited(r, &name);
    let limits = limits(r, &name);
    let keys = keys(r, &format!("{name}.secret"), path, kind == "standard_webhooks", signing, limits);
    if keys.is_named() {
        let problem = "is for a secret of the route's own; a signing key has its own limits";
        for name in &limited {
            r.complain(name, problem);
        }
    }
    Some(match kind {
        "hmac" => Auth::Hmac {
            scheme: SigningScheme {
                header: r.header(&format!("{name}.header"), Some(SIGNATURE_HEADER)).unwrap_or_default(),
                encoding: r.parsed(&format!("{name}.encoding"), Encoding::Hex),
                signed_headers: headers(r, &format!("{name}.signed_headers")),
                timestamp_header: r.header(&format!("{name}.timestamp_header"), None),
                tolerance: r.duration(&format!("{name}.tolerance"), Duration::from_mins(5)),
                signed_target: r.parsed(&format!("{name}.signed_target"), unless_set),
                api_key_header: None,
            },
            keys,
        },
        "api_key" => Auth::ApiKey { header: r.header(&format!("{name}.header"), Some(API_KEY_HEADER)).unwrap_or_default(), keys },
        _ => Auth::StandardWebhooks { tolerance: r.duration(&format!("{name}.tolerance"), Duration::from_mins(5)), keys },
    })
}

/// The route's own key, which goes by the route's path in the audit log, or those that sign everything else.
fn keys(r: &mut Reader, name: &str, path: &str, standard: bool, signing: &Signing, limits: KeyLimits) -> Keyring {
    let Some(secret) = r.secret(name) else { return signing.keys.clone() };
    let text = secret.expose_secret();
    let (bytes, least) = match text.strip_prefix(BASE64_SECRET).filter(|_| standard) {
        Some(base64) => {
            let Ok(bytes) = BASE64.decode(base64) else {
                r.complain(name, format!("must be base64 after {BASE64_SECRET}"));
                return Keyring::unnamed(None);
            };
            (bytes, MIN_STANDARD_SECRET_LEN)
        }
        None if standard => (text.as_bytes().to_vec(), MIN_STANDARD_SECRET_LEN),
        None => (text.as_bytes().to_vec(), MIN_SECRET_LEN),
    };
    if bytes.len() < least {
        r.complain(name, too_short(least));
    }
    if signing.is_api_key(&secret) {
        r.complain(name, "is an API key");
    }
    Keyring::unnamed(Secret::of_any_length(&bytes, text.as_bytes()).map(|secret| SigningKey::new(path.to_owned(), secret).within(limits)))
}
