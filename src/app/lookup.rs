//! The batch lookup: cache first, then one transaction for the rest, and an audit row before any answer.

mod ping;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use super::admission::{Admission, Place};
use super::cache::{CustomerCache, Vantage};
use super::ports::{Cached, CustomerStore, Reading, StoreError};
use crate::domain::audit;
use crate::domain::{AuditEntry, CustomerBatch, CustomerDocument, CustomerId, Epoch, Json, Known, RequestId, Source, TenantId};
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
    pub key_id: Arc<str>,
    /// The request's name.
    pub request_id: RequestId,
    /// The platform's contact.
    pub contact_id: Option<String>,
}

/// What is answered, audited already.
#[derive(Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// The customers found, in the order asked.
    pub found: Vec<(CustomerId, Json)>,
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

impl CacheUse {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Hit, Self::Partial, Self::Miss, Self::Bypass];

    /// Its name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Partial => "partial",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// As many lookups as allowed are under way, in all or for this tenant.
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
    places: Arc<Admission<TenantId>>,
}

struct Shared {
    store: Arc<dyn CustomerStore>,
    cache: Arc<CustomerCache>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    limits: Limits,
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
    /// All work that waits for the network runs on the current runtime, so this must be called on the one whose threads outlive
    /// every connection.
    pub fn new(store: Arc<dyn CustomerStore>, cache: Arc<CustomerCache>, metrics: Arc<Metrics>, limits: Limits) -> Self {
        let shared = Shared { store, cache, metrics, tasks: TaskTracker::new(), limits };
        Self { shared: Arc::new(shared), runtime: Handle::current(), places: Admission::new(limits.max_in_flight) }
    }

    /// Looks up and audits. An answer that is known in this process waits for nothing but its audit row. Everything else goes on
    /// to its end when the caller hangs up: a future that is dropped half-way would cost a connection.
    pub async fn run(&self, request: LookupRequest) -> Result<LookupAnswer, LookupError> {
        let (slot, deadline) = self.enter(request.tenant)?;
        let mut findings = Findings::new(request.batch.ids());
        let vantage = self.shared.ask_near(&request, &mut findings);
        if findings.cache_use() == CacheUse::Hit {
            return self.shared.answer_from_cache(request, findings, deadline).await;
        }
        let shared = Arc::clone(&self.shared);
        self.to_its_end(slot, async move { shared.run(request, findings, vantage, deadline).await }).await
    }

    /// A place among those that are under way, and until when it may be used.
    fn enter(&self, tenant: TenantId) -> Result<(Place<TenantId>, Instant), LookupError> {
        if self.shared.tasks.is_closed() {
            return Err(LookupError::ShuttingDown);
        }
        let slot = self.places.enter(tenant).ok_or(LookupError::Overloaded)?;
        Ok((slot, Instant::now() + self.shared.limits.deadline))
    }

    async fn to_its_end<T>(
        &self,
        slot: Place<TenantId>,
        work: impl Future<Output = Result<T, LookupError>> + Send + 'static,
    ) -> Result<T, LookupError> {
        let work = async move {
            let _slot = slot;
            work.await
        };
        let work = AssertUnwindSafe(work.in_current_span()).catch_unwind();
        let to_its_end = ToItsEnd { work: Some(Box::pin(work)), runtime: self.runtime.clone(), tasks: self.shared.tasks.clone() };
        to_its_end.await.unwrap_or(Err(LookupError::Panicked))
    }

    /// Takes no more lookups, and waits for those under way.
    pub async fn finish(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// Work that is done by whoever waits for it, and by the runtime once nobody does. To hand it to the runtime from the start would
/// cost each lookup two changes of threads.
struct ToItsEnd<W: Future + Send + 'static> {
    work: Option<Pin<Box<W>>>,
    runtime: Handle,
    tasks: TaskTracker,
}

impl<W: Future + Send + 'static> Future for ToItsEnd<W> {
    type Output = W::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<W::Output> {
        // So that its timers do not end with the thread that it begins on.
        let runtime = self.runtime.clone();
        let _here = runtime.enter();
        let Some(work) = &mut self.work else { return Poll::Pending };
        let output = ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(output)
    }
}

impl<W: Future + Send + 'static> Drop for ToItsEnd<W> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.runtime.spawn(self.tasks.track_future(async { drop(work.await) }));
        }
    }
}

