//! Which bodies of the corpus cost the most, on each route.

use std::cmp::Reverse;

use super::body::{Body, plain};
use super::cost::{Cost, Meter};
use super::route::Route;
use crate::table::count;

/// A body with what it costs on a route.
#[derive(Clone)]
pub(crate) struct Ranked {
    pub(crate) body: Body,
    pub(crate) size: usize,
    pub(crate) cost: Cost,
    /// Beyond a plain body of this size.
    pub(crate) extra: f64,
}

impl Ranked {
    /// Nanoseconds beyond a plain body, for each byte.
    pub(crate) fn per_byte(&self) -> f64 {
        self.extra / count(self.cost.bytes.max(1))
    }
}

/// One route, with proven or with unproven requests.
pub(crate) struct Bench<'b> {
    pub(crate) route: &'b Route,
    pub(crate) proven: bool,
    /// What a plain body costs, for each size.
    plain: Vec<(usize, f64)>,
}

impl<'b> Bench<'b> {
    pub(crate) async fn new(meter: &mut Meter<'_>, route: &'b Route, proven: bool, sizes: &[usize]) -> Self {
        const TIMES: usize = 9;
        let mut costs = Vec::new();
        let plain = plain();
        for size in sizes {
            let cost = meter.measure(route, proven, TIMES, |salt| plain.bytes(route, *size, salt)).await;
            costs.push((*size, cost.nanoseconds));
        }
        Self { route, proven, plain: costs }
    }

    /// What a plain body of this size costs.
    pub(crate) fn plain(&self, size: usize) -> f64 {
        self.plain.iter().find(|(of, _)| *of == size).map_or(0.0, |(_, cost)| *cost)
    }

    pub(crate) async fn rank(&self, meter: &mut Meter<'_>, body: &Body, size: usize, times: usize) -> Ranked {
        let cost = meter.measure(self.route, self.proven, times, |salt| body.bytes(self.route, size, salt)).await;
        Ranked { body: body.clone(), size, cost, extra: cost.nanoseconds - self.plain(size) }
    }

    /// Every body at every size, the costliest first.
    pub(crate) async fn rank_all(&self, meter: &mut Meter<'_>, bodies: &[Body], sizes: &[usize], times: usize) -> Vec<Ranked> {
        let mut all = Vec::new();
        for size in sizes {
            for body in bodies {
                all.push(self.rank(meter, body, *size, times).await);
            }
        }
        sort(&mut all);
        all
    }
}

/// The costliest first.
pub(crate) fn sort(all: &mut [Ranked]) {
    #[expect(clippy::cast_possible_truncation, reason = "nanoseconds")]
    all.sort_by_key(|ranked| Reverse(ranked.extra as i64));
}

/// The first so many bodies, each once.
pub(crate) fn distinct(ranked: &[Ranked], n: usize) -> Vec<Body> {
    let mut bodies: Vec<Body> = Vec::new();
    for body in ranked.iter().map(|ranked| &ranked.body) {
        if bodies.len() < n && !bodies.contains(body) {
            bodies.push(body.clone());
        }
    }
    bodies
}
