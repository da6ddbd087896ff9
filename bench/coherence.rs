//! Whether a cached customer is ever answered as it was: few customers, read and updated at once through three instances that
//! share a Redis, while nothing else happens, while Redis is lost and comes back with old values, and while the instances'
//! listeners are ended.
//!
//! A customer's name is a number that its one writer counts up, so each answer tells how old it is. A read is stale where it began
//! more than a second after the commit of a newer name was acknowledged.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::sleep;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::client;
use crate::connection::Connection;
use crate::support::{Database, Redis, Service, connect, customer_key};
use crate::{Options, customer, database};

const KEYS: usize = 2_000;
const INSTANCES: usize = 3;

/// How much later than the commit a read may begin and still get what was before.
const MAY_TAKE: Duration = Duration::from_secs(1);

/// Of each instance, beside those that race; so many, and so seldom, that the machine has time to spare.
const READERS: usize = 4;
const READER_PAUSE: Duration = Duration::from_millis(1);
/// How often a reader asks for many at once, which takes longer between reading and keeping, and how often for the one that was
/// updated last.
const MANY: (usize, f64) = (50, 0.02);
const LATEST: f64 = 0.1;

/// Besides the one that races.
const WRITERS: usize = 2;
const WRITER_PAUSE: Duration = Duration::from_millis(20);

/// Updates of one customer in a row, with less than that between them.
const RACE: (usize, Duration) = (3, Duration::from_millis(2));
const RACE_PAUSE: Duration = Duration::from_millis(30);

#[derive(Clone, Copy)]
enum Trouble {
    None,
    Redis,
    Listeners,
}

const TROUBLES: [(Trouble, &str); 3] =
    [(Trouble::None, "none"), (Trouble::Redis, "Redis restarted, with old values"), (Trouble::Listeners, "listeners ended, twice")];

impl Trouble {
    /// Comes, and goes on for so long.
    async fn strike(self, database: &Database, redis: &mut Redis, long: Duration) {
        match self {
            Self::None => sleep(long).await,
            Self::Redis => {
                let old = snapshot(redis).await;
                sleep(long).await;
                redis.kill();
                redis.start_again().await;
                restore(redis, old).await;
            }
            Self::Listeners => {
                let listeners = "application_name = 'cxone-data-action listener' AND datname = current_database()";
                let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listeners}");
                database.run(&end).await;
                sleep(long).await;
                database.run(&end).await;
            }
        }
    }
}

/// One run.
#[derive(Default)]
struct Tally {
    reads: usize,
    hits: usize,
    updates: usize,
    stale: usize,
    /// Customers that an instance knew otherwise than the database at the end.
    wrong: usize,
    /// How long after its commit a name was there, for each race and instance.
    lags: Vec<Duration>,
    /// How long after the commit of a newer name the last read of an older one began.
    oldest: Duration,
}

pub(crate) async fn run(options: &Options) {
    let (_cluster, database) = database(i32::try_from(KEYS).expect("few")).await;
    let mut all: Vec<_> = TROUBLES.map(|(_, name)| (name, Vec::new())).into();
    for _ in 0..options.rounds {
        for ((trouble, _), (_, runs)) in TROUBLES.into_iter().zip(&mut all) {
            let tally = once(options, &database, trouble).await;
            if tally.stale + tally.wrong > 0 {
                println!("{} stale reads, the oldest {:?}; {} wrong at the end", tally.stale, tally.oldest, tally.wrong);
            }
            runs.push(tally);
        }
    }
    report(&all);
}

async fn once(options: &Options, database: &Database, trouble: Trouble) -> Tally {
    database.run("UPDATE customers SET name = '0'").await;
    let mut redis = Redis::start().await;
    let services = join_all((0..INSTANCES).map(|_| options.service(database).set("REDIS_URL", redis.url()).start())).await;
    let stage = Arc::new(Stage::new(&services));
    let readers: Vec<_> = (0..INSTANCES * READERS).map(|nth| tokio::spawn(Arc::clone(&stage).read(nth % INSTANCES))).collect();
    let mut writers = Vec::new();
    for nth in 0..=WRITERS {
        let writer = Writer::new(&stage, database, nth).await;
        writers.push(if nth < WRITERS { tokio::spawn(writer.write()) } else { tokio::spawn(writer.race()) });
    }
    let third = Duration::from_secs(options.seconds.unwrap_or(9).into()) / 3;
    sleep(third).await;
    trouble.strike(database, &mut redis, third).await;
    sleep(third).await;
    stage.over.store(true, Ordering::Relaxed);
    for worker in readers.into_iter().chain(writers) {
        worker.await.expect("a worker");
    }
    sleep(MAY_TAKE).await;
    let wrong = join_all(services.iter().map(|service| wrong(service, database))).await.into_iter().sum();
    Tally { wrong, ..std::mem::take(&mut stage.tally()) }
}

