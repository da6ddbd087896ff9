//! Whether tenants suffer for one of them that asks for ten times what the service can do, and what a lone tenant gets.

use std::sync::Arc;
use std::time::Duration;

use crate::attacks::load::{Load, Outcome, Sample, quantile};
use crate::attacks::route::lookup;
use crate::attacks::target::{Launch, Target};
use crate::client::{self, BATCH, Requests, Until};
use crate::support::{Database, tally};
use crate::table::{Spread, Table, count, number};
use crate::{Options, database};

const CUSTOMERS: i32 = 10_000;
const TENANTS: usize = 10;
/// Lookups a second of each tenant.
const RATE: f64 = 20.0;
const CONNECTIONS: usize = 32;
/// Callers that find out what the service can do.
const CALLERS: usize = 64;
const FLOOD_CONNECTIONS: usize = 256;
const FLOOD_QUEUE: usize = 1_024;
/// Times capacity.
const FLOOD: f64 = 10.0;
const SECONDS: u32 = 8;

pub(crate) async fn run(options: &Options) {
    let (_cluster, database) = database(CUSTOMERS).await;
    let flooding = tenants(&database).await;
    let lasting = Duration::from_secs(options.seconds.unwrap_or(SECONDS).into());
    let service = Launch::new(options).set("CXDA_CACHE__TTL", "0").start(&database).await;
    fairness(options, &database, &service, &flooding, lasting).await;
    if let Some(peer) = &options.attacks.peer_binary {
        let peer = Launch::new(options).binary(peer).set("CXDA_CACHE__TTL", "0").start(&database).await;
        throughput(options, &database, [&service, &peer], lasting).await;
    }
}

/// Gives every tenant the same customers. Returns the one that floods.
async fn tenants(database: &Database) -> String {
    database
        .run(&format!(
            "SET session_replication_role = replica; SET statement_timeout = 0; \
             INSERT INTO customers (tenant_id, id, name, status, attributes) \
             SELECT 'tenant' || t, id, name, status, attributes FROM customers, generate_series(0, {TENANTS}) t; \
             RESET session_replication_role; ANALYZE customers"
        ))
        .await;
    tenant(TENANTS)
}

fn tenant(nth: usize) -> String {
    format!("tenant{nth}")
}

/// Lookups of these tenants in turn.
fn lookups(tenants: &[String], each: usize) -> Requests {
    let one = |nth: usize| lookup(&tenants[nth % tenants.len()], (0..BATCH).map(|_| fastrand::i32(1..=CUSTOMERS)));
    Arc::new((0..each * tenants.len()).map(one).collect())
}

/// Lookups a second of callers that each wait for their answer.
async fn closed_loop(service: &Target, requests: &Requests, lasting: Duration) -> f64 {
    let samples = client::run(&service.url, requests, CALLERS, Until::Passed(lasting)).await;
    let statuses = tally(samples.iter().map(|sample| sample.status));
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200], "all are answered: {statuses:?}");
    count(samples.len()) / lasting.as_secs_f64()
}

async fn fresh(database: &Database) {
    database.run("TRUNCATE audit_log").await;
    database.run("CHECKPOINT").await;
}

