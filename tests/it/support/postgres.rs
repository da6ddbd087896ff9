//! A private Postgres for the whole run with a database for each test, or one of a test's own to kill.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use cxone_data_action::cli::dev::postgres::{Binaries, PrivatePostgres, find_binaries, usable_by_server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::{PATIENCE, Tool, free_port, scratch_dir, wait_until, watch, watchdog};

/// The login role that services of the tests run as: it may do what the migrations grant, and nothing else.
const SERVICE_ROLE: &str = "cxda_service";
const TEMPLATE: &str = "migrated";
/// Nothing of the shared cluster must outlast the run.
const FAST: &[(&str, &str)] = &[("fsync", "off"), ("max_connections", "300")];

/// A Postgres server.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: Option<PrivatePostgres>,
    data_dir: PathBuf,
    options: Vec<(String, String)>,
    template: OnceCell<()>,
}

/// One row of the audit log.
#[derive(Debug)]
pub(crate) struct AuditRow {
    pub(crate) tenant_id: String,
    pub(crate) occurred_at: DateTime<Utc>,
    pub(crate) id: Uuid,
    pub(crate) action: String,
    pub(crate) source: String,
    pub(crate) customer_ids: Vec<Uuid>,
    pub(crate) missing_ids: Vec<Uuid>,
    pub(crate) key_id: String,
    pub(crate) request_id: String,
    pub(crate) contact_id: Option<String>,
}

/// A database of a test's own, with the superuser's connection to it.
pub(crate) struct Database {
    /// The superuser's URL.
    pub(crate) owner_url: String,
    /// The URL of a role that has what the service's role has.
    pub(crate) url: String,
    /// The superuser's connection.
    pub(crate) owner: Client,
    name: String,
}

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
/// Databases of finished tests, dropped when the next one is made.
static LEFT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Where Postgres' programs are.
pub(crate) fn binaries() -> Binaries {
    let path = super::process::search_path();
    find_binaries(None, Some(&path))
        .expect("these tests need PostgreSQL's server: apt-get install postgresql (or: brew install postgresql)")
}

