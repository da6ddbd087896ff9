//! The whole service under load, on a private Postgres and Redis: how fast, beside what Postgres itself can do, and what
//! callers see while a dependency dies.
//!
//!     cargo bench --bench load -- steady | redis | postgres [--customers N] [--connections N] [--requests N] [--set NAME=VALUE]
//!
//! And of webhooks: how often the work is done while instances are killed, and what idempotency costs.
//!
//!     cargo bench --bench load -- once | kills [--store redis|postgres] [--requests N] [--times N]
//!     cargo bench --bench load -- webhooks [--connections N] [--requests N] [--rounds N]
//!
//! And of what the service calls itself: executions where it hurts and what they cost, and metrics that nobody takes.
//!
//!     cargo bench --bench load -- genesys [--store redis|postgres] [--seconds N] [--times N] [--connections N] [--requests N] [--rounds N]
//!     cargo bench --bench load -- cognigy [--seconds N] [--rounds N]

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that panics has failed, which is its purpose")]

mod client;
mod cognigy;
mod genesys;
mod kills;
mod once;
mod outages;
mod pgbench;
#[expect(dead_code, reason = "made for the tests, and shared as it is")]
#[path = "../tests/it/webhook_crashes/stage.rs"]
mod stage;
mod steady;
#[expect(dead_code, unused_imports, reason = "made for the tests, and shared as it is")]
#[path = "../tests/it/support/mod.rs"]
mod support;
#[expect(dead_code, reason = "made for the tests, and shared as it is")]
#[path = "../tests/it/webhook_scale.rs"]
mod webhook_scale;
mod webhooks;

use clap::{Parser, ValueEnum};
use support::{Cluster, Database, Setup};

#[derive(Clone, Copy, ValueEnum)]
enum Scene {
    /// Uncached, cached, and pgbench, in turn.
    Steady,
    /// Redis killed, restarted, hung and woken under load.
    Redis,
    /// Postgres killed and restarted under load.
    Postgres,
    /// Webhooks of few keys at three instances, which are killed in turn.
    Once,
    /// A service killed at each of the moments that matter.
    Kills,
    /// Webhooks beside a proxy that knows no idempotency.
    Webhooks,
    /// Executions without a token, against 429s and cut connections, and beside forwarded webhooks.
    Genesys,
    /// Webhooks while Cognigy is healthy, dead or hung.
    Cognigy,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Store {
    Redis,
    Postgres,
}

#[derive(Parser)]
struct Options {
    scene: Scene,
    /// Customers in the database.
    #[arg(long, default_value_t = 100_000)]
    customers: i32,
    /// Connections, each with one request under way.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Requests of each round.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Rounds of the scenes steady, webhooks, genesys and cognigy.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The idempotency store of the scenes once, kills and genesys; both where none is named.
    #[arg(long)]
    store: Option<Store>,
    /// Kills at each moment, or connections cut.
    #[arg(long, default_value_t = 100)]
    times: usize,
    /// Seconds of each phase of the scene cognigy (60 where not set), and of the storm in the scene genesys (30).
    #[arg(long)]
    seconds: Option<u32>,
    /// Settings of the service under load, as `NAME=VALUE`.
    #[arg(long)]
    set: Vec<String>,
    /// cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    match options.scene {
        Scene::Steady => steady::run(&options).await,
        Scene::Redis => outages::redis(&options).await,
        Scene::Postgres => outages::postgres(&options).await,
        Scene::Once => once::run(&options).await,
        Scene::Kills => kills::run(&options).await,
        Scene::Webhooks => webhooks::run(&options).await,
        Scene::Genesys => genesys::run(&options).await,
        Scene::Cognigy => cognigy::run(&options).await,
    }
}

impl Options {
    /// The service under load, but for its cache.
    fn service(&self, database: &Database) -> Setup {
        let settings = self.set.iter().filter_map(|setting| setting.split_once('='));
        settings.fold(Setup::on(database), |setup, (name, value)| setup.set(name, value))
    }

    /// The idempotency stores of this run.
    fn stores(&self) -> Vec<Store> {
        self.store.map_or_else(|| vec![Store::Redis, Store::Postgres], |store| vec![store])
    }
}

/// The id of the nth customer.
fn customer(n: i32) -> String {
    format!("00000000-0000-4000-8000-{n:012x}")
}

/// A durable server with so many customers of one tenant.
async fn database(customers: i32) -> (Cluster, Database) {
    let cluster = Cluster::start(&[("max_connections", "200"), ("shared_buffers", "512MB")]).await;
    let database = cluster.database().await;
    let fill = "INSERT INTO customers (tenant_id, id, name, status, attributes) \
        SELECT 'acme42', ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'Customer number ' || n, 'active', '{\"tier\": \"gold\", \"language\": \"en\"}' \
        FROM generate_series(1, $1) n";
    database.owner.execute(fill, &[&customers]).await.expect("customers");
    database.run("VACUUM ANALYZE customers").await;
    database.run("CHECKPOINT").await;
    (cluster, database)
}
