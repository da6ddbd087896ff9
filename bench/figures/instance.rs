//! What is under load, as processes of their own. They live as long as the run: the watchdog of the tests ends them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::Options;
use crate::support::{Database, SECRET, free_port, scratch_file, wait_until, watch};

/// A process that answers HTTP.
pub(crate) struct Instance {
    process: Child,
    pub(crate) url: String,
}

impl Instance {
    /// The service. Its log goes where nobody has to read it: a reader would take its share of the machine.
    pub(crate) async fn service(options: &Options, database: &Database, settings: &[(&str, &str)]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let log = match &options.figures.log {
            Some(path) => File::options().create(true).append(true).open(path).expect("a log file").into(),
            None => Stdio::null(),
        };
        let mut service = Command::new(env!("CARGO_BIN_EXE_cxone-data-action"));
        service.arg("serve").env_clear().envs(settings.iter().copied()).envs(options.settings());
        service.env("DATABASE_URL", &database.url).env("CXDA_SIGNING__SECRET", SECRET);
        service.env("CXDA_HTTP__LISTEN", &address).env("CXDA_ADMIN__LISTEN", "127.0.0.1:0");
        let mut service = service.stdin(Stdio::null()).stdout(log).spawn().expect("the service runs");
        watch(service.id(), "KILL");
        wait_until("the service listens", async || {
            let ended = service.try_wait().expect("our own child");
            assert!(ended.is_none(), "the service ended: {ended:?}; --log FILE tells why");
            TcpStream::connect(&address).ok()
        })
        .await;
        Self { process: service, url: format!("http://{address}") }
    }

    /// A route that always answers `body`.
    pub(crate) fn bare(body: &[u8]) -> Self {
        let mut bare = Command::new(std::env::current_exe().expect("a path"));
        bare.arg("bare").arg("--body").arg(scratch_file(body)).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut bare = bare.spawn().expect("we run");
        watch(bare.id(), "KILL");
        let mut url = String::new();
        BufReader::new(bare.stdout.take().expect("a pipe")).read_line(&mut url).expect("a line");
        Self { process: bare, url: url.trim().to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}
