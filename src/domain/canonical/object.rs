//! An object in canonical form: its members sorted by the UTF-16 code units of their names (RFC 8785 section 3.2.3), none twice.

use std::borrow::Cow;
use std::cmp::Ordering;

/// An object whose members are written to an output one after the other, and put into order at its end.
pub(super) struct Object<'j> {
    members: Vec<Member<'j>>,
    /// Where in the output the object begins.
    start: usize,
}

struct Member<'j> {
    name: Cow<'j, str>,
    /// Where in the output the member begins, and ends.
    start: usize,
    end: usize,
}

impl<'j> Object<'j> {
    pub(super) fn begin(output: &mut String) -> Self {
        let start = output.len();
        output.push('{');
        Self { members: Vec::new(), start }
    }

    /// Begins a member. Its name and value are written by the caller.
    pub(super) fn member(&mut self, name: Cow<'j, str>, output: &mut String) {
        if !self.members.is_empty() {
            output.push(',');
        }
        self.members.push(Member { name, start: output.len(), end: output.len() });
    }

    /// The name of the member that was begun last.
    pub(super) fn name(&self) -> &str {
        self.members.last().map_or("", |member| &member.name)
    }

    pub(super) fn end_member(&mut self, output: &str) {
        if let Some(member) = self.members.last_mut() {
            member.end = output.len();
        }
    }

    /// Puts the members into order. An error is a name that is there twice.
    pub(super) fn end(mut self, output: &mut String) -> Result<(), Cow<'j, str>> {
        let ascend = |one: &Member<'_>, next: &Member<'_>| compare(&one.name, &next.name) == Ordering::Less;
        if !self.members.is_sorted_by(ascend) {
            self.members.sort_unstable_by(|one, other| compare(&one.name, &other.name));
            if let Some(twice) = self.members.windows(2).position(|pair| pair[0].name == pair[1].name) {
                return Err(self.members.swap_remove(twice).name);
            }
            let written = output.split_off(self.start);
            for (nth, member) in self.members.iter().enumerate() {
                output.push(if nth == 0 { '{' } else { ',' });
                output.push_str(written.get(member.start - self.start..member.end - self.start).unwrap_or_default());
            }
        }
        output.push('}');
        Ok(())
    }
}

/// By UTF-16 code units. That is the order of UTF-8 bytes, but that the surrogates of letters beyond U+FFFF come before U+E000.
fn compare(one: &str, other: &str) -> Ordering {
    let rank = |byte| match byte {
        // What letters from U+E000 to U+FFFF begin with; those beyond begin with 0xF0 to 0xF4.
        0xEE | 0xEF => byte | 0xF8,
        _ => byte,
    };
    one.bytes().map(rank).cmp(other.bytes().map(rank))
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
