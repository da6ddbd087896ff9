//! `sign`: the signature of a body, and what else a signed request needs.

use std::path::PathBuf;

use anyhow::Context;
use chrono::Utc;
use clap::Args;

use super::{Settings, read_input, say};
use crate::config::{Invalid, Signing};
use crate::domain::SigningKey;

#[derive(Args)]
pub(super) struct Options {
    /// The body; standard input where none or `-` is named. Taken byte for byte: a newline at its end is signed too.
    file: Option<PathBuf>,
    /// Print the header lines of the request instead of the bare signature.
    #[arg(long)]
    headers: bool,
    #[command(flatten)]
    key: KeyChoice,
}

/// Which key to sign with.
#[derive(Args)]
pub(super) struct KeyChoice {
    /// A file that holds the secret, in place of those of the settings.
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
    /// The id of the key; the first one that has not expired where none is given.
    #[arg(long, value_name = "ID")]
    pub(super) key_id: Option<String>,
}

pub(super) fn run(settings: &Settings, options: &Options) -> anyhow::Result<()> {
    let config = settings.load_with_secret(options.key.secret_file.as_deref())?;
    let body = read_input(options.file.as_deref())?;
    let key = options.key.choose(&config.signing)?;
    let headers = headers(&config.signing, key, &body)?;
    if options.headers {
        for (name, value) in headers {
            say(format_args!("{name}: {value}"));
        }
    } else if let Some((_, signature)) = headers.first() {
        say(signature);
    }
    Ok(())
}

impl KeyChoice {
    pub(super) fn choose<'s>(&self, signing: &'s Signing) -> anyhow::Result<&'s SigningKey> {
        let keys = signing.keys.keys();
        if keys.is_empty() {
            return Err(Invalid::no_signing_key().into());
        }
        let usable = |key: &SigningKey| key.can_sign() && !key.expired(Utc::now());
        let wanted = |key: &&SigningKey| self.key_id.as_deref().map_or_else(|| usable(key), |id| id == key.id());
        keys.iter().find(wanted).context("the settings have no such key, or none that can sign and has not expired")
    }
}

/// The headers of a signed request, the signature first.
pub(super) fn headers(signing: &Signing, key: &SigningKey, body: &[u8]) -> anyhow::Result<Vec<(String, String)>> {
    let scheme = &signing.scheme;
    let sign = |parts: &[&[u8]]| {
        let tag = key.sign(parts).with_context(|| format!("the key {:?} has no secret to sign with", key.id()))?;
        anyhow::Ok((scheme.header.clone(), scheme.encoding.encode(&tag)))
    };
    let Some(timestamp_header) = &scheme.timestamp_header else {
        return Ok(vec![sign(&[body])?]);
    };
    let now = Utc::now().timestamp().to_string();
    Ok(vec![sign(&[now.as_bytes(), b".", body])?, (timestamp_header.clone(), now)])
}
