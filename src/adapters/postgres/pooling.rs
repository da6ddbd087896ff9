//! Whether a connection has a server session of its own, or a pooler in transaction mode lends it another one for each transaction.
//!
//! Through such a pooler, session settings and named statements are seen by other clients, and notifications do not arrive.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};
use uuid::Uuid;

use super::connect::Connector;
use super::failure::described;

/// How connections of a URL reach Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Each connection keeps its server session. True of a pooler in session mode, too.
    Direct,
    /// Each transaction runs in any server session.
    Transaction {
        /// Whether the pooler knows which server session has which named statement.
        tracks_statements: bool,
    },
}

/// For the whole detection.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// For one question while another connection holds a server session: a pooler with a single session cannot answer it.
const HELD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a result holds while no connection is open that would notice an outage.
const UNWATCHED: Duration = Duration::from_secs(10);

/// Questions by each connection. A busy pooler may give a connection the same server session several times by chance.
const ROUNDS: usize = 5;

/// Two servers of one URL may have sessions with the same process id.
const SERVER_SESSION: &str = "SELECT pg_backend_pid() || ' ' || pg_postmaster_start_time()";

/// What is known of one URL. Determined when first asked for, and again after the database was unreachable.
pub(super) struct PoolingState {
    /// The setting that holds the URL.
    setting: &'static str,
    /// Whether notifications come by another URL.
    listens_elsewhere: bool,
    found: Mutex<Found>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Found {
    pooling: Option<Pooling>,
    logged: Option<Pooling>,
    failed_at: Option<Instant>,
    /// Open connections, and when the last one of them ended.
    open: usize,
    closed_at: Option<Instant>,
}

/// An open connection of a URL.
pub(super) struct Open(Arc<PoolingState>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut found = self.0.lock();
        found.open -= 1;
        found.closed_at = Some(Instant::now());
    }
}

impl PoolingState {
    pub(super) fn new(setting: &'static str, listens_elsewhere: bool) -> Self {
        Self { setting, listens_elsewhere, found: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// `None`: not determined, or not since the database was unreachable.
    pub(super) fn current(&self) -> Option<Pooling> {
        self.lock().pooling
    }

    /// The database was unreachable: something else may stand in its place now.
    pub(super) fn forget(&self) {
        self.lock().pooling = None;
    }

    /// A connection was made. Held until it ends.
    pub(super) fn opened(self: &Arc<Self>) -> Open {
        let mut found = self.lock();
        if found.open == 0 && found.closed_at.is_some_and(|closed| closed.elapsed() > UNWATCHED) {
            found.pooling = None;
        }
        found.open += 1;
        drop(found);
        Open(Arc::clone(self))
    }

    /// One detection at a time; callers that waited for one take its result. `None`: it failed.
    pub(super) async fn determine(&self, connector: &Connector) -> Option<Pooling> {
        let asked = Instant::now();
        let _turn = self.turn.lock().await;
        if let Some(pooling) = self.current() {
            return Some(pooling);
        }
        if self.lock().failed_at.is_some_and(|failed| failed > asked) {
            return None;
        }
        let detected = timeout(DETECTION_TIMEOUT, detect(connector)).await;
        match detected.context("finish in time").flatten() {
            Ok(pooling) => {
                self.lock().pooling = Some(pooling);
                self.log(pooling, connector.named(Some(pooling)));
                Some(pooling)
            }
            Err(error) => {
                self.lock().failed_at = Some(Instant::now());
                let (setting, error) = (self.setting, format!("{error:#}"));
                tracing::warn!(
                    event = "pooling_unknown",
                    setting,
                    error,
                    "pooler detection failed; connections are used as if through a pooler"
                );
                None
            }
        }
    }

    /// Once for each change.
    fn log(&self, pooling: Pooling, named: bool) {
        let setting = self.setting;
        if self.lock().logged.replace(pooling) == Some(pooling) {
            return;
        }
        let statements = if named { "named" } else { "unnamed" };
        match pooling {
            Pooling::Direct => tracing::info!(event = "pooling", setting, pooling = "direct", statements, "no transaction-mode pooler"),
            Pooling::Transaction { tracks_statements } => {
                let advice = if self.listens_elsewhere {
                    ""
                } else {
                    "; set database.listen_url (CXDA_DATABASE__LISTEN_URL) to a direct connection, since notifications of changes do not pass a pooler"
                };
                tracing::warn!(
                    event = "pooling",
                    setting,
                    pooling = "transaction",
                    tracks_statements,
                    statements,
                    "connections lead through a transaction-mode pooler{advice}"
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn detect(connector: &Connector) -> anyhow::Result<Pooling> {
    let opened = tokio::try_join!(connector.open(), connector.open()).map_err(|error| described(&error));
    let ((first, _), (second, _)) = opened.context("open two connections")?;
    let shared = share_sessions(&first, &second).await.map_err(|error| described(&error)).context("compare server sessions")?;
    if !shared {
        return Ok(Pooling::Direct);
    }
    let tracks = tracks_statements(&first).await.map_err(|error| described(&error)).context("prepare a statement")?;
    Ok(Pooling::Transaction { tracks_statements: tracks })
}

/// Whether a server session served both connections, or a connection was served by more than one.
async fn share_sessions(first: &Client, second: &Client) -> Result<bool, Error> {
    let sessions = (value(first, SERVER_SESSION).await?, value(second, SERVER_SESSION).await?);
    if sessions.0 == sessions.1 {
        return Ok(true);
    }
    for _ in 1..ROUNDS {
        if (value(first, SERVER_SESSION).await?, value(second, SERVER_SESSION).await?) != sessions {
            return Ok(true);
        }
    }
    // A pooler that gives each client the server session that it had before cannot do so while another client holds that one.
    let held = value(second, &format!("BEGIN; {SERVER_SESSION}")).await?;
    let met = timeout(HELD_TIMEOUT, value(first, SERVER_SESSION)).await;
    second.batch_execute("ROLLBACK").await?;
    Ok((met.ok().transpose()?, held) != (Some(sessions.0), sessions.1))
}

/// Whether the pooler gives named statements names of its own, which it does in order to prepare them in each server session that a
/// client meets. The statement ends within the transaction: nothing of it is left in the server session.
async fn tracks_statements(client: &Client) -> Result<bool, Error> {
    client.batch_execute("BEGIN").await?;
    let text = format!("SELECT 1 AS cxda_{}", Uuid::new_v4().simple());
    let tracks = match client.prepare(&text).await {
        Ok(_statement) => {
            let name = value(client, &format!("SELECT name FROM pg_prepared_statements WHERE statement = '{text}'")).await?;
            Ok(name.is_some_and(|name| !is_ours(&name)))
        }
        // Another client has left a statement of that name.
        Err(error) if error.code() == Some(&SqlState::DUPLICATE_PSTATEMENT) => Ok(false),
        Err(error) => Err(error),
    };
    client.batch_execute("ROLLBACK").await?;
    tracks
}

/// Whether tokio-postgres names statements like that.
fn is_ours(name: &str) -> bool {
    name.strip_prefix('s').is_some_and(|number| number.parse::<u64>().is_ok())
}

/// The last value that these statements give, by the simple protocol, which leaves no statement behind.
async fn value(client: &Client, sql: &str) -> Result<Option<String>, Error> {
    let messages = client.simple_query(sql).await?;
    let values = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(values.last().map(str::to_owned))
}
