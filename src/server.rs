//! Puts the service together, mounts its routes, and takes it down again without losing a request. The only file that knows
//! every part.

mod caching;
pub mod describe;
mod descriptors;
mod faults;
mod keys;
mod listeners;
mod outbound;
pub mod unresolved;
mod webhooks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::web::ServiceConfig;
use anyhow::Context;
use futures_util::future::join;
use tokio::task::JoinHandle;

use crate::adapters::cognigy::Cognigy;
use crate::adapters::memory::MemoryStore;
use crate::adapters::postgres::PostgresStore;
use crate::adapters::postgres::connect::Connector;
use crate::app::lookup::{Limits, Lookup};
use crate::app::once::Works;
use crate::app::ports::{CustomerStore, MetricSink};
use crate::config::Config;
use crate::http::{self, Background, Bounds, Console, DiagnosisBudget, Health, LongBodies, Ops, Services};
use crate::metrics::Metrics;
use crate::telemetry::Log;
use caching::Caching;
use keys::{Stores, Tending};
use listeners::{Listener, Serving};

/// How often partitions are seen to, and how soon again where that failed.
const PARTITION_ROUND: Duration = Duration::from_hours(6);
const PARTITION_RETRY: Duration = Duration::from_mins(1);

/// Attaching a partition reads the whole default one.
const PARTITION_PATIENCE: Duration = Duration::from_mins(1);

/// What is given up at the end of the grace period still ends its lease, and tells its caller.
const GIVE_UP_PATIENCE: Duration = Duration::from_secs(2);

/// Where customers and audit rows are.
pub enum Storage {
    /// The database.
    Postgres(Box<Connector>),
    /// This process, for `dev`.
    Memory(Box<MemoryStore>),
}

/// A service that takes requests.
pub struct Running {
    http: Listener,
    admin: Listener,
    lookup: Arc<Lookup>,
    works: Arc<Works>,
    keys: Tending,
    cognigy: Option<Arc<Cognigy>>,
    health: Arc<Health>,
    postgres: Option<Arc<PostgresStore>>,
    caching: Caching,
    keeper: Option<JoinHandle<()>>,
    drain_delay: Duration,
    grace: Duration,
}

