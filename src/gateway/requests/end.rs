//! Ending connections, and keeping users out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Fault, Invalid, excepted, reason, time};
use crate::{
    connection::ConnectionId,
    ending::Ending,
    gateway::message::{Disconnected, Revoked},
    registry::Ban,
};

/// How to end a user's connections. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"reason": "Signed out everywhere", "except": ["c5Zk0pXv9Rr2mWqT1nYbLdA"]}))]
pub struct DisconnectRequest {
    /// What the clients are told. Default: the text that goes with the code.
    #[schema(max_length = 512)]
    pub reason: Option<String>,
    /// What the clients are told. Below 4500 they come back by themselves, from 4500 on they stay away. Default: 4500, or
    /// 4003 with `reconnect`.
    #[schema(minimum = 4000, maximum = 4999)]
    pub code: Option<i64>,
    /// Whether the clients come back by themselves. Default: as the code says; it may not say otherwise.
    pub reconnect: Option<bool>,
    /// Connections that stay, at most 1,000.
    #[schema(max_items = 1000)]
    pub except: Option<Vec<ConnectionId>>,
    /// Whether the user's tokens that were issued before are refused from here on, so that nobody comes back with one.
    /// Default: they are not.
    #[schema(default = false)]
    pub revoke_tokens: Option<bool>,
}

impl DisconnectRequest {
    /// How the connections end.
    ///
    /// # Errors
    ///
    /// A code that is not from 4000 to 4999, or that says otherwise than `reconnect`; a reason that is too long.
    pub fn ending(&self) -> Result<Ending, Invalid> {
        let code = match (self.code, self.reconnect) {
            (None, Some(true)) => Ending::RECONNECT_REQUESTED,
            (None, _) => Ending::DISCONNECTED,
            (Some(code), _) => u16::try_from(code)
                .ok()
                .filter(|code| (4000..=4999).contains(code))
                .ok_or_else(|| Invalid::new(Fault::OutOfRange, "code: 4000 to 4999"))?,
        };
        let ending = Ending::of(code);
        if self.reconnect.is_some_and(|wish| wish != ending.reconnect) {
            return Err(Invalid::new(
                Fault::InvalidCode,
                "code: below 4500 clients reconnect, from 4500 on they don't; reconnect says otherwise",
            ));
        }
        Ok(match reason(self.reason.clone())? {
            Some(reason) => ending.because(reason),
            None => ending,
        })
    }

    /// The connections that stay.
    ///
    /// # Errors
    ///
    /// More than 1,000.
    pub fn excepted(self) -> Result<Vec<ConnectionId>, Invalid> {
        excepted(self.except.unwrap_or_default())
    }
}

