//! Cells of CSV that a spreadsheet shows as text.

use std::borrow::Cow;
use std::fmt::Write;

/// What begins a formula in a spreadsheet (OWASP, "CSV Injection"), the full-width forms included.
const FORMULA_STARTS: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

/// The cell's text: one that a spreadsheet would compute begins with an apostrophe, and characters that hide or reorder text are
/// written as `\u{202e}`. Line feeds and tabs stay, since the quotes of CSV hold them.
pub(super) fn inert(text: &str) -> Cow<'_, str> {
    let is_formula = text.starts_with(['\t', '\r']) || text.trim_start().starts_with(FORMULA_STARTS);
    if !is_formula && !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut cell = String::with_capacity(text.len() + 8);
    if is_formula {
        cell.push('\'');
    }
    for c in text.chars() {
        if is_hidden(c) {
            // Writing to a String cannot fail.
            let _ = write!(cell, "{}", c.escape_unicode());
        } else {
            cell.push(c);
        }
    }
    Cow::Owned(cell)
}

/// Control characters, separators of lines and paragraphs, and bidirectional controls (Unicode UAX #9).
fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_becomes_text() {
        for text in ["=HYPERLINK(\"http://x\")", "+1", "-1", "@SUM(A1)", "\t=1", "\ta", " =1", "\n=1", "＝1", "=", "＠x"] {
            assert_eq!(inert(text), format!("'{text}"));
        }
        assert_eq!(inert("\r=1"), "'\\u{d}=1");
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "a=1", "1-1", "'=1", "a\tb\nc", "Zoë 名前 👩‍👩‍👧", "6f1c0000-0000-4000-8000-000000000001"] {
            assert!(matches!(inert(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn characters_that_hide_or_reorder_text_are_visible() {
        for code in (0x202a..=0x202e).chain(0x2066..=0x2069).chain([0x200e, 0x200f, 0x61c, 0, 0x1b, 0x7f, 0x85, 0x2028]) {
            let c = char::from_u32(code).unwrap_or_default();
            assert_eq!(inert(&format!("a{c}b")), format!("a\\u{{{code:x}}}b"));
        }
        assert_eq!(inert("\u{202e}=1"), "\\u{202e}=1", "what is visible begins no formula");
    }
}
