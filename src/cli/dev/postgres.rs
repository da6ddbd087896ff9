//! A private Postgres from binaries found on this machine, for `dev` and for the tests.
//!
//! It listens on a unix socket only, in a process group of its own, so that a terminal's Ctrl-C reaches us and not it.
//! One owner at a time holds `<data dir>.lock`; a server left behind by a killed owner is adopted by the next.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Crash recovery comes before "ready", so this is generous.
const START_LIMIT: Duration = Duration::from_mins(1);
/// After this, a server that does not heed SIGINT is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// A process that was forked off a moment ago holds its parent's locks until it has become another program.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);
/// A unix socket's path may have 107 bytes, and a data directory may lie deep: sockets live in `/tmp`, in a directory
/// named like this.
const SOCKET_DIR_PREFIX: &str = "cxda-pg-";
/// Where packages put versioned servers: the parent, and what stands before the version.
const PACKAGES: [(&str, &str); 4] =
    [("/usr/lib/postgresql", ""), ("/usr", "pgsql-"), ("/opt/homebrew/opt", "postgresql@"), ("/usr/local/opt", "postgresql@")];

/// A directory that holds `initdb` and `postgres`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// The directory itself, where the client programs may be found too.
    pub fn directory(&self) -> &Path {
        &self.0
    }
}

/// Where initdb and postgres are: `bindir` alone if given (nothing else is searched), else the directories of `path`
/// (a PATH value), else where packages put them, newest version first.
pub fn find_binaries(bindir: Option<&Path>, path: Option<&OsStr>) -> Option<Binaries> {
    let in_path = || {
        let dirs = path.unwrap_or_default().as_bytes().split(|byte| *byte == b':');
        dirs.map(|dir| PathBuf::from(OsStr::from_bytes(dir))).filter(|dir| dir.is_absolute())
    };
    let given = bindir.map(|bindir| std::path::absolute(bindir).into_iter().collect());
    let places: Vec<PathBuf> = given.unwrap_or_else(|| in_path().chain(packaged()).collect());
    let complete = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    places.into_iter().find(complete).map(Binaries)
}

fn packaged() -> impl Iterator<Item = PathBuf> {
    PACKAGES.into_iter().flat_map(|(parent, prefix)| {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let version = |name: &OsStr| name.to_str()?.strip_prefix(prefix)?.parse::<u32>().ok();
        let entries = entries.filter_map(|entry| Some((version(&entry.file_name())?, entry.path())));
        let mut found: Vec<_> = entries.collect();
        found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        found.into_iter().map(|(_, dir)| dir.join("bin"))
    })
}

/// Whether the server could reach `data_dir`: as root it runs as another user, for whom say `/root` is closed.
pub fn usable_by_server(data_dir: &Path) -> bool {
    let Ok(Some(account)) = Account::of_server(data_dir) else { return true };
    let Ok(data_dir) = std::path::absolute(data_dir) else { return false };
    data_dir.ancestors().skip(1).filter_map(|dir| dir.metadata().ok()).all(|dir| account.may_enter(&dir))
}

/// A running Postgres of our own. Dropped, it is asked to stop; [`stop`](Self::stop) also waits for that.
#[derive(Debug)]
pub struct PrivatePostgres {
    server: PidFile,
    /// `None` where an orphan was adopted: it is nobody's child.
    child: Option<Child>,
    data_dir: PathBuf,
    /// Held as long as we live: nobody else uses this data directory.
    _lock: File,
}

