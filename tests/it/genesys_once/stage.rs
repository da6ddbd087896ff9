//! A store, a Genesys, and services between them.

use crate::support::{Cable, Cluster, Database, EXECUTE, Genesys, Redis, Reply, Service, Setup, wait_until};

/// A lease that no test lives to see the end of, nor its renewal.
pub(super) const LONG: &str = "10m";

pub(super) struct Stage {
    store: &'static str,
    database: Database,
    /// A Postgres of the stage's own, to be killed.
    cluster: Option<Cluster>,
    redis: Option<Redis>,
    pub(super) genesys: Genesys,
}

impl Stage {
    pub(super) async fn new(store: &'static str) -> Self {
        Self::on(store, Database::new().await, None).await
    }

    /// With a store that no other test uses.
    pub(super) async fn mortal(store: &'static str) -> Self {
        if store != "postgres" {
            return Self::new(store).await;
        }
        let cluster = Cluster::start(&[]).await;
        Self::on(store, cluster.database().await, Some(cluster)).await
    }

    async fn on(store: &'static str, database: Database, cluster: Option<Cluster>) -> Self {
        let redis = if store == "redis" { Some(Redis::start().await) } else { None };
        Self { store, database, cluster, redis, genesys: Genesys::start() }
    }

    pub(super) fn setup(&self, members: &[(&str, &str)]) -> Setup {
        let setup = Setup::on(&self.database).genesys(&self.genesys).member("STORE", self.store).members(members);
        // A machine that is slow is not what these tests are about.
        let setup = setup.patient().set("CXDA_IDEMPOTENCY__TIMEOUT", "15s");
        match &self.redis {
            Some(redis) => setup.set("CXDA_IDEMPOTENCY__REDIS_URL", redis.url()),
            None => setup,
        }
    }

    /// With these settings of `[genesys]`.
    pub(super) async fn service(&self, members: &[(&str, &str)]) -> Service {
        self.setup(members).start().await
    }

    /// A cable to the store, and a service at its end. A step that is held neither fails meanwhile nor keeps others from getting
    /// as far.
    pub(super) async fn service_by_cable(&self, lease: &str, timeout: &str) -> (Cable, Service) {
        let (cable, name) = match &self.redis {
            Some(redis) => (Cable::to_redis(redis).await, "CXDA_IDEMPOTENCY__REDIS_URL"),
            None => (Cable::to_postgres(&self.database).await, "DATABASE_URL"),
        };
        let setup = self.setup(&[("LEASE", lease)]).set(name, &cable.url).set("CXDA_IDEMPOTENCY__TIMEOUT", timeout);
        let service = setup.set("CXDA_IDEMPOTENCY__CONNECTIONS", "16").start().await;
        (cable, service)
    }

    pub(super) async fn lose_store(&mut self) {
        match &mut self.cluster {
            Some(cluster) => cluster.kill().await,
            None => self.redis.as_mut().expect("the store is a Redis").kill(),
        }
    }

    pub(super) async fn regain_store(&mut self) {
        match &mut self.cluster {
            Some(cluster) => {
                cluster.start_again().await;
                self.database.reconnect().await;
            }
            None => self.redis.as_mut().expect("the store is a Redis").start_again().await,
        }
    }

    /// The store comes back from a backup that knows no key, as it were.
    pub(super) async fn forget(&self) {
        match &self.redis {
            Some(redis) => redis.run::<()>(&["FLUSHALL"]).await,
            None => self.database.run("DELETE FROM idempotency").await,
        }
    }

    /// How many keys are in that state, by the store itself.
    pub(super) async fn records(&self, state: &str) -> usize {
        match &self.redis {
            Some(redis) => {
                let name = if state == "leased" { "lease" } else { state };
                redis.run::<Vec<String>>(&["KEYS", &format!("cxda:idem:v1:{{*}}:{name}")]).await.len()
            }
            None => {
                let sql = format!("SELECT count(*) FROM idempotency WHERE state = '{state}'");
                usize::try_from(self.database.value::<i64>(&sql).await).expect("a count")
            }
        }
    }

    /// An execution with that key that is called for, whatever became of earlier ones.
    pub(super) async fn is_executed(&self, service: &Service, key: &str) -> Reply {
        let before = self.genesys.api.started();
        let reply = service.execute_as(key, "{}").await;
        assert_eq!((reply.status, reply.replayed()), (200, false), "{key}: {}", reply.text());
        assert_eq!(self.genesys.api.started(), before + 1, "{key}");
        reply
    }
}

/// Asks with that key until somebody knows more than that it is in flight.
pub(super) async fn settled(service: &Service, key: &str) -> Reply {
    let answer = async || {
        let reply = service.execute_as(key, "{}").await;
        if reply.status == 409 {
            reply.problem(409, "in_flight");
        }
        (reply.status != 409).then_some(reply)
    };
    wait_until("the key is in flight no longer", answer).await
}

/// The gauge of a route's records, waited for.
pub(super) async fn has_records(service: &Service, route: &str, wanted: [(&str, u64); 3]) {
    wait_until(&format!("{route} has {wanted:?}"), async || {
        let metrics = service.metrics().await;
        let is = |(state, n): &(&str, u64)| metrics.count("idempotency_records", &[("route", route), ("state", state)]) == *n;
        wanted.iter().all(is).then_some(())
    })
    .await;
}

/// What became of requests of that route.
pub(super) async fn outcomes(service: &Service, outcome: &str) -> u64 {
    service.metrics().await.count("idempotency_requests_total", &[("route", EXECUTE), ("outcome", outcome)])
}
