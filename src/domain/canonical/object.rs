//! An object in canonical form: its members sorted by the UTF-16 code units of their names (RFC 8785 section 3.2.3), none twice.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

use super::Ambiguity;

/// Up to so many members, a look at each is quicker than a hash of each.
const FEW: usize = 16;

/// An object whose members are written to an output one after the other, and put into order at its end.
pub(super) struct Object<'j> {
    members: Vec<Member<'j>>,
    /// The names, once there are more than a few.
    names: HashSet<Cow<'j, str>>,
    /// Where in the output the object begins.
    start: usize,
}

struct Member<'j> {
    name: Cow<'j, str>,
    /// Where in the output the member begins.
    start: usize,
}

impl<'j> Object<'j> {
    pub(super) fn begin(output: &mut String) -> Self {
        let start = output.len();
        output.push('{');
        Self { members: Vec::new(), names: HashSet::new(), start }
    }

    /// Begins a member. Its name and value are written by the caller.
    pub(super) fn member(&mut self, name: Cow<'j, str>, output: &mut String) -> Result<(), Ambiguity> {
        let is_there = match self.members.len() {
            ..FEW => self.members.iter().any(|member| member.name == name),
            FEW => {
                self.names = self.members.iter().map(|member| member.name.clone()).collect();
                !self.names.insert(name.clone())
            }
            _ => !self.names.insert(name.clone()),
        };
        if is_there {
            return Err(Ambiguity::DuplicateMember);
        }
        if !self.members.is_empty() {
            output.push(',');
        }
        self.members.push(Member { name, start: output.len() });
        Ok(())
    }

    /// The name of the member that was begun last.
    pub(super) fn name(&self) -> &str {
        self.members.last().map_or("", |member| &member.name)
    }

    /// Puts the members into order.
    pub(super) fn end(self, output: &mut String) {
        if !self.members.is_sorted_by(|one, next| compare(&one.name, &next.name) == Ordering::Less) {
            let written = output.split_off(self.start);
            let ends = self.members.iter().skip(1).map(|next| next.start - 1).chain([self.start + written.len()]);
            let mut texts: Vec<(&Cow<'_, str>, Range<usize>)> =
                self.members.iter().zip(ends).map(|(member, end)| (&member.name, member.start - self.start..end - self.start)).collect();
            texts.sort_by(|(one, _), (other, _)| compare(one, other));
            for (nth, (_, text)) in texts.into_iter().enumerate() {
                output.push(if nth == 0 { '{' } else { ',' });
                output.push_str(written.get(text).unwrap_or_default());
            }
        }
        output.push('}');
    }
}

/// By UTF-16 code units. That is the order of UTF-8 bytes but for letters beyond U+FFFF, whose surrogates come before U+E000.
fn compare(one: &str, other: &str) -> Ordering {
    let bytes = one.as_bytes().iter().zip(other.as_bytes());
    let same = bytes.take_while(|(one, other)| one == other).count();
    let [from_one, from_other] = [one, other].map(|text| text.get(text.floor_char_boundary(same)..).unwrap_or_default());
    from_one.encode_utf16().cmp(from_other.encode_utf16())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_are_compared_by_their_utf16_code_units(one in "[a-c\\x{E000}\\x{FFFD}\\x{10000}\\x{10FFFF}é]{0,4}", other in "[a-c\\x{E000}\\x{FFFD}\\x{10000}\\x{10FFFF}é]{0,4}") {
            prop_assert_eq!(compare(&one, &other), one.encode_utf16().cmp(other.encode_utf16()));
        }
    }
}
