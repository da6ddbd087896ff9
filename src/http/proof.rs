//! What a request's headers prove, and why they prove nothing: the reason is for the log alone.

use std::cell::Cell;
use std::iter;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::web::Data;
use chrono::{DateTime, Utc};

use super::error::ApiError;
use super::request::note;
use super::without_target;
use crate::config::{API_KEY_HEADER, SigningScheme};
use crate::domain::data_action::KEY_ID_HEADER;
use crate::domain::diagnosis::{examine, examine_api_key};
use crate::domain::{Coverage, Evidence, Keyring, Reason, SigningKey, Target};

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

    fn fault(&self, keys: &Keyring, now: DateTime<Utc>) -> Option<Reason> {
        match self {
            Self::Signature { evidence, .. } => examine(evidence, keys, now).err().map(|diagnosis| diagnosis.reason),
            Self::ApiKey { text, key_id, is_of } => Some(examine_api_key(text, *key_id, keys, is_of, now)),
        }
    }
}

/// The key that a request proves. Where it proves none, the log is told why, as far as that costs little.
pub(super) fn prove<'k>(
    request: &HttpRequest,
    body: &[u8],
    proof: Result<Proof<'_>, Reason>,
    keys: &'k Keyring,
) -> Result<&'k SigningKey, ApiError> {
    let now = Utc::now();
    let explain = |reason: Option<Reason>| note(request, |notes| notes.reason = reason);
    let proof = proof.inspect_err(|reason| explain(Some(*reason)))?;
    let checked = proof.check(keys, now).inspect_err(|_| {
        let may_examine = request.app_data::<Data<Examinations>>().is_some_and(|examinations| examinations.allow(body));
        explain(if may_examine { proof.fault(keys, now) } else { Some(Reason::NotExamined) });
    });
    let (key, coverage) = checked?;
    if coverage == Coverage::NoTarget {
        without_target::tell(request);
    }
    Ok(key)
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

/// How much work a thread does to explain refusals: so many in a second, none for a body longer than this. Whoever sends wrong
/// signatures in numbers shall not have more work done than it takes to refuse them.
pub(super) struct Examinations {
    second: Cell<Instant>,
    used: Cell<u32>,
}

impl Examinations {
    const A_SECOND: u32 = 10;
    const MAX_BODY: usize = 16 << 10;

    /// None so far.
    pub(super) fn new() -> Self {
        Self { second: Cell::new(Instant::now()), used: Cell::new(0) }
    }

    fn allow(&self, body: &[u8]) -> bool {
        if self.second.get().elapsed() >= Duration::from_secs(1) {
            self.second.set(Instant::now());
            self.used.set(0);
        }
        let allowed = body.len() <= Self::MAX_BODY && self.used.get() < Self::A_SECOND;
        self.used.set(self.used.get() + u32::from(allowed));
        allowed
    }
}
