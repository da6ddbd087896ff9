//! Who takes part, and one round of each: what it did a second, how long its callers waited, what it used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::instance::Instance;
use super::rig::{Populated, Rig};
use super::usage::Cpu;
use super::{open_loop, pgbench, redis_benchmark};
use crate::client::{self, Requests, Sample, Until, quantiles};
use crate::support::{tally, wait_until};
use crate::table::count;

/// More requests than are answered in a second by whoever has to look each of them up.
const A_SECOND: usize = 15_000;
/// Before the first round.
const WARM_UP: Duration = Duration::from_secs(1);
/// Before what is timed from the intended instant counts: a table just emptied, a checkpoint just made and connections just opened
/// cost the first tens of milliseconds, which at 99 of 100 is all that would be seen of two seconds.
const SETTLING: Duration = Duration::from_millis(500);
/// Ids out of a hundred that are hot, where they are mixed.
const MIX: i32 = 80;

/// Whom requests ask for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ids {
    /// Anybody, in each round others.
    Random,
    /// The hot ones, by the same requests again and again.
    Hot,
    /// Mostly hot ones.
    Mixed,
}

#[derive(Clone, Copy)]
pub(crate) enum Who<'a> {
    /// The service, and whether each of its answers has to leave an audit row.
    Service {
        instance: &'a Instance,
        ids: Ids,
        audited: bool,
    },
    Peer {
        url: &'a str,
        ids: Ids,
    },
    Bare(&'a Instance),
    Pgbench(pgbench::Form),
    RedisBenchmark,
}

/// One row.
#[derive(Clone)]
pub(crate) struct Entrant<'a> {
    pub(crate) name: String,
    pub(crate) who: Who<'a>,
    pub(crate) on: &'a Populated,
    pub(crate) connections: usize,
    /// Ids of a request.
    pub(crate) batch: usize,
    pub(crate) pace: Pace,
}

#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection asks again when it is answered.
    Closed,
    /// So many requests a second.
    Open(f64),
}

/// What one round came to.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    /// Answers of 200 a second.
    pub(crate) rate: f64,
    /// Latencies in milliseconds: half, 99 in a hundred, 999 in a thousand.
    pub(crate) quantiles: [f64; 3],
    /// CPU seconds for a thousand of them.
    pub(crate) cpu: Cpu,
    /// Answers other than 200, of peers.
    pub(crate) failures: usize,
}

/// Rounds of all of them in turn, so that all of them see the same machine.
pub(crate) async fn rounds(rig: &Rig<'_>, section: &str, entrants: &[Entrant<'_>]) -> Vec<Vec<Round>> {
    eprintln!("{section}: warming up");
    for entrant in entrants {
        entrant.round(rig, WARM_UP).await;
    }
    let mut all: Vec<_> = entrants.iter().map(|_| Vec::new()).collect();
    for nth in 1..=rig.options.rounds {
        eprintln!("{section}: round {nth} of {}", rig.options.rounds);
        let mut order: Vec<_> = (0..entrants.len()).collect();
        if nth % 2 == 0 {
            order.reverse();
        }
        for which in order {
            all[which].push(entrants[which].round(rig, rig.options.round()).await);
        }
    }
    all
}

