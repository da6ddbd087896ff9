//! Settings: defaults < TOML file < environment < flags, read once into a typed [`Config`]; every bad one is reported at
//! once. The only module that reads the environment.
//!
//! To add a setting: read it in its section below with its name and default, add it to `.env.example` and to the README's
//! table. A test holds the three together.

mod database;
mod hosts;
mod outbound;
mod reader;
mod signing;
mod source;
mod webhooks;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;
use tracing_subscriber::EnvFilter;

use crate::domain::AllowedKeys;

pub use database::{PreparedStatements, Sharing};
pub use hosts::{Hosts, is_label};
pub use outbound::{ACTION_ID, ClientCredentials, CognigyMetrics, Genesys, below};
use reader::Reader;
pub use signing::{API_KEY_HEADER, Signing, SigningScheme};
pub use source::{Flags, search_path};
pub use webhooks::{Action, Auth, Idempotency, KeyStore, SIGNATURE_HEADER as WEBHOOK_SIGNATURE_HEADER, Times, Webhook};

/// Everything that can be set.
#[derive(Debug)]
pub struct Config {
    /// The listener that platforms call.
    pub http: Http,
    /// The listener for probes and metrics.
    pub admin: Admin,
    /// Who may call, and how requests are signed.
    pub signing: Signing,
    /// Bounds of one lookup.
    pub lookup: Lookup,
    /// Postgres.
    pub database: Database,
    /// Redis.
    pub redis: Redis,
    /// Both cache tiers.
    pub cache: Cache,
    /// The audit log.
    pub audit: Audit,
    /// Where idempotency keys are kept.
    pub idempotency: Idempotency,
    /// Routes that do work once.
    pub webhooks: Vec<Webhook>,
    /// Data actions of Genesys Cloud, where they are executed.
    pub genesys: Option<Genesys>,
    /// Where Cognigy is told of webhook requests, if it is.
    pub cognigy: Option<CognigyMetrics>,
    /// Prometheus.
    pub metrics: Metrics,
    /// Log output.
    pub log: Log,
    /// What happens on SIGTERM.
    pub shutdown: Shutdown,
    /// Every setting as it was read, for `config print`.
    pub effective: Vec<Setting>,
}

/// One setting as it was read.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its dotted name, such as `http.listen`.
    pub name: String,
    /// Its value; stars for a secret; `None` where it is not set.
    pub value: Option<String>,
}

/// Bad settings, each with its name, sorted.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Invalid(pub Vec<String>);

/// What to do where there is nothing to prove callers by.
const NO_KEY: &str =
    "is not set (nor CXDA_SIGNING__SECRET_FILE, nor an API key, nor keys in the settings file); `cxone-data-action keygen` makes one";

impl Invalid {
    /// There is nothing to check signatures with.
    pub fn no_signing_key() -> Self {
        Self(vec![format!("signing.secret (CXDA_SIGNING__SECRET): {NO_KEY}")])
    }
}

#[derive(Debug)]
/// `http.*`
pub struct Http {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The longest request body, in bytes.
    pub max_body_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How many lookups may be under way before more are turned away.
    pub max_in_flight: usize,
    /// Threads that speak HTTP.
    pub workers: usize,
    /// Open connections of platforms; fewer where the descriptor limit is lower.
    pub max_connections: usize,
}

#[derive(Debug)]
/// `admin.*`
pub struct Admin {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names that a `Host` may have there, beside those that no public name server resolves.
    pub hosts: Hosts,
}

#[derive(Debug)]
/// `lookup.*`
pub struct Lookup {
    /// The most customers in one call, duplicates collapsed.
    pub max_batch: usize,
    /// The longest answer, in bytes; 0 for no cap.
    pub max_response_bytes: usize,
    /// How long one lookup may take.
    pub deadline: Duration,
}

#[derive(Debug)]
/// `database.*`
pub struct Database {
    /// The runtime role's connection; `None` only where a command does without.
    pub url: Option<SecretString>,
    /// The owner's connection, for migrations; the runtime role's where not set.
    pub migrate_url: Option<SecretString>,
    /// The connection for hearing of changes, where the other one goes through a pooler; the runtime role's where not set.
    pub listen_url: Option<SecretString>,
    /// A PEM file of the authority that signed the server's certificate, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Pool size.
    pub max_connections: usize,
    /// Which lookups may go together in one transaction.
    pub share_transactions: Sharing,
    /// Connections at a time that do shared transactions.
    pub shared_in_flight: usize,
    /// Whether statements are prepared once under a name.
    pub prepared_statements: PreparedStatements,
    /// How long a new connection may take.
    pub connect_timeout: Duration,
    /// How long a lookup waits for a free connection.
    pub wait_timeout: Duration,
    /// How long the server may work on one statement.
    pub statement_timeout: Duration,
    /// How long start-up waits for a database that is not there yet.
    pub startup_wait: Duration,
}

