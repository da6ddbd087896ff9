//! The tenant: whose customers are asked for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A tenant's name: 1 to 64 ASCII letters and digits. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

/// The text is not 1 to 64 ASCII letters and digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant is 1 to {} ASCII letters and digits", TenantId::MAX_LEN)]
pub struct InvalidTenant;

impl TenantId {
    /// The longest tenant name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenant;

    // Not `char::is_alphanumeric`: that takes letters and digits of every script.
    fn from_str(text: &str) -> Result<Self, InvalidTenant> {
        let well_formed = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if well_formed { Ok(Self(text.into())) } else { Err(InvalidTenant) }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
