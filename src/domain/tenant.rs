//! The tenant: whose customers are asked for.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// A tenant's name: 1 to 64 ASCII letters and digits. In place, not behind a pointer: a cache looks it up for each customer, and
/// each pointer that leads elsewhere costs a wait for memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TenantId {
    /// With zeros behind the name, so that it sorts as text does.
    text: [u8; Self::MAX_LEN],
    len: u8,
}

/// The text is not 1 to 64 ASCII letters and digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant is 1 to {} ASCII letters and digits", TenantId::MAX_LEN)]
pub struct InvalidTenant;

impl TenantId {
    /// The longest tenant name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        // ASCII was all that was let in.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }
}

impl Hash for TenantId {
    /// Of the name alone.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenant;

    // Not `char::is_alphanumeric`: that takes letters and digits of every script.
    fn from_str(text: &str) -> Result<Self, InvalidTenant> {
        let well_formed = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        let len = u8::try_from(text.len()).ok().filter(|_| well_formed).ok_or(InvalidTenant)?;
        let mut own = Self { text: [0; Self::MAX_LEN], len };
        own.text[..text.len()].copy_from_slice(text.as_bytes());
        Ok(own)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ascii_letters_and_digits_make_a_tenant() {
        for good in ["a", "acme42", "Z9", &"x".repeat(64)] {
            assert_eq!(good.parse::<TenantId>().map(|t| t.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "acme-42", "acmé", "٣", "a b", "a\0", "a{b}", &"x".repeat(65)] {
            assert_eq!(bad.parse::<TenantId>(), Err(InvalidTenant), "{bad:?}");
        }
    }
}
