//! Whether a cached customer is ever answered as it was, beside each neighbour that bigger installations have: a pooler, a publisher,
//! a standby that is promoted, a backup that is restored, a Redis that fails over.
//!
//! A customer's name is a number that one writer counts up. A read is stale where it began more than a second after the commit of a
//! newer name was acknowledged. A read is of a lost history where it answers a name that the database has lost, and began more than
//! two seconds after the database took writes again.

mod board;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::connection::Connection;
use crate::support::{Service, connect};
use crate::table::{Table, count, number};
use crate::{Options, client};
use board::{Board, Tally};
pub(crate) use world::Neighbour;
use world::{World, customer_id, customer_number};

/// Few, so that a change is asked for soon.
const KEYS: usize = 200;
const INSTANCES: usize = 3;
/// Of each instance.
const READERS: usize = 3;
const READER_PAUSE: Duration = Duration::from_millis(2);
const WRITER_PAUSE: Duration = Duration::from_millis(10);
/// Long enough for all instances to hear of the last change.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Seconds of a run where `--seconds` does not say.
const SECONDS: u32 = 9;

pub(crate) async fn run(options: &Options) {
    let mut table = Table::new(&[
        "neighbour",
        "runs",
        "reads",
        "cache hits",
        "updates",
        "stale",
        "oldest ms",
        "of a lost history",
        "wrong at the end",
        "no answer",
    ]);
    for neighbour in Neighbour::value_variants() {
        if !options.neighbour.is_empty() && !options.neighbour.contains(neighbour) {
            continue;
        }
        let mut all = Tally::default();
        for round in 0..options.rounds {
            let tally = once(options, *neighbour).await;
            eprintln!("{neighbour:?}, run {}: {tally:?}", round + 1);
            all.add(&tally);
        }
        table.row([
            neighbour.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
            options.rounds.to_string(),
            number(count(all.reads), 0),
            format!("{} %", number(100.0 * count(all.hits) / count(all.reads.max(1)), 0)),
            number(count(all.updates), 0),
            all.stale.to_string(),
            all.oldest.as_millis().to_string(),
            all.lost.to_string(),
            all.wrong.to_string(),
            all.unanswered.to_string(),
        ]);
    }
    table.print("Answers beside neighbours");
}

async fn once(options: &Options, neighbour: Neighbour) -> Tally {
    let mut world = World::beside(neighbour).await;
    let setup = || options.settings().fold(world.setup(), |setup, (name, value)| setup.set(name, value));
    let services = join_all((0..INSTANCES).map(|_| setup().start())).await;
    let board = Arc::new(Board::new(KEYS));
    let mut readers = Vec::new();
    for nth in 0..INSTANCES * READERS {
        readers.push(tokio::spawn(read(Arc::clone(&board), services[nth % INSTANCES].url.clone())));
    }
    let writer = tokio::spawn(write(Arc::clone(&board), world.writes.clone(), world.applied.clone()));
    let third = Duration::from_secs(options.seconds.unwrap_or(SECONDS).into()) / 3;
    sleep(third).await;
    world.strike(&board, third).await;
    sleep(third).await;
    board.end();
    writer.await.expect("the writer");
    for reader in readers {
        reader.await.expect("a reader");
    }
    sleep(SETTLE).await;
    let mut tally = board.tally();
    let truth = world.applied.clone().unwrap_or(world.writes.url().await);
    let truth = connect(&truth).await.expect("a connection");
    for service in &services {
        tally.wrong += wrong(service, &truth).await;
    }
    tally
}

/// Asks for one customer after the other, now and then for many.
async fn read(board: Arc<Board>, url: String) {
    let mut connection = None;
    while !board.is_over() {
        let many = if fastrand::u8(..) < 8 { 20 } else { 1 };
        let keys: Vec<_> = (0..many).map(|_| if fastrand::bool() { board.latest() } else { fastrand::usize(..KEYS) }).collect();
        let began = Instant::now();
        match ask(&mut connection, &url, &keys).await {
            Some((names, is_hit)) => board.judge(began, &names, is_hit),
            None => board.unanswered(),
        }
        sleep(READER_PAUSE).await;
    }
}

/// The names of these customers, and whether all came from the cache; `None` where the answer was none.
async fn ask(connection: &mut Option<Connection>, url: &str, keys: &[usize]) -> Option<(Vec<(usize, u64)>, bool)> {
    if connection.is_none() {
        *connection = Connection::open(url).await.ok();
    }
    let caller = connection.as_mut()?;
    let request = client::lookup(keys.iter().map(|key| customer_number(*key)));
    let status = caller.exchange(&request).await;
    if !matches!(status, Ok(200)) {
        if status.is_err() {
            *connection = None;
        }
        return None;
    }
    let answer: Value = serde_json::from_slice(caller.body()).expect("JSON");
    let text = |customer: &Value, member: &str| customer[member].as_str().expect("text").to_owned();
    let key = |id: &str| usize::from_str_radix(&id[id.len() - 12..], 16).expect("one of ours") - 1;
    let customers = answer["output"]["customers"].as_array().expect("customers");
    let names = customers.iter().map(|customer| (key(&text(customer, "id")), text(customer, "name").parse().expect("a number")));
    Some((names.collect(), caller.header("x-cache") == Some("hit")))
}

/// Counts up the name of one customer after the other. `applied`: where a commit has to arrive before it counts.
async fn write(board: Arc<Board>, writes: world::Writes, applied: Option<String>) {
    let arrival = match &applied {
        Some(url) => Some(connect(url).await.expect("a connection")),
        None => None,
    };
    while !board.is_over() {
        {
            // Nothing is written while the database is away.
            let client = writes.client().await;
            let (key, name) = (fastrand::usize(..KEYS), board.next_name());
            board.asked_for(key);
            let sql = format!("UPDATE customers SET name = '{name}' WHERE tenant_id = 'acme42' AND id = '{}'", customer_id(key));
            client.batch_execute(&sql).await.expect("an update");
            if let Some(arrival) = &arrival {
                arrived(arrival, key, name).await;
            }
            board.acknowledged(key, name);
        }
        sleep(WRITER_PAUSE).await;
    }
}

async fn arrived(client: &Client, key: usize, name: u64) {
    let sql = format!("SELECT name FROM customers WHERE id = '{}'", customer_id(key));
    for _ in 0..10_000 {
        let row = client.query_one(&sql, &[]).await.expect("the customer");
        if row.get::<_, &str>(0) == name.to_string() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("name {name} of customer {key} was not applied");
}

/// How many customers a service knows otherwise than the database.
async fn wrong(service: &Service, truth: &Client) -> usize {
    let (mut wrong, mut connection) = (0, None);
    for keys in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let (names, _) = ask(&mut connection, &service.url, keys).await.expect("an answer");
        assert_eq!(names.len(), keys.len(), "customers found");
        for (key, name) in names {
            let row = truth.query_one(&format!("SELECT name FROM customers WHERE id = '{}'", customer_id(key)), &[]).await;
            wrong += usize::from(row.expect("the customer").get::<_, &str>(0) != name.to_string());
        }
    }
    wrong
}
