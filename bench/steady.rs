//! Uncached, cached and `pgbench` in turn, so that all of them see the same machine.

use std::time::Instant;

use crate::client::{self, quantile};
use crate::support::{Database, Redis, Service};
use crate::{Options, database, pgbench};

pub(crate) async fn run(options: &Options) {
    let (_cluster, database) = database(options.customers).await;
    let redis = Redis::start().await;
    let uncached = options.service(&database).set("CXDA_CACHE__TTL", "0").start().await;
    let cached = options.service(&database).set("REDIS_URL", redis.url()).start().await;
    let requests = client::requests(options.requests, options.customers);
    client::run(&cached.url, &requests, options.connections, None).await;

    let mut rows = [("pgbench, the four statements", Vec::new()), ("uncached", Vec::new()), ("cached and audited", Vec::new())];
    for _ in 0..options.rounds {
        rows[0].1.push((pgbench::run(options, &database), f64::NAN));
        rows[1].1.push(round(options, &database, &uncached, &requests).await);
        rows[2].1.push(round(options, &database, &cached, &requests).await);
    }
    println!(
        "{} customers, {} a call, {} connections, {} rounds of {} requests",
        options.customers,
        client::BATCH,
        options.connections,
        options.rounds,
        options.requests
    );
    println!("{:30} {:>10} {:>19} {:>8} {:>8}", "median", "a second", "(least to most)", "ratio", "p99 ms");
    let base = median(rows[0].1.iter().map(|(rate, _)| *rate));
    for (name, rounds) in &rows {
        let rates = || rounds.iter().map(|(rate, _)| *rate);
        let (least, most) = (rates().fold(f64::MAX, f64::min), rates().fold(f64::MIN, f64::max));
        let (rate, p99) = (median(rates()), median(rounds.iter().map(|(_, p99)| *p99)));
        println!("{name:30} {rate:>10.0} {:>19} {:>8.2} {p99:>8.1}", format!("({least:.0} to {most:.0})"), rate / base);
    }
}

/// Answers a second, and the 99th percentile in milliseconds. Every request must be answered by a 200 with its audit row.
async fn round(options: &Options, database: &Database, service: &Service, requests: &std::sync::Arc<Vec<Vec<u8>>>) -> (f64, f64) {
    let rows = database.audit_count().await;
    let began = Instant::now();
    let samples = client::run(&service.url, requests, options.connections, None).await;
    let took = began.elapsed().as_secs_f64();
    let failures = samples.iter().filter(|sample| sample.status != 200).count();
    assert_eq!(failures, 0, "failures");
    let audited = database.audit_count().await - rows;
    assert_eq!(audited, i64::try_from(samples.len()).expect("a count"), "audit rows");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = samples.len() as f64 / took;
    (rate, quantile(&samples.iter().collect::<Vec<_>>(), 0.99))
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<_> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
