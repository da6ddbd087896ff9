//! What comes of a check.

/// With a remark where it passed, empty where there is nothing to say.
pub(super) type Verdict = Result<String, NotPassed>;

/// Why a check has not passed. Never with a value out of an answer that could be a customer's or a secret.
#[derive(Debug)]
pub(super) enum NotPassed {
    /// The service is not what the platform needs.
    Failed { expected: String, came: String },
    /// It could not be tried.
    Skipped { reason: String },
}

pub(super) fn failed(expected: impl Into<String>, came: impl Into<String>) -> NotPassed {
    NotPassed::Failed { expected: expected.into(), came: came.into() }
}

pub(super) fn skipped(reason: impl Into<String>) -> NotPassed {
    NotPassed::Skipped { reason: reason.into() }
}
