//! What a caller and this service share.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{MIN_SECRET_LEN, Tag};
use crate::domain::Reason;

/// What makers of secrets put before one that is base64.
pub const BASE64_SECRET: &str = "whsec_";

/// A shared text, to sign with or to be sent as it is. What is kept of it can check both, and does not hold the text.
#[derive(Clone)]
pub struct Secret {
    mac: Hmac<Sha256>,
    /// The tag of the text itself, to know it by.
    own_tag: Tag,
    /// What signers make of such a text by mistake.
    misread: Arc<[(Reason, Hmac<Sha256>)]>,
}

impl Secret {
    /// `None` where it is shorter than [`MIN_SECRET_LEN`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < MIN_SECRET_LEN { None } else { Self::of_any_length(bytes, bytes) }
    }

    /// One of the length that its maker chose, and the text that spells it.
    pub fn of_any_length(bytes: &[u8], text: &[u8]) -> Option<Self> {
        let mac: Hmac<Sha256> = Hmac::new_from_slice(bytes).ok()?;
        let own_tag = Tag(mac.clone().chain_update(bytes).finalize().into_bytes().into());
        let misread = misreadings(bytes, text).into_iter().filter_map(|(reason, bytes)| Some((reason, Hmac::new_from_slice(&bytes).ok()?)));
        Some(Self { mac, own_tag, misread: misread.collect() })
    }

    /// The tag of a text, given in parts.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> Tag {
        Tag(with(&self.mac, parts).finalize().into_bytes().into())
    }

    /// Whether the tag is of this text and by this secret, in constant time.
    pub(super) fn matches(&self, tag: &Tag, parts: &[&[u8]]) -> bool {
        with(&self.mac, parts).verify_slice(&tag.0).is_ok()
    }

    /// Whether the tag of this text begins like that, in constant time.
    pub(super) fn begins(&self, start: &[u8], parts: &[&[u8]]) -> bool {
        with(&self.mac, parts).verify_truncated_left(start).is_ok()
    }

    /// Whether the text is the secret itself, in constant time.
    pub(super) fn is(&self, text: &str) -> bool {
        self.matches(&self.own_tag, &[text.as_bytes()])
    }

    /// The first mistake by which the tag is of this text and by this secret. Every one is tried.
    pub(super) fn misread(&self, tag: &Tag, parts: &[&[u8]]) -> Option<Reason> {
        self.misread.iter().fold(None, |found, (reason, mac)| {
            let is_so = with(mac, parts).verify_slice(&tag.0).is_ok();
            found.or(is_so.then_some(*reason))
        })
    }
}

fn with(mac: &Hmac<Sha256>, parts: &[&[u8]]) -> Hmac<Sha256> {
    parts.iter().fold(mac.clone(), Mac::chain_update)
}

fn misreadings(bytes: &[u8], text: &[u8]) -> Vec<(Reason, Vec<u8>)> {
    let bare = text.trim_ascii();
    let base64 = bare.strip_prefix(BASE64_SECRET.as_bytes()).unwrap_or(bare);
    let encodings = [BASE64, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD];
    let not_decoded = [text, base64].into_iter().filter(|_| bytes != text).map(|text| (Reason::SecretNotDecoded, text.to_vec()));
    let mut all: Vec<_> = not_decoded.collect();
    all.extend([[text, b"\n"].concat(), [text, b"\r\n"].concat()].map(|text| (Reason::SecretNewline, text)));
    let wrapped = [[text, b" "].concat(), [b" ", text].concat(), [b"\"", text, b"\""].concat()];
    all.extend([bare.to_vec()].into_iter().chain(wrapped).map(|text| (Reason::SecretBlanks, text)));
    all.extend(hex::decode(bare).ok().map(|decoded| (Reason::SecretHex, decoded)));
    all.extend(encodings.iter().find_map(|encoding| encoding.decode(base64).ok()).map(|decoded| (Reason::SecretBase64, decoded)));
    all.retain(|(_, read)| read != bytes);
    all
}
