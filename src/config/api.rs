//! Who may call the HTTP API, and how often: `api`.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{section::section, validate::texts};

section! {
    /// The HTTP API's keys and limits. What is never refused for load: disconnects, bans and revocations, health and metrics.
    Api in "api." {
        /// A key with every scope, in clear or as `sha256:` and its hash; at least 16 characters where others than this machine
        /// reach the API.
        key: Option<KeySecret> = None, short("SWITCHBOARD_API_KEY"), reload, fits(texts::api_key);
        /// Whether the API takes the tokens that `/admin` lets in (its issuer, audience and roles); it takes no others, and
        /// where there is no `/admin`, none. `false`: API keys alone.
        jwt: bool = true, reload;
        /// Further keys, with names and scopes. One for each backend, so that each can be replaced and cut back by itself.
        keys: Vec<ApiKey> = Vec::new(), reload;
        /// Calls that a key, or an administrator with a token, may make in a second on each node, and as many at once; beyond
        /// it 429. A call with many users or messages is one. Disconnects, bans and revocations are neither counted nor
        /// refused. 0: no limit.
        rate: u32 = 0, reload;
        /// Calls in flight on this node; beyond it 503. Disconnects, bans and revocations have a lane of their own, as wide as
        /// the default. 0: no limit.
        in_flight: u32 = 1_024, reload;
    }
}

section! {
    /// One of several API keys.
    ApiKey in "api.keys." {
        /// Its name, in logs; unique.
        name: String = String::new(), shown("required"), fits(texts::named);
        /// The key itself, visible ASCII, as it goes into a header; or `sha256:` and the 64 hexadecimal digits of its SHA-256,
        /// so that who reads the file can't call the API.
        key: KeySecret = "".into(), shown("required"), fits(texts::api_key);
        /// What it may do: `read`, `send`, `disconnect`, `admin`; at least one.
        scopes: Vec<Scope> = Vec::new(), shown("required");
    }
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Reads: users, presence, connections, nodes, stats, metrics.
    Read,
    /// Sends and broadcasts.
    Send,
    /// Disconnects.
    Disconnect,
    /// Everything else.
    Admin,
}

/// What a key that is written as its digest begins with.
const HASHED: &str = "sha256:";

/// An API key as it is configured: in clear, or as its digest. Neither `Debug` nor a printout shows it.
///
/// The digest is of no use in a header: what is presented is hashed, then compared. A plain SHA-256 is enough, as a key is
/// as random as it is long; a password would want a slow hash, and is no key.
#[derive(Clone)]
pub struct KeySecret(SecretString);

impl KeySecret {
    /// The SHA-256 of the key: to be compared, in constant time, with that of what a caller presents. None for an empty
    /// key, and for one that begins with `sha256:` and does not go on as a digest: nobody can present these, so they open
    /// nothing.
    pub fn digest(&self) -> Option<[u8; 32]> {
        match self.text() {
            "" => None,
            text => match text.strip_prefix(HASHED) {
                Some(digits) => from_hex(digits),
                None => Some(Sha256::digest(text).into()),
            },
        }
    }

    /// Whether it is written as its digest.
    pub fn is_hashed(&self) -> bool {
        self.text().starts_with(HASHED)
    }

    /// The key itself; none where it is written as its digest.
    pub(crate) fn in_clear(&self) -> Option<&str> {
        (!self.is_hashed()).then(|| self.text())
    }

    /// What is written in the configuration.
    pub(super) fn text(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(…)")
    }
}

impl<T: Into<SecretString>> From<T> for KeySecret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// The bytes of exactly 64 hexadecimal digits, in either case.
fn from_hex(digits: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Of `k`.
    const DIGEST: &str = "8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a";

    fn digest(text: &str) -> Option<[u8; 32]> {
        KeySecret::from(text).digest()
    }

    #[test]
    fn a_key_and_its_digest_are_the_same_key() {
        let clear = digest("k").unwrap();
        assert_eq!(digest(&format!("sha256:{DIGEST}")), Some(clear));
        let upper = DIGEST.to_ascii_uppercase();
        assert_eq!(digest(&format!("sha256:{upper}")), Some(clear));
        assert_ne!(digest("K"), Some(clear));
        assert!(KeySecret::from("sha256:").is_hashed() && !KeySecret::from("k").is_hashed());
    }

    #[test]
    fn what_is_no_digest_opens_nothing() {
        for text in [
            String::new(),
            "sha256:".into(),
            format!("sha256:{}", &DIGEST[1..]),
            format!("sha256:{DIGEST}0"),
            format!("sha256:{DIGEST}00"),
            format!("sha256: {}", &DIGEST[1..]),
            format!("sha256:+{}", &DIGEST[1..]),
            format!("sha256:{}g", &DIGEST[1..]),
            format!("sha256:{}é", &DIGEST[2..]),
        ] {
            assert_eq!(digest(&text), None, "{text}");
        }
        // Other prefixes are part of a key.
        assert!(digest("SHA256:x").is_some());
    }

    #[test]
    fn debug_shows_neither() {
        let hashed = KeySecret::from(format!("sha256:{DIGEST}"));
        assert_eq!(format!("{hashed:?}"), "KeySecret(…)");
        assert_eq!(format!("{:?}", KeySecret::from("hush")), "KeySecret(…)");
    }
}
