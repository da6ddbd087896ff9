//! A private PgBouncer between a test and its database. `PGBOUNCER` names another binary than the one of the system.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::geteuid;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::store::Store;
use super::{Database, free_port, scratch_dir, wait_until, watch, watchdog};

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    port: u16,
    process: Child,
    dir: PathBuf,
    sockets: PathBuf,
    user: String,
    database: String,
}

/// How often a server session changes its client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PoolMode {
    Session,
    Transaction,
}

impl PgBouncer {
    /// In transaction mode, with at most so many server sessions for each user, and without tracking of named statements.
    pub(crate) async fn before(database: &Database, pool_size: usize) -> Self {
        Self::start(database, PoolMode::Transaction, pool_size, false).await
    }

    /// The same, with tracking where this version has it.
    pub(crate) async fn tracking(database: &Database, pool_size: usize) -> Self {
        Self::start(database, PoolMode::Transaction, pool_size, true).await
    }

    pub(crate) async fn start(database: &Database, mode: PoolMode, pool_size: usize, tracks: bool) -> Self {
        let Store::Postgres { socket, user, database } = Store::postgres(database) else { panic!("not a Postgres") };
        let sockets = socket.parent().expect("a directory").to_owned();
        loop {
            let (dir, port) = (scratch_dir(), free_port());
            configure(&dir, &sockets, port, mode, pool_size, tracks);
            let process = launch(&dir, &sockets);
            let mut this = Self { port, process, dir, sockets: sockets.clone(), user: user.clone(), database: database.clone() };
            if this.answers().await {
                return this;
            }
        }
    }

    /// Ends, so that its address answers no longer, and comes back there in another mode.
    pub(crate) async fn restart(&mut self, mode: PoolMode, pool_size: usize) {
        self.stop();
        configure(&self.dir, &self.sockets, self.port, mode, pool_size, false);
        self.process = launch(&self.dir, &self.sockets);
        assert!(self.answers().await, "the port is taken");
    }

    pub(crate) fn stop(&mut self) {
        let _ended_before = self.process.kill();
        let _status = self.process.wait();
        watchdog::forget(self.process.id());
    }

    /// The service's URL.
    pub(crate) fn url(&self) -> String {
        self.url_of(&self.user)
    }

    /// The superuser's URL.
    pub(crate) fn owner_url(&self) -> String {
        self.url_of("app")
    }

    fn url_of(&self, user: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{}", self.port, self.database)
    }

    /// Another client, which sets nothing.
    pub(crate) async fn client(&self, url: &str) -> Client {
        plain_client(url).await.expect("PgBouncer lets a client in")
    }

    /// Whether this version can track named statements, which 1.21 was the first to do.
    pub(crate) fn can_track() -> bool {
        let output = Command::new(binary()).arg("--version").output().expect(MISSING);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().and_then(|line| line.split_once(' ')).expect("PgBouncer VERSION").1;
        let mut numbers = version.split('.').map(|number| number.trim().parse::<u32>().expect("a number"));
        (numbers.next(), numbers.next()) >= (Some(1), Some(21))
    }

    /// False: the process has ended, as it does where its port is taken.
    async fn answers(&mut self) -> bool {
        let console = format!("postgresql://app@127.0.0.1:{}/pgbouncer", self.port);
        wait_until("PgBouncer answers", async || {
            if self.process.try_wait().expect("our own child").is_some() {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                assert!(log.contains("in use"), "PgBouncer does not start: {log}");
                return Some(false);
            }
            let rows = plain_client(&console).await.ok()?.simple_query("SHOW CONFIG").await.ok()?;
            let port = self.port.to_string();
            let ours = |row: &SimpleQueryMessage| matches!(row, SimpleQueryMessage::Row(row) if row.get(1) == Some(&*port));
            rows.iter().any(ours).then_some(true)
        })
        .await
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.stop();
    }
}

const MISSING: &str = "these tests need PgBouncer: apt-get install pgbouncer (or: brew install pgbouncer)";

#[expect(clippy::disallowed_methods, reason = "tests have no settings of their own")]
fn binary() -> PathBuf {
    let given = std::env::var_os("PGBOUNCER").map(PathBuf::from);
    let packaged = || Some(PathBuf::from("/usr/sbin/pgbouncer")).filter(|path| path.is_file());
    given.or_else(packaged).unwrap_or_else(|| "pgbouncer".into())
}

fn configure(dir: &Path, sockets: &Path, port: u16, mode: PoolMode, pool_size: usize, tracks: bool) {
    let pool_mode = match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
    };
    let tracked = match (PgBouncer::can_track(), tracks) {
        (true, true) => "max_prepared_statements = 100",
        (true, false) => "max_prepared_statements = 0",
        (false, _) => "",
    };
    let (dir, sockets) = (dir.display(), sockets.display());
    let settings = format!(
        "[databases]\n* = host={sockets} port=5432\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {dir}/users\n\
         admin_users = app\npool_mode = {pool_mode}\ndefault_pool_size = {pool_size}\nmax_client_conn = 300\nlogfile = {dir}/log\n{tracked}\n"
    );
    let files = format!("{dir}/pgbouncer.ini");
    fs::write(files, settings).expect("a settings file");
    fs::write(format!("{dir}/users"), "\"app\" \"\"\n\"cxda_service\" \"\"\n").expect("a file of users");
}

/// As the user that Postgres runs as: PgBouncer refuses root, too.
fn launch(dir: &Path, sockets: &Path) -> Child {
    let owner = fs::metadata(sockets).expect("a directory of sockets");
    let mut command = Command::new(binary());
    command.arg(dir.join("pgbouncer.ini")).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if geteuid().is_root() {
        chown(dir, Some(owner.uid()), Some(owner.gid())).expect("a directory handed over");
        command.uid(owner.uid()).gid(owner.gid());
    }
    let process = command.spawn().expect(MISSING);
    watch(process.id(), "KILL");
    process
}

async fn plain_client(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