impl Shared {
    /// What this process did not know.
    async fn run(
        self: Arc<Self>,
        request: LookupRequest,
        mut findings: Findings,
        vantage: Option<Vantage>,
        deadline: Instant,
    ) -> Result<LookupAnswer, LookupError> {
        if let Some(vantage) = &vantage {
            self.ask_far(&request.tenant, &mut findings, vantage).await;
        }
        let cache = findings.cache_use();
        if cache == CacheUse::Hit {
            return self.answer_from_cache(request, findings, deadline).await;
        }
        let source = if cache == CacheUse::Partial { Source::Mixed } else { Source::Database };
        let asked = findings.not_present();
        let tenant = request.tenant;
        let reading = self.ask_store(entry(request, source), asked.clone(), deadline).await.map_err(LookupError::Store)?;
        let epoch = vantage.as_ref().and_then(|vantage| self.cache.epoch_of(&reading, vantage));
        let read = self.cached(reading, asked, epoch.unwrap_or_default());
        findings.learn(&read);
        if epoch.and(vantage).is_some_and(|vantage| self.cache.keep(&tenant, read, &vantage)) {
            // In the background, so that nobody waits for it.
            let cache = Arc::clone(&self.cache);
            self.tasks.spawn(async move { cache.share().await });
        }
        Ok(findings.into_answer(cache))
    }

    async fn answer_from_cache(&self, request: LookupRequest, findings: Findings, deadline: Instant) -> Result<LookupAnswer, LookupError> {
        if self.limits.audit_cache_hits {
            let audited = self.store.audit(entry(request, Source::Cache), findings.missing(), deadline).await;
            audited.map_err(LookupError::Store)?;
        }
        Ok(findings.into_answer(CacheUse::Hit))
    }

    fn ask_near(&self, request: &LookupRequest, findings: &mut Findings) -> Option<Vantage> {
        let vantage = self.cache.vantage(&request.tenant)?;
        if self.cache.has_local() {
            findings.reachable = true;
            let (mut present, mut absent) = (0, 0);
            for (id, known) in &mut findings.ids {
                *known = self.cache.near(&request.tenant, *id, &vantage);
                present += usize::from(matches!(known, Some(Known::Present(_))));
                absent += usize::from(matches!(known, Some(Known::Absent)));
            }
            self.count("local", findings.ids.len(), present, absent);
        }
        Some(vantage)
    }

    async fn ask_far(&self, tenant: &TenantId, findings: &mut Findings, vantage: &Vantage) {
        let Some(tier) = self.cache.far_tier(vantage) else { return };
        let asked = findings.unknown();
        match self.cache.far(tenant, &asked, vantage).await {
            Ok(learnt) => {
                findings.reachable = true;
                let present = learnt.iter().filter(|(_, cached)| matches!(cached.known, Known::Present(_))).count();
                self.count(tier, asked.len(), present, learnt.len() - present);
                findings.learn(&learnt);
            }
            Err(error) => {
                self.metrics.cache_answered(tier, "error", asked.len());
                tracing::debug!(tier, error = format!("{:#}", anyhow::Error::new(error)), "cache not used");
            }
        }
    }

    fn count(&self, tier: &'static str, asked: usize, present: usize, absent: usize) {
        self.metrics.cache_answered(tier, "hit", present);
        self.metrics.cache_answered(tier, "absent", absent);
        self.metrics.cache_answered(tier, "miss", asked - present - absent);
    }

    async fn ask_store(&self, entry: AuditEntry, asked: Vec<CustomerId>, deadline: Instant) -> Result<Reading, StoreError> {
        let (began, tenant) = (Instant::now(), entry.tenant);
        let result = self.store.lookup_and_audit(entry, asked, deadline).await;
        self.metrics.queried(tenant.as_str(), result.as_ref().map_or_else(StoreError::status, |_| "ok"), began.elapsed());
        result
    }

    /// A reading as caches keep it.
    fn cached(&self, reading: Reading, asked: Vec<CustomerId>, epoch: Epoch) -> Vec<(CustomerId, Cached)> {
        let mut found = reading.found.into_iter().peekable();
        let cached = |id: CustomerId| {
            let (known, version, ttl) = match found.next_if(|document| document.id == id) {
                Some(CustomerDocument { version, json, .. }) => (Known::Present(json), version, self.limits.ttl),
                None => (Known::Absent, 0, self.limits.absent_ttl),
            };
            (id, Cached { known, version, seen: reading.seen, epoch, keep: jittered(ttl) })
        };
        asked.into_iter().map(cached).collect()
    }
}

fn entry(request: LookupRequest, source: Source) -> AuditEntry {
    let LookupRequest { tenant, batch, action, key_id, request_id, contact_id } = request;
    let customer_ids = batch.into_ids();
    AuditEntry { id: Uuid::now_v7(), occurred_at: audit::now(), tenant, action, source, customer_ids, key_id, request_id, contact_id }
}

/// Within a tenth of the given time, so that entries filled together do not all end together.
fn jittered(ttl: Duration) -> Duration {
    ttl.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// How long anything is cached at most that may be cached for so long.
pub fn longest(ttl: Duration) -> Duration {
    ttl.mul_f64(1.1)
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
