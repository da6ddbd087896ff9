//! Who calls a webhook: proven by a signature, by a secret, or as Standard Webhooks 1.0.0 has it.

use actix_web::HttpRequest;

use crate::config::Auth;
use crate::domain::{Encoding, Evidence, Keyring, Reason, SignedTarget, SigningKey};
use crate::http::proof::{Proof, one, target, undotted};

/// Signatures of one request that are looked at: a sender that changes its secret sends two.
const MAX_SIGNATURES: usize = 8;

/// What a request has to show on a route, and whose it may be.
pub(super) fn proof<'r, 'k>(request: &'r HttpRequest, body: &'r [u8], auth: &'k Auth) -> (Result<Proof<'r>, Reason>, &'k Keyring) {
    let headers = request.headers();
    match auth {
        Auth::Hmac { scheme, keys } => (Proof::by_scheme(request, body, scheme), keys),
        Auth::ApiKey { header, keys } => {
            let text = one(headers, header).and_then(|text| text.ok_or(Reason::NoSignature));
            (text.and_then(|text| Proof::by_api_key(headers, text, SigningKey::is)), keys)
        }
        Auth::StandardWebhooks { tolerance, keys } => {
            let standard = || {
                let id = one(headers, "webhook-id")?.ok_or(Reason::NoSignature)?;
                let timestamp = one(headers, "webhook-timestamp")?.ok_or(Reason::NoTimestamp)?;
                let signatures = one(headers, "webhook-signature")?.ok_or(Reason::NoSignature)?;
                let mut signatures = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,")).take(MAX_SIGNATURES);
                let evidence = Evidence {
                    signature: signatures.next().ok_or(Reason::Prefix)?,
                    encoding: Encoding::Base64,
                    key_id: None,
                    before: vec![undotted(id)?, timestamp],
                    timestamp: Some((1, *tolerance)),
                    body,
                    target: target(request),
                    signed_target: SignedTarget::Off,
                };
                Ok(Proof::Signature { evidence, more: signatures.collect() })
            };
            (standard(), keys)
        }
    }
}
