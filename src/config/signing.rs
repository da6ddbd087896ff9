//! `signing.*`: the keys that may sign, and how a signature is sent.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};

use super::reader::Reader;
use crate::domain::signing::MIN_SECRET_LEN;
use crate::domain::{Encoding, Keyring, SigningKey, TenantId};

#[derive(Debug)]
/// `signing.*`
pub struct Signing {
    /// The keys that may sign.
    pub keys: Keyring,
    /// How a signature is sent.
    pub scheme: SigningScheme,
}

#[derive(Clone, Debug)]
/// How a signature is sent and what it covers.
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
}

pub(super) fn read(r: &mut Reader) -> Signing {
    let scheme = SigningScheme {
        header: r.header("signing.header", Some("X-CXone-Signature")).unwrap_or_default(),
        encoding: r.parsed("signing.encoding", Encoding::Hex),
        signed_headers: Vec::new(),
        timestamp_header: r.header("signing.timestamp_header", None),
        tolerance: r.duration("signing.tolerance", Duration::from_mins(5)),
    };
    let mut found = Keys::default();
    if let Some(secret) = r.secret("signing.secret") {
        found.add(r, "signing.secret", "default".to_owned(), &secret, None, None);
    }
    for at in 0..r.table_len("signing.keys") {
        let name = |member: &str| format!("signing.keys[{at}].{member}");
        let id = r.optional::<String>(&name("id"));
        let secret = r.secret(&name("secret"));
        let tenants = r.list::<TenantId>(&name("tenants"));
        let not_after = r.optional::<DateTime<Utc>>(&name("not_after"));
        match (id, secret) {
            (Some(id), Some(secret)) => found.add(r, &name("secret"), id, &secret, tenants, not_after),
            (None, _) => r.complain(&name("id"), "is not set"),
            (_, None) => r.complain(&name("secret"), "is not set (or secret_file)"),
        }
    }
    Signing { keys: Keyring::new(found.read), scheme }
}

/// Keys as they are read, with what it takes to tell twins.
#[derive(Default)]
struct Keys {
    read: Vec<SigningKey>,
    ids: BTreeSet<String>,
    secrets: BTreeSet<String>,
}

impl Keys {
    fn add(
        &mut self,
        r: &mut Reader,
        name: &str,
        id: String,
        secret: &SecretString,
        tenants: Option<BTreeSet<TenantId>>,
        not_after: Option<DateTime<Utc>>,
    ) {
        if !self.ids.insert(id.clone()) {
            r.complain(name, format!("another key has the id {id:?} too"));
        }
        if !self.secrets.insert(secret.expose_secret().to_owned()) {
            r.complain(name, "another key has the same secret");
        }
        match SigningKey::new(id, secret.expose_secret().as_bytes(), tenants, not_after) {
            Some(key) => self.read.push(key),
            None => r.complain(name, format!("must be at least {MIN_SECRET_LEN} bytes long; `cxone-data-action keygen` makes one")),
        }
    }
}
