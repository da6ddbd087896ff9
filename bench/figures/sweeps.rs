//! One thing varied at a time: connections, ids of a request, customers.

use super::plot::{Axis, Line, Panel};
use super::rig::Rig;
use super::rows::{Entrant, Ids, Round, Who, rounds};
use super::{ratio, spread};
use crate::table::{Table, count, number};

const CONNECTIONS: [usize; 4] = [1, 8, 32, 128];
const BATCHES: [usize; 3] = [1, 10, 100];

/// Throughput against connections.
pub(crate) async fn connections(rig: &Rig<'_>) -> Panel {
    let systems = [rig.bare(), rig.unaudited(), rig.audited(), rig.uncached(), rig.pgbench()];
    let entrants: Vec<_> = systems.iter().flat_map(|system| CONNECTIONS.map(|connections| system.over(connections))).collect();
    let all = rounds(rig, "connections", &entrants).await;
    let mut table =
        Table::new(&["", "connections", "lookups/s", "of one connection's", "p50 ms", "p99 ms", "CPU s/1000: service", "stores"]);
    for (entrant, (own, one)) in entrants.iter().zip(beside_first(&all, CONNECTIONS.len())) {
        table.row([
            entrant.name.clone(),
            entrant.connections.to_string(),
            spread(own, |round| round.rate).show(0),
            number(ratio(own, one, |round| round.rate).median, 2),
            number(spread(own, |round| round.quantiles[0]).median, 2),
            spread(own, |round| round.quantiles[1]).show(2),
            number(spread(own, |round| round.cpu.service).median, 4),
            number(spread(own, |round| round.cpu.stores).median, 4),
        ]);
    }
    table.print(&format!("By connections. {}", rig.options.rounds_told()));
    let point = |(connections, rounds): (usize, &Vec<Round>)| (count(connections), spread(rounds, |round| round.rate).median);
    let line = |(system, rounds): (&Entrant<'_>, &[Vec<Round>])| Line {
        name: system.name.clone(),
        points: CONNECTIONS.into_iter().zip(rounds).map(point).collect(),
        dashed: !matches!(system.who, Who::Service { .. }),
    };
    Panel {
        title: "Lookups a second, by connections".to_owned(),
        x: Axis::log("connections, each with one request under way"),
        y: Axis::log("lookups a second"),
        lines: systems.iter().zip(all.chunks(CONNECTIONS.len())).map(line).collect(),
    }
}

/// Cost against ids of a request.
pub(crate) async fn batches(rig: &Rig<'_>) {
    let systems = [rig.uncached(), rig.audited(), rig.unaudited()];
    let entrants: Vec<_> = systems.iter().flat_map(|system| BATCHES.map(|batch| system.asking(batch))).collect();
    let all = rounds(rig, "batches", &entrants).await;
    let mut table = Table::new(&[
        "",
        "ids a call",
        "lookups/s",
        "time a lookup, to 1 id",
        "CPU s/1000: service",
        "stores",
        "CPU of both, to 1 id",
        "p99 ms",
    ]);
    let cpu = |round: &Round| round.cpu.service + round.cpu.stores;
    for (entrant, (own, one)) in entrants.iter().zip(beside_first(&all, BATCHES.len())) {
        table.row([
            entrant.name.clone(),
            entrant.batch.to_string(),
            spread(own, |round| round.rate).show(0),
            ratio(own, one, |round| round.rate.recip()).show(2),
            number(spread(own, |round| round.cpu.service).median, 4),
            number(spread(own, |round| round.cpu.stores).median, 4),
            ratio(own, one, cpu).show(2),
            spread(own, |round| round.quantiles[1]).show(1),
        ]);
    }
    table.print(&format!("By ids a call, {} connections. {}", rig.options.connections, rig.options.rounds_told()));
}

/// Cost against customers, each number of them in a database of its own: of the service, and of Postgres alone.
pub(crate) async fn customers(rig: &Rig<'_>) {
    let mut others = Vec::new();
    for customers in rig.options.customers.iter().copied() {
        let populated = rig.populated(customers).await;
        let service = rig.uncached_on(&populated).await;
        others.push((populated, service));
    }
    let service = |(on, instance)| {
        let who = Who::Service { instance, ids: Ids::Random, audited: true };
        Entrant { who, on, ..rig.uncached() }
    };
    let services = others.iter().map(|(on, instance)| service((on, instance)));
    let entrants: Vec<_> = services.chain(others.iter().map(|(on, _)| Entrant { on, ..rig.pgbench() })).collect();
    let all = rounds(rig, "customers", &entrants).await;
    let mut table = Table::new(&[
        "",
        "customers",
        "lookups/s",
        "time a lookup, to the fewest",
        "CPU s/1000: service",
        "stores",
        "CPU of both, to the fewest",
        "p99 ms",
    ]);
    let cpu = |round: &Round| if round.cpu.service.is_nan() { round.cpu.stores } else { round.cpu.service + round.cpu.stores };
    for (entrant, (own, fewest)) in entrants.iter().zip(beside_first(&all, others.len())) {
        table.row([
            entrant.name.clone(),
            number(f64::from(entrant.on.customers), 0),
            spread(own, |round| round.rate).show(0),
            ratio(own, fewest, |round| round.rate.recip()).show(2),
            number(spread(own, |round| round.cpu.service).median, 4),
            number(spread(own, |round| round.cpu.stores).median, 4),
            ratio(own, fewest, cpu).show(2),
            spread(own, |round| round.quantiles[1]).show(1),
        ]);
    }
    table.print(&format!("By customers, {} connections. {}", rig.options.connections, rig.options.rounds_told()));
}

/// Each with the first of its group of so many.
fn beside_first(all: &[Vec<Round>], group: usize) -> impl Iterator<Item = (&Vec<Round>, &Vec<Round>)> {
    all.chunks(group).flat_map(|group| group.iter().map(move |own| (own, &group[0])))
}
