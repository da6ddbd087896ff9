//! A database, a Redis and what stands between them and the service; and what happens to them in the middle of a run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::sleep;
use tokio_postgres::Client;

use super::KEYS;
use super::board::Board;
use crate::support::{Backup, Cluster, Database, PgBouncer, Proxy, Redis, Setup, connect, free_port, wait_until};
use crate::{customer, fill};

/// What stands beside the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Neighbour {
    /// Postgres and Redis spoken to directly.
    Plain,
    /// PgBouncer in transaction mode, and a listener past it.
    Pgbouncer,
    /// PgBouncer in transaction mode, and no listener past it.
    PgbouncerAlone,
    /// Customers come by logical replication from a database with the same schema.
    Replication,
    /// Customers come by logical replication from a plain table.
    ReplicationFromPlain,
    /// A standby that lags is promoted.
    Promotion,
    /// A backup of the files is restored.
    Restore,
    /// Redis is killed and comes back.
    RedisKilled,
    /// The Redis primary is demoted and promoted again.
    RedisDemoted,
    /// The name of Redis moves to another server while the old one runs on.
    RedisMoved,
}

/// All that a run needs.
pub(crate) struct World {
    neighbour: Neighbour,
    cluster: Cluster,
    /// Where services read.
    database: Database,
    settings: Vec<(&'static str, String)>,
    /// Where customers are written.
    pub(crate) writes: Writes,
    /// Where a commit has to arrive before it counts, if not at the writer's database.
    pub(crate) applied: Option<String>,
    redis: Redis,
    standby: Option<Cluster>,
    backup: Option<Backup>,
    proxy: Option<Proxy>,
    _source: Option<Database>,
    _bouncer: Option<PgBouncer>,
    other_redis: Option<Redis>,
}

/// The writer's way to the database that takes writes now.
#[derive(Clone)]
pub(crate) struct Writes(Arc<Mutex<(String, Client)>>);

impl Writes {
    async fn to(url: &str) -> Self {
        let client = connect(url).await.expect("a connection");
        Self(Arc::new(Mutex::new((url.to_owned(), client))))
    }

    /// The connection, which nothing else is done to meanwhile.
    pub(crate) async fn client(&self) -> tokio::sync::MappedMutexGuard<'_, Client> {
        tokio::sync::MutexGuard::map(self.0.lock().await, |(_, client)| client)
    }

    pub(crate) async fn url(&self) -> String {
        self.0.lock().await.0.clone()
    }

    async fn stop(&self) -> OwnedMutexGuard<(String, Client)> {
        Arc::clone(&self.0).lock_owned().await
    }
}

/// The number that stands in a customer's id.
pub(crate) fn customer_number(key: usize) -> i32 {
    i32::try_from(key + 1).expect("few")
}

pub(crate) fn customer_id(key: usize) -> String {
    customer(customer_number(key))
}

const PLAIN: &str =
    "CREATE TABLE customers (tenant_id text, id uuid, name text NOT NULL, status text NOT NULL, PRIMARY KEY (tenant_id, id))";

impl World {
    pub(crate) async fn beside(neighbour: Neighbour) -> Self {
        let mut cluster = Cluster::start(&[("max_connections", "200"), ("wal_level", "logical")]).await;
        let mut database = cluster.database().await;
        let redis = Redis::start().await;
        let mut settings = vec![("REDIS_URL", redis.url()), ("CXDA_CACHE__TIMEOUT", "900ms".to_owned())];
        let (mut source, mut standby, mut backup, mut proxy, mut other_redis, mut bouncer) = (None, None, None, None, None, None);
        if matches!(neighbour, Neighbour::Promotion | Neighbour::Restore) {
            let port = cluster.listen(&[]).await;
            database.owner_url = cluster.url_of(&database);
            database.reconnect().await;
            let standby_port = free_port();
            settings.push(("DATABASE_URL", database.url_of_primary(&[port, standby_port])));
            customers(&database).await;
            match neighbour {
                Neighbour::Promotion => standby = Some(cluster.standby(port, standby_port).await),
                _ => {
                    cluster.stop().await;
                    backup = Some(Backup::of(&cluster));
                    cluster.start_again().await;
                    database.owner_url = cluster.url_of(&database);
                    database.reconnect().await;
                }
            }
        } else if matches!(neighbour, Neighbour::Replication | Neighbour::ReplicationFromPlain) {
            source = Some(replicate(&cluster, &database, neighbour == Neighbour::Replication).await);
        } else {
            customers(&database).await;
        }
        if matches!(neighbour, Neighbour::Pgbouncer | Neighbour::PgbouncerAlone) {
            let between = PgBouncer::before(&database, 20).await;
            settings.push(("DATABASE_URL", between.url()));
            if neighbour == Neighbour::Pgbouncer {
                settings.push(("CXDA_DATABASE__LISTEN_URL", database.url.clone()));
            }
            bouncer = Some(between);
        }
        if neighbour == Neighbour::RedisMoved {
            let way = Proxy::before(redis.port).await;
            settings.push(("REDIS_URL", way.url()));
            (proxy, other_redis) = (Some(way), Some(Redis::start().await));
        }
        let writes = Writes::to(source.as_ref().map_or(&database.owner_url, |source: &Database| &source.owner_url)).await;
        let applied = source.as_ref().map(|_| database.owner_url.clone());
        Self {
            neighbour,
            cluster,
            database,
            settings,
            writes,
            applied,
            redis,
            standby,
            backup,
            proxy,
            _source: source,
            _bouncer: bouncer,
            other_redis,
        }
    }

