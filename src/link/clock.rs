//! What a server says of its clock.

use jiff::Timestamp;

/// Reads the answer of `TIME`, to the millisecond: seconds, and microseconds beyond them. None if it is no time.
pub(crate) fn time(answer: &[Option<Vec<u8>>]) -> Option<Timestamp> {
    let number = |part: &Option<Vec<u8>>| -> Option<i64> {
        std::str::from_utf8(part.as_ref()?).ok()?.parse().ok()
    };
    let [seconds, micros] = answer else {
        return None;
    };
    let millis = number(seconds)?
        .checked_mul(1000)?
        .checked_add(number(micros)? / 1000)?;
    Timestamp::from_millisecond(millis).ok()
}
