//! `send`: a signed request to a running service, its answer and its time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use reqwest::Url;
use serde_json::json;

use super::sign::{self, KeyChoice};
use super::{Settings, demo, header, healthcheck, read_input, route, say};
use crate::domain::data_action::{CUSTOMER_IDS, KEY_ID_HEADER, LOOKUP, PATH, TENANT_ID};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct Options {
    /// The body; standard input where none or `-` is named.
    #[arg(conflicts_with_all = ["sample", "ids"])]
    file: Option<PathBuf>,
    /// Where to send it; the service of these settings on this machine where none is given.
    #[arg(long)]
    url: Option<String>,
    /// Ask for demo customers.
    #[arg(long, conflicts_with = "ids")]
    sample: bool,
    /// Whose customers to ask for.
    #[arg(long, requires = "ids")]
    tenant: Option<String>,
    /// Which customers to ask for, with commas between them.
    #[arg(long, requires = "tenant", value_delimiter = ',')]
    ids: Vec<String>,
    /// A header to send, signed with the body where the settings say so; may be repeated.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    key: KeyChoice,
}

pub(super) async fn run(settings: &Settings, options: Options) -> anyhow::Result<()> {
    let config = settings.load_with_secret(options.key.secret_file.as_deref())?;
    let body = if options.sample {
        demo::REQUEST.as_bytes().to_vec()
    } else if let Some(tenant) = &options.tenant {
        let body = json!({"action": LOOKUP, "input": {CUSTOMER_IDS: options.ids, TENANT_ID: tenant}});
        body.to_string().into_bytes()
    } else {
        read_input(options.file.as_deref())?
    };
    let url = options.url.unwrap_or_else(|| format!("http://{}{PATH}", healthcheck::reachable(config.http.listen)));
    let target: Url = url.parse().with_context(|| format!("read the URL {url}"))?;
    let of_route = route::signed(&config, target.path());
    let (scheme, keys) = of_route.unwrap_or((&config.signing.scheme, &config.signing.keys));
    let key = options.key.choose(options.key.keys(&config.signing, keys))?;
    let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
    let mut request = client.post(target.clone());
    // Only where it was asked for: the service may know the same secret under another id.
    if let Some(id) = &options.key.key_id {
        request = request.header(KEY_ID_HEADER, id);
    }
    for (name, value) in sign::headers(scheme, key, target.path(), &sign::with_signed(scheme, &options.header, &body)?)? {
        request = request.header(name, value);
    }
    for (name, value) in options.header {
        request = request.header(name, value);
    }
    let began = Instant::now();
    let response = request.body(body).send().await.with_context(|| format!("send to {url}"))?;
    let status = response.status();
    let shown = ["x-request-id", "x-cache", "retry-after"].map(|name| (name, response.headers().get(name).cloned()));
    let answer = response.bytes().await.context("read the answer")?;
    let took = began.elapsed();
    say(format_args!("{status} in {:.1} ms", took.as_secs_f64() * 1e3));
    for (name, value) in shown {
        if let Some(value) = value.as_ref().and_then(|value| value.to_str().ok()) {
            say(format_args!("{name}: {value}"));
        }
    }
    match serde_json::from_slice::<serde_json::Value>(&answer) {
        Ok(json) => say(format_args!("{json:#}")),
        Err(_) => say(String::from_utf8_lossy(&answer)),
    }
    ensure!(status.is_success(), "the service answered {status}");
    Ok(())
}
