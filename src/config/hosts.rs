//! Names of hosts.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Host names without ports, in lower case. As text: with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(BTreeSet<String>);

impl Hosts {
    /// Host names are compared without regard to case.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(&name.to_ascii_lowercase())
    }
}

impl FromStr for Hosts {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_ascii_lowercase);
        let names: BTreeSet<_> = names.collect();
        let well_formed = names.iter().all(|name| name.split('.').all(is_label));
        if well_formed { Ok(Self(names)) } else { Err("must be host names with commas between them, without ports") }
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(String::as_str).collect::<Vec<_>>().join(","))
    }
}

/// One label of a host name (RFC 1123 section 2.1), with the underscores that container names have.
pub fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}
