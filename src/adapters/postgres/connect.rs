//! How a connection to Postgres is made: over TLS where the URL asks for it, on the runtime that outlives all workers, with
//! the limits of its work set where it has a server session of its own.

use std::future::poll_fn;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Error, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::failure::described;
use super::limits::Limits;
use super::pooling::{Pooling, PoolingState};
use crate::adapters::tls;
use crate::config::{self, PreparedStatements};

/// Makes connections.
#[derive(Clone)]
pub struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    limits: Limits,
    prepared_statements: PreparedStatements,
    /// One for all connectors of a URL.
    pooling: Arc<PoolingState>,
    runtime: Handle,
}

/// A new connection, and how it reaches Postgres, where that is known.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) task: JoinHandle<()>,
    pub(super) pooling: Option<Pooling>,
}

impl Connector {
    /// For the runtime role: with the bounds of a lookup. Must be called on the main runtime.
    pub fn for_lookups(url: &SecretString, settings: &config::Database) -> anyhow::Result<Self> {
        Self::new(url, settings, Limits::of_lookups(settings))
    }

    /// The same, without those bounds.
    pub(super) fn unbounded(&self) -> Self {
        Self { limits: Limits::default(), ..self.clone() }
    }

    /// The same, for small questions that look big: to compile their plan takes a hundred times as long as to run it.
    pub(super) fn uncompiled(&self) -> Self {
        Self { limits: self.limits.clone().with("jit", &"off"), ..self.clone() }
    }

    /// The same, for hearing of changes.
    #[must_use]
    pub fn for_listening(&self) -> Self {
        let mut this = self.unbounded();
        this.config.application_name("cxone-data-action listener");
        this
    }

    /// The same, for the beats that a listener waits for.
    #[must_use]
    pub fn for_beats(&self) -> Self {
        let mut this = self.unbounded();
        this.config.application_name("cxone-data-action heartbeat");
        this
    }

    /// For the owner: migrations take the time that they take.
    pub fn for_migrations(url: &SecretString, settings: &config::Database) -> anyhow::Result<Self> {
        Self::new(url, settings, Limits::default())
    }