/// A ban. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "Spam", "until": "2030-01-08T00:00:00Z"}))]
pub struct BanRequest {
    /// Why, for people.
    #[schema(max_length = 512)]
    pub reason: Option<String>,
    /// Until when. Absent: until it is lifted.
    #[serde(default, deserialize_with = "time::optional")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

impl BanRequest {
    /// The ban, as of `now`.
    ///
    /// # Errors
    ///
    /// An end that is not in the future, a reason that is too long.
    pub fn ban(self, now: Timestamp) -> Result<Ban, Invalid> {
        if self.until.is_some_and(|until| until <= now) {
            return Err(Invalid::new(
                Fault::InvalidTime,
                "until: must be in the future",
            ));
        }
        Ok(Ban {
            reason: reason(self.reason)?,
            until: self.until,
        })
    }
}

/// Which tokens of a user. Everything is optional, the body as well.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"issuedBefore": "2030-01-01T00:00:00Z"}))]
pub struct RevokeTokensRequest {
    /// Those issued before. Default: now. A time ahead also refuses tokens that are yet to be issued, until then.
    #[serde(default, deserialize_with = "time::optional")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub issued_before: Option<Timestamp>,
}

/// Whether a user is kept out.
#[derive(Debug, Serialize, ToSchema)]
pub struct BanAnswer {
    /// Whether the user is kept out.
    pub banned: bool,
    /// Why.
    #[schema(required)]
    pub reason: Option<String>,
    /// Until when; `null`: until it is lifted.
    #[serde(serialize_with = "time::show_optional")]
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

impl From<Option<Ban>> for BanAnswer {
    fn from(ban: Option<Ban>) -> Self {
        let banned = ban.is_some();
        let Ban { reason, until } = ban.unwrap_or_default();
        Self {
            banned,
            reason,
            until,
        }
    }
}

/// A ban, and what became of the user's connections.
#[derive(Debug, Serialize, ToSchema)]
pub struct BannedAnswer {
    #[serde(flatten)]
    pub(crate) ban: BanAnswer,
    #[serde(flatten)]
    pub(crate) ended: Disconnected,
}

/// What was revoked.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevokedAnswer {
    /// Tokens issued before are refused.
    #[serde(serialize_with = "time::show")]
    #[schema(value_type = String, format = DateTime)]
    pub revoked_before: Timestamp,
    #[serde(flatten)]
    pub(crate) ended: Disconnected,
}

impl From<Revoked> for RevokedAnswer {
    fn from(revoked: Revoked) -> Self {
        Self {
            revoked_before: revoked.revoked_before,
            ended: revoked.disconnected,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ending(code: Option<i64>, reconnect: Option<bool>) -> Result<(u16, bool), Fault> {
        let request = DisconnectRequest {
            code,
            reconnect,
            ..DisconnectRequest::default()
        };
        request
            .ending()
            .map(|ending| (ending.code, ending.reconnect))
            .map_err(|error| error.fault)
    }

    #[test]
    fn code_and_reconnect_go_together() {
        assert_eq!(ending(None, None), Ok((4500, false)));
        assert_eq!(ending(None, Some(false)), Ok((4500, false)));
        assert_eq!(ending(None, Some(true)), Ok((4003, true)));
        assert_eq!(ending(Some(4499), None), Ok((4499, true)));
        assert_eq!(ending(Some(4000), Some(true)), Ok((4000, true)));
        assert_eq!(ending(Some(4999), None), Ok((4999, false)));
        assert_eq!(ending(Some(4499), Some(false)), Err(Fault::InvalidCode));
        assert_eq!(ending(Some(4500), Some(true)), Err(Fault::InvalidCode));
        for bad in [i64::MIN, -4500, 0, 3999, 5000, 69_536] {
            assert_eq!(ending(Some(bad), None), Err(Fault::OutOfRange));
        }
    }

    #[test]
    fn a_reason_is_the_callers_or_that_of_the_code() {
        let reason = |reason: Option<String>| {
            let request = DisconnectRequest {
                reason,
                ..DisconnectRequest::default()
            };
            request.ending().map(|ending| ending.reason)
        };
        assert_eq!(reason(None).unwrap(), "Disconnected by an administrator");
        assert_eq!(reason(Some("ж".repeat(512))).unwrap(), "ж".repeat(512));
        assert_eq!(
            reason(Some("ж".repeat(513))).unwrap_err().fault,
            Fault::TooLong
        );
    }

    #[test]
    fn a_ban_ends_in_the_future_or_never() {
        let now = Timestamp::UNIX_EPOCH;
        let until = |text: &str| {
            let request = BanRequest {
                until: Some(text.parse().unwrap()),
                ..BanRequest::default()
            };
            request.ban(now).map(|ban| ban.until.unwrap().to_string())
        };
        assert_eq!(
            until("1970-01-01T02:00:00.5+01:00").unwrap(),
            "1970-01-01T01:00:00.5Z"
        );
        for past in ["1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z"] {
            assert_eq!(until(past).unwrap_err().fault, Fault::InvalidTime);
        }
        assert_eq!(BanRequest::default().ban(now), Ok(Ban::default()));
    }

    #[test]
    fn a_reason_has_bounds() {
        let ban = |length| {
            let request = BanRequest {
                reason: Some("ж".repeat(length)),
                until: None,
            };
            request.ban(Timestamp::UNIX_EPOCH).map_err(|e| e.fault)
        };
        assert_eq!(ban(512).unwrap().reason, Some("ж".repeat(512)));
        assert_eq!(ban(513), Err(Fault::TooLong));
    }

    #[test]
    fn a_ban_is_shown_as_it_is_and_so_is_none() {
        let shown = |ban: Option<Ban>| serde_json::to_value(BanAnswer::from(ban)).unwrap();
        let ban = Ban {
            reason: Some("Spam".into()),
            until: Some(Timestamp::UNIX_EPOCH),
        };
        assert_eq!(
            shown(Some(ban)),
            json!({"banned": true, "reason": "Spam", "until": "1970-01-01T00:00:00Z"})
        );
        assert_eq!(
            shown(Some(Ban::default())),
            json!({"banned": true, "reason": null, "until": null})
        );
        assert_eq!(
            shown(None),
            json!({"banned": false, "reason": null, "until": null})
        );
    }
}
