//! `audit export`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};
use clap::{Args, ValueEnum};
use uuid::Uuid;

use super::cell::inert;
use crate::adapters::postgres::audit_log::{AuditLog, Entry, Range};
use crate::adapters::postgres::connect::Connector;
use crate::config::Config;
use crate::domain::TenantId;

#[derive(Args)]
pub(in super::super) struct Options {
    /// Only rows of this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// From this time on: RFC 3339, or a date (its beginning in UTC).
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<DateTime<Utc>>,
    /// Until before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<DateTime<Utc>>,
    /// CSV is for spreadsheets: a cell that begins like a formula gets a leading apostrophe, and control characters are written as
    /// `\u{202e}`. JSON Lines keeps every value as it is.
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Where to write; standard output where not given.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

pub(super) async fn run(config: &Config, options: &Options) -> anyhow::Result<()> {
    if let (Some(from), Some(to)) = (options.from, options.to) {
        ensure!(from < to, "--to must be later than --from: rows are taken from the one until before the other");
    }
    let log = AuditLog::open(&Connector::for_migrations(config.database_url()?, &config.database)?).await?;
    let range = Range { tenant: options.tenant, from: options.from, to: options.to };
    match &options.output {
        None => match copy(&log, &range, io::stdout(), options.format).await {
            Err(error) if reader_gone(&error) => Ok(()),
            outcome => outcome,
        },
        Some(path) => {
            // Under its own name only when it is whole: half of a log is easily taken for all of it.
            let part = PathBuf::from(format!("{}.part", path.display()));
            let outcome = copy(&log, &range, create(&part)?, options.format).await;
            let outcome = outcome.and_then(|()| fs::rename(&part, path).with_context(|| format!("write {}", path.display())));
            if outcome.is_err() {
                let _as_well_as_can_be = fs::remove_file(&part);
            }
            outcome
        }
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.with_context(|| format!("write {}", path.display()))
}

async fn copy(log: &AuditLog, range: &Range, output: impl Write, format: Format) -> anyhow::Result<()> {
    let mut output = BufWriter::with_capacity(64 << 10, output);
    match format {
        Format::Jsonl => {
            log.read(range, |entry| {
                serde_json::to_writer(&mut output, entry).map_err(io::Error::from)?;
                Ok(output.write_all(b"\n")?)
            })
            .await?;
        }
        Format::Csv => {
            let mut lines = csv::Writer::from_writer(&mut output);
            lines.write_record(HEADER).map_err(io_error)?;
            log.read(range, |entry| Ok(lines.write_record(record(entry)).map_err(io_error)?)).await?;
            lines.flush()?;
        }
    }
    Ok(output.flush()?)
}

const HEADER: [&str; 10] =
    ["occurred_at", "id", "tenant_id", "action", "source", "customer_ids", "missing_ids", "key_id", "request_id", "contact_id"];

fn record(entry: &Entry) -> [String; HEADER.len()] {
    let ids = |ids: &[Uuid]| ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(" ");
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        entry.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        entry.id.to_string(),
        entry.tenant_id.clone(),
        entry.action.clone(),
        entry.source.clone(),
        ids(&entry.customer_ids),
        ids(&entry.missing_ids),
        text(&entry.key_id),
        text(&entry.request_id),
        text(&entry.contact_id),
    ]
    .map(|cell| inert(&cell).into_owned())
}

/// With its kind, which `io::Error::from` would hide.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// Somebody who stops reading is no failure of ours.
fn reader_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let date = || text.parse::<NaiveDate>().map(|date| date.and_time(NaiveTime::MIN).and_utc());
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    time.or_else(|_| date()).map_err(|_| "must be RFC 3339 (2026-01-02T03:04:05Z) or a date (2026-01-02)".to_owned())
}
