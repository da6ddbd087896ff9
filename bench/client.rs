//! Callers that wait for each answer before they ask again, and what they ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::customer;
use crate::support::{KEY_HEADER, ROUTE_SECRET, sign, sign_with};

/// Customers of one request, unless that is what is varied.
pub(crate) const BATCH: usize = 10;

/// Requests, ready to be sent.
pub(crate) type Requests = Arc<Vec<Vec<u8>>>;

/// One answer.
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) took: Duration,
    /// 0: no answer.
    pub(crate) status: u16,
    /// Where it was asked for.
    pub(crate) request_id: String,
}

/// How long requests are sent.
#[derive(Clone)]
pub(crate) enum Until {
    /// Each once.
    Sent,
    /// Again and again, until this turns true.
    Told(Arc<AtomicBool>),
    /// Again and again, for so long.
    Passed(Duration),
}

/// Signed requests for random customers.
pub(crate) fn requests(n: usize, customers: i32) -> Requests {
    Arc::new((0..n).map(|_| lookup((0..BATCH).map(|_| fastrand::i32(1..=customers)))).collect())
}

/// A signed request for these customers.
pub(crate) fn lookup(customers: impl Iterator<Item = i32>) -> Vec<u8> {
    let ids: Vec<_> = customers.map(|n| format!("\"{}\"", customer(n))).collect();
    let body = format!(r#"{{"action":"process_customer_batch","input":{{"customer_ids":[{}],"tenant_id":"acme42"}}}}"#, ids.join(","));
    let head = format!(
        "POST /data-action HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-CXone-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        sign(body.as_bytes()),
        body.len()
    );
    [head, body].concat().into_bytes()
}

/// Signed webhooks to that path, each with a key of its own.
pub(crate) fn webhooks(path: &str, keys: std::ops::Range<usize>) -> Requests {
    let request = |key| {
        let body = format!(r#"{{"dialogId":"dialog-{key}","nodeId":"node-7","sequence":{key},"text":"What is the state of my order?"}}"#);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-Cognigy-Signature: {}\r\n{KEY_HEADER}: {key}\r\nContent-Length: {}\r\n\r\n",
            sign_with(ROUTE_SECRET, &body),
            body.len()
        );
        [head, body].concat().into_bytes()
    };
    Arc::new(keys.map(request).collect())
}

/// Sends them over so many connections, each with one request under way.
pub(crate) async fn run(url: &str, requests: &Requests, connections: usize, until: Until) -> Vec<Sample> {
    run_noting(|_| String::new(), url, requests, connections, until).await
}

/// The same, with the answers' request ids.
pub(crate) async fn run_with_ids(url: &str, requests: &Requests, connections: usize, until: Until) -> Vec<Sample> {
    run_noting(|answer| answer.header("x-request-id").unwrap_or_default().to_owned(), url, requests, connections, until).await
}

async fn run_noting(id: fn(&Connection) -> String, url: &str, requests: &Requests, connections: usize, until: Until) -> Vec<Sample> {
    let (next, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let callers: Vec<_> = (0..connections)
        .map(|_| {
            let (url, requests, next, until) = (url.to_owned(), Arc::clone(requests), Arc::clone(&next), until.clone());
            tokio::spawn(async move {
                let mut samples = Vec::new();
                let mut connection = None;
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let at = Instant::now();
                    let over = match &until {
                        Until::Sent => nth >= requests.len(),
                        Until::Told(stop) => stop.load(Ordering::Relaxed),
                        Until::Passed(time) => at >= began + *time,
                    };
                    if over {
                        return samples;
                    }
                    let status = exchange(&mut connection, &url, &requests[nth % requests.len()]).await;
                    let took = at.elapsed();
                    let request_id = connection.as_ref().map(id).unwrap_or_default();
                    samples.push(Sample { at, took, status, request_id });
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.expect("a caller"));
    }
    all
}

/// The answer's status; 0, and no connection any more, where there was none.
pub(crate) async fn exchange(connection: &mut Option<Connection>, url: &str, request: &[u8]) -> u16 {
    let answer = async {
        let open = match connection.as_mut() {
            Some(open) => open,
            None => connection.insert(Connection::open(url).await?),
        };
        open.exchange(request).await
    };
    let status = answer.await;
    status.unwrap_or_else(|_| {
        *connection = None;
        0
    })
}

/// The time within which that share of the requests were answered, in milliseconds.
pub(crate) fn quantile(samples: &[&Sample], share: f64) -> f64 {
    quantiles(samples.iter().copied(), [share])[0]
}

/// The same of several shares.
pub(crate) fn quantiles<'s, const N: usize>(samples: impl Iterator<Item = &'s Sample>, shares: [f64; N]) -> [f64; N] {
    let mut times: Vec<_> = samples.map(|sample| sample.took.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank in a list")]
    let rank = |share: f64| ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    shares.map(|share| times.get(rank(share)).copied().unwrap_or(f64::NAN))
}