impl PrivatePostgres {
    /// A server on `data_dir`: made by `initdb` if empty, adopted if one runs there that lost its owner, else started
    /// with `options` as its settings.
    pub async fn start(binaries: &Binaries, data_dir: &Path, options: &[(&str, &str)]) -> Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("create {}", data_dir.display()))?;
        let data_dir = fs::canonicalize(data_dir)?;
        ensure!(usable_by_server(&data_dir), "the server's user cannot reach {}", data_dir.display());
        let lock = lock(&data_dir).await?;

        let deadline = Instant::now() + START_LIMIT;
        let mut left_behind = PidFile::read(&data_dir);
        while let Some(server) = left_behind.take_if(|server| server.runs_in(&data_dir)) {
            if server.ready {
                return Ok(Self { server, child: None, data_dir, _lock: lock });
            }
            ensure!(Instant::now() < deadline, "an earlier server (pid {}) neither starts nor stops", server.pid);
            sleep(POLL).await;
            left_behind = PidFile::read(&data_dir);
        }
        let launch = Launch { binaries, account: Account::of_server(&data_dir)?, data_dir: &data_dir, options };
        if !data_dir.join("PG_VERSION").exists() {
            launch.initialise().await?;
        }
        if left_behind.is_some() {
            disown(&data_dir)?;
        }
        let socket_dir = launch.socket_dir(left_behind)?;
        let (pid, child) = launch.spawn(&socket_dir)?;
        let server = PidFile { pid, port: 0, socket_dir, ready: false };
        let mut private = Self { server, child: Some(child), data_dir: data_dir.clone(), _lock: lock };
        private.wait_until_ready(&launch, deadline).await?;
        Ok(private)
    }

    async fn wait_until_ready(&mut self, launch: &Launch<'_>, deadline: Instant) -> Result<()> {
        loop {
            let reported = PidFile::read(&self.data_dir).filter(|server| server.ready && server.pid == self.server.pid);
            if let Some(server) = reported {
                self.server = server;
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "PostgreSQL did not become ready: {}", launch.log_tail());
            if !self.runs() {
                // Right after a crash the sessions of the dead server still hold its memory for a moment.
                let log = launch.log_tail();
                ensure!(log.contains("is still in use"), "PostgreSQL did not start: {log}");
                let (pid, child) = launch.spawn(&self.server.socket_dir)?;
                (self.server.pid, self.child) = (pid, Some(child));
            }
            sleep(POLL).await;
        }
    }

    /// The address of a database: by unix socket, as the superuser `app`, without a password.
    pub fn url(&self, database: &str) -> String {
        let mut host = String::new();
        for byte in self.server.socket_dir.as_os_str().as_bytes() {
            let _ = match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => write!(host, "{}", char::from(*byte)),
                _ => write!(host, "%{byte:02X}"),
            };
        }
        format!("postgresql://app@{host}:{}/{database}", self.server.port)
    }

    /// The postmaster's process.
    pub fn pid(&self) -> i32 {
        self.server.pid.as_raw()
    }

    /// Whether it was running before us.
    pub fn adopted(&self) -> bool {
        self.child.is_none()
    }

    /// Ends every session, then the server, and waits for its exit.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGINT);
        if timeout(STOP_LIMIT, self.exited()).await.is_ok() {
            return Ok(());
        }
        self.signal(Signal::SIGKILL);
        self.exited().await;
        bail!("PostgreSQL did not stop within {} s and was killed", STOP_LIMIT.as_secs())
    }

    async fn exited(&mut self) {
        while self.runs() {
            sleep(POLL).await;
        }
    }

    fn runs(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => self.server.runs_in(&self.data_dir),
        }
    }

    fn signal(&mut self, signal: Signal) {
        if self.runs() {
            // It may have ended since: then there is nobody to tell.
            let _ = kill(self.server.pid, signal);
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
        if is_socket_dir(&self.server.socket_dir) {
            let _ = fs::remove_dir_all(&self.server.socket_dir);
        }
    }
}

/// A server that somebody started by hand may have its sockets elsewhere, which is none of our business.
fn is_socket_dir(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default().as_bytes();
    dir.parent() == Some(Path::new("/tmp")) && name.starts_with(SOCKET_DIR_PREFIX.as_bytes())
}

/// The right to use a data directory.
async fn lock(data_dir: &Path) -> Result<File> {
    let file = File::create(data_dir.with_added_extension("lock")).context("create the lock file")?;
    let deadline = Instant::now() + LOCK_LIMIT;
    while let Err(refusal) = file.try_lock() {
        let in_use = || format!("{} is in use by another process", data_dir.display());
        ensure!(Instant::now() < deadline, anyhow::Error::new(refusal).context(in_use()));
        sleep(POLL).await;
    }
    Ok(file)
}

/// What a server says of itself in `postmaster.pid`.
#[derive(Debug)]
struct PidFile {
    pid: Pid,
    port: u16,
    socket_dir: PathBuf,
    ready: bool,
}

impl PidFile {
    fn read(data_dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Some(Self {
            pid: Pid::from_raw(lines.first()?.parse().ok()?),
            port: lines.get(3)?.parse().ok()?,
            socket_dir: PathBuf::from(lines.get(4)?),
            ready: lines.get(7) == Some(&"ready"),
        })
    }

