//! `genesys.*` and `cognigy.metrics.*`: what this service calls of its own accord.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;

use super::is_authority;
use super::reader::Reader;
use super::signing::{Signing, SigningScheme};
use super::webhooks::{KeyStore, Times, headers, key_store, times};
use crate::domain::{AllowedKeys, Keyring, SignedTarget};

#[derive(Debug)]
/// `genesys.*`
pub struct Genesys {
    /// Where the API is.
    pub base_url: Url,
    /// The path of an execution below it, with `{action_id}` in it.
    pub execute_path: String,
    /// Who calls.
    pub login: ClientCredentials,
    /// Part of the key: executions in two environments are two.
    pub environment: String,
    /// For one request: token, waits, retries and call together.
    pub deadline: Duration,
    /// How long keys and answers last.
    pub times: Times,
    /// Where keys are kept.
    pub store: KeyStore,
    /// The most calls within any minute.
    pub rate_per_minute: usize,
    /// Calls at a time.
    pub max_in_flight: usize,
    /// How executions are signed: as everything else, and perhaps more headers with it.
    pub scheme: SigningScheme,
    /// The signing keys that may execute: those of `genesys.keys`; where not set, every key that is not for certain tenants only.
    pub allowed: AllowedKeys,
    /// A PEM file of an authority, beside the system's.
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
/// The OAuth client (RFC 6749 section 4.4).
pub struct ClientCredentials {
    /// Where tokens are given.
    pub url: Url,
    /// The client's name.
    pub id: String,
    /// Its secret.
    pub secret: SecretString,
}

#[derive(Debug)]
/// `cognigy.metrics.*`
pub struct CognigyMetrics {
    /// Where a token is given.
    pub login_url: Url,
    /// Where data go.
    pub metrics_url: Url,
    /// Who sends.
    pub username: String,
    /// Its password.
    pub password: SecretString,
    /// Data that wait at most.
    pub queue: usize,
    /// For one call.
    pub timeout: Duration,
    /// A PEM file of an authority, beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Where the id of an action goes.
pub const ACTION_ID: &str = "{action_id}";
const EXECUTE_PATH: &str = "/api/v2/integrations/actions/{action_id}/execute";

pub(super) fn genesys(r: &mut Reader, signing: &Signing, has_redis: bool) -> Option<Genesys> {
    let set = r.has("genesys");
    let allow_http = r.parsed("genesys.allow_http", false);
    let base_url = endpoint(r, "genesys.base_url", allow_http, set);
    let login_url = endpoint(r, "genesys.login_url", allow_http, set);
    let id = text(r, "genesys.client_id", set);
    let secret = secret(r, "genesys.client_secret", set);
    let execute_path = path(r, "genesys.execute_path", EXECUTE_PATH);
    if execute_path.matches(ACTION_ID).count() != 1 {
        r.complain("genesys.execute_path", format!("must hold {ACTION_ID} once"));
    }
    let environment = r.parsed("genesys.environment", "prod".to_owned());
    let deadline = r.duration_within("genesys.deadline", Duration::from_secs(20), Duration::from_millis(10)..=Duration::from_mins(5));
    let times = times(r, "genesys");
    let store = key_store(r, "genesys", has_redis);
    let rate_per_minute = r.within("genesys.rate_per_minute", 250, 1..=1_000_000);
    let max_in_flight = r.within("genesys.max_in_flight", 64, 1..=10_000);
    let allowed = listed_keys(r, "genesys.keys", &signing.keys).unwrap_or_else(|| AllowedKeys::for_every_tenant(&signing.keys));
    let scheme = SigningScheme {
        signed_headers: headers(r, "genesys.signed_headers"),
        signed_target: r.parsed("genesys.signed_target", SignedTarget::Accept),
        ..signing.scheme.clone()
    };
    let ca_file = r.file("genesys.ca_file", is_authority);
    let login = ClientCredentials { url: login_url?, id: id?, secret: secret? };
    Some(Genesys {
        base_url: base_url?,
        execute_path,
        login,
        environment,
        deadline,
        times,
        store,
        rate_per_minute,
        max_in_flight,
        scheme,
        allowed,
        ca_file,
    })
}

/// The signing keys whose ids a list of the settings holds, where there is a list.
pub(super) fn listed_keys(r: &mut Reader, name: &str, keys: &Keyring) -> Option<AllowedKeys> {
    let ids: BTreeSet<String> = r.list(name)?;
    for id in ids.iter().filter(|id| !keys.keys().iter().any(|key| key.id() == *id)) {
        r.complain(name, format!("there is no signing key of the id {id}"));
    }
    Some(AllowedKeys::only(ids))
}

pub(super) fn cognigy_metrics(r: &mut Reader) -> Option<CognigyMetrics> {
    let set = r.has("cognigy");
    let allow_http = r.parsed("cognigy.metrics.allow_http", false);
    let base_url = endpoint(r, "cognigy.metrics.base_url", allow_http, set);
    let login_path = path(r, "cognigy.metrics.login_path", "/api/v2/auth/login");
    let metrics_path = path(r, "cognigy.metrics.metrics_path", "/api/v2/metrics");
    let username = text(r, "cognigy.metrics.username", set);
    let password = secret(r, "cognigy.metrics.password", set);
    let queue = r.within("cognigy.metrics.queue", 10_000, 1..=1_000_000);
    let timeout = r.duration_within("cognigy.metrics.timeout", Duration::from_secs(5), Duration::from_millis(10)..=Duration::from_mins(1));
    let ca_file = r.file("cognigy.metrics.ca_file", is_authority);
    let base_url = base_url?;
    Some(CognigyMetrics {
        login_url: below(&base_url, &login_path)?,
        metrics_url: below(&base_url, &metrics_path)?,
        username: username?,
        password: password?,
        queue,
        timeout,
        ca_file,
    })
}

/// A path below a base, whose own path stays.
pub fn below(base: &Url, path: &str) -> Option<Url> {
    Url::parse(&format!("{}{path}", base.as_str().trim_end_matches('/'))).ok()
}

/// Where requests with secrets in them go: to nobody but whom the settings name, and under no other name than there.
fn endpoint(r: &mut Reader, name: &str, allow_http: bool, wanted: bool) -> Option<Url> {
    let text = text(r, name, wanted)?;
    let url = Url::parse(&text).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    let Some(url) = url else {
        r.complain(name, "must be an https:// URL");
        return None;
    };
    if url.scheme() == "http" && !allow_http {
        r.complain(name, "must be an https:// URL, unless allow_http is set");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        r.complain(name, "must have no user, no query and no fragment");
    }
    Some(url)
}

fn path(r: &mut Reader, name: &str, default: &str) -> String {
    let path = r.parsed(name, default.to_owned());
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\\".contains(&byte);
    if !path.starts_with('/') || !path.bytes().all(plain) {
        r.complain(name, "must be a path that begins with /");
    }
    path
}

fn text(r: &mut Reader, name: &str, wanted: bool) -> Option<String> {
    let text = r.optional::<String>(name).filter(|text| !text.is_empty());
    if text.is_none() && wanted {
        r.complain(name, "is not set");
    }
    text
}

fn secret(r: &mut Reader, name: &str, wanted: bool) -> Option<SecretString> {
    let set = r.has(name) || r.has(&format!("{name}_file"));
    let secret = r.secret(name);
    if !set && wanted {
        r.complain(name, "is not set");
    }
    secret
}
