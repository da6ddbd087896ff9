//! Puts the routes of the settings together: their stores, their engines, and what sees to the stores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;

use crate::adapters::forward::Forward;
use crate::adapters::guard::GuardSettings;
use crate::adapters::memory::idempotency::MemoryIdempotency;
use crate::adapters::postgres::connect::Connector;
use crate::adapters::postgres::idempotency::PostgresIdempotency;
use crate::adapters::redis::idempotency::RedisIdempotency;
use crate::app::once::{Once, Times, Works};
use crate::app::ports::IdempotencyStore;
use crate::config::{self, Config, KeyStore};
use crate::http::{Action, Webhook};
use crate::metrics::Metrics;

/// The pause between two sweeps of a store, and two counts; that one is at least so many times longer than the count.
const TENDING_PAUSE: Duration = Duration::from_secs(1);
const COUNT_SHARE: u32 = 50;
/// How often a Redis that is not there yet is asked what it does when its memory is full.
const POLICY_PAUSE: Duration = Duration::from_secs(5);

/// The routes and what they stand on.
pub(super) struct Webhooks {
    pub(super) routes: Vec<Arc<Webhook>>,
    pub(super) works: Arc<Works>,
    pub(super) redis: Option<Arc<dyn IdempotencyStore>>,
    postgres: Option<Arc<PostgresIdempotency>>,
    keepers: Vec<JoinHandle<()>>,
}

/// Must be called on the main runtime. Without a connector, what is to be in Postgres is in memory.
pub(super) fn build(config: &Config, connector: Option<&Connector>, metrics: &Arc<Metrics>) -> anyhow::Result<Webhooks> {
    let mut stores = Stores { config, connector, metrics, memory: None, redis: None, postgres: None };
    let works = Arc::new(Works::new(config.http.max_in_flight));
    let mut routes = Vec::new();
    let mut tended: BTreeMap<&'static str, Tended> = BTreeMap::new();
    for webhook in &config.webhooks {
        let (name, store) = stores.of(webhook)?;
        let scope: Arc<str> = webhook.path.as_str().into();
        tended.entry(name).or_insert_with(|| Tended::new(Arc::clone(&store))).scopes.push(Arc::clone(&scope));
        warn_of_unsigned_key(webhook);
        let times = Times { lease: webhook.lease, keep: webhook.keep, wait: webhook.wait };
        routes.push(Arc::new(Webhook {
            scope,
            auth: webhook.auth.clone(),
            key: webhook.key.clone(),
            hasher: config.idempotency.hasher.clone(),
            once: Arc::new(Once::new(store, Arc::clone(&works), Arc::clone(metrics), times)),
            action: action(&webhook.action).with_context(|| format!("set up {}", webhook.path))?,
        }));
    }
    let tenders = tended.into_iter().flat_map(|(name, tended)| {
        let store = Arc::clone(&tended.store);
        [tokio::spawn(sweep(name, store, Arc::clone(metrics))), tokio::spawn(count(name, tended, Arc::clone(metrics)))]
    });
    let policies = stores.redis.clone().into_iter().map(|redis| tokio::spawn(warn_of_eviction(redis)));
    Ok(Webhooks {
        routes,
        works,
        keepers: tenders.chain(policies).collect(),
        redis: stores.redis.map(|redis| redis as Arc<dyn IdempotencyStore>),
        postgres: stores.postgres,
    })
}

impl Webhooks {
    /// Ends what sees to the stores.
    pub(super) fn close(&self) {
        self.keepers.iter().for_each(JoinHandle::abort);
        if let Some(postgres) = &self.postgres {
            postgres.close();
        }
    }
}

/// One of each kind, made where the first route wants it.
struct Stores<'c> {
    config: &'c Config,
    connector: Option<&'c Connector>,
    metrics: &'c Arc<Metrics>,
    memory: Option<Arc<MemoryIdempotency>>,
    redis: Option<Arc<RedisIdempotency>>,
    postgres: Option<Arc<PostgresIdempotency>>,
}

