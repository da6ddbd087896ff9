//! Schema migrations: embedded, forward only, one instance at a time.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio_postgres::Client;

use super::connect::Connector;
use super::failure::described;
use super::triggers::{self, TriggerFault};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Rights of the role that the service runs as; see the file.
const RUNTIME_ROLE: &str = include_str!("../../../migrations/runtime_role.sql");

/// Told where that role is not there.
const NO_ROLE: &str = "the role cxda_runtime is not there, and this user may not make it: have somebody run \
    CREATE ROLE cxda_runtime NOLOGIN, then run migrate apply again to grant it its rights";

/// Held while migrating. Any number that no other program takes.
const LOCK: i64 = 0x6378_6461_5f6d_6967;

/// One migration and whether the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Such as `V1__customers`.
    pub name: String,
    /// Whether it is in the database.
    pub applied: bool,
}

/// What `apply` did.
pub struct Applied {
    /// The migrations that the database lacked.
    pub migrations: Vec<String>,
    /// The triggers that were not as the migrations make them. They are now.
    pub triggers: Vec<TriggerFault>,
}

/// Every migration that this binary knows, in order. Fails where the database has one of the same number and other text.
pub async fn status(connector: &Connector) -> anyhow::Result<Vec<Migration>> {
    let (client, _task) = connect(connector).await?;
    read_status(&client).await
}

/// Applies what is pending, and puts the triggers of customers right. Several instances may call it at once: one works, the
/// others wait for it and find nothing to do.
///
/// Warns where the role that the service runs as is not there and could not be made.
pub async fn apply(connector: &Connector) -> anyhow::Result<Applied> {
    let (mut client, _task) = connect(connector).await?;
    // Tied to the session: whatever becomes of us, the lock ends with the connection.
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(|e| described(&e)).context("take the migration lock")?;
    let report = embedded::migrations::runner().run_async(&mut client).await.map_err(|e| chained(&e)).context("apply the migrations")?;
    let triggers = triggers::repair(&client).await?;
    client.batch_execute(RUNTIME_ROLE).await.map_err(|e| described(&e)).context("grant the runtime role its rights")?;
    let role = client.query_opt("SELECT FROM pg_roles WHERE rolname = 'cxda_runtime'", &[]).await.map_err(|e| described(&e))?;
    if role.is_none() {
        tracing::warn!("{NO_ROLE}");
    }
    let applied = report.applied_migrations().iter();
    Ok(Applied { migrations: applied.map(|migration| format!("V{}__{}", migration.version(), migration.name())).collect(), triggers })
}

/// Triggers of customers that are not as the migrations make them, in a database that has every migration.
pub async fn trigger_faults(connector: &Connector) -> anyhow::Result<Vec<TriggerFault>> {
    let (client, _task) = connect(connector).await?;
    triggers::faults(&client).await.map_err(|e| described(&e)).context("look at the triggers of customers")
}

/// Adds customers given as a JSON list of `{tenant_id, id, name, status, attributes}`; those that are there stay as they are.
pub async fn add_customers(connector: &Connector, json: &str) -> anyhow::Result<()> {
    const ADD: &str = "\
        INSERT INTO customers (tenant_id, id, name, status, attributes) \
        SELECT tenant_id, id, name, status, attributes \
        FROM jsonb_to_recordset($1::text::jsonb) AS c(tenant_id text, id uuid, name text, status text, attributes jsonb) \
        ON CONFLICT DO NOTHING";
    let (client, _task) = connect(connector).await?;
    client.execute(ADD, &[&json]).await.map_err(|e| described(&e))?;
    Ok(())
}

/// Waits for a database that is not there yet.
pub async fn wait_until_reachable(connector: &Connector, patience: Duration) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        match connector.client_in_time().await {
            Ok(_) => return Ok(()),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error).context("reach the database"),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the database cannot be reached yet"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn connect(connector: &Connector) -> anyhow::Result<(Client, tokio::task::JoinHandle<()>)> {
    connector.client_in_time().await.context("reach the database")
}

async fn read_status(client: &Client) -> anyhow::Result<Vec<Migration>> {
    let known = embedded::migrations::runner();
    let exists: bool =
        client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await.map_err(|e| described(&e))?.get(0);
    let rows = if exists {
        let sql = "SELECT version, checksum FROM refinery_schema_history ORDER BY version";
        client.query(sql, &[]).await.map_err(|e| described(&e)).context("read which migrations are applied")?
    } else {
        Vec::new()
    };
    let applied: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut all = Vec::new();
    for migration in known.get_migrations() {
        let name = format!("V{}__{}", migration.version(), migration.name());
        let found = applied.iter().find(|(version, _)| *version == migration.version());
        if found.is_some_and(|(_, checksum)| *checksum != migration.checksum().to_string()) {
            bail!("the database has another {name} than this binary");
        }
        all.push(Migration { name, applied: found.is_some() });
    }
    Ok(all)
}

/// refinery's own words say only "db error".
fn chained(error: &refinery::Error) -> anyhow::Error {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_words = match inner.downcast_ref::<tokio_postgres::Error>() {
            Some(db) => described(db).to_string(),
            None => inner.to_string(),
        };
        words = format!("{words}: {inner_words}");
        cause = if inner.is::<tokio_postgres::Error>() { None } else { inner.source() };
    }
    anyhow::anyhow!(words)
}
