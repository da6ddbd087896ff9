//! `dev`: the whole service on a bare machine, with demo customers, and a signed request to paste.

pub mod postgres;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use secrecy::SecretString;

use super::sign::{self, KeyChoice};
use super::{Settings, demo, healthcheck, keygen, say, serve, stop_signal};
use crate::adapters::postgres::connect::Connector;
use crate::config::{self, Config, Flags, LogFormat};
use crate::domain::data_action::PATH;
use crate::server::{self, Running, Storage};
use crate::telemetry;
use postgres::PrivatePostgres;

/// Settings that suit a desk better than a data centre. Whatever is set elsewhere wins.
const DEFAULTS: [(&str, &str); 3] = [("http.listen", "127.0.0.1:8080"), ("log.format", "pretty"), ("shutdown.drain_delay", "0")];

#[derive(Args)]
pub(super) struct Options {
    /// Keep customers in memory, even where PostgreSQL is installed.
    #[arg(long)]
    memory: bool,
    /// Where to keep the private database and the signing secret.
    #[arg(long, default_value = ".dev")]
    dir: PathBuf,
    /// Where `initdb` and `postgres` are; looked for where none is given.
    #[arg(long, env = "PG_BINDIR", value_name = "DIR")]
    pg_bindir: Option<PathBuf>,
}

pub(super) async fn run(settings: &Settings, options: Options) -> anyhow::Result<()> {
    let (config, secret_file) = load(settings, &options.dir)?;
    let log = telemetry::start(config.log.format == LogFormat::Json, &config.log.filter);
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let mut private = None;
    let start = async {
        let storage = storage(&config, &options, &mut private).await?;
        server::start(&config, storage, &log).await
    };
    let running = tokio::select! {
        running = start => running,
        () = &mut stop => return end(private).await,
    };
    let served = match running {
        Ok(running) => {
            greet(&config, &running, secret_file.as_deref())?;
            running.until(stop).await
        }
        Err(error) => Err(error),
    };
    end(private).await?;
    served
}

/// The settings; where none of them names a key, with a secret of our own, and the file that holds it.
fn load(settings: &Settings, dir: &Path) -> anyhow::Result<(Config, Option<PathBuf>)> {
    let mut flags = settings.flags();
    flags.defaults = DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let config = Config::load(&flags)?;
    if !config.signing.keys.keys().is_empty() {
        return Ok((config, None));
    }
    let path = dir.join("signing-secret");
    if !path.exists() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("create {}", path.display()))?;
        writeln!(file, "{}", keygen::new_secret()?)?;
    }
    Ok((Config::load(&Flags { secret_file: Some(path.clone()), ..flags })?, Some(path)))
}

/// The database of the settings, else one of our own, else this process's memory; with the demo customers in it.
async fn storage(config: &Config, options: &Options, private: &mut Option<PrivatePostgres>) -> anyhow::Result<Storage> {
    let (url, owner) = match &config.database.url {
        Some(url) if !options.memory => {
            say("customers: in the database of DATABASE_URL");
            (url.clone(), config.database.migrate_url.clone())
        }
        // Whatever database `migrate_url` names, it is not this one.
        _ => match private_postgres(options).await? {
            Some(server) => (SecretString::from(private.insert(server).url("postgres")), None),
            None => return Ok(Storage::Memory(Box::new(demo::in_memory()?))),
        },
    };
    let owner = owner.unwrap_or_else(|| url.clone());
    let connector = serve::connect(config, &url, Some(&owner)).await?;
    demo::load(&Connector::for_migrations(&owner, &config.database)?).await?;
    Ok(Storage::Postgres(Box::new(connector)))
}

async fn private_postgres(options: &Options) -> anyhow::Result<Option<PrivatePostgres>> {
    if options.memory {
        say("NOTICE: customers and audit rows are kept in memory, and are gone when this ends (--memory)");
        return Ok(None);
    }
    let Some(binaries) = postgres::find_binaries(options.pg_bindir.as_deref(), config::search_path().as_deref()) else {
        say("NOTICE: no PostgreSQL was found on this machine (initdb and postgres; see --pg-bindir).");
        say("NOTICE: customers and audit rows are kept in memory, and are gone when this ends.");
        return Ok(None);
    };
    let data_dir = data_dir(&options.dir)?;
    let server = PrivatePostgres::start(&binaries, &data_dir, &[]).await.context("start a private PostgreSQL")?;
    let how = if server.adopted() { "left running by an earlier run" } else { "started" };
    say(format_args!("customers: in a private PostgreSQL, {how}, in {}", data_dir.display()));
    Ok(Some(server))
}

/// In the given directory. As root the server runs as another user; where that one may not go there, a directory of the same
/// name for everybody's temporary files serves instead.
fn data_dir(dir: &Path) -> anyhow::Result<PathBuf> {
    let wanted = std::path::absolute(dir.join("postgres"))?;
    if postgres::usable_by_server(&wanted) {
        return Ok(wanted);
    }
    let name = wanted.display().to_string().replace('/', "-");
    Ok(Path::new("/var/tmp").join(format!("cxone-data-action{name}")))
}

/// What to do next, ready to paste.
fn greet(config: &Config, running: &Running, secret_file: Option<&Path>) -> anyhow::Result<()> {
    let url = format!("http://{}{PATH}", healthcheck::reachable(running.http()));
    let key = KeyChoice { secret_file: None, key_id: None };
    let headers = match key.choose(&config.signing.keys) {
        Ok(key) => sign::headers(&config.signing.scheme, key, PATH, demo::REQUEST.as_bytes())?,
        // There are keys, but none of them can sign.
        Err(_) => vec![(config.signing.api_key_header.clone(), "your API key".to_owned())],
    };
    let headers: Vec<_> = headers.iter().map(|(name, value)| format!("-H '{name}: {value}'")).collect();
    let program = std::env::current_exe().unwrap_or_else(|_| "cxone-data-action".into());
    let here = std::env::current_dir().unwrap_or_default();
    let program = program.strip_prefix(here).unwrap_or(&program).display();
    let secret = secret_file.map(|path| format!(" --secret-file '{}'", path.display())).unwrap_or_default();
    let cache = if config.redis.url.is_some() { "in this process, then in Redis" } else { "in this process (set REDIS_URL to share it)" };
    say(format_args!("cache: {cache}"));
    let admin = healthcheck::reachable(running.admin());
    say(format_args!("to look at: http://{admin}/ (what it does now) and http://{admin}/docs/ (its API)"));
    say(format_args!("probes and metrics: http://{admin}/readyz /livez /metrics"));
    say(format_args!("\nAsk for demo customers:\n"));
    say(format_args!("curl -sS {url} {} --data-binary '{}'\n", headers.join(" "), demo::REQUEST));
    say(format_args!("or:\n\n{program} send --sample --url {url}{secret}\n"));
    say("Ctrl-C ends everything that this has started.");
    Ok(())
}

async fn end(private: Option<PrivatePostgres>) -> anyhow::Result<()> {
    match private {
        Some(server) => server.stop().await,
        None => Ok(()),
    }
}
