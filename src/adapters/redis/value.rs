//! The form of a cached customer in Redis: JSON that says whose it is and until when it may be used.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{millis, unix_millis};
use crate::app::ports::Cached;
use crate::domain::{CustomerId, Known, TenantId};

/// The version stands first and is always as long, so that scripts find it.
#[derive(Deserialize)]
struct Value<'a> {
    version: &'a str,
    /// The database's time when it was read.
    seen: u64,
    /// Unix time in milliseconds. Checked here as well, so that a tier that is filled from this one keeps to it too.
    expires: u64,
    tenant: &'a str,
    id: &'a str,
    /// `null`: there is no such customer. Never left out, so that a mutilated value is not read as an absence.
    #[serde(borrow)]
    customer: &'a RawValue,
}

/// What stands in the place of a customer that has changed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark<'a> {
    #[serde(rename = "version", borrow)]
    _version: &'a str,
}

/// Why a value is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It is not what this service writes.
    Corrupt,
    /// It is another tenant's or another customer's.
    Foreign,
    /// Its time is over.
    Expired,
    /// It is the mark of a change.
    Mark,
}

impl Rejected {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::Mark => "mark",
        }
    }

    /// An expired value is everyday life between two clocks, as is a change.
    pub(super) fn is_alarming(self) -> bool {
        matches!(self, Self::Corrupt | Self::Foreign)
    }
}

/// As scripts compare it.
pub(super) fn version(version: u64) -> String {
    format!("{version:019}")
}

pub(super) fn mark(version: u64) -> String {
    format!(r#"{{"version":"{version:019}"}}"#)
}

pub(super) fn encode(tenant: &TenantId, id: CustomerId, cached: &Cached) -> Vec<u8> {
    let Cached { known, version, seen, keep } = cached;
    let expires = unix_millis() + millis(*keep);
    let customer = match known {
        Known::Present(json) => json,
        Known::Absent => b"null".as_slice(),
    };
    let head = format!(r#"{{"version":"{version:019}","seen":{seen},"expires":{expires},"tenant":"{tenant}","id":"{id}","customer":"#);
    [head.as_bytes(), customer, b"}"].concat()
}

pub(super) fn decode(bytes: &[u8], tenant: &TenantId, id: CustomerId) -> Result<Cached, Rejected> {
    let Ok(value) = serde_json::from_slice::<Value<'_>>(bytes) else {
        return Err(serde_json::from_slice::<Mark<'_>>(bytes).map_or(Rejected::Corrupt, |_| Rejected::Mark));
    };
    if value.tenant != tenant.as_str() || CustomerId::parse(value.id) != Some(id) {
        return Err(Rejected::Foreign);
    }
    let left = value.expires.saturating_sub(unix_millis());
    if left == 0 {
        return Err(Rejected::Expired);
    }
    let known = match value.customer.get() {
        "null" => Known::Absent,
        json if json.starts_with('{') => Known::Present(json.as_bytes().into()),
        _ => return Err(Rejected::Corrupt),
    };
    let version = value.version.parse().map_err(|_| Rejected::Corrupt)?;
    Ok(Cached { known, version, seen: value.seen, keep: Duration::from_millis(left) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> anyhow::Result<(TenantId, CustomerId, Cached)> {
        let id = CustomerId::parse("6f1c0000-0000-4000-8000-000000000001").ok_or_else(|| anyhow::anyhow!("no id"))?;
        let known = Known::Present(br#"{"name":"Ann"}"#.as_slice().into());
        Ok(("acme42".parse()?, id, Cached { known, version: 3, seen: 1000, keep: Duration::from_mins(1) }))
    }

    #[test]
    fn what_is_written_is_read_by_its_owner_alone() -> anyhow::Result<()> {
        let (tenant, id, cached) = some()?;
        for known in [cached.known.clone(), Known::Absent] {
            let bytes = encode(&tenant, id, &Cached { known: known.clone(), ..cached.clone() });
            let decoded = decode(&bytes, &tenant, id).map(|cached| (cached.known, cached.version, cached.seen));
            assert_eq!(decoded, Ok((known, 3, 1000)));
            assert_eq!(decode(&bytes, &"acme43".parse()?, id), Err(Rejected::Foreign));
        }
        let expired = encode(&tenant, id, &Cached { keep: Duration::ZERO, ..cached });
        assert_eq!(decode(&expired, &tenant, id), Err(Rejected::Expired));
        assert_eq!(decode(mark(4).as_bytes(), &tenant, id), Err(Rejected::Mark));
        Ok(())
    }

    #[test]
    fn versions_are_compared_as_text_where_scripts_look_for_them() -> anyhow::Result<()> {
        let (tenant, id, cached) = some()?;
        let at = |bytes: &[u8]| String::from_utf8_lossy(&bytes[12..=30]).into_owned();
        assert_eq!(at(&encode(&tenant, id, &cached)), version(3));
        assert_eq!(at(mark(3).as_bytes()), version(3));
        assert!(version(9) < version(10) && version(10) < version(i64::MAX.unsigned_abs()));
        Ok(())
    }

    #[test]
    fn no_mutilated_value_is_used() -> anyhow::Result<()> {
        let (tenant, id, cached) = some()?;
        let bytes = encode(&tenant, id, &cached);
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], &tenant, id), Err(Rejected::Corrupt), "cut at {len}");
        }
        Ok(())
    }
}