impl Stores<'_> {
    /// The store of a route, and its name.
    fn of(&mut self, webhook: &config::Webhook) -> anyhow::Result<(&'static str, Arc<dyn IdempotencyStore>)> {
        match (webhook.store, self.connector) {
            (KeyStore::Redis, _) => {
                let store = match &self.redis {
                    Some(store) => Arc::clone(store),
                    None => Arc::clone(self.redis.insert(self.new_redis()?)),
                };
                Ok(("redis", store))
            }
            (KeyStore::Postgres, Some(connector)) => {
                let store = match &self.postgres {
                    Some(store) => Arc::clone(store),
                    None => {
                        let Config { database, idempotency, .. } = self.config;
                        let connections = usize::try_from(idempotency.connections)?;
                        let store = PostgresIdempotency::new(connector.clone(), database, connections, idempotency.timeout)?;
                        Arc::clone(self.postgres.insert(Arc::new(store)))
                    }
                };
                Ok(("postgres", store))
            }
            (KeyStore::Postgres, None) => {
                tracing::warn!(route = webhook.path, "without a database, idempotency keys are kept in memory");
                Ok(("memory", self.memory()))
            }
            (KeyStore::Memory, _) => Ok(("memory", self.memory())),
        }
    }

    fn memory(&mut self) -> Arc<MemoryIdempotency> {
        Arc::clone(self.memory.get_or_insert_default())
    }

    fn new_redis(&self) -> anyhow::Result<Arc<RedisIdempotency>> {
        let Config { redis, cache, idempotency, .. } = self.config;
        let own = idempotency.redis_url.as_ref();
        let url = own.or(redis.url.as_ref()).context("no Redis is set")?;
        let guard = GuardSettings {
            deadline: idempotency.timeout,
            failures: cache.breaker_failures,
            open: cache.breaker_open.max(idempotency.timeout),
            probes: cache.breaker_probes,
        };
        let url = url.expose_secret();
        // The same authority for both, but one of them may do without TLS.
        let ca_file = redis.ca_file.as_deref().filter(|_| url.starts_with("rediss:") || url.starts_with("valkeys:"));
        Ok(Arc::new(RedisIdempotency::new(url, ca_file, idempotency.connections, guard, Arc::clone(self.metrics))?))
    }
}

fn action(action: &config::Action) -> anyhow::Result<Action> {
    Ok(match action {
        config::Action::Forward { url, timeout, ca_file } => {
            Action::Forward(Arc::new(Forward::new(url.clone(), *timeout, ca_file.as_deref())?))
        }
        config::Action::Lookup { tenants } => Action::Lookup(tenants.clone()),
        config::Action::Echo => Action::Echo,
    })
}

/// A store, and the scopes of the routes that use it.
struct Tended {
    store: Arc<dyn IdempotencyStore>,
    scopes: Vec<Arc<str>>,
}

impl Tended {
    fn new(store: Arc<dyn IdempotencyStore>) -> Self {
        Self { store, scopes: Vec::new() }
    }
}

/// Removes what is over from a store, in as many steps as it takes, at no more than half of the time.
async fn sweep(name: &'static str, store: Arc<dyn IdempotencyStore>, metrics: Arc<Metrics>) {
    loop {
        let began = Instant::now();
        let more = match store.sweep().await {
            Ok((removed, more)) => {
                metrics.swept(name, removed);
                more
            }
            Err(error) => {
                tracing::debug!(store = name, error = format!("{:#}", anyhow::Error::new(error)), "not swept");
                false
            }
        };
        tokio::time::sleep(if more { began.elapsed() } else { TENDING_PAUSE }).await;
    }
}

/// Keeps the numbers of a store up to date, without keeping it busy.
async fn count(name: &'static str, tended: Tended, metrics: Arc<Metrics>) {
    loop {
        let began = Instant::now();
        match tended.store.count(&tended.scopes).await {
            Ok(records) => records.iter().for_each(|records| metrics.records(&records.scope, records.state, records.count)),
            Err(error) => tracing::debug!(store = name, error = format!("{:#}", anyhow::Error::new(error)), "not counted"),
        }
        tokio::time::sleep((began.elapsed() * COUNT_SHARE).max(TENDING_PAUSE)).await;
    }
}

/// A lease that the server throws away is a piece of work done twice.
async fn warn_of_eviction(redis: Arc<RedisIdempotency>) {
    loop {
        match redis.eviction_policy().await {
            Ok(Some(policy)) if policy != "noeviction" => {
                return tracing::warn!(
                    policy,
                    "the Redis of idempotency keys may throw leases away when its memory is full: set its maxmemory-policy to noeviction"
                );
            }
            Ok(_) => return,
            Err(error) => tracing::debug!(error = format!("{error:#}"), "the Redis of idempotency keys is not there yet"),
        }
        tokio::time::sleep(POLICY_PAUSE).await;
    }
}

/// Whoever has seen a signed request can have its work done again under another key, where the key is not signed.
fn warn_of_unsigned_key(webhook: &config::Webhook) {
    if let (config::Auth::Hmac { scheme, .. }, Some(name)) = (&webhook.auth, webhook.key.header())
        && !scheme.signed_headers.iter().any(|signed| signed.eq_ignore_ascii_case(name))
    {
        tracing::warn!(route = webhook.path, header = name, "the header that holds the key is not signed: name it in signed_headers");
    }
}
