//! What a request's headers prove, and why they prove nothing: the reason is for the log alone.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::web::{Bytes, Data};
use chrono::{DateTime, Utc};

use super::connections::Connection;
use super::diagnosis_budget::DiagnosisBudget;
use super::error::ApiError;
use super::request::note;
use super::without_target;
use crate::config::{API_KEY_HEADER, SigningScheme};
use crate::domain::data_action::KEY_ID_HEADER;
use crate::domain::diagnosis::{examine, examine_api_key};
use crate::domain::{Coverage, Encoding, Evidence, Keyring, Reason, SignedTarget, SigningKey, Target};

/// What a request has to show.
pub(super) enum Proof<'r> {
    /// A signature, and more of them where a sender changes its secret.
    Signature { evidence: Evidence<'r>, more: Vec<&'r str> },
    /// A text, and how a key is known by it.
    ApiKey { text: &'r str, key_id: Option<&'r str>, is_of: fn(&SigningKey, &str) -> bool },
}

impl<'r> Proof<'r> {
    /// The signature, and whatever the scheme wants signed; or the API key that is there instead, where the scheme lets it.
    pub(super) fn by_scheme(request: &'r HttpRequest, body: &'r [u8], scheme: &SigningScheme) -> Result<Self, Reason> {
        let headers = request.headers();
        let Some(signature) = one(headers, &scheme.header)? else {
            let text = instead_of_signature(headers, scheme.api_key_header.as_deref())?;
            return Self::by_api_key(headers, text, SigningKey::has_api_key);
        };
        let key_id = one(headers, KEY_ID_HEADER)?;
        let mut before = Vec::new();
        if let Some(name) = &scheme.timestamp_header {
            before.push(one(headers, name)?.ok_or(Reason::NoTimestamp)?);
        }
        let timestamp = scheme.timestamp_header.as_ref().map(|_| (0, scheme.tolerance));
        for name in &scheme.signed_headers {
            before.push(undotted(one(headers, name)?.unwrap_or_default())?);
        }
        let (target, signed_target) = (target(request), scheme.signed_target);
        let evidence = Evidence { signature, encoding: scheme.encoding, key_id, before, timestamp, body, target, signed_target };
        Ok(Self::Signature { evidence, more: Vec::new() })
    }

    /// A text that a key is known by.
    pub(super) fn by_api_key(headers: &'r HeaderMap, text: &'r str, is_of: fn(&SigningKey, &str) -> bool) -> Result<Self, Reason> {
        Ok(Self::ApiKey { text, key_id: one(headers, KEY_ID_HEADER)?, is_of })
    }

    fn check<'k>(&self, keys: &'k Keyring, now: DateTime<Utc>) -> Result<(&'k SigningKey, Coverage), ApiError> {
        match self {
            Self::Signature { evidence, more } => {
                let signer = |text: &[&[u8]]| {
                    let signatures = iter::once(&evidence.signature).chain(more);
                    let mut tags = signatures.filter_map(|signature| evidence.encoding.decode(signature));
                    tags.find_map(|tag| keys.verify(evidence.key_id, &tag, text, now))
                };
                let found = evidence.texts().find_map(|(coverage, text)| Some((signer(&text)?, coverage)));
                let found = found.ok_or(ApiError::InvalidSignature)?;
                evidence.fresh(now)?;
                Ok(found)
            }
            Self::ApiKey { text, key_id, is_of } => {
                let key = keys.find(*key_id, now, |key| is_of(key, text)).ok_or(ApiError::InvalidSignature)?;
                Ok((key, Coverage::Whole))
            }
        }
    }

    /// The same, to be diagnosed on another thread.
    fn to_owned(&self) -> OwnedProof {
        match self {
            Self::Signature { evidence, .. } => OwnedProof::Signature {
                signature: evidence.signature.to_owned(),
                encoding: evidence.encoding,
                key_id: evidence.key_id.map(str::to_owned),
                before: evidence.before.iter().map(|value| (*value).to_owned()).collect(),
                timestamp: evidence.timestamp,
                method: evidence.target.method.to_owned(),
                path: evidence.target.path.to_owned(),
                signed_target: evidence.signed_target,
            },
            Self::ApiKey { text, key_id, is_of } => {
                OwnedProof::ApiKey { text: (*text).to_owned(), key_id: key_id.map(str::to_owned), is_of: *is_of }
            }
        }
    }
}

