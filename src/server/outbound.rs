//! Puts together what this service calls of its own accord.

use std::sync::Arc;

use super::keys::Stores;
use super::webhooks::{times, warn_of_unsigned_key};
use crate::adapters::cognigy::Cognigy;
use crate::adapters::genesys::Genesys;
use crate::app::execute::Execute;
use crate::app::once::{Once, Works};
use crate::config::Config;
use crate::http::{DataActions, EXECUTE_ROUTE, KEY_HEADER};
use crate::metrics::Metrics;

/// The data actions of Genesys, where they are executed.
pub(super) fn data_actions(
    config: &Config,
    stores: &mut Stores<'_>,
    works: &Arc<Works>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Option<Arc<DataActions>>> {
    let Some(settings) = &config.genesys else { return Ok(None) };
    let scope: Arc<str> = EXECUTE_ROUTE.into();
    let (store, share) = stores.of(&scope, settings.store)?;
    warn_of_unsigned_key(EXECUTE_ROUTE, &settings.scheme, KEY_HEADER);
    Ok(Some(Arc::new(DataActions {
        scope,
        execute: Execute::new(Arc::new(Genesys::new(settings, metrics)?), settings.deadline),
        once: Arc::new(Once::new(store, Arc::clone(works), Arc::clone(metrics), times(settings.times)).with_share(share)),
        scheme: settings.scheme.clone(),
        environment: settings.environment.clone(),
        hasher: config.idempotency.hasher.clone(),
        allowed: settings.allowed.clone(),
    })))
}

/// The metrics of Cognigy, where they are sent.
pub(super) fn cognigy(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Arc<Cognigy>>> {
    config.cognigy.as_ref().map(|settings| Cognigy::new(settings, metrics).map(Arc::new)).transpose()
}
