//! Where idempotency keys are kept, and what sees to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;

use crate::adapters::guard::GuardSettings;
use crate::adapters::memory::idempotency::MemoryIdempotency;
use crate::adapters::postgres::connect::Connector;
use crate::adapters::postgres::idempotency::PostgresIdempotency;
use crate::adapters::redis::idempotency::RedisIdempotency;
use crate::app::once::StoreShare;
use crate::app::ports::IdempotencyStore;
use crate::config::{Config, KeyStore};
use crate::metrics::Metrics;

/// The pause between two sweeps of a store, and two counts; that one is so many times longer than the count, up to a bound.
const TENDING_PAUSE: Duration = Duration::from_secs(1);
const COUNT_SHARE: u32 = 50;
const COUNT_PAUSE: Duration = Duration::from_mins(1);
/// How often a Redis that is not there yet is asked what it does when its memory is full.
const POLICY_PAUSE: Duration = Duration::from_secs(5);

/// One of each kind, made where the first route wants it.
pub(super) struct Stores<'c> {
    config: &'c Config,
    connector: Option<&'c Connector>,
    metrics: &'c Arc<Metrics>,
    memory: Option<Arc<MemoryIdempotency>>,
    redis: Option<Arc<RedisIdempotency>>,
    postgres: Option<Arc<PostgresIdempotency>>,
    tended: BTreeMap<&'static str, Tended>,
}

impl<'c> Stores<'c> {
    /// None yet. Without a connector, what is to be in Postgres is in memory.
    pub(super) fn new(config: &'c Config, connector: Option<&'c Connector>, metrics: &'c Arc<Metrics>) -> Self {
        Self { config, connector, metrics, memory: None, redis: None, postgres: None, tended: BTreeMap::new() }
    }

    /// The store of a route, and its callers' shares of it.
    pub(super) fn of(&mut self, route: &Arc<str>, kind: KeyStore) -> anyhow::Result<(Arc<dyn IdempotencyStore>, Arc<StoreShare>)> {
        let (name, store) = self.open(route, kind)?;
        let tended = self.tended.entry(name).or_insert_with(|| Tended::new(Arc::clone(&store)));
        tended.scopes.push(Arc::clone(route));
        Ok((store, Arc::clone(&tended.share)))
    }

    /// Sees to the stores from now on. Must be called on the main runtime.
    pub(super) fn tend(self) -> Tending {
        let metrics = self.metrics;
        let tenders = self.tended.into_iter().flat_map(|(name, tended)| {
            let store = Arc::clone(&tended.store);
            let room = tokio::spawn(watch_room(name, Arc::clone(&store), Arc::clone(&tended.share)));
            [room, tokio::spawn(sweep(name, store, Arc::clone(metrics))), tokio::spawn(count(name, tended, Arc::clone(metrics)))]
        });
        let policies = self.redis.clone().into_iter().map(|redis| tokio::spawn(warn_of_eviction(redis)));
        Tending {
            tasks: tenders.chain(policies).collect(),
            redis: self.redis.map(|redis| redis as Arc<dyn IdempotencyStore>),
            postgres: self.postgres,
        }
    }

    fn open(&mut self, route: &str, kind: KeyStore) -> anyhow::Result<(&'static str, Arc<dyn IdempotencyStore>)> {
        match (kind, self.connector) {
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
                tracing::warn!(route, "without a database, idempotency keys are kept in memory");
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

/// What sees to the stores.
pub(super) struct Tending {
    pub(super) redis: Option<Arc<dyn IdempotencyStore>>,
    postgres: Option<Arc<PostgresIdempotency>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Tending {
    /// Ends it.
    pub(super) fn close(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Some(postgres) = &self.postgres {
            postgres.close();
        }
    }
}

/// A store, and the scopes of the routes that use it.
struct Tended {
    store: Arc<dyn IdempotencyStore>,
    scopes: Vec<Arc<str>>,
    share: Arc<StoreShare>,
}

impl Tended {
    fn new(store: Arc<dyn IdempotencyStore>) -> Self {
        Self { store, scopes: Vec::new(), share: Arc::default() }
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
        tokio::time::sleep((began.elapsed() * COUNT_SHARE).clamp(TENDING_PAUSE, COUNT_PAUSE)).await;
    }
}

/// Keeps the callers' shares of a store by what is free in it.
async fn watch_room(name: &'static str, store: Arc<dyn IdempotencyStore>, share: Arc<StoreShare>) {
    loop {
        match store.free_bytes().await {
            Ok(bytes) => share.set_free(bytes),
            Err(error) => tracing::debug!(store = name, error = format!("{:#}", anyhow::Error::new(error)), "free memory not known"),
        }
        tokio::time::sleep(TENDING_PAUSE).await;
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