async fn fairness(options: &Options, database: &Database, service: &Target, flooding: &str, lasting: Duration) {
    let names: Vec<_> = (0..TENANTS).map(tenant).collect();
    let (good, flood) = (lookups(&names, 500), lookups(&[flooding.to_owned()], 5_000));
    closed_loop(service, &flood, Duration::from_secs(1)).await;
    let capacity = closed_loop(service, &flood, Duration::from_secs(3)).await;
    let good = Load::new(&service.url, good, RATE * count(TENANTS), CONNECTIONS, lasting);
    let (mut quiet, mut loaded, mut flooded) = (Outcome::default(), Outcome::default(), Outcome::default());
    for round in 0..options.rounds {
        eprintln!("round {}", round + 1);
        fresh(database).await;
        quiet.add(good.clone().run().await);
        fresh(database).await;
        let mut load = Load::new(&service.url, Arc::clone(&flood), capacity * FLOOD, FLOOD_CONNECTIONS, lasting);
        (load.queue, load.hangs_up) = (FLOOD_QUEUE, true);
        let stop = Arc::clone(&load.stop);
        let (answers, attack) = tokio::join!(
            async {
                let answers = good.clone().run().await;
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                answers
            },
            load.run()
        );
        loaded.add(answers);
        flooded.add(attack);
    }
    println!(
        "{TENANTS} tenants of {RATE} lookups a second each ({BATCH} ids, no cache), alone and beside one that asks for {FLOOD} times the capacity of {} lookups/s over {FLOOD_CONNECTIONS} connections: {} interleaved rounds of {} s",
        number(capacity, 0),
        options.rounds,
        lasting.as_secs()
    );
    report(&names, &quiet, &loaded);
    let seconds = lasting.as_secs_f64() * count(options.rounds);
    println!("\nThe flooding tenant: {}; {} 200s a second", flooded.statuses(), number(count(flooded.good()) / seconds, 0));
}

fn report(names: &[String], quiet: &Outcome, loaded: &Outcome) {
    let head = ["tenant", "sent", "200s quiet", "200s loaded", "ratio", "p50 quiet", "p50 loaded", "p99 quiet", "p99 loaded", "p99 ratio"];
    let mut table = Table::new(&head);
    let of = |outcome: &Outcome, nth: Option<usize>| -> Vec<Sample> {
        outcome.samples.iter().filter(|sample| nth.is_none_or(|nth| sample.nth % TENANTS == nth)).copied().collect()
    };
    for (nth, name) in names.iter().map(String::as_str).enumerate().map(|(nth, name)| (Some(nth), name)).chain([(None, "all")]) {
        let (quiet, loaded) = (of(quiet, nth), of(loaded, nth));
        let good = |samples: &[Sample]| samples.iter().filter(|sample| sample.is_good()).count();
        let [quiet_p99, loaded_p99] = [&quiet, &loaded].map(|samples| quantile(samples.iter(), 0.99));
        table.row([
            name.to_owned(),
            loaded.len().to_string(),
            good(&quiet).to_string(),
            good(&loaded).to_string(),
            number(count(good(&loaded)) / count(good(&quiet)), 3),
            number(quantile(quiet.iter(), 0.5), 2),
            number(quantile(loaded.iter(), 0.5), 2),
            number(quiet_p99, 1),
            number(loaded_p99, 1),
            number(loaded_p99 / quiet_p99, 1),
        ]);
    }
    table.print("Tenants beside one that floods (milliseconds; 200s within 2 s)");
}

/// A lone tenant's lookups a second, of the service and of its peer in turn.
async fn throughput(options: &Options, database: &Database, services: [&Target; 2], lasting: Duration) {
    let requests = lookups(&[tenant(0)], 5_000);
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..=options.rounds {
        // The other order in every second round.
        for nth in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            fresh(database).await;
            let rate = closed_loop(services[nth], &requests, lasting).await;
            // The first round warms everything up.
            if round > 0 {
                rates[nth].push(rate);
            }
        }
    }
    let ratios = rates[0].iter().zip(&rates[1]).map(|(service, peer)| service / peer);
    let mut table = Table::new(&["a lone tenant", "lookups/s", "of the peer"]);
    table.row(["service".to_owned(), Spread::of(rates[0].iter().copied()).show(0), Spread::of(ratios).show(3)]);
    table.row(["peer".to_owned(), Spread::of(rates[1].iter().copied()).show(0), "1".to_owned()]);
    table.print(&format!("Medians of {} interleaved rounds of {} s, {CALLERS} callers (least to most)", options.rounds, lasting.as_secs()));
}
