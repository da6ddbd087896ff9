//! A customer: its id, its record, and the ready-made JSON that caches keep and answers are put together from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Names one customer of a tenant: any UUID of RFC 9562 but the nil one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CustomerId(Uuid);

impl CustomerId {
    /// Takes every spelling that the `uuid` crate takes; `None` for the nil UUID and for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().and_then(Self::from_uuid)
    }

    /// `None` for the nil UUID.
    pub fn from_uuid(id: Uuid) -> Option<Self> {
        (!id.is_nil()).then_some(Self(id))
    }

    /// The plain UUID, for databases.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for CustomerId {
    /// The hyphenated lower-case form of RFC 9562.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// One customer as a store holds it.
#[derive(Clone, Debug)]
pub struct CustomerRecord<'a> {
    /// Unique within its tenant.
    pub id: CustomerId,
    /// Rises by one with each change.
    pub version: u64,
    /// Display name.
    pub name: &'a str,
    /// Free text such as `active`.
    pub status: &'a str,
    /// When the record last changed; shown with microseconds.
    pub updated_at: DateTime<Utc>,
    /// The text of a JSON object.
    pub attributes: &'a str,
}

/// One customer as callers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerDocument {
    /// Which customer this is.
    pub id: CustomerId,
    /// Of its record.
    pub version: u64,
    /// The JSON object, ready to be put into an answer.
    pub json: Json,
}

/// A customer's JSON. Its count of holders stands beside the text: in a cache, each pointer to elsewhere is a wait for memory.
pub type Json = Arc<[u8]>;

/// What is known of an id: there, or known not to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The customer's JSON.
    Present(Json),
    /// No such customer of this tenant.
    Absent,
}

impl CustomerRecord<'_> {
    /// The JSON of this customer: no `attributes` where there are none, and never a member named `__type`, which CXone
    /// reserves. Fails only where `attributes` is not JSON.
    pub fn document(&self) -> Result<CustomerDocument, serde_json::Error> {
        let cleaned = without_reserved_members(self.attributes)?;
        let attributes = cleaned.as_deref().unwrap_or(self.attributes);
        // Not by way of a `Serialize`: a lookup makes as many of these as it has ids.
        let mut json = Vec::with_capacity(BESIDE_TEXTS + self.name.len() + self.status.len() + attributes.len());
        json.extend_from_slice(br#"{"id":""#);
        json.extend_from_slice(self.id.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        json.extend_from_slice(br#"","name":"#);
        serde_json::to_writer(&mut json, self.name)?;
        json.extend_from_slice(br#","status":"#);
        serde_json::to_writer(&mut json, self.status)?;
        json.extend_from_slice(br#","updated_at":""#);
        json.extend_from_slice(self.updated_at.to_rfc3339_opts(SecondsFormat::Micros, true).as_bytes());
        json.push(b'"');
        if attributes != "{}" {
            json.extend_from_slice(br#","attributes":"#);
            json.extend_from_slice(serde_json::from_str::<&RawValue>(attributes)?.get().as_bytes());
        }
        json.push(b'}');
        Ok(CustomerDocument { id: self.id, version: self.version, json: json.into() })
    }
}

/// What a document says beside its texts, in bytes.
const BESIDE_TEXTS: usize = 140;

/// Reserved by CXone.
const RESERVED: &str = "__type";

/// As deep as `serde_json` follows by itself.
const MAX_DEPTH: usize = 128;

/// The attributes without any member named `__type`, at any depth; `None` where there is none to take out. Everything else
/// is passed on as it is stored, every digit of a number included.
fn without_reserved_members(attributes: &str) -> Result<Option<String>, serde_json::Error> {
    // A stored name is never spelled with escapes here: jsonb and serde_json both write `_` and letters as they are.
    if !attributes.contains(RESERVED) {
        return Ok(None);
    }
    stripped(attributes, MAX_DEPTH).map(Some)
}

fn stripped(json: &str, depth: usize) -> Result<String, serde_json::Error> {
    if !json.contains(RESERVED) {
        return Ok(json.to_owned());
    }
    if depth == 0 {
        return Ok("null".to_owned());
    }
    let inner = |value: &RawValue| stripped(value.get(), depth - 1).and_then(RawValue::from_string);
    match json.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(json)?;
            let kept = members.into_iter().filter(|(name, _)| name != RESERVED);
            let kept: BTreeMap<_, _> = kept.map(|(name, value)| Ok((name, inner(value)?))).collect::<Result<_, serde_json::Error>>()?;
            serde_json::to_string(&kept)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json)?;
            serde_json::to_string(&items.into_iter().map(inner).collect::<Result<Vec<_>, _>>()?)
        }
        _ => Ok(json.to_owned()), // a text that says so
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(attributes: &str) -> String {
        let record = CustomerRecord {
            id: CustomerId(Uuid::from_u128(0x6f1c)),
            version: 1,
            name: "Ann \"A\" Lee",
            status: "active",
            updated_at: DateTime::from_timestamp(1_767_323_045, 678_901_000).unwrap_or_default(),
            attributes,
        };
        record.document().map_or_else(|e| e.to_string(), |d| String::from_utf8_lossy(&d.json).into_owned())
    }

    #[test]
    fn a_document_shows_microseconds_and_leaves_out_empty_attributes() {
        let head = r#"{"id":"00000000-0000-0000-0000-000000006f1c","name":"Ann \"A\" Lee","status":"active","updated_at":"2026-01-02T03:04:05.678901Z""#;
        assert_eq!(json_of("{}"), format!("{head}}}"));
        assert_eq!(json_of(r#"{"n": 12345678901234567890.1}"#), format!(r#"{head},"attributes":{{"n": 12345678901234567890.1}}}}"#));
    }

    #[test]
    fn no_member_named_like_the_reserved_one_is_shown_at_any_depth() {
        assert!(!json_of(r#"{"__type":"x"}"#).contains("attributes"));
        assert!(json_of(r#"{"a":[{"__type":1,"b":2}]}"#).ends_with(r#""attributes":{"a":[{"b":2}]}}"#));
        assert!(json_of(r#"{"__type":1,"n":1e400}"#).ends_with(r#""attributes":{"n":1e400}}"#), "no number is touched");
        let deep = format!("{{\"a\":{}\"__type\"{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(json_of(&deep).contains("null"), "too deep to be looked through");
        assert!(json_of(r#"{"note":"__type"}"#).ends_with(r#""attributes":{"note":"__type"}}"#));
    }

    #[test]
    fn the_nil_uuid_names_nobody() {
        assert_eq!(CustomerId::parse("00000000-0000-0000-0000-000000000000"), None);
        assert_eq!(
            CustomerId::parse("6F1C0000000040008000000000000001").map(|id| id.to_string()).as_deref(),
            Some("6f1c0000-0000-4000-8000-000000000001")
        );
    }
}
