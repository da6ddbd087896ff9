//! A Redis of a test's own.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::aio::MultiplexedConnection;
use redis::{Client, InfoDict};
use uuid::Uuid;

use super::{free_port, scratch_dir, wait_until, watch, watchdog};

/// How many ports are tried.
const ATTEMPTS: usize = 20;

/// The key of a cached customer, in an epoch of the database.
pub(crate) fn customer_key(epoch: &str, tenant: &str, id: Uuid) -> String {
    format!("cxda:v3:{{{tenant}}}:{epoch}:{id}")
}

/// The server that tests start: `redis-server`, or the one at `REDIS_SERVER`, as `tests/neighbours/redis` does.
#[expect(clippy::disallowed_methods, reason = "tests have no settings of their own")]
fn program() -> OsString {
    std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// A `redis-server` without persistence, killed when dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) port: u16,
    server: Child,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(options: &[&str]) -> Self {
        // Another process may have taken the port meanwhile.
        for _ in 0..ATTEMPTS {
            if let Some(redis) = Self::launch(free_port(), options).await {
                return redis;
            }
        }
        panic!("{} does not start with {options:?}", program().display());
    }

    /// A replica of this one, with the same data.
    pub(crate) async fn replica(&self) -> Self {
        let replica = Self::start().await;
        replica.follow(self).await;
        replica
    }

    /// Becomes a replica of another one, and takes over its data.
    pub(crate) async fn follow(&self, primary: &Self) {
        self.run::<()>(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
        let link = async || self.info("replication").await.get::<String>("master_link_status");
        wait_until("the replica has its primary's data", async || link().await.filter(|link| link == "up")).await;
    }

    /// Becomes a replica that keeps its data, since nothing listens where its primary is to be.
    pub(crate) async fn demote(&self) {
        self.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    }

    pub(crate) async fn promote(&self) {
        self.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    }

    pub(crate) async fn info(&self, section: &str) -> InfoDict {
        self.run(&["INFO", section]).await
    }

    /// One that speaks TLS too, on the port that comes with it.
    pub(crate) async fn start_with_tls(certificate: &Path, key: &Path) -> (Self, u16) {
        let [certificate, key] = [certificate, key].map(|path| path.to_str().expect("a plain path"));
        for _ in 0..ATTEMPTS {
            let tls_port = free_port();
            let port = tls_port.to_string();
            let tls = ["--tls-port", &port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
            if let Some(redis) = Self::launch(free_port(), &tls).await {
                return (redis, tls_port);
            }
        }
        panic!("{} does not start with TLS", program().display());
    }

    async fn launch(port: u16, options: &[&str]) -> Option<Self> {
        let mut server = Command::new(program());
        server.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"]);
        server
            .arg(scratch_dir())
            .args(["--repl-diskless-sync-delay", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = server.spawn().expect("these tests need redis-server: apt-get install redis-server (or: brew install redis)");
        watch(server.id(), "KILL");
        let mut redis = Self { port, server };
        wait_until("redis-server answers", async || {
            if redis.server.try_wait().expect("our own child").is_some() {
                return Some(None);
            }
            (redis.pid_by_itself().await == Some(redis.server.id())).then_some(Some(()))
        })
        .await
        .map(|()| redis)
    }

    /// Who answers on the port says that it is this process.
    async fn pid_by_itself(&self) -> Option<u32> {
        let mut connection = Client::open(self.url()).ok()?.get_multiplexed_async_connection().await.ok()?;
        let info: InfoDict = redis::cmd("INFO").arg("server").query_async(&mut connection).await.ok()?;
        info.get("process_id")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As one of the users that README allows the least to.
    pub(crate) async fn url_of(&self, user: &str) -> String {
        let readme = include_str!("../../../README.md");
        let rule = readme.lines().find(|line| line.starts_with(&format!("ACL SETUSER {user} "))).expect("a user of README");
        self.run::<()>(&rule.split(' ').collect::<Vec<_>>()).await;
        format!("redis://{user}:SECRET@127.0.0.1:{}", self.port)
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        Client::open(self.url()).expect("a URL").get_multiplexed_async_connection().await.expect("redis answers")
    }

    /// Runs one command.
    pub(crate) async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection().await).await.unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// The one epoch that all keys of customers name, as soon as there is a key.
    pub(crate) async fn epoch(&self) -> String {
        let named = async || {
            let keys: Vec<String> = self.run(&["KEYS", "cxda:v3:*"]).await;
            let mut epochs: Vec<_> = keys.iter().filter_map(|key| key.rsplit(':').nth(1)).collect();
            epochs.sort_unstable();
            epochs.dedup();
            assert!(epochs.len() < 2, "of several epochs: {keys:?}");
            epochs.first().map(|epoch| (*epoch).to_owned())
        };
        wait_until("a key names an epoch", named).await
    }

    /// The key of a customer, in the one epoch that there is.
    pub(crate) async fn customer_key(&self, tenant: &str, id: Uuid) -> String {
        customer_key(&self.epoch().await, tenant, id)
    }

    /// What is kept for a customer or for its absence, in any epoch; not the mark that a change leaves.
    pub(crate) async fn cached(&self, tenant: &str, id: Uuid) -> Option<serde_json::Value> {
        for key in self.run::<Vec<String>>(&["KEYS", &customer_key("*", tenant, id)]).await {
            let value: Option<String> = self.run(&["GET", &key]).await;
            let value: serde_json::Value = serde_json::from_str(&value.unwrap_or_default()).unwrap_or_default();
            if let Some(customer) = value.get("customer") {
                return Some(customer.clone());
            }
        }
        None
    }

    /// Waits until all of these are kept: Redis is filled after the answer.
    pub(crate) async fn filled(&self, tenant: &str, ids: &[Uuid]) {
        for id in ids {
            wait_until("Redis is filled", async || self.cached(tenant, *id).await).await;
        }
    }

    /// Gone, as by a power cut.
    pub(crate) fn kill(&mut self) {
        self.server.kill().expect("our own child");
        self.server.wait().expect("our own child");
        watchdog::forget(self.server.id());
    }

    /// Back on the same port, empty.
    pub(crate) async fn start_again(&mut self) {
        let port = self.port;
        *self = wait_until("the port is free", async || Self::launch(port, &[]).await).await;
    }

    /// Neither answers nor hangs up.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.server.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("our own child");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if matches!(self.server.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}
