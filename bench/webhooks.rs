//! What idempotency costs: first runs and replays beside a proxy that only forwards, in turn, so that all of them see the
//! same machine.

use std::time::Instant;

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;

use crate::Options;
use crate::client::{self, Until, quantile};
use crate::support::{Cluster, Redis, Route, Upstream};
use crate::table::median;

/// Answers a second, and the 99th percentile in milliseconds.
type Round = (f64, f64);

pub(crate) async fn run(options: &Options) {
    let cluster = Cluster::start(&[("max_connections", "200"), ("shared_buffers", "512MB")]).await;
    let (database, redis, upstream) = (cluster.database().await, Redis::start().await, Upstream::start());
    let routes = ["redis", "postgres"].map(|store| Route::new(&format!("/{store}")).forward(&upstream).store(store));
    let setup = options.service(&database).set("CXDA_IDEMPOTENCY__REDIS_URL", redis.url());
    let service = setup.webhooks(&routes).start().await;
    let plain = plain_proxy(upstream.url());

    let mut rows = [
        ("forwarded by a plain proxy", Vec::new()),
        ("first run, redis", Vec::new()),
        ("first run, postgres", Vec::new()),
        ("replay, redis", Vec::new()),
        ("replay, postgres", Vec::new()),
    ];
    for nth in 0..=options.rounds {
        let keys = nth * options.requests..(nth + 1) * options.requests;
        let scenes = [
            (&plain, "/plain", options.requests),
            (&service.url, "/redis", options.requests),
            (&service.url, "/postgres", options.requests),
            (&service.url, "/redis", 0),
            (&service.url, "/postgres", 0),
        ];
        for ((url, path, runs), (_, rounds)) in scenes.into_iter().zip(&mut rows) {
            let began = upstream.completed();
            let measured = round(options, url, path, keys.clone()).await;
            assert_eq!(upstream.completed() - began, runs, "runs of {path}");
            // The first round warms everything up.
            if nth > 0 {
                rounds.push(measured);
            }
        }
    }
    report(options, &rows);
}

async fn round(options: &Options, url: &str, path: &str, keys: std::ops::Range<usize>) -> Round {
    let requests = client::webhooks(path, keys);
    let began = Instant::now();
    let samples = client::run(url, &requests, options.connections, Until::Sent).await;
    let took = began.elapsed().as_secs_f64();
    let failures: Vec<_> = samples.iter().map(|sample| sample.status).filter(|status| *status != 200).collect();
    assert!(failures.is_empty() && samples.len() == requests.len(), "{path}: {failures:?}");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = samples.len() as f64 / took;
    (rate, quantile(&samples.iter().collect::<Vec<_>>(), 0.99))
}

fn report(options: &Options, rows: &[(&str, Vec<Round>)]) {
    println!("{} connections, {} rounds of {} requests, each with a key of its own", options.connections, options.rounds, options.requests);
    println!("{:30} {:>10} {:>19} {:>8} {:>8} {:>19}", "median", "a second", "(least to most)", "ratio", "p99 ms", "(least to most)");
    let base = median(rows[0].1.iter().map(|(rate, _)| *rate));
    for (name, rounds) in rows {
        let (rates, p99s): (Vec<_>, Vec<_>) = rounds.iter().copied().unzip();
        let span = |values: &[f64]| (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(f64::MIN, f64::max));
        let ((slowest, fastest), (least, most)) = (span(&rates), span(&p99s));
        let (rate, p99) = (median(rates.into_iter()), median(p99s.into_iter()));
        println!(
            "{name:30} {rate:>10.0} {:>19} {:>8.2} {p99:>8.1} {:>19}",
            format!("({slowest:.0} to {fastest:.0})"),
            rate / base,
            format!("({least:.1} to {most:.1})")
        );
    }
}

struct Backend {
    client: Client,
    url: String,
}

/// What the service would be without signatures, keys and records. Returns where it listens.
fn plain_proxy(url: String) -> String {
    let app = move || {
        let client = Client::builder().no_proxy().build().expect("an HTTP client");
        App::new().app_data(Data::new(Backend { client, url: url.clone() })).route("/plain", web::post().to(forward))
    };
    let server = HttpServer::new(app).disable_signals().bind(("127.0.0.1", 0)).expect("a free port");
    let address = server.addrs()[0];
    tokio::spawn(server.run());
    format!("http://{address}")
}

async fn forward(request: HttpRequest, body: Bytes, backend: Data<Backend>) -> HttpResponse {
    let header = |headers: &actix_web::http::header::HeaderMap| {
        let value = headers.get("content-type").and_then(|value| value.to_str().ok());
        value.unwrap_or("application/octet-stream").to_owned()
    };
    let sent = backend.client.post(&backend.url).header(CONTENT_TYPE, header(request.headers())).body(body).send().await;
    let answer = sent.expect("the upstream answers");
    let status = actix_web::http::StatusCode::from_u16(answer.status().as_u16()).expect("a status");
    let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = answer.bytes().await.expect("a whole body");
    HttpResponse::build(status).insert_header(("content-type", content_type)).body(body)
}
