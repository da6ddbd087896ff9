//! `export cognigy`: an extension's source. It does in code what no setting of Cognigy does: it signs, sends an idempotency key,
//! and tries again.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{Target, fill, say};
use crate::config::{Config, WEBHOOK_SIGNATURE_HEADER};
use crate::domain::data_action::{KEY_ID_HEADER, LOOKUP, PATH};

#[derive(Args)]
pub(in super::super) struct Options {
    /// Where to write it; files of the same names are replaced.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    target: Target,
}

/// The files that are the same for everybody, but for their marks.
const FILES: [(&str, &str); 11] = [
    ("README.md", include_str!("cognigy/README.md")),
    ("package.json", include_str!("cognigy/package.json")),
    ("package-lock.json", include_str!("cognigy/package-lock.json")),
    ("tsconfig.json", include_str!("cognigy/tsconfig.json")),
    ("src/call.ts", include_str!("cognigy/src/call.ts")),
    ("src/connections/lookupService.ts", include_str!("cognigy/src/connections/lookupService.ts")),
    ("src/module.ts", include_str!("cognigy/src/module.ts")),
    ("src/nodes/common.ts", include_str!("cognigy/src/nodes/common.ts")),
    ("src/nodes/lookUpCustomers.ts", include_str!("cognigy/src/nodes/lookUpCustomers.ts")),
    ("src/nodes/callWebhook.ts", include_str!("cognigy/src/nodes/callWebhook.ts")),
    ("src/service.ts", include_str!("cognigy/src/service.ts")),
];

const ICON: &[u8] = include_bytes!("cognigy/icon.png");

pub(super) fn write(config: &Config, options: &Options) -> anyhow::Result<()> {
    let service = service(config, &options.target)?;
    let max_batch = config.lookup.max_batch.to_string();
    let marks = [
        ("service", service.as_str()),
        ("version", env!("CARGO_PKG_VERSION")),
        ("max_batch", max_batch.as_str()),
        ("signature_header", WEBHOOK_SIGNATURE_HEADER),
    ];
    let texts = FILES.map(|(name, text)| (name, fill(text, &marks).into_bytes()));
    for (name, bytes) in texts.into_iter().chain([("icon.png", ICON.to_vec())]) {
        let path = options.output.join(name);
        let place = path.parent().unwrap_or(&options.output);
        fs::create_dir_all(place).with_context(|| format!("make {}", place.display()))?;
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    say(format_args!("written to {}; there: npm ci && npm run build", options.output.display()));
    Ok(())
}

/// What the extension knows of the service, as JSON.
fn service(config: &Config, target: &Target) -> anyhow::Result<String> {
    let scheme = &config.signing.scheme;
    let known = json!({
        "url": target.url,
        "path": PATH,
        "action": LOOKUP,
        "tenant": target.tenant.as_ref().map_or("", |tenant| tenant.as_str()),
        "keyIdHeader": KEY_ID_HEADER,
        "signature": {
            "header": scheme.header,
            "encoding": scheme.encoding.to_string(),
            "timestampHeader": scheme.timestamp_header.as_deref().unwrap_or_default(),
            "target": scheme.signed_target.is_wanted(),
        },
        "webhookSignatureHeader": WEBHOOK_SIGNATURE_HEADER,
    });
    Ok(serde_json::to_string_pretty(&known)?.replace("\n  ", "\n\t").replace("\t  ", "\t\t"))
}
