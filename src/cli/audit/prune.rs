//! `audit prune`.

use std::time::Duration;

use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use clap::Args;

use super::super::say;
use crate::adapters::postgres::audit_log::{AuditLog, Partition};
use crate::adapters::postgres::connect::Connector;
use crate::config::Config;

#[derive(Args)]
pub(in super::super) struct Options {
    /// Only partitions whose last row is older than this, such as `400d`.
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Duration,
    /// Show what would be dropped, and drop nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(config: &Config, options: &Options) -> anyhow::Result<()> {
    let log = AuditLog::open(&Connector::for_migrations(config.owner_url()?, &config.database)?).await?;
    let before = chrono::TimeDelta::from_std(options.older_than).ok().and_then(|age| Utc::now().checked_sub_signed(age));
    let partitions = log.partitions_before(before.context("reckon with an age that long")?).await?;
    if partitions.is_empty() {
        say("nothing to drop");
    }
    for partition in &partitions {
        let Partition { name, until, size } = partition;
        if !options.dry_run {
            log.drop_partition(partition).await?;
        }
        let done = if options.dry_run { "would drop" } else { "dropped" };
        let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
        say(format_args!("{done}  {name}  until {until}  {} MiB", size.div_ceil(1 << 20)));
    }
    Ok(())
}