/// Starts everything and returns once both listeners are bound. Must be called on the main runtime, which has to outlive
/// what it starts.
pub async fn start(config: &Config, storage: Storage, log: &Log) -> anyhow::Result<Running> {
    let metrics = Arc::new(Metrics::new(config.metrics.max_tenants)?);
    let connector = if let Storage::Postgres(connector) = &storage { Some(Connector::clone(connector)) } else { None };
    let works = Arc::new(Works::new(config.http.max_in_flight));
    let mut stores = Stores::new(config, connector.as_ref(), &metrics);
    let data_actions = outbound::data_actions(config, &mut stores, &works, &metrics)?;
    let execute = data_actions.as_ref().map(|actions| &actions.execute);
    let webhooks = webhooks::build(config, &mut stores, &works, execute, &metrics)?;
    let keys = stores.tend();
    let cognigy = outbound::cognigy(config, &metrics)?;
    if config.signing.keys.takes_api_keys() {
        tracing::warn!("API keys travel with each request, unlike secrets: let callers come by TLS alone");
    }
    let mut postgres = None;
    let store: Arc<dyn CustomerStore> = match storage {
        Storage::Memory(store) => Arc::<MemoryStore>::from(store),
        Storage::Postgres(connector) => {
            let store = Arc::new(PostgresStore::new(*connector, &config.database, Arc::clone(&metrics))?);
            postgres = Some(Arc::clone(&store));
            store
        }
    };
    let caching = Caching::start(config, connector.as_ref(), &metrics).await?;
    let limits = Limits {
        deadline: config.lookup.deadline,
        max_in_flight: config.http.max_in_flight,
        audit_cache_hits: config.audit.cache_hits,
        ttl: config.cache.ttl,
        absent_ttl: config.cache.absent_ttl,
    };
    let lookup = Arc::new(Lookup::new(Arc::clone(&store), Arc::clone(&caching.cache), Arc::clone(&metrics), limits));
    let customers = Arc::clone(&caching.cache);
    let health =
        Arc::new(Health { store, customers, cache: caching.shared.clone(), keys: keys.redis.clone(), draining: AtomicBool::new(false) });
    let background = Arc::new(Background::new()?);
    let services = Services {
        lookup: Arc::clone(&lookup),
        keys: config.signing.keys.clone(),
        scheme: config.signing.scheme.clone(),
        webhooks,
        data_actions,
        sink: cognigy.clone().map(|cognigy| cognigy as Arc<dyn MetricSink>),
        bounds: Bounds::of(config),
        warned: Arc::default(),
        metrics: Arc::clone(&metrics),
        diagnoses: Arc::new(DiagnosisBudget::new(Arc::clone(&background))),
        long_bodies: Arc::new(LongBodies::new(background)),
    };
    let (observed, counted, dropped) = (postgres.clone(), Arc::clone(&metrics), log.dropped());
    let refresh = Arc::new(move || {
        if let Some(store) = &observed {
            store.observe();
        }
        counted.log_lines_dropped(dropped());
    });
    let (console, hosts) = (Arc::new(Console::new(&services)), config.admin.hosts.clone());
    let document = http::openapi::of_instance(config).to_json()?.into();
    let ops = Ops { health: Arc::clone(&health), metrics: Arc::clone(&metrics), refresh, console, document, hosts };
    let onlooked = services.clone();

    let cache = Arc::clone(&caching.cache);
    let routes = move |app: &mut ServiceConfig| {
        cache.settle();
        http::routes(app, &services);
    };
    let admin_routes = move |app: &mut ServiceConfig| http::admin_routes(app, &ops, &onlooked);
    let bound = |address, setting| listeners::bind(address).with_context(|| format!("listen on {address} ({setting})"));
    let http = bound(config.http.listen, "http.listen")?;
    let admin = bound(config.admin.listen, "admin.listen")?;
    let most = descriptors::connections_within(descriptors::raise_limit(), config.http.max_connections);
    let shutdown_timeout = config.shutdown.grace;
    let serving = Serving { name: "http", workers: config.http.workers, limits: listeners::limits(most), shutdown_timeout };
    let http = Listener::start(http, serving, &metrics, routes)?;
    let serving = Serving { name: "admin", workers: 1, limits: listeners::admin_limits(), shutdown_timeout: Duration::ZERO };
    let admin = Listener::start(admin, serving, &metrics, admin_routes)?;

    let months = config.audit.partitions_ahead;
    let keeper = postgres.clone().map(|store| {
        tokio::spawn(async move {
            join(faults::watch(Arc::<PostgresStore>::clone(&store)), keep_partitions(store, metrics, months)).await;
        })
    });
    Ok(Running {
        http,
        admin,
        lookup,
        works,
        keys,
        cognigy,
        health,
        postgres,
        caching,
        keeper,
        drain_delay: config.shutdown.drain_delay,
        grace: config.shutdown.grace,
    })
}

impl Running {
    /// Where platforms call.
    pub fn http(&self) -> SocketAddr {
        self.http.address
    }

    /// Where probes and Prometheus call.
    pub fn admin(&self) -> SocketAddr {
        self.admin.address
    }

    /// Serves until `stop` comes, then: unready, a delay in which load balancers notice, no more connections, whatever is in
    /// flight to its end, pools closed.
    pub async fn until(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        stop.await;
        tracing::info!(drain_delay = ?self.drain_delay, "shutting down");
        self.health.draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.drain_delay).await;
        let works = &self.works;
        let grace = tokio::time::Instant::now() + self.grace;
        works.stop_waiting();
        let finished = async {
            self.http.drain().await;
            join(works.finish(), self.lookup.finish()).await;
            if let Some(cognigy) = &self.cognigy {
                // Nobody waits for what is not sent by then.
                let _in_time = tokio::time::timeout_at(grace, cognigy.flush()).await;
            }
        };
        let given_up = async {
            tokio::time::sleep_until(grace - GIVE_UP_PATIENCE.min(self.grace / 4)).await;
            tracing::warn!(grace = ?self.grace, "something was still under way at the end of the grace period");
            works.give_up();
            tokio::time::sleep_until(grace).await;
        };
        tokio::select! {
            () = finished => {}
            () = given_up => {}
        }
        self.http.close().await?;
        self.keys.close();
        if let Some(cognigy) = &self.cognigy {
            cognigy.close();
        }
        self.caching.close();
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
        if let Some(postgres) = &self.postgres {
            postgres.close();
        }
        self.admin.close().await?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Keeps the audit log's partitions ready ahead of time.
async fn keep_partitions(store: Arc<PostgresStore>, metrics: Arc<Metrics>, months: i32) {
    loop {
        let pause = match store.ensure_partitions(months, Instant::now() + PARTITION_PATIENCE).await {
            Ok((made, default_used)) => {
                metrics.audit_default_partition(default_used);
                if made > 0 {
                    tracing::info!(made, "audit partitions made");
                }
                PARTITION_ROUND
            }
            Err(error) => {
                tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "audit partitions not seen to");
                PARTITION_RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}