    /// A service in this world. Nothing that is cached ends while a run lasts.
    pub(crate) fn setup(&self) -> Setup {
        let setup = Setup::on(&self.database).patient();
        self.settings.iter().fold(setup, |setup, (name, value)| setup.set(name, value))
    }

    /// Lets happen what this neighbour does, for so long.
    pub(crate) async fn strike(&mut self, board: &Board, long: Duration) {
        match self.neighbour {
            Neighbour::Plain
            | Neighbour::Pgbouncer
            | Neighbour::PgbouncerAlone
            | Neighbour::Replication
            | Neighbour::ReplicationFromPlain => sleep(long).await,
            Neighbour::Promotion => self.promote(board, long).await,
            Neighbour::Restore => self.restore(board, long).await,
            Neighbour::RedisKilled => {
                self.redis.kill();
                sleep(long).await;
                self.redis.start_again().await;
            }
            Neighbour::RedisDemoted => {
                self.redis.demote().await;
                sleep(long).await;
                self.redis.promote().await;
            }
            Neighbour::RedisMoved => {
                if let (Some(proxy), Some(other)) = (&self.proxy, &self.other_redis) {
                    proxy.redirect(other.port);
                }
                sleep(long).await;
            }
        }
    }

    async fn promote(&mut self, board: &Board, long: Duration) {
        let standby = self.standby.as_ref().expect("a standby");
        let url = standby.url_of(&self.database);
        let replica = connect(&url).await.expect("the standby answers");
        // From now on it lags.
        replica.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.expect("a setting");
        replica.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
        sleep(long).await;
        let writes = self.writes.stop().await;
        board.fails_over();
        self.cluster.kill().await;
        replica.batch_execute("SELECT pg_promote()").await.expect("it is the primary");
        self.take_writes(writes, url, board).await;
    }

    async fn restore(&mut self, board: &Board, long: Duration) {
        sleep(long).await;
        let writes = self.writes.stop().await;
        board.fails_over();
        self.cluster.kill().await;
        self.backup.as_ref().expect("a backup").restore(&self.cluster);
        self.cluster.start_again().await;
        self.take_writes(writes, self.cluster.url_of(&self.database), board).await;
    }

    /// Tells the board what the database has now, and lets the writer go on there.
    async fn take_writes(&self, mut writes: OwnedMutexGuard<(String, Client)>, url: String, board: &Board) {
        let client = wait_until("Postgres takes connections", async || connect(&url).await.ok()).await;
        let mut kept = HashMap::new();
        for key in 0..KEYS {
            let row = client.query_one(&format!("SELECT name FROM customers WHERE id = '{}'", customer_id(key)), &[]).await;
            kept.insert(key, row.expect("the customer").get::<_, &str>(0).parse().expect("a number"));
        }
        board.failed_over(&kept);
        *writes = (url, client);
    }
}

/// The customers of a run, all named 0.
async fn customers(database: &Database) {
    fill(database, i32::try_from(KEYS).expect("few")).await;
    database.run("UPDATE customers SET name = '0'").await;
}

/// A database that the customers come from.
async fn replicate(cluster: &Cluster, target: &Database, has_schema: bool) -> Database {
    let source = if has_schema { cluster.database().await } else { cluster.empty_database().await };
    if has_schema {
        customers(&source).await;
    } else {
        source.run(PLAIN).await;
        for key in 0..KEYS {
            source.run(&format!("INSERT INTO customers VALUES ('acme42', '{}', '0', 'active')", customer_id(key))).await;
        }
    }
    source.run("CREATE PUBLICATION bench FOR TABLE customers").await;
    // Of a database of the same server, a subscription cannot make the slot itself.
    source.run("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')").await;
    let url = &source.owner_url;
    target
        .run(&format!("CREATE SUBSCRIPTION bench CONNECTION '{url}' PUBLICATION bench WITH (create_slot = false, slot_name = 'bench')"))
        .await;
    let copied = async || {
        let ready = target.value::<bool>("SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel").await;
        ready.then_some(())
    };
    wait_until("the first copy is done", copied).await;
    source
}
