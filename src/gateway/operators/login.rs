//! Who may open an operators' page: a user name and a password, or the session that a login has begun.
//!
//! Nobody keeps sessions. A session's id says when it is over, sealed by a key that is made of the password's hash: so it holds on
//! every node, also while Redis is away, and none holds any more when the password is another one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    config::{AdminUi, RunningConfig},
    transport::door::Door,
};

/// How many passwords are held against the hash at once: each takes a core for as long as the hash's cost says.
const CHECKS: usize = 2;

/// How long a password waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the key of the sessions is derived for.
const PURPOSE: &str = "switchboard admin-ui session v1 ";

/// How many hours a session holds, the one that it begins in not counted.
const HOURS: u8 = 25;

/// How many bytes of the seal an id has, behind the hour: with it, the 16 digits of an id of `@socket.io/admin-ui`. Who guesses is
/// bounded by [`Door::may_guess`].
const SEAL: usize = 7;

/// What a page says in its CONNECT packet.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LoginPayload {
    username: Option<String>,
    password: Option<SecretString>,
    session_id: Option<SecretString>,
}

/// Why an operator is not let in. `Display` is the text of the `connect_error`; of the first one it is the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginError {
    /// None, or wrong ones.
    #[error("invalid credentials")]
    Credentials,
    /// The address has failed too often.
    #[error("Too many failed logins")]
    TooManyFailed,
    /// The node has as many operators as it may.
    #[error("Too many connections")]
    TooMany,
    /// Too many passwords wait to be looked at.
    #[error("Service unavailable")]
    Unavailable,
}

impl LoginError {
    /// The value of the metric label `reason`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Credentials => "operator",
            Self::TooManyFailed => "operator_guesses",
            Self::TooMany => "too_many",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Looks at credentials.
pub(super) struct Logins {
    config: RunningConfig,
    door: Arc<Door>,
    checks: Semaphore,
}

impl Logins {
    pub(super) fn new(config: RunningConfig, door: Arc<Door>) -> Self {
        Self {
            config,
            door,
            checks: Semaphore::new(CHECKS),
        }
    }

    /// Looks at what a page at an address says. Returns the id of the session that begins with it; none if it goes on with one.
    ///
    /// # Errors
    ///
    /// Why the operator is not let in.
    pub(super) async fn check(
        &self,
        address: IpAddr,
        said: LoginPayload,
    ) -> Result<Option<String>, LoginError> {
        let admin_ui = self.config.now().admin_ui.clone();
        let admin_ui = admin_ui.ok_or(LoginError::Credentials)?;
        if !self.door.may_guess(address) {
            return Err(LoginError::TooManyFailed);
        }
        let now = Timestamp::now();
        if let Some(id) = &said.session_id
            && admin_ui.has_sealed(id.expose_secret(), now)
        {
            return Ok(None);
        }
        let is_guess = said.password.is_some() || said.session_id.is_some();
        let (Some(password), Some(hash)) = (said.password, admin_ui.password_hash.clone()) else {
            if is_guess {
                self.door.guessed_wrong(address);
            }
            return Err(LoginError::Credentials);
        };
        let is_right = self.is_right(password, hash).await?;
        if is_right && said.username.as_ref() == Some(&admin_ui.username) {
            return Ok(Some(admin_ui.session_id(now)));
        }
        self.door.guessed_wrong(address);
        Err(LoginError::Credentials)
    }

    async fn is_right(
        &self,
        password: SecretString,
        hash: SecretString,
    ) -> Result<bool, LoginError> {
        let turn = timeout(PATIENCE, self.checks.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(LoginError::Unavailable);
        };
        let check = move || bcrypt::verify(password.expose_secret(), hash.expose_secret());
        let checked = tokio::task::spawn_blocking(check).await;
        // The hash has been validated.
        Ok(matches!(checked, Ok(Ok(true))))
    }
}

impl AdminUi {
    /// The id of a session that begins now.
    fn session_id(&self, now: Timestamp) -> String {
        self.id_until(hour(now) + u64::from(HOURS))
    }

    /// Whether an id is that of a session which is not over.
    fn has_sealed(&self, id: &str, now: Timestamp) -> bool {
        let Some(low) = id.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            return false;
        };
        let ahead = low.wrapping_sub(hour(now).to_le_bytes()[0]);
        let is_ahead = (1..=HOURS).contains(&ahead);
        let sealed = self.id_until(hour(now) + u64::from(ahead));
        is_ahead && bool::from(sealed.as_bytes().ct_eq(id.as_bytes()))
    }

