//! The cache, and whoever follows the changes for it.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::adapters::guard::GuardSettings;
use crate::adapters::postgres::connect::Connector;
use crate::adapters::postgres::listen::{self, Connectors};
use crate::adapters::redis::RedisCache;
use crate::app::cache::CustomerCache;
use crate::app::lookup::longest;
use crate::app::ports::{Cache, Watch};
use crate::config::Config;
use crate::metrics::Metrics;

/// How long the start waits until changes are heard of. Without, it goes on: lookups pass the cache by.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// The cache at work.
pub(super) struct Caching {
    pub(super) cache: Arc<CustomerCache>,
    /// Its tier that all instances share.
    pub(super) shared: Option<Arc<dyn Cache>>,
    listener: Option<JoinHandle<()>>,
}

impl Caching {
    /// `database`: where customers change. None: they do not.
    pub(super) async fn start(config: &Config, database: Option<&Connector>, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let settings = &config.cache;
        let on = !settings.ttl.is_zero();
        let shared = if on { shared(config, metrics)? } else { None };
        if let Some(shared) = &shared {
            // So that it is known already when the first beat says since when it may be believed.
            let _whether_up = timeout(START_PATIENCE, shared.ready()).await;
        }
        let capacity = if on { usize::try_from(settings.local_capacity)? } else { 0 };
        let cache = Arc::new(CustomerCache::new(capacity, shared.clone(), database.is_some(), Arc::clone(metrics)));
        let listener = match database {
            Some(database) if on => {
                let other = config.database.listen_url.as_ref().map(|url| Connector::for_lookups(url, &config.database));
                let listener = other.transpose()?.as_ref().unwrap_or(database).for_listening();
                let connectors = Connectors { listener, beats: database.for_beats() };
                let watch = Arc::clone(&cache) as Arc<dyn Watch>;
                Some(tokio::spawn(listen::listen(connectors, watch, Arc::clone(metrics))))
            }
            _ => None,
        };
        if listener.is_some() && timeout(START_PATIENCE, cache.heard_first()).await.is_err() {
            tracing::warn!("no word yet of whether changes are heard of; nothing is cached until then");
        }
        Ok(Self { cache, shared, listener })
    }

    /// Follows no changes any more.
    pub(super) fn close(&self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

fn shared(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Arc<dyn Cache>>> {
    let (settings, redis) = (&config.cache, &config.redis);
    let guard = GuardSettings {
        // A tier that hangs leaves time to ask Postgres.
        deadline: settings.timeout.min(config.lookup.deadline / 2),
        failures: settings.breaker_failures,
        open: settings.breaker_open,
        probes: settings.breaker_probes,
    };
    let Some(url) = &redis.url else { return Ok(None) };
    let longest = longest(settings.ttl.max(settings.absent_ttl));
    let cache = RedisCache::new(url.expose_secret(), redis.ca_file.as_deref(), redis.connections, guard, longest, Arc::clone(metrics))?;
    Ok(Some(Arc::new(cache)))
}
