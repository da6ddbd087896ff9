//! The whole service under load, on a private Postgres and Redis: how fast, beside what Postgres, Redis and HTTP can do by
//! themselves, and beside any peers.
//!
//!     cargo bench --bench load -- figures [--section main,connections,batches,customers,latency,load] [--rounds N] [--seconds N]
//!         [--customers N,N,...] [--connections N] [--peer NAME=URL] [--plot FILE.svg] [--set NAME=VALUE]
//!
//! What callers see while a dependency dies, what they read while customers change, and whether they suffer for one another:
//!
//!     cargo bench --bench load -- redis | postgres [--customers N] [--connections N] [--requests N] [--set NAME=VALUE]
//!     cargo bench --bench load -- coherence [--rounds N] [--seconds N]
//!     cargo bench --bench load -- neighbours [--neighbour NAME,...] [--rounds N] [--seconds N]
//!     cargo bench --bench load -- poison [--customers N] [--connections N] [--seconds N]
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
//!
//! And of a file of customers, beside Postgres' own `\copy`.
//!
//!     cargo bench --bench load -- import [--customers N] [--rounds N]
//!
//! And of attacks, against the service of `--binary PATH` (the one just built where not set), so that one bench measures a change
//! before and after. Which bodies cost the most CPU, found by mutation from `bench/corpus/`; good answers while the worst of them
//! come in; tenants beside one that floods, and a lone tenant's throughput beside a peer's; good answers while thousands of sockets
//! hang on to the service.
//!
//!     cargo bench --bench load -- worst-bodies [--binary PATH] [--seconds N] [--sizes N,N,...] [--route PATH,...] [--worst N] [--keep]
//!     cargo bench --bench load -- strangers [--binary PATH] [--rate N] [--worst N] [--route PATH,...] [--rounds N] [--seconds N]
//!     cargo bench --bench load -- tenants [--binary PATH] [--peer-binary PATH] [--rounds N] [--seconds N]
//!     cargo bench --bench load -- sockets [--binary PATH] [--sockets N] [--nofile N] [--kind NAME,...] [--seconds N]

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that panics has failed, which is its purpose")]

mod attacks;
mod client;
mod cognigy;
mod coherence;
mod connection;
mod figures;
mod genesys;
mod import;
mod kills;
mod neighbours;
mod once;
mod outages;
mod poison;
mod sockets;
#[expect(dead_code, reason = "made for the tests, and shared as it is")]
#[path = "../tests/it/webhook_crashes/stage.rs"]
mod stage;
mod strangers;
#[expect(dead_code, unused_imports, reason = "made for the tests, and shared as it is")]
#[path = "../tests/it/support/mod.rs"]
mod support;
mod table;
mod tenants;
#[expect(dead_code, reason = "made for the tests, and shared as it is")]
#[path = "../tests/it/webhook_scale.rs"]
mod webhook_scale;
mod webhooks;
mod worst_bodies;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use mimalloc::MiMalloc;
use support::{Cluster, Database, Setup, connect};
use tokio::runtime::Builder;

