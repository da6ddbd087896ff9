//! What webhooks notice of the metrics that go to Cognigy, whatever becomes of Cognigy: phases in turn, so that all of them see
//! the same machine.

use std::thread;
use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use tokio::runtime::Handle;
use tokio::task;

use crate::Options;
use crate::client::{Sample, quantile};
use crate::support::{Cluster, Cognigy, Redis, Route, Service, wait_until};
use crate::table::median;

const PATH: &str = "/webhook";
/// Webhooks a second.
const RATE: u32 = 200;
const PHASE: u32 = 60;

#[derive(Clone, Copy)]
enum Phase {
    Off,
    Healthy,
    Dead,
    Hung,
}

const PHASES: [(Phase, &str); 4] =
    [(Phase::Off, "off"), (Phase::Healthy, "Cognigy healthy"), (Phase::Dead, "Cognigy dead"), (Phase::Hung, "Cognigy hung")];

/// What the service says of itself.
struct Look {
    rss: f64,
    sent: u64,
    dropped: u64,
    queued: u64,
}

impl Look {
    async fn at(service: &Service) -> Self {
        let metrics = service.metrics().await;
        let total = |result| metrics.count("cognigy_metrics_total", &[("result", result)]);
        Self {
            // What /proc says, by way of the service.
            rss: metrics.sum("process_resident_memory_bytes", &[]) / f64::from(1 << 20),
            sent: total("sent"),
            dropped: total("dropped"),
            queued: metrics.count("cognigy_metrics_queued", &[]),
        }
    }
}

pub(crate) async fn run(options: &Options) {
    let cluster = Cluster::start(&[]).await;
    let (database, redis, mut cognigy) = (cluster.database().await, Redis::start().await, Cognigy::start());
    let setup = options.service(&database).set("CXDA_IDEMPOTENCY__REDIS_URL", redis.url());
    let setup = setup.webhooks(&[Route::new(PATH).store("redis")]);
    let (off, on) = (setup.clone().start().await, setup.cognigy(&cognigy).start().await);
    for service in [&off, &on] {
        open_loop(RATE, webhooks(service, RATE)).await;
    }

    let seconds = options.seconds.unwrap_or(PHASE);
    println!(
        "{} rounds, {RATE} webhooks a second for {seconds} s in each phase, timed from when they were meant to be sent",
        options.rounds
    );
    println!(
        "{:16} {:>8} {:>8} {:>8} {:>6} {:>8} {:>6} {:>8} {:>8} {:>7} {:>8} {:>7}",
        "phase", "answers", "failures", "p50 ms", "ratio", "p99 ms", "ratio", "RSS MiB", "at end", "sent", "dropped", "queued"
    );
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let mut times = Vec::new();
        for (phase, name) in PHASES {
            let service = if matches!(phase, Phase::Off) { &off } else { &on };
            match phase {
                Phase::Off | Phase::Healthy => {}
                Phase::Dead => cognigy.upstream.stop().await,
                Phase::Hung => cognigy.upstream.hold(),
            }
            let before = Look::at(service).await;
            let samples = open_loop(RATE, webhooks(service, RATE * seconds)).await;
            let after = Look::at(service).await;
            match phase {
                Phase::Off | Phase::Healthy => {}
                Phase::Dead => cognigy.upstream.start_again(),
                Phase::Hung => cognigy.upstream.release(),
            }
            wait_until("the queue is empty", async || (Look::at(service).await.queued == 0).then_some(())).await;

            let all: Vec<_> = samples.iter().collect();
            times.push([quantile(&all, 0.5), quantile(&all, 0.99)]);
            let ([p50, p99], [p50_off, p99_off]) = (times[times.len() - 1], times[0]);
            println!(
                "{name:16} {:>8} {:>8} {p50:>8.2} {:>6.2} {p99:>8.2} {:>6.2} {:>8.1} {:>8.1} {:>7} {:>8} {:>7}",
                samples.len(),
                samples.iter().filter(|sample| sample.status != 200).count(),
                p50 / p50_off,
                p99 / p99_off,
                before.rss,
                after.rss,
                after.sent - before.sent,
                after.dropped - before.dropped,
                after.queued
            );
        }
        rounds.push(times);
    }
    for (nth, (_, name)) in PHASES.iter().enumerate() {
        let ratio = |of: usize| median(rounds.iter().map(|times| times[nth][of] / times[0][of]));
        println!("{name:16} median ratio of p50 {:.2}, of p99 {:.2}", ratio(0), ratio(1));
    }
}

/// So many, each with a key of its own.
fn webhooks(service: &Service, n: u32) -> Vec<RequestBuilder> {
    let body = r#"{"dialogId":"dialog-1","nodeId":"node-7","text":"What is the state of my order?"}"#;
    (0..n).map(|_| service.hook(PATH, &uuid::Uuid::new_v4().to_string(), body)).collect()
}

/// Sends so many a second, however long their answers take. Each is timed from the instant it was meant for.
pub(crate) async fn open_loop(rate: u32, requests: Vec<RequestBuilder>) -> Vec<Sample> {
    let (runtime, began) = (Handle::current(), Instant::now());
    // A thread of its own: a timer of tokio's is coarser than what is measured.
    let pace = task::spawn_blocking(move || {
        let calls = (0..).zip(requests).map(|(nth, request)| {
            let at = began + Duration::from_secs(1) * nth / rate;
            #[expect(clippy::disallowed_methods, reason = "nobody else waits on this thread")]
            thread::sleep(at.saturating_duration_since(Instant::now()));
            runtime.spawn(async move {
                let status = answer(request).await.unwrap_or_default();
                Sample { at, took: at.elapsed(), status, request_id: String::new() }
            })
        });
        calls.collect::<Vec<_>>()
    });
    let mut samples = Vec::new();
    for call in pace.await.expect("the pace is kept") {
        samples.push(call.await.expect("a call"));
    }
    samples
}

/// The status of a whole answer.
async fn answer(request: RequestBuilder) -> reqwest::Result<u16> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    answer.bytes().await.map(|_| status)
}
