//! Executions where it hurts: many at once without a token, an upstream that never says anything but 429, connections cut amid
//! the call. And what one costs beside a webhook that is forwarded to the same upstream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::client::{self, Requests, Until, quantile};
use crate::cognigy::open_loop;
use crate::support::{ACTION, Answer, Cluster, Database, EXECUTE, Genesys, Redis, Reply, Route, Service, Setup, send, sign, tally};
use crate::table::median;
use crate::{Options, Store};

/// Executions at once without a token.
const AT_ONCE: usize = 200;
/// Executions a second in the storm.
const RATE: u32 = 50;
const STORM: u32 = 30;
const DEADLINE: Duration = Duration::from_secs(5);

struct Stage<'o> {
    options: &'o Options,
    _cluster: Cluster,
    database: Database,
    redis: Redis,
    genesys: Genesys,
}

pub(crate) async fn run(options: &Options) {
    let cluster = Cluster::start(&[("max_connections", "200"), ("shared_buffers", "512MB")]).await;
    let (database, redis) = (cluster.database().await, Redis::start().await);
    let stage = Stage { options, database, redis, _cluster: cluster, genesys: Genesys::start() };
    stage.many_without_a_token().await;
    stage.storm().await;
    stage.cuts().await;
    stage.costs().await;
}

fn name(store: Store) -> &'static str {
    if store == Store::Redis { "redis" } else { "postgres" }
}