/// What readers and writers share.
struct Stage {
    urls: Vec<String>,
    /// When the commit of each name of each customer was acknowledged.
    acknowledged: Vec<Mutex<Vec<Instant>>>,
    /// The customer that was updated last, or is about to be.
    latest: AtomicUsize,
    over: AtomicBool,
    tally: Mutex<Tally>,
}

impl Stage {
    fn new(services: &[Service]) -> Self {
        let began = Instant::now();
        Self {
            urls: services.iter().map(|service| service.url.clone()).collect(),
            acknowledged: (0..KEYS).map(|_| Mutex::new(vec![began])).collect(),
            latest: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            tally: Mutex::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn acknowledged(&self, key: usize) -> MutexGuard<'_, Vec<Instant>> {
        self.acknowledged[key].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self: Arc<Self>, instance: usize) {
        let mut caller = open(&self.urls[instance]).await;
        while !self.is_over() {
            let random = || fastrand::usize(..KEYS);
            let keys = match fastrand::f64() {
                dice if dice < MANY.1 => (0..MANY.0).map(|_| random()).collect(),
                dice if dice < MANY.1 + LATEST => vec![self.latest.load(Ordering::Relaxed)],
                _ => vec![random()],
            };
            self.ask(&mut caller, &keys).await;
            sleep(READER_PAUSE).await;
        }
    }

    /// Asks, and judges the answer. Returns the name of the first customer.
    async fn ask(&self, caller: &mut Connection, keys: &[usize]) -> usize {
        let began = Instant::now();
        let names = lookup(caller, keys).await;
        let newer =
            |(key, name): &(usize, usize)| self.acknowledged(*key).get(name + 1).map(|newer| began.saturating_duration_since(*newer));
        let ages: Vec<_> = names.iter().filter_map(newer).collect();
        let mut tally = self.tally();
        tally.reads += 1;
        tally.hits += usize::from(caller.header("x-cache") == Some("hit"));
        tally.stale += usize::from(ages.iter().any(|age| *age > MAY_TAKE));
        tally.oldest = ages.into_iter().fold(tally.oldest, Duration::max);
        names[0].1
    }
}

/// Owns each customer whose number leaves its own when divided.
struct Writer {
    stage: Arc<Stage>,
    client: Client,
    update: Statement,
    nth: usize,
}

impl Writer {
    async fn new(stage: &Arc<Stage>, database: &Database, nth: usize) -> Self {
        let client = connect(&database.owner_url).await.expect("a connection");
        let sql = "UPDATE customers SET name = $2::int::text WHERE tenant_id = 'acme42' AND id = $1";
        let update = client.prepare(sql).await.expect("a statement");
        Self { stage: Arc::clone(stage), client, update, nth }
    }

    fn any_key(&self) -> usize {
        fastrand::usize(..KEYS / (WRITERS + 1)) * (WRITERS + 1) + self.nth
    }

    /// Returns the new name, and when its commit was acknowledged.
    async fn count_up(&self, key: usize) -> (usize, Instant) {
        self.stage.latest.store(key, Ordering::Relaxed);
        let name = self.stage.acknowledged(key).len();
        let number = i32::try_from(name).expect("few updates");
        let rows = self.client.execute(&self.update, &[&id(key), &number]).await.expect("an update");
        let at = Instant::now();
        assert_eq!(rows, 1, "customer {key}");
        self.stage.acknowledged(key).push(at);
        self.stage.tally().updates += 1;
        (name, at)
    }

    async fn write(self) {
        while !self.stage.is_over() {
            self.count_up(self.any_key()).await;
            sleep(WRITER_PAUSE).await;
        }
    }

