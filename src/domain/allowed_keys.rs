//! Which keys may use a route.

use std::collections::BTreeSet;

use super::{Keyring, SigningKey};

/// The keys that may use a route, of those that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedKeys(Option<BTreeSet<String>>);

impl AllowedKeys {
    /// Every key.
    pub fn all() -> Self {
        Self(None)
    }

    /// The keys of these ids.
    pub fn only(ids: BTreeSet<String>) -> Self {
        Self(Some(ids))
    }

    /// The keys that are not for certain tenants only.
    pub fn for_every_tenant(keys: &Keyring) -> Self {
        Self::only(keys.keys().iter().filter(|key| !key.is_restricted()).map(|key| key.id().to_owned()).collect())
    }

    /// The keys that both allow.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        match (self.0, &other.0) {
            (Some(ids), Some(others)) => Self(Some(ids.intersection(others).cloned().collect())),
            (ids, others) => Self(ids.or_else(|| others.clone())),
        }
    }

    /// Whether some key is left out.
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the key may use the route.
    pub fn contains(&self, key: &SigningKey) -> bool {
        self.0.as_ref().is_none_or(|ids| ids.contains(key.id()))
    }
}
