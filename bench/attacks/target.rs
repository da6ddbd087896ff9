//! The service under attack, as a process of its own with a settings file of its own.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::route::{KEYS, routes_toml};
use crate::Options;
use crate::support::{Database, GENESYS_ID, GENESYS_SECRET, Genesys, free_port, scratch_file, wait_until, watch};

/// A running service. It lives until the end of the run, when the tests' watchdog ends it.
pub(crate) struct Target {
    process: Child,
    pub(crate) url: String,
    pub(crate) admin_url: String,
}

/// Settings of a service that does not run yet.
pub(crate) struct Launch<'o> {
    options: &'o Options,
    binary: PathBuf,
    settings: Vec<(String, String)>,
    nofile: Option<u32>,
}

impl<'o> Launch<'o> {
    /// The service of `--binary`, with every route that is attacked but Genesys.
    pub(crate) fn new(options: &'o Options) -> Self {
        let built = || PathBuf::from(env!("CARGO_BIN_EXE_cxone-data-action"));
        let binary = options.attacks.binary.clone().unwrap_or_else(built);
        Self { options, binary, settings: Vec::new(), nofile: None }
    }

    pub(crate) fn binary(mut self, binary: &Path) -> Self {
        binary.clone_into(&mut self.binary);
        self
    }

    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// With data actions of that Genesys, which no limit of rate holds up.
    pub(crate) fn genesys(self, genesys: &Genesys) -> Self {
        let login = format!("http://127.0.0.1:{}/oauth/token", genesys.login.port);
        let with = self.set("CXDA_GENESYS__BASE_URL", genesys.url()).set("CXDA_GENESYS__LOGIN_URL", login);
        let with = with.set("CXDA_GENESYS__CLIENT_ID", GENESYS_ID).set("CXDA_GENESYS__CLIENT_SECRET", GENESYS_SECRET);
        let with = with.set("CXDA_GENESYS__ALLOW_HTTP", "true").set("CXDA_GENESYS__STORE", "memory").set("CXDA_GENESYS__KEEP", "1s");
        with.set("CXDA_GENESYS__RATE_PER_MINUTE", "1000000").set("CXDA_GENESYS__MAX_IN_FLIGHT", "10000")
    }

    /// With this soft limit of descriptors.
    pub(crate) fn nofile(mut self, limit: u32) -> Self {
        self.nofile = Some(limit);
        self
    }

    pub(crate) async fn start(self, database: &Database) -> Target {
        let (address, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let log = match &self.options.figures.log {
            Some(path) => File::options().create(true).append(true).open(path).expect("a log file").into(),
            None => Stdio::null(),
        };
        let limit = self.nofile.map_or(String::new(), |limit| format!("ulimit -Sn {limit}; "));
        let mut service = Command::new("/bin/sh");
        service.args(["-c", &format!(r#"{limit}exec "$0" serve"#)]).arg(&self.binary);
        service.env_clear().env("CXDA_CONFIG", scratch_file(format!("{KEYS}{}", routes_toml())));
        service.env("CXDA_SHUTDOWN__DRAIN_DELAY", "0s").envs(self.settings).envs(self.options.settings());
        service.env("DATABASE_URL", &database.url).env("CXDA_HTTP__LISTEN", &address).env("CXDA_ADMIN__LISTEN", &admin);
        let mut process = service.stdin(Stdio::null()).stdout(log).spawn().expect("the service runs");
        watch(process.id(), "KILL");
        wait_until("the service listens", async || {
            let ended = process.try_wait().expect("our own child");
            assert!(ended.is_none(), "the service ended: {ended:?}; --log FILE tells why");
            TcpStream::connect(&address).ok()
        })
        .await;
        Target { process, url: format!("http://{address}"), admin_url: format!("http://{admin}") }
    }
}

impl Target {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Sends SIGTERM. How long the service then takes to exit, and how it ended; `None` where it outlasts `patience`.
    pub(crate) async fn terminate(&mut self, patience: Duration) -> Option<(Duration, ExitStatus)> {
        let began = Instant::now();
        kill(Pid::from_raw(i32::try_from(self.pid()).expect("a pid")), Signal::SIGTERM).expect("the service is there");
        while began.elapsed() < patience {
            if let Some(status) = self.process.try_wait().expect("our own child") {
                return Some((began.elapsed(), status));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }
}
