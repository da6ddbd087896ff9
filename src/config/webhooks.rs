//! `idempotency.*` and `[[webhooks]]`: where keys are kept, and the routes that do work once.
//!
//! To add an action or a way to prove who calls: a variant here, its reading below or in [`auth`], and its arm in `http/webhook`.

mod auth;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::outbound::listed_keys;
use super::reader::Reader;
use super::signing::{Signing, SigningScheme};
use super::{is_authority, understood_by_redis};
use crate::domain::data_action::PATH;
use crate::domain::signing::MIN_SECRET_LEN;
use crate::domain::{ActionId, AllowedKeys, Hasher, KeySource, Keyring, TenantId};

#[derive(Debug)]
/// `idempotency.*`
pub struct Idempotency {
    /// The Redis of `store = "redis"`; that of the cache where not set.
    pub redis_url: Option<SecretString>,
    /// How long one step of a store may take.
    pub timeout: Duration,
    /// Connections to each store.
    pub connections: u32,
    /// What keys are hashed with; drawn from the caller's key where not set.
    pub hasher: Option<Hasher>,
}

#[derive(Debug)]
/// One of `[[webhooks]]`.
pub struct Webhook {
    /// Where it is called; its name in metrics.
    pub path: String,
    /// How a caller proves who it is.
    pub auth: Auth,
    /// The keys that may call it, of those that it takes.
    pub allowed: AllowedKeys,
    /// What makes two requests the same.
    pub key: KeySource,
    /// How long keys and answers last.
    pub times: Times,
    /// Where keys are kept.
    pub store: KeyStore,
    /// The work.
    pub action: Action,
}

#[derive(Clone, Copy, Debug)]
/// How long keys and answers last.
pub struct Times {
    /// How long a key is held without a sign of life.
    pub lease: Duration,
    /// How long an answer is replayed.
    pub keep: Duration,
    /// How long a twin waits for the first one.
    pub wait: Duration,
}

#[derive(Clone, Debug)]
/// How a caller proves who it is.
pub enum Auth {
    /// It signs the body.
    Hmac {
        /// How.
        scheme: SigningScheme,
        /// With which keys.
        keys: Keyring,
    },
    /// It sends the secret itself.
    ApiKey {
        /// In this header.
        header: String,
        /// Which secrets.
        keys: Keyring,
    },
    /// It signs as Standard Webhooks 1.0.0 says.
    StandardWebhooks {
        /// How far the signed time may be from now.
        tolerance: Duration,
        /// With which keys.
        keys: Keyring,
    },
}

impl Auth {
    /// How requests are signed, where that is the route's to say.
    pub fn scheme(&self) -> Option<&SigningScheme> {
        match self {
            Self::Hmac { scheme, .. } => Some(scheme),
            Self::ApiKey { .. } | Self::StandardWebhooks { .. } => None,
        }
    }

    /// The keys that the route takes.
    pub fn keys(&self) -> &Keyring {
        match self {
            Self::Hmac { keys, .. } | Self::ApiKey { keys, .. } | Self::StandardWebhooks { keys, .. } => keys,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
/// Where keys are kept.
pub enum KeyStore {
    /// Redis.
    Redis,
    /// Postgres.
    Postgres,
    /// This process: no other instance sees them.
    Memory,
}

#[derive(Clone, Debug)]
/// The work behind a route.
pub enum Action {
    /// Another service does it.
    Forward {
        /// Where that is.
        url: Url,
        /// How long it may take.
        timeout: Duration,
        /// A PEM file of the authority that signed its certificate, beside the system's.
        ca_file: Option<PathBuf>,
    },
    /// A lookup, as `/data-action` does it.
    Lookup {
        /// Whose customers may be asked for; the key may allow fewer.
        tenants: Option<BTreeSet<TenantId>>,
    },
    /// A data action of Genesys, with the body as its input.
    Genesys {
        /// Which.
        action: ActionId,
    },
    /// The body comes back.
    Echo,
}

/// Where a caller of a webhook puts its signature, where the route does not say.
pub const SIGNATURE_HEADER: &str = "X-Cognigy-Signature";

/// Paths that are taken, and beginnings of such.
const OWN_PATHS: [&str; 1] = [PATH];
const OWN_PREFIXES: [&str; 1] = ["/genesys/"];

impl std::str::FromStr for KeyStore {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "redis" => Ok(Self::Redis),
            "postgres" => Ok(Self::Postgres),
            "memory" => Ok(Self::Memory),
            _ => Err("must be redis, postgres or memory"),
        }
    }
}

impl std::fmt::Display for KeyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Memory => "memory",
        })
    }
}

