//! Refresh tokens: opaque, single use, and each with exactly one successor.
//!
//! A token is `<family>.<secret>`. The family is what a login opened and a logout ends; the secret is 16 random bytes and a tag
//! of 16 bytes over them and the family, by a key that only the nodes have. Of a token only its SHA-256 is kept, so who reads
//! the store can't refresh. The tag tells a token that was used before from one that somebody made up who knows the family's
//! id: every access token shows it, as its `sid`.
//!
//! The successor is derived from the token, by HMAC with the same key. Two tabs that bring the same cookie
//! at once get the same successor, then, though nothing but hashes is kept, and on whichever node each of them asks.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The longest family id.
const MAX_FAMILY_BYTES: usize = 64;

/// 32 bytes in base64url without padding (RFC 4648 §5).
const SECRET_CHARS: usize = 43;

/// Of a secret, the part that is not its tag, in bytes.
const NONCE_BYTES: usize = 16;

/// What the key is derived for: the secret that it comes from also signs tokens, and no token's signed part is this.
const PURPOSE: &[u8] = b"switchboard refresh-token successor v1";

/// A refresh token, whoever's. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct RefreshToken {
    text: SecretString,
    family_len: usize,
}

impl RefreshToken {
    /// A new token of a family. None unless the family's id is 1 to 64 characters of `A-Za-z0-9_-`.
    pub fn new(family: &str, key: &SuccessorKey) -> Option<Self> {
        is_family(family).then(|| Self::of(family, &rand::random(), key))
    }

    /// Reads what a client presents. None for what can't be a token, such as one that is written in another way than it
    /// was given.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_FAMILY_BYTES + 1 + SECRET_CHARS {
            return None;
        }
        let (family, secret) = text.split_once('.')?;
        let whole = secret.len() == SECRET_CHARS && URL_SAFE_NO_PAD.decode(secret).is_ok();
        (is_family(family) && whole).then(|| Self {
            text: text.into(),
            family_len: family.len(),
        })
    }

    fn of(family: &str, nonce: &[u8; NONCE_BYTES], key: &SuccessorKey) -> Self {
        let mut secret = [0; 32];
        secret[..NONCE_BYTES].copy_from_slice(nonce);
        secret[NONCE_BYTES..].copy_from_slice(&key.tag(family, nonce));
        Self {
            text: format!("{family}.{}", URL_SAFE_NO_PAD.encode(secret)).into(),
            family_len: family.len(),
        }
    }

    /// The family's id: the `sid` of the access tokens that it gets.
    pub fn family(&self) -> &str {
        &self.text.expose_secret()[..self.family_len]
    }

    /// The token, for its cookie.
    pub fn text(&self) -> &SecretString {
        &self.text
    }

    /// What is kept of it. A secret of 256 random bits needs no slower hash.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.text.expose_secret()).into()
    }

    /// The token that comes after it in its family: always the same one, by the same key.
    pub fn successor(&self, key: &SuccessorKey) -> Self {
        let derived = hmac::sign(&key.0, self.text.expose_secret().as_bytes());
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&derived.as_ref()[..NONCE_BYTES]);
        Self::of(self.family(), &nonce, key)
    }

    /// Whether it was issued by who has the key, whenever that was.
    pub fn is_by(&self, key: &SuccessorKey) -> bool {
        let secret = &self.text.expose_secret()[self.family_len + 1..];
        URL_SAFE_NO_PAD.decode(secret).is_ok_and(|secret| {
            let (nonce, tag) = secret.split_at(NONCE_BYTES);
            verify_slices_are_equal(&key.tag(self.family(), nonce), tag).is_ok()
        })
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

/// What derives successors. Every node has the same one, from the secret that signs its tokens.
#[derive(Clone)]
pub struct SuccessorKey(hmac::Key);

impl SuccessorKey {
    /// From `auth.jwt.secret`, or one of `auth.jwt.previous_secrets`: while secrets are rotated, a token that was used just
    /// before has its successor by the old one.
    pub fn new(secret: &SecretString) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        let derived = hmac::sign(&secret, PURPOSE);
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// No token is `<family>` and 16 bytes behind a 0, so no successor is derived from what a tag is over.
    fn tag(&self, family: &str, nonce: &[u8]) -> [u8; 32 - NONCE_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(family.as_bytes());
        context.update(&[0]);
        context.update(nonce);
        let mut tag = [0; 32 - NONCE_BYTES];
        tag.copy_from_slice(&context.sign().as_ref()[..32 - NONCE_BYTES]);
        tag
    }
}

impl fmt::Debug for SuccessorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SuccessorKey(…)")
    }
}

