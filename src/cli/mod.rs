//! The command line: one file a command.

mod audit;
mod config;
mod demo;
pub mod dev;
mod export;
mod healthcheck;
mod idempotency;
mod import;
mod keygen;
mod migrate;
mod route;
mod send;
mod serve;
mod sign;
mod simulate;
mod verify;

use std::future::Future;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, Flags, Invalid};

/// `EX_CONFIG` of sysexits.h.
const BAD_SETTINGS: u8 = 78;

#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

/// Where settings come from, beside the environment.
#[derive(Args, Clone)]
struct Settings {
    /// A TOML file of settings [env: `CXDA_CONFIG`].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over all else; may be repeated.
    #[arg(long, global = true, value_name = "NAME=VALUE", value_parser = name_and_value)]
    set: Vec<(String, String)>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve with everything embedded and demo customers: needs no server and no setting.
    Dev(dev::Options),
    /// Serve.
    Serve(serve::Options),
    /// Show or apply schema migrations.
    #[command(subcommand)]
    Migrate(migrate::Step),
    /// Print the signature of a body.
    Sign(sign::Options),
    /// Check a signature, and say what is wrong with it.
    Verify(verify::Options),
    /// Send a signed request, and show the answer and its time.
    Send(send::Options),
    /// Play a platform against a running service, and say what that platform would not be content with.
    #[command(subcommand)]
    Simulate(Box<simulate::Platform>),
    /// Print a new signing secret.
    Keygen,
    /// Load customers from CSV or JSON Lines, all of them or none.
    Import(import::Options),
    /// Write out the audit log, or drop old months of it.
    #[command(subcommand)]
    Audit(audit::Step),
    /// Check or show the settings.
    #[command(subcommand)]
    Config(config::Step),
    /// Show or resolve calls of which nobody knows whether they were executed.
    #[command(subcommand)]
    Idempotency(idempotency::Step),
    /// Print what a platform has to be told of the service.
    #[command(subcommand)]
    Export(export::Artifact),
    /// Ask the running service whether it is ready; for containers.
    Healthcheck,
}

impl Settings {
    fn flags(&self) -> Flags {
        Flags { file: self.config.clone(), set: self.set.clone(), ..Flags::default() }
    }

    fn load(&self) -> Result<Config, Invalid> {
        Config::load(&self.flags())
    }

    /// With the one secret of that file in place of whatever else may sign.
    fn load_with_secret(&self, secret_file: Option<&Path>) -> Result<Config, Invalid> {
        Config::load(&Flags { secret_file: secret_file.map(Path::to_owned), ..self.flags() })
    }
}

/// Runs the command of this process's arguments. Exit codes: 0 done, 1 failed, 2 usage, 78 bad settings.
pub async fn run() -> ExitCode {
    let Cli { settings, command } = Cli::parse();
    // reqwest takes whatever provider the process has chosen; a second choice would be refused, and changes nothing.
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
    let result = match command {
        Command::Dev(options) => dev::run(&settings, options).await,
        Command::Serve(options) => serve::run(&settings, &options).await,
        Command::Migrate(step) => migrate::run(&settings, &step).await,
        Command::Sign(options) => sign::run(&settings, &options),
        Command::Verify(options) => verify::run(&settings, &options),
        Command::Send(options) => send::run(&settings, options).await,
        Command::Simulate(platform) => simulate::run(&settings, &platform).await,
        Command::Keygen => keygen::run(),
        Command::Import(options) => import::run(&settings, options).await,
        Command::Audit(step) => audit::run(&settings, step).await,
        Command::Config(step) => config::run(&settings, &step),
        Command::Idempotency(step) => idempotency::run(&settings, step).await,
        Command::Export(artifact) => export::run(&settings, &artifact),
        Command::Healthcheck => healthcheck::run(&settings).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Invalid>() {
            Some(Invalid(problems)) => {
                for problem in problems {
                    eprintln!("{problem}");
                }
                ExitCode::from(BAD_SETTINGS)
            }
            None => {
                eprintln!("cxone-data-action: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A header as `NAME: VALUE`.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("must be 'NAME: VALUE'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// A line for the user. Somebody who stops reading is no failure of ours.
fn say(line: impl std::fmt::Display) {
    let _reader_gone = writeln!(std::io::stdout(), "{line}");
}

/// The bytes of a file, or of standard input where none or `-` is named.
fn read_input(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => std::fs::read(path).with_context(|| format!("read {}", path.display())),
        None => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("read standard input")?;
            Ok(bytes)
        }
    }
}

/// Ends with the first SIGTERM or SIGINT, counted from this call on.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
