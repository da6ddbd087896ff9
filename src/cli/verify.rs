//! `verify`: whether a signature is right, and if not, what was probably done to it or to the body.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use chrono::Utc;
use clap::Args;

use super::sign::KeyChoice;
use super::{Settings, read_input, say};
use crate::config::Invalid;
use crate::domain::{Encoding, SigningKey, Tag};

#[derive(Args)]
pub(super) struct Options {
    /// The signature as it stood in the header.
    #[arg(long)]
    signature: String,
    /// The timestamp as it stood in its header, where the settings name one.
    #[arg(long)]
    timestamp: Option<String>,
    /// The body; standard input where none or `-` is named.
    file: Option<PathBuf>,
    #[command(flatten)]
    key: KeyChoice,
}

pub(super) fn run(settings: &Settings, options: &Options) -> anyhow::Result<()> {
    let config = settings.load_with_secret(options.key.secret_file.as_deref())?;
    let body = read_input(options.file.as_deref())?;
    if config.signing.keys.keys().is_empty() {
        return Err(Invalid::no_signing_key().into());
    }
    let scheme = &config.signing.scheme;
    let stamp = match (&scheme.timestamp_header, &options.timestamp) {
        (Some(header), None) => bail!("the settings sign a timestamp ({header}): give it with --timestamp"),
        (Some(_), Some(stamp)) => Some(stamp.as_str()),
        (None, _) => None,
    };
    let Some(tag) = scheme.encoding.decode(&options.signature) else {
        bail!("{}", malformed(scheme.encoding, &options.signature));
    };
    let keys: Vec<_> =
        config.signing.keys.keys().iter().filter(|key| options.key.key_id.as_deref().is_none_or(|id| id == key.id())).collect();
    let signed_by = |body: &[u8], stamp: Option<&str>| keys.iter().copied().find(|key| matches(key, &tag, body, stamp));
    match signed_by(&body, stamp) {
        Some(key) if key.expired(Utc::now()) => bail!("the signature is that of key {:?}, which has expired", key.id()),
        Some(_) if stamp.is_some_and(|stamp| stale(stamp, scheme.tolerance)) => {
            bail!("the signature is right, but its timestamp is not a Unix time within {:?} of now (signing.tolerance)", scheme.tolerance)
        }
        Some(key) => {
            say(format_args!("the signature is right: key {:?}, {} bytes", key.id(), body.len()));
            return Ok(());
        }
        None => {}
    }
    // Not the body that was signed? Try what is usually done to bodies on their way.
    for (what, changed) in changes(&body) {
        if let Some(key) = signed_by(&changed, stamp) {
            bail!("the signature is that of key {:?} for another body: {what}", key.id());
        }
    }
    if stamp.is_some() && signed_by(&body, None).is_some() {
        bail!("the signature covers the body alone: sign \"{{timestamp}}.{{body}}\"");
    }
    bail!("the signature is of no key of the settings, for this body or any usual change of it: probably the wrong secret")
}

fn matches(key: &SigningKey, tag: &Tag, body: &[u8], stamp: Option<&str>) -> bool {
    match stamp {
        Some(stamp) => key.matches(tag, &[stamp.as_bytes(), b".", body]),
        None => key.matches(tag, &[body]),
    }
}

fn stale(stamp: &str, tolerance: Duration) -> bool {
    stamp.parse::<i64>().ok().is_none_or(|then| Utc::now().timestamp().abs_diff(then) > tolerance.as_secs())
}

fn malformed(expected: Encoding, signature: &str) -> String {
    let other = if expected == Encoding::Hex { Encoding::Base64 } else { Encoding::Hex };
    if signature.trim() != signature {
        "the signature has blanks or a newline around it".to_owned()
    } else if other.decode(signature).is_some() {
        format!("the signature is spelled in {other}; the settings expect {expected} (signing.encoding)")
    } else {
        format!("the signature is not a whole HMAC-SHA256 in {expected}")
    }
}

/// What is usually done to a body between signing and sending.
fn changes(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let without_newline = body.strip_suffix(b"\n").map(|body| body.strip_suffix(b"\r").unwrap_or(body).to_vec());
    let value = serde_json::from_slice::<serde_json::Value>(body).ok();
    [
        ("a newline was added at its end after signing", without_newline),
        ("the newline at its end was lost after signing", Some([body, b"\n"].concat())),
        ("it was signed in compact form and serialised again before sending", value.as_ref().and_then(|v| serde_json::to_vec(v).ok())),
        (
            "it was signed with indentation and serialised again before sending",
            value.as_ref().and_then(|v| serde_json::to_vec_pretty(v).ok()),
        ),
        ("nothing was signed: an empty body", Some(Vec::new())),
    ]
    .into_iter()
    .filter_map(|(what, changed)| Some((what, changed?)))
    .filter(|(_, changed)| changed != body)
    .collect()
}
