//! What use cases need from outside. An adapter tells what happened; the use case decides what follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::domain::{
    ActionId, AuditEntry, CustomerDocument, CustomerId, Digest, Epoch, IdempotencyKey, Known, Owner, RequestId, ServerStart, StoredReply,
    TenantId,
};

/// Holds customers and the audit log.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait CustomerStore: Send + Sync {
    /// Reads those customers and writes the audit row in one transaction, so that there is no answer without evidence and
    /// no evidence without an answer. The row's missing ids are the asked ones that were not found. Writing one entry twice
    /// leaves one row. A time that is more than a minute from the store's is replaced by the store's. May be dropped at any time.
    async fn lookup_and_audit(&self, entry: AuditEntry, asked: Vec<CustomerId>, deadline: Instant) -> Result<Reading, StoreError>;

    /// Writes the audit row of an answer that came from a cache. May be dropped at any time.
    async fn audit(&self, entry: AuditEntry, missing: Vec<CustomerId>, deadline: Instant) -> Result<(), StoreError>;

    /// Whether the store would answer now.
    async fn ready(&self, deadline: Instant) -> Result<(), StoreError>;

    /// What an operator has to mend in the store, a sentence each: the store works, but not as it should.
    async fn faults(&self, deadline: Instant) -> Result<Vec<String>, StoreError>;

    /// The newest audit rows of the last day, at most so many, the newest first. Takes nothing from those who look up.
    async fn newest(&self, most: u16, deadline: Instant) -> Result<Vec<AuditGlance>, StoreError>;
}

/// As much of an audit row as fits into a line: who asked for whom, and nothing that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditGlance {
    /// When the call was taken.
    pub occurred_at: DateTime<Utc>,
    /// Whose customers were asked for.
    pub tenant: String,
    /// Where the answer came from.
    pub source: String,
    /// How many customers were asked for.
    pub customers: u32,
    /// The first of them: a row may name a hundred.
    pub first_id: Option<Uuid>,
    /// How many of them were missing.
    pub missing: u32,
    /// Which key signed.
    pub key_id: Option<String>,
    /// Ties the row to the answer and the logs.
    pub request_id: Option<String>,
}

/// What a store has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The customers found, in the order asked.
    pub found: Vec<CustomerDocument>,
    /// When, as the store counts: whatever was committed before this number was given out has been seen.
    pub seen: u64,
    /// The server that was read.
    pub server: ServerStart,
}

/// Why a store did not do what it was asked. Nothing was changed, except possibly after `Interrupted`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached.
    #[error("reach the database")]
    Unavailable(#[source] anyhow::Error),
    /// Everything that could serve the call stayed busy.
    #[error("get a database connection: all stayed busy")]
    Busy,
    /// It was reached, and did not answer in time.
    #[error("get the database's answer in time")]
    Timeout,
    /// The connection broke while it worked.
    #[error("keep the database connection")]
    Interrupted(#[source] anyhow::Error),
    /// A right, a table, a column or a partition is missing: an operator mends it without a new build of this service.
    #[error("run the transaction: the database is not set up for it")]
    Misconfigured(#[source] anyhow::Error),
    /// It refused, and would refuse again: a defect of this service or of its schema.
    #[error("run the transaction")]
    Refused(#[source] anyhow::Error),
}

impl StoreError {
    /// The outcome's name in metrics.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Interrupted(_) => "interrupted",
            Self::Misconfigured(_) => "misconfigured",
            Self::Refused(_) => "refused",
        }
    }

    /// The same once more, to be told to another.
    #[must_use]
    pub fn again(&self) -> Self {
        let words = |cause: &anyhow::Error| anyhow::anyhow!("{cause:#}");
        match self {
            Self::Unavailable(cause) => Self::Unavailable(words(cause)),
            Self::Busy => Self::Busy,
            Self::Timeout => Self::Timeout,
            Self::Interrupted(cause) => Self::Interrupted(words(cause)),
            Self::Misconfigured(cause) => Self::Misconfigured(words(cause)),
            Self::Refused(cause) => Self::Refused(words(cause)),
        }
    }
}

/// What a cache knows of a customer, on what grounds, and for how much longer it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// There or not there.
    pub known: Known,
    /// Of the customer; 0 where there is none.
    pub version: u64,
    /// When it was read, as the store counts.
    pub seen: u64,
    /// The history that it was read from.
    pub epoch: Epoch,
    /// What is left of its time to live.
    pub keep: Duration,
}