/// The service's, so that the bare route has it too.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Clone, Copy, ValueEnum)]
enum Scene {
    /// Every figure, in interleaved rounds.
    Figures,
    /// Customers that change while they are read.
    Coherence,
    /// The same beside a pooler, a publisher, a standby, a backup and a Redis that fails over.
    Neighbours,
    /// Requests that fail in the database, among others.
    Poison,
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
    /// A file of customers, beside `psql \copy`.
    Import,
    /// Bodies that cost the service the most CPU time.
    WorstBodies,
    /// Good lookups while such bodies come in.
    Strangers,
    /// Tenants beside one that floods.
    Tenants,
    /// Good lookups while thousands of sockets are held open.
    Sockets,
    /// What the scene figures starts beside itself.
    #[value(hide = true)]
    Bare,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Store {
    Redis,
    Postgres,
}

/// From what lies in any cache to what does not.
const CUSTOMERS: [i32; 3] = [10_000, 1_000_000, 10_000_000];

#[derive(Parser)]
struct Options {
    scene: Scene,
    /// Customers in the database. Of several numbers the middle one counts, but for the section that compares them.
    #[arg(long, value_delimiter = ',', default_values_t = CUSTOMERS)]
    customers: Vec<i32>,
    /// Connections, each with one request under way.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Requests of each round, where seconds do not say how long it is.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Rounds of the scenes figures, coherence, neighbours, webhooks, genesys, cognigy, strangers, tenants and import (twice as many: half of them
    /// in the other order).
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Which of the scene neighbours; all where none is named.
    #[arg(long, value_delimiter = ',')]
    neighbour: Vec<neighbours::Neighbour>,
    /// The idempotency store of the scenes once, kills and genesys; both where none is named.
    #[arg(long)]
    store: Option<Store>,
    /// Kills at each moment, or connections cut.
    #[arg(long, default_value_t = 100)]
    times: usize,
    /// Seconds of each round of the scene figures (3 where not set), of each run of coherence and neighbours (9) and poison (30), of each phase
    /// of the scene cognigy (60), of the storm in the scene genesys (30), of the search in worst-bodies (60), of each round of strangers
    /// and tenants (8), and of the wait for sockets of each kind (90).
    #[arg(long)]
    seconds: Option<u32>,
    /// Settings of the service under load, as `NAME=VALUE`.
    #[arg(long)]
    set: Vec<String>,
    #[command(flatten)]
    figures: figures::Choice,
    #[command(flatten)]
    attacks: attacks::AttackOptions,
    /// cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let is_attack = matches!(options.scene, Scene::WorstBodies | Scene::Strangers | Scene::Tenants | Scene::Sockets);
    // The service under attack shares the cores with this process.
    let mut runtime = if is_attack { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if matches!(options.scene, Scene::Figures) {
        // Callers are other machines' work, so they shall be in nobody's way here: with a thread of theirs on each of two cores,
        // answers from a cache were 64,000 a second in place of 92,000, with 165,000 and 155,000 of the bare route.
        runtime.worker_threads(1);
    }
    runtime.enable_all().build().expect("a runtime").block_on(run(&options));
}

async fn run(options: &Options) {
    match options.scene {
        Scene::Figures => figures::run(options).await,
        Scene::Coherence => coherence::run(options).await,
        Scene::Neighbours => neighbours::run(options).await,
        Scene::Poison => poison::run(options).await,
        Scene::Redis => outages::redis(options).await,
        Scene::Postgres => outages::postgres(options).await,
        Scene::Once => once::run(options).await,
        Scene::Kills => kills::run(options).await,
        Scene::Webhooks => webhooks::run(options).await,
        Scene::Genesys => genesys::run(options).await,
        Scene::Cognigy => cognigy::run(options).await,
        Scene::Import => import::run(options).await,
        Scene::WorstBodies => worst_bodies::run(options).await,
        Scene::Strangers => strangers::run(options).await,
        Scene::Tenants => tenants::run(options).await,
        Scene::Sockets => sockets::run(options).await,
        Scene::Bare => figures::bare(options).await,
    }
}

impl Options {
    /// The service under load, but for its cache.
    fn service(&self, database: &Database) -> Setup {
        self.settings().fold(Setup::on(database), |setup, (name, value)| setup.set(name, value))
    }

    /// Names and values of `--set`.
    fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.set.iter().map(|setting| setting.split_once('=').expect("--set NAME=VALUE"))
    }

    /// How many customers there are, where all requests go to one database.
    fn main_customers(&self) -> i32 {
        self.customers[self.customers.len() / 2]
    }

    /// How long a round of the scene figures is.
    fn round(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(3).max(1).into())
    }

    /// How the medians came about.
    fn rounds_told(&self) -> String {
        format!("Medians of {} interleaved rounds of {} s (least to most).", self.rounds, self.round().as_secs())
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
    let cluster = cluster().await;
    let database = cluster.database().await;
    fill(&database, customers).await;
    (cluster, database)
}

/// A durable server, with the quarter of the machine's memory that Postgres' manual advises to begin with.
async fn cluster() -> Cluster {
    let quarter = format!("{}MB", figures::machine::memory_mib() / 4);
    Cluster::start(&[("max_connections", "200"), ("shared_buffers", &quarter)]).await
}

/// So many customers of one tenant, and the server at rest afterwards.
async fn fill(database: &Database, customers: i32) {
    let owner = connect(&database.owner_url).await.expect("the superuser gets in");
    // Nobody listens yet, so that no trigger has anybody to tell; and it may take its time.
    owner.batch_execute("SET session_replication_role = replica; SET statement_timeout = 0").await.expect("settings");
    let fill = "INSERT INTO customers (tenant_id, id, name, status, attributes) \
        SELECT 'acme42', ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'Customer number ' || n, 'active', '{\"tier\": \"gold\", \"language\": \"en\"}' \
        FROM generate_series(1, $1) n";
    owner.execute(fill, &[&customers]).await.expect("customers");
    owner.batch_execute("VACUUM ANALYZE customers").await.expect("a vacuum");
    owner.batch_execute("CHECKPOINT").await.expect("a checkpoint");
}
