//! The input of a data action of Genesys Cloud: a JSON object whose values are scalars.

use bytes::Bytes;

use super::canonical::{Unclear, members};

/// The most members that [`NotFlat::Nested`] names.
const MAX_NAMED: usize = 20;

/// An input as it was sent, and its canonical form.
#[derive(Clone, Debug)]
pub struct FlatInput {
    bytes: Bytes,
    canonical: String,
}

/// Why a body is no such input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFlat {
    /// It is not JSON, or means more than one thing.
    Unclear(Unclear),
    /// It is JSON, but no object.
    NotAnObject,
    /// These members are objects or arrays; the first few of them, sorted.
    Nested(Vec<String>),
}

impl FlatInput {
    /// Reads a body, whose canonical form is that of [`canonical`](super::canonical::canonical).
    pub fn parse(body: Bytes, canonical: Result<String, Unclear>) -> Result<Self, NotFlat> {
        let canonical = canonical.map_err(NotFlat::Unclear)?;
        let members = members(&canonical).ok_or(NotFlat::NotAnObject)?;
        let nested = members.into_iter().filter(|(_, value)| value.starts_with(['{', '[']));
        let nested: Vec<_> = nested.map(|(name, _)| name.into_owned()).take(MAX_NAMED).collect();
        if !nested.is_empty() {
            return Err(NotFlat::Nested(nested));
        }
        Ok(Self { bytes: body, canonical })
    }

    /// The body as it was sent.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The body in canonical form (RFC 8785).
    pub fn canonical(&self) -> &str {
        &self.canonical
    }
}
