//! `traceparent`, as W3C Trace Context has it: which trace a request is part of, and which of its spans asks.

use http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The header.
pub(super) const HEADER: HeaderName = HeaderName::from_static("traceparent");

/// The length of the part that every version has.
const LENGTH: usize = 55;

/// The span that a request names; none if it names none, or several, or in a form that is none.
pub(super) fn of_headers(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(HEADER).iter();
    let value = values.next()?.to_str().ok()?;
    match values.next() {
        None => read(value),
        Some(_) => None,
    }
}

/// The span that a text names, with whether it is sampled; none if it is no `traceparent`.
pub(super) fn read(text: &str) -> Option<SpanContext> {
    let (fixed, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = fixed.split('-');
    let mut part = |length: usize| {
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        parts
            .next()
            .filter(|part| part.len() == length && part.bytes().all(is_hex))
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // Later versions may have more behind a dash.
    match version {
        "ff" => return None,
        "00" if !rest.is_empty() => return None,
        _ if !rest.is_empty() && !rest.starts_with('-') => return None,
        _ => {}
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

/// The text that names a span.
pub(super) fn written(context: &SpanContext) -> String {
    let (trace, span) = (context.trace_id(), context.span_id());
    format!("00-{trace}-{span}-{:02x}", context.trace_flags().to_u8())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in [SAMPLED, &SAMPLED.replace("-01", "-00")] {
            let context = read(text).unwrap();
            assert_eq!(written(&context), text);
            assert_eq!(context.is_sampled(), text == SAMPLED);
        }
        let later = format!("cc{}-more", &SAMPLED[2..]);
        assert_eq!(written(&read(&later).unwrap()), SAMPLED);
        let other_flags = SAMPLED.replace("-01", "-09");
        assert_eq!(written(&read(&other_flags).unwrap()), SAMPLED);
    }

    #[test]
    fn what_is_none_names_no_span() {
        let changed = |at: usize, with: &str| {
            let mut text = SAMPLED.to_owned();
            text.replace_range(at..at + with.len(), with);
            text
        };
        for text in [
            "",
            "00",
            "00-1-2-01",
            &SAMPLED[1..],
            &SAMPLED[..54],
            &format!("{SAMPLED}-more"),
            &format!("{SAMPLED} "),
            &format!("cc{}more", &SAMPLED[2..]),
            &changed(0, "ff"),
            &changed(0, "0g"),
            &changed(2, "_"),
            &changed(3, "+"),
            &changed(3, "A"),
            &changed(3, "00000000000000000000000000000000"),
            &changed(36, "0000000000000000"),
            &format!("{}é", &SAMPLED[..54]),
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn of_several_headers_none_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(of_headers(&headers), None);
        headers.append(HEADER, SAMPLED.parse().unwrap());
        assert_eq!(of_headers(&headers), read(SAMPLED));
        headers.append(HEADER, SAMPLED.parse().unwrap());
        assert_eq!(of_headers(&headers), None);
    }
}
