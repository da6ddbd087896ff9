//! Choices of the settings under `database`.

use std::fmt;
use std::str::FromStr;

/// Which lookups may go together in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Any.
    All,
    /// Those of one tenant, where tenants are on different servers.
    Tenant,
    /// None.
    Off,
}

/// Whether statements are prepared once under a name, or with each execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreparedStatements {
    /// Named on direct connections and through poolers that track names; else unnamed.
    Auto,
    /// Named, also through a pooler.
    Named,
    /// Unnamed.
    Unnamed,
}

impl FromStr for Sharing {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            "tenant" => Ok(Self::Tenant),
            "off" => Ok(Self::Off),
            _ => Err("must be all, tenant or off"),
        }
    }
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Tenant => "tenant",
            Self::Off => "off",
        })
    }
}

impl FromStr for PreparedStatements {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "named" => Ok(Self::Named),
            "unnamed" => Ok(Self::Unnamed),
            _ => Err("must be auto, named or unnamed"),
        }
    }
}

impl fmt::Display for PreparedStatements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Named => "named",
            Self::Unnamed => "unnamed",
        })
    }
}