    /// The id of the sessions that are over with an hour: its lowest byte, and a seal on all of it.
    fn id_until(&self, hour: u64) -> String {
        let hash = self.password_hash.as_ref().map(|hash| hash.expose_secret());
        let key = hmac::Key::new(hmac::HMAC_SHA256, hash.unwrap_or_default().as_bytes());
        let seal = hmac::sign(
            &key,
            format!("{PURPOSE}{hour} {}", self.username).as_bytes(),
        );
        let bytes = hour.to_le_bytes().into_iter().take(1);
        let bytes = bytes.chain(seal.as_ref().iter().copied().take(SEAL));
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The hours since 1970.
fn hour(now: Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or_default() / 3600
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{config::Config, metrics::Metrics};

    /// "correct horse", at the lowest cost.
    const HASH: &str = "$2b$04$zGvCl1/v9qKDq3P2xNfCDe0kqHYhLDcG5XHbI.BsPGroZcC0Avn5S";

    fn admin_ui(username: &str) -> AdminUi {
        AdminUi {
            username: username.into(),
            password_hash: Some(HASH.into()),
            ..AdminUi::default()
        }
    }

    fn logins() -> Logins {
        let config = Config {
            admin_ui: Some(admin_ui("ops")),
            ..Config::default()
        };
        let door = Door::new(&config.limits, Vec::new(), Metrics::new().unwrap());
        Logins::new(RunningConfig::new(config), door)
    }

    fn said(json: &str) -> LoginPayload {
        serde_json::from_str(json).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_name_and_a_password_begin_a_session_that_holds_by_itself() {
        let (logins, local) = (logins(), address("127.0.0.1"));
        let right = said(r#"{"username":"ops","password":"correct horse","other":{}}"#);
        let id = logins.check(local, right).await.unwrap().unwrap();
        assert_eq!(id.len(), 16, "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        let again = said(&format!(r#"{{"sessionId":"{id}"}}"#));
        assert_eq!(logins.check(local, again).await, Ok(None));
        for wrong in [
            "{}",
            r#"{"sessionId":null}"#,
            r#"{"sessionId":""}"#,
            r#"{"sessionId":"é0123456789abcde"}"#,
            r#"{"sessionId":"0123456789abcdef"}"#,
            r#"{"username":"ops"}"#,
            r#"{"password":"correct horse"}"#,
            r#"{"username":"op","password":"correct horse"}"#,
            r#"{"username":"ops","password":"correct"}"#,
            r#"{"username":"ops","password":""}"#,
        ] {
            let refused = logins.check(local, said(wrong)).await;
            assert_eq!(refused, Err(LoginError::Credentials), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_address_that_guesses_is_barred_and_one_that_says_nothing_is_not() {
        let (logins, stranger) = (logins(), address("203.0.113.7"));
        for _ in 0..100 {
            let refused = logins.check(stranger, LoginPayload::default()).await;
            assert_eq!(refused, Err(LoginError::Credentials));
        }
        let mut guesses = 0;
        let guess = || said(r#"{"sessionId":"0123456789abcdef"}"#);
        while logins.check(stranger, guess()).await == Err(LoginError::Credentials) {
            guesses += 1;
        }
        assert!((1..100).contains(&guesses), "{guesses}");
        let right = || said(r#"{"username":"ops","password":"correct horse"}"#);
        let barred = logins.check(stranger, right()).await;
        assert_eq!(barred, Err(LoginError::TooManyFailed));
        let other = logins.check(address("203.0.113.8"), right()).await;
        assert!(other.is_ok(), "{other:?}");
    }

    #[test]
    fn a_session_is_over_after_a_day_and_with_its_password() {
        let at = |hours: i64| Timestamp::from_second(1_900_000_000 + hours * 3600).unwrap();
        let ops = admin_ui("ops");
        let id = ops.session_id(at(0));
        for (hours, holds) in [
            (0, true),
            (24, true),
            (25, false),
            (-1, false),
            (256, false),
        ] {
            assert_eq!(ops.has_sealed(&id, at(hours)), holds, "{hours}");
        }
        assert!(!admin_ui("other").has_sealed(&id, at(0)));
        let changed = AdminUi {
            password_hash: Some("another".into()),
            ..admin_ui("ops")
        };
        assert!(!changed.has_sealed(&id, at(0)));
        // Nodes of two versions in one fleet have to agree.
        assert_eq!(ops.session_id(at(0)), "ba31bde4c648e393");
    }
}