impl Cluster {
    /// The run's own.
    pub(crate) async fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::start(FAST)).await
    }

    /// One that a test may do to as it likes.
    pub(crate) async fn start(options: &[(&str, &str)]) -> Self {
        let data_dir = scratch_dir().join("postgres");
        assert!(usable_by_server(&data_dir), "set TMPDIR to a directory that everybody may enter: {}", data_dir.display());
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut cluster = Self { server: None, data_dir, options, template: OnceCell::new() };
        cluster.start_again().await;
        cluster.owner("postgres").await.batch_execute(&format!("CREATE ROLE {SERVICE_ROLE} LOGIN")).await.expect("a new role");
        cluster
    }

    /// The server of a data directory that is there already.
    pub(crate) async fn adopt(data_dir: PathBuf, options: &[(&str, &str)]) -> Self {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut cluster = Self { server: None, data_dir, options, template: OnceCell::new_with(Some(())) };
        cluster.start_again().await;
        cluster
    }

    /// Starts a killed one, at the same address.
    pub(crate) async fn start_again(&mut self) {
        self.launch().await.expect("Postgres starts");
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let options: Vec<_> = self.options().collect();
        let server = PrivatePostgres::start(&binaries(), &self.data_dir, &options).await?;
        watch(u32::try_from(server.pid()).expect("a pid"), "INT");
        let said = fs::read_to_string(self.data_dir.join("postmaster.pid")).expect("a running server says where it is");
        watchdog::remove(said.lines().nth(4).expect("line 5 names the socket directory").as_ref());
        self.server = Some(server);
        Ok(())
    }

    /// Starts again with more settings and on a TCP port too, which it returns.
    pub(crate) async fn listen(&mut self, options: &[(&str, &str)]) -> u16 {
        self.stop().await;
        let before = self.options.len();
        loop {
            let port = free_port();
            let tcp = [("listen_addresses", "127.0.0.1"), ("port", &*port.to_string())];
            self.options.truncate(before);
            self.options.extend(tcp.iter().chain(options).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            match self.launch().await {
                Ok(()) => return port,
                Err(error) => assert!(format!("{error:#}").contains("Address already in use"), "{error:#}"),
            }
        }
    }

    fn server(&self) -> &PrivatePostgres {
        self.server.as_ref().expect("the server runs")
    }

    pub(crate) fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.server().pid()
    }

    pub(crate) fn data_dir(&self) -> &std::path::Path {
        &self.data_dir
    }

    /// All its processes die at once, as by a power cut.
    pub(crate) async fn kill(&mut self) {
        for pid in self.processes().await {
            // A session may have ended since it was listed.
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.stop().await;
    }

    /// Stops in good order.
    pub(crate) async fn stop(&mut self) {
        let server = self.server.take().expect("the server runs");
        watchdog::forget(u32::try_from(server.pid()).expect("a pid"));
        server.stop().await.expect("Postgres stops");
    }

    /// None of its processes does anything until it is thawed.
    pub(crate) async fn freeze(&self) -> Frozen {
        let processes = self.processes().await;
        for pid in &processes {
            let _ = kill(*pid, Signal::SIGSTOP);
        }
        Frozen(processes)
    }

    /// The postmaster first, so that it makes no new ones meanwhile.
    async fn processes(&self) -> Vec<Pid> {
        let sessions = self.owner("postgres").await.query("SELECT pid FROM pg_stat_activity", &[]).await.expect("the sessions");
        let sessions = sessions.iter().map(|row| Pid::from_raw(row.get(0)));
        std::iter::once(Pid::from_raw(self.pid())).chain(sessions).collect()
    }

    /// The superuser's URL of a database that this server has, perhaps as a copy.
    pub(crate) fn url_of(&self, database: &Database) -> String {
        self.server().url(&database.name)
    }

    /// A superuser's connection.
    pub(crate) async fn owner(&self, database: &str) -> Client {
        connect(&self.server().url(database)).await.expect("the superuser gets in")
    }

    /// A migrated database without a customer.
    pub(crate) async fn database(&self) -> Database {
        self.template.get_or_init(|| self.make_template()).await;
        self.create(&format!("TEMPLATE {TEMPLATE}")).await
    }

    /// A database with nothing in it.
    pub(crate) async fn empty_database(&self) -> Database {
        self.create("").await
    }

    async fn make_template(&self) {
        let owner = self.owner("postgres").await;
        owner.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).await.expect("a new database");
        let outcome = Tool::new(&["migrate", "apply"]).set("DATABASE_URL", self.server().url(TEMPLATE)).run().await;
        assert_eq!(outcome.code, Some(0), "migrate apply: {}", outcome.printed());
        owner.batch_execute(&format!("GRANT cxda_runtime TO {SERVICE_ROLE}")).await.expect("the migrations made the role");
    }

    async fn create(&self, how: &str) -> Database {
        let name = format!("test_{}", Uuid::now_v7().simple());
        let maintenance = self.owner("postgres").await;
        let left: Vec<_> = LEFT.lock().expect("nobody panics with it").drain(..).collect();
        for name in left {
            maintenance.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.expect("a database less");
        }
        maintenance.batch_execute(&format!("CREATE DATABASE {name} {how}")).await.expect("a new database");
        let owner_url = self.server().url(&name);
        let owner = connect(&owner_url).await.expect("the superuser gets in");
        Database { url: owner_url.replacen("app@", &format!("{SERVICE_ROLE}@"), 1), owner_url, owner, name }
    }
}

/// Opens a connection that lives as long as its client. No statement waits for ever: not for a lock that a service has left
/// behind either.
pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(&format!("SET statement_timeout = '{}s'", PATIENCE.as_secs())).await?;
    Ok(client)
}

/// Processes that stand still until this is dropped.
#[must_use]
pub(crate) struct Frozen(Vec<Pid>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.0.drain(..).rev() {
            let _ = kill(pid, Signal::SIGCONT);
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut left) = LEFT.lock() {
            left.push(std::mem::take(&mut self.name));
        }
    }
}

impl Database {
    /// One for this test in the run's cluster, migrated.
    pub(crate) async fn new() -> Self {
        Cluster::shared().await.database().await
    }

    /// The URL of the service's role on whichever of these ports takes writes.
    pub(crate) fn url_of_primary(&self, ports: &[u16]) -> String {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("postgresql://{SERVICE_ROLE}@{}/{}?target_session_attrs=read-write", hosts.join(","), self.name)
    }

    /// Connects the superuser again, after its server was gone.
    pub(crate) async fn reconnect(&mut self) {
        self.owner = wait_until("Postgres takes connections", async || connect(&self.owner_url).await.ok()).await;
    }