pub(super) fn idempotency(r: &mut Reader, signing: &Signing) -> Idempotency {
    let redis_url = r.url("idempotency.redis_url", understood_by_redis);
    let secret = r.secret("idempotency.secret");
    let hasher = secret.as_ref().and_then(|secret| Hasher::new(secret.expose_secret().as_bytes()));
    if secret.is_some() && hasher.is_none() {
        r.complain("idempotency.secret", too_short(MIN_SECRET_LEN));
    }
    if secret.as_ref().is_some_and(|secret| signing.is_api_key(secret)) {
        r.complain("idempotency.secret", "is an API key");
    }
    Idempotency {
        redis_url,
        timeout: r.duration_within("idempotency.timeout", Duration::from_secs(1), Duration::from_millis(10)..=Duration::from_mins(1)),
        connections: r.within("idempotency.connections", 4, 1..=256),
        hasher,
    }
}

/// What a route is read from, beside its own settings.
pub(super) struct Around<'c> {
    pub(super) signing: &'c Signing,
    pub(super) has_redis: bool,
    pub(super) has_genesys: bool,
    /// The keys that may execute data actions.
    pub(super) executors: AllowedKeys,
}

pub(super) fn read(r: &mut Reader, around: &Around<'_>) -> Vec<Webhook> {
    let mut paths = BTreeSet::new();
    let webhooks = (0..r.table_len("webhooks")).filter_map(|at| {
        let route = format!("webhooks[{at}]");
        let path = path(r, &route, &mut paths);
        let auth = auth::read(r, &route, path.as_deref().unwrap_or_default(), around.signing);
        let key = key(r, &route, auth.as_ref());
        let times = times(r, &route);
        let store = key_store(r, &route, around.has_redis);
        let action = action(r, &route, around.has_genesys);
        let allowed = allowed(r, &route, auth.as_ref(), action.as_ref(), around);
        Some((route, Webhook { path: path?, auth: auth?, allowed, key: key?, times, store, action: action? }))
    });
    let webhooks: Vec<_> = webhooks.collect();
    for (route, webhook) in &webhooks {
        let mut signed =
            webhooks.iter().filter(|(_, other)| other.auth.scheme().is_some()).map(|(_, other)| other.path.as_str()).chain([PATH]);
        let binds = webhook.auth.scheme().is_some_and(|scheme| scheme.signed_target.is_wanted());
        // `POST /hook.v2.` could be that path and a body, or `/hook` and a signed header before the body.
        if binds && signed.any(|other| webhook.path.strip_prefix(other).is_some_and(|rest| rest.starts_with('.'))) {
            let problem = "begins with the path of another route and a dot: where signed_target is on, their signatures could be confused";
            r.complain(&format!("{route}.path"), problem);
        }
    }
    webhooks.into_iter().map(|(_, webhook)| webhook).collect()
}

/// The keys that may call a route. Only signing keys are restricted: a secret of the route's own is for the route alone.
fn allowed(r: &mut Reader, route: &str, auth: Option<&Auth>, action: Option<&Action>, around: &Around<'_>) -> AllowedKeys {
    let name = format!("{route}.keys");
    let listed = listed_keys(r, &name, &around.signing.keys);
    let takes_signing_keys = auth.is_some_and(|auth| auth.keys().is_named());
    if listed.is_some() && auth.is_some() && !takes_signing_keys {
        r.complain(&name, "is for the signing keys, and the route has a secret of its own");
    }
    let allowed = listed.unwrap_or_else(AllowedKeys::all);
    match action {
        Some(Action::Genesys { .. }) if takes_signing_keys => allowed.and(&around.executors),
        _ => allowed,
    }
}

pub(super) fn times(r: &mut Reader, route: &str) -> Times {
    let bounds = Duration::from_millis(100)..=Duration::from_hours(1);
    let lease = r.duration_within(&format!("{route}.lease"), Duration::from_secs(30), bounds);
    let bounds = Duration::from_secs(1)..=Duration::from_hours(7 * 24);
    let keep = r.duration_within(&format!("{route}.keep"), Duration::from_hours(24), bounds);
    let wait = r.duration_within(&format!("{route}.wait"), Duration::ZERO, Duration::ZERO..=Duration::from_mins(1));
    Times { lease, keep, wait }
}

pub(super) fn key_store(r: &mut Reader, route: &str, has_redis: bool) -> KeyStore {
    let name = format!("{route}.store");
    let store = r.parsed(&name, if has_redis { KeyStore::Redis } else { KeyStore::Postgres });
    if store == KeyStore::Redis && !has_redis {
        r.complain(&name, "needs a Redis: set REDIS_URL or CXDA_IDEMPOTENCY__REDIS_URL");
    }
    store
}

