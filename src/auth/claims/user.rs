//! Who the user of a payload is.

use serde_json::{Map, Value};

use super::present;
use crate::{auth::jwt::Refusal, connection::UserId};

/// From here on a float no longer tells one integer from the next.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Where a payload names the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UserClaim {
    /// `sub`, else `id`, else `userId`.
    Usual,
    /// `auth.jwt.user_id_claim`: the name of a claim, else a JSON pointer (`/user/id`), else a dotted path (`user.id`).
    /// A name comes first because `https://example.com/user.id` is a usual one.
    Configured(String),
}

impl UserClaim {
    pub(super) fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        match self {
            Self::Usual => ["sub", "id", "userId"]
                .into_iter()
                .find_map(|name| present(claims, name)),
            Self::Configured(name) => present(claims, name)
                .or_else(|| Self::descend(claims, name))
                .filter(|value| !value.is_null()),
        }
    }

    fn descend<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
        let (path, separator) = match path.strip_prefix('/') {
            Some(pointer) => (pointer, '/'),
            None => (path, '.'),
        };
        let mut steps = path.split(separator);
        let mut value = claims.get(&unescape(steps.next()?, separator))?;
        for step in steps {
            value = value.get(unescape(step, separator))?;
        }
        Some(value)
    }
}

/// One step of a JSON pointer (RFC 6901 §4); steps of a dotted path stay as they are.
fn unescape(step: &str, separator: char) -> String {
    if separator == '/' {
        step.replace("~1", "/").replace("~0", "~")
    } else {
        step.to_owned()
    }
}

/// A user's id: a string, or an integer as its digits, that [`UserId::checked`] takes.
pub(in crate::auth) fn user_id(value: Option<&Value>) -> Result<UserId, Refusal> {
    let id = text(value.ok_or(Refusal::invalid("it names no user"))?)?;
    UserId::checked(id).map_err(|_| {
        Refusal::invalid("its user id is empty, too long, or . or .., which no URL can name")
    })
}

/// A string, or an integer as its digits. A float stands for an integer where it is exactly one (`42.0`).
pub(super) fn text(value: &Value) -> Result<String, Refusal> {
    const NO_ID: Refusal = Refusal::invalid("an id in it is neither a string nor an integer");
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        Value::Number(number) => number
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() <= MAX_EXACT_FLOAT)
            .map(|float| (float as i64).to_string())
            .ok_or(NO_ID),
        _ => Err(NO_ID),
    }
}