impl Stage<'_> {
    /// Nothing holds an execution up but what is measured.
    fn setup(&self, store: Store) -> Setup {
        let setup = self.options.service(&self.database).set("CXDA_IDEMPOTENCY__REDIS_URL", self.redis.url()).genesys(&self.genesys);
        setup.members(&[("STORE", name(store)), ("RATE_PER_MINUTE", "1000000"), ("MAX_IN_FLIGHT", "10000")])
    }

    async fn many_without_a_token(&self) {
        println!("{AT_ONCE} executions at once, and no token");
        println!("{:16} {:>7} {:>7}  answers", "", "logins", "calls");
        for (ended, what) in [(false, "none yet"), (true, "one that ended")] {
            let service = self.setup(Store::Redis).start().await;
            if ended {
                self.genesys.login.answer_once(Genesys::token("short", 1));
                assert_eq!(send(execution(&service, "first")).await.status, 200);
            }
            let before = self.genesys.asked();
            self.genesys.login.hold();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let calls: Vec<_> = (0..AT_ONCE).map(|nth| tokio::spawn(send(execution(&service, &format!("{ended}-{nth}"))))).collect();
            // All of them are waiting for it by then.
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.genesys.login.release();
            let replies: Vec<_> = join_all(calls).await.into_iter().map(|call| call.expect("a call")).collect();
            let (calls, logins) = self.genesys.asked();
            let (calls, logins) = (calls - before.0, logins - before.1);
            let answers = tally(replies.iter().map(|reply| reply.status));
            println!("{what:16} {logins:>7} {calls:>7}  {answers:?}");
            assert_eq!((logins, calls, answers), (1, AT_ONCE, [(200, AT_ONCE)].into()));
        }
    }

    async fn storm(&self) {
        let seconds = self.options.seconds.unwrap_or(STORM);
        let service = self.setup(Store::Redis).member("DEADLINE", &format!("{}s", DEADLINE.as_secs())).start().await;
        self.genesys.api.answer(Answer::new(429));
        let before = self.genesys.api.started();
        let requests = (0..RATE * seconds).map(|nth| execution(&service, &nth.to_string())).collect();
        let samples = open_loop(RATE, requests).await;
        let calls = self.genesys.api.requests().split_off(before);
        let late = calls.iter().filter_map(|call| call.at.checked_duration_since(samples[nth(&call.body)].at + DEADLINE));
        let late: Vec<_> = late.collect();
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let ratio = calls.len() as f64 / samples.len() as f64;
        println!("storm: {RATE} executions a second for {seconds} s, each with {DEADLINE:?}, to an upstream that answers 429");
        println!(
            "requests {}, calls {} ({ratio:.3} a request), after their deadline {} (latest by {:?}), answers {:?}, longest {:.0} ms",
            samples.len(),
            calls.len(),
            late.len(),
            late.iter().max().unwrap_or(&Duration::ZERO),
            tally(samples.iter().map(|sample| sample.status)),
            quantile(&samples.iter().collect::<Vec<_>>(), 1.0)
        );
        assert!(late.is_empty(), "calls after their deadline");
    }

    async fn cuts(&self) {
        println!("cuts: {} executions whose connection ends after the request went out, and the same keys again", self.options.times);
        println!("{:9} {:>9} {:>9} {:>15} {:>6}", "store", "", "requests", "unknown_outcome", "calls");
        for store in self.options.stores() {
            let service = self.setup(store).start().await;
            let before = self.genesys.api.started();
            for (what, answer) in [("cut", Answer::cut()), ("again", Answer::default())] {
                self.genesys.api.answer(answer);
                let keys = (0..self.options.times).map(|nth| execution(&service, &format!("cut-{nth}")));
                let replies = join_all(keys.map(send)).await;
                let unknown = replies.iter().filter(|reply| is_unknown(reply)).count();
                let calls = self.genesys.api.started() - before;
                println!("{:9} {what:>9} {:>9} {unknown:>15} {calls:>6}", name(store), replies.len());
                assert_eq!((unknown, calls), (replies.len(), replies.len()), "one call for each key, and never another");
            }
        }
    }

    async fn costs(&self) {
        self.genesys.api.answer(Answer::default());
        let mut rows = Vec::new();
        for store in self.options.stores() {
            let route = Route::new("/forward").forward(&self.genesys.api).store(name(store));
            rows.push((store, self.setup(store).webhooks(&[route]).start().await, Vec::new()));
        }
        for nth in 0..=self.options.rounds {
            let keys = nth * self.options.requests..(nth + 1) * self.options.requests;
            for (_, service, rounds) in &mut rows {
                let forward = self.round(service, &client::webhooks("/forward", keys.clone())).await;
                let execution = self.round(service, &executions(keys.clone())).await;
                // The first round warms everything up.
                if nth > 0 {
                    rounds.push([forward, execution]);
                }
            }
        }
        let Options { connections, requests, rounds, .. } = self.options;
        println!("costs: {connections} connections, {rounds} rounds of {requests} requests, each with a key of its own");
        println!(
            "{:9} {:10} {:>10} {:>8} {:>8}   medians; ratio to forward: a second, p50, p99",
            "store", "", "a second", "p50 ms", "p99 ms"
        );
        for (store, _, rounds) in &rows {
            for (nth, what) in ["forward", "execution"].into_iter().enumerate() {
                let of = |which: usize| median(rounds.iter().map(|round| round[nth][which]));
                let ratio = |which: usize| median(rounds.iter().map(|round| round[nth][which] / round[0][which]));
                let [rate, p50, p99] = [0, 1, 2].map(of);
                let ratios = [0, 1, 2].map(ratio);
                println!("{:9} {what:10} {rate:>10.0} {p50:>8.2} {p99:>8.2}   {ratios:.2?}", name(*store));
            }
        }
    }

    /// Answers a second, and half and 99 in a hundred of the latencies, in milliseconds.
    async fn round(&self, service: &Service, requests: &Requests) -> [f64; 3] {
        let (before, began) = (self.genesys.api.started(), Instant::now());
        let samples = client::run(&service.url, requests, self.options.connections, Until::Sent).await;
        let took = began.elapsed().as_secs_f64();
        let answers = tally(samples.iter().map(|sample| sample.status));
        assert_eq!(answers, [(200, requests.len())].into());
        assert_eq!(self.genesys.api.started() - before, requests.len(), "calls");
        let samples: Vec<_> = samples.iter().collect();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = samples.len() as f64 / took;
        [rate, quantile(&samples, 0.5), quantile(&samples, 0.99)]
    }
}

fn is_unknown(reply: &Reply) -> bool {
    reply.status == 502 && reply.json()["code"] == "unknown_outcome"
}

/// Its key is its input too.
fn execution(service: &Service, key: &str) -> RequestBuilder {
    service.keyed(key, json!({ "n": key }).to_string())
}

/// Which execution of the storm a call is for.
fn nth(body: &[u8]) -> usize {
    let body: Value = serde_json::from_slice(body).expect("JSON");
    body["n"].as_str().and_then(|n| n.parse().ok()).expect("a number")
}

/// The same bodies as of [`client::webhooks`], ready to be sent.
fn executions(keys: std::ops::Range<usize>) -> Requests {
    let path = EXECUTE.replace("{action_id}", ACTION);
    let request = |key| {
        let body = format!(r#"{{"dialogId":"dialog-{key}","nodeId":"node-7","sequence":{key},"text":"What is the state of my order?"}}"#);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-CXone-Signature: {}\r\nIdempotency-Key: cost-{key}\r\nContent-Length: {}\r\n\r\n",
            sign(&body),
            body.len()
        );
        [head, body].concat().into_bytes()
    };
    Arc::new(keys.map(request).collect())
}
