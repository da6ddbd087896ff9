//! `migrate status` and `migrate apply`.

use anyhow::Context;
use clap::Subcommand;

use super::{Settings, demo, say};
use crate::adapters::postgres::connect::Connector;
use crate::adapters::postgres::migrate;
use crate::telemetry;

#[derive(Subcommand)]
pub(super) enum Step {
    /// List the migrations and whether the database has them.
    Status,
    /// Apply what is pending. Safe to run from several places at once.
    Apply {
        /// Add the demo customers of two tenants.
        #[arg(long)]
        demo: bool,
    },
}

pub(super) async fn run(settings: &Settings, step: &Step) -> anyhow::Result<()> {
    let config = settings.load()?;
    telemetry::start_on_stderr(&config.log.filter);
    let owner = Connector::for_migrations(config.owner_url()?, &config.database)?;
    match step {
        Step::Status => {
            let migrations = migrate::status(&owner).await?;
            for migration in &migrations {
                say(format_args!("{:8} {}", if migration.applied { "applied" } else { "pending" }, migration.name));
            }
            if migrations.iter().all(|migration| migration.applied) {
                for fault in migrate::trigger_faults(&owner).await? {
                    say(format_args!("wrong    {fault}; run: cxone-data-action migrate apply"));
                }
            }
        }
        Step::Apply { demo } => {
            migrate::wait_until_reachable(&owner, config.database.startup_wait).await?;
            let applied = migrate::apply(&owner).await?;
            for name in &applied.migrations {
                say(format_args!("applied  {name}"));
            }
            for fault in &applied.triggers {
                say(format_args!("repaired {fault}"));
            }
            if !applied.triggers.is_empty() {
                say("every instance was told to drop the customers that it has cached");
            }
            if applied.granted && applied.migrations.is_empty() {
                say("granted  the missing rights of the role cxda_runtime; no migration was pending");
            } else if applied.migrations.is_empty() && applied.triggers.is_empty() {
                say("nothing to apply");
            }
            if *demo {
                demo::load(&owner).await.context("load the demo customers")?;
                say("demo customers are in");
            }
        }
    }
    Ok(())
}
