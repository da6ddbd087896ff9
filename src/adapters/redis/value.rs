//! The form of a cached customer in Redis: JSON that says whose it is and until when it may be used.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{millis, unix_millis};
use crate::app::ports::Cached;
use crate::domain::{CustomerId, Known, TenantId};

#[derive(Serialize, Deserialize)]
struct Value<'a> {
    tenant: &'a str,
    id: &'a str,
    /// Unix time in milliseconds. Checked here as well, so that a tier that is filled from this one keeps to it too.
    expires: u64,
    /// `null`: there is no such customer. Never left out, so that a mutilated value is not read as an absence.
    #[serde(borrow)]
    customer: &'a RawValue,
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
}

impl Rejected {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
        }
    }

    /// An expired value is everyday life between two clocks.
    pub(super) fn is_alarming(self) -> bool {
        self != Self::Expired
    }
}

pub(super) fn encode(tenant: &TenantId, id: CustomerId, cached: &Cached) -> Vec<u8> {
    let expires = unix_millis() + millis(cached.keep);
    let customer = match &cached.known {
        Known::Present(json) => json,
        Known::Absent => &Bytes::from_static(b"null"),
    };
    let head = format!(r#"{{"tenant":"{tenant}","id":"{id}","expires":{expires},"customer":"#);
    [head.as_bytes(), customer, b"}"].concat()
}

pub(super) fn decode(bytes: &[u8], tenant: &TenantId, id: CustomerId) -> Result<Cached, Rejected> {
    let value: Value<'_> = serde_json::from_slice(bytes).map_err(|_| Rejected::Corrupt)?;
    if value.tenant != tenant.as_str() || CustomerId::parse(value.id) != Some(id) {
        return Err(Rejected::Foreign);
    }
    let left = value.expires.saturating_sub(unix_millis());
    if left == 0 {
        return Err(Rejected::Expired);
    }
    let known = match value.customer.get() {
        "null" => Known::Absent,
        json if json.starts_with('{') => Known::Present(Bytes::copy_from_slice(json.as_bytes())),
        _ => return Err(Rejected::Corrupt),
    };
    Ok(Cached { known, keep: Duration::from_millis(left) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> anyhow::Result<(TenantId, CustomerId, Cached)> {
        let id = CustomerId::parse("6f1c0000-0000-4000-8000-000000000001").ok_or_else(|| anyhow::anyhow!("no id"))?;
        let known = Known::Present(Bytes::from_static(br#"{"name":"Ann"}"#));
        Ok(("acme42".parse()?, id, Cached { known, keep: Duration::from_mins(1) }))
    }

    #[test]
    fn what_is_written_is_read_by_its_owner_alone() -> anyhow::Result<()> {
        let (tenant, id, cached) = some()?;
        for known in [cached.known.clone(), Known::Absent] {
            let bytes = encode(&tenant, id, &Cached { known: known.clone(), keep: cached.keep });
            assert_eq!(decode(&bytes, &tenant, id).map(|c| c.known), Ok(known));
            assert_eq!(decode(&bytes, &"acme43".parse()?, id), Err(Rejected::Foreign));
        }
        let expired = encode(&tenant, id, &Cached { keep: Duration::ZERO, ..cached });
        assert_eq!(decode(&expired, &tenant, id), Err(Rejected::Expired));
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
