//! `simulate`: plays a platform against a running service, and tells what that platform would not be content with.

mod answer;
mod checks;
mod hook;
mod profile;
mod proof;
mod report;
mod target;
mod verdict;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use reqwest::Url;
use secrecy::SecretString;
use uuid::Uuid;

use super::Settings;
use super::sign::KeyChoice;
use crate::adapters::outbound;
use crate::config::Config;
use crate::domain::data_action::PATH;
use crate::domain::{CustomerId, TenantId};
use checks::Check;
use hook::{Hook, HookOptions};
use profile::{COGNIGY, CXONE, GENESYS, Profile};
use proof::Proof;
use report::{Form, Report};
use target::Target;
use verdict::skipped;

#[derive(Subcommand)]
pub(super) enum Platform {
    /// NICE CXone: a REST API action of Studio, which tries twice more and takes 32 KB.
    Cxone(Options),
    /// Genesys Cloud: a web services data action, whose inputs cannot be lists.
    Genesys(Options),
    /// NICE Cognigy: an HTTP request node, which gives up after 8 s, and a webhook route.
    Cognigy {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        hook: HookOptions,
    },
}

#[derive(Args)]
pub(super) struct Options {
    /// The service: its base URL, or the whole URL of its lookups.
    #[arg(long, value_parser = service_url)]
    url: Url,
    /// Whose customers to ask for.
    #[arg(long)]
    tenant: TenantId,
    /// A customer that the tenant has; may be repeated. Without any, nobody is asked for but whom nobody has.
    #[arg(long = "customer-id", value_name = "ID", value_delimiter = ',', value_parser = customer_id)]
    customer_ids: Vec<Uuid>,
    /// A file of such customers, an id a line. A hundred show whether answers keep to the size that the platform takes.
    #[arg(long, value_name = "FILE")]
    customer_ids_file: Option<PathBuf>,
    /// Another tenant, that the key must not see; one that nobody is where none is given.
    #[arg(long, value_name = "TENANT")]
    foreign_tenant: Option<TenantId>,
    /// The time in which an answer must be there, if it is not the platform's.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    within: Option<Duration>,
    /// A file that holds an API key, to be sent in place of a signature.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["secret_file", "key_id"])]
    api_key_file: Option<PathBuf>,
    /// The header for the API key, if it is not that of the settings; `Authorization` makes it a bearer's.
    #[arg(long, value_name = "NAME", requires = "api_key_file")]
    api_key_header: Option<String>,
    /// A PEM file of a private authority to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Only these checks, by name.
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    only: Vec<String>,
    /// Print one JSON document in place of the table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    key: KeyChoice,
}

pub(super) async fn run(settings: &Settings, platform: &Platform) -> anyhow::Result<()> {
    let (profile, options, hook) = match platform {
        Platform::Cxone(options) => (&CXONE, options, None),
        Platform::Genesys(options) => (&GENESYS, options, None),
        Platform::Cognigy { options, hook } => (&COGNIGY, options, Some(hook)),
    };
    let config = settings.load_with_secret(options.key.secret_file.as_deref())?;
    let proof = options.proof(&config)?;
    let hook = hook.map_or(Ok(None), |hook| hook.hook(&options.url, &config, &proof))?;
    let target = options.target(profile, &config, proof, hook)?;
    let checks = options.checks(profile)?;
    let form = if options.json { Form::Json } else { Form::Table };
    let mut report = Report::new(&target, notes(&target), form);

    let began = Instant::now();
    let reached = (checks::FIRST.run)(&target).await;
    let is_reached = reached.is_ok();
    report.add(&checks::FIRST, began.elapsed(), reached);
    for check in checks {
        let began = Instant::now();
        let verdict = if is_reached { (check.run)(&target).await } else { Err(skipped("the service was not reached")) };
        report.add(check, began.elapsed(), verdict);
    }
    let failures = report.end()?;
    ensure!(failures == 0, "checks that failed: {failures}");
    Ok(())
}

/// What keeps this from being all that the platform does.
fn notes(target: &Target) -> Vec<&'static str> {
    let signs_where_it_cannot = target.profile.name == GENESYS.name && matches!(target.proof, Proof::Signature { .. });
    let mut notes = Vec::new();
    if target.customers.is_empty() {
        notes.push("without --customer-id, nobody is asked for but whom nobody has");
    }
    if signs_where_it_cannot {
        notes.push("Genesys cannot sign a body; with --api-key-file, calls are proven as it can do it");
    }
    notes
}

impl Options {
    fn proof(&self, config: &Config) -> anyhow::Result<Proof> {
        let Some(file) = &self.api_key_file else {
            let key = Box::new(self.key.choose(&config.signing.keys)?.clone());
            ensure!(key.can_sign(), "the key {:?} has no secret to sign with", key.id());
            return Ok(Proof::Signature { signing: config.signing.clone(), key, named: self.key.key_id.clone() });
        };
        let key = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let header = self.api_key_header.as_ref().unwrap_or(&config.signing.api_key_header).clone();
        Ok(Proof::ApiKey { header, key: SecretString::from(key.trim()) })
    }

    fn target(&self, profile: &'static Profile, config: &Config, proof: Proof, hook: Option<Hook>) -> anyhow::Result<Target> {
        Ok(Target {
            client: outbound::client(self.ca_file.as_deref(), profile.gives_up)?,
            url: self.url.clone(),
            proof,
            profile,
            tenant: self.tenant,
            foreign_tenant: self.foreign_tenant.map_or_else(|| format!("nobody{}", Uuid::new_v4().simple()).parse(), Ok)?,
            customers: self.customers()?,
            nobody: Uuid::new_v4(),
            max_batch: config.lookup.max_batch,
            within: self.within.unwrap_or(profile.within),
            hook,
        })
    }

    /// All of that platform's, or those asked for.
    fn checks(&self, profile: &Profile) -> anyhow::Result<Vec<&'static Check>> {
        let all: Vec<_> = checks::OF_ALL.iter().chain(profile.own_checks).collect();
        if let Some(unknown) = self.only.iter().find(|name| all.iter().all(|check| check.name != **name)) {
            let names: Vec<_> = all.iter().map(|check| check.name).collect();
            bail!("{} has no check {unknown:?}, but these: {}", profile.name, names.join(", "));
        }
        let wanted = |check: &&Check| self.only.is_empty() || self.only.iter().any(|name| name == check.name);
        Ok(all.into_iter().filter(wanted).collect())
    }

    /// Each once, in the order given.
    fn customers(&self) -> anyhow::Result<Vec<Uuid>> {
        let mut customers = self.customer_ids.clone();
        if let Some(file) = &self.customer_ids_file {
            let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
            for (nth, line) in lines {
                let id = customer_id(line).map_err(anyhow::Error::msg);
                customers.push(id.with_context(|| format!("read line {} of {}", nth + 1, file.display()))?);
            }
        }
        let mut seen = HashSet::new();
        customers.retain(|id| seen.insert(*id));
        Ok(customers)
    }
}

fn customer_id(text: &str) -> Result<Uuid, String> {
    CustomerId::parse(text).map(CustomerId::uuid).ok_or_else(|| "must be a UUID, and not the nil one".to_owned())
}

/// With the path of lookups where it has none.
fn service_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password".to_owned());
    }
    if url.path() == "/" {
        url.set_path(PATH);
    }
    Ok(url)
}
