//! What clients show at the door, and who signs it.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use switchboard::{
    auth::token::{NewToken, mint},
    config::Jwt,
};

/// `auth.jwt.secret` of the fleets.
pub(crate) const SECRET: &str = "a-secret-of-the-tests-0123456789abcdef";
/// `api.key` of the fleets.
pub(crate) const KEY: &str = "a-key-of-the-tests";

static KNOWN: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// A token for a user, good for two hours; the same one each time.
pub(crate) fn token(user: &str) -> String {
    let mut known = KNOWN.lock();
    known
        .entry(user.to_owned())
        .or_insert_with(|| fresh_token(user))
        .clone()
}

/// Another token for a user, issued now.
pub(crate) fn fresh_token(user: &str) -> String {
    let jwt = Jwt {
        secret: Some(SecretString::from(SECRET)),
        ..Jwt::default()
    };
    let minted = mint(&jwt, &NewToken::new(user, Duration::from_secs(7200))).unwrap();
    minted.token.expose_secret().to_owned()
}
