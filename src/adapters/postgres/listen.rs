//! Hears of changed customers, by the notifications that a trigger sends, and proves by a beat that it hears: a connection
//! that has gone silent says nothing of it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Notification};
use uuid::Uuid;

use super::connect::Connector;
use super::failure::described;
use crate::app::ports::{Change, Watch};
use crate::domain::{CustomerId, TenantId};
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

/// How many notifications are taken in one go.
const AT_A_TIME: usize = 64;

/// Takes its number after the beat was sent. The queue of notifications is one for the whole database, so whatever was committed
/// before comes before.
const BEAT: &str = "SELECT pg_notify($1, $2 || ' ' || pg_current_xact_id()::text)";

/// Listens for ever, over one connection after the other.
pub async fn listen(connector: Connector, watch: Arc<dyn Watch>, metrics: Arc<Metrics>) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let began = Instant::now();
        let ended = session(&connector, &*watch, &metrics).await;
        watch.lost();
        metrics.listening(false);
        if began.elapsed() > LONGEST_PAUSE {
            pause = SHORTEST_PAUSE;
        }
        if let Err(error) = ended {
            tracing::warn!(error = format!("{error:#}"), "changes of customers are not heard of: nothing is cached");
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection, until it fails.
async fn session(connector: &Connector, watch: &dyn Watch, metrics: &Metrics) -> anyhow::Result<()> {
    let connected = timeout(connector.patience(), connector.listening()).await.context("connect in time")?;
    let (client, notifications) = connected.map_err(|error| described(&error)).context("connect")?;
    let own = format!("cxda_beat_{}", Uuid::new_v4().simple());
    let listen = format!("LISTEN {CHANGES}; LISTEN {own}");
    timeout(BEAT_PATIENCE, client.batch_execute(&listen)).await.context("listen in time")?.map_err(|error| described(&error))?;
    let (heard, beats) = watch::channel(0);
    tokio::select! {
        ended = receive(notifications, &own, watch, &heard) => ended,
        ended = beat(&client, &own, watch, beats, metrics) => ended,
    }
}

/// Passes on what is heard.
async fn receive(
    mut notifications: mpsc::Receiver<Notification>,
    own: &str,
    watch: &dyn Watch,
    heard: &watch::Sender<u64>,
) -> anyhow::Result<()> {
    let mut batch = Vec::new();
    while notifications.recv_many(&mut batch, AT_A_TIME).await > 0 {
        let mut changes = Vec::new();
        for notification in batch.drain(..) {
            if notification.channel() == own {
                // Whatever came before the beat is said before it.
                pass_on(watch, &mut changes).await;
                let (beat, number) = notification.payload().split_once(' ').context("read a beat")?;
                let (beat, number) = (beat.parse()?, number.parse()?);
                watch.beat_heard(beat, number);
                heard.send_replace(beat);
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

/// Sends a beat now and then, and fails where it does not come back.
async fn beat(client: &Client, own: &str, watch: &dyn Watch, mut beats: watch::Receiver<u64>, metrics: &Metrics) -> anyhow::Result<()> {
    for beat in 1.. {
        watch.beat_sent(beat);
        let sent = Instant::now();
        let back = async {
            let number = beat.to_string();
            client.query_one(BEAT, &[&own, &number]).await.map_err(|error| described(&error))?;
            beats.wait_for(|heard| *heard >= beat).await.context("hear a beat")?;
            anyhow::Ok(())
        };
        in_patience(back).await?;
        metrics.notified(sent.elapsed());
        metrics.listening(true);
        sleep(BEAT_EVERY).await;
    }
    Ok(())
}

async fn in_patience(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    timeout(BEAT_PATIENCE, work).await.context("hear a beat in time")?
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
