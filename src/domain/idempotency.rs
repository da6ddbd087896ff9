//! What makes two requests the same, and what is kept of the first one's answer.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use super::canonical::{Unclear, canonical, canonical_at, value_at};
use super::{FlatInput, SigningKey};

/// What a request's key is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The body as it was sent.
    RawBody,
    /// What the body means: RFC 8785.
    CanonicalBody,
    /// A header that the caller sets.
    Header(String),
    /// Values of the body, each by the member names and indices that lead to it.
    Fields(Vec<Vec<String>>),
}

/// Why a request has no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// What it is made from is not there.
    Missing,
    /// The body does not say it in one way only.
    Unclear(Unclear),
}

impl KeySource {
    /// The header that is needed.
    pub fn header(&self) -> Option<&str> {
        if let Self::Header(name) = self { Some(name) } else { None }
    }

    /// Whether payloads are compared by what they mean, which takes the body's canonical form. A key of raw bytes needs none: its
    /// payload is the same by itself.
    pub fn needs_canonical(&self) -> bool {
        *self != Self::RawBody
    }

    /// The parts of the key, the first one naming the source. `header` is the value of [`Self::header`], `json` the
    /// body's canonical form.
    fn parts<'p>(
        &self,
        header: Option<&'p str>,
        body: &'p [u8],
        json: Option<&'p Result<String, Unclear>>,
    ) -> Result<Vec<Cow<'p, [u8]>>, NoKey> {
        Ok(match self {
            Self::RawBody => vec![Cow::Borrowed(b"raw"), body.into()],
            Self::CanonicalBody => {
                let json = json.ok_or(NoKey::Missing)?.as_ref().map_err(|unclear| NoKey::Unclear(unclear.clone()))?;
                vec![Cow::Borrowed(b"canonical"), json.as_bytes().into()]
            }
            Self::Header(_) => {
                let value = header.filter(|value| !value.is_empty()).ok_or(NoKey::Missing)?;
                vec![Cow::Borrowed(b"header"), value.as_bytes().into()]
            }
            Self::Fields(paths) => {
                let mut parts = vec![Cow::Borrowed(&b"fields"[..])];
                for path in paths {
                    let value = match json {
                        Some(Ok(json)) => value_at(json, path).map(Cow::Borrowed),
                        // What is ambiguous may be elsewhere.
                        Some(Err(_)) | None => canonical_at(body, path).map_err(NoKey::Unclear)?.map(Cow::Owned),
                    };
                    parts.push(match value.ok_or(NoKey::Missing)? {
                        Cow::Borrowed(value) => value.as_bytes().into(),
                        Cow::Owned(value) => value.into_bytes().into(),
                    });
                }
                parts
            }
        })
    }
}

/// A digest that shows nothing of what it was made from to whoever has not its secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex, &mut bytes).ok().map(|()| Self(bytes))
    }

    /// Reads what [`Self::as_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// All 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes digests: HMAC-SHA256 of parts that are each told with their length, so that none can pass for part of another.
#[derive(Clone)]
pub struct Hasher(Hmac<Sha256>);

impl fmt::Debug for Hasher {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

impl Hasher {
    /// With a secret of its own. `None` where it is shorter than [`super::signing::MIN_SECRET_LEN`].
    pub fn new(secret: &[u8]) -> Option<Self> {
        let long_enough = secret.len() >= super::signing::MIN_SECRET_LEN;
        long_enough.then(|| Hmac::new_from_slice(secret).ok().map(Self)).flatten()
    }

    /// With a secret drawn from a signing key's: instances that share the key agree without another setting.
    pub fn of(key: &SigningKey) -> Option<Self> {
        Hmac::new_from_slice(&key.derive("idempotency")?).ok().map(Self)
    }

    fn digest<'p>(&self, parts: impl IntoIterator<Item = &'p [u8]>) -> Digest {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Digest(mac.finalize().into_bytes().into())
    }
}

/// Which piece of work a request asks for, and with what payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The route: its path.
    pub scope: Arc<str>,
    /// The id of the caller's key. Part of the hash; the key store and places are shared out by it.
    pub caller: Arc<str>,
    /// The same for all requests that ask for one piece of work.
    pub hash: Digest,
    /// The same for all of those that are right: JSON that means the same, or the same bytes.
    pub fingerprint: Digest,
}

impl IdempotencyKey {
    /// The key of a caller's request to a route.
    pub fn new(
        hasher: &Hasher,
        scope: &Arc<str>,
        caller: &str,
        source: &KeySource,
        header: Option<&str>,
        body: &[u8],
    ) -> Result<Self, NoKey> {
        let json = source.needs_canonical().then(|| canonical(body));
        Self::of_canonical(hasher, scope, caller, source, header, body, json.as_ref())
    }

