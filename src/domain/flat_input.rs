//! The input of a data action of Genesys Cloud: a JSON object whose values are scalars.

use bytes::Bytes;
use serde_json::Value;

use super::canonical::{Unclear, serialize, unambiguous};

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
    /// Reads a body.
    pub fn parse(body: Bytes) -> Result<Self, NotFlat> {
        let value = unambiguous(&body).map_err(NotFlat::Unclear)?;
        let Value::Object(members) = &value else { return Err(NotFlat::NotAnObject) };
        let nested = members.iter().filter(|(_, value)| value.is_object() || value.is_array());
        let nested: Vec<_> = nested.map(|(name, _)| name.clone()).take(MAX_NAMED).collect();
        if !nested.is_empty() {
            return Err(NotFlat::Nested(nested));
        }
        let canonical = serialize(&value).map_err(NotFlat::Unclear)?;
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
