//! Signed session cookies, read as `express-session` 1.19 reads them: with `cookie` 0.7 and `cookie-signature` 1.0.
//!
//! A header that can be read in two ways is read as the application reads it, so that both see the same user: of several cookies
//! of one name the first counts, even if a later one is good.

use std::{borrow::Cow, fmt, sync::Arc};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, header::COOKIE};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

/// The longest session id. `express-session` makes 32 characters, an application's `genid` may make others.
const MAX_ID_BYTES: usize = 256;

/// What a signed value begins with.
const SIGNED: &str = "s:";

/// The id of a session in its store. Who knows it can't make a cookie of it without the secret, and still neither `Debug`
/// nor anything else shows it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StoredSessionId(Arc<str>);

impl StoredSessionId {
    /// An id of 1 to 256 visible ASCII characters.
    ///
    /// What is signed was made by the application, whose `genid` may make other ids than the 32 characters of
    /// `A-Za-z0-9_-` that are usual; so no alphabet is asked for. The bound is for what becomes of it here: a key of the
    /// store's, which is to hold no blank, no control character and no megabyte of anything.
    pub(crate) fn new(id: &str) -> Option<Self> {
        let fits = (1..=MAX_ID_BYTES).contains(&id.len());
        (fits && id.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(id.into()))
    }

    /// The id, for a key of the store's.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StoredSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredSessionId(…)")
    }
}

/// All cookies of a request, in one text; none if it brings none. Several headers are one (RFC 9113 §8.2.3), as Node.js has
/// it for HTTP/1.1 too.
pub(crate) fn header(headers: &HeaderMap) -> Option<String> {
    let mut all: Option<String> = None;
    for value in headers.get_all(COOKIE) {
        let text = String::from_utf8_lossy(value.as_bytes());
        match &mut all {
            None => all = Some(text.into_owned()),
            Some(all) => {
                all.push_str("; ");
                all.push_str(&text);
            }
        }
    }
    all
}

/// The value of the first cookie of a name, as it was sent.
pub(crate) fn sent<'a>(cookies: &'a str, name: &str) -> Option<&'a str> {
    let blank = [' ', '\t'];
    cookies.split(';').find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        (found.trim_matches(blank) == name).then(|| value.trim_matches(blank))
    })
}

/// The value of the first cookie of a name, decoded; none if there is no such cookie, or an empty one.
pub(crate) fn named<'a>(cookies: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = sent(cookies, name)?;
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').unwrap_or(value),
        None => value,
    };
    Some(decoded(value)).filter(|value| !value.is_empty())
}

/// `decodeURIComponent`, and the text as it is where that would throw: a `%` without two digits, or bytes that are no UTF-8.
fn decoded(value: &str) -> Cow<'_, str> {
    let escaped = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if value.split('%').skip(1).all(escaped) {
        percent_decode_str(value)
            .decode_utf8()
            .unwrap_or(Cow::Borrowed(value))
    } else {
        Cow::Borrowed(value)
    }
}

/// The secrets that sign cookies.
pub(crate) struct CookieKeys(Vec<hmac::Key>);

impl CookieKeys {
    pub(crate) fn new(secrets: &[SecretString]) -> Self {
        let key = |secret: &SecretString| {
            hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes())
        };
        Self(secrets.iter().map(key).collect())
    }

    /// The id in a cookie's value, `s:<id>.<signature>`, if one of the secrets has signed it; else what is wrong with it.
    ///
    /// The signature is the base64 (RFC 4648 §4) of HMAC-SHA256 without padding; one that is written in another way, with
    /// padding or bits left over, is none. All secrets are tried, also after one has matched: how long it takes says
    /// nothing of which.
    pub(crate) fn verify(&self, value: &str) -> Result<StoredSessionId, &'static str> {
        let signed = value.strip_prefix(SIGNED).ok_or("it is not signed")?;
        let (id, signature) = signed.rsplit_once('.').ok_or("it is not signed")?;
        let signature = STANDARD_NO_PAD
            .decode(signature)
            .map_err(|_| "its signature is not base64 without padding")?;
        let good = self.0.iter().fold(false, |good, key| {
            hmac::verify(key, id.as_bytes(), &signature).is_ok() | good
        });
        if !good {
            return Err("no secret has signed it");
        }
        StoredSessionId::new(id).ok_or("its session id is none that a store could have")
    }
}

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CookieKeys({})", self.0.len())
    }
}
