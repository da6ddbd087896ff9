//! A body by its recipe: a unit that is repeated up to a size, so that one line of the corpus stands for bodies of all sizes.

use serde::{Deserialize, Serialize};

use super::route::Route;

/// What the recipe makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Form {
    /// A whole body. `$REQUEST` stands for the members that the route wants.
    #[default]
    Body,
    /// A JSON value: sent alone, and as a member beside those that the route wants.
    Value,
}

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Alone,
    FirstMember,
    LastMember,
}

/// `before`, then `unit` again and again with `between`, then `after`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Recipe {
    pub(crate) name: String,
    pub(crate) form: Form,
    pub(crate) before: String,
    /// `$N` stands for a number that counts, `$X` for the same in twelve hexadecimal digits.
    pub(crate) unit: String,
    pub(crate) between: String,
    pub(crate) after: String,
    /// Put around each unit, `depth` times.
    pub(crate) open: String,
    pub(crate) close: String,
    pub(crate) depth: usize,
    /// Each character is sent as one byte: the only way to spell what is no UTF-8.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) latin1: bool,
}

/// A recipe in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Body {
    pub(crate) recipe: Recipe,
    pub(crate) frame: Frame,
}

impl Recipe {
    /// Every place that this may stand in.
    pub(crate) fn bodies(&self) -> Vec<Body> {
        let frames: &[Frame] = match self.form {
            Form::Body => &[Frame::Alone],
            Form::Value => &[Frame::Alone, Frame::FirstMember, Frame::LastMember],
        };
        frames.iter().map(|frame| Body { recipe: self.clone(), frame: *frame }).collect()
    }

    /// At most so many bytes, but at least one unit.
    fn fill(&self, size: usize, members: &str) -> Vec<u8> {
        let [before, after] = [&self.before, &self.after].map(|text| text.replace("$REQUEST", members));
        let unit = format!("{}{}{}", self.open.repeat(self.depth), self.unit, self.close.repeat(self.depth));
        let counts = unit.contains('$');
        let room = size.saturating_sub(self.encode(&after).len());
        let mut bytes = self.encode(&before);
        let between = self.encode(&self.between);
        let plain = self.encode(&unit);
        for nth in 0_u32.. {
            let next = if counts {
                self.encode(&unit.replace("$N", &nth.to_string()).replace("$X", &format!("{nth:012x}")))
            } else {
                plain.clone()
            };
            if nth > 0 && (bytes.len() + between.len() + next.len() > room || next.is_empty()) {
                break;
            }
            if nth > 0 {
                bytes.extend_from_slice(&between);
            }
            bytes.extend(next);
        }
        bytes.extend(self.encode(&after));
        bytes
    }

    fn encode(&self, text: &str) -> Vec<u8> {
        let byte = |letter: char| u8::try_from(letter).unwrap_or(b'?');
        if self.latin1 { text.chars().map(byte).collect() } else { text.as_bytes().to_vec() }
    }
}

impl Body {
    pub(crate) fn name(&self) -> String {
        let place = match self.frame {
            Frame::Alone => "",
            Frame::FirstMember => ", first member",
            Frame::LastMember => ", last member",
        };
        format!("{}{place}", self.recipe.name)
    }

    /// For that route, of about that size. No two salts make the same body where a member of the route's is in it.
    pub(crate) fn bytes(&self, route: &Route, size: usize, salt: u64) -> Vec<u8> {
        let members = route.salted(salt);
        let (before, after) = match self.frame {
            Frame::Alone => (String::new(), String::new()),
            Frame::FirstMember => (r#"{"z":"#.to_owned(), format!(",{members}}}")),
            Frame::LastMember => (format!(r#"{{{members},"z":"#), "}".to_owned()),
        };
        let value = self.recipe.fill(size.saturating_sub(before.len() + after.len()), &members);
        [before.as_bytes(), &value, after.as_bytes()].concat()
    }
}

/// What every other body is compared with: the request that the route wants, and one long string.
pub(crate) fn plain() -> Body {
    let recipe = Recipe {
        name: "plain".to_owned(),
        unit: "x".to_owned(),
        before: "\"".to_owned(),
        after: "\"".to_owned(),
        form: Form::Value,
        ..Recipe::default()
    };
    Body { recipe, frame: Frame::LastMember }
}