    fn new(url: &SecretString, settings: &config::Database, limits: Limits) -> anyhow::Result<Self> {
        let mut config = Config::from_str(url.expose_secret()).map_err(|_| anyhow::anyhow!("the database URL is not well-formed"))?;
        if config.get_application_name().is_none() {
            config.application_name("cxone-data-action");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(settings.connect_timeout);
        }
        config.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(10));
        // `prefer`, the default of a URL that says nothing, asks for TLS where the server offers it. On this very machine it
        // would only meet the self-signed certificate that a distribution has put there.
        if config.get_ssl_mode() == SslMode::Prefer && config.get_hosts().iter().all(on_this_machine) {
            config.ssl_mode(SslMode::Disable);
        }
        let tls = MakeRustlsConnect::new(tls::client_config(settings.ca_file.as_deref(), config.get_ssl_mode() != SslMode::Disable)?);
        let listen_url = settings.listen_url.as_ref().map(ExposeSecret::expose_secret);
        let setting = if listen_url == Some(url.expose_secret()) { "database.listen_url" } else { "database.url" };
        let pooling = Arc::new(PoolingState::new(setting, listen_url.is_some()));
        Ok(Self { config, tls, limits, prepared_statements: settings.prepared_statements, pooling, runtime: Handle::current() })
    }

    /// How connections of this URL reach Postgres. Cheap where it is known. `None`: the database does not answer.
    pub async fn pooling(&self) -> Option<Pooling> {
        if let Some(pooling) = self.pooling.current() {
            return Some(pooling);
        }
        let this = self.clone();
        // Goes on without its caller: over a slow link it takes longer than one connection may, and the next caller takes the result.
        self.runtime.spawn(async move { this.pooling.determine(&this).await }).await.ok().flatten()
    }

    /// Whether a connection that was made under `pooling` is made differently now.
    pub(super) fn is_outdated(&self, pooling: Option<Pooling>) -> bool {
        self.pooling.current().is_some_and(|current| pooling != Some(current))
    }

    /// Whether statements are prepared under a name. Not before it is known that each server session has the names of its client.
    pub(super) fn named(&self, pooling: Option<Pooling>) -> bool {
        match self.prepared_statements {
            PreparedStatements::Named => true,
            PreparedStatements::Unnamed => false,
            PreparedStatements::Auto => {
                matches!(pooling, Some(Pooling::Direct | Pooling::Transaction { tracks_statements: true }))
            }
        }
    }

    /// What begins each transaction of a connection whose server session is not its own.
    pub(super) fn begin(&self, pooling: Option<Pooling>) -> Option<Arc<str>> {
        (pooling != Some(Pooling::Direct)).then(|| self.limits.transaction())
    }

    /// How long a new connection may take in all: every host of the URL gets its time.
    pub(super) fn patience(&self) -> Duration {
        let hosts = u32::try_from(self.config.get_hosts().len()).unwrap_or(u32::MAX).max(1);
        self.config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(1)).saturating_mul(hosts)
    }

    /// A new connection within that time.
    pub(super) async fn client_in_time(&self) -> anyhow::Result<(Client, JoinHandle<()>)> {
        let made = tokio::time::timeout(self.patience(), self.client()).await;
        made.map_err(|_| anyhow::anyhow!("no answer within {:?}", self.patience()))?.map_err(|error| described(&error))
    }

    /// A new connection, with a channel of the notifications that come over it; that one ends with the connection.
    pub(super) async fn listening(&self) -> Result<(Client, mpsc::Receiver<Notification>), Error> {
        let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
        // Where nobody takes them, the connection stands still, and the beat with it.
        let (tell, heard) = mpsc::channel(64);
        self.runtime.spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message
                    && tell.send(notification).await.is_err()
                {
                    break;
                }
            }
        });
        Ok((client, heard))
    }

    /// A new connection, with the limits set where it is direct.
    pub async fn client(&self) -> Result<(Client, JoinHandle<()>), Error> {
        self.session().await.map(|session| (session.client, session.task))
    }

    /// The same, with how it reaches Postgres.
    pub(super) async fn session(&self) -> Result<Session, Error> {
        let (client, task) = self.open().await?;
        let pooling = if self.limits.is_empty() { None } else { self.pooling().await };
        self.set_limits(&client, pooling).await?;
        Ok(Session { client, task, pooling })
    }

    /// Through a pooler, other clients would have them.
    async fn set_limits(&self, client: &Client, pooling: Option<Pooling>) -> Result<(), Error> {
        match pooling {
            Some(Pooling::Direct) => client.batch_execute(&self.limits.session()).await,
            Some(Pooling::Transaction { .. }) | None => Ok(()),
        }
    }

    /// A new connection with nothing set. The attempt ends where its caller waits no longer.
    pub(super) async fn open(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let this = self.clone();
        // A socket dies with the runtime that it was made on; a worker's runtime must not be that.
        let made = AbortOnDropHandle::new(self.runtime.spawn(async move {
            let (client, connection) = match this.config.connect(this.tls).await {
                Ok(connected) => connected,
                Err(error) => {
                    if error.as_db_error().is_none() {
                        this.pooling.forget();
                    }
                    return Err(error);
                }
            };
            let open = this.pooling.opened();
            let task = tokio::spawn(connection.map(move |ended| {
                drop(open);
                if let Err(error) = ended {
                    tracing::debug!(error = format!("{:#}", described(&error)), "database connection ended");
                    this.pooling.forget();
                }
            }));
            Ok((client, task))
        }));
        match made.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(result) => result,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => std::future::pending().await, // the main runtime is gone, and so is whoever waits here
        }
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }
}

fn on_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}
