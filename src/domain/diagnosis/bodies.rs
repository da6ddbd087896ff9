//! What is usually done to a body between signing and sending. Nothing here grows with more than the body's length.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use percent_encoding::percent_decode_str;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use crate::domain::Reason;
use crate::domain::canonical::canonical;

/// What the sender may have signed, with the reason that each would be.
pub(super) fn changes(body: &[u8]) -> Vec<(Reason, Vec<u8>)> {
    let mut changes = vec![(Reason::EmptyBody, Vec::new())];
    changes.extend(line_ends(body));
    changes.extend(spellings(body));
    changes.extend(charsets(body));
    changes.extend(forms(body).into_iter().map(|form| (Reason::FormEncoded, form)));
    changes.retain(|(_, changed)| changed != body);
    changes
}

fn line_ends(body: &[u8]) -> Vec<(Reason, Vec<u8>)> {
    let without = |end: &[u8]| body.strip_suffix(end).map(|rest| (Reason::TrailingNewline, rest.to_vec()));
    let with = |end: &[u8]| Some((Reason::NewlineLost, [body, end].concat()));
    let unix: Vec<_> = body.iter().copied().filter(|byte| *byte != b'\r').collect();
    let windows = unix.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]);
    let all =
        [without(b"\n"), without(b"\r\n"), with(b"\n"), with(b"\r\n"), Some((Reason::LineEnds, unix)), Some((Reason::LineEnds, windows))];
    all.into_iter().flatten().collect()
}

/// The same JSON, spelled otherwise.
fn spellings(body: &[u8]) -> Vec<(Reason, Vec<u8>)> {
    let spelled = [
        (Reason::SignedCompact, spell(body, CompactFormatter)),
        (Reason::SignedIndented, spell(body, PrettyFormatter::with_indent(b"  "))),
        (Reason::SignedIndented, spell(body, PrettyFormatter::with_indent(b"    "))),
        (Reason::SignedIndented, spell(body, PrettyFormatter::with_indent(b"\t"))),
        (Reason::SignedSpaced, spell(body, Plain { blank: b" ", escapes: false })),
        (Reason::SignedEscaped, spell(body, Plain { blank: b" ", escapes: true })),
        (Reason::SignedEscaped, spell(body, Plain { blank: b"", escapes: true })),
        (Reason::SignedSorted, canonical(body).ok().map(String::into_bytes)),
    ];
    spelled.into_iter().filter_map(|(reason, text)| Some((reason, text?))).collect()
}

fn charsets(body: &[u8]) -> Vec<(Reason, Vec<u8>)> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let mark = body.strip_prefix(MARK).map_or_else(|| [MARK, body].concat(), <[u8]>::to_vec);
    let Ok(text) = std::str::from_utf8(body) else {
        let in_utf8: String = body.iter().copied().map(char::from).collect();
        return vec![(Reason::ByteOrderMark, mark), (Reason::Latin1, in_utf8.into_bytes())];
    };
    let in_latin1: Option<Vec<_>> = text.chars().map(|letter| u8::try_from(letter).ok()).collect();
    let in_utf16 = |bytes: fn(u16) -> [u8; 2]| (Reason::Utf16, text.encode_utf16().flat_map(bytes).collect());
    let mut all = vec![(Reason::ByteOrderMark, mark), in_utf16(u16::to_le_bytes), in_utf16(u16::to_be_bytes)];
    all.extend(in_latin1.map(|text| (Reason::Latin1, text)));
    all
}

/// What a form's encoding was made of: a whole body, or the value of its first member.
fn forms(body: &[u8]) -> Vec<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(body) else { return Vec::new() };
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).collect();
    let only_escapes = |text: &str| percent_decode_str(text).collect();
    let name = text.strip_suffix('=');
    let value = text.split_once('=').map(|(_, value)| value);
    let parts = [Some(text), name, value].into_iter().flatten();
    parts.flat_map(|part| [decoded(part), only_escapes(part), part.as_bytes().to_vec()]).collect()
}

/// Spells the JSON of a body in another way, its members in the order in which they are; `None` where it is no JSON, or where the
/// new spelling is very much longer.
fn spell(body: &[u8], formatter: impl Formatter) -> Option<Vec<u8>> {
    let mut output = Bounded { bytes: Vec::new(), most: 4 * body.len() + 1024 };
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_transcode::transcode(&mut json, &mut serde_json::Serializer::with_formatter(&mut output, formatter)).ok()?;
    json.end().ok()?;
    Some(output.bytes)
}

/// Takes no more than so many bytes.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// On one line, as Python's `json.dumps` spells it: with blanks after commas and colons, and letters beyond ASCII escaped.
struct Plain {
    blank: &'static [u8],
    escapes: bool,
}

impl Plain {
    fn separate<W: ?Sized + Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b",").and_then(|()| writer.write_all(self.blank)) }
    }
}

impl Formatter for Plain {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b":")?;
        writer.write_all(self.blank)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        writer.write_all(if self.escapes { Cow::Owned(escaped(fragment)) } else { Cow::Borrowed(fragment) }.as_bytes())
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() {
            escaped.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                // A text takes all that is written to it.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spelling_that_is_very_much_longer_is_not_made() {
        let nested = format!("{}{}{}", "[".repeat(100), vec!["0"; 3000].join(","), "]".repeat(100));
        assert!(spell(nested.as_bytes(), PrettyFormatter::new()).is_none());
        assert!(spell(nested.as_bytes(), CompactFormatter).is_some());
        let longest = changes(nested.as_bytes()).into_iter().map(|(_, changed)| changed.len()).max();
        assert!(longest.is_some_and(|longest| longest <= 4 * nested.len() + 1024), "{longest:?}");
    }
}
