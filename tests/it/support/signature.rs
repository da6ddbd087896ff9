//! Signatures made here and not by the service's own code, so that both must be right to agree.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secret of every service that a test does not give another one.
pub(crate) const SECRET: &str = "a secret of the tests, at least 32 bytes long";

/// HMAC-SHA256.
pub(crate) fn hmac(secret: impl AsRef<[u8]>, text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_ref()).expect("any length will do");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// The signature header's value for a body.
pub(crate) fn sign(body: impl AsRef<[u8]>) -> String {
    sign_with(SECRET, body)
}

/// The same with another secret.
pub(crate) fn sign_with(secret: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> String {
    hex::encode(hmac(secret, body.as_ref()))
}
