//! A store, an upstream, services between them, and the moments at which one of the services is killed.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::support::{Cable, Cluster, Database, PATIENCE, Redis, Reply, Route, Runs, Service, Setup, Stop, Upstream, send, wait_until};

pub(crate) const PATH: &str = "/webhooks/dialog";
/// A lease that no test lives to see the end of, nor its renewal.
pub(crate) const LONG: &str = "10m";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Redis,
    Postgres,
}

/// Where a service is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// The store has the claim, and the service does not know yet.
    Claimed,
    /// The upstream has the request.
    Working,
    /// The service has the upstream's answer, and the store does not.
    Worked,
    /// The store has the answer, and the caller does not.
    Stored,
}

/// What became of a key.
#[derive(Debug)]
pub(crate) struct Fate {
    /// All of the answers but those that asked for patience; `None` where there was none in time.
    pub(crate) answers: BTreeSet<Option<(u16, Vec<u8>)>>,
    pub(crate) runs: Runs,
}

/// A store, an upstream, and the cable between the store and the services.
pub(crate) struct Stage {
    store: Store,
    database: Database,
    /// A Postgres of the stage's own, to be killed.
    cluster: Option<Cluster>,
    pub(crate) redis: Redis,
    pub(crate) cable: Cable,
    pub(crate) upstream: Upstream,
}

impl Stage {
    pub(crate) async fn new(store: Store) -> Self {
        Self::on(store, Database::new().await, None).await
    }

    /// With a store that no other test uses.
    pub(crate) async fn mortal(store: Store) -> Self {
        if store == Store::Redis {
            return Self::new(store).await;
        }
        let cluster = Cluster::start(&[]).await;
        Self::on(store, cluster.database().await, Some(cluster)).await
    }

    async fn on(store: Store, database: Database, cluster: Option<Cluster>) -> Self {
        let redis = Redis::start().await;
        let cable = match store {
            Store::Redis => Cable::to_redis(&redis).await,
            Store::Postgres => Cable::to_postgres(&database).await,
        };
        Self { store, database, cluster, redis, cable, upstream: Upstream::start() }
    }

    pub(crate) fn setup(&self, lease: &str) -> Setup {
        let (name, url, store) = match self.store {
            Store::Redis => ("CXDA_IDEMPOTENCY__REDIS_URL", &self.cable.url, "redis"),
            Store::Postgres => ("DATABASE_URL", &self.cable.url, "postgres"),
        };
        let setup =
            Setup::on(&self.database).set(name, url).webhooks(&[Route::new(PATH).forward(&self.upstream).lease(lease).store(store)]);
        // A step that is held must neither fail meanwhile nor keep others from getting as far.
        setup.set("CXDA_IDEMPOTENCY__TIMEOUT", "20s").set("CXDA_IDEMPOTENCY__CONNECTIONS", "16")
    }

    pub(crate) async fn service(&self, lease: &str) -> Service {
        self.setup(lease).start().await
    }

    /// How many keys are in that state, by the store itself.
    pub(crate) async fn records(&self, state: &str) -> usize {
        match self.store {
            Store::Redis => self.redis_keys(state).await.len(),
            Store::Postgres => {
                let sql = format!("SELECT count(*) FROM idempotency WHERE state = '{state}'");
                usize::try_from(self.database.value::<i64>(&sql).await).expect("a count")
            }
        }
    }

    async fn redis_keys(&self, state: &str) -> Vec<String> {
        let name = if state == "leased" { "lease" } else { state };
        self.redis.run(&["KEYS", &format!("cxda:idem:v1:{{*}}:{name}")]).await
    }

    pub(crate) async fn has(&self, state: &str, keys: usize) {
        wait_until(&format!("{keys} keys are {state}"), async || (self.records(state).await == keys).then_some(())).await;
    }

    /// Does to each lease in the store what time would do, or what it never does.
    pub(crate) async fn change_leases(&self, redis: &[&str], postgres: &str) {
        match self.store {
            Store::Redis => {
                for key in self.redis_keys("leased").await {
                    assert_eq!(self.redis.run::<usize>(&[&[redis[0], &key], &redis[1..]].concat()).await, 1, "{redis:?} {key}");
                }
            }
            Store::Postgres => {
                self.database.run(&format!("UPDATE idempotency SET expires_at = {postgres} WHERE state = 'leased'")).await;
            }
        }
    }

