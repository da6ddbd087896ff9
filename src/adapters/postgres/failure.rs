//! What a failed statement means: for the caller, for the connection, for the transaction.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::app::ports::StoreError;
use crate::metrics::Rollback;

/// A failed transaction.
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// The step that failed, where the transaction had begun.
    pub(super) rolled_back: Option<Rollback>,
    /// Postgres has not said that it is over.
    pub(super) may_go_on: bool,
}

impl Failure {
    /// Nothing had begun, or all was committed.
    pub(super) fn outside_transaction(error: StoreError) -> Self {
        Self { error, rolled_back: None, may_go_on: false }
    }

    /// A transaction had begun.
    pub(super) fn at(step: Rollback, error: &Error) -> Self {
        let error = store_error(error);
        let step = if matches!(error, StoreError::Timeout) { Rollback::Timeout } else { step };
        Self { error, rolled_back: Some(step), may_go_on: false }
    }

    /// Of the statement that reads and writes: what is said of the customers is of the reading.
    pub(super) fn of_statement(error: &Error) -> Self {
        const READ: &str = "customers";
        let is_read = error.as_db_error().is_some_and(|error| error.table() == Some(READ) || error.message().contains(READ));
        Self::at(if is_read { Rollback::Lookup } else { Rollback::Audit }, error)
    }

    /// It was committed, and what was read makes no sense.
    pub(super) fn not_understood(error: anyhow::Error) -> Self {
        Self::outside_transaction(StoreError::Refused(error))
    }

    /// No answer by the deadline.
    pub(super) fn timeout(rolled_back: Option<Rollback>) -> Self {
        Self { error: StoreError::Timeout, rolled_back, may_go_on: true }
    }
}

/// Whether another connection may do better. Safe even where the connection broke after the commit was sent: writing an audit
/// entry twice leaves one row, and each step on an idempotency key may be repeated.
pub(super) fn retryable(error: &StoreError) -> bool {
    matches!(error, StoreError::Interrupted(_))
}

/// Classifies by SQLSTATE: messages may be translated.
pub(super) fn store_error(error: &Error) -> StoreError {
    let Some(state) = error.code() else {
        // No word from the server: the connection broke, unless our own side could not make sense of something.
        let ours = !error.is_closed() && source::<std::io::Error>(error).is_none();
        return if ours { StoreError::Refused(described(error)) } else { StoreError::Interrupted(described(error)) };
    };
    let class = state.code().get(..2).unwrap_or_default();
    match *state {
        SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => StoreError::Timeout,
        // Starting up or recovering: nothing was begun.
        SqlState::CANNOT_CONNECT_NOW => StoreError::Unavailable(described(error)),
        // A demoted primary, and a plan that a migration made stale: a new connection finds its way. A named statement that a
        // pooler has left in another server session. Two that stood in each other's
        // way. An entry that is there already: a second attempt allows for it.
        SqlState::READ_ONLY_SQL_TRANSACTION
        | SqlState::FEATURE_NOT_SUPPORTED
        | SqlState::INVALID_SQL_STATEMENT_NAME
        | SqlState::DUPLICATE_PSTATEMENT
        | SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::UNIQUE_VIOLATION => StoreError::Interrupted(described(error)),
        // Out of disk, memory or connections; I/O errors.
        _ if class == "53" || class == "58" => StoreError::Unavailable(described(error)),
        // Missing rights, schemas, tables, columns and functions; a role or an object that does not accept the statement in its state.
        SqlState::INSUFFICIENT_PRIVILEGE
        | SqlState::UNDEFINED_TABLE
        | SqlState::UNDEFINED_COLUMN
        | SqlState::UNDEFINED_FUNCTION
        | SqlState::UNDEFINED_OBJECT
        | SqlState::INVALID_SCHEMA_NAME => StoreError::Misconfigured(described(error)),
        _ if class == "28" || class == "55" => StoreError::Misconfigured(described(error)),
        SqlState::CHECK_VIOLATION if lacks_partition(error) => StoreError::Misconfigured(described(error)),
        // Connection exceptions, and operator intervention such as a shutdown.
        _ if class == "08" || class == "57" => StoreError::Interrupted(described(error)),
        _ => StoreError::Refused(described(error)),
    }
}

/// Whether no partition takes the row. Postgres names the constraint of every other check violation.
fn lacks_partition(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| error.table().is_some() && error.constraint().is_none())
}

/// The error in words for the log. Without Postgres's DETAIL, which quotes the row that it refused.
pub(super) fn described(error: &Error) -> anyhow::Error {
    if let Some(db) = error.as_db_error() {
        return anyhow::anyhow!("{} {}: {}", db.severity(), db.code().code(), db.message());
    }
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    anyhow::anyhow!(words)
}

fn source<T: std::error::Error + 'static>(error: &Error) -> Option<&T> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref() {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}
