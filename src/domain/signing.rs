//! Signatures: HMAC-SHA256 (RFC 2104) of a request's raw body, the keys that may make them, and API keys for callers that cannot.

mod limits;
mod secret;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};

pub use limits::{Excess, InFlight, KeyLimits};
pub use secret::{BASE64_SECRET, Secret};

use super::{Reason, TenantId};

/// The shortest secret, in bytes: as long as the hash, as RFC 2104 section 3 asks for.
pub const MIN_SECRET_LEN: usize = 32;

/// How a signature is spelled in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Two digits a byte, upper or lower case.
    Hex,
    /// RFC 4648 section 4, with padding.
    Base64,
}

/// A whole HMAC-SHA256 tag. Its length is fixed, so a shortened one cannot be checked by mistake.
#[derive(Clone, Copy)]
pub struct Tag([u8; 32]);

impl Encoding {
    /// Reads a header's value, with or without the prefix `sha256=`. `None` where it is anything but a whole tag.
    pub fn decode(self, value: &str) -> Option<Tag> {
        let text = value.strip_prefix("sha256=").unwrap_or(value);
        let mut tag = [0; 32];
        match self {
            Self::Hex => hex::decode_to_slice(text, &mut tag).ok()?,
            Self::Base64 => tag = BASE64.decode(text).ok()?.try_into().ok()?,
        }
        Some(Tag(tag))
    }

    /// Spells a tag, without a prefix.
    pub fn encode(self, tag: &Tag) -> String {
        match self {
            Self::Hex => hex::encode(tag.0),
            Self::Base64 => BASE64.encode(tag.0),
        }
    }
}

impl FromStr for Encoding {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "hex" => Ok(Self::Hex),
            "base64" => Ok(Self::Base64),
            _ => Err("must be hex or base64"),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hex => "hex",
            Self::Base64 => "base64",
        })
    }
}

/// What a caller proves itself with, and what that is good for.
#[derive(Clone)]
pub struct SigningKey {
    id: Arc<str>,
    secret: Option<Secret>,
    api_key: Option<Secret>,
    tenants: Option<BTreeSet<TenantId>>,
    not_after: Option<DateTime<Utc>>,
    limits: KeyLimits,
}

impl SigningKey {
    /// One that can sign, for every tenant and without an end.
    pub fn new(id: String, secret: Secret) -> Self {
        Self { id: id.into(), secret: Some(secret), api_key: None, tenants: None, not_after: None, limits: KeyLimits::default() }
    }

    /// One that can sign nothing: it is sent as it is.
    pub fn of_api_key(id: String, api_key: Secret) -> Self {
        Self { id: id.into(), secret: None, api_key: Some(api_key), tenants: None, not_after: None, limits: KeyLimits::default() }
    }

    /// The same that may also be proven by this, from callers that cannot sign.
    #[must_use]
    pub fn or_api_key(self, api_key: Option<Secret>) -> Self {
        Self { api_key, ..self }
    }

    /// The same for certain tenants, `None` for all, and with the first moment at which it is no longer taken.
    #[must_use]
    pub fn limited(self, tenants: Option<BTreeSet<TenantId>>, not_after: Option<DateTime<Utc>>) -> Self {
        Self { tenants, not_after, ..self }
    }

    /// The same with limits to what it may ask for.
    #[must_use]
    pub fn within(self, limits: KeyLimits) -> Self {
        Self { limits, ..self }
    }

    /// Counts a request that the key has proven.
    pub fn admit(&self) -> Result<Option<InFlight>, Excess> {
        self.limits.admit()
    }

    /// The key's public name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same, to be kept.
    pub fn shared_id(&self) -> Arc<str> {
        Arc::clone(&self.id)
    }