    /// A pid alone proves nothing: it may be another process's by now, or a zombie's.
    fn runs_in(&self, data_dir: &Path) -> bool {
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        if Path::new("/proc/self").exists() {
            let named = fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres");
            return named && fs::read_link(process.join("cwd")).is_ok_and(|dir| dir == data_dir);
        }
        let listing = std::process::Command::new("ps").args(["-o", "command=", "-p", &self.pid.to_string()]).output();
        listing.is_ok_and(|listing| {
            let command = String::from_utf8_lossy(&listing.stdout).into_owned();
            command.contains("postgres") && command.contains(&*data_dir.to_string_lossy())
        })
    }
}

/// A dead server's pid may be another process's by now, which would keep a new server from starting. Our own pid in its
/// place means "left behind" to Postgres, which still looks whether the memory of the dead one is in use.
fn disown(data_dir: &Path) -> Result<()> {
    let path = data_dir.join("postmaster.pid");
    let text = fs::read_to_string(&path)?;
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    fs::write(&path, format!("{}\n{rest}", std::process::id())).context("mark postmaster.pid as left behind")
}

/// The user that a server runs as in place of root, which Postgres refuses.
#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// `None` where we are not root: then the server is ours in every sense.
    fn of_server(data_dir: &Path) -> Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let owner = data_dir.join("PG_VERSION").metadata().ok().filter(|owner| owner.uid() != 0);
        if let Some(owner) = owner {
            return Ok(Some(Self { uid: owner.uid(), gid: owner.gid() }));
        }
        let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.context("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")?;
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    fn may_enter(self, dir: &fs::Metadata) -> bool {
        let bit = match dir {
            dir if dir.uid() == self.uid => 0o100,
            dir if dir.gid() == self.gid => 0o010,
            _ => 0o001,
        };
        dir.mode() & bit != 0
    }
}

/// One start of a server.
struct Launch<'a> {
    binaries: &'a Binaries,
    account: Option<Account>,
    data_dir: &'a Path,
    options: &'a [(&'a str, &'a str)],
}

impl Launch<'_> {
    /// Made beside its place and moved there whole: a run killed in between leaves no half of a cluster.
    async fn initialise(&self) -> Result<()> {
        let empty = fs::read_dir(self.data_dir)?.next().is_none();
        ensure!(empty, "{} is neither empty nor a PostgreSQL cluster", self.data_dir.display());
        let fresh = self.data_dir.with_added_extension("new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        self.make_private_dir(&fresh)?;
        let mut initdb = self.command("initdb")?;
        initdb.args(["-U", "app", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]).arg(&fresh);
        let status = initdb.kill_on_drop(true).status().await.context("run initdb")?;
        ensure!(status.success(), "initdb failed: {}", self.log_tail());
        fs::rename(&fresh, self.data_dir).with_context(|| format!("fill {}", self.data_dir.display()))
    }

    fn spawn(&self, socket_dir: &Path) -> Result<(Pid, Child)> {
        let mut postgres = self.command("postgres")?;
        postgres.arg("-D").arg(self.data_dir).arg("-k").arg(socket_dir).args(["-p", "5432", "-c", "listen_addresses="]);
        for (name, value) in self.options {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let child = postgres.spawn().context("run postgres")?;
        let pid = child.id().context("a new process has an id")?;
        Ok((Pid::from_raw(pid.try_into()?), child))
    }

    /// A crashed server's, so that its address stays the same, or a new one with a name that nobody can foresee.
    fn socket_dir(&self, crashed: Option<PidFile>) -> Result<PathBuf> {
        let kept = crashed.map(|server| server.socket_dir).filter(|dir| is_socket_dir(dir));
        let random = || format!("/tmp/{SOCKET_DIR_PREFIX}{:016x}", RandomState::new().build_hasher().finish());
        let dir = kept.unwrap_or_else(|| random().into());
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        self.make_private_dir(&dir)?;
        Ok(dir)
    }

    fn make_private_dir(&self, dir: &Path) -> Result<()> {
        DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("create {}", dir.display()))?;
        if let Some(Account { uid, gid }) = self.account {
            chown(dir, Some(uid), Some(gid)).with_context(|| format!("hand over {}", dir.display()))?;
        }
        Ok(())
    }

    /// Without our environment: a `PGPORT` or `PGOPTIONS` is not meant for this server.
    fn command(&self, program: &str) -> Result<Command> {
        let log = File::create(self.log_path())?;
        let mut command = Command::new(self.binaries.0.join(program));
        command.env_clear().env("LC_ALL", "C").current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }

    fn log_path(&self) -> PathBuf {
        self.data_dir.with_added_extension("log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{}\n{}", self.log_path().display(), lines[lines.len().saturating_sub(8)..].join("\n"))
    }
}