fn is_family(id: &str) -> bool {
    (1..=MAX_FAMILY_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn text(token: &RefreshToken) -> &str {
        token.text().expose_secret()
    }

    fn key(secret: &str) -> SuccessorKey {
        SuccessorKey::new(&secret.into())
    }

    #[test]
    fn a_token_is_read_back_as_itself() {
        let longest = "f".repeat(64);
        for family in ["a", "0f_-Z", &longest] {
            let token = RefreshToken::new(family, &key("s")).unwrap();
            assert_eq!(token.family(), family);
            let read = RefreshToken::parse(text(&token)).unwrap();
            assert_eq!(read.family(), family);
            assert_eq!(read.hash(), token.hash());
            assert_eq!(text(&token).len(), family.len() + 44);
        }
        let (one, two) = (
            RefreshToken::new("a", &key("s")).unwrap(),
            RefreshToken::new("a", &key("s")).unwrap(),
        );
        assert_ne!(one.hash(), two.hash());
    }

    #[test]
    fn what_can_t_be_a_token_is_none() {
        let secret = "A".repeat(43);
        assert!(RefreshToken::parse(&format!("family.{secret}")).is_some());
        for bad in [
            String::new(),
            ".".into(),
            secret.clone(),
            format!(".{secret}"),
            "family.".into(),
            format!("family.{secret}A"),
            format!("family.{}", &secret[1..]),
            format!("family.{}=", &secret[1..]),
            format!("family.{}+", &secret[1..]),
            // 43 characters hold 258 bits: the last two have to be 0.
            format!("family.{}B", &secret[1..]),
            format!("family.{secret}."),
            format!("family.a.{secret}"),
            format!("fam ily.{secret}"),
            format!("fam:ily.{secret}"),
            format!("family\n.{secret}"),
            format!("fämily.{secret}"),
            format!(" family.{secret}"),
            format!("{}.{secret}", "f".repeat(65)),
            format!("family.{}é", &secret[2..]),
            "x".repeat(1_000_000),
        ] {
            assert!(RefreshToken::parse(&bad).is_none(), "{bad:.80}");
        }
        for family in ["", "a.b", "a b", &"f".repeat(65)] {
            assert!(RefreshToken::new(family, &key("s")).is_none(), "{family}");
        }
    }

    #[test]
    fn a_successor_is_one_and_the_same_for_all_who_have_the_key() {
        let token = RefreshToken::new("family", &key("s")).unwrap();
        let (one, two) = (token.successor(&key("s")), token.successor(&key("s")));
        assert_eq!(text(&one), text(&two));
        assert_eq!(one.family(), "family");
        assert!(RefreshToken::parse(text(&one)).is_some());

        let third = one.successor(&key("s"));
        let other_key = token.successor(&key("t"));
        let other_token = RefreshToken::new("family", &key("s"))
            .unwrap()
            .successor(&key("s"));
        let hashes = [&token, &one, &third, &other_key, &other_token].map(RefreshToken::hash);
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[index + 1..].contains(hash), "{index}");
        }
    }

    #[test]
    fn a_token_that_was_made_up_is_by_nobody() {
        let token = RefreshToken::new("family", &key("s")).unwrap();
        let made_up = |text: &str| RefreshToken::parse(text).unwrap();
        for token in [&token, &token.successor(&key("s")), &made_up(text(&token))] {
            assert!(token.is_by(&key("s")));
            assert!(!token.is_by(&key("t")));
        }
        let (_, secret) = text(&token).split_once('.').unwrap();
        assert!(!made_up(&format!("other.{secret}")).is_by(&key("s")));
        assert!(!made_up(&format!("family.{}", "A".repeat(43))).is_by(&key("s")));
        for at in [0, 15, 16, 31] {
            let mut bytes = URL_SAFE_NO_PAD.decode(secret).unwrap();
            bytes[at] ^= 1;
            let text = format!("family.{}", URL_SAFE_NO_PAD.encode(bytes));
            assert!(!made_up(&text).is_by(&key("s")), "{at}");
        }
    }

    /// Nodes of two versions in one fleet have to agree.
    #[test]
    fn the_derivation_does_not_change() {
        let token = RefreshToken::parse(&format!("family.{}", "A".repeat(43))).unwrap();
        let successor = token.successor(&key("test-only"));
        assert_eq!(
            text(&successor),
            "family.ye2Cz52jPOKhfNDkCZDyOA5Oz86HsUlilRCTBqeOAJs"
        );
    }

    #[test]
    fn debug_shows_nothing() {
        let token = RefreshToken::new("family", &key("s")).unwrap();
        let shown = format!("{token:?} {:?}", key("hush"));
        assert_eq!(shown, "RefreshToken(…) SuccessorKey(…)");
    }
}