    /// Whether this key may ask for that tenant's customers.
    pub fn allows(&self, tenant: &TenantId) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }

    /// Whether this key is for certain tenants only.
    pub fn is_restricted(&self) -> bool {
        self.tenants.is_some()
    }

    /// Whether the key is past its end.
    pub fn expired(&self, now: DateTime<Utc>) -> bool {
        self.not_after.is_some_and(|end| end <= now)
    }

    /// Whether it has something to sign with.
    pub fn can_sign(&self) -> bool {
        self.secret.is_some()
    }

    /// The tag of the signed text, given in parts; `None` where the key cannot sign.
    pub fn sign(&self, parts: &[&[u8]]) -> Option<Tag> {
        Some(self.secret.as_ref()?.sign(parts))
    }

    /// Whether the tag is this key's, in constant time.
    pub fn matches(&self, tag: &Tag, parts: &[&[u8]]) -> bool {
        self.secret.as_ref().is_some_and(|secret| secret.matches(tag, parts))
    }

    /// Whether the tag of the signed text begins like that, in constant time.
    pub(super) fn signs_with_start(&self, start: &[u8], parts: &[&[u8]]) -> bool {
        self.secret.as_ref().is_some_and(|secret| secret.begins(start, parts))
    }

    /// The mistake with the secret by which the tag is this key's.
    pub(super) fn misread(&self, tag: &Tag, parts: &[&[u8]]) -> Option<Reason> {
        self.secret.as_ref().and_then(|secret| secret.misread(tag, parts))
    }

    /// Whether the text is its secret, in constant time.
    pub(super) fn has_secret(&self, text: &str) -> bool {
        self.secret.as_ref().is_some_and(|secret| secret.is(text))
    }

    /// Whether the text is its API key, in constant time.
    pub fn has_api_key(&self, text: &str) -> bool {
        self.api_key.as_ref().is_some_and(|api_key| api_key.is(text))
    }

    /// Whether the text is what this key is sent as: its API key, or its secret where it has none; in constant time.
    pub fn is(&self, text: &str) -> bool {
        self.api_key.as_ref().or(self.secret.as_ref()).is_some_and(|sent| sent.is(text))
    }

    /// A secret for another purpose, which tells nothing of this one. A key that gets an API key beside its secret keeps it.
    pub fn derive(&self, purpose: &str) -> Option<[u8; 32]> {
        let root = self.secret.as_ref().or(self.api_key.as_ref())?;
        Some(root.sign(&[b"cxone-data-action: ", purpose.as_bytes()]).0)
    }
}

impl fmt::Debug for SigningKey {
    /// Without what it is proven by.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .field("tenants", &self.tenants)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// All keys that may sign, several at once while secrets are rotated.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Arc<[SigningKey]>,
    /// Whether callers know the keys by their ids.
    named: bool,
}

impl Keyring {
    /// The settings see to it that no two keys share an id, a secret or an API key.
    pub fn new(keys: Vec<SigningKey>) -> Self {
        Self { keys: keys.into(), named: true }
    }

    /// One key that callers have no name for: whatever they call it, it is this one.
    pub fn unnamed(key: Option<SigningKey>) -> Self {
        Self { keys: key.into_iter().collect(), named: false }
    }

    /// Whether callers know the keys by their ids.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// Every key, the expired ones included.
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    /// The key that made this tag: the named one, or any where none is named. Tries every key whatever comes, so that the
    /// time taken tells nothing about which keys there are.
    pub fn verify(&self, key_id: Option<&str>, tag: &Tag, parts: &[&[u8]], now: DateTime<Utc>) -> Option<&SigningKey> {
        self.find(key_id, now, |key| key.matches(tag, parts))
    }

    /// Whether any key has an API key.
    pub fn takes_api_keys(&self) -> bool {
        self.keys.iter().any(|key| key.api_key.is_some())
    }

    /// Whether a caller may mean this key by that id, or by none.
    pub(super) fn goes_by(&self, key: &SigningKey, key_id: Option<&str>) -> bool {
        !self.named | key_id.is_none_or(|id| id == key.id())
    }