fn path(r: &mut Reader, route: &str, taken: &mut BTreeSet<String>) -> Option<String> {
    let name = format!("{route}.path");
    let Some(path) = r.optional::<String>(&name) else {
        r.complain(&name, "is not set");
        return None;
    };
    r.label(route, &path);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    if !path.starts_with('/') || path.len() < 2 || path.contains("//") || !path.bytes().all(plain) {
        r.complain(&name, "must begin with / and be made of letters, digits and - . _ ~ /");
        return None;
    }
    let own = OWN_PATHS.contains(&path.as_str()) || OWN_PREFIXES.iter().any(|prefix| path.starts_with(prefix));
    if own || !taken.insert(path.clone()) {
        r.complain(&name, "there is another route of this path");
        return None;
    }
    Some(path)
}

/// The one of several that is set.
fn one_of(r: &mut Reader, name: &str, choices: &[&'static str]) -> Option<&'static str> {
    let set: Vec<_> = choices.iter().copied().filter(|choice| r.has(&format!("{name}.{choice}"))).collect();
    match set[..] {
        [one] => Some(one),
        [] => {
            r.complain(name, format!("must be one of {}", choices.join(", ")));
            None
        }
        _ => {
            r.complain(name, format!("must be one of {}, not several", choices.join(", ")));
            None
        }
    }
}

fn too_short(least: usize) -> String {
    format!("must be at least {least} bytes long; `cxone-data-action keygen` makes one")
}

pub(super) fn headers(r: &mut Reader, name: &str) -> Vec<String> {
    (0..r.list_len(name)).filter_map(|at| r.header(&format!("{name}[{at}]"), None)).collect()
}

fn key(r: &mut Reader, route: &str, auth: Option<&Auth>) -> Option<KeySource> {
    let name = format!("{route}.key");
    if !r.has(&name) && matches!(auth, Some(Auth::StandardWebhooks { .. })) {
        return Some(KeySource::Header("webhook-id".to_owned()));
    }
    match one_of(r, &name, &["header", "body", "fields"])? {
        "header" => r.header(&format!("{name}.header"), None).map(KeySource::Header),
        "body" => {
            let name = format!("{name}.body");
            match r.optional::<String>(&name)?.as_str() {
                "raw" => Some(KeySource::RawBody),
                "canonical" => Some(KeySource::CanonicalBody),
                _ => {
                    r.complain(&name, "must be raw or canonical");
                    None
                }
            }
        }
        _ => fields(r, &format!("{name}.fields")).map(KeySource::Fields),
    }
}

/// JSON pointers (RFC 6901), as the names that they lead through.
fn fields(r: &mut Reader, name: &str) -> Option<Vec<Vec<String>>> {
    let len = r.list_len(name);
    if len == 0 {
        r.complain(name, "must be a list of at least one");
        return None;
    }
    let pointers = (0..len).map(|at| {
        let name = format!("{name}[{at}]");
        let pointer = r.optional::<String>(&name)?;
        // RFC 6901 section 3 knows ~0 and ~1, and no other escape.
        let well_escaped = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        let Some(names) = pointer.strip_prefix('/').filter(|_| well_escaped) else {
            r.complain(&name, "must be a JSON pointer, such as /dialogId");
            return None;
        };
        Some(names.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect())
    });
    pointers.collect()
}

fn action(r: &mut Reader, route: &str, has_genesys: bool) -> Option<Action> {
    let name = format!("{route}.action");
    let kind = one_of(r, &name, &["forward", "lookup", "genesys", "echo"])?;
    let name = format!("{name}.{kind}");
    r.empty_table(&name);
    match kind {
        "forward" => {
            let url = url(r, &format!("{name}.url"));
            let timeout = r.duration(&format!("{name}.timeout"), Duration::from_secs(8));
            let ca_file = r.file(&format!("{name}.ca_file"), is_authority);
            Some(Action::Forward { url: url?, timeout, ca_file })
        }
        "genesys" => {
            if !has_genesys {
                r.complain(&name, "needs the settings of Genesys: set genesys.base_url and what goes with it");
            }
            let id = format!("{name}.action_id");
            let action = r.optional::<String>(&id).and_then(|text| ActionId::parse(&text));
            if action.is_none() {
                r.complain(&id, "must be the id of a data action");
            }
            Some(Action::Genesys { action: action? })
        }
        "lookup" => Some(Action::Lookup { tenants: r.list(&format!("{name}.tenants")) }),
        _ => Some(Action::Echo),
    }
}

/// It may hold a password or a token: what stands in it is never repeated.
fn url(r: &mut Reader, name: &str) -> Option<Url> {
    let Some(text) = r.secret(name) else {
        r.complain(name, "is not set");
        return None;
    };
    let url = Url::parse(text.expose_secret()).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    if url.is_none() {
        r.complain(name, "must be an http:// or https:// URL");
    }
    url
}
