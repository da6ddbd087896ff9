//! `verify`: whether a signature is right, and if not, what was probably done to it or to the body.

use std::path::PathBuf;

use anyhow::{Context, bail};
use chrono::Utc;
use clap::Args;

use super::sign::KeyChoice;
use super::{Settings, header, read_input, route, say};
use crate::config::{Auth, Config, Invalid, SigningScheme};
use crate::domain::data_action::PATH;
use crate::domain::diagnosis::{Diagnosis, examine};
use crate::domain::{Coverage, Encoding, Evidence, Keyring, SignedTarget, Target};

#[derive(Args)]
pub(super) struct Options {
    /// The signature as it stood in the header.
    #[arg(long)]
    signature: String,
    /// The timestamp as it stood in its header, where the settings name one.
    #[arg(long)]
    timestamp: Option<String>,
    /// A header that is signed with the body, as the request had it; may be repeated.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The path that the request was sent to, as it was sent.
    #[arg(long, default_value = PATH)]
    route: String,
    /// The body; standard input where none or `-` is named.
    file: Option<PathBuf>,
    #[command(flatten)]
    key: KeyChoice,
}

pub(super) fn run(settings: &Settings, options: &Options) -> anyhow::Result<()> {
    let config = settings.load_with_secret(options.key.secret_file.as_deref())?;
    let body = read_input(options.file.as_deref())?;
    let (evidence, keys) = options.evidence(&config, &body)?;
    if keys.keys().is_empty() {
        return Err(Invalid::no_signing_key().into());
    }
    match examine(&evidence, keys, Utc::now()) {
        Ok((key, coverage)) => {
            say(format_args!("the signature is right: key {:?}, {} bytes", key.id(), body.len()));
            if coverage == Coverage::NoTarget {
                say(format_args!("it does not cover {}, which the route accepts for a while (signed_target)", evidence.target));
            }
            Ok(())
        }
        Err(Diagnosis { reason, key }) => {
            let signer = key.map(|key| format!("; the signature is one by key {:?}", key.id())).unwrap_or_default();
            bail!("{}{signer} (reason: {})", reason.sentence(), reason.code())
        }
    }
}

impl Options {
    /// The signature, what it should be of, and whose it may be.
    fn evidence<'a>(&'a self, config: &'a Config, body: &'a [u8]) -> anyhow::Result<(Evidence<'a>, &'a Keyring)> {
        if let Some((scheme, keys)) = route::signed(config, &self.route) {
            return Ok((self.by_scheme(scheme, body)?, keys));
        }
        let webhook = config.webhooks.iter().find(|webhook| webhook.path == self.route);
        match &webhook.with_context(|| format!("the settings have no route {}", self.route))?.auth {
            Auth::Hmac { .. } | Auth::ApiKey { .. } => bail!("{} takes an API key, and no signature", self.route),
            Auth::StandardWebhooks { tolerance, keys } => {
                let evidence = Evidence {
                    signature: self.signature.strip_prefix("v1,").unwrap_or(&self.signature),
                    encoding: Encoding::Base64,
                    key_id: None,
                    before: vec![
                        self.value("webhook-id").context("the id is signed: give --header 'webhook-id: …'")?,
                        self.stamp("webhook-timestamp")?,
                    ],
                    timestamp: Some((1, *tolerance)),
                    body,
                    target: Target::post(&self.route),
                    signed_target: SignedTarget::Off,
                };
                Ok((evidence, keys))
            }
        }
    }

    fn by_scheme<'a>(&'a self, scheme: &SigningScheme, body: &'a [u8]) -> anyhow::Result<Evidence<'a>> {
        let timestamp = scheme.timestamp_header.as_ref().map(|_| (0, scheme.tolerance));
        let stamp = scheme.timestamp_header.as_ref().map(|header| self.stamp(header)).transpose()?;
        let signed_headers = scheme.signed_headers.iter().map(|name| self.value(name).unwrap_or_default());
        let before = stamp.into_iter().chain(signed_headers).collect();
        Ok(Evidence {
            signature: &self.signature,
            encoding: scheme.encoding,
            key_id: self.key.key_id.as_deref(),
            before,
            timestamp,
            body,
            target: Target::post(&self.route),
            signed_target: scheme.signed_target,
        })
    }

    fn stamp(&self, header: &str) -> anyhow::Result<&str> {
        let stamp = self.timestamp.as_deref().or(self.value(header));
        stamp.with_context(|| format!("the settings sign a timestamp ({header}): give it with --timestamp"))
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.header.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}