/// The cache that all instances share: customers of a tenant by id, apart for each epoch.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait Cache: Send + Sync {
    /// The tier's name in metrics.
    fn tier(&self) -> &'static str;

    /// What is known of each id, in the order asked.
    async fn get(&self, epoch: Epoch, tenant: &TenantId, ids: &[CustomerId]) -> Result<Vec<Option<Cached>>, CacheError>;

    /// Keeps what is now known, each entry for as long as it says; but nothing where a newer version is known already.
    async fn put(&self, entries: &[(TenantId, CustomerId, Cached)]) -> Result<(), CacheError>;

    /// Forgets whatever is older than these versions, and takes nothing that is for as long as such may live.
    async fn invalidate(&self, epoch: Epoch, changed: &[(TenantId, CustomerId, u64)]) -> Result<(), CacheError>;

    /// The current thread will ask often, and its runtime lives for as long as it does.
    fn settle(&self) {}

    /// Another number whenever what was kept may have gone, or come back: after a restart. It has changed before anything is got
    /// from the restarted one.
    fn incarnation(&self) -> u64;

    /// Whether the tier can be reached now, whatever its guard thinks.
    async fn ready(&self) -> Result<(), CacheError>;

    /// The code of what the tier refuses now, or refused a moment ago.
    fn refusal(&self) -> Option<&'static str> {
        None
    }
}

/// Why a cache did not answer. Never a reason to fail a lookup.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Its breaker is open.
    #[error("ask the cache: its breaker is open")]
    CircuitOpen,
    /// No answer within the deadline.
    #[error("get the cache's answer in time")]
    Timeout,
    /// It cannot be reached, or refused.
    #[error("ask the cache")]
    Unavailable(#[source] anyhow::Error),
}

/// What somebody has changed in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These customers, and the versions from which they are as they are now.
    Customers(Vec<(TenantId, CustomerId, u64)>),
    /// Any customers of these tenants.
    Tenants(Vec<TenantId>),
    /// Any customers.
    All,
}

/// A beat that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Which one, of those that were sent since the last loss.
    pub number: u64,
    /// A number that the store had not given out before the beat was sent, as in [`Reading::seen`].
    pub seen: u64,
    /// The server that it was sent from.
    pub server: ServerStart,
    /// The history of the database that it was sent from.
    pub epoch: Epoch,
}

/// Hears of changes in the store. Whoever tells of them proves by beats that nothing is lost on the way: a beat is heard only
/// after every change that was committed before it.
#[async_trait]
pub trait Watch: Send + Sync {
    /// A beat is about to be sent.
    fn beat_sent(&self, beat: u64);

    /// The beat has come back.
    fn beat_heard(&self, beat: Beat);

    /// These are committed.
    async fn changed(&self, changes: Vec<Change>);

    /// From now on changes may go unheard.
    fn lost(&self);
}

/// Holds leases and finished answers by key: what keeps one piece of work from being done twice.
///
/// Every step is one atomic comparison and change. Renewing and completing succeed where the key is the owner's *or
/// nobody's*: a store that was restarted empty, or a lease that ended unnoticed, costs nothing as long as nobody else came. A
/// finished record is never changed, and a record that has no end is held, never free. Each step may be repeated: with the same
/// owner it comes to the same.
///
/// Work that cannot be taken back has its intent on record before it begins. A lease that ends with an intent leaves the key
/// unknown, not free: the work may or may not have been done.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Takes the key for so long, unless somebody has it.
    async fn claim(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<Claimed, StoreDown>;

    /// Holds the key for so much longer. False: somebody else has it.
    async fn renew(&self, key: &IdempotencyKey, owner: Owner, lease: Duration) -> Result<bool, StoreDown>;

    /// Keeps the answer for so long, and ends the lease.
    async fn complete(&self, key: &IdempotencyKey, owner: Owner, reply: &StoredReply, keep: Duration) -> Result<Completed, StoreDown>;

    /// Gives the key up, with its intent, so that the next one may try.
    async fn release(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown>;

    /// Renews, and puts the intent on record, to be kept for `keep` after the lease has ended. False: somebody else has the key.
    async fn intend(&self, key: &IdempotencyKey, owner: Owner, lease: Duration, keep: Duration) -> Result<bool, StoreDown>;

    /// Ends the lease of work whose intent is on record and whose outcome is not known. Without an intent, nothing happens.
    async fn leave_unknown(&self, key: &IdempotencyKey, owner: Owner) -> Result<(), StoreDown>;

    /// The keys of which nobody knows whether their work was done, the oldest first.
    async fn unresolved(&self, scopes: &[Arc<str>]) -> Result<Vec<Unresolved>, StoreDown>;

    /// Says of such a key that its work was done, with this answer, kept for so long; or that it was not, and frees it. False:
    /// it is no such key.
    async fn resolve(&self, scope: &str, hash: &Digest, answer: Option<(StoredReply, Duration)>) -> Result<bool, StoreDown>;

    /// Removes some of what is over. Gives how many records those were, and whether there may be more.
    async fn sweep(&self) -> Result<(u64, bool), StoreDown>;

    /// What is there, approximately where counting exactly would cost more the more there is.
    async fn count(&self, scopes: &[Arc<str>]) -> Result<Vec<Records>, StoreDown>;

    /// How many bytes the store has room for; `None` where it has no bound.
    async fn free_bytes(&self) -> Result<Option<u64>, StoreDown>;

    /// Whether the store would answer now.
    async fn ready(&self) -> Result<(), StoreDown>;

    /// The code of what the store refuses now, or refused a moment ago.
    fn refusal(&self) -> Option<&'static str> {
        None
    }
}

