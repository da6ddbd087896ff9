//! What a line says of a customer, and whether the service and its tables would take it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::columns::{Columns, TARGETS, Target};
use crate::adapters::postgres::load::Row;
use crate::domain::{CustomerId, TenantId};

/// What a line says, as it says it.
pub(super) struct Fields<'a> {
    /// By target; `None` or an empty one: it says nothing. `attributes` is not among them.
    pub(super) texts: [Option<Cow<'a, str>>; TARGETS.len() - 1],
    /// The text of a JSON object.
    pub(super) attributes: Cow<'a, str>,
}

impl Fields<'_> {
    /// The row, where every field is as it must be; else what is wrong, without quoting it.
    pub(super) fn row(&self, line: u64, all_of: Option<TenantId>, columns: &Columns) -> Result<Row<'_>, String> {
        let source = |target| columns.source(target);
        let said = |target: Target| self.texts[target as usize].as_deref().filter(|text| !text.is_empty());
        let text = |target: Target| {
            let text = said(target).ok_or_else(|| format!("`{}` is missing or empty", source(target)))?;
            if text.contains('\0') { Err(format!("`{}` holds a NUL character", source(target))) } else { Ok(text) }
        };
        let tenant = match (said(Target::TenantId), all_of) {
            (None, Some(tenant)) => tenant,
            (_, all_of) => {
                let tenant: TenantId = text(Target::TenantId)?.parse().map_err(|e| format!("`{}`: {e}", source(Target::TenantId)))?;
                if all_of.is_some_and(|only| only != tenant) {
                    return Err(format!("`{}` is another tenant than that of --tenant", source(Target::TenantId)));
                }
                tenant
            }
        };
        let id = CustomerId::parse(text(Target::Id)?).ok_or_else(|| format!("`{}` is no UUID, or the nil one", source(Target::Id)))?;
        let updated_at =
            match said(Target::UpdatedAt) {
                None => None,
                Some(text) => Some(time(text).ok_or_else(|| {
                    format!("`{}` is no time with an offset (RFC 3339) from the years 1 to 9999", source(Target::UpdatedAt))
                })?),
            };
        Ok(Row { line, tenant, id, name: text(Target::Name)?, status: text(Target::Status)?, attributes: &self.attributes, updated_at })
    }
}

/// RFC 3339, or as Postgres shows it; within the table's bounds.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z")).ok()?.to_utc();
    let (first, end) = (DateTime::from_timestamp(-62_135_596_800, 0)?, DateTime::from_timestamp(253_402_214_400, 0)?);
    (first..end).contains(&time).then_some(time)
}

/// The members of a JSON object; none twice.
pub(super) struct Members<'a>(pub(super) BTreeMap<String, &'a RawValue>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if members.insert(name, value).is_some() {
                        return Err(de::Error::custom("a member is there twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// JSON that jsonb takes, and every reader after it: no NUL, no half of a surrogate pair, no number past a double's range, not too deep.
struct Storable;

impl<'de> Deserialize<'de> for Storable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Storable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self, E> {
        if text.contains('\0') { Err(E::custom("a text holds a NUL character")) } else { Ok(self) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// A JSON object in the making.
#[derive(Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds what is left over to what a column of attributes holds: the text of a JSON object, or nothing.
    pub(super) fn join<'v, T: serde::Serialize + 'v>(
        &mut self,
        column: &str,
        given: Option<&str>,
        left_over: impl Iterator<Item = (&'v str, T)>,
    ) -> Result<&str, String> {
        let given = given.unwrap_or_default().trim_ascii();
        let mut taken = None;
        self.0.clear();
        self.0.push(b'{');
        if !given.is_empty() {
            storable(given).map_err(|e| format!("`{column}`: {e}"))?;
            let inner =
                given.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(|| format!("`{column}` is no JSON object"))?;
            self.0.extend_from_slice(inner.trim_ascii().as_bytes());
        }
        for (name, value) in left_over {
            if taken.is_none() && !given.is_empty() {
                let Members(members) = serde_json::from_str(given).map_err(|e| format!("`{column}`: {}", described(&e)))?;
                taken = Some(members);
            }
            if taken.as_ref().is_some_and(|taken| taken.contains_key(name)) {
                return Err(format!("`{name}` is in `{column}`, and beside it"));
            }
            if self.0.len() > 1 {
                self.0.push(b',');
            }
            let unwritten = |_| format!("`{name}` cannot be written as JSON");
            serde_json::to_writer(&mut self.0, name).map_err(unwritten)?;
            self.0.push(b':');
            serde_json::to_writer(&mut self.0, &value).map_err(unwritten)?;
        }
        self.0.push(b'}');
        std::str::from_utf8(&self.0).map_err(|_| format!("`{column}` is not UTF-8"))
    }
}

/// Whether the service's tables take it.
pub(super) fn storable(json: &str) -> Result<(), String> {
    serde_json::from_str::<Storable>(json).map(drop).map_err(|e| described(&e))
}

/// In words, without the place: that would be one within a cell.
pub(super) fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let words = text.split(" at line ").next().unwrap_or_default();
    words.to_owned()
}
