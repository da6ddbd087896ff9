//! `import`: customers from CSV or JSON Lines, all of them or none.

mod columns;
mod csv;
mod fields;
mod json;
mod progress;
mod source;

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use tokio::sync::{mpsc, oneshot};

use self::columns::{Columns, Target, mapping};
use self::csv::CsvLines;
use self::fields::Fields;
use self::json::JsonLines;
use self::progress::{Progress, rate};
use self::source::Source;
use super::{Settings, say, serve};
use crate::adapters::postgres::connect::Connector;
use crate::adapters::postgres::load::Load;
use crate::domain::TenantId;
use crate::telemetry;

/// Sent to the database at once, and how many of these may wait.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;

/// Bad lines that are told one by one.
const TOLD: u64 = 20;

#[derive(Args)]
pub(super) struct Options {
    /// CSV with a header, or JSON Lines; gzip is understood. `-`: standard input.
    file: PathBuf,
    /// What is in it; by the file's name where not given.
    #[arg(long)]
    format: Option<Format>,
    /// Whose customers they are, where the file does not say.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Which column is what, such as `id=CustomerNumber,name=Full Name`; may be repeated.
    #[arg(long, value_name = "TARGET=COLUMN", value_delimiter = ',', value_parser = mapping)]
    map: Vec<(Target, String)>,
    /// Columns that are not to become attributes.
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    ignore: Vec<String>,
    /// What stands between the fields of CSV: one character, or `\t`.
    #[arg(long, default_value = ",", value_parser = delimiter)]
    delimiter: u8,
    /// Load the good lines where some are bad.
    #[arg(long)]
    skip_bad: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

/// One line of a file.
struct Line<'a> {
    /// That of its beginning, from 1.
    number: u64,
    /// What it says, or why it cannot be understood.
    fields: Result<Fields<'a>, String>,
}

enum Lines {
    Csv(Box<CsvLines>),
    Json(Box<JsonLines>),
}

/// The lines that are not loaded.
struct Bad {
    progress: Progress,
    count: u64,
}

pub(super) async fn run(settings: &Settings, options: Options) -> anyhow::Result<()> {
    let config = settings.load()?;
    telemetry::start_on_stderr(&config.log.filter);
    let columns = Columns::new(&options.map, &options.ignore)?;
    let format = options.format.or_else(|| told_by_name(&options.file)).context("say what the file is: --format csv, or jsonl")?;
    let (source, extent) = Source::open(&options.file)?;
    let lines = match format {
        Format::Csv => Lines::Csv(Box::new(CsvLines::new(source, options.delimiter, &columns, options.tenant.is_some())?)),
        Format::Jsonl => Lines::Json(Box::new(JsonLines::new(source, columns.clone()))),
    };
    let owner = Connector::for_migrations(config.owner_url()?, &config.database)?;
    serve::require_migrations(&owner).await?;
    let load = Load::begin(&owner).await?;
    let progress = Progress::new(extent);
    let outcome = work(load, lines, columns, &options, &progress).await;
    let time = progress.end();
    let summary = outcome?;
    say(format_args!("{summary} in {:.1} s, {:.0} rows/s", time.as_secs_f64(), rate(summary.read, time)));
    Ok(())
}

/// What came of it.
struct Summary {
    read: u64,
    inserted: u64,
    updated: u64,
    bad: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { read, inserted, updated, bad } = self;
        let unchanged = read.saturating_sub(inserted + updated + bad);
        write!(f, "read {read}: inserted {inserted}, updated {updated}, unchanged {unchanged}, bad {bad};")
    }
}

async fn work(load: Load, lines: Lines, columns: Columns, options: &Options, progress: &Progress) -> anyhow::Result<Summary> {
    let (chunks, encoded) = mpsc::channel(CHUNKS);
    let (tell, told) = oneshot::channel();
    let (tenant, mut own) = (options.tenant, progress.clone());
    // A thread of its own, for which nobody waits at the end: it may be waiting for standard input.
    thread::Builder::new().name("read".to_owned()).spawn(move || {
        let _nobody_waits = tell.send(read(lines, &columns, tenant, &chunks, &mut own));
    })?;
    load.receive(encoded).await?;
    let (read, count) = told.await.context("read the file")??;
    let mut bad = Bad { progress: progress.clone(), count };
    progress.stage("looking for customers that are named twice");
    let twins = load.take_out_twins(i64::try_from(TOLD)?).await?;
    for (line, first) in &twins.first {
        bad.add(line.unsigned_abs(), &format!("the same customer as in line {first}"));
    }
    bad.count += twins.count - twins.first.len() as u64;
    bad.tell_the_rest();
    if bad.count > 0 && !options.skip_bad {
        bail!("nothing is loaded: of {read} rows {} are bad (--skip-bad loads the others)", bad.count);
    }
    if !load.try_lock().await? {
        progress.tell("another import is writing: waiting for its end");
        load.lock().await?;
    }
    progress.stage(&format!("writing what is new in {} rows", read - bad.count));
    let (merged, loaded) = load.commit().await?;
    progress.stage("gathering statistics");
    if let Err(error) = loaded.analyze().await {
        progress.tell(&format!("the customers are in, but not analyzed: {error:#}; run as their owner: ANALYZE customers"));
    }
    Ok(Summary { read, inserted: merged.inserted, updated: merged.updated, bad: bad.count })
}

/// Reads to the end and hands on what is good. Gives the number of all rows and that of the bad ones.
fn read(
    mut lines: Lines,
    columns: &Columns,
    tenant: Option<TenantId>,
    chunks: &mpsc::Sender<Bytes>,
    progress: &mut Progress,
) -> anyhow::Result<(u64, u64)> {
    let mut bad = Bad { progress: progress.clone(), count: 0 };
    let (mut rows, mut encoded) = (0, Vec::with_capacity(CHUNK));
    while let Some(line) = lines.next()? {
        rows += 1;
        match line.fields.as_ref().map_err(Clone::clone).and_then(|fields| fields.row(line.number, tenant, columns)) {
            Ok(row) => row.encode(&mut encoded),
            Err(reason) => bad.add(line.number, &reason),
        }
        if encoded.len() >= CHUNK {
            let full = std::mem::replace(&mut encoded, Vec::with_capacity(CHUNK + CHUNK / 8));
            if chunks.blocking_send(full.into()).is_err() {
                bail!("the database takes no more");
            }
            progress.read(rows);
        }
    }
    if chunks.blocking_send(encoded.into()).is_err() {
        bail!("the database takes no more");
    }
    Ok((rows, bad.count))
}

impl Lines {
    fn next(&mut self) -> anyhow::Result<Option<Line<'_>>> {
        match self {
            Self::Csv(lines) => lines.next(),
            Self::Json(lines) => lines.next(),
        }
    }
}

impl Bad {
    fn add(&mut self, line: u64, reason: &str) {
        self.count += 1;
        if self.count <= TOLD {
            self.progress.tell(&format!("line {line}: {reason}"));
        }
    }

    fn tell_the_rest(&self) {
        if self.count > TOLD {
            self.progress.tell(&format!("and {} bad lines more", self.count - TOLD));
        }
    }
}

fn told_by_name(file: &Path) -> Option<Format> {
    let name = file.file_name()?.to_str()?.to_ascii_lowercase();
    match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        _ => None,
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        (r"\t", _) => Ok(b'\t'),
        (_, [b'"' | b'\r' | b'\n']) => Err("must not be a quote or the end of a line".to_owned()),
        (_, [one]) => Ok(*one),
        _ => Err("must be one ASCII character".to_owned()),
    }
}