    /// Changes something of the database as a whole.
    pub(crate) async fn configure(&self, what: &str) {
        let name = &self.name;
        let sql = match what.split_once(' ') {
            Some(("REVOKE", right)) => format!("REVOKE {right} ON DATABASE {name} FROM PUBLIC"),
            Some(("GRANT", right)) => format!("GRANT {right} ON DATABASE {name} TO PUBLIC"),
            _ => format!("ALTER DATABASE {name} {what}"),
        };
        // From next door: nobody may shut the database that he is in.
        let neighbour = connect(&self.owner_url.replace(name, "postgres")).await.expect("the superuser gets in");
        neighbour.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// Runs statements as the superuser.
    pub(crate) async fn run(&self, sql: &str) {
        self.owner.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// The first column of the first row.
    pub(crate) async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.owner.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
    }

    /// Adds a customer of that name, and returns its id.
    pub(crate) async fn customer(&self, tenant: &str, name: &str) -> Uuid {
        let id = Uuid::new_v4();
        self.customer_with_id(tenant, id, name).await;
        id
    }

    pub(crate) async fn customer_with_id(&self, tenant: &str, id: Uuid, name: &str) {
        let sql = "INSERT INTO customers (tenant_id, id, name, status) VALUES ($1, $2, $3, 'active')";
        self.owner.execute(sql, &[&tenant, &id, &name]).await.expect("a new customer");
    }

    /// Adds `n` customers, named after their ids.
    pub(crate) async fn customers(&self, tenant: &str, n: usize) -> Vec<Uuid> {
        let ids: Vec<_> = std::iter::repeat_with(Uuid::new_v4).take(n).collect();
        let sql =
            "INSERT INTO customers (tenant_id, id, name, status) SELECT $1, id, 'customer ' || id, 'active' FROM unnest($2::uuid[]) AS id";
        self.owner.execute(sql, &[&tenant, &ids]).await.expect("new customers");
        ids
    }

    pub(crate) async fn audit_count(&self) -> i64 {
        self.value("SELECT count(*) FROM audit_log").await
    }

    /// The only audit row of a request.
    pub(crate) async fn audit_row(&self, request_id: &str) -> AuditRow {
        let rows = self.owner.query("SELECT * FROM audit_log WHERE request_id = $1", &[&request_id]).await.expect("audit rows");
        assert_eq!(rows.len(), 1, "exactly one audit row for each answer");
        AuditRow {
            tenant_id: rows[0].get("tenant_id"),
            occurred_at: rows[0].get("occurred_at"),
            id: rows[0].get("id"),
            action: rows[0].get("action"),
            source: rows[0].get("source"),
            customer_ids: rows[0].get("customer_ids"),
            missing_ids: rows[0].get("missing_ids"),
            key_id: rows[0].get("key_id"),
            request_id: rows[0].get("request_id"),
            contact_id: rows[0].get("contact_id"),
        }
    }

    /// Holds a lock that every lookup of the database waits for, until the guard is let go.
    pub(crate) async fn lock_customers(&self) -> Client {
        self.lock("customers").await
    }

    /// The same for another table.
    pub(crate) async fn lock(&self, table: &str) -> Client {
        let client = connect(&self.owner_url).await.expect("the superuser gets in");
        client.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.expect("a lock");
        client
    }

    /// Holds up whoever writes audit rows, when all is read and nothing is written yet; until the end of this transaction.
    pub(crate) async fn hold_audit_rows(&self) -> Client {
        let client = connect(&self.owner_url).await.expect("the superuser gets in");
        let trigger = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$; \
            CREATE TRIGGER hold BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION hold()";
        client.batch_execute(trigger).await.expect("a trigger");
        client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)").await.expect("a lock");
        client
    }

    /// Waits until so many sessions wait for a lock; those do not count that see to the audit log's partitions when a service starts.
    pub(crate) async fn waiting_sessions(&self, n: i64) {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
            AND query NOT LIKE '%audit_ensure_partitions%'";
        wait_until("lookups wait for the lock", async || (self.value::<i64>(sql).await >= n).then_some(())).await;
    }

    /// Waits until no session of the service has a transaction open.
    pub(crate) async fn no_open_transaction(&self) {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'cxda_service' AND xact_start IS NOT NULL";
        let what = format!("no transaction is open (within {PATIENCE:?})");
        wait_until(&what, async || (self.value::<i64>(sql).await == 0).then_some(())).await;
    }
}
