//! Closed sets of label values.

/// The states of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Calls go through.
    Closed,
    /// Calls are refused.
    Open,
    /// A counted few go through to try.
    HalfOpen,
}

impl Circuit {
    pub(super) const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The step of a transaction that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollback {
    /// Reading the customers.
    Lookup,
    /// Writing the audit row.
    Audit,
    /// The commit itself.
    Commit,
    /// Any step that took too long.
    Timeout,
}

impl Rollback {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Audit => "audit",
            Self::Commit => "commit",
            Self::Timeout => "timeout",
        }
    }
}

/// What became of a request that may be done once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was the first, and did the work.
    First,
    /// It got the first one's answer.
    Replayed,
    /// The first one was still at it.
    InFlight,
    /// Its key was used for another payload.
    Mismatch,
    /// Nobody knows whether the first one's work was done.
    Unknown,
    /// The store of keys did not answer.
    StoreDown,
}

impl Outcome {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Replayed => "replayed",
            Self::InFlight => "in_flight",
            Self::Mismatch => "mismatch",
            Self::Unknown => "unknown",
            Self::StoreDown => "store_down",
        }
    }
}

/// What became of a datum for somebody else's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was taken.
    Sent,
    /// There was no room, or no time left for it.
    Dropped,
    /// It was refused for good.
    Refused,
}

impl Fate {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
        }
    }
}

/// Why the service closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedFor {
    /// A newer one needed its place.
    Room,
    /// No complete request came in time.
    Idleness,
    /// The client took nothing of an answer in time.
    Stall,
}

impl ClosedFor {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Idleness => "idle",
            Self::Stall => "stalled",
        }
    }
}
