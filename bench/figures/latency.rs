//! Latency where the service is not asked for all that it can do: so many requests a second, timed from the instant each was
//! meant for, and beside it the bare route at the same rate, which shows the machine's noise.

use super::plot::{Axis, Line, Panel};
use super::rig::Rig;
use super::rows::{Entrant, rounds};
use super::spread;
use crate::table::{Table, number};

/// In hundredths of the capacity.
const LOADS: [u32; 9] = [10, 20, 30, 40, 50, 60, 70, 80, 90];

/// At half of capacity.
pub(crate) async fn half(rig: &Rig<'_>) {
    let systems = [rig.uncached(), rig.audited(), rig.unaudited()];
    let capacities = capacities(rig, "latency", &systems).await;
    let mut entrants = Vec::new();
    for (system, capacity) in systems.iter().zip(capacities) {
        entrants.push(system.paced(capacity / 2.0));
        entrants.push(Entrant { name: format!("bare route, as often as {}", system.name), ..rig.bare().paced(capacity / 2.0) });
    }
    let all = rounds(rig, "latency", &entrants).await;
    let mut table = Table::new(&["", "lookups/s", "p50 ms", "p99 ms", "p99.9 ms"]);
    for (entrant, own) in entrants.iter().zip(&all) {
        let quantile = |nth: usize| spread(own, |round| round.quantiles[nth]).show(2);
        let rate = number(spread(own, |round| round.rate).median, 0);
        table.row([entrant.name.clone(), rate, quantile(0), quantile(1), quantile(2)]);
    }
    table.print(&format!("At half of capacity, timed from the intended instant. {}", rig.options.rounds_told()));
}

/// At each tenth of capacity.
pub(crate) async fn load<'r>(rig: &'r Rig<'_>) -> Panel {
    let systems = [rig.uncached(), rig.audited()];
    let capacities = capacities(rig, "load", &systems).await;
    let loads = |(system, capacity): (&Entrant<'r>, f64)| LOADS.map(|load| system.paced(capacity * f64::from(load) / 100.0));
    let entrants: Vec<_> = systems.iter().zip(capacities).flat_map(loads).collect();
    let all = rounds(rig, "load", &entrants).await;
    let mut table = Table::new(&["", "of capacity", "lookups/s", "p50 ms", "p99 ms", "p99.9 ms"]);
    let mut lines = Vec::new();
    for (system, group) in systems.iter().zip(all.chunks(LOADS.len())) {
        let mut points = [const { Vec::new() }; 2];
        for (load, own) in LOADS.into_iter().zip(group) {
            let quantile = |nth: usize| spread(own, |round| round.quantiles[nth]);
            let rate = number(spread(own, |round| round.rate).median, 0);
            table.row([system.name.clone(), format!("{load} %"), rate, quantile(0).show(2), quantile(1).show(2), quantile(2).show(2)]);
            for (nth, points) in points.iter_mut().enumerate() {
                points.push((f64::from(load), quantile(nth).median));
            }
        }
        for (what, points) in ["p50", "p99"].into_iter().zip(points) {
            lines.push(Line { name: format!("{}, {what}", system.name), points, dashed: what == "p50" });
        }
    }
    table.print(&format!("By load, timed from the intended instant. {}", rig.options.rounds_told()));
    Panel {
        title: "Latency, by load".to_owned(),
        x: Axis::linear("load, % of the most that it can do", 0.0, 100.0),
        y: Axis::log("ms from the intended instant"),
        lines,
    }
}

/// What each can do, as callers find it that wait for their answers.
async fn capacities(rig: &Rig<'_>, section: &str, systems: &[Entrant<'_>]) -> Vec<f64> {
    let all = rounds(rig, &format!("{section}, capacity"), systems).await;
    all.iter().map(|own| spread(own, |round| round.rate).median).collect()
}
