//! The seal on a refresh family: what the nodes say of a login, in a store that others may write to.
//!
//! A family holds whose login it is and what its tokens claim. A writer to Redis could make any user and any role of
//! that. So both are sealed, by HMAC-SHA256 with a key that only the nodes have, over the family's id as well: a seal that
//! is copied into another family is none there.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// What the key is derived for: the secret that it comes from also signs tokens, and derives their successors.
const PURPOSE: &[u8] = b"switchboard refresh-family seal v1";

/// What seals families. Every node has the same one, from the secret that signs its tokens.
#[derive(Clone)]
pub struct FamilyKey(hmac::Key);

impl FamilyKey {
    /// From `auth.jwt.secret`, which seals, or one of `auth.jwt.previous_secrets`, by which a seal still holds.
    pub fn new(secret: &SecretString) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        let derived = hmac::sign(&secret, PURPOSE);
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// The seal on a family's user and claims, as text.
    pub fn seal(&self, family: &str, user: &str, claims: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, &sealed(family, user, claims)))
    }

    /// Whether a seal is this key's on exactly these.
    pub fn holds(&self, seal: &str, family: &str, user: &str, claims: &str) -> bool {
        URL_SAFE_NO_PAD
            .decode(seal)
            .is_ok_and(|seal| hmac::verify(&self.0, &sealed(family, user, claims), &seal).is_ok())
    }
}

/// What a seal is over: each part behind its length, so that no byte can pass from one to the next.
fn sealed(family: &str, user: &str, claims: &str) -> Vec<u8> {
    let parts = [family, user, claims].map(str::as_bytes);
    let sealed = parts
        .iter()
        .flat_map(|part| [&(part.len() as u64).to_be_bytes()[..], part].concat());
    sealed.collect()
}

impl fmt::Debug for FamilyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FamilyKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> FamilyKey {
        FamilyKey::new(&secret.into())
    }

    #[test]
    fn a_seal_holds_for_what_it_is_on_and_for_nothing_else() {
        let seal = key("s").seal("family", "42", r#"{"roles":[]}"#);
        let holds = |key: FamilyKey, family, user, claims| key.holds(&seal, family, user, claims);
        assert!(holds(key("s"), "family", "42", r#"{"roles":[]}"#));
        assert!(!holds(key("t"), "family", "42", r#"{"roles":[]}"#));
        assert!(!holds(key("s"), "other", "42", r#"{"roles":[]}"#));
        assert!(!holds(key("s"), "family", "43", r#"{"roles":[]}"#));
        assert!(!holds(key("s"), "family", "42", r#"{"roles":["admin"]}"#));
        assert!(!holds(key("s"), "family4", "2", r#"{"roles":[]}"#));
        assert!(!holds(key("s"), "family", "42{", r#""roles":[]}"#));
        for bad in ["", "AAAA", &seal[1..], &format!("{seal}=")] {
            assert!(
                !key("s").holds(bad, "family", "42", r#"{"roles":[]}"#),
                "{bad}"
            );
        }
    }

    /// Nodes of two versions in one fleet have to agree.
    #[test]
    fn the_seal_does_not_change() {
        assert_eq!(
            key("test-only").seal("family", "42", "{}"),
            "Byi_OCyKDZkC8XjqX73smp3I5jFCMrZUUzZ1caK1vd0"
        );
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", key("hush")), "FamilyKey(…)");
    }
}
