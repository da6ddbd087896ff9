//! Reads a JSON text once, from its first byte to its last. The text is known to be JSON (RFC 8259): what is looked for is what
//! readers may take in different ways.

use std::borrow::Cow;

use super::object::Object;
use super::{Ambiguity, Unclear, number, pointer};

/// Levels of arrays and objects, as many as `serde_json` reads.
const MAX_DEPTH: usize = 127;

/// After so many values, some 0.1 ms of work, threads that have become ready go first: a long text takes milliseconds, and the system
/// would let them wait for the end of a time slice.
const YIELD_EVERY: usize = 1_000;

/// A JSON text and how far it is read.
pub(super) struct Reader<'j> {
    text: &'j str,
    /// The offset of the next byte.
    at: usize,
    /// The members and items that lead to the value that is being read.
    path: Vec<Step<'j>>,
    /// How many values were begun.
    values: usize,
    /// A string in canonical form, before it is appended to the output.
    escaped: Vec<u8>,
}

enum Step<'j> {
    /// A member, by its name as it is spelled, with its quotes.
    Member(&'j str),
    Item(usize),
    /// A member that its object has twice, by its name.
    Duplicate(Cow<'j, str>),
}

impl<'j> Reader<'j> {
    /// `json`: a whole and valid JSON text.
    pub(super) fn new(json: &'j str) -> Self {
        Self { text: json, at: 0, path: Vec::new(), values: 0, escaped: Vec::new() }
    }

    /// The whole text in canonical form, or its first ambiguity.
    pub(super) fn canonical(mut self) -> Result<String, Unclear> {
        let mut output = String::with_capacity(self.text.len());
        self.value(&mut output).map_err(|why| {
            let names = self.path.iter().map(|step| match step {
                Step::Member(token) => Cow::Owned(decode(token).map_or_else(|_| (*token).to_owned(), Cow::into_owned)),
                Step::Item(index) => Cow::Owned(index.to_string()),
                Step::Duplicate(name) => Cow::Borrowed(&**name),
            });
            let names: Vec<Cow<'_, str>> = names.collect();
            Unclear::At { pointer: pointer(names.iter().map(|name| &**name)), why }
        })?;
        Ok(output)
    }

    /// The members of an object, each with the text of its value; `None` where the text is none.
    pub(super) fn members(mut self) -> Option<Vec<(Cow<'j, str>, &'j str)>> {
        let mut members = Vec::new();
        if self.peek() != Some(b'{') {
            return None;
        }
        self.at += 1;
        while self.peek() == Some(b'"') {
            let name = decode(self.string()).ok()?;
            self.skip(b':');
            members.push((name, self.skip_value()));
            self.skip(b',');
        }
        Some(members)
    }

    /// The text of the value that a path of member names and indices leads to. An error says how many steps of the path lead to
    /// the ambiguity.
    pub(super) fn find(mut self, path: &[String]) -> Result<Option<&'j str>, (usize, Ambiguity)> {
        for (depth, name) in path.iter().enumerate() {
            let found = match self.peek() {
                Some(b'{') => self.member(name).map_err(|why| (depth + 1, why))?,
                Some(b'[') => index(name).and_then(|index| self.item(index)),
                _ => None,
            };
            let Some(start) = found else { return Ok(None) };
            self.at = start;
        }
        Ok(Some(self.skip_value()))
    }

    fn value(&mut self, output: &mut String) -> Result<(), Ambiguity> {
        self.values += 1;
        if self.values.is_multiple_of(YIELD_EVERY) {
            std::thread::yield_now();
        }
        if self.path.len() > MAX_DEPTH {
            self.path.truncate(1);
            return Err(Ambiguity::Unreadable);
        }
        match self.peek() {
            Some(b'{') => return self.object(output),
            Some(b'[') => return self.array(output),
            Some(b'"') => {
                let token = self.string();
                self.write_string(token, &decode(token)?, output)?;
            }
            Some(b't' | b'f' | b'n') => output.push_str(self.word()),
            _ => number::write(self.word(), output).ok_or(Ambiguity::InexactNumber)?,
        }
        Ok(())
    }

    fn object(&mut self, output: &mut String) -> Result<(), Ambiguity> {
        self.at += 1;
        let mut object = Object::begin(output);
        while self.peek() == Some(b'"') {
            let token = self.string();
            let name = decode(token)?;
            self.path.push(Step::Member(token));
            object.member(name, output);
            self.write_string(token, object.name(), output)?;
            output.push(':');
            self.skip(b':');
            self.value(output)?;
            object.end_member(output);
            self.path.pop();
            self.skip(b',');
        }
        self.skip(b'}');
        object.end(output).map_err(|twice| {
            self.path.push(Step::Duplicate(twice));
            Ambiguity::DuplicateMember
        })
    }

    fn array(&mut self, output: &mut String) -> Result<(), Ambiguity> {
        self.at += 1;
        output.push('[');
        let mut index = 0;
        while self.peek().is_some_and(|byte| byte != b']') {
            if index > 0 {
                output.push(',');
            }
            self.path.push(Step::Item(index));
            self.value(output)?;
            self.path.pop();
            self.skip(b',');
            index += 1;
        }
        self.skip(b']');
        output.push(']');
        Ok(())
    }

    /// Writes a string in canonical form: as it is spelled, unless something in it is escaped, which makes it longer than its text.
    fn write_string(&mut self, token: &str, text: &str, output: &mut String) -> Result<(), Ambiguity> {
        if token.len() == text.len() + 2 {
            output.push_str(token);
            return Ok(());
        }
        // RFC 8785 section 3.2.2.2 escapes as `serde_json` does: what must be, and as shortly as can be.
        self.escaped.clear();
        serde_json::to_writer(&mut self.escaped, text).map_err(|_| Ambiguity::Unreadable)?;
        output.push_str(std::str::from_utf8(&self.escaped).map_err(|_| Ambiguity::Unreadable)?);
        Ok(())
    }

    /// Where the value of an object's member begins. The whole object is read: the member may be there twice.
    fn member(&mut self, wanted: &str) -> Result<Option<usize>, Ambiguity> {
        let mut found = None;
        self.at += 1;
        while self.peek() == Some(b'"') {
            let is_wanted = decode(self.string())? == wanted;
            self.skip(b':');
            self.peek();
            if is_wanted && found.replace(self.at).is_some() {
                return Err(Ambiguity::DuplicateMember);
            }
            self.skip_value();
            self.skip(b',');
        }
        Ok(found)
    }

    /// Where an array's item begins.
    fn item(&mut self, wanted: usize) -> Option<usize> {
        self.at += 1;
        for index in 0.. {
            match self.peek() {
                None | Some(b']') => break,
                Some(_) if index == wanted => return Some(self.at),
                Some(_) => self.skip_value(),
            };
            self.skip(b',');
        }
        None
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let blanks = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))?;
        self.at += blanks;
        rest.get(blanks).copied()
    }

    /// Passes by a sign, where it is the next one.
    fn skip(&mut self, sign: u8) {
        if self.peek() == Some(sign) {
            self.at += 1;
        }
    }

    /// Passes by a whole value, and gives its text.
    fn skip_value(&mut self) -> &'j str {
        self.peek();
        let (start, mut open) = (self.at, 0_usize);
        loop {
            match self.peek() {
                Some(b'{' | b'[') => {
                    open += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') => {
                    open = open.saturating_sub(1);
                    self.at += 1;
                }
                Some(b',' | b':') => self.at += 1,
                Some(b'"') => drop(self.string()),
                Some(_) => drop(self.word()),
                None => break,
            }
            if open == 0 {
                break;
            }
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// A string as it is spelled, with its quotes.
    fn string(&mut self) -> &'j str {
        let start = self.at;
        let mut is_escaped = false;
        self.at += 1;
        while let Some(byte) = self.text.as_bytes().get(self.at) {
            self.at += 1;
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => break,
                _ => {}
            }
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// A number or a literal.
    fn word(&mut self) -> &'j str {
        let start = self.at;
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let is_end = |byte: &u8| matches!(byte, b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
        self.at += rest.iter().position(is_end).unwrap_or(rest.len());
        self.text.get(start..self.at).unwrap_or_default()
    }
}

/// The text that a string spells; an error where it is not Unicode.
fn decode(token: &str) -> Result<Cow<'_, str>, Ambiguity> {
    let text = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    if text.contains('\\') {
        serde_json::from_str(token).map(Cow::Owned).map_err(|_| Ambiguity::Unreadable)
    } else {
        Ok(Cow::Borrowed(text))
    }
}

/// An index as RFC 6901 section 4 spells it: without a sign, and without zeros before it.
fn index(name: &str) -> Option<usize> {
    let plain = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    name.parse().ok().filter(|_| plain)
}
