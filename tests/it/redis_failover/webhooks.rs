//! Idempotency keys while Redis fails over: what is done once stays done once, and 503 ends with the failover.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;

use super::refusal;
use crate::support::{Database, Proxy, Redis, Route, Service, Setup, Upstream, wait_until};

const PATH: &str = "/webhooks/dialog";
const FAILOVERS: usize = 4;
/// Callers at a time, each with a key after the other, at both instances.
const CALLERS: usize = 8;

/// Two instances behind which each key's work is to be completed once.
struct Stage {
    _database: Database,
    upstream: Upstream,
    services: [Service; 2],
    is_over: AtomicBool,
}

impl Stage {
    async fn new(url: &str) -> Self {
        let (database, upstream) = (Database::new().await, Upstream::start());
        let route = Route::new(PATH).forward(&upstream).store("redis");
        let setup = Setup::on(&database).set("CXDA_IDEMPOTENCY__REDIS_URL", url).webhooks(&[route]);
        let services = [setup.clone().start().await, setup.start().await];
        Self { _database: database, upstream, services, is_over: AtomicBool::new(false) }
    }

    /// One key at both instances at once, repeated until both have the answer.
    async fn is_done_once(&self, key: &str) {
        let answers = join_all(self.services.iter().map(|service| async move {
            let answered = async || {
                let reply = service.webhook(PATH, key, "{}").await;
                match reply.status {
                    200 => Some(reply.text()),
                    409 => None,
                    _ => {
                        reply.problem(503, "store_unavailable");
                        None
                    }
                }
            };
            wait_until(&format!("{key} is answered"), answered).await
        }));
        let answers = answers.await;
        assert_eq!(answers[0], answers[1], "{key}");
    }

    /// Keys after keys, until all failovers are over.
    async fn calls(&self, caller: usize) -> usize {
        for nth in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return nth;
            }
            self.is_done_once(&format!("{caller}-{nth}")).await;
        }
        unreachable!("an endless loop")
    }

    /// Webhooks run on while Redis fails over again and again. Each time, both instances take new keys before the next one.
    async fn goes_through(&self, mut fail_over: impl AsyncFnMut(usize)) {
        let failovers = async {
            for nth in 0..FAILOVERS {
                fail_over(nth).await;
                self.is_done_once(&format!("after-{nth}")).await;
            }
            self.is_over.store(true, Ordering::Relaxed);
        };
        let ((), keys) = tokio::join!(failovers, join_all((0..CALLERS).map(|caller| self.calls(caller))));
        let keys = keys.iter().sum::<usize>() + FAILOVERS;
        let runs = self.upstream.runs();
        assert_eq!(runs.len(), keys);
        for (key, runs) in runs {
            assert_eq!((runs.started, runs.completed), (1, 1), "{key}");
        }
    }

    /// Both instances know that the server is a replica.
    async fn is_refused(&self) {
        for service in &self.services {
            let known = async || (refusal(service, "idempotency_redis_refusal").await == "REPLICA").then_some(());
            wait_until("the demotion is noticed", known).await;
        }
    }
}

#[tokio::test]
async fn a_primary_demoted_and_promoted_again_costs_no_work_done_twice() {
    let redis = Redis::start().await;
    let stage = Stage::new(&redis.url()).await;
    stage
        .goes_through(async |_| {
            redis.demote().await;
            stage.is_refused().await;
            stage.services[0].webhook(PATH, "meanwhile", "{}").await.problem(503, "store_unavailable");
            redis.promote().await;
        })
        .await;
}

#[tokio::test]
async fn a_planned_failover_with_its_name_costs_no_work_done_twice() {
    let first = Redis::start().await;
    let second = first.replica().await;
    let servers = [first, second];
    let proxy = Proxy::before(servers[0].port).await;
    let stage = Stage::new(&proxy.url()).await;
    stage
        .goes_through(async |nth| {
            let (primary, replica) = (&servers[nth % 2], &servers[(nth + 1) % 2]);
            let is_up = async || replica.info("replication").await.get::<String>("master_link_status").filter(|link| link == "up");
            wait_until("the replica is up", is_up).await;
            primary.run::<()>(&["FAILOVER"]).await;
            let promoted = async || replica.info("replication").await.get::<String>("role").filter(|role| role == "master");
            wait_until("the replica is promoted", promoted).await;
            proxy.redirect(replica.port);
        })
        .await;
}

#[tokio::test]
async fn a_refused_step_leaves_the_key_free() {
    let redis = Redis::start().await;
    let stage = Stage::new(&redis.url()).await;
    redis.demote().await;
    stage.services[0].webhook(PATH, "k", "{}").await.problem(503, "store_unavailable");
    redis.promote().await;
    stage.is_done_once("k").await;
    assert_eq!(stage.upstream.started(), 1);
}
