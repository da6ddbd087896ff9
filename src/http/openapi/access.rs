//! How callers prove who they are.

use std::collections::BTreeMap;
use std::iter;

use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{RefOr, Required};

use super::parts::{any_text, header_parameter};
use crate::config::{Auth, SigningScheme};
use crate::domain::data_action::KEY_ID_HEADER;
use crate::domain::{Encoding, SignedTarget};

/// The components of all routes' ways, by name.
pub(super) type Schemes = BTreeMap<String, RefOr<SecurityScheme>>;

/// The ways that a route knows, any one of which will do.
pub(super) struct Access {
    /// By what they are called, where nothing else is called so.
    schemes: Vec<(String, SecurityScheme)>,
    /// What is sent beside.
    parameters: Vec<Parameter>,
}

impl Access {
    pub(super) fn of_scheme(scheme: &SigningScheme) -> Self {
        let SigningScheme { header, encoding, signed_headers, timestamp_header, signed_target, api_key_header, .. } = scheme;
        let spelled = match encoding {
            Encoding::Hex => "hexadecimal",
            Encoding::Base64 => "base64",
        };
        let before: Vec<_> = timestamp_header.iter().chain(signed_headers).map(|name| format!("{{{name}}}.")).collect();
        let before = before.concat();
        let target = if signed_target.is_wanted() { "POST {path}." } else { "" };
        let without = format!(" Without `{target}`, it is accepted for a while.");
        let transition = if *signed_target == SignedTarget::Accept { without.as_str() } else { "" };
        let text = format!("`{target}{before}{{body}}`");
        let description = format!("The HMAC-SHA256 of {text} in {spelled}; a prefix `sha256=` is fine.{transition} Exactly once.");
        let mut schemes = vec![by_header(header, &description)];
        if let Some(name) = api_key_header {
            schemes.push(by_header(name, "An API key, from callers that cannot sign. Without a signature beside it."));
            let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The same API key.")).build();
            schemes.push(("Bearer".to_owned(), SecurityScheme::Http(bearer)));
        }
        // An API key does without a timestamp.
        let needed = if api_key_header.is_none() { Required::True } else { Required::False };
        let timestamp = timestamp_header.iter().map(|name| (name, needed.clone(), "Seconds since 1970; signed with the body."));
        let signed = signed_headers.iter().map(|name| (name, Required::False, "Signed with the body; without a dot."));
        let parameters = timestamp.chain(signed).map(|(name, required, why)| header_parameter(name, required, why, any_text()));
        Self { schemes, parameters: parameters.chain([key_id()]).collect() }
    }

    pub(super) fn of_auth(auth: &Auth) -> Self {
        match auth {
            Auth::Hmac { scheme, .. } => Self::of_scheme(scheme),
            Auth::ApiKey { header, .. } => {
                Self { schemes: vec![by_header(header, "The route's secret, or a key's.")], parameters: vec![key_id()] }
            }
            Auth::StandardWebhooks { .. } => {
                let description = "As Standard Webhooks 1.0.0 says: `v1,` and the HMAC-SHA256 of `{id}.{timestamp}.{body}` in base64.";
                let id = header_parameter("webhook-id", Required::True, "Of the message; without a dot.", any_text());
                let timestamp = header_parameter("webhook-timestamp", Required::True, "Seconds since 1970.", any_text());
                Self { schemes: vec![by_header("webhook-signature", description)], parameters: vec![id, timestamp] }
            }
        }
    }

    /// Asks it of whoever calls the operation.
    pub(super) fn require(&self, operation: &mut Operation, schemes: &mut Schemes) {
        let any = self.schemes.iter().map(|(name, scheme)| SecurityRequirement::new(component(schemes, name, scheme), [""; 0]));
        operation.security = Some(any.collect());
        let known = operation.parameters.get_or_insert_default();
        for parameter in &self.parameters {
            let is_known = |known: &RefOr<Parameter>| matches!(known, RefOr::T(known) if known.name.eq_ignore_ascii_case(&parameter.name));
            if !known.iter().any(is_known) {
                known.push(parameter.clone().into());
            }
        }
    }
}

/// The name of the component that is this scheme. Two routes may have one header, and want it made in two ways.
fn component(schemes: &mut Schemes, name: &str, scheme: &SecurityScheme) -> String {
    let scheme = RefOr::T(scheme.clone());
    let mut names = iter::once(name.to_owned()).chain((2..).map(|nth| format!("{name}-{nth}")));
    let name = names.find(|name| schemes.get(name).is_none_or(|known| *known == scheme)).unwrap_or_default();
    schemes.insert(name.clone(), scheme);
    name
}

/// A component may be named by less than a header may.
fn by_header(header: &str, description: &str) -> (String, SecurityScheme) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = header.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    (name, SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(header, description))))
}

fn key_id() -> Parameter {
    header_parameter(KEY_ID_HEADER, Required::False, "Names the key. Not needed where one alone can match.", any_text())
}
