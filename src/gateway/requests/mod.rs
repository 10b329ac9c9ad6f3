//! What backends ask for over HTTP and administrators in `/admin`: the fields, and what is wrong with them.
//!
//! `send` is of events, `rooms` of who is in them, `end` of connections and of what keeps users out; `fields` and `time` read what serde would not.

pub mod end;
pub mod fields;
pub mod rooms;
pub mod send;
pub mod time;

use crate::{
    auth::is_device_id,
    connection::{ConnectionId, UserId},
    registry::MOST_EXCEPTIONS,
};

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 512;

/// How many users a page has when the caller does not say.
const DEFAULT_PAGE: i64 = 100;

/// How many it may have.
const MAX_PAGE: i64 = 1000;

/// Why a request can't be carried out as it is. `Display` names the field, and says what would have been right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Invalid {
    /// What kind of mistake it is.
    pub fault: Fault,
    /// Where, and what would have been right.
    pub detail: String,
}

/// The kinds of mistakes in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both one argument and several, or what stands for binary and is no base64.
    InvalidData,
    /// Data that is larger than a payload may be.
    PayloadTooLarge,
    /// An event's name that is empty or too long.
    InvalidEvent,
    /// An event's name that is Socket.IO's or Switchboard's own.
    ReservedEvent,
    /// A namespace that the configuration does not have.
    UnknownNamespace,
    /// A device's id that is none.
    InvalidTarget,
    /// A user's id that is none.
    InvalidUser,
    /// A room's name that is empty or too long.
    InvalidRoom,
    /// A room's name that is Switchboard's own.
    ReservedRoom,
    /// More items than one request takes.
    TooMany,
    /// A number outside its range.
    OutOfRange,
    /// A text that is too long.
    TooLong,
    /// A code and a wish to reconnect that contradict each other.
    InvalidCode,
    /// A time that would have to be in the future.
    InvalidTime,
}

impl Invalid {
    /// A mistake, with the details of this case.
    pub fn new(fault: Fault, detail: impl Into<String>) -> Self {
        Self {
            fault,
            detail: detail.into(),
        }
    }
}

/// Text as a user's id.
///
/// # Errors
///
/// A text that is empty, longer than 1,024 bytes, `.` or `..`.
pub fn user_id(text: String) -> Result<UserId, Invalid> {
    UserId::checked(text)
        .map_err(|problem| Invalid::new(Fault::InvalidUser, format!("user: {problem}")))
}

/// Text as a device's id.
///
/// # Errors
///
/// A text that is empty or longer than 128 characters.
pub fn device_id(text: String) -> Result<String, Invalid> {
    match is_device_id(&text) {
        true => Ok(text),
        false => Err(Invalid::new(
            Fault::InvalidTarget,
            "device: an id has 1 to 128 characters",
        )),
    }
}

/// The reason that people are given.
fn reason(text: Option<String>) -> Result<Option<String>, Invalid> {
    match text {
        Some(text) if text.chars().nth(MAX_REASON_CHARS).is_some() => Err(Invalid::new(
            Fault::TooLong,
            format!("reason: at most {MAX_REASON_CHARS} characters"),
        )),
        text => Ok(text),
    }
}

/// Connections that are left out.
fn excepted(except: Vec<ConnectionId>) -> Result<Vec<ConnectionId>, Invalid> {
    match except.len() > MOST_EXCEPTIONS {
        true => Err(Invalid::new(
            Fault::TooMany,
            format!("except: at most {MOST_EXCEPTIONS}"),
        )),
        false => Ok(except),
    }
}

/// How many users a page is to have.
///
/// # Errors
///
/// A number that is not from 1 to 1,000.
pub fn page(limit: Option<i64>) -> Result<usize, Invalid> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    usize::try_from(limit)
        .ok()
        .filter(|_| (1..=MAX_PAGE).contains(&limit))
        .ok_or_else(|| Invalid::new(Fault::OutOfRange, format!("limit: 1 to {MAX_PAGE}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_has_bounds() {
        assert!(user_id(String::new()).is_err());
        assert!(user_id("😀".repeat(256)).is_ok());
        assert!(user_id("x".repeat(1025)).is_err());
        assert!(user_id(".".into()).is_err() && user_id("..".into()).is_err());
        assert!(user_id("...".into()).is_ok() && user_id("a..".into()).is_ok());
    }

    #[test]
    fn so_many_may_stay() {
        let ids = |count| vec![ConnectionId::from("c"); count];
        assert_eq!(excepted(ids(0)).unwrap(), []);
        assert_eq!(excepted(ids(1000)).unwrap().len(), 1000);
        assert_eq!(excepted(ids(1001)).unwrap_err().fault, Fault::TooMany);
    }

    #[test]
    fn a_page_has_bounds() {
        assert_eq!(page(None), Ok(100));
        assert_eq!(page(Some(1)), Ok(1));
        assert_eq!(page(Some(1000)), Ok(1000));
        for bad in [i64::MIN, -1, 0, 1001, i64::MAX] {
            assert_eq!(page(Some(bad)).unwrap_err().fault, Fault::OutOfRange);
        }
    }
}
