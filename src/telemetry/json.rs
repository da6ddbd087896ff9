//! A log line as JSON: `timestamp`, `level`, `message` and what else the event says, and under `span` what its span says.
//!
//! `tracing-subscriber` has such a format too, which goes by way of `serde`'s maps. With a line a request, that showed in profiles.

use std::fmt::{self, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Room for the line of a request.
const LINE: usize = 512;

/// One line an event.
pub(super) struct Lines;

/// The fields of a span: the members of an object, without its braces.
pub(super) struct Members;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let now = humantime::format_rfc3339_micros(SystemTime::now());
        let mut line = String::with_capacity(LINE);
        write!(line, r#"{{"timestamp":"{now}","level":"{}""#, metadata.level())?;
        event.record(&mut Object { text: &mut line, empty: false });
        if let Some(span) = context.parent_span() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.fields.as_str());
            let comma = if fields.is_empty() { "" } else { "," };
            write!(line, r#","span":{{{fields}{comma}"name":"{}"}}"#, span.name())?;
        }
        line.push_str("}\n");
        writer.write_str(&line)
    }
}

impl<'w> FormatFields<'w> for Members {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut members = String::new();
        fields.record(&mut Object { text: &mut members, empty: true });
        writer.write_str(&members)
    }
}

/// Writes members of an object: into a text of our own, since each word for a `Writer` is a call that cannot be inlined.
struct Object<'a> {
    text: &'a mut String,
    empty: bool,
}

impl Object<'_> {
    /// A member's name, and the place for its value.
    fn member(&mut self, field: &Field) -> &mut String {
        self.text.push_str(if std::mem::take(&mut self.empty) { "\"" } else { ",\"" });
        self.text.push_str(field.name());
        self.text.push_str("\":");
        self.text
    }

    fn shown(&mut self, field: &Field, value: impl fmt::Display) {
        let _never_fails = write!(self.member(field), "{value}");
    }

    fn text(&mut self, field: &Field, text: &str) {
        let plain = text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
        if plain {
            let place = self.member(field);
            place.push('"');
            place.push_str(text);
            place.push('"');
        } else {
            self.shown(field, serde_json::Value::from(text));
        }
    }
}

impl Visit for Object<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        if value.is_finite() { self.shown(field, value) } else { self.shown(field, "null") }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.shown(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.shown(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.shown(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_json_whatever_it_says() -> anyhow::Result<()> {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt::Subscriber::builder()
            .event_format(Lines)
            .fmt_fields(Members)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("request", request_id = "a\"b").entered();
            let (none, some) = (None::<&str>, Some("there"));
            tracing::warn!(
                text = "line\nbreak \"quoted\" \\ \u{1}",
                none,
                some,
                number = -7,
                float = 0.25,
                much = f64::INFINITY,
                yes = true,
                "said"
            );
            tracing::info!(parent: None, "alone");
        });
        let text = String::from_utf8(kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone())?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        assert_eq!(
            (&lines[0]["message"], &lines[0]["level"], &lines[0]["text"]),
            (&"said".into(), &"WARN".into(), &"line\nbreak \"quoted\" \\ \u{1}".into())
        );
        assert_eq!((&lines[0]["some"], lines[0].get("none"), &lines[0]["number"]), (&"there".into(), None, &(-7).into()));
        assert_eq!((&lines[0]["float"], &lines[0]["much"], &lines[0]["yes"]), (&0.25.into(), &Value::Null, &true.into()));
        assert_eq!((&lines[0]["span"]["request_id"], &lines[0]["span"]["name"]), (&"a\"b".into(), &"request".into()));
        assert_eq!((&lines[1]["message"], lines[1].get("span")), (&"alone".into(), None));
        assert!(humantime::parse_rfc3339(lines[0]["timestamp"].as_str().unwrap_or_default()).is_ok());
        Ok(())
    }
}
