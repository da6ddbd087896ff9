//! `signing.*`: the keys that may sign, and how a signature is sent.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};

use super::reader::Reader;
use crate::domain::data_action::KEY_ID_HEADER;
use crate::domain::signing::{KeyLimits, MIN_SECRET_LEN};
use crate::domain::{Encoding, Keyring, Secret, SignedTarget, SigningKey, TenantId};

/// The header that holds an API key, unless the settings name another one.
pub const API_KEY_HEADER: &str = "X-API-Key";

/// The limits of a key, in its table.
const RATE: &str = "rate_per_minute";
const IN_FLIGHT: &str = "max_in_flight";

const MOST_A_MINUTE: NonZeroU32 = NonZeroU32::MIN.saturating_add(999_999);

/// `signing.*`
#[derive(Clone, Debug)]
pub struct Signing {
    /// The keys that may sign, or be sent.
    pub keys: Keyring,
    /// How a signature is sent.
    pub scheme: SigningScheme,
    /// The header that holds an API key.
    pub api_key_header: String,
}

/// How a signature is sent and what it covers.
#[derive(Clone, Debug)]
pub struct SigningScheme {
    /// The header that holds the signature.
    pub header: String,
    /// How it is spelled.
    pub encoding: Encoding,
    /// Headers whose values are signed with the body: each is followed by a dot, in this order, before the body.
    pub signed_headers: Vec<String>,
    /// The header that holds a Unix time in seconds. Where set, the signed text is `{timestamp}.{body}`.
    pub timestamp_header: Option<String>,
    /// How far that time may be from now.
    pub tolerance: Duration,
    /// Whether a signature binds the method and path. Where it does, the signed text begins `{METHOD} {path}.`
    pub signed_target: SignedTarget,
    /// The header that may hold an API key where there is no signature; `None` where API keys are not taken.
    pub api_key_header: Option<String>,
}

impl Signing {
    /// An API key is seen by whatever a request passes: nothing else may be as secret as that.
    pub(super) fn is_api_key(&self, secret: &SecretString) -> bool {
        self.keys.keys().iter().any(|key| key.has_api_key(secret.expose_secret()))
    }
}

pub(super) fn read(r: &mut Reader) -> Signing {
    let mut scheme = SigningScheme {
        header: r.header("signing.header", Some("X-CXone-Signature")).unwrap_or_default(),
        encoding: r.parsed("signing.encoding", Encoding::Hex),
        signed_headers: Vec::new(),
        timestamp_header: r.header("signing.timestamp_header", None),
        tolerance: r.duration("signing.tolerance", Duration::from_mins(5)),
        signed_target: r.parsed("signing.signed_target", SignedTarget::Off),
        api_key_header: None,
    };
    let api_key_header = r.header("signing.api_key_header", Some(API_KEY_HEADER)).unwrap_or_default();
    let taken = [Some(scheme.header.as_str()), scheme.timestamp_header.as_deref(), Some(KEY_ID_HEADER), Some("Authorization")];
    if taken.into_iter().flatten().any(|taken| taken.eq_ignore_ascii_case(&api_key_header)) {
        r.complain("signing.api_key_header", "must be a header of its own (Authorization: Bearer is understood beside it)");
    }
    let mut found = Keys::default();
    let proofs = Proofs::read(r, "signing");
    let limited = limited(r, "signing");
    let limits = limits(r, "signing");
    if proofs.are_missing() {
        let problem = "is for the key of signing.secret; a key of signing.keys has its own";
        for name in &limited {
            r.complain(name, problem);
        }
    } else {
        found.add(r, "signing", "default".to_owned(), &proofs, Terms { limits, ..Terms::default() });
    }
    for at in 0..r.table_len("signing.keys") {
        let table = format!("signing.keys[{at}]");
        let name = |member: &str| format!("{table}.{member}");
        let id = r.optional::<String>(&name("id"));
        let proofs = Proofs::read(r, &table);
        let tenants = r.list::<TenantId>(&name("tenants"));
        let not_after = r.optional::<DateTime<Utc>>(&name("not_after"));
        let terms = Terms { tenants, not_after, limits: self::limits(r, &table) };
        match id {
            None => r.complain(&name("id"), "is not set"),
            Some(_) if proofs.are_missing() => r.complain(&name("secret"), "is not set (nor secret_file, api_key or api_key_file)"),
            Some(id) => found.add(r, &table, id, &proofs, terms),
        }
    }
    let keys = Keyring::new(found.read);
    scheme.api_key_header = keys.takes_api_keys().then(|| api_key_header.clone());
    Signing { keys, scheme, api_key_header }
}

