//! The method and path of a request, and whether a signature binds them: without that, a captured signature is good for every
//! route that takes the same key.

use std::fmt;
use std::str::FromStr;

/// The method and path of a request.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    /// The method, in upper case.
    pub method: &'t str,
    /// The path as received: with its percent-encoding, without the query.
    pub path: &'t str,
}

impl<'t> Target<'t> {
    /// The target of a request that posts to a path.
    pub fn post(path: &'t str) -> Self {
        Self { method: "POST", path }
    }

    /// What signed text begins with, in parts: `{METHOD} {path}.`
    pub fn parts(self) -> [&'t [u8]; 4] {
        [self.method.as_bytes(), b" ", self.path.as_bytes(), b"."]
    }

    /// Whether a text that should have no target begins as one with a target does.
    pub fn is_imitated_by(self, text: &[u8]) -> bool {
        text.strip_prefix(self.method.as_bytes()).is_some_and(|rest| rest.starts_with(b" /"))
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Whether the signatures of a route bind its method and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedTarget {
    /// They do not.
    Off,
    /// They may: the transition from one to the other.
    Accept,
    /// They must.
    Require,
}

impl SignedTarget {
    /// Whether a caller should sign the target.
    pub fn is_wanted(self) -> bool {
        self != Self::Off
    }
}

impl FromStr for SignedTarget {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" | "false" => Ok(Self::Off),
            "accept" => Ok(Self::Accept),
            "require" | "true" => Ok(Self::Require),
            _ => Err("must be off, accept or require"),
        }
    }
}

impl fmt::Display for SignedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Accept => "accept",
            Self::Require => "require",
        })
    }
}

/// What a right signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All that the route wants signed.
    Whole,
    /// All but the target, which the route does without for a while.
    NoTarget,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_understood() {
        let read = ["off", "false", "accept", "require", "true"].map(str::parse::<SignedTarget>);
        let (off, accept, require) = (SignedTarget::Off, SignedTarget::Accept, SignedTarget::Require);
        assert_eq!(read, [off, off, accept, require, require].map(Ok));
        assert!("on".parse::<SignedTarget>().is_err());
    }

    #[test]
    fn only_the_same_method_before_a_path_imitates_a_target() {
        let target = Target::post("/x");
        for imitation in ["POST /x.body", "POST /", "POST /another"] {
            assert!(target.is_imitated_by(imitation.as_bytes()), "{imitation}");
        }
        for other in ["", "POST", "POST x", "post /x", "GET /x", " POST /x", r#"{"a":"POST /x."}"#] {
            assert!(!target.is_imitated_by(other.as_bytes()), "{other}");
        }
    }
}
