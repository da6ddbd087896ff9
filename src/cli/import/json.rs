//! JSON Lines: an object a line.

use std::io::{BufRead, BufReader};

use anyhow::Context;
use serde_json::value::RawValue;

use super::Line;
use super::columns::{Columns, Role, TARGETS, Target};
use super::fields::{Attributes, Fields, Members, described, storable};
use super::source::Source;

/// Read at once.
const CHUNK: usize = 256 << 10;

/// The lines of a file.
pub(super) struct JsonLines {
    reader: BufReader<Source>,
    columns: Columns,
    line: Vec<u8>,
    number: u64,
    attributes: Attributes,
}

impl JsonLines {
    pub(super) fn new(source: Source, columns: Columns) -> Self {
        let reader = BufReader::with_capacity(CHUNK, source);
        Self { reader, columns, line: Vec::new(), number: 0, attributes: Attributes::default() }
    }

    /// The next line that is not empty.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Line<'_>>> {
        loop {
            self.line.clear();
            self.reader.get_mut().begin_line();
            self.number += 1;
            let read = self.reader.read_until(b'\n', &mut self.line).with_context(|| format!("read line {}", self.number))?;
            if read == 0 {
                return Ok(None);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(Line { number: self.number, fields: self.fields() }));
            }
        }
    }

    fn fields(&mut self) -> Result<Fields<'_>, String> {
        let line = std::str::from_utf8(&self.line).map_err(|_| "it is not UTF-8")?;
        let Members(members) = serde_json::from_str(line).map_err(|e| format!("it is not one JSON object: {}", described(&e)))?;
        let mut texts = [const { None }; TARGETS.len() - 1];
        let (mut given, mut left_over) = (None, Vec::new());
        for (name, value) in &members {
            match self.columns.role(name) {
                Role::Targets(targets) => {
                    for target in targets.into_iter().filter(|_| value.get() != "null") {
                        match target {
                            Target::Attributes => given = Some(value.get()),
                            text => texts[text as usize] = Some(string(name, value)?.into()),
                        }
                    }
                }
                Role::Ignored => {}
                Role::Attribute if name.contains('\0') => return Err("a member's name holds a NUL character".to_owned()),
                Role::Attribute => {
                    storable(value.get()).map_err(|e| format!("`{name}`: {e}"))?;
                    left_over.push((name.as_str(), *value));
                }
            }
        }
        let attributes = self.attributes.join(self.columns.source(Target::Attributes), given, left_over.into_iter())?;
        Ok(Fields { texts, attributes: attributes.into() })
    }
}

fn string(name: &str, value: &RawValue) -> Result<String, String> {
    serde_json::from_str(value.get()).map_err(|_| format!("`{name}` is no text"))
}