    /// The same, of a body whose canonical form is known where [`KeySource::needs_canonical`].
    pub fn of_canonical(
        hasher: &Hasher,
        scope: &Arc<str>,
        caller: &str,
        source: &KeySource,
        header: Option<&str>,
        body: &[u8],
        json: Option<&Result<String, Unclear>>,
    ) -> Result<Self, NoKey> {
        let json = json.filter(|_| source.needs_canonical());
        let parts = source.parts(header, body, json)?;
        let scoped = [b"key", scope.as_bytes(), caller.as_bytes()].into_iter().chain(parts.iter().map(|part| &**part));
        let fingerprint = match json {
            Some(Ok(json)) => hasher.digest([b"json".as_slice(), json.as_bytes()]),
            Some(Err(_)) | None => hasher.digest([b"bytes", body]),
        };
        Ok(Self { scope: Arc::clone(scope), caller: caller.into(), hash: hasher.digest(scoped), fingerprint })
    }

    /// The key of one execution of a data action: what the caller names it, or else what it means. Two environments never meet.
    pub fn of_action(
        hasher: &Hasher,
        scope: &Arc<str>,
        caller: &str,
        environment: &str,
        action: &ActionId,
        header: Option<&str>,
        input: &FlatInput,
    ) -> Self {
        let meaning = [action.as_str().as_bytes(), input.canonical().as_bytes()];
        let hash = match header {
            Some(name) => Self::of_named_action(hasher, scope, caller, environment, name),
            None => {
                let within = [b"action", scope.as_bytes(), caller.as_bytes(), environment.as_bytes(), b"canonical"];
                hasher.digest(within.into_iter().chain(meaning))
            }
        };
        let fingerprint = hasher.digest([b"action".as_slice()].into_iter().chain(meaning));
        Self { scope: Arc::clone(scope), caller: caller.into(), hash, fingerprint }
    }

    /// The hash of the key of an execution that its caller has named.
    pub fn of_named_action(hasher: &Hasher, scope: &str, caller: &str, environment: &str, name: &str) -> Digest {
        hasher.digest([b"action", scope.as_bytes(), caller.as_bytes(), environment.as_bytes(), b"header", name.as_bytes()])
    }
}

/// Which data action is meant. Opaque: Genesys makes ids such as `custom_-_7d0f…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionId(String);

impl ActionId {
    /// `None` where it is empty, longer than 128 bytes, holds a control character, or would lead elsewhere as a part of a path: its
    /// separators are sent encoded, but a proxy on the way may decode them.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control);
        let leads_elsewhere = text.split(['/', '\\']).any(|segment| matches!(segment, "." | ".."));
        (plain && !leads_elsewhere).then(|| Self(text.to_owned()))
    }

    /// As it is named.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who holds a lease: a number that nobody else draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(Uuid);

impl Owner {
    /// A new one.
    pub fn draw() -> Self {
        Self(Uuid::new_v4())
    }

