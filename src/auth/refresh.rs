//! Refresh tokens: opaque, single use, and each with exactly one successor.
//!
//! A token is `<family>.<secret>`. The family is what a login opened and a logout ends; the secret is the token's number in 4
//! bytes, 16 random bytes, and a tag of 16 bytes over these and the family, by a key that only the nodes have. Of a token only
//! its number and its SHA-256 are kept, so who reads the store can't refresh. The tag tells a token that was used before from one
//! that was made up by a client that knows the family's id: every access token shows it, as its `sid`.
//!
//! The number is one more with each token of a family. It tells a token that was used before from one for which the store has
//! lost the rotation.
//!
//! The successor is derived from the token, by HMAC with the same key. Two tabs that bring the same cookie
//! at once get the same successor, then, though nothing but hashes is kept, and on whichever node each of them asks.
//!
//! Tokens without a number, of 32 bytes, are read and no longer issued: they count as number 0, and their successors have
//! numbers.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The longest family id.
const MAX_FAMILY_BYTES: usize = 64;

/// A secret's length, in bytes; base64url without padding (RFC 4648 §5) makes 48 characters of it.
const SECRET_BYTES: usize = NUMBER_BYTES + NONCE_BYTES + TAG_BYTES;

/// The length of a secret without a number, in bytes; 43 characters.
const UNNUMBERED_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// The longest secret, in characters.
const MAX_SECRET_CHARS: usize = SECRET_BYTES / 3 * 4;

const NUMBER_BYTES: usize = size_of::<u32>();
const NONCE_BYTES: usize = 16;
const TAG_BYTES: usize = 16;

/// What the key is derived for: the secret that it comes from also signs tokens, and no token's signed part is this.
const PURPOSE: &[u8] = b"switchboard refresh-token successor v1";

/// A refresh token. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct RefreshToken {
    text: SecretString,
    family_len: usize,
    number: u32,
}

impl RefreshToken {
    /// The first token of a family, number 1. None unless the family's id is 1 to 64 characters of `A-Za-z0-9_-`.
    pub fn new(family: &str, key: &SuccessorKey) -> Option<Self> {
        is_family(family).then(|| Self::of(family, 1, &rand::random(), key))
    }

    /// Reads what a client presents. None for what can't be a token, such as one that is written in another way than it
    /// was given.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_FAMILY_BYTES + 1 + MAX_SECRET_CHARS {
            return None;
        }
        let (family, secret) = text.split_once('.')?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?;
        let number = match secret.len() {
            SECRET_BYTES => u32::from_be_bytes(*secret.first_chunk()?),
            UNNUMBERED_BYTES => 0,
            _ => return None,
        };
        is_family(family).then(|| Self {
            text: text.into(),
            family_len: family.len(),
            number,
        })
    }

    fn of(family: &str, number: u32, nonce: &[u8; NONCE_BYTES], key: &SuccessorKey) -> Self {
        let tagged = [&number.to_be_bytes()[..], nonce].concat();
        let secret = [&tagged[..], &key.tag(family, &tagged)].concat();
        Self {
            text: format!("{family}.{}", URL_SAFE_NO_PAD.encode(secret)).into(),
            family_len: family.len(),
            number,
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

    /// Its place in its family; 0 of one without a number. Only of a token that [`RefreshToken::is_by`] holds for does it mean
    /// anything.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What is kept of it, beside its number. A secret with 128 random bits and a tag needs no slower hash.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.text.expose_secret()).into()
    }

    /// The token that comes after it in its family, with the next number: always the same one, by the same key.
    pub fn successor(&self, key: &SuccessorKey) -> Self {
        let derived = hmac::sign(&key.0, self.text.expose_secret().as_bytes());
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&derived.as_ref()[..NONCE_BYTES]);
        // At one refresh a second the numbers last for 136 years; then reuse is told by the hash alone.
        Self::of(self.family(), self.number.saturating_add(1), &nonce, key)
    }

    /// Whether it was issued by who has the key, whenever that was.
    pub fn is_by(&self, key: &SuccessorKey) -> bool {
        let secret = &self.text.expose_secret()[self.family_len + 1..];
        URL_SAFE_NO_PAD.decode(secret).is_ok_and(|secret| {
            secret
                .split_last_chunk::<TAG_BYTES>()
                .is_some_and(|(tagged, tag)| {
                    verify_slices_are_equal(&key.tag(self.family(), tagged), tag).is_ok()
                })
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

    /// The tag on a family and what stands before the tag in a secret. No token is `<family>` and bytes behind a 0, so no
    /// successor is derived from what a tag is over; and what a number is in is longer than what has none, so no tag is both's.
    fn tag(&self, family: &str, tagged: &[u8]) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(family.as_bytes());
        context.update(&[0]);
        context.update(tagged);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&context.sign().as_ref()[..TAG_BYTES]);
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
mod tests;
