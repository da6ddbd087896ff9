//! What a caller and this service share.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{MIN_SECRET_LEN, Tag};

/// A shared text, to sign with or to be sent as it is. What is kept of it can check both, and does not hold the text.
#[derive(Clone)]
pub struct Secret {
    mac: Hmac<Sha256>,
    /// The tag of the text itself, to know it by.
    own_tag: Tag,
}

impl Secret {
    /// `None` where it is shorter than [`MIN_SECRET_LEN`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < MIN_SECRET_LEN { None } else { Self::of_any_length(bytes) }
    }

    /// One of the length that its maker chose.
    pub fn of_any_length(bytes: &[u8]) -> Option<Self> {
        let mac: Hmac<Sha256> = Hmac::new_from_slice(bytes).ok()?;
        let own_tag = Tag(mac.clone().chain_update(bytes).finalize().into_bytes().into());
        Some(Self { mac, own_tag })
    }

    /// The tag of a text, given in parts.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> Tag {
        Tag(self.mac_of(parts).finalize().into_bytes().into())
    }

    /// Whether the tag is of this text and by this secret, in constant time.
    pub(super) fn matches(&self, tag: &Tag, parts: &[&[u8]]) -> bool {
        self.mac_of(parts).verify_slice(&tag.0).is_ok()
    }

    /// Whether the text is the secret itself, in constant time.
    pub(super) fn is(&self, text: &str) -> bool {
        self.matches(&self.own_tag, &[text.as_bytes()])
    }

    fn mac_of(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}