    /// The key of which that is so, of those that a caller may mean now; again, every key is tried.
    pub fn find(&self, key_id: Option<&str>, now: DateTime<Utc>, proven: impl Fn(&SigningKey) -> bool) -> Option<&SigningKey> {
        self.keys.iter().fold(None, |found, key| {
            let eligible = self.goes_by(key, key_id) & !key.expired(now);
            if proven(key) & eligible { Some(key) } else { found }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring() -> Keyring {
        let keys = [("old", b'o', Some(DateTime::UNIX_EPOCH)), ("a", b'a', None), ("b", b'b', None)];
        let key = |(id, byte, end): (&str, u8, _)| Some(SigningKey::new(id.to_owned(), Secret::new(&[byte; 32])?).limited(None, end));
        Keyring::new(keys.into_iter().filter_map(key).collect())
    }

    fn verified(key_id: Option<&str>, tag: &Tag, body: &[u8]) -> Option<String> {
        ring().verify(key_id, tag, &[body], Utc::now()).map(|key| key.id().to_owned())
    }

    #[test]
    fn any_live_key_signs_unless_one_is_named() {
        let tags: Vec<_> = ring().keys().iter().filter_map(|key| key.sign(&[b"body"])).collect();
        assert_eq!(verified(None, &tags[0], b"body"), None, "expired");
        assert_eq!(verified(None, &tags[2], b"body").as_deref(), Some("b"));
        assert_eq!(verified(Some("b"), &tags[2], b"body").as_deref(), Some("b"));
        assert_eq!(verified(Some("a"), &tags[2], b"body"), None);
        assert_eq!(verified(Some("c"), &tags[2], b"body"), None);
    }

    #[test]
    fn short_secrets_make_no_key() {
        assert!(Secret::new(&[7; 31]).is_none());
    }

    #[test]
    fn an_api_key_signs_nothing_and_a_secret_is_no_api_key() {
        let [secret, api_key] = ["s", "a"].map(|text| text.repeat(32));
        let made = |text: &str| Secret::new(text.as_bytes());
        let both = made(&secret).map(|made| SigningKey::new("both".into(), made)).map(|key| key.or_api_key(made(&api_key)));
        let alone = made(&api_key).map(|made| SigningKey::of_api_key("alone".into(), made));
        let (both, alone) = both.zip(alone).unwrap_or_else(|| unreachable!("both are long enough"));
        assert!(both.has_api_key(&api_key) && !both.has_api_key(&secret));
        assert!(both.is(&api_key) && !both.is(&secret), "whoever has an API key is not known by the secret");
        assert!(alone.sign(&[b"body"]).is_none());
        let tag = made(&api_key).map(|made| made.sign(&[b"body"]));
        assert!(tag.is_some_and(|tag| !alone.matches(&tag, &[b"body"]) && !both.matches(&tag, &[b"body"])));
        assert_ne!(both.derive("x"), alone.derive("x"));
    }

    #[test]
    fn a_tag_is_read_in_either_case_with_or_without_its_prefix_and_only_whole() {
        let hex = "AB".repeat(32);
        for good in [hex.clone(), hex.to_lowercase(), format!("sha256={hex}")] {
            assert!(Encoding::Hex.decode(&good).is_some(), "{good}");
        }
        for bad in ["", "sha256=", &hex[2..], &format!("{hex}00"), &format!("{hex} "), &format!("sha1={hex}")] {
            assert!(Encoding::Hex.decode(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn no_changed_body_and_no_changed_tag_is_taken(body in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0u8..8, in_tag in any::<bool>()) {
            let ring = ring();
            let Some(mut tag) = ring.keys()[1].sign(&[&body]) else { return Err(TestCaseError::fail("it can sign")) };
            prop_assert!(ring.verify(None, &tag, &[&body], Utc::now()).is_some());
            let mut changed = body.clone();
            if in_tag || body.is_empty() {
                tag.0[at.index(32)] ^= 1 << bit;
            } else {
                changed[at.index(body.len())] ^= 1 << bit;
            }
            prop_assert!(ring.verify(None, &tag, &[&changed], Utc::now()).is_none());
        }
    }
}
