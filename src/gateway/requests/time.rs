//! Times in bodies, of which the last one that can be written counts as "for ever".

use jiff::{Timestamp, fmt::temporal::Pieces};
use serde::{Deserialize, Deserializer, Serializer, de};

/// What backends write for "for ever": the last second of RFC 3339.
const FOR_EVER: &str = "9999-12-31T23:59:59Z";

/// What stands for it, and for all that is later than itself: 9999-12-30T22:00:00Z, the last time that [`Timestamp`] reads
/// from milliseconds, which is what the registry keeps.
const LAST: Timestamp = Timestamp::constant(253_402_207_200, 0);

/// For optional times.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| read(&text).map_err(de::Error::custom))
        .transpose()
}

fn read(text: &str) -> Result<Timestamp, jiff::Error> {
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(time.min(LAST)),
        Err(_) if is_later_than_all(text) => Ok(LAST),
        Err(error) => Err(error),
    }
}

/// Whether it is a time that is right in itself.
fn is_later_than_all(text: &str) -> bool {
    let Ok(pieces) = Pieces::parse(text) else {
        return false;
    };
    match (pieces.time(), pieces.to_numeric_offset()) {
        (Some(time), Some(offset)) => {
            let time = pieces.date().to_datetime(time);
            time.year() == 9999 && offset.to_timestamp(time).is_err()
        }
        _ => false,
    }
}

/// Shows a time as [`optional`] takes it.
pub fn show<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    if *time == LAST {
        serializer.serialize_str(FOR_EVER)
    } else {
        serializer.collect_str(time)
    }
}

/// Shows an optional time as [`optional`] takes it; `None` as null.
pub fn show_optional<S: Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => show(time, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn shown(time: Timestamp) -> String {
        let mut text = Vec::new();
        show(&time, &mut serde_json::Serializer::new(&mut text)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn what_is_later_than_the_last_time_is_for_ever() {
        for (text, told) in [
            ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
            ("2030-01-01T02:00:00.25+02:00", "2030-01-01T00:00:00.25Z"),
            ("9999-12-30T21:59:59.999Z", "9999-12-30T21:59:59.999Z"),
            ("9999-12-30T22:00:00.5Z", FOR_EVER),
            ("9999-12-30T22:00:01Z", FOR_EVER),
            ("9999-12-31T23:59:59.999999999Z", FOR_EVER),
            ("9999-12-31T23:59:59-23:00", FOR_EVER),
            ("9999-12-31T23:59:60Z", FOR_EVER),
        ] {
            assert_eq!(shown(read(text).unwrap()), told, "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "9999-12-31",
            "9999-12-31T23:59:59",
            "9999-12-32T00:00:00Z",
            "9999-12-31T24:00:01Z",
            "10000-01-01T00:00:00Z",
            "-009999-01-01T00:00:00Z",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn it_is_still_for_ever_after_the_registry_has_kept_it() {
        let kept = read(FOR_EVER).unwrap().as_millisecond();
        let kept = Timestamp::from_millisecond(kept).unwrap();
        assert_eq!(shown(kept), FOR_EVER);
    }
}
