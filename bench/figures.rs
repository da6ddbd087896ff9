//! All figures at once: the service in its ways of running beside what Postgres, Redis and HTTP do by themselves, and beside
//! any peers, in interleaved rounds.

mod bare;
mod instance;
mod latency;
pub(crate) mod machine;
mod open_loop;
mod pgbench;
mod plot;
mod redis_benchmark;
mod rig;
mod rows;
mod sweeps;
mod usage;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::Options;
use crate::client::BATCH;
use crate::table::{Spread, Table, number};
use pgbench::Form;
use rig::{Populated, Rig};
use rows::{Entrant, Ids, Pace, Round, Who, rounds};
use usage::peak_memory;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Section {
    /// Everybody, at one number of connections.
    Main,
    /// 1, 8, 32 and 128 connections.
    Connections,
    /// 1, 10 and 100 ids a request.
    Batches,
    /// All the numbers of `--customers`.
    Customers,
    /// Half of what they can do, timed from the intended instant.
    Latency,
    /// From a tenth to nine tenths of it.
    Load,
}

/// What only the scene figures knows.
#[derive(Args)]
pub(crate) struct Choice {
    /// Sections of the scene figures, separated by commas; all where none is named.
    #[arg(long, value_delimiter = ',')]
    section: Vec<Section>,
    /// Another service to be measured in the same rounds, as `NAME=URL`. What it needs to know is printed, and it is waited for.
    #[arg(long)]
    peer: Vec<String>,
    /// Customers that are asked for again and again.
    #[arg(long, default_value_t = 20_000)]
    hot: i32,
    /// Draws throughput against connections and latency against load, as SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Where the log of the measured services goes, which is thrown away otherwise.
    #[arg(long)]
    pub(crate) log: Option<PathBuf>,
    /// What the bare route answers.
    #[arg(long, hide = true)]
    body: Option<PathBuf>,
}

pub(crate) async fn run(options: &Options) {
    let chosen = |section| options.figures.section.is_empty() || options.figures.section.contains(&section);
    let rig = Rig::new(options).await;
    let mut panels = Vec::new();
    if chosen(Section::Main) {
        main(&rig).await;
    }
    if chosen(Section::Connections) {
        panels.push(sweeps::connections(&rig).await);
    }
    if chosen(Section::Batches) {
        sweeps::batches(&rig).await;
    }
    if chosen(Section::Latency) {
        latency::half(&rig).await;
    }
    if chosen(Section::Load) {
        panels.push(latency::load(&rig).await);
    }
    if chosen(Section::Customers) {
        sweeps::customers(&rig).await;
    }
    if let Some(path) = &options.figures.plot {
        std::fs::write(path, plot::draw(&panels)).expect("a file that can be written");
    }
    machine::describe(&rig).await;
}

/// The bare route, until it is killed.
pub(crate) async fn bare(options: &Options) {
    bare::serve(options.figures.body.as_ref().expect("--body FILE")).await;
}

impl Rig<'_> {
    /// One who takes part as most do.
    fn entrant<'a>(&'a self, name: &str, who: Who<'a>) -> Entrant<'a> {
        Entrant { name: name.to_owned(), who, on: &self.main, connections: self.options.connections, batch: BATCH, pace: Pace::Closed }
    }

    fn uncached(&self) -> Entrant<'_> {
        self.entrant("uncached", Who::Service { instance: &self.uncached, ids: Ids::Random, audited: true })
    }

    fn audited(&self) -> Entrant<'_> {
        self.entrant("cached and audited", Who::Service { instance: &self.audited, ids: Ids::Hot, audited: true })
    }

    fn unaudited(&self) -> Entrant<'_> {
        self.entrant("cached, no audit", Who::Service { instance: &self.unaudited, ids: Ids::Hot, audited: false })
    }

    fn bare(&self) -> Entrant<'_> {
        self.entrant("bare route", Who::Bare(&self.bare))
    }

    fn pgbench(&self) -> Entrant<'_> {
        self.entrant("pgbench, four statements", Who::Pgbench(Form::Alone))
    }
}

/// Everybody, beside `pgbench` and the bare route.
async fn main(rig: &Rig<'_>) {
    let from_redis = Who::Service { instance: &rig.from_redis, ids: Ids::Hot, audited: false };
    let mixed = Who::Service { instance: &rig.mixed, ids: Ids::Mixed, audited: true };
    let mut entrants = vec![
        rig.pgbench(),
        rig.bare(),
        rig.uncached(),
        rig.audited(),
        rig.unaudited(),
        rig.entrant("cached in Redis, no audit", from_redis),
        rig.entrant("80 % repeated ids, audited", mixed),
        rig.entrant("pgbench, 16 lookups a transaction", Who::Pgbench(Form::Shared)),
        rig.entrant("redis-benchmark, MGET of 10", Who::RedisBenchmark),
    ];
    for (name, url) in &rig.peers {
        entrants.push(rig.entrant(name, Who::Peer { url, ids: Ids::Random }));
        entrants.push(rig.entrant(&format!("{name}, repeated requests"), Who::Peer { url, ids: Ids::Hot }));
    }
    let all = rounds(rig, "main", &entrants).await;
    let mut table = Table::new(&[
        "",
        "lookups/s",
        "of pgbench",
        "of the bare route",
        "p50 ms",
        "p99 ms",
        "CPU s/1000: service",
        "stores",
        "client",
        "peak MiB",
    ]);
    for (entrant, own) in entrants.iter().zip(&all) {
        let peak = match entrant.who {
            Who::Service { instance, .. } | Who::Bare(instance) => peak_memory(instance.pid()),
            Who::Peer { .. } | Who::Pgbench(_) | Who::RedisBenchmark => f64::NAN,
        };
        table.row([
            entrant.name.clone(),
            spread(own, |round| round.rate).show(0),
            ratio(own, &all[0], |round| round.rate).show(2),
            ratio(own, &all[1], |round| round.rate).show(2),
            number(spread(own, |round| round.quantiles[0]).median, 2),
            spread(own, |round| round.quantiles[1]).show(1),
            number(spread(own, |round| round.cpu.service).median, 4),
            number(spread(own, |round| round.cpu.stores).median, 4),
            number(spread(own, |round| round.cpu.client).median, 4),
            number(peak, 0),
        ]);
    }
    let Populated { customers, hot, .. } = rig.main;
    let connections = rig.options.connections;
    table.print(&format!(
        "{} customers, {BATCH} ids a call, {connections} connections; what is cached: {} customers. {}",
        number(f64::from(customers), 0),
        number(f64::from(hot), 0),
        rig.options.rounds_told()
    ));
    for (entrant, own) in entrants.iter().zip(&all) {
        let failures: usize = own.iter().map(|round| round.failures).sum();
        if failures > 0 {
            println!("{}: {failures} answers were none or not 200, and are not counted", entrant.name);
        }
    }
}

fn spread(rounds: &[Round], value: impl Fn(&Round) -> f64) -> Spread {
    Spread::of(rounds.iter().map(value))
}

/// Of each round to the same round of another row, since both saw the same machine.
fn ratio(rounds: &[Round], base: &[Round], value: impl Fn(&Round) -> f64) -> Spread {
    Spread::of(rounds.iter().zip(base).map(|(round, base)| value(round) / value(base)))
}
