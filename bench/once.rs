//! Many requests for few keys at three instances, one of which is killed every two seconds: what callers were answered, and how often
//! the work was done. Each store by itself, Postgres behind a PgBouncer, and a Redis that is demoted every five seconds.

use std::time::Duration;

use crate::support::{Cluster, Redis};
use crate::webhook_scale::{self, Neighbour, Plan};
use crate::{Options, Store};

const KEYS: usize = 100;

pub(crate) async fn run(options: &Options) {
    let cluster = Cluster::start(&[("max_connections", "200")]).await;
    let mut all = Vec::new();
    let demotions = Neighbour::Demotion(Duration::from_secs(5));
    let stores = [
        (Store::Redis, "redis", Neighbour::None),
        (Store::Redis, "redis", demotions),
        (Store::Postgres, "postgres", Neighbour::None),
        (Store::Postgres, "postgres", Neighbour::PgBouncer),
    ];
    for (_, store, neighbour) in stores.into_iter().filter(|(store, ..)| options.stores().contains(store)) {
        let plan = Plan {
            neighbour,
            store,
            keys: KEYS,
            each: (options.requests / KEYS).max(1),
            keys_at_once: 5,
            callers: options.connections,
            lease: "3s",
            // Twenty times five keys at once, each time so long: the run lasts longer than ten kills.
            work: Duration::from_millis(1100),
            kill_every: Duration::from_secs(2),
            within: Duration::from_mins(10),
        };
        // Of its own: its keys are those of the one before.
        let redis = Redis::start().await;
        let findings = webhook_scale::run(&plan, &cluster.database().await, &redis).await;
        all.push((plan, findings));
    }
    println!("{KEYS} keys, {} callers, three instances, each work of 1.1 s, a lease of 3 s", options.connections);
    println!(
        "{:9} {:12} {:>8} {:>8} {:>15} {:>5} {:>11} {:>15} {:>15} {:>11} {:>6} {:>9}",
        "store",
        "beside",
        "requests",
        "answers",
        "answers per key",
        "runs",
        "completions",
        "killed in work",
        "before record",
        "unexplained",
        "kills",
        "seconds"
    );
    for (plan, findings) in &all {
        println!(
            "{:9} {:12} {:>8} {:>8} {:>15} {:>5} {:>11} {:>15} {:>15} {:>11} {:>6} {:>9.1}",
            plan.store,
            match plan.neighbour {
                Neighbour::None => "none",
                Neighbour::PgBouncer => "PgBouncer",
                Neighbour::Demotion(_) => "demotions",
            },
            plan.keys * plan.each,
            findings.answered(),
            findings.distinct_answers(),
            findings.started,
            findings.completed,
            findings.killed_amid_work,
            findings.killed_before_record,
            findings.unexplained.len(),
            findings.kills,
            findings.took.as_secs_f64()
        );
    }
    for (plan, findings) in &all {
        findings.check(plan);
    }
}
