//! The dry run of a lookup: whether all that it needs would answer now. It reads no customer, leaves no audit row and keeps nothing.

use std::sync::Arc;

use futures_util::future::try_join;

use super::{Lookup, LookupError};
use crate::app::reach::Reach;
use crate::domain::TenantId;

impl Lookup {
    /// How the cache's shared tier is. The store is up, or there is no answer; it takes no longer than a lookup may.
    pub async fn ping(&self, tenant: TenantId) -> Result<Reach, LookupError> {
        let (slot, deadline) = self.enter(tenant)?;
        let shared = Arc::clone(&self.shared);
        // A tier that hangs leaves time to say so.
        let patience = shared.limits.deadline / 2;
        let work = async move {
            let store = async { shared.store.ready(deadline).await.map_err(LookupError::Store) };
            let cache = async { Ok(shared.cache.reach(patience).await) };
            try_join(store, cache).await.map(|((), cache)| cache)
        };
        self.to_its_end(slot, work).await
    }
}
