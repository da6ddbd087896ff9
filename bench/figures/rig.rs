//! What the figures are measured on: one Postgres, one Redis, and a process of the service for each way to run it.

use std::time::Duration;

use super::instance::Instance;
use super::redis_benchmark;
use super::usage::Cpu;
use crate::client::{self, BATCH};
use crate::connection::Connection;
use crate::support::{Cluster, Database, Redis, SECRET};
use crate::{Options, cluster, fill};

/// Longer than any run, so that nothing of what is to be found in a cache ends amid a round.
const TTL: (&str, &str) = ("CXDA_CACHE__TTL", "1h");
const UNCACHED: (&str, &str) = ("CXDA_CACHE__TTL", "0");
const UNAUDITED: (&str, &str) = ("CXDA_AUDIT__CACHE_HITS", "false");
const REDIS_ALONE: (&str, &str) = ("CXDA_CACHE__LOCAL_CAPACITY", "0");

/// How long somebody may take to start the peers.
const PEERS: Duration = Duration::from_mins(10);

pub(crate) struct Rig<'o> {
    pub(crate) options: &'o Options,
    pub(crate) main: Populated,
    pub(crate) redis: Redis,
    pub(crate) uncached: Instance,
    pub(crate) audited: Instance,
    pub(crate) unaudited: Instance,
    pub(crate) from_redis: Instance,
    pub(crate) mixed: Instance,
    pub(crate) bare: Instance,
    /// By name, where they are.
    pub(crate) peers: Vec<(String, String)>,
    cluster: Cluster,
}

/// A database full of customers.
pub(crate) struct Populated {
    pub(crate) database: Database,
    pub(crate) customers: i32,
    /// How many of them are asked for again and again.
    pub(crate) hot: i32,
}

impl Populated {
    async fn new(options: &Options, cluster: &Cluster, customers: i32) -> Self {
        let database = cluster.database().await;
        eprintln!("loading {customers} customers");
        fill(&database, customers).await;
        Self { database, customers, hot: options.figures.hot.min(customers) }
    }

    /// As if nobody had ever asked for anything. No round pays for what another one has left behind.
    pub(crate) async fn fresh(&self) {
        self.database.run("TRUNCATE audit_log").await;
        self.database.run("CHECKPOINT").await;
    }

    /// The audit rows since then, and those of answers that did not come from a cache alone.
    pub(crate) async fn audited(&self) -> (i64, i64) {
        let sql = "SELECT count(*), count(*) FILTER (WHERE source <> 'cache') FROM audit_log";
        let row = self.database.owner.query_one(sql, &[]).await.expect("audit rows");
        (row.get(0), row.get(1))
    }
}

impl<'o> Rig<'o> {
    pub(crate) async fn new(options: &'o Options) -> Self {
        let mut cluster = cluster().await;
        // Not everybody's driver knows unix sockets.
        let port = if options.figures.peer.is_empty() { None } else { Some(cluster.listen(&[]).await) };
        let redis = Redis::start().await;
        let main = Populated::new(options, &cluster, options.main_customers()).await;
        let database = &main.database;
        let url = redis.url();
        let cached = ("REDIS_URL", &*url);
        let uncached = Instance::service(options, database, &[UNCACHED]).await;
        let audited = Instance::service(options, database, &[TTL, cached]).await;
        let unaudited = Instance::service(options, database, &[TTL, cached, UNAUDITED]).await;
        let from_redis = Instance::service(options, database, &[TTL, cached, UNAUDITED, REDIS_ALONE]).await;
        // What is asked for once must not stay for all rounds.
        let mixed = Instance::service(options, database, &[cached]).await;
        let answer = answer(&uncached.url).await.expect("an answer");
        // About as much as is kept of one customer.
        redis_benchmark::fill(&redis, main.hot, &"x".repeat(answer.len() / BATCH)).await;
        let bare = Instance::bare(&answer);
        let peers = options.figures.peer.iter().map(|peer| peer.split_once('=').expect("--peer NAME=URL"));
        let peers = peers.map(|(name, url)| (name.to_owned(), url.to_owned())).collect();
        let rig = Self { options, main, redis, uncached, audited, unaudited, from_redis, mixed, bare, peers, cluster };
        if let Some(port) = port {
            rig.await_peers(port).await;
        }
        rig
    }

    /// Another database beside the main one.
    pub(crate) async fn populated(&self, customers: i32) -> Populated {
        Populated::new(self.options, &self.cluster, customers).await
    }

    /// A service without a cache on it.
    pub(crate) async fn uncached_on(&self, populated: &Populated) -> Instance {
        Instance::service(self.options, &populated.database, &[UNCACHED]).await
    }

    /// What has been used so far, by that process and by all others.
    pub(crate) async fn cpu(&self, pid: Option<u32>) -> Cpu {
        let server: redis::InfoDict = self.redis.run(&["INFO", "server"]).await;
        let postgres = u32::try_from(self.cluster.pid()).expect("a pid");
        Cpu::now(pid, postgres, server.get("process_id").expect("Redis tells who it is"))
    }

    /// Says what the peers need, and waits until all of them answer.
    async fn await_peers(&self, port: u16) {
        let url = &self.main.database.owner_url;
        let name = url.rsplit('/').next().unwrap_or_default();
        println!("Peers find the customers of tenant acme42 at {url}");
        println!("                                   or at postgresql://app@127.0.0.1:{port}/{name}");
        println!("Redis: {}. Bodies are signed with: {SECRET}", self.redis.url());
        for (name, url) in &self.peers {
            println!("waiting until {name} answers at {url}/data-action");
            let patience = tokio::time::Instant::now() + PEERS;
            while answer(url).await.is_none() {
                assert!(tokio::time::Instant::now() < patience, "{name} does not answer 200");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// The body of a lookup's answer, where there is one.
async fn answer(url: &str) -> Option<Vec<u8>> {
    let mut connection = Connection::open(url).await.ok()?;
    let status = connection.exchange(&client::lookup(1..=i32::try_from(BATCH).ok()?)).await.ok()?;
    (status == 200).then(|| connection.body().to_vec())
}