/// What a request has shown, without its body.
enum OwnedProof {
    Signature {
        signature: String,
        encoding: Encoding,
        key_id: Option<String>,
        before: Vec<String>,
        timestamp: Option<(usize, Duration)>,
        method: String,
        path: String,
        signed_target: SignedTarget,
    },
    ApiKey {
        text: String,
        key_id: Option<String>,
        is_of: fn(&SigningKey, &str) -> bool,
    },
}

impl OwnedProof {
    /// Why it proves nothing.
    fn fault(&self, body: &[u8], keys: &Keyring, now: DateTime<Utc>) -> Option<Reason> {
        match self {
            Self::Signature { signature, encoding, key_id, before, timestamp, method, path, signed_target } => {
                let evidence = Evidence {
                    signature,
                    encoding: *encoding,
                    key_id: key_id.as_deref(),
                    before: before.iter().map(String::as_str).collect(),
                    timestamp: *timestamp,
                    body,
                    target: Target { method, path },
                    signed_target: *signed_target,
                };
                examine(&evidence, keys, now).err().map(|diagnosis| diagnosis.reason)
            }
            Self::ApiKey { text, key_id, is_of } => Some(examine_api_key(text, key_id.as_deref(), keys, is_of, now)),
        }
    }
}

/// The key that a request proves. Where it proves none, the log is told why, as far as the time for that allows.
pub(super) async fn prove<'k>(
    request: &HttpRequest,
    body: &Bytes,
    proof: Result<Proof<'_>, Reason>,
    keys: &'k Keyring,
) -> Result<&'k SigningKey, ApiError> {
    let now = Utc::now();
    let explain = |reason: Option<Reason>| note(request, |notes| notes.reason = reason);
    let proof = proof.inspect_err(|reason| explain(Some(*reason)))?;
    match proof.check(keys, now) {
        Ok((key, coverage)) => {
            prove_connection(request);
            if coverage == Coverage::NoTarget {
                without_target::tell(request);
            }
            Ok(key)
        }
        Err(error) => {
            explain(diagnose(request, body, &proof, keys, now).await);
            Err(error)
        }
    }
}

async fn diagnose(request: &HttpRequest, body: &Bytes, proof: &Proof<'_>, keys: &Keyring, now: DateTime<Utc>) -> Option<Reason> {
    let permit = request.app_data::<Data<DiagnosisBudget>>().and_then(|budget| Arc::clone(budget).permit(body));
    let Some(permit) = permit else { return Some(Reason::NotExamined) };
    let (proof, body, keys) = (proof.to_owned(), body.clone(), keys.clone());
    permit.run(move || proof.fault(&body, &keys, now)).await.flatten()
}

fn prove_connection(request: &HttpRequest) {
    if let Some(connection) = Connection::of(request) {
        connection.prove();
    }
}

/// The method and path of a request, as it came.
pub(super) fn target(request: &HttpRequest) -> Target<'_> {
    Target { method: request.method().as_str(), path: request.uri().path() }
}

fn instead_of_signature<'h>(headers: &'h HeaderMap, api_key_header: Option<&str>) -> Result<&'h str, Reason> {
    let Some(header) = api_key_header else {
        let was_sent = headers.contains_key(API_KEY_HEADER) || bearer(headers).is_ok_and(|token| token.is_some());
        return Err(if was_sent { Reason::ApiKeysOff } else { Reason::NoSignature });
    };
    match (one(headers, header)?, bearer(headers)?) {
        (Some(_), Some(_)) => Err(Reason::HeaderTwice),
        (sent, token) => sent.or(token).ok_or(Reason::NoSignature),
    }
}

impl From<Reason> for ApiError {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NoSignature | Reason::NoTimestamp | Reason::ApiKeysOff => Self::MissingSignature,
            Reason::Clock | Reason::Milliseconds => Self::StaleSignature,
            _ => Self::InvalidSignature,
        }
    }
}

/// The one value of a header. Two of them are wrong: whoever stands in between may look at the other one.
pub(super) fn one<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Reason> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Reason::Malformed),
        (Some(_), Some(_)) => Err(Reason::HeaderTwice),
    }
}

/// A signed value without a dot, so that nothing can pass from one value to the next.
pub(super) fn undotted(value: &str) -> Result<&str, Reason> {
    if value.contains('.') { Err(Reason::DotInHeader) } else { Ok(value) }
}

/// The token of `Authorization: Bearer` (RFC 6750 section 2.1). Other ways to authorize are not ours.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Reason> {
    let value = one(headers, AUTHORIZATION.as_str())?;
    Ok(value.and_then(|value| value.split_once(' ')).filter(|(way, _)| way.eq_ignore_ascii_case("Bearer")).map(|(_, token)| token.trim()))
}
