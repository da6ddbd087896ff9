//! `serve`: the service.

use anyhow::bail;
use clap::Args;
use secrecy::SecretString;

use super::{Settings, stop_signal};
use crate::adapters::postgres::connect::Connector;
use crate::adapters::postgres::migrate;
use crate::config::{Config, LogFormat};
use crate::server::{self, Storage};
use crate::telemetry;

#[derive(Args)]
pub(super) struct Options {
    /// Apply pending migrations first.
    #[arg(long)]
    auto_migrate: bool,
}

pub(super) async fn run(settings: &Settings, options: &Options) -> anyhow::Result<()> {
    let config = Config::load_for_serving(&settings.flags())?;
    let log = telemetry::start(config.log.format == LogFormat::Json, &config.log.filter);
    let stop = stop_signal()?;
    let owner = config.database.migrate_url.as_ref().or(config.database.url.as_ref());
    let work = async {
        let connector = connect(&config, config.database_url()?, owner.filter(|_| options.auto_migrate)).await?;
        server::start(&config, Storage::Postgres(Box::new(connector)), &log).await
    };
    tokio::pin!(stop);
    let running = tokio::select! {
        running = work => running?,
        () = &mut stop => return Ok(()),
    };
    running.until(stop).await
}

/// A connector to a database that has every migration; with an owner's URL, those that it lacks are applied first.
pub(super) async fn connect(config: &Config, url: &SecretString, owner: Option<&SecretString>) -> anyhow::Result<Connector> {
    let connector = Connector::for_lookups(url, &config.database)?;
    migrate::wait_until_reachable(&connector, config.database.startup_wait).await?;
    if let Some(owner) = owner {
        let owner = Connector::for_migrations(owner, &config.database)?;
        let applied = migrate::apply(&owner).await?;
        for name in applied.migrations {
            tracing::info!(migration = name, "migration applied");
        }
        for fault in applied.triggers {
            tracing::warn!(fault = %fault, "trigger repaired");
        }
    }
    require_migrations(&connector).await?;
    Ok(connector)
}

/// Fails where the database lacks a migration.
pub(super) async fn require_migrations(connector: &Connector) -> anyhow::Result<()> {
    let pending: Vec<_> = migrate::status(connector).await?.into_iter().filter(|migration| !migration.applied).map(|m| m.name).collect();
    if !pending.is_empty() {
        bail!("the database lacks {}; run: cxone-data-action migrate apply", pending.join(", "));
    }
    Ok(())
}
