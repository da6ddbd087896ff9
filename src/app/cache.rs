//! The cache: a tier in this process, which answers without waiting, before one that all instances share. Both are coherent:
//! they follow what is changed in the store, and whoever cannot be sure of that is not asked.
//!
//! - A customer that has changed is dropped here, marked with its new version in the shared tier, and fills that began before are
//!   refused: here by a ticket, there by the version. A mark outlives whatever was read before the change, however late it comes.
//! - What may have changed unheard is not believed any more; see [`trust`].
//! - The time to live is the backstop.

mod fills;
mod local;
mod trust;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::ports::{Beat, Cache, CacheError, Cached, Change, Reading, Watch};
use super::reach::Reach;
use crate::domain::{CustomerId, Epoch, Known, TenantId};
use crate::metrics::Metrics;
use fills::Fills;
use local::Local;
use trust::{Horizons, Trust};

/// Both tiers.
pub struct CustomerCache {
    local: Local,
    shared: Option<Arc<dyn Cache>>,
    fills: Fills,
    trust: Trust,
    heard: Notify,
    metrics: Arc<Metrics>,
}

/// How things stand when a reading begins.
#[derive(Clone, Copy, Debug)]
pub struct Vantage {
    horizons: Horizons,
    ticket: u64,
    at: Instant,
}

impl CustomerCache {
    /// Of `capacity` customers in this process. `changes`: whether the store may change behind our back, so that nothing is
    /// cached until a beat was heard.
    pub fn new(capacity: usize, shared: Option<Arc<dyn Cache>>, changes: bool, metrics: Arc<Metrics>) -> Self {
        Self { local: Local::new(capacity), shared, fills: Fills::new(), trust: Trust::new(changes), heard: Notify::new(), metrics }
    }

    /// Waits for the first beat.
    pub async fn heard_first(&self) {
        self.heard.notified().await;
    }

    /// None: nothing may be believed now, nor is there any use in keeping anything.
    pub fn vantage(&self, tenant: &TenantId) -> Option<Vantage> {
        if !self.local.keeps() && self.shared.is_none() {
            return None;
        }
        let at = Instant::now();
        let horizons = self.trust.horizons(tenant, at);
        (horizons.all < u64::MAX).then(|| Vantage { horizons, ticket: self.local.ticket(), at })
    }

    /// Whether nothing is believed because changes are not heard of.
    pub fn is_deaf(&self) -> bool {
        (self.local.keeps() || self.shared.is_some()) && self.trust.is_deaf(Instant::now())
    }

    /// Whether there is a tier in this process.
    pub fn has_local(&self) -> bool {
        self.local.keeps()
    }

    /// To be called on each thread that answers, on its runtime.
    pub fn settle(&self) {
        if let Some(shared) = &self.shared {
            shared.settle();
        }
    }

    /// How the shared tier is.
    pub async fn reach(&self, patience: Duration) -> Reach {
        Reach::of(self.shared.as_ref().map(async |shared| shared.ready().await.is_ok()), patience).await
    }

    /// What is known of a customer in this process.
    pub fn near(&self, tenant: &TenantId, id: CustomerId, vantage: &Vantage) -> Option<Known> {
        self.local.get(tenant, id, vantage.horizons.epoch, vantage.horizons.all, vantage.at)
    }

    /// The name of the shared tier in metrics, where it may be asked.
    pub fn far_tier(&self, vantage: &Vantage) -> Option<&'static str> {
        self.shared.as_ref().filter(|_| vantage.horizons.shared < u64::MAX).map(|shared| shared.tier())
    }

    /// What is known of these in the shared tier; what is found is kept in this process, too.
    pub async fn far(&self, tenant: &TenantId, ids: &[CustomerId], vantage: &Vantage) -> Result<Vec<(CustomerId, Cached)>, CacheError> {
        let Some(shared) = &self.shared else { return Ok(Vec::new()) };
        let answers = shared.get(vantage.horizons.epoch, tenant, ids).await?;
        // Asked afterwards: this very question may have met the restarted one.
        if vantage.horizons.incarnation.is_some_and(|known| known != shared.incarnation()) {
            return Ok(Vec::new());
        }
        let believed = |cached: &Cached| cached.seen > vantage.horizons.shared;
        let found = ids.iter().zip(answers).filter_map(|(id, cached)| Some((*id, cached.filter(believed)?)));
        let found: Vec<_> = found.collect();
        self.local.put(tenant, found.clone(), vantage.ticket);
        Ok(found)
    }

    /// The history that this reading belongs to. `None`: it came from another server than the one whose changes are heard of, so that
    /// it is not kept, and nothing is believed before it is known which one lookups reach.
    pub fn epoch_of(&self, reading: &Reading, vantage: &Vantage) -> Option<Epoch> {
        let horizons = &vantage.horizons;
        let is_heard = reading.server == horizons.server;
        // Where a beat has told of the new server since, beats and lookups agree again.
        if !is_heard && self.trust.epoch() == horizons.epoch {
            self.trust.doubt_all();
        }
        is_heard.then_some(horizons.epoch)
    }

    /// Keeps what was read from the store: in this process at once, so that the very next call finds it. True: somebody has to
    /// [`Self::share`] what waits for the shared tier.
    #[must_use]
    pub fn keep(&self, tenant: &TenantId, mut entries: Vec<(CustomerId, Cached)>, vantage: &Vantage) -> bool {
        entries.retain(|(_, cached)| !cached.keep.is_zero());
        let fresh = self.local.put(tenant, entries, vantage.ticket);
        self.shared.is_some() && self.fills.add(vantage.at, fresh.into_iter().map(|(id, cached)| (*tenant, id, cached)))
    }

    /// Fills the shared tier with all that waits, and with what comes meanwhile.
    pub async fn share(&self) {
        let Some(shared) = &self.shared else { return };
        while let Some((_turn, entries)) = self.fills.next() {
            if !entries.is_empty()
                && let Err(error) = shared.put(&entries).await
            {
                tracing::debug!(tier = shared.tier(), error = format!("{:#}", anyhow::Error::new(error)), "cache not filled");
            }
        }
    }
}

#[async_trait]
impl Watch for CustomerCache {
    fn beat_sent(&self, beat: u64) {
        self.trust.beat_sent(beat, self.shared.as_ref().map_or(0, |shared| shared.incarnation()));
    }

    fn beat_heard(&self, beat: Beat) {
        self.trust.beat_heard(beat);
        self.heard.notify_one();
    }

    async fn changed(&self, changes: Vec<Change>) {
        let mut customers = Vec::new();
        for change in changes {
            match change {
                Change::Customers(mut some) => customers.append(&mut some),
                Change::Tenants(tenants) => {
                    self.metrics.invalidated("tenant", tenants.len());
                    self.trust.doubt_tenants(tenants);
                }
                Change::All => {
                    self.metrics.invalidated("all", 1);
                    self.trust.doubt_all();
                }
            }
        }
        if customers.is_empty() {
            return;
        }
        self.metrics.invalidated("customer", customers.len());
        self.local.forget(&customers);
        if let Some(shared) = &self.shared {
            if shared.invalidate(self.trust.epoch(), &customers).await.is_err() {
                self.trust.doubt_shared();
            }
            // Whoever asked the shared tier until now may have got the old value from it.
            self.local.forget(&customers);
        }
    }

    fn lost(&self) {
        self.trust.lose();
        self.local.clear();
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test that panics has failed, which is its purpose")]
mod tests;
