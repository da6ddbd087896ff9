//! Schema migrations: embedded, forward only, one instance at a time.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

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
/// Between two attempts to take it.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// Begins the transaction that holds the lock: a lock of the session would stay in a pooler's server session. No time-out of this role
/// ends it early.
const BEGIN_LOCK: &str = "\
    BEGIN; SELECT set_config(name, '0', true) FROM pg_settings \
        WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')";

/// How long a second connection waits for a server session beside the lock's.
const SECOND_TIMEOUT: Duration = Duration::from_secs(10);

const NO_SECOND: &str = "migrations need two connections at a time, and the second got no answer. A pooler needs a pool of two for this \
    user; or set database.migrate_url (CXDA_DATABASE__MIGRATE_URL) to a direct connection";

/// Told where grants are missing, as after a restore into another cluster.
const NO_RIGHTS: &str = "this database user may not read which migrations are applied. Run cxone-data-action migrate apply as the owner, \
    which grants the role cxda_runtime its rights, and GRANT cxda_runtime TO this user";

/// The rights on all that the migrations have made.
const RIGHTS: &str = "\
    SELECT coalesce(string_agg(rights, ' ' ORDER BY rights), '') FROM ( \
        SELECT oid || relacl::text AS rights FROM pg_class WHERE relnamespace = to_regnamespace(current_schema()) \
            AND relname IN ('customers', 'refinery_schema_history', 'audit_log', 'idempotency') \
        UNION ALL SELECT oid || proacl::text FROM pg_proc WHERE pronamespace = to_regnamespace(current_schema()) \
            AND proname = 'audit_ensure_partitions' \
        UNION ALL SELECT oid || nspacl::text FROM pg_namespace WHERE oid = to_regnamespace(current_schema())) AS all_rights";

/// One migration and whether the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Such as `V1__customers`.
    pub name: String,
    /// Whether it is in the database.
    pub applied: bool,
}

/// What `apply` has done.
pub struct Applied {
    /// The names of the migrations that were pending.
    pub migrations: Vec<String>,
    /// The triggers that were not as the migrations make them. They are now.
    pub triggers: Vec<TriggerFault>,
    /// Whether the role of the service lacked rights, and has them now.
    pub granted: bool,
}

/// Every migration that this binary knows, in order. Fails where the database has one of the same number and other text.
pub async fn status(connector: &Connector) -> anyhow::Result<Vec<Migration>> {
    let (client, _task) = connect(connector).await?;
    read_status(&client).await
}

/// Applies what is pending, and puts the triggers of customers right. Several instances may call it at once: one works, the others
/// wait for it and find nothing to do.
///
/// Warns where the role that the service runs as is not there and could not be made.
pub async fn apply(connector: &Connector) -> anyhow::Result<Applied> {
    let (lock, _task) = connect(connector).await?;
    take_lock(&lock).await.map_err(|e| described(&e)).context("take the migration lock")?;
    let (mut client, _task) = connect(connector).await?;
    match timeout(SECOND_TIMEOUT, client.batch_execute("SELECT 1")).await {
        Ok(answered) => answered.map_err(|e| described(&e)).context("reach the database a second time")?,
        Err(_) => bail!(NO_SECOND),
    }
    let migrations = run(&mut client).await.map_err(|e| chained(&e)).context("apply the migrations")?;
    let triggers = triggers::repair(&client).await?;
    let before = rights(&client).await?;
    client.batch_execute(RUNTIME_ROLE).await.map_err(|e| described(&e)).context("grant the runtime role its rights")?;
    let granted = rights(&client).await? != before;
    let role = client.query_typed_opt("SELECT FROM pg_roles WHERE rolname = 'cxda_runtime'", &[]).await.map_err(|e| described(&e))?;
    if role.is_none() {
        tracing::warn!("{NO_ROLE}");
    }
    let _ended_before = lock.batch_execute("COMMIT").await;
    Ok(Applied { migrations, triggers, granted })
}

/// Triggers of customers that are not as the migrations make them, in a database that has every migration.
pub async fn trigger_faults(connector: &Connector) -> anyhow::Result<Vec<TriggerFault>> {
    let (client, _task) = connect(connector).await?;
    triggers::faults(&client).await.map_err(|e| described(&e)).context("look at the triggers of customers")
}

/// Takes the lock for a transaction. Waiting holds no transaction open: it would take a pooler's server session from the migrations.
async fn take_lock(client: &Client) -> Result<(), tokio_postgres::Error> {
    loop {
        client.batch_execute(BEGIN_LOCK).await?;
        let row = client.query_typed_one("SELECT pg_try_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
        if row.get(0) {
            return Ok(());
        }
        client.batch_execute("ROLLBACK").await?;
        sleep(LOCK_PAUSE).await;
    }
}

/// Gives the names of what it applied. refinery asks by a named statement; in a server session that a pooler shares, another client may
/// have left one of that name. The next try has another name.
async fn run(client: &mut Client) -> Result<Vec<String>, refinery::Error> {
    const TRIES: usize = 100;
    let mut tries = 0;
    loop {
        tries += 1;
        match embedded::migrations::runner().run_async(client).await {
            Err(error) if tries < TRIES && is_taken_name(&error) => {}
            report => {
                let name = |migration: &refinery::Migration| format!("V{}__{}", migration.version(), migration.name());
                return Ok(report?.applied_migrations().iter().map(name).collect());
            }
        }
    }
}

fn is_taken_name(error: &refinery::Error) -> bool {
    let cause = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let codes = cause.filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>()).filter_map(tokio_postgres::Error::code);
    codes.into_iter().any(|code| *code == SqlState::DUPLICATE_PSTATEMENT)
}

async fn rights(client: &Client) -> anyhow::Result<String> {
    let row = client.query_typed_one(RIGHTS, &[]).await.map_err(|e| described(&e)).context("read the rights of the runtime role")?;
    Ok(row.get(0))
}

/// Adds customers given as a JSON list of `{tenant_id, id, name, status, attributes}`; those that are there stay as they are.
pub async fn add_customers(connector: &Connector, json: &str) -> anyhow::Result<()> {
    const ADD: &str = "\
        INSERT INTO customers (tenant_id, id, name, status, attributes) \
        SELECT tenant_id, id, name, status, attributes \
        FROM jsonb_to_recordset($1::text::jsonb) AS c(tenant_id text, id uuid, name text, status text, attributes jsonb) \
        ON CONFLICT DO NOTHING";
    let (client, _task) = connect(connector).await?;
    client.execute_typed(ADD, &[(&json, Type::TEXT)]).await.map_err(|e| described(&e))?;
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
        client.query_typed_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await.map_err(|e| described(&e))?.get(0);
    let rows = if exists {
        let sql = "SELECT version, checksum FROM refinery_schema_history ORDER BY version";
        client.query_typed(sql, &[]).await.map_err(|error| {
            let context =
                if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) { NO_RIGHTS } else { "read which migrations are applied" };
            described(&error).context(context)
        })?
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