/// What a store says to somebody who wants a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is theirs.
    Won,
    /// Somebody else has it, with this payload.
    Leased(Digest),
    /// The work is done, with this payload and this answer.
    Done(Digest, StoredReply),
    /// Nobody knows whether the work was done, with this payload.
    Unknown(Digest),
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completed {
    /// It is kept.
    Stored,
    /// It is not: somebody else has the key, and has this answer to this payload, or none yet.
    Lost(Option<(Digest, StoredReply)>),
}

/// The records of one scope in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The route.
    pub scope: String,
    /// `leased`, `done` or `unknown`.
    pub state: &'static str,
    /// How many.
    pub count: u64,
}

/// A key of which nobody knows whether its work was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The route.
    pub scope: String,
    /// The key.
    pub hash: Digest,
    /// When the work was begun.
    pub since: DateTime<Utc>,
    /// When the key is free again.
    pub until: DateTime<Utc>,
}

/// Why a store of leases did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreDown {
    /// It could not be asked, or refused: nothing has changed.
    #[error("reach the store of idempotency keys")]
    NotAsked(#[source] anyhow::Error),
    /// It gave no answer, or none that makes sense: what was asked may still happen.
    #[error("get the answer of the store of idempotency keys")]
    NoAnswer(#[source] anyhow::Error),
}

/// What is passed on to the service behind a webhook.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// As it came.
    pub body: Bytes,
    /// As it came.
    pub content_type: Option<Vec<u8>>,
    /// By which that service can tell a repetition.
    pub key: Digest,
    /// The request's name.
    pub request_id: RequestId,
}

/// The service behind a webhook.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait Upstream: Send + Sync {
    /// Passes a request on, once, and gives whatever it answers.
    async fn send(&self, request: Forwarded) -> Result<StoredReply, UpstreamError>;
}

/// Why there is no answer from the service behind a webhook. It may have done its work.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It took too long.
    #[error("get the upstream's answer in time")]
    Timeout,
    /// It refused the connection or broke it, or answered at greater length than is kept.
    #[error("get the upstream's answer")]
    Failed(#[source] anyhow::Error),
}

/// What stands between a call that cannot be taken back and its being sent.
#[async_trait]
pub trait Intent: Send + Sync {
    /// Puts on record that the call is about to be sent: before each time. False: somebody else has the key, and nothing may be
    /// sent.
    async fn record(&self) -> Result<bool, StoreDown>;

    /// The call was refused: it is as if it had not been sent.
    fn refused(&self);
}

/// One execution of a data action.
#[derive(Clone, Debug)]
pub struct DataActionCall {
    /// Which.
    pub action: ActionId,
    /// Its flat input, a JSON object, as it came.
    pub input: Bytes,
    /// The request's name.
    pub request_id: RequestId,
}

/// Executes data actions of Genesys Cloud.
#[async_trait]
pub trait DataActionApi: Send + Sync {
    /// Executes an action at most once, however often the call has to be sent until it is taken. Nothing is sent before the
    /// intent is on record, nor after the deadline.
    async fn execute(&self, call: &DataActionCall, deadline: Instant, intent: &dyn Intent) -> Result<StoredReply, ExecuteError>;
}

/// Why there is no answer of a data action. All but `Unknown` and `Answered` mean that it was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// It could not be reached.
    #[error("execute the data action")]
    Failed(#[source] anyhow::Error),
    /// It said that it failed, or something that is no answer to this. What its action has done until then, it knows alone.
    #[error("execute the data action")]
    Answered(#[source] anyhow::Error),
    /// It gave no token.
    #[error("log in to execute the data action")]
    NoToken(#[source] anyhow::Error),
    /// It asked to wait for longer than there was time.
    #[error("execute the data action: it wants no calls for {} s", .0.as_secs())]
    Throttled(Duration),
    /// As many calls as allowed were made within the last minute; there is room again after this.
    #[error("execute the data action: there is room again in {} s", .0.as_secs())]
    RateLimited(Duration),
    /// As many calls as allowed were under way all the time.
    #[error("execute the data action: as many as allowed are under way")]
    Busy,
    /// There was no time left to send it.
    #[error("execute the data action in time")]
    Late,
    /// The intent could not be put on record.
    #[error("put the intent to execute the data action on record")]
    NotRecorded(#[source] StoreDown),
    /// Somebody else has the key.
    #[error("execute the data action: its key is somebody else's")]
    KeyLost,
    /// It was sent, and its answer was lost: it may or may not have been executed.
    #[error("get the data action's answer")]
    Unknown(#[source] anyhow::Error),
}

/// What is told about one webhook request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Datum {
    /// From the request's head to its answer.
    pub latency: Duration,
    /// Whether it was answered below 400.
    pub success: bool,
    /// Whether the answer was an earlier one's.
    pub replayed: bool,
}

/// Where it is told.
pub trait MetricSink: Send + Sync {
    /// Takes it without delay, whatever becomes of it.
    fn push(&self, datum: Datum);
}