    /// Updates a customer for which every instance is asked all the time, until all of them have seen the last name.
    async fn race(self) {
        let mut callers = join_all(self.stage.urls.iter().map(|url| open(url))).await;
        while !self.stage.is_over() {
            let key = self.any_key();
            let goal = Mutex::new(None);
            let get = || *goal.lock().unwrap_or_else(PoisonError::into_inner);
            let chase = async |caller: &mut Connection| {
                loop {
                    let began = Instant::now();
                    let name = self.stage.ask(caller, &[key]).await;
                    match get() {
                        Some((last, at)) if name >= last || began > at + 3 * MAY_TAKE => return began.saturating_duration_since(at),
                        _ => {}
                    }
                }
            };
            let updates = async {
                for nth in 1..=RACE.0 {
                    sleep(RACE.1.mul_f64(fastrand::f64())).await;
                    let updated = self.count_up(key).await;
                    if nth == RACE.0 {
                        *goal.lock().unwrap_or_else(PoisonError::into_inner) = Some(updated);
                    }
                }
            };
            let (lags, ()) = tokio::join!(join_all(callers.iter_mut().map(chase)), updates);
            self.stage.tally().lags.extend(lags);
            sleep(RACE_PAUSE).await;
        }
    }
}

/// The number that stands in a customer's id.
fn number(key: usize) -> i32 {
    i32::try_from(key + 1).expect("few")
}

fn id(key: usize) -> Uuid {
    customer(number(key)).parse().expect("a UUID")
}

async fn open(url: &str) -> Connection {
    Connection::open(url).await.expect("a connection")
}

/// Each customer that is found, with its name.
async fn lookup(caller: &mut Connection, keys: &[usize]) -> Vec<(usize, usize)> {
    let request = client::lookup(keys.iter().map(|key| number(*key)));
    assert_eq!(caller.exchange(&request).await.expect("an answer"), 200, "{}", String::from_utf8_lossy(caller.body()));
    let answer: Value = serde_json::from_slice(caller.body()).expect("JSON");
    let text = |customer: &Value, member: &str| customer[member].as_str().expect("text").to_owned();
    let key = |id: &str| usize::from_str_radix(&id[id.len() - 12..], 16).expect("one of ours") - 1;
    let customers = answer["output"]["customers"].as_array().expect("customers");
    let named = |customer| (key(&text(customer, "id")), text(customer, "name").parse().expect("a number"));
    let found: Vec<_> = customers.iter().map(named).collect();
    assert!(!found.is_empty(), "{answer}");
    found
}

/// How many customers a service knows otherwise than the database.
async fn wrong(service: &Service, database: &Database) -> usize {
    let mut caller = open(&service.url).await;
    let mut wrong = 0;
    for keys in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let ids: Vec<_> = keys.iter().map(|key| id(*key)).collect();
        let rows = database.owner.query("SELECT name FROM customers WHERE id = ANY($1) ORDER BY id", &[&ids]).await.expect("customers");
        let known = lookup(&mut caller, keys).await;
        assert_eq!(known.len(), rows.len(), "customers found");
        wrong += known.iter().zip(&rows).filter(|((_, name), row)| row.get::<_, String>(0) != name.to_string()).count();
    }
    wrong
}

/// All that is kept, by its key.
async fn snapshot(redis: &Redis) -> Vec<(String, Option<Vec<u8>>)> {
    let epoch = redis.epoch().await;
    let keys: Vec<_> = (0..KEYS).map(|key| customer_key(&epoch, "acme42", id(key))).collect();
    let values: Vec<_> = redis::cmd("MGET").arg(&keys).query_async(&mut redis.connection().await).await.expect("values");
    keys.into_iter().zip(values).collect()
}

/// As if they had been read from disk at the start: whatever has come since stays.
async fn restore(redis: &Redis, values: Vec<(String, Option<Vec<u8>>)>) {
    let mut commands = redis::pipe();
    for (key, value) in values {
        if let Some(value) = value {
            commands.cmd("SET").arg(key).arg(value).arg(&["NX", "PX", "60000"]);
        }
    }
    commands.query_async::<()>(&mut redis.connection().await).await.expect("restored");
}

fn report(all: &[(&str, Vec<Tally>)]) {
    println!("{KEYS} customers, {INSTANCES} instances");
    println!(
        "{:34} {:>4} {:>9} {:>8} {:>9} {:>13} {:>10} {:>14} {:>11} {:>13}",
        "trouble", "runs", "reads", "updates", "hits", "median lag ms", "p99 lag ms", "longest lag ms", "stale reads", "wrong at end"
    );
    let mut failed = 0;
    for (name, runs) in all {
        let sum = |what: fn(&Tally) -> usize| runs.iter().map(what).sum::<usize>();
        let (reads, hits, stale, wrong) = (sum(|run| run.reads), sum(|run| run.hits), sum(|run| run.stale), sum(|run| run.wrong));
        let mut lags: Vec<_> = runs.iter().flat_map(|run| run.lags.iter().copied()).collect();
        lags.sort_unstable();
        let oldest = runs.iter().map(|run| run.oldest).max().unwrap_or_default();
        let ms = |lag: Duration| lag.as_secs_f64() * 1e3;
        let longest = lags.last().copied().unwrap_or_default().max(oldest);
        println!(
            "{name:34} {:>4} {reads:>9} {:>8} {:>8}% {:>13.2} {:>10.2} {:>14.1} {stale:>11} {wrong:>13}",
            runs.len(),
            sum(|run| run.updates),
            hits * 100 / reads.max(1),
            ms(lags[lags.len() / 2]),
            ms(lags[lags.len() * 99 / 100]),
            ms(longest)
        );
        assert!(hits * 2 > reads, "with so few hits, nothing is shown");
        failed += stale + wrong;
    }
    assert_eq!(failed, 0, "stale reads, and customers known wrongly at the end");
}
