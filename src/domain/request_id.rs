//! The name of one request, in answers, logs and audit rows.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// 1 to 128 characters out of `A-Z a-z 0-9 . _ : -`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The longest id taken from a caller.
    pub const MAX_LEN: usize = 128;

    /// `None` where the text could upset a log or a header.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        ((1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.into()))
    }

    /// A new one, sortable by time.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
