//! How the simulated platform proves who it is: by a signature, or by a key in a header where it cannot sign.

use reqwest::RequestBuilder;
use reqwest::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};

use super::super::sign;
use crate::config::{Signing, SigningScheme};
use crate::domain::SigningKey;
use crate::domain::data_action::KEY_ID_HEADER;

/// What proves a request.
pub(super) enum Proof {
    /// A signature of its body.
    Signature {
        signing: Signing,
        key: Box<SigningKey>,
        /// The id to name the key by, if any: the service may know it under another one.
        named: Option<String>,
    },
    /// The same key each time.
    ApiKey { header: String, key: SecretString },
}

impl Proof {
    /// Adds it to a request to a path. `signed`: the value of a header by its name, of those that are signed with the body.
    pub(super) fn add<'v>(&self, request: RequestBuilder, path: &str, signed: impl Fn(&str) -> &'v str, body: &[u8]) -> RequestBuilder {
        match self {
            Self::Signature { signing, key, named } => {
                let values = signing.scheme.signed_headers.iter().flat_map(|name| [signed(name).as_bytes(), b"."]);
                let text = values.chain([body]).collect::<Vec<_>>().concat();
                // That the key can sign was made sure of when it was chosen.
                let headers = sign::headers(&signing.scheme, key, path, &text).into_iter().flatten();
                let request = headers.fold(request, |request, (name, value)| request.header(name, value));
                named.iter().fold(request, |request, id| request.header(KEY_ID_HEADER, id))
            }
            Self::ApiKey { header, key } => with_key(request, header, key.expose_secret()),
        }
    }

    /// The same key, sent in another way where it signs.
    pub(super) fn over(&self, scheme: SigningScheme) -> Self {
        match self {
            Self::Signature { signing, key, named } => {
                let signing = Signing { scheme, ..signing.clone() };
                Self::Signature { signing, key: key.clone(), named: named.clone() }
            }
            Self::ApiKey { header, key } => Self::ApiKey { header: header.clone(), key: key.clone() },
        }
    }

    /// Adds one that is well made and wrong: the signature of another body, or a key that nobody has.
    pub(super) fn add_wrong(&self, request: RequestBuilder, path: &str, body: &[u8]) -> RequestBuilder {
        match self {
            Self::Signature { .. } => self.add(request, path, |_| "", &[body, b" "].concat()),
            Self::ApiKey { header, key } => with_key(request, header, &"0".repeat(key.expose_secret().len())),
        }
    }
}

fn with_key(request: RequestBuilder, header: &str, key: &str) -> RequestBuilder {
    if header.eq_ignore_ascii_case(AUTHORIZATION.as_str()) { request.bearer_auth(key) } else { request.header(header, key) }
}
