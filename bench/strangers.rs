//! Whether good answers suffer from the worst bodies of others: of strangers without a secret, and of another key's owner.

use std::sync::Arc;
use std::time::Duration;

use crate::attacks::body::Recipe;
use crate::attacks::corpus;
use crate::attacks::cost::{Meter, WORKERS};
use crate::attacks::load::{Load, Outcome};
use crate::attacks::process::{cpu, resident};
use crate::attacks::rank::{Bench, Ranked, distinct};
use crate::attacks::route::{ROUTES, Route, lookup};
use crate::attacks::target::{Launch, Target};
use crate::client::{BATCH, Requests};
use crate::support::Genesys;
use crate::table::{Table, count, number};
use crate::{Options, database};

const CUSTOMERS: i32 = 10_000;
/// Good lookups a second.
const GOOD: f64 = 170.0;
const GOOD_CONNECTIONS: usize = 32;
const ATTACK_CONNECTIONS: usize = 32;
/// Attack requests that wait for a connection: a second of them.
const QUEUE: usize = 200;
const SECONDS: u32 = 8;
/// Proven requests differ, so that none is answered from an idempotency store.
const VARIANTS: u64 = 400;

/// An attack with what it did, over all rounds.
struct Attack<'r> {
    route: &'r Route,
    proven: bool,
    worst: Ranked,
    requests: Requests,
    good: Outcome,
    answers: Outcome,
    /// CPU nanoseconds of the service.
    cpu: f64,
}

pub(crate) async fn run(options: &Options) {
    let (_cluster, database) = database(CUSTOMERS).await;
    let genesys = Genesys::start();
    let mut attacks = {
        // A service of its own: one that has answered the worst bodies thousands of times is no fair start.
        let ranked = Launch::new(options).genesys(&genesys).set("CXDA_HTTP__WORKERS", WORKERS.to_string());
        let ranked = ranked.start(&database).await;
        attacks(options, &ranked).await
    };
    let service = Launch::new(options).genesys(&genesys).start(&database).await;
    let requests = Arc::new((0..5_000).map(|_| lookup("acme42", (0..BATCH).map(|_| fastrand::i32(1..=CUSTOMERS)))).collect());
    let lasting = Duration::from_secs(options.seconds.unwrap_or(SECONDS).into());
    let good = Load::new(&service.url, requests, GOOD, GOOD_CONNECTIONS, lasting);
    // Connections, caches and statements are warm after this.
    good.clone().run().await;

    let (mut quiet, mut quiet_cpu) = (Outcome::default(), 0.0);
    for round in 0..options.rounds {
        let before = cpu(service.pid());
        quiet.add(good.clone().run().await);
        quiet_cpu += spent(&service, before);
        for attack in &mut attacks {
            eprintln!("round {}: {} {}", round + 1, attack.route.path, attack.worst.body.name());
            let before = cpu(service.pid());
            let mut load = Load::new(&service.url, Arc::clone(&attack.requests), options.attacks.rate, ATTACK_CONNECTIONS, lasting);
            (load.queue, load.hangs_up) = (QUEUE, true);
            let (answers, attacked) = tokio::join!(good.clone().run(), load.run());
            // What was asked for is worked on to its end.
            at_rest(&service).await;
            attack.cpu += spent(&service, before);
            attack.good.add(answers);
            attack.answers.add(attacked);
        }
    }
    report(options, &quiet, quiet_cpu, &attacks);
    println!("\nresident memory of the service at the end: {} MiB", number(resident(service.pid()), 0));
}

/// Waits until the service has next to nothing to do, for at most a minute.
async fn at_rest(service: &Target) {
    const LOOK: Duration = Duration::from_millis(200);
    const IDLE: Duration = Duration::from_millis(5);
    for _ in 0..300 {
        let before = cpu(service.pid());
        tokio::time::sleep(LOOK).await;
        if Duration::from_nanos(cpu(service.pid()) - before) < IDLE {
            return;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
fn spent(service: &Target, before: u64) -> f64 {
    (cpu(service.pid()) - before) as f64
}

/// The worst bodies of each route, unproven first.
async fn attacks<'r>(options: &Options, service: &Target) -> Vec<Attack<'r>> {
    let mut meter = Meter::new(service).await;
    let bodies: Vec<_> = corpus::load().iter().flat_map(Recipe::bodies).collect();
    // No longer body is examined for why its signature is wrong, and no longer one is taken at all.
    let sizes = [16 << 10, 64 << 10];
    let mut attacks = Vec::new();
    for proven in [false, true] {
        for route in
            ROUTES.iter().filter(|route| options.attacks.route.is_empty() || options.attacks.route.iter().any(|path| path == route.path))
        {
            let bench = Bench::new(&mut meter, route, proven, &sizes).await;
            let candidates = bench.rank_all(&mut meter, &bodies, &sizes[..1], 1).await;
            let candidates = distinct(&candidates, options.attacks.worst + 3);
            let mut ranked = bench.rank_all(&mut meter, &candidates, &sizes, 3).await;
            // By all that a request costs: an attacker pays for no plain body.
            ranked.sort_by(|one, other| other.cost.nanoseconds.total_cmp(&one.cost.nanoseconds));
            for worst in ranked.into_iter().take(options.attacks.worst) {
                let variants = if proven { VARIANTS } else { 1 };
                let request = |salt| route.request(&worst.body.bytes(route, worst.size, 10_000_000 + salt), proven);
                let requests = Arc::new((0..variants).map(request).collect());
                attacks.push(Attack { route, proven, worst, requests, good: Outcome::default(), answers: Outcome::default(), cpu: 0.0 });
            }
        }
    }
    attacks
}

fn report(options: &Options, quiet: &Outcome, quiet_cpu: f64, attacks: &[Attack<'_>]) {
    println!(
        "{GOOD} signed lookups a second over {GOOD_CONNECTIONS} connections, alone and under {} requests a second of each kind over {ATTACK_CONNECTIONS} others: {} interleaved rounds of {} s",
        options.attacks.rate,
        options.rounds,
        options.seconds.unwrap_or(SECONDS)
    );
    let head =
        ["attack", "proven?", "body", "bytes", "good 200s", "of quiet", "p50 ms", "p99 ms", "attack answers", "CPU µs an attack request"];
    let mut table = Table::new(&head);
    let row = |name: &str, proven: &str, body: String, bytes: String, good: &Outcome, attack: String, cpu: String| {
        [
            name.to_owned(),
            proven.to_owned(),
            body,
            bytes,
            good.good().to_string(),
            number(count(good.good()) / count(quiet.good()), 3),
            number(good.quantile(0.5), 2),
            number(good.quantile(0.99), 1),
            attack,
            cpu,
        ]
    };
    let none = || "–".to_owned();
    table.row(row("none", "", none(), none(), quiet, none(), none()));
    for attack in attacks {
        let sent = attack.answers.samples.len();
        table.row(row(
            attack.route.path,
            if attack.proven { "proven" } else { "unproven" },
            attack.worst.body.name(),
            attack.worst.cost.bytes.to_string(),
            &attack.good,
            attack.answers.statuses(),
            number((attack.cpu - quiet_cpu) / 1e3 / count(sent.max(1)), 0),
        ));
    }
    table.print("Good answers under attack");
}
