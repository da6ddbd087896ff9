//! `audit export` and `audit prune`.

mod cell;
mod export;
mod prune;

use clap::Subcommand;

use super::Settings;
use crate::telemetry;

#[derive(Subcommand)]
pub(super) enum Step {
    /// Write rows of the audit log, in the order of time.
    Export(export::Options),
    /// Drop months of the audit log that are over and past retention.
    Prune(prune::Options),
}

pub(super) async fn run(settings: &Settings, step: Step) -> anyhow::Result<()> {
    let config = settings.load()?;
    telemetry::start_on_stderr(&config.log.filter);
    match step {
        Step::Export(options) => export::run(&config, &options).await,
        Step::Prune(options) => prune::run(&config, &options).await,
    }
}
