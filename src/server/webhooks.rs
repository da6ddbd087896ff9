//! Puts the routes of the settings together.

use std::sync::Arc;

use anyhow::Context;

use super::keys::Stores;
use crate::adapters::forward::Forward;
use crate::app::execute::Execute;
use crate::app::once::{Once, Times, Works};
use crate::config::{self, Config, SigningScheme};
use crate::http::{Action, Webhook};
use crate::metrics::Metrics;

/// The routes, in the order of the settings.
pub(super) fn build(
    config: &Config,
    stores: &mut Stores<'_>,
    works: &Arc<Works>,
    execute: Option<&Execute>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Vec<Arc<Webhook>>> {
    let routes = config.webhooks.iter().map(|webhook| {
        let scope: Arc<str> = webhook.path.as_str().into();
        let (store, share) = stores.of(&scope, webhook.store)?;
        if let (config::Auth::Hmac { scheme, .. }, Some(header)) = (&webhook.auth, webhook.key.header()) {
            warn_of_unsigned_key(&webhook.path, scheme, header);
        }
        Ok(Arc::new(Webhook {
            scope,
            auth: webhook.auth.clone(),
            allowed: webhook.allowed.clone(),
            key: webhook.key.clone(),
            hasher: config.idempotency.hasher.clone(),
            once: Arc::new(Once::new(store, Arc::clone(works), Arc::clone(metrics), times(webhook.times)).with_share(share)),
            action: action(&webhook.action, execute).with_context(|| format!("set up {}", webhook.path))?,
        }))
    });
    routes.collect()
}

pub(super) fn times(config::Times { lease, keep, wait }: config::Times) -> Times {
    Times { lease, keep, wait }
}

fn action(action: &config::Action, execute: Option<&Execute>) -> anyhow::Result<Action> {
    Ok(match action {
        config::Action::Forward { url, timeout, ca_file } => {
            Action::Forward(Arc::new(Forward::new(url.clone(), *timeout, ca_file.as_deref())?))
        }
        config::Action::Lookup { tenants } => Action::Lookup(tenants.clone()),
        config::Action::Genesys { action } => Action::Genesys(execute.context("Genesys is not set")?.clone(), action.clone()),
        config::Action::Echo => Action::Echo,
    })
}

/// Whoever has seen a signed request can have its work done again under another key, where the key is not signed.
pub(super) fn warn_of_unsigned_key(route: &str, scheme: &SigningScheme, header: &str) {
    if !scheme.signed_headers.iter().any(|signed| signed.eq_ignore_ascii_case(header)) {
        tracing::warn!(route, header, "the header that holds the key is not signed: name it in signed_headers");
    }
}
