//! The batch lookup: cache first, then one transaction for the rest, and an audit row before any answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use super::ports::{Cache, Cached, CustomerStore, StoreError};
use crate::domain::audit;
use crate::domain::{AuditEntry, CustomerBatch, CustomerId, Known, RequestId, Source, TenantId};
use crate::metrics::Metrics;

/// What is asked, by whom.
#[derive(Clone, Debug)]
pub struct LookupRequest {
    /// Whose customers.
    pub tenant: TenantId,
    /// Which customers.
    pub batch: CustomerBatch,
    /// The action that asked.
    pub action: &'static str,
    /// The key that signed.
    pub key_id: String,
    /// The request's name.
    pub request_id: RequestId,
    /// The platform's contact.
    pub contact_id: Option<String>,
}

/// What is answered, audited already.
#[derive(Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// The customers found, in the order asked.
    pub found: Vec<(CustomerId, Bytes)>,
    /// The ids of no customer of this tenant, in the order asked.
    pub missing: Vec<CustomerId>,
    /// How the cache served.
    pub cache: CacheUse,
}

/// How much of an answer came from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// All of it.
    Hit,
    /// Some customers.
    Partial,
    /// None, though the cache was asked.
    Miss,
    /// No tier could be asked.
    Bypass,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// As many lookups as allowed are under way.
    #[error("take another lookup: as many as allowed are under way")]
    Overloaded,
    /// The service is going down.
    #[error("take another lookup: shutting down")]
    ShuttingDown,
    /// The store failed.
    #[error("look the customers up")]
    Store(#[source] StoreError),
    /// The work panicked.
    #[error("look the customers up: the work panicked")]
    Panicked,
}

/// The use case with what it needs.
pub struct Lookup {
    shared: Arc<Shared>,
    runtime: Handle,
    slots: Arc<Semaphore>,
}

struct Shared {
    store: Arc<dyn CustomerStore>,
    tiers: Tiers,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    limits: Limits,
}

/// The cache: a tier in this process, which answers without waiting, before one that all instances share.
#[derive(Clone, Default)]
pub struct Tiers {
    /// In this process.
    pub local: Option<Arc<dyn Cache>>,
    /// Shared by all instances.
    pub shared: Option<Arc<dyn Cache>>,
}

/// The numbers that bound lookups.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long one may take.
    pub deadline: Duration,
    /// How many may be under way.
    pub max_in_flight: usize,
    /// Whether answers from the cache are audited.
    pub audit_cache_hits: bool,
    /// How long a customer is cached, give or take a tenth.
    pub ttl: Duration,
    /// How long an absence is cached, give or take a tenth.
    pub absent_ttl: Duration,
}

impl Lookup {
    /// All work runs on the current runtime, so this must be called on the one whose threads outlive every connection.
    pub fn new(store: Arc<dyn CustomerStore>, tiers: Tiers, metrics: Arc<Metrics>, limits: Limits) -> Self {
        let shared = Shared { store, tiers, metrics, tasks: TaskTracker::new(), limits };
        Self { shared: Arc::new(shared), runtime: Handle::current(), slots: Arc::new(Semaphore::new(limits.max_in_flight)) }
    }