    /// As stores keep it.
    pub fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// As stores keep it.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

/// An answer as it is kept and given again, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReply {
    /// The HTTP status.
    pub status: u16,
    /// Names and values, few and chosen.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl StoredReply {
    /// How many bytes a store keeps of it.
    pub fn size(&self) -> usize {
        self.body.len() + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    /// The reply as HTTP lets it be sent: 204, 205 and 304 have no content (RFC 9110 sections 15.3.5, 15.3.6, 15.4.5), so their body
    /// and the headers that describe one are dropped. A 204 keeps its content type, as webhooks have always passed it on.
    ///
    /// # Returns
    /// `None`: the status is not that of a final HTTP response.
    #[must_use]
    pub fn sendable(mut self) -> Option<Self> {
        let dropped: &[&str] = match self.status {
            204 => &["content-encoding"],
            205 | 304 => &["content-encoding", "content-type"],
            200..=599 => return Some(self),
            _ => return None,
        };
        self.headers.retain(|(name, _)| !dropped.iter().any(|dropped| name.eq_ignore_ascii_case(dropped)));
        self.body = Bytes::new();
        Some(self)
    }

    /// Whether this answer settles the matter: it was done, or it never can be. All other answers may be different ones next
    /// time.
    pub fn is_final(&self) -> bool {
        let may_change = matches!(self.status, 401 | 403 | 408 | 409 | 425 | 429);
        matches!(self.status, 200..=299 | 400..=499) && !may_change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{NotFlat, Secret};

    fn key(scope: &str, caller: &str, source: &KeySource, header: Option<&str>, body: &str) -> Result<IdempotencyKey, NoKey> {
        let hasher = Hasher::new(&[7; 32]).ok_or(NoKey::Missing)?;
        IdempotencyKey::new(&hasher, &scope.into(), caller, source, header, body.as_bytes())
    }

    fn fields(names: &[&str]) -> KeySource {
        KeySource::Fields(names.iter().map(|name| vec![(*name).to_owned()]).collect())
    }

    #[test]
    fn parts_cannot_be_forged_by_moving_what_is_between_them() -> Result<(), NoKey> {
        let source = fields(&["a", "b"]);
        let hash = |a: &str, b: &str| Ok(key("/x", "k", &source, None, &format!(r#"{{"a":"{a}","b":"{b}"}}"#))?.hash);
        assert_ne!(hash("a:b", "c")?, hash("a", "b:c")?);
        assert_ne!(hash("", "a")?, hash("a", "")?);
        let header = KeySource::Header("x".to_owned());
        assert_ne!(key("/x", "yz", &header, Some("1"), "")?.hash, key("/xy", "z", &header, Some("1"), "")?.hash);
        Ok(())
    }

    #[test]
    fn route_and_caller_are_part_of_the_key() -> Result<(), NoKey> {
        let of = |scope, caller| Ok::<_, NoKey>(key(scope, caller, &KeySource::RawBody, None, "{}")?.hash);
        assert_eq!(of("/x", "k")?, of("/x", "k")?);
        assert_ne!(of("/x", "k")?, of("/y", "k")?);
        assert_ne!(of("/x", "k")?, of("/x", "l")?);
        Ok(())
    }

    #[test]
    fn an_execution_is_named_by_its_caller_or_by_what_it_means() -> Result<(), NotFlat> {
        let hasher = Hasher::new(&[7; 32]).ok_or(NotFlat::NotAnObject)?;
        let key = |caller, environment, action, header, input: &'static str| {
            let action = ActionId::parse(action).ok_or(NotFlat::NotAnObject)?;
            let input = FlatInput::parse(Bytes::from_static(input.as_bytes()), canonical(input.as_bytes()))?;
            Ok(IdempotencyKey::of_action(&hasher, &"/x".into(), caller, environment, &action, header, &input))
        };
        let meant = key("k", "prod", "a", None, r#"{"a":1,"b":2}"#)?;
        assert_eq!(meant, key("k", "prod", "a", None, r#"{"b":2.0,"a":1}"#)?);
        for other in [
            key("l", "prod", "a", None, r#"{"a":1,"b":2}"#)?,
            key("k", "test", "a", None, r#"{"a":1,"b":2}"#)?,
            key("k", "prod", "b", None, r#"{"a":1,"b":2}"#)?,
            key("k", "prod", "a", None, r#"{"a":1,"b":3}"#)?,
            key("k", "prod", "a", Some("1"), r#"{"a":1,"b":2}"#)?,
        ] {
            assert_ne!(meant.hash, other.hash);
        }
        let named = key("k", "prod", "a", Some("1"), "{}")?;
        for (other, same_payload) in [(key("k", "prod", "a", Some("1"), " {}")?, true), (key("k", "prod", "b", Some("1"), "{}")?, false)] {
            assert_eq!((other.hash == named.hash, other.fingerprint == named.fingerprint), (true, same_payload));
        }
        Ok(())
    }

    #[test]
    fn a_reply_is_sent_as_http_lets_it_be() {
        let reply = |status| {
            let headers = ["content-type", "Content-Encoding", "x-cache"].map(|name| (name.to_owned(), "x".to_owned())).to_vec();
            StoredReply { status, headers, body: Bytes::from_static(b"x") }.sendable()
        };
        let names = |reply: &StoredReply| reply.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(" ");
        for status in [200, 201, 203, 206, 301, 400, 418, 599] {
            assert!(reply(status).is_some_and(|sent| sent.body == "x" && sent.headers.len() == 3), "{status}");
        }
        for (status, kept) in [(204, "content-type x-cache"), (205, "x-cache"), (304, "x-cache")] {
            assert!(reply(status).is_some_and(|sent| sent.body.is_empty() && names(&sent) == kept), "{status}");
        }
        for status in [0, 99, 100, 101, 199, 600, 799, 999, 1000] {
            assert_eq!(reply(status), None);
        }
    }

    #[test]
    fn only_the_secret_tells_what_a_digest_was_made_from() -> Result<(), NoKey> {
        let digest = |secret: u8| {
            let key = SigningKey::new("k".to_owned(), Secret::new(&[secret; 32]).ok_or(NoKey::Missing)?);
            let hasher = Hasher::of(&key).ok_or(NoKey::Missing)?;
            IdempotencyKey::new(&hasher, &"/x".into(), "k", &KeySource::RawBody, None, b"{}")
        };
        assert_eq!(digest(1)?, digest(1)?);
        assert_ne!(digest(1)?.hash, digest(2)?.hash);
        assert_ne!(digest(1)?.fingerprint, digest(2)?.fingerprint);
        Ok(())
    }

    #[test]
    fn what_is_not_there_makes_no_key() {
        let header = KeySource::Header("x".to_owned());
        for result in [
            key("/x", "k", &header, None, "{}"),
            key("/x", "k", &header, Some(""), "{}"),
            key("/x", "k", &fields(&["a"]), None, "{}"),
            key("/x", "k", &fields(&["a"]), None, r#"{"a":null}"#),
        ] {
            assert_eq!(result, Err(NoKey::Missing));
        }
    }

    #[test]
    fn the_payload_is_the_same_where_it_means_the_same() -> Result<(), NoKey> {
        let header = KeySource::Header("x".to_owned());
        let of = |body| Ok::<_, NoKey>(key("/x", "k", &header, Some("1"), body)?.fingerprint);
        assert_eq!(of(r#"{"a":1,"b":2}"#)?, of(r#"{ "b": 2.0, "a": 1 }"#)?);
        assert_ne!(of(r#"{"a":1}"#)?, of(r#"{"a":"1"}"#)?);
        assert_ne!(of("a=1")?, of("a=1 ")?);
        Ok(())
    }
}
