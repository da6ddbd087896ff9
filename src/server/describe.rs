//! What the service says of itself to whoever is to call it.

use crate::config::Config;
use crate::http::openapi;

/// The document of its API, as JSON: of what these settings mount, and examples in place of what they leave out. `url`: where
/// it is reached.
pub fn openapi(config: &Config, url: &str) -> anyhow::Result<String> {
    Ok(openapi::with_examples(config, url).to_pretty_json()?)
}
