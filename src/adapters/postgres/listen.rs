//! Hears of changed customers, by the notifications that a trigger sends, and proves by a beat that it hears: a connection
//! that has gone silent says nothing of it.
//!
//! Beats are sent over a connection of their own, made with the URL of lookups. A beat that arrives shows that the listener is
//! connected to the database that lookups reach, and that no pooler between has swallowed its `LISTEN`.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Notification, SimpleQueryMessage};
use uuid::Uuid;

use super::connect::Connector;
use super::failure::described;
use super::pooling::Pooling;
use crate::app::ports::{Beat, Change, Watch};
use crate::domain::{CustomerId, Epoch, ServerStart, TenantId};
use crate::metrics::Metrics;

/// Where the trigger of migration V5 tells of changes.
const CHANGES: &str = "cxda_customers";

/// How often a beat is sent, and how soon it must be back: together, the longest that a change can go unheard without anybody
/// noticing.
const BEAT_EVERY: Duration = Duration::from_millis(500);
const BEAT_PATIENCE: Duration = Duration::from_millis(500);

/// Between two attempts to connect.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// An error that stays the same is told of so often.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// How many notifications are taken in one go.
const AT_A_TIME: usize = 64;

/// The database cluster, which a physical copy shares.
const CLUSTER: &str = "SELECT system_identifier FROM pg_control_system()";

/// Why a beat that Postgres has taken is not heard.
const NOT_ARRIVED: &str = "a beat was sent and did not arrive: behind a pooler in transaction mode, database.listen_url has to lead to \
     Postgres itself, and to the database of database.url";

/// Why `LISTEN` is not even sent.
const THROUGH_POOLER: &str =
    "notifications do not pass a pooler in transaction mode: set database.listen_url to a URL that leads to Postgres itself";

/// The connections that a listener makes.
pub struct Connectors {
    /// To Postgres itself.
    pub listener: Connector,
    /// The way that lookups take.
    pub beats: Connector,
}

