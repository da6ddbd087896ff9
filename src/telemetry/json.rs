//! A log line as JSON: `timestamp`, `level`, `message` and what else the event says, and under `span` what its span says.
//!
//! `tracing-subscriber` has such a format too, which goes by way of `serde`'s maps. With a line a request, that showed in profiles.

use std::fmt;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

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
        write!(writer, r#"{{"timestamp":"{now}","level":"{}""#, metadata.level())?;
        let mut object = Object { writer: &mut writer, empty: false, result: Ok(()) };
        event.record(&mut object);
        object.result?;
        if let Some(span) = context.parent_span() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.fields.as_str());
            let comma = if fields.is_empty() { "" } else { "," };
            write!(writer, r#","span":{{{fields}{comma}"name":"{}"}}"#, span.name())?;
        }
        writer.write_str("}\n")
    }
}

impl<'w> FormatFields<'w> for Members {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut object = Object { writer: &mut writer, empty: true, result: Ok(()) };
        fields.record(&mut object);
        object.result
    }
}

/// Writes members of an object.
struct Object<'a, 'w> {
    writer: &'a mut Writer<'w>,
    empty: bool,
    result: fmt::Result,
}

impl Object<'_, '_> {
    fn member(&mut self, field: &Field, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_err() {
            return;
        }
        let before = if std::mem::take(&mut self.empty) { "\"" } else { ",\"" };
        let name = [before, field.name(), "\":"].into_iter().try_for_each(|part| self.writer.write_str(part));
        self.result = name.and_then(|()| write(self.writer));
    }

    fn text(&mut self, field: &Field, text: &str) {
        let plain = text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
        self.member(field, |writer| {
            if plain {
                ["\"", text, "\""].into_iter().try_for_each(|part| writer.write_str(part))
            } else {
                writer.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
            }
        });
    }
}

impl Visit for Object<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        self.member(field, |writer| if value.is_finite() { write!(writer, "{value}") } else { writer.write_str("null") });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
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
