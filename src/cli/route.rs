//! How a route of the settings wants its requests signed.

use crate::config::{Auth, Config, SigningScheme};
use crate::domain::Keyring;
use crate::domain::data_action::PATH;

/// The scheme of the route at a path, and the keys that it takes; `None` where the settings have no such route, or another proof
/// than a signature by a scheme of theirs.
pub(super) fn signed<'c>(config: &'c Config, path: &str) -> Option<(&'c SigningScheme, &'c Keyring)> {
    let signing = &config.signing;
    if path == PATH {
        return Some((&signing.scheme, &signing.keys));
    }
    if let Some(genesys) = config.genesys.as_ref().filter(|_| path.starts_with("/genesys/")) {
        return Some((&genesys.scheme, &signing.keys));
    }
    match &config.webhooks.iter().find(|webhook| webhook.path == path)?.auth {
        Auth::Hmac { scheme, keys } => Some((scheme, keys)),
        Auth::ApiKey { .. } | Auth::StandardWebhooks { .. } => None,
    }
}
