//! What one request costs the service in CPU time.

use std::time::{Duration, Instant};

use super::process::settled_cpu;
use super::route::Route;
use super::target::Target;
use crate::client;
use crate::connection::Connection;

/// HTTP workers of the service, with a connection to each.
pub(crate) const WORKERS: usize = 32;
/// Why a signature is wrong is worked out for ten requests a second of each worker: no connection asks more often, so that this
/// work is measured too.
const PAUSE: Duration = Duration::from_millis(105);
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends one request at a time.
pub(crate) struct Meter<'t> {
    target: &'t Target,
    connections: Vec<(Option<Connection>, Instant)>,
    next: usize,
    /// Makes bodies differ.
    salt: u64,
}

/// What a body costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) bytes: usize,
    pub(crate) nanoseconds: f64,
    pub(crate) status: u16,
}

impl<'t> Meter<'t> {
    pub(crate) async fn new(target: &'t Target) -> Self {
        let mut connections = Vec::new();
        for _ in 0..WORKERS {
            connections.push((Connection::open(&target.url).await.ok(), Instant::now()));
        }
        Self { target, connections, next: 0, salt: 0 }
    }

    /// The median of some requests whose bodies `make` gives for a salt.
    pub(crate) async fn measure(&mut self, route: &Route, proven: bool, times: usize, make: impl Fn(u64) -> Vec<u8>) -> Cost {
        let mut costs = Vec::new();
        let (mut bytes, mut status) = (0, 0);
        for _ in 0..times {
            self.salt += 1;
            let body = make(self.salt);
            bytes = body.len();
            let request = route.request(&body, proven);
            let (cost, answer) = self.send(&request, proven).await;
            status = answer;
            costs.push(cost);
        }
        costs.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
        let nanoseconds = costs[costs.len() / 2] as f64;
        Cost { bytes, nanoseconds, status }
    }

    async fn send(&mut self, request: &[u8], proven: bool) -> (u64, u16) {
        // Proven ones may all go to one worker.
        let nth = if proven { 0 } else { 1 + self.next % (WORKERS - 1) };
        self.next += 1;
        let (connection, last) = &mut self.connections[nth];
        if !proven {
            tokio::time::sleep(PAUSE.saturating_sub(last.elapsed())).await;
        }
        *last = Instant::now();
        let before = settled_cpu(self.target.pid());
        let answer = tokio::time::timeout(PATIENCE, client::exchange(connection, &self.target.url, request)).await;
        let status = answer.unwrap_or_else(|_| {
            *connection = None;
            0
        });
        (settled_cpu(self.target.pid()).saturating_sub(before), status)
    }
}
