//! A stored session → who it is. What is stored was written by an application for a user, who may have had a hand in it.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{Identity, claims, json::Object};
use crate::config;

/// The largest session, in bytes of JSON.
const MAX_SESSION_BYTES: usize = 1_000_000;

/// Where a session names its user: `auth.session.*_pointer`, JSON pointers (RFC 6901).
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    user: Vec<String>,
    username: String,
    role: String,
}

/// What a session says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// The user it belongs to. The identity's `session` is filled in by the caller, who knows the session's id.
    pub(crate) identity: Identity,
    /// Whether it is past its `cookie.expires`.
    pub(crate) life: Life,
}

/// Whether a session lives, by its own `cookie`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It does.
    Live,
    /// It is past `cookie.expires`, and lives only if it was touched since. With `resave: false` a request that changes
    /// nothing makes `connect-redis` prolong the key, to `cookie.originalMaxAge` from then, and leaves the JSON as it is
    /// (measured with 9.0: sessions in use are past their `expires` all day). So a key that has that long to go at most
    /// was touched; one that has longer, or for ever, was not.
    PastUnlessTouched(Duration),
    /// It does not.
    Past,
}

impl Life {
    /// Whether a session lives whose key has so long to go.
    pub(crate) fn holds(self, left: Option<Duration>) -> bool {
        match self {
            Self::Live => true,
            Self::PastUnlessTouched(max_age) => left.is_some_and(|left| left <= max_age),
            Self::Past => false,
        }
    }
}

impl Reader {
    pub(crate) fn new(config: &config::Session) -> Self {
        Self {
            user: config.user_id_pointer.clone(),
            username: config.username_pointer.clone(),
            role: config.role_pointer.clone(),
        }
    }

    /// Reads a session as of `now`; else says why nobody is logged in by it. Of the pointers to the user the first that
    /// leads to a value counts; the value has to be what a token's user id may be.
    pub(crate) fn read(&self, json: &[u8], now: Timestamp) -> Result<Session, &'static str> {
        if json.len() > MAX_SESSION_BYTES {
            return Err("the session is larger than 1 MB");
        }
        let Object(session) = serde_json::from_slice(json)
            .map_err(|_| "the session is not a JSON object of distinct names")?;
        let session = Value::Object(session);

        let at = |pointer: &String| session.pointer(pointer).filter(|value| !value.is_null());
        let user = self.user.iter().find_map(at).ok_or("nobody is logged in")?;
        let user_id = claims::user_id(Some(user)).map_err(|_| "the session's user id is none")?;
        let username = at(&self.username).and_then(Value::as_str);
        Ok(Session {
            life: life(session.get("cookie"), now)?,
            identity: Identity {
                rooms: Vec::new(),
                watch: Vec::new(),
                user_id,
                username: username.map(str::to_owned),
                email: None,
                roles: claims::granted(at(&self.role)),
                expires_at: None,
                issued_at: None,
                token_id: None,
                digest: None,
                session: None,
            },
        })
    }
}

/// Reads `cookie.expires`, a date as `JSON.stringify` writes it, or what is false in JavaScript: such a session has no end
/// of its own.
fn life(cookie: Option<&Value>, now: Timestamp) -> Result<Life, &'static str> {
    let field = |name: &str| cookie.and_then(|cookie| cookie.get(name));
    let expires = match field("expires") {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(Life::Live),
        Some(Value::String(text)) if text.is_empty() => return Ok(Life::Live),
        // A year beyond 9999 has a sign: the last moment that JavaScript knows is a usual way to say never.
        Some(Value::String(text)) if text.starts_with('+') => return Ok(Life::Live),
        Some(Value::String(text)) => text.parse::<Timestamp>().ok(),
        Some(_) => None,
    };
    let expires = expires.ok_or("the session's expires is no date")?;
    if now < expires {
        return Ok(Life::Live);
    }
    Ok(field("originalMaxAge")
        .and_then(Value::as_u64)
        // connect-redis rounds up to whole seconds.
        .map_or(Life::Past, |millis| {
            Life::PastUnlessTouched(Duration::from_secs(millis.div_ceil(1000)))
        }))
}
