//! Callers that do not wait for anybody: so many requests a second, each timed from the instant it was meant for, so that a
//! service that falls behind cannot slow down what is asked of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task;

use crate::client::{self, Requests, Sample};
use crate::connection::Connection;

/// Where all of these are busy, a request waits for one, and its time runs.
const CONNECTIONS: usize = 128;

/// Sends `rate` requests a second for so long.
pub(crate) async fn run(url: &str, requests: &Requests, rate: f64, lasting: Duration) -> Vec<Sample> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let by = move |elapsed: Duration| (elapsed.as_secs_f64() * rate) as usize;
    let total = by(lasting);
    let due = Arc::new(Semaphore::new(0));
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(url).await.ok());
    }
    let began = Instant::now();
    let callers = connections.into_iter().map(|mut connection| {
        let (url, requests, due, next) = (url.to_owned(), Arc::clone(requests), Arc::clone(&due), Arc::clone(&next));
        task::spawn(async move {
            let mut samples = Vec::new();
            loop {
                due.acquire().await.expect("nobody closes it").forget();
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= total {
                    return samples;
                }
                let at = began + instant(nth, rate);
                let status = client::exchange(&mut connection, &url, &requests[nth % requests.len()]).await;
                samples.push(Sample { at, took: at.elapsed(), status, request_id: String::new() });
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    // A thread of its own: a timer of tokio's is coarser than what is measured.
    let pace = task::spawn_blocking(move || {
        let mut released = 0;
        while released < total {
            let at = began + instant(released, rate);
            #[expect(clippy::disallowed_methods, reason = "nobody else waits on this thread")]
            thread::sleep(at.saturating_duration_since(Instant::now()));
            let now = (by(began.elapsed()) + 1).clamp(released + 1, total);
            due.add_permits(now - released);
            released = now;
        }
        // Each of them sees that nothing is left.
        due.add_permits(CONNECTIONS);
    });
    pace.await.expect("the pace is kept");
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.expect("a caller"));
    }
    all
}

/// When the nth request is meant to be sent.
fn instant(nth: usize, rate: f64) -> Duration {
    Duration::from_secs_f64(crate::table::count(nth) / rate)
}
