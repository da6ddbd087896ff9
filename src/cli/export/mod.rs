//! `export`: what a platform has to be told of the service, made from what the service does and from its settings.

mod cognigy;
mod cxone;
mod genesys;
mod terraform;

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use reqwest::Url;

use super::{Settings, say};
use crate::config::Config;
use crate::domain::TenantId;
use crate::domain::data_action::{CONTACT_ID, PATH};
use crate::server::describe;

/// What a request takes on its way, beside what the service may take.
const NETWORK: Duration = Duration::from_secs(3);

/// The longest that a data action of Genesys may take; CXone lets a request take longer.
const LONGEST: Duration = Duration::from_mins(1);

#[derive(Subcommand)]
pub(super) enum Artifact {
    /// An extension's source for NICE Cognigy; `npm install && npm run build` makes what is uploaded.
    Cognigy(cognigy::Options),
    /// A sheet for NICE CXone: Integration Hub, and the REST API and SNIPPET actions of Studio.
    Cxone(Target),
    /// A data action for Genesys Cloud, ready to be imported.
    Genesys(genesys::Options),
    /// The OpenAPI document of the API, with an example of each kind of route that the settings do not have.
    Openapi(Openapi),
    /// The data actions for Genesys Cloud as Terraform, with their integration and its credential.
    Terraform(genesys::Wanted),
}

#[derive(Args)]
pub(super) struct Openapi {
    /// Where the service is reached.
    #[arg(long, value_name = "URL", default_value = "https://lookup.example.com", value_parser = service_url)]
    url: String,
}

/// Who is called, and for whom.
#[derive(Args)]
pub(super) struct Target {
    /// Where the platform reaches the service.
    #[arg(long, value_name = "URL", default_value = "https://lookup.example.com", value_parser = service_url)]
    url: String,
    /// Whose customers are asked for; without it, each call says so.
    #[arg(long)]
    tenant: Option<TenantId>,
}

pub(super) fn run(settings: &Settings, artifact: &Artifact) -> anyhow::Result<()> {
    let config = settings.load()?;
    match artifact {
        Artifact::Cognigy(options) => cognigy::write(&config, options)?,
        Artifact::Cxone(target) => say(cxone::sheet(&config, target)?),
        Artifact::Genesys(options) => say(options.data_action(&config).to_json()?),
        Artifact::Openapi(Openapi { url }) => say(describe::openapi(&config, url)?),
        Artifact::Terraform(wanted) => say(terraform::module(&config, wanted)?),
    }
    Ok(())
}

impl Target {
    /// Where the data action is asked for.
    fn data_action(&self) -> String {
        format!("{}{PATH}", self.url)
    }
}

/// A URL that can stand in every platform's templates as it is.
fn service_url(text: &str) -> anyhow::Result<String> {
    let url: Url = text.parse().context("read the URL")?;
    ensure!(matches!(url.scheme(), "https" | "http"), "must begin with https:// (or http://)");
    ensure!(url.username().is_empty() && url.password().is_none(), "must hold no user name and no password");
    let url = url.as_str().trim_end_matches('/');
    if !url.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:/[]%".contains(c)) {
        bail!("must hold nothing but scheme, host, port and path");
    }
    Ok(url.to_owned())
}

/// A body on one line. Texts stand in it as a platform's template spells them.
fn body(action: &str, input: &[(&str, String)], context: &str) -> String {
    let members: Vec<_> = input.iter().map(|(name, text)| format!(r#""{name}":"{text}""#)).collect();
    format!(r#"{{"action":"{action}","input":{{{}}}{context}}}"#, members.join(","))
}

/// What names the contact in such a body.
fn context(contact_id: &str) -> String {
    format!(r#","context":{{"{CONTACT_ID}":"{contact_id}"}}"#)
}

/// How long a platform should wait for an answer.
fn patience(config: &Config) -> Duration {
    (config.lookup.deadline + NETWORK).min(LONGEST)
}

/// A template with its marks, such as `@url@`, replaced.
fn fill(template: &str, marks: &[(&str, &str)]) -> String {
    marks.iter().fold(template.to_owned(), |text, (mark, value)| text.replace(&format!("@{mark}@"), value))
}