#[derive(Debug)]
/// `redis.*`
pub struct Redis {
    /// `None`: the in-process cache alone.
    pub url: Option<SecretString>,
    /// A PEM file of the authority that signed the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// Sockets, each shared by many callers.
    pub connections: u32,
}

#[derive(Clone, Debug)]
/// `cache.*`
pub struct Cache {
    /// How long a customer is kept, give or take a tenth; zero for no cache.
    pub ttl: Duration,
    /// How long "no such customer" is kept.
    pub absent_ttl: Duration,
    /// Customers kept in process; 0 for Redis alone.
    pub local_capacity: u64,
    /// The deadline of one Redis read or write.
    pub timeout: Duration,
    /// Failures in a row that open the breaker.
    pub breaker_failures: u32,
    /// How long it stays open.
    pub breaker_open: Duration,
    /// How many calls at a time a half-open breaker lets through.
    pub breaker_probes: usize,
}

#[derive(Debug)]
/// `audit.*`
pub struct Audit {
    /// Whether answers from the cache leave a row too.
    pub cache_hits: bool,
    /// Months of partitions kept ready beyond the current one.
    pub partitions_ahead: i32,
}

#[derive(Debug)]
/// `metrics.*`
pub struct Metrics {
    /// Tenants that keep their own label.
    pub max_tenants: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
/// How log lines look.
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

#[derive(Debug)]
/// `log.*`
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines there are, as `RUST_LOG` spells it.
    pub filter: String,
}

#[derive(Debug)]
/// `shutdown.*`
pub struct Shutdown {
    /// Between turning unready and closing the listener.
    pub drain_delay: Duration,
    /// For what is in flight after that.
    pub grace: Duration,
}

impl std::str::FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err("must be json or pretty"),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Json { "json" } else { "pretty" })
    }
}

impl Config {
    /// Reads all settings; `flags` win over everything else.
    pub fn load(flags: &Flags) -> Result<Self, Invalid> {
        let (values, problems) = source::collect(flags);
        Self::read(Reader::new(values, problems), false)
    }

    /// The same, and wants those that requests cannot be served without.
    pub fn load_for_serving(flags: &Flags) -> Result<Self, Invalid> {
        let (values, problems) = source::collect(flags);
        Self::read(Reader::new(values, problems), true)
    }

    /// The environment's spelling of a setting.
    pub fn env_name(name: &str) -> String {
        reader::env_name(name)
    }

    /// The dotted name of every setting that there is, but for those of lists.
    pub fn setting_names() -> Vec<String> {
        let mut reader = Reader::new(std::collections::BTreeMap::new(), Vec::new());
        sections(&mut reader);
        reader.effective().into_iter().map(|setting| setting.name).collect()
    }

    fn read(mut reader: Reader, serving: bool) -> Result<Self, Invalid> {
        let config = sections(&mut reader);
        if serving && config.database.url.is_none() && !reader.complained("database.url") {
            reader.complain("database.url", "is not set");
        }
        if serving && config.signing.keys.keys().is_empty() && !reader.complained("signing.") {
            reader.complain("signing.secret", NO_KEY);
        }
        let effective = reader.effective();
        reader.finish()?;
        Ok(Self { effective, ..config })
    }

    /// The runtime role's URL; an error where none is set.
    pub fn database_url(&self) -> Result<&SecretString, Invalid> {
        self.database.url.as_ref().ok_or_else(|| Invalid(vec!["database.url (DATABASE_URL): is not set".to_owned()]))
    }

    /// The owner's URL: `database.migrate_url`, or the one that there is.
    pub fn owner_url(&self) -> Result<&SecretString, Invalid> {
        self.database.migrate_url.as_ref().map_or_else(|| self.database_url(), Ok)
    }
}