    /// Looks up and audits. Goes on to its end when the caller hangs up: a future that is dropped half-way would leave a
    /// connection in the middle of its answers.
    pub async fn run(&self, request: LookupRequest) -> Result<LookupAnswer, LookupError> {
        if self.shared.tasks.is_closed() {
            return Err(LookupError::ShuttingDown);
        }
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| LookupError::Overloaded)?;
        let shared = Arc::clone(&self.shared);
        let work = async move {
            let _slot = slot;
            shared.run(request).await
        };
        let task = self.runtime.spawn(self.shared.tasks.track_future(work.in_current_span()));
        task.await.unwrap_or(Err(LookupError::Panicked))
    }

    /// Takes no more lookups, and waits for those under way.
    pub async fn finish(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    async fn run(self: Arc<Self>, request: LookupRequest) -> Result<LookupAnswer, LookupError> {
        let deadline = Instant::now() + self.limits.deadline;
        let mut findings = self.ask_caches(&request).await;
        let cache = findings.cache_use();
        let entry = |source| AuditEntry {
            id: Uuid::now_v7(),
            occurred_at: audit::now(),
            tenant: request.tenant.clone(),
            action: request.action,
            source,
            customer_ids: request.batch.ids().to_vec(),
            key_id: request.key_id.clone(),
            request_id: request.request_id.clone(),
            contact_id: request.contact_id.clone(),
        };
        if cache == CacheUse::Hit {
            if self.limits.audit_cache_hits {
                self.store.audit(&entry(Source::Cache), &findings.missing(), deadline).await.map_err(LookupError::Store)?;
            }
        } else {
            let source = if cache == CacheUse::Partial { Source::Mixed } else { Source::Database };
            let asked = findings.not_present();
            let read = self.ask_store(&entry(source), &asked, deadline).await.map_err(LookupError::Store)?;
            findings.learn(&read);
            self.remember(request.tenant, read).await;
        }
        Ok(findings.into_answer(cache))
    }

    /// Asks each tier for what the nearer one did not know.
    async fn ask_caches(&self, request: &LookupRequest) -> Findings {
        let mut findings = Findings::new(request.batch.ids());
        if let Some(local) = &self.tiers.local {
            self.ask_cache(&**local, &request.tenant, &mut findings).await;
        }
        if let Some(shared) = &self.tiers.shared {
            let learnt = self.ask_cache(&**shared, &request.tenant, &mut findings).await;
            if let Some(local) = &self.tiers.local {
                put(&**local, &request.tenant, &learnt).await;
            }
        }
        findings
    }

    async fn ask_cache(&self, cache: &dyn Cache, tenant: &TenantId, findings: &mut Findings) -> Vec<(CustomerId, Cached)> {
        let asked = findings.unknown();
        if asked.is_empty() {
            return Vec::new();
        }
        let count = |result, customers| self.metrics.cache_answered(cache.tier(), result, customers);
        match cache.get(tenant, &asked).await {
            Ok(answers) => {
                let learnt: Vec<_> = asked.iter().zip(answers).filter_map(|(id, cached)| Some((*id, cached?))).collect();
                let present = learnt.iter().filter(|(_, cached)| matches!(cached.known, Known::Present(_))).count();
                count("hit", present);
                count("absent", learnt.len() - present);
                count("miss", asked.len() - learnt.len());
                findings.reachable = true;
                findings.learn(&learnt);
                learnt
            }
            Err(error) => {
                count("error", asked.len());
                tracing::debug!(tier = cache.tier(), error = format!("{:#}", anyhow::Error::new(error)), "cache not used");
                Vec::new()
            }
        }
    }

    async fn ask_store(
        &self,
        entry: &AuditEntry,
        asked: &[CustomerId],
        deadline: Instant,
    ) -> Result<Vec<(CustomerId, Cached)>, StoreError> {
        let began = Instant::now();
        let result = self.store.lookup_and_audit(entry, asked, deadline).await;
        self.metrics.queried(entry.tenant.as_str(), result.as_ref().map_or_else(StoreError::status, |_| "ok"), began.elapsed());
        let mut found: HashMap<_, _> = result?.into_iter().map(|document| (document.id, document.json)).collect();
        let cached = |id| match found.remove(id) {
            Some(json) => Cached { known: Known::Present(json), keep: jittered(self.limits.ttl) },
            None => Cached { known: Known::Absent, keep: jittered(self.limits.absent_ttl) },
        };
        Ok(asked.iter().copied().zip(asked.iter().map(cached)).collect())
    }

    /// Fills the local tier at once, so that the very next call finds it; the shared one in the background, so that nobody
    /// waits for it.
    async fn remember(&self, tenant: TenantId, mut entries: Vec<(CustomerId, Cached)>) {
        entries.retain(|(_, cached)| !cached.keep.is_zero());
        if let Some(local) = &self.tiers.local {
            put(&**local, &tenant, &entries).await;
        }
        if let Some(shared) = self.tiers.shared.clone() {
            self.tasks.spawn(async move { put(&*shared, &tenant, &entries).await });
        }
    }
}

async fn put(cache: &dyn Cache, tenant: &TenantId, entries: &[(CustomerId, Cached)]) {
    if entries.is_empty() {
        return;
    }
    if let Err(error) = cache.put(tenant, entries).await {
        tracing::debug!(tier = cache.tier(), error = format!("{:#}", anyhow::Error::new(error)), "cache not filled");
    }
}

/// Within a tenth of the given time, so that entries filled together do not all end together.
fn jittered(ttl: Duration) -> Duration {
    ttl.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// What is known so far of each id asked for.
struct Findings {
    ids: Vec<(CustomerId, Option<Known>)>,
    reachable: bool,
}

impl Findings {
    fn new(ids: &[CustomerId]) -> Self {
        Self { ids: ids.iter().map(|id| (*id, None)).collect(), reachable: false }
    }

    fn select(&self, wanted: impl Fn(&Option<Known>) -> bool) -> Vec<CustomerId> {
        self.ids.iter().filter(|(_, known)| wanted(known)).map(|(id, _)| *id).collect()
    }

    fn unknown(&self) -> Vec<CustomerId> {
        self.select(Option::is_none)
    }

    /// What to ask the store for. Where it is asked at all, cached absences are checked again: that costs nothing more.
    fn not_present(&self) -> Vec<CustomerId> {
        self.select(|known| !matches!(known, Some(Known::Present(_))))
    }

    fn missing(&self) -> Vec<CustomerId> {
        self.select(|known| matches!(known, Some(Known::Absent)))
    }

    /// Takes in entries that are in the order asked.
    fn learn(&mut self, entries: &[(CustomerId, Cached)]) {
        let mut entries = entries.iter().peekable();
        for (id, known) in &mut self.ids {
            if let Some((_, cached)) = entries.next_if(|(next, _)| next == id) {
                *known = Some(cached.known.clone());
            }
        }
    }

    fn cache_use(&self) -> CacheUse {
        if self.ids.iter().all(|(_, known)| known.is_some()) {
            CacheUse::Hit
        } else if self.ids.iter().any(|(_, known)| matches!(known, Some(Known::Present(_)))) {
            CacheUse::Partial
        } else if self.reachable {
            CacheUse::Miss
        } else {
            CacheUse::Bypass
        }
    }

    fn into_answer(self, cache: CacheUse) -> LookupAnswer {
        let missing = self.missing();
        let present = |(id, known)| match known {
            Some(Known::Present(json)) => Some((id, json)),
            Some(Known::Absent) | None => None,
        };
        LookupAnswer { found: self.ids.into_iter().filter_map(present).collect(), missing, cache }
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, clippy::panic, reason = "a test that panics has failed, which is its purpose")]
mod tests;