    /// The leases that nobody renews any more end before their time.
    pub(crate) async fn end_leases(&self) {
        self.change_leases(&["PEXPIRE", "0"], "now()").await;
    }

    pub(crate) async fn lose_store(&mut self) {
        match &mut self.cluster {
            Some(cluster) => cluster.kill().await,
            None => self.redis.kill(),
        }
    }

    pub(crate) async fn regain_store(&mut self) {
        match &mut self.cluster {
            Some(cluster) => {
                cluster.start_again().await;
                self.database.reconnect().await;
            }
            None => self.redis.start_again().await,
        }
    }

    pub(crate) fn runs(&self, key: &str) -> Runs {
        let requests = self.upstream.requests();
        let derived = requests.iter().find(|request| request.body == body(key).as_bytes()).map(|request| request.key().to_owned());
        derived.and_then(|derived| self.upstream.runs().get(&derived).copied()).unwrap_or_default()
    }

    /// Kills a service with these keys at that point, has another one answer each of them, and says what became of them.
    pub(crate) async fn kill(&self, service: Service, point: Point, keys: &[String]) -> (Service, Vec<Fate>) {
        let [done, begun] = [self.records("done").await, self.upstream.started()];
        if point == Point::Claimed {
            self.cable.stop(Stop::After(1));
        } else {
            self.upstream.hold();
        }
        let calls: Vec<_> = keys.iter().map(|key| tokio::spawn(service.hook(PATH, key, body(key)).send())).collect();
        match point {
            Point::Claimed => self.has("leased", keys.len()).await,
            Point::Working | Point::Worked | Point::Stored => self.upstream.has_started(begun + keys.len()).await,
        }
        match point {
            Point::Claimed => assert_eq!(self.upstream.started(), begun, "no work before the claim is known"),
            Point::Working => {}
            Point::Worked => {
                self.cable.stop(Stop::Before(2));
                self.upstream.release();
                self.cable.reached(keys.len()).await;
                assert_eq!(self.records("done").await, done);
            }
            Point::Stored => {
                self.cable.stop(Stop::After(2));
                self.upstream.release();
                self.has("done", done + keys.len()).await;
            }
        }
        service.signal(Signal::SIGKILL);
        service.gone().await;
        for call in calls {
            assert!(call.await.expect("a call").is_err(), "nobody was answered");
        }
        self.cable.cut();
        self.upstream.release();

        let service = self.service(LONG).await;
        if point != Point::Stored {
            for key in keys {
                webhook(&service, key).await.problem(409, "in_flight");
            }
            self.end_leases().await;
        }
        let fate = async |key: &String| {
            let mut answers = BTreeSet::new();
            for _ in 0..4 {
                let answer = tokio::time::timeout(PATIENCE / 2, answered(&service, key)).await;
                answers.insert(answer.ok().map(|reply| (reply.status, reply.body)));
            }
            Fate { answers, runs: self.runs(key) }
        };
        let fates = join_all(keys.iter().map(fate)).await;
        assert_eq!(self.records("done").await, done + keys.len(), "one record a key");
        (service, fates)
    }
}

/// Keys that no other call of this has made.
pub(crate) fn keys(n: usize) -> Vec<String> {
    std::iter::repeat_with(|| format!("key-{}", uuid::Uuid::new_v4())).take(n).collect()
}

pub(crate) fn body(key: &str) -> String {
    format!(r#"{{"key":"{key}"}}"#)
}

pub(crate) async fn webhook(service: &Service, key: &str) -> Reply {
    service.webhook(PATH, key, body(key)).await
}

/// The same, while something else goes on.
pub(crate) fn call(service: &Service, key: &str) -> JoinHandle<Reply> {
    tokio::spawn(send(service.hook(PATH, key, body(key))))
}

/// The first answer that is more than a request for patience.
pub(crate) async fn answered(service: &Service, key: &str) -> Reply {
    let answer = async || Some(webhook(service, key).await).filter(|reply| ![409, 503].contains(&reply.status));
    wait_until("there is an answer", answer).await
}
