//! How a line is written. Nothing in it that came from outside ends the line, looks like another field, or makes it long:
//! values are escaped and cut here, so that no call has to think of it.

use std::fmt::{self, Debug, Write as _};

use serde::ser::{SerializeMap, Serializer};
use serde_json::ser::CompactFormatter;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// How many characters of a field are kept.
const FIELD: usize = 256;
/// How many characters of the message and of an error are kept. They are ours, or a library's: what is wrong with a configuration
/// takes more than a line.
const SENTENCES: usize = 2048;

/// How many characters of a field are kept, by its name.
fn room(name: &str) -> usize {
    match name {
        "message" | "error" => SENTENCES,
        _ => FIELD,
    }
}

/// Formats a value, and stops where it gets too long: what is left out is never written.
fn cut(value: fmt::Arguments<'_>, room: usize) -> String {
    let mut cut = Cut {
        text: String::new(),
        room,
    };
    if cut.write_fmt(value).is_err() {
        cut.text.pop();
        cut.text.push('…');
    }
    cut.text
}

struct Cut {
    text: String,
    room: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            self.room = self.room.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(c);
        }
        Ok(())
    }
}

/// Whether a character could end a line, command a terminal, or turn the direction of what follows.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Fields as text: `name=value`, the value in quotes unless it is a plain word.
pub(super) struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut text = Text {
            writer,
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut text);
        text.result
    }
}

struct Text<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl Text<'_> {
    fn write(&mut self, name: &str, value: &str, quoted: bool) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            for c in value.chars() {
                if is_control(c) {
                    write!(self.writer, "{}", c.escape_default())?;
                } else {
                    self.writer.write_char(c)?;
                }
            }
            return Ok(());
        }
        if self.writer.has_ansi_escapes() {
            write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
        } else {
            write!(self.writer, "{name}=")?;
        }
        let is_odd = |c: char| c.is_whitespace() || is_control(c) || matches!(c, '"' | '=' | '\\');
        if quoted || value.is_empty() || value.contains(is_odd) {
            self.writer.write_char('"')?;
            for c in value.chars() {
                match c {
                    '"' | '\\' => write!(self.writer, "\\{c}")?,
                    c if is_control(c) => write!(self.writer, "{}", c.escape_default())?,
                    c => self.writer.write_char(c)?,
                }
            }
            return self.writer.write_char('"');
        }
        self.writer.write_str(value)
    }

    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>, quoted: bool) {
        let name = field.name();
        // What the `log` crate's records carry of where they come from.
        if self.result.is_ok() && !name.starts_with("log.") {
            self.result = self.write(name, &cut(value, room(name)), quoted);
        }
    }
}

impl Visit for Text<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, format_args!("{value}"), true);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, format_args!("{value:?}"), false);
    }
}

/// An event as one JSON object: `timestamp`, `level`, its fields, `target`.
pub(super) struct JsonEvent;

impl<S, N> FormatEvent<S, N> for JsonEvent
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut now = String::new();
        SystemTime.format_time(&mut Writer::new(&mut now))?;
        let meta = event.metadata();
        let mut line = Vec::new();
        let write = |line: &mut Vec<u8>| {
            let mut to = serde_json::Serializer::new(line);
            let mut json = Json {
                map: to.serialize_map(None)?,
                result: Ok(()),
            };
            json.map.serialize_entry("timestamp", &now)?;
            json.map.serialize_entry("level", meta.level().as_str())?;
            event.record(&mut json);
            json.result?;
            json.map.serialize_entry("target", meta.target())?;
            json.map.end()
        };
        write(&mut line).map_err(|_: serde_json::Error| fmt::Error)?;
        writeln!(
            writer,
            "{}",
            String::from_utf8(line).map_err(|_| fmt::Error)?
        )
    }
}

struct Json<'a> {
    map: serde_json::ser::Compound<'a, &'a mut Vec<u8>, CompactFormatter>,
    result: serde_json::Result<()>,
}

impl Json<'_> {
    fn entry(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        if self.result.is_ok() {
            self.result = self.map.serialize_entry(field.name(), value);
        }
    }
}

impl Visit for Json<'_> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.entry(field, &cut(format_args!("{value}"), room(field.name())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.entry(field, &cut(format_args!("{value:?}"), room(field.name())));
    }
}
