//! What callers see while a dependency dies and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::{self, Requests, Sample, Until, quantile};
use crate::support::{Redis, tally};
use crate::{Options, database};

const PHASE: Duration = Duration::from_secs(4);

/// Redis alone as cache, so that every request meets it.
pub(crate) async fn redis(options: &Options) {
    let (_cluster, database) = database(options.main_customers()).await;
    let mut redis = Redis::start().await;
    let service = options.service(&database).set("REDIS_URL", redis.url()).set("CXDA_CACHE__LOCAL_CAPACITY", "0").start().await;
    let uncached = options.service(&database).set("CXDA_CACHE__TTL", "0").start().await;
    let requests = client::requests(options.requests, options.main_customers());
    let quiet = client::run(&uncached.url, &requests, options.connections, Until::Sent).await;
    println!("without any cache: p99 {:.1} ms", quantile(&quiet.iter().collect::<Vec<_>>(), 0.99));

    let load = Load::start(&service.url, &requests, options.connections);
    let mut phases = vec![("Redis up", Instant::now())];
    tokio::time::sleep(PHASE).await;
    redis.kill();
    phases.push(("killed", Instant::now()));
    tokio::time::sleep(PHASE).await;
    redis.start_again().await;
    phases.push(("restarted", Instant::now()));
    tokio::time::sleep(PHASE).await;
    redis.freeze();
    phases.push(("hung (SIGSTOP)", Instant::now()));
    tokio::time::sleep(PHASE).await;
    redis.thaw();
    phases.push(("awake (SIGCONT)", Instant::now()));
    tokio::time::sleep(PHASE).await;
    report(&phases, &load.stop().await);
}

/// Nothing cached, so that every request needs Postgres.
pub(crate) async fn postgres(options: &Options) {
    let (mut cluster, mut database) = database(options.main_customers()).await;
    let service = options.service(&database).set("CXDA_CACHE__TTL", "0").start().await;
    let requests = client::requests(options.requests, options.main_customers());
    let load = Load::start(&service.url, &requests, options.connections);
    let mut phases = vec![("Postgres up", Instant::now())];
    tokio::time::sleep(PHASE).await;
    phases.push(("killed", Instant::now()));
    cluster.kill().await;
    tokio::time::sleep(PHASE).await;
    cluster.start_again().await;
    let back = Instant::now();
    phases.push(("restarted", back));
    tokio::time::sleep(PHASE).await;
    let samples = load.stop().await;
    report(&phases, &samples);

    let answered = |sample: &&Sample| sample.status == 200;
    let first = samples.iter().filter(answered).map(|sample| sample.at + sample.took).filter(|end| *end > back).min();
    println!("first 200 after Postgres took connections again: {:?}", first.map(|end| end - back));
    database.reconnect().await;
    let ids: Vec<_> = samples.iter().filter(answered).map(|sample| sample.request_id.as_str()).collect();
    let sql = "SELECT count(DISTINCT request_id), count(*) FROM audit_log WHERE request_id = ANY($1)";
    let row = database.owner.query_one(sql, &[&ids]).await.expect("audit rows");
    let (requests, rows): (i64, i64) = (row.get(0), row.get(1));
    println!("{} answers of 200; {requests} of them audited, in {rows} rows; {} rows in all", ids.len(), database.audit_count().await);
    assert_eq!((requests, rows), (i64::try_from(ids.len()).expect("a count"), requests), "one row for each 200");
}

/// Requests that go on until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Sample>>,
}

impl Load {
    fn start(url: &str, requests: &Requests, connections: usize) -> Self {
        let (url, requests, stop) = (url.to_owned(), Arc::clone(requests), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&stop);
        let task = tokio::spawn(async move { client::run_with_ids(&url, &requests, connections, Until::Told(until)).await });
        Self { stop, task }
    }

    async fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load")
    }
}

fn report(phases: &[(&str, Instant)], samples: &[Sample]) {
    println!("{:18} {:>9} {:>9} {:>9} {:>9} {:>22}  answers", "phase", "answers", "p50 ms", "p99 ms", "max ms", "p99 ms after 1st second");
    for (nth, (name, from)) in phases.iter().enumerate() {
        let to = phases.get(nth + 1).map_or_else(Instant::now, |(_, next)| *next);
        let within = |from: Instant| samples.iter().filter(|sample| sample.at >= from && sample.at < to).collect::<Vec<_>>();
        let (all, later) = (within(*from), within(*from + Duration::from_secs(1)));
        let statuses: BTreeMap<_, _> = tally(all.iter().map(|sample| sample.status));
        println!(
            "{name:18} {:>9} {:>9.1} {:>9.1} {:>9.1} {:>22.1}  {statuses:?}",
            all.len(),
            quantile(&all, 0.5),
            quantile(&all, 0.99),
            quantile(&all, 1.0),
            quantile(&later, 0.99)
        );
    }
}
