//! The times of a payload.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::auth::jwt::Refusal;

/// The last second of the year 9999. Beyond it is most often a time in milliseconds.
pub(in crate::auth) const MAX_TIME: i64 = 253_402_300_799;

/// A NumericDate (RFC 7519 §2) in whole seconds, fractions cut. What is there has to be a number, which `null` is not.
pub(super) fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = match (value.as_i64(), value.as_f64()) {
        (Some(seconds), _) => seconds,
        // The cast saturates, and what it saturates to is out of range.
        (None, Some(seconds)) => seconds.floor() as i64,
        (None, None) => return Err(Refusal::invalid("a time in it is not a number")),
    };
    if (-MAX_TIME..=MAX_TIME).contains(&seconds) {
        Ok(Some(seconds))
    } else {
        Err(Refusal::invalid("a time in it is out of range"))
    }
}

/// `iat` in milliseconds, as far as it has them: what was issued right after a revocation is told from what was issued
/// right before it. [`time`] has found it in range.
pub(super) fn issued_at(claims: &Map<String, Value>) -> Option<Timestamp> {
    let iat = claims.get("iat")?;
    if let Some(seconds) = iat.as_i64() {
        return Some(timestamp(seconds));
    }
    // Rounded, since most decimal fractions are none in binary: 0.29 s is 0.28999….
    let millis = (iat.as_f64()? * 1000.0).round();
    Timestamp::from_millisecond(millis as i64).ok()
}

pub(super) fn millis(seconds: i64) -> i128 {
    i128::from(seconds) * 1000
}

/// In range already, but for a few hours at either end of what `jiff` can hold.
pub(super) fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}
