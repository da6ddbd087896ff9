//! How a connection to Postgres is made: over TLS where the URL asks for it, on the runtime that outlives all workers, with
//! the session's bounds set.

use std::future::poll_fn;
use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::Connect;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Error, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use crate::adapters::tls;
use crate::config;

/// Makes connections.
#[derive(Clone)]
pub struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    session: String,
    runtime: Handle,
}

impl Connector {
    /// For the runtime role: with the bounds of a lookup. Must be called on the main runtime.
    pub fn for_lookups(url: &SecretString, settings: &config::Database) -> anyhow::Result<Self> {
        let statement = settings.statement_timeout.as_millis();
        // No plan anew for each number of ids. Durable commits, whatever the server's default: an audit row that a crash can take back is none.
        let session = format!(
            "SET statement_timeout = {statement}; SET lock_timeout = {lock}; SET idle_in_transaction_session_timeout = {idle}; SET synchronous_commit = on; \
             SET plan_cache_mode = force_generic_plan",
            lock = statement / 2,
            idle = statement * 2,
        );
        Self::new(url, settings, session)
    }

    /// The same, without those bounds.
    pub(super) fn unbounded(&self) -> Self {
        Self { session: String::new(), ..self.clone() }
    }

    /// The same, for small questions that look big: to compile their plan takes a hundred times as long as to run it.
    pub(super) fn uncompiled(&self) -> Self {
        Self { session: format!("{}; SET jit = off", self.session), ..self.clone() }
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
        Self::new(url, settings, String::new())
    }

    fn new(url: &SecretString, settings: &config::Database, session: String) -> anyhow::Result<Self> {
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
        Ok(Self { config, tls, session, runtime: Handle::current() })
    }

    /// How long a new connection may take in all: every host of the URL gets its time.
    pub(super) fn patience(&self) -> Duration {
        let hosts = u32::try_from(self.config.get_hosts().len()).unwrap_or(u32::MAX).max(1);
        self.config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(1)).saturating_mul(hosts)
    }

    /// A new connection within that time.
    pub(super) async fn client_in_time(&self) -> anyhow::Result<(Client, JoinHandle<()>)> {
        let made = tokio::time::timeout(self.patience(), self.client()).await;
        made.map_err(|_| anyhow::anyhow!("no answer within {:?}", self.patience()))?.map_err(|error| super::failure::described(&error))
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
        client.batch_execute(&self.session).await?;
        Ok((client, heard))
    }

    /// A new connection, with the session's bounds set. The attempt ends where nobody waits for it any more.
    pub async fn client(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let this = self.clone();
        // A socket dies with the runtime that it was made on; a worker's runtime must not be that.
        let made = AbortOnDropHandle::new(self.runtime.spawn(async move {
            let (client, connection) = this.config.connect(this.tls).await?;
            let task = tokio::spawn(connection.map(|ended| {
                if let Err(error) = ended {
                    tracing::debug!(error = format!("{:#}", super::failure::described(&error)), "database connection ended");
                }
            }));
            if !this.session.is_empty() {
                client.batch_execute(&this.session).await?;
            }
            Ok((client, task))
        }));
        match made.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(result) => result,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => std::future::pending().await, // the main runtime is gone, and so is whoever waits here
        }
    }

    pub(super) fn pg_config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }
}

impl Connect for Connector {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        self.client().boxed()
    }
}

fn on_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}
