//! A lean HTTP/1.1 client: one request under way a connection, its bytes made beforehand, so that little of the machine is
//! spent on asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::customer;
use crate::support::{KEY_HEADER, ROUTE_SECRET, sign, sign_with};

/// Customers of one request.
pub(crate) const BATCH: usize = 10;

/// One answer.
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) took: Duration,
    /// 0: no answer.
    pub(crate) status: u16,
    pub(crate) request_id: String,
}

/// Signed requests for random customers, ready to be sent.
pub(crate) fn requests(n: usize, customers: i32) -> Arc<Vec<Vec<u8>>> {
    let request = |_| {
        let ids: Vec<_> = (0..BATCH).map(|_| format!("\"{}\"", customer(fastrand::i32(1..=customers)))).collect();
        let body = format!(r#"{{"action":"process_customer_batch","input":{{"customer_ids":[{}],"tenant_id":"acme42"}}}}"#, ids.join(","));
        let head = format!(
            "POST /data-action HTTP/1.1\r\nHost: bench\r\nX-CXone-Signature: {}\r\nContent-Length: {}\r\n\r\n",
            sign(body.as_bytes()),
            body.len()
        );
        [head, body].concat().into_bytes()
    };
    Arc::new((0..n).map(request).collect())
}

/// Signed webhooks to that path, each with a key of its own, ready to be sent.
pub(crate) fn webhooks(path: &str, keys: std::ops::Range<usize>) -> Arc<Vec<Vec<u8>>> {
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

/// Sends each request once over so many connections, or again and again until `stop`.
pub(crate) async fn run(url: &str, requests: &Arc<Vec<Vec<u8>>>, connections: usize, stop: Option<Arc<AtomicBool>>) -> Vec<Sample> {
    let address = url.trim_start_matches("http://").to_owned();
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (address, requests, next, stop) = (address.clone(), Arc::clone(requests), Arc::clone(&next), stop.clone());
            tokio::spawn(async move {
                let mut samples = Vec::new();
                let mut socket = None;
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let over = stop.as_ref().map_or(nth >= requests.len(), |stop| stop.load(Ordering::Relaxed));
                    if over {
                        return samples;
                    }
                    let at = Instant::now();
                    let answer = exchange(&mut socket, &address, &requests[nth % requests.len()]).await;
                    let (status, request_id) = answer.unwrap_or_else(|_| {
                        socket = None;
                        (0, String::new())
                    });
                    samples.push(Sample { at, took: at.elapsed(), status, request_id });
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.expect("a worker"));
    }
    all
}

async fn exchange(socket: &mut Option<TcpStream>, address: &str, request: &[u8]) -> std::io::Result<(u16, String)> {
    let stream = match socket {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            socket.insert(stream)
        }
    };
    stream.write_all(request).await?;
    let mut buffer = Vec::with_capacity(8192);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]);
        let header = |wanted: &str| {
            let named =
                |line: &str| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned());
            head.lines().find_map(named).unwrap_or_default()
        };
        let length: usize = header("content-length").parse().unwrap_or(0);
        if buffer.len() >= end + 4 + length {
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            return Ok((status, header("x-request-id")));
        }
    }
}

/// The time within which that share of the requests were answered, in milliseconds.
pub(crate) fn quantile(samples: &[&Sample], share: f64) -> f64 {
    let mut times: Vec<_> = samples.iter().map(|sample| sample.took.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank in a list")]
    times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