fn sections(r: &mut Reader) -> Config {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let lookup = lookup(r);
    let signing = signing::read(r);
    let redis = Redis {
        url: r.url("redis.url", understood_by_redis),
        ca_file: r.file("redis.ca_file", is_authority),
        connections: r.within("redis.connections", 4, 1..=256),
    };
    let idempotency = webhooks::idempotency(r, &signing);
    let has_redis = redis.url.is_some() || idempotency.redis_url.is_some();
    let has_genesys = r.has("genesys");
    let genesys = outbound::genesys(r, &signing, has_redis);
    let executors = genesys.as_ref().map_or_else(AllowedKeys::all, |genesys| genesys.allowed.clone());
    let webhooks = webhooks::read(r, &webhooks::Around { signing: &signing, has_redis, has_genesys, executors });
    Config {
        http: Http {
            listen: r.parsed("http.listen", SocketAddr::from(([0, 0, 0, 0], 8080))),
            max_body_bytes: r.within("http.max_body_bytes", 65_536, 256..=16 << 20),
            body_timeout: r.duration("http.body_timeout", Duration::from_secs(5)),
            max_in_flight: r.within("http.max_in_flight", 1024, 1..=1_000_000),
            workers: r.within("http.workers", processors, 1..=1024),
            max_connections: r.within("http.max_connections", 10_000, 8..=1_000_000),
        },
        admin: Admin {
            listen: r.parsed("admin.listen", SocketAddr::from(([127, 0, 0, 1], 9090))),
            hosts: r.parsed("admin.hosts", Hosts::default()),
        },
        database: Database {
            url: r.url("database.url", understood_by_postgres),
            migrate_url: r.url("database.migrate_url", understood_by_postgres),
            listen_url: r.url("database.listen_url", understood_by_postgres),
            ca_file: r.file("database.ca_file", is_authority),
            max_connections: r.within("database.max_connections", 8, 1..=1000),
            share_transactions: r.parsed("database.share_transactions", Sharing::All),
            shared_in_flight: r.within("database.shared_in_flight", (processors / 2).max(1), 1..=1000),
            prepared_statements: r.parsed("database.prepared_statements", PreparedStatements::Auto),
            connect_timeout: r.duration("database.connect_timeout", Duration::from_secs(1)),
            wait_timeout: r.duration("database.wait_timeout", Duration::from_millis(500)),
            statement_timeout: r.duration("database.statement_timeout", Duration::from_millis(1500)),
            startup_wait: r.duration_or_zero("database.startup_wait", Duration::from_secs(10)),
        },
        cache: cache(r),
        audit: Audit { cache_hits: r.parsed("audit.cache_hits", true), partitions_ahead: r.within("audit.partitions_ahead", 3, 1..=120) },
        metrics: Metrics { max_tenants: r.within("metrics.max_tenants", 100, 0..=100_000) },
        log: log(r),
        shutdown: Shutdown {
            drain_delay: r.duration_or_zero("shutdown.drain_delay", Duration::from_secs(5)),
            grace: r.duration("shutdown.grace", Duration::from_secs(30)),
        },
        lookup,
        signing,
        redis,
        idempotency,
        webhooks,
        genesys,
        cognigy: outbound::cognigy_metrics(r),
        effective: Vec::new(),
    }
}

fn understood_by_postgres(url: &str) -> bool {
    url.parse::<tokio_postgres::Config>().is_ok()
}

fn understood_by_redis(url: &str) -> bool {
    bb8_redis::redis::Client::open(url).is_ok()
}

/// Whether certificates of an authority can be read there.
fn is_authority(path: &Path) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())? {
        roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(()) }
}

fn log(r: &mut Reader) -> Log {
    let log = Log { format: r.parsed("log.format", LogFormat::Json), filter: r.parsed("log.filter", "info,actix_server=warn".to_owned()) };
    if let Err(error) = EnvFilter::builder().parse(&log.filter) {
        r.complain("log.filter", error);
    }
    log
}

fn cache(r: &mut Reader) -> Cache {
    let cache = Cache {
        ttl: r.duration_or_zero("cache.ttl", Duration::from_mins(1)),
        absent_ttl: r.duration_or_zero("cache.absent_ttl", Duration::from_secs(5)),
        local_capacity: r.within("cache.local_capacity", 100_000, 0..=1_000_000_000),
        timeout: r.duration("cache.timeout", Duration::from_millis(50)),
        breaker_failures: r.within("cache.breaker_failures", 5, 1..=10_000),
        breaker_open: r.duration("cache.breaker_open", Duration::from_secs(1)),
        breaker_probes: r.within("cache.breaker_probes", 1, 1..=1000),
    };
    if cache.breaker_open < cache.timeout {
        r.complain("cache.breaker_open", "must not be shorter than cache.timeout");
    }
    cache
}

fn lookup(r: &mut Reader) -> Lookup {
    let lookup = Lookup {
        max_batch: r.within("lookup.max_batch", 100, 1..=10_000),
        max_response_bytes: r.parsed("lookup.max_response_bytes", 32_768),
        deadline: r.duration("lookup.deadline", Duration::from_secs(2)),
    };
    // An answer names each id at least once, as missing or as left for the next call: 36 characters, quotes and a comma.
    let least = 256 + 39 * lookup.max_batch;
    if lookup.max_response_bytes != 0 && lookup.max_response_bytes < least {
        let max_batch = lookup.max_batch;
        r.complain("lookup.max_response_bytes", format!("must be 0 or at least {least}, to name {max_batch} ids (lookup.max_batch)"));
    }
    lookup
}
