//! The webhook route that is played beside the lookup.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, Url};
use serde_json::{Map, Value, json};

use super::super::read_input;
use super::super::sign::KeyChoice;
use super::proof::Proof;
use super::target::Target;
use crate::config::{Auth, Config, Signing, SigningScheme, WEBHOOK_SIGNATURE_HEADER};
use crate::domain::{Encoding, KeySource, SignedTarget};

/// Where a route's key is, where the settings do not describe the route.
const KEY_HEADER: &str = "X-Correlation-Id";

#[derive(Args)]
pub(in super::super) struct HookOptions {
    /// A webhook route to play too. Its work is done three times. How it is signed and where its key is comes from the
    /// settings, if they have the route; else it is signed in `X-Cognigy-Signature`, with the key in `X-Correlation-Id`
    /// among the signed headers.
    #[arg(long, value_name = "PATH")]
    webhook_path: Option<String>,
    /// A file with the JSON object to send to it; `{"simulated":true}` where none is given.
    #[arg(long, value_name = "FILE", requires = "webhook_path")]
    webhook_body: Option<PathBuf>,
}

/// A route, and what is sent to it.
pub(super) struct Hook {
    url: Url,
    proof: Proof,
    key_header: String,
    pub(super) body: String,
    /// Another payload.
    pub(super) other_body: String,
}

impl HookOptions {
    /// `service`: any URL of the service. `lookup`: the proof of lookups, for a route that takes the same API key.
    pub(super) fn hook(&self, service: &Url, config: &Config, lookup: &Proof) -> anyhow::Result<Option<Hook>> {
        let Some(path) = &self.webhook_path else { return Ok(None) };
        let mut url = service.clone();
        url.set_path(path);
        let (proof, key_header) = proof_of(path, config, lookup)?;
        let body = self.body()?;
        let mut other = body.clone();
        other.insert("simulated_again".to_owned(), Value::Bool(true));
        let [body, other_body] = [body, other].map(|members| Value::Object(members).to_string());
        Ok(Some(Hook { url, proof, key_header, body, other_body }))
    }

    fn body(&self) -> anyhow::Result<Map<String, Value>> {
        let text = match &self.webhook_body {
            Some(file) => read_input(Some(file))?,
            None => json!({ "simulated": true }).to_string().into_bytes(),
        };
        serde_json::from_slice(&text).context("read the webhook's body as a JSON object")
    }
}

/// How deliveries to that route are proven, and which header holds their key.
fn proof_of(path: &str, config: &Config, lookup: &Proof) -> anyhow::Result<(Proof, String)> {
    let Some(route) = config.webhooks.iter().find(|route| route.path == path) else {
        let scheme = SigningScheme {
            header: WEBHOOK_SIGNATURE_HEADER.to_owned(),
            encoding: Encoding::Hex,
            signed_headers: vec![KEY_HEADER.to_owned()],
            signed_target: SignedTarget::Off,
            ..config.signing.scheme.clone()
        };
        return Ok((lookup.over(scheme), KEY_HEADER.to_owned()));
    };
    let KeySource::Header(key_header) = &route.key else {
        bail!("the route {path} has no key in a header, and no other can be played");
    };
    let proof = match (&route.auth, lookup) {
        (Auth::Hmac { scheme, keys }, _) => {
            let signing = Signing { keys: keys.clone(), scheme: scheme.clone(), ..config.signing.clone() };
            let key = KeyChoice { secret_file: None, key_id: None }.choose(&signing.keys)?.clone().into();
            Proof::Signature { signing, key, named: None }
        }
        (Auth::ApiKey { header, .. }, Proof::ApiKey { key, .. }) => Proof::ApiKey { header: header.clone(), key: key.clone() },
        (Auth::ApiKey { .. }, Proof::Signature { .. }) => bail!("the route {path} wants an API key: give --api-key-file"),
        (Auth::StandardWebhooks { .. }, _) => bail!("the route {path} is for Standard Webhooks, which Cognigy does not send"),
    };
    Ok((proof, key_header.clone()))
}

impl Hook {
    /// A delivery without a proof, and without a key where none is given.
    pub(super) fn unproven(&self, target: &Target, key: Option<&str>, body: &str) -> RequestBuilder {
        let request = target.client.post(self.url.clone()).header(CONTENT_TYPE, target.profile.content_type).body(body.to_owned());
        key.iter().fold(request, |request, key| request.header(&self.key_header, *key))
    }

    /// A delivery.
    pub(super) fn delivery(&self, target: &Target, key: Option<&str>, body: &str) -> RequestBuilder {
        let signed = |name: &str| key.filter(|_| name.eq_ignore_ascii_case(&self.key_header)).unwrap_or_default();
        self.proof.add(self.unproven(target, key, body), self.url.path(), signed, body.as_bytes())
    }
}
