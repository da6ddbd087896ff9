//! Calls of which nobody knows whether they were executed, as they are seen and settled from outside the running service.

use std::sync::Arc;
use std::time::Duration;

use super::keys::Stores;
use crate::adapters::postgres::connect::Connector;
use crate::app::ports::{IdempotencyStore, Unresolved};
use crate::config::{Auth, Config, KeyStore};
use crate::domain::{Digest, Hasher, IdempotencyKey, KeySource, Keyring, SigningKey, StoredReply};
use crate::http::EXECUTE_ROUTE;
use crate::metrics::Metrics;

/// One such call.
pub struct Call {
    /// What is known of it.
    pub unresolved: Unresolved,
    store: Arc<dyn IdempotencyStore>,
    keep: Duration,
}

impl Call {
    /// Says that it was executed, with this answer; or, without one, that it was not. False: somebody else has said so.
    pub async fn resolve(&self, answer: Option<StoredReply>) -> anyhow::Result<bool> {
        let Unresolved { scope, hash, .. } = &self.unresolved;
        Ok(self.store.resolve(scope, hash, answer.map(|reply| (reply, self.keep))).await?)
    }
}

/// Those calls on all routes; or only those that are named so, by their 64 digits or by a caller in its header.
pub async fn find(config: &Config, name: Option<&str>) -> anyhow::Result<Vec<Call>> {
    let routes = routes(config);
    let wants_postgres = routes.iter().any(|route| route.kind == KeyStore::Postgres);
    let connector = wants_postgres.then(|| Connector::for_lookups(config.database_url()?, &config.database)).transpose()?;
    let metrics = Arc::new(Metrics::new(1)?);
    let mut stores = Stores::new(config, connector.as_ref(), &metrics);
    let mut calls = Vec::new();
    for route in routes.iter().filter(|route| route.kind != KeyStore::Memory) {
        let (store, _share) = stores.of(&route.scope, route.kind)?;
        let hashes = name.map(|name| route.hashes(config, name));
        let unresolved = store.unresolved(&[Arc::clone(&route.scope)]).await?;
        let named = unresolved.into_iter().filter(|found| hashes.as_ref().is_none_or(|hashes| hashes.contains(&found.hash)));
        calls.extend(named.map(|unresolved| Call { unresolved, store: Arc::clone(&store), keep: route.keep }));
    }
    Ok(calls)
}

/// The routes whose keys only the running service has.
pub fn out_of_reach(config: &Config) -> Vec<Arc<str>> {
    routes(config).into_iter().filter(|route| route.kind == KeyStore::Memory).map(|route| route.scope).collect()
}

struct Route<'c> {
    scope: Arc<str>,
    kind: KeyStore,
    keep: Duration,
    keys: &'c Keyring,
    source: Source<'c>,
}

/// What a caller's name for its request becomes a key by.
enum Source<'c> {
    Webhook(&'c KeySource),
    /// The environment.
    Genesys(&'c str),
}

impl Route<'_> {
    /// Every key that may be meant: by its own name, or by a caller's.
    fn hashes(&self, config: &Config, name: &str) -> Vec<Digest> {
        let of_caller = |caller: &SigningKey| {
            let drawn = Hasher::of(caller);
            let hasher = config.idempotency.hasher.as_ref().or(drawn.as_ref())?;
            match self.source {
                Source::Webhook(source @ KeySource::Header(_)) => {
                    IdempotencyKey::new(hasher, &self.scope, caller.id(), source, Some(name), b"").ok().map(|key| key.hash)
                }
                Source::Webhook(_) => None,
                Source::Genesys(environment) => Some(IdempotencyKey::of_named_action(hasher, &self.scope, caller.id(), environment, name)),
            }
        };
        self.keys.keys().iter().filter_map(of_caller).chain(Digest::parse(name)).collect()
    }
}

fn routes(config: &Config) -> Vec<Route<'_>> {
    let webhooks = config.webhooks.iter().map(|webhook| Route {
        scope: webhook.path.as_str().into(),
        kind: webhook.store,
        keep: webhook.times.keep,
        keys: match &webhook.auth {
            Auth::Hmac { keys, .. } | Auth::ApiKey { keys, .. } | Auth::StandardWebhooks { keys, .. } => keys,
        },
        source: Source::Webhook(&webhook.key),
    });
    let genesys = config.genesys.iter().map(|genesys| Route {
        scope: EXECUTE_ROUTE.into(),
        kind: genesys.store,
        keep: genesys.times.keep,
        keys: &config.signing.keys,
        source: Source::Genesys(&genesys.environment),
    });
    webhooks.chain(genesys).collect()
}
