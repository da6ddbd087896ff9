//! `idempotency show` and `idempotency resolve`: calls of which nobody knows whether they were executed.

use std::path::PathBuf;

use anyhow::bail;
use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use reqwest::header::HeaderValue;

use super::{Settings, read_input, say};
use crate::domain::StoredReply;
use crate::server::unresolved::{Call, find, out_of_reach};
use crate::telemetry;

#[derive(Subcommand)]
pub(super) enum Step {
    /// List the calls of which nobody knows whether they were executed.
    Show {
        /// Only this one: the 64 digits of the log, or what the caller named it in its header.
        key: Option<String>,
    },
    /// Say of such a call what became of it. Without an answer: it was not executed, and the next request executes it.
    Resolve(Resolve),
}

#[derive(Args)]
pub(super) struct Resolve {
    /// The 64 digits of the log, or what the caller named it in its header.
    key: String,
    /// It was executed, with the answer in this file (`-`: standard input), which is given to whoever asks again.
    #[arg(long, value_name = "FILE")]
    answer: Option<PathBuf>,
    /// The answer's status.
    #[arg(long, default_value_t = 200, requires = "answer", value_parser = clap::value_parser!(u16).range(200..=499))]
    status: u16,
    /// The answer's content type.
    #[arg(long, default_value = "application/json", requires = "answer", value_parser = header_value)]
    content_type: String,
}

fn header_value(text: &str) -> Result<String, String> {
    let value = HeaderValue::from_str(text).ok().filter(|value| value.to_str().is_ok());
    value.map(|_| text.to_owned()).ok_or_else(|| "must be a content type".to_owned())
}

pub(super) async fn run(settings: &Settings, step: Step) -> anyhow::Result<()> {
    let config = settings.load()?;
    telemetry::start_on_stderr(&config.log.filter);
    for route in out_of_reach(&config) {
        eprintln!("{route}: its keys are in the memory of the service, and left out here");
    }
    match step {
        Step::Show { key } => show(&find(&config, key.as_deref()).await?, key.is_some()),
        Step::Resolve(options) => resolve(&find(&config, Some(&options.key)).await?, &options).await,
    }
}

const NONE: &str = "no unknown outcome under this key";

fn show(calls: &[Call], named: bool) -> anyhow::Result<()> {
    if calls.is_empty() {
        if named {
            bail!(NONE);
        }
        say("no unknown outcome");
    }
    for Call { unresolved, .. } in calls {
        let [since, until] = [unresolved.since, unresolved.until].map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true));
        say(format_args!("{}  {}  since {since}  until {until}", unresolved.hash, unresolved.scope));
    }
    Ok(())
}

async fn resolve(calls: &[Call], options: &Resolve) -> anyhow::Result<()> {
    let call = match calls {
        [call] => call,
        [] => bail!(NONE),
        several => bail!("{} calls have this key: name one by its 64 digits (idempotency show)", several.len()),
    };
    let answer = match &options.answer {
        None => None,
        Some(file) => {
            let headers = vec![("content-type".to_owned(), options.content_type.clone())];
            let reply = StoredReply { status: options.status, headers, body: read_input(Some(file))?.into() };
            if !reply.is_final() {
                bail!("an answer of status {} is never kept", options.status);
            }
            Some(reply)
        }
    };
    let executed = answer.is_some();
    if !call.resolve(answer).await? {
        bail!(NONE);
    }
    say(if executed { "executed: whoever asks again gets this answer" } else { "not executed: the next request executes it" });
    Ok(())
}