/// Listens for ever, over one pair of connections after the other.
pub async fn listen(connectors: Connectors, watch: Arc<dyn Watch>, metrics: Arc<Metrics>) {
    let (mut pause, mut told) = (SHORTEST_PAUSE, None);
    loop {
        let began = Instant::now();
        let ended = session(&connectors, &*watch, &metrics).await;
        watch.lost();
        metrics.listening(false);
        if began.elapsed() > LONGEST_PAUSE {
            pause = SHORTEST_PAUSE;
        }
        if let Err(error) = ended {
            tell(format!("{error:#}"), &mut told);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Warns, of the same error once a minute.
fn tell(error: String, told: &mut Option<(String, Instant)>) {
    if told.as_ref().is_some_and(|(last, at)| *last == error && at.elapsed() < TELL_EVERY) {
        tracing::debug!(error, "changes of customers are not heard of");
    } else {
        tracing::warn!(error, "changes of customers are not heard of: nothing is cached");
        *told = Some((error, Instant::now()));
    }
}

/// One pair of connections, until one of them fails.
async fn session(connectors: &Connectors, watch: &dyn Watch, metrics: &Metrics) -> anyhow::Result<()> {
    // Each `LISTEN` would stay in a server session of the pooler.
    if matches!(connectors.listener.pooling().await, Some(Pooling::Transaction { .. })) {
        bail!(THROUGH_POOLER);
    }
    let connected = timeout(connectors.listener.patience(), connectors.listener.listening()).await.context("connect in time")?;
    let (client, notifications) = connected.map_err(|error| described(&error)).context("connect")?;
    let own = format!("cxda_beat_{}", Uuid::new_v4().simple());
    let listen = format!("LISTEN {CHANGES}; LISTEN {own}");
    timeout(BEAT_PATIENCE, client.batch_execute(&listen)).await.context("listen in time")?.map_err(|error| described(&error))?;
    let (sender, _connection) = connectors.beats.client_in_time().await.context("connect for beats")?;
    let beats = Beats { cluster: in_patience(cluster(&sender)).await?, sender, channel: own };
    let (heard, arrived) = watch::channel(0);
    tokio::select! {
        ended = receive(notifications, &beats.channel, watch, &heard) => ended,
        ended = beat(&beats, watch, arrived, metrics) => ended,
    }
}

/// What identifies the database cluster; 0 where the server does not tell, so that the other parts of an epoch have to do.
async fn cluster(client: &Client) -> anyhow::Result<u64> {
    let answer = match client.simple_query(CLUSTER).await {
        Ok(answer) => answer,
        Err(error) if error.as_db_error().is_some() => return Ok(0),
        Err(error) => return Err(described(&error)),
    };
    let row = |message: &SimpleQueryMessage| if let SimpleQueryMessage::Row(row) = message { row.get(0)?.parse().ok() } else { None };
    Ok(answer.iter().find_map(row).unwrap_or_default())
}

/// Sends beats.
struct Beats {
    sender: Client,
    cluster: u64,
    channel: String,
}

impl Beats {
    /// Takes its number after the beat was sent. The queue of notifications is one for the whole database, so changes that were committed
    /// before the beat arrive before it.
    ///
    /// One statement, without a name and without session state: a pooler may run each on another server connection. The statistics
    /// begin anew after a crash, which keeps the start of the server, but may lose commits that were not waited for.
    async fn send(&self, number: u64) -> Result<(), tokio_postgres::Error> {
        let Self { sender, cluster, channel } = self;
        let statement = format!(
            "SELECT set_config('synchronous_commit', 'off', true), \
             pg_notify('{channel}', concat_ws(' ', '{number}', pg_current_xact_id(), server, {cluster}, database, statistics)) \
             FROM (SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS server, \
             (SELECT oid FROM pg_database WHERE datname = current_database()) AS database, \
             (SELECT (extract(epoch FROM stats_reset) * 1000000)::bigint FROM pg_stat_bgwriter) AS statistics) AS identity"
        );
        sender.batch_execute(&statement).await
    }
}

/// Passes on what is heard.
async fn receive(
    mut notifications: mpsc::Receiver<Notification>,
    own: &str,
    watch: &dyn Watch,
    heard: &watch::Sender<u64>,
) -> anyhow::Result<()> {
    let (mut batch, mut epoch) = (Vec::new(), None);
    while notifications.recv_many(&mut batch, AT_A_TIME).await > 0 {
        let mut changes = Vec::new();
        for notification in batch.drain(..) {
            if notification.channel() == own {
                // Whatever came before the beat is said before it.
                pass_on(watch, &mut changes).await;
                let beat = read_beat(notification.payload()).context("read a beat")?;
                // Of one session all beats are of one history: what was heard between two may have been of either.
                if *epoch.get_or_insert(beat.epoch) != beat.epoch {
                    bail!("the database was replaced or restarted");
                }
                watch.beat_heard(beat);
                heard.send_replace(beat.number);
            } else {
                changes.push(change(notification.payload()));
            }
        }
        pass_on(watch, &mut changes).await;
    }
    bail!("the connection ended")
}

async fn pass_on(watch: &dyn Watch, changes: &mut Vec<Change>) {
    if !changes.is_empty() {
        watch.changed(std::mem::take(changes)).await;
    }
}

/// A beat as [`Beats::send`] writes it: its number, the transaction id, the start of the server, and what else tells one history from
/// another.
fn read_beat(payload: &str) -> Option<Beat> {
    let mut words = payload.splitn(3, ' ');
    let (number, seen, identity) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
    let server = ServerStart(identity.split(' ').next()?.parse().ok()?);
    let digest: [u8; 32] = Sha256::digest(identity).into();
    let epoch = Epoch(u64::from_be_bytes(*digest.first_chunk()?));
    Some(Beat { number, seen, server, epoch })
}

/// Sends a beat now and then, and fails where it does not come back.
async fn beat(beats: &Beats, watch: &dyn Watch, mut arrived: watch::Receiver<u64>, metrics: &Metrics) -> anyhow::Result<()> {
    for beat in 1.. {
        watch.beat_sent(beat);
        let sent = Instant::now();
        in_patience(async { beats.send(beat).await.map_err(|error| described(&error)) }).await.context("send a beat")?;
        let arrival = async { arrived.wait_for(|heard| *heard >= beat).await.map(drop).context("hear a beat") };
        let arrival = timeout(BEAT_PATIENCE.saturating_sub(sent.elapsed()), arrival).await;
        arrival.context(NOT_ARRIVED)??;
        metrics.notified(sent.elapsed());
        metrics.listening(true);
        sleep(BEAT_EVERY).await;
    }
    Ok(())
}

async fn in_patience<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(BEAT_PATIENCE, work).await.context("get an answer in time")?
}

/// What the trigger says.
#[derive(Deserialize)]
struct Payload {
    customers: Option<Vec<(String, Uuid, u64)>>,
    tenants: Option<Vec<String>>,
}

/// What is neither of the two, or not understood, may be about anybody.
fn change(payload: &str) -> Change {
    let tenant = |name: String| name.parse::<TenantId>().ok();
    match serde_json::from_str(payload) {
        Ok(Payload { customers: Some(customers), .. }) => {
            let customer = |(name, id, version)| Some((tenant(name)?, CustomerId::from_uuid(id)?, version));
            Change::Customers(customers.into_iter().filter_map(customer).collect())
        }
        Ok(Payload { tenants: Some(tenants), .. }) => Change::Tenants(tenants.into_iter().filter_map(tenant).collect()),
        Ok(_) | Err(_) => Change::All,
    }
}
