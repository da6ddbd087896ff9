//! `sign`: the signature of a body, and what else a signed request needs.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use chrono::Utc;
use clap::Args;

use super::{Settings, header, read_input, route, say};
use crate::config::{Invalid, Signing, SigningScheme};
use crate::domain::data_action::PATH;
use crate::domain::{Keyring, SigningKey, Target};

#[derive(Args)]
pub(super) struct Options {
    /// The body; standard input where none or `-` is named. Taken byte for byte: a newline at its end is signed too.
    file: Option<PathBuf>,
    /// Print the header lines of the request instead of the bare signature.
    #[arg(long)]
    headers: bool,
    #[command(flatten)]
    route: RouteChoice,
    #[command(flatten)]
    key: KeyChoice,
}

/// Which route the request is for.
#[derive(Args)]
struct RouteChoice {
    /// The path that the request is sent to, of which the settings say how it is signed.
    #[arg(long, default_value = PATH)]
    route: String,
    /// A header that is signed with the body; may be repeated.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
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
    let RouteChoice { route, header } = &options.route;
    let (scheme, keys) = route::signed(&config, route).with_context(|| format!("the settings have no route {route} that is signed so"))?;
    let key = options.key.choose(options.key.keys(&config.signing, keys))?;
    let headers = headers(scheme, key, route, &with_signed(scheme, header, &body)?)?;
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
    /// The keys to choose from: a secret of a file stands in the place of a route's own, too.
    pub(super) fn keys<'s>(&self, signing: &'s Signing, of_route: &'s Keyring) -> &'s Keyring {
        if self.secret_file.is_some() { &signing.keys } else { of_route }
    }

    pub(super) fn choose<'s>(&self, keys: &'s Keyring) -> anyhow::Result<&'s SigningKey> {
        let keys = keys.keys();
        if keys.is_empty() {
            return Err(Invalid::no_signing_key().into());
        }
        let usable = |key: &SigningKey| key.can_sign() && !key.expired(Utc::now());
        let wanted = |key: &&SigningKey| self.key_id.as_deref().map_or_else(|| usable(key), |id| id == key.id());
        keys.iter().find(wanted).context("the settings have no such key, or none that can sign and has not expired")
    }
}

/// A body with the values of the signed headers before it.
pub(super) fn with_signed(scheme: &SigningScheme, headers: &[(String, String)], body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let value = |name: &String| headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value);
    let values: Vec<_> = scheme.signed_headers.iter().map(value).collect();
    ensure!(values.iter().all(|value| !value.contains('.')), "the value of a signed header holds a dot");
    Ok(values.into_iter().flat_map(|value| [value.as_bytes(), b"."]).chain([body]).collect::<Vec<_>>().concat())
}

/// The headers of a signed request to a path, the signature first. `text`: what is signed after the target and the time.
pub(super) fn headers(scheme: &SigningScheme, key: &SigningKey, path: &str, text: &[u8]) -> anyhow::Result<Vec<(String, String)>> {
    let sign = |parts: &[&[u8]]| {
        let target = Target::post(path).parts().into_iter().filter(|_| scheme.signed_target.is_wanted());
        let tag = key
            .sign(&target.chain(parts.iter().copied()).collect::<Vec<_>>())
            .with_context(|| format!("the key {:?} has no secret to sign with", key.id()))?;
        anyhow::Ok((scheme.header.clone(), scheme.encoding.encode(&tag)))
    };
    let Some(timestamp_header) = &scheme.timestamp_header else {
        return Ok(vec![sign(&[text])?]);
    };
    let now = Utc::now().timestamp().to_string();
    Ok(vec![sign(&[now.as_bytes(), b".", text])?, (timestamp_header.clone(), now)])
}
