//! CSV with a header.

use std::collections::HashSet;

use anyhow::{Context, bail};
use csv::{ByteRecord, Reader, ReaderBuilder, StringRecord, Terminator};

use super::Line;
use super::columns::{Columns, Role, TARGETS, Target};
use super::fields::{Attributes, Fields};
use super::source::Source;

/// Read at once.
const CHUNK: usize = 256 << 10;

/// A table of Postgres has at most 1600 columns: a wider header is read with the wrong delimiter.
const MAX_COLUMNS: usize = 2000;

/// The lines below a header.
pub(super) struct CsvLines {
    reader: Reader<Source>,
    record: StringRecord,
    width: usize,
    places: [Option<usize>; TARGETS.len()],
    left_over: Vec<(usize, String)>,
    attributes: Attributes,
    attributes_column: String,
}

impl CsvLines {
    pub(super) fn new(source: Source, delimiter: u8, columns: &Columns, tenant_given: bool) -> anyhow::Result<Self> {
        // With `CRLF` as terminator the reader stops before the line feed, and its line numbers are wrong.
        let terminator = Terminator::Any(b'\n');
        let mut builder = ReaderBuilder::new();
        builder.delimiter(delimiter).flexible(true).terminator(terminator).buffer_capacity(CHUNK);
        let mut reader = builder.from_reader(source);
        let header = reader.headers().context("read the header")?;
        let header: Vec<_> = (0..header.len()).filter_map(|place| cell(header, place)).map(str::to_owned).collect();
        if header.is_empty() {
            bail!("the file is empty: a header is needed");
        }
        if header.len() > MAX_COLUMNS {
            bail!("the header has {} columns: at most {MAX_COLUMNS} are taken; see --delimiter", header.len());
        }
        let (mut places, mut left_over, mut names) = ([None; TARGETS.len()], Vec::new(), HashSet::with_capacity(header.len()));
        for (place, name) in header.iter().enumerate() {
            if !names.insert(name) {
                bail!("the header names `{name}` twice");
            }
            match columns.role(name) {
                Role::Targets(targets) => targets.into_iter().for_each(|target| places[target as usize] = Some(place)),
                Role::Attribute if name.contains('\0') => bail!("a column's name holds a NUL character"),
                Role::Attribute => left_over.push((place, name.clone())),
                Role::Ignored => {}
            }
        }
        for target in [Target::TenantId, Target::Id, Target::Name, Target::Status] {
            let needed = target != Target::TenantId || !tenant_given;
            if needed && places[target as usize].is_none() {
                let hint = if target == Target::TenantId { "--tenant or " } else { "" };
                bail!("the header has no column `{}`: see {hint}--map {}=COLUMN, and --delimiter", columns.source(target), target.name());
            }
        }
        let attributes_column = columns.source(Target::Attributes).to_owned();
        let (record, attributes) = (StringRecord::new(), Attributes::default());
        Ok(Self { reader, record, width: header.len(), places, left_over, attributes, attributes_column })
    }

    /// The next line that is not empty.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Line<'_>>> {
        let mut record = std::mem::take(&mut self.record).into_byte_record();
        loop {
            self.reader.get_mut().begin_line();
            let read = self.reader.read_byte_record(&mut record);
            if !read.with_context(|| format!("read on from line {}", self.reader.position().line()))? {
                return Ok(None);
            }
            if record.as_slice() != b"\r" {
                break;
            }
        }
        let number = self.line_of(&record);
        match StringRecord::from_byte_record(record) {
            Ok(record) => {
                self.record = record;
                Ok(Some(Line { number, fields: self.fields() }))
            }
            Err(_) => Ok(Some(Line { number, fields: Err("it is not UTF-8".to_owned()) })),
        }
    }

    /// Where the record begins that was just read. Not where the reader began to look for it: that may have been at an empty line.
    fn line_of(&self, record: &ByteRecord) -> u64 {
        let reached = self.reader.position();
        let breaks_off = self.reader.get_ref().breaks_off_at(reached.byte());
        let within = record.as_slice().split(|byte| *byte == b'\n').count() as u64 - 1;
        reached.line() - within - u64::from(!breaks_off)
    }

    fn fields(&mut self) -> Result<Fields<'_>, String> {
        let record = &self.record;
        if record.len() != self.width {
            return Err(format!("it has {} fields, the header has {}", record.len(), self.width));
        }
        let text = |target: Target| self.places[target as usize].and_then(|place| cell(record, place));
        let left_over = self.left_over.iter().filter_map(|(place, name)| Some((name.as_str(), cell(record, *place)?)));
        let left_over = left_over.filter(|(_, value)| !value.is_empty());
        if let Some((name, _)) = left_over.clone().find(|(_, value)| value.contains('\0')) {
            return Err(format!("`{name}` holds a NUL character"));
        }
        let attributes = self.attributes.join(&self.attributes_column, text(Target::Attributes), left_over)?;
        let texts =
            [Target::TenantId, Target::Id, Target::Name, Target::Status, Target::UpdatedAt].map(|target| text(target).map(Into::into));
        Ok(Fields { texts, attributes: attributes.into() })
    }
}

/// One cell, without the carriage return that may stand at the end of its line.
fn cell(record: &StringRecord, place: usize) -> Option<&str> {
    let text = record.get(place)?;
    let last = place + 1 == record.len();
    Some(text.strip_suffix('\r').filter(|_| last).unwrap_or(text))
}