/// Which limits a table sets.
pub(super) fn limited(r: &Reader, table: &str) -> Vec<String> {
    [RATE, IN_FLIGHT].map(|member| format!("{table}.{member}")).into_iter().filter(|name| r.has(name)).collect()
}

/// The limits of a key, of which there may be none.
pub(super) fn limits(r: &mut Reader, table: &str) -> KeyLimits {
    let rate_per_minute = r.optional_within(&format!("{table}.{RATE}"), NonZeroU32::MIN..=MOST_A_MINUTE);
    let max_in_flight = r.optional_within(&format!("{table}.{IN_FLIGHT}"), 1..=10_000);
    KeyLimits::new(rate_per_minute, max_in_flight)
}

/// What a key is good for.
#[derive(Default)]
struct Terms {
    tenants: Option<BTreeSet<TenantId>>,
    not_after: Option<DateTime<Utc>>,
    limits: KeyLimits,
}

/// What proves a key, as the settings have it.
struct Proofs {
    secret: Option<SecretString>,
    api_key: Option<SecretString>,
}

impl Proofs {
    fn read(r: &mut Reader, table: &str) -> Self {
        Self { secret: r.secret(&format!("{table}.secret")), api_key: r.secret(&format!("{table}.api_key")) }
    }

    fn are_missing(&self) -> bool {
        self.secret.is_none() && self.api_key.is_none()
    }
}

/// Keys as they are read, with what it takes to tell twins.
#[derive(Default)]
struct Keys {
    read: Vec<SigningKey>,
    ids: BTreeSet<String>,
    texts: BTreeSet<String>,
}

impl Keys {
    fn add(&mut self, r: &mut Reader, table: &str, id: String, proofs: &Proofs, terms: Terms) {
        if !self.ids.insert(id.clone()) {
            r.complain(&format!("{table}.secret"), format!("another key has the id {id:?} too"));
        }
        let secret = self.proof(r, &format!("{table}.secret"), proofs.secret.as_ref());
        let name = format!("{table}.api_key");
        let api_key = self.proof(r, &name, proofs.api_key.as_ref());
        if proofs.api_key.as_ref().is_some_and(|text| !text.expose_secret().bytes().all(|byte| byte.is_ascii_graphic())) {
            r.complain(&name, "must be made of visible ASCII characters, since it is sent in a header");
        }
        let key = match (secret, api_key) {
            (Some(secret), api_key) => Some(SigningKey::new(id, secret).or_api_key(api_key)),
            (None, api_key) => api_key.map(|api_key| SigningKey::of_api_key(id, api_key)),
        };
        self.read.extend(key.map(|key| key.limited(terms.tenants, terms.not_after).within(terms.limits)));
    }

    fn proof(&mut self, r: &mut Reader, name: &str, text: Option<&SecretString>) -> Option<Secret> {
        let text = text?.expose_secret();
        if !self.texts.insert(text.to_owned()) {
            r.complain(name, "is a secret or an API key already");
        }
        let proof = Secret::new(text.as_bytes());
        if proof.is_none() {
            r.complain(name, format!("must be at least {MIN_SECRET_LEN} bytes long; `cxone-data-action keygen` makes one"));
        }
        proof
    }
}