impl Entrant<'_> {
    /// The same over so many connections.
    pub(crate) fn over(&self, connections: usize) -> Self {
        Self { connections, ..self.clone() }
    }

    /// The same with so many ids a request.
    pub(crate) fn asking(&self, batch: usize) -> Self {
        Self { batch, ..self.clone() }
    }

    /// The same with so many requests a second.
    pub(crate) fn paced(&self, rate: f64) -> Self {
        Self { pace: Pace::Open(rate), ..self.clone() }
    }

    async fn round(&self, rig: &Rig<'_>, lasting: Duration) -> Round {
        let pid = match self.who {
            Who::Service { instance, .. } | Who::Bare(instance) => Some(instance.pid()),
            Who::Peer { .. } | Who::Pgbench(_) | Who::RedisBenchmark => None,
        };
        let (ids, url) = match self.who {
            Who::Service { instance, ids, .. } => (ids, &*instance.url),
            Who::Peer { url, ids } => (ids, url),
            Who::Bare(instance) => (Ids::Random, &*instance.url),
            Who::Pgbench(_) | Who::RedisBenchmark => (Ids::Random, ""),
        };
        let requests = if url.is_empty() { Requests::default() } else { self.requests(ids, lasting) };
        if ids != Ids::Random {
            self.warm(url).await;
        }
        self.on.fresh().await;
        let before = rig.cpu(pid).await;
        let began = Instant::now();
        let samples = match (self.who, self.pace) {
            (Who::Pgbench(form), _) => {
                let outcome = pgbench::run(form, &self.on.database, self.on.customers, self.connections, lasting.as_secs());
                let cpu = rig.cpu(pid).await.since(before);
                return Round::new(outcome.rate, outcome.lookups, [f64::NAN; 3], cpu);
            }
            (Who::RedisBenchmark, _) => {
                // It takes a number, not a time; this is about as much as it does.
                let requests = 80_000 * usize::try_from(lasting.as_secs()).unwrap_or(1);
                let outcome = redis_benchmark::run(&rig.redis, self.on.hot, self.connections, requests);
                let cpu = rig.cpu(pid).await.since(before);
                return Round::new(outcome.rate, count(requests), [outcome.p50, outcome.p99, f64::NAN], cpu);
            }
            (_, Pace::Closed) => client::run(url, &requests, self.connections, Until::Passed(lasting)).await,
            (_, Pace::Open(rate)) => open_loop::run(url, &requests, rate, SETTLING + lasting).await,
        };
        let took = began.elapsed().as_secs_f64();
        let cpu = rig.cpu(pid).await.since(before);
        self.check(&samples).await;
        let answered = samples.iter().filter(|sample| sample.status == 200).count();
        let since = if matches!(self.pace, Pace::Open(_)) { began + SETTLING } else { began };
        let quantiles = quantiles(samples.iter().filter(|sample| sample.at >= since), [0.5, 0.99, 0.999]);
        Round { failures: samples.len() - answered, ..Round::new(count(answered) / took, count(answered), quantiles, cpu) }
    }

    /// Every request is answered by a 200, and has its audit row where it must; what is to come from a cache does.
    async fn check(&self, samples: &[Sample]) {
        if matches!(self.who, Who::Peer { .. }) {
            return;
        }
        let name = &self.name;
        let statuses = tally(samples.iter().map(|sample| sample.status));
        assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200], "{name}: {statuses:?}");
        let Who::Service { ids, audited, .. } = self.who else { return };
        let (rows, uncached) = self.on.audited().await;
        if audited {
            assert_eq!(rows, i64::try_from(samples.len()).expect("a count"), "{name}: audit rows");
        }
        if ids == Ids::Hot {
            // Redis may be late now and then.
            let few = i64::try_from(samples.len() / 100).expect("a count");
            assert!(uncached <= few, "{name}: {uncached} of {} answers came from Postgres", samples.len());
        }
    }

    fn requests(&self, ids: Ids, lasting: Duration) -> Requests {
        let Populated { customers, hot, .. } = *self.on;
        if ids == Ids::Hot {
            return self.hot_requests();
        }
        let seconds = usize::try_from(lasting.as_secs()).unwrap_or(1).max(1);
        let id = || {
            let of = if ids == Ids::Mixed && fastrand::i32(0..100) < MIX { hot } else { customers };
            fastrand::i32(1..=of)
        };
        Arc::new((0..A_SECOND * seconds).map(|_| client::lookup((0..self.batch).map(|_| id()))).collect())
    }

    /// Always the same ones, in which each hot customer is named once.
    fn hot_requests(&self) -> Requests {
        let mut hot: Vec<_> = (1..=self.on.hot).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut hot);
        Arc::new(hot.chunks(self.batch).map(|ids| client::lookup(ids.iter().copied())).collect())
    }

    /// Asks for everything hot until all of it comes from a cache; of a peer once, since it need not have one.
    async fn warm(&self, url: &str) {
        let requests = self.hot_requests();
        wait_until("everything hot comes from a cache", async || {
            self.on.database.run("TRUNCATE audit_log").await;
            client::run(url, &requests, self.connections, Until::Sent).await;
            let done = matches!(self.who, Who::Peer { .. }) || self.on.audited().await.1 == 0;
            done.then_some(())
        })
        .await;
    }
}

impl Round {
    fn new(rate: f64, answers: f64, quantiles: [f64; 3], cpu: Cpu) -> Self {
        Self { rate, quantiles, cpu: cpu.map(|seconds| seconds / answers * 1e3), failures: 0 }
    }
}
