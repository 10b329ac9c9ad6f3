//! What a handshake brings.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header::AUTHORIZATION};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::cookie;

/// What stands before a token in the header `Authorization`.
const BEARER: &str = "Bearer ";

/// The longest `auth.deviceId`, in characters.
const MAX_DEVICE_ID_CHARS: usize = 128;

/// What a handshake brings. The order of preference is the order of the fields.
///
/// Query strings are never looked at: they end up in access logs.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `auth.token` of the CONNECT packet.
    pub token: Option<SecretString>,
    /// The token of the handshake request's `Authorization: Bearer`.
    pub bearer: Option<SecretString>,
    /// All cookies of the handshake request. One of them may be a session's.
    pub cookies: Option<SecretString>,
}

impl Credentials {
    /// Reads the `auth` payload of a CONNECT packet and the headers of the handshake request.
    ///
    /// A `Bearer ` in front of the token is allowed for. An absent, `null` or empty token is none at all (`auth: {token: localStorage.getItem("token")}` sends `null`
    /// to a client that is not logged in). A token that is no string is a token, and an invalid one: it is kept as its
    /// JSON text, which can't have the form of a JWT.
    pub fn from_handshake(auth: Option<&Value>, headers: &HeaderMap) -> Self {
        let token = match auth.and_then(|auth| auth.get("token")) {
            None | Some(Value::Null) => None,
            Some(Value::String(token)) => present(without_scheme(token).to_owned()),
            Some(other) => present(other.to_string()),
        };
        Self {
            token,
            bearer: bearer(headers),
            cookies: cookie::header(headers).map(SecretString::from),
        }
    }

    /// The claims of the token that counts, for one that has been verified: nothing is looked at here. None if there is no token, or it
    /// is none.
    pub(crate) fn claims(&self) -> Option<Map<String, Value>> {
        let token = self.preferred()?.expose_secret();
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        serde_json::from_slice(&payload).ok()
    }

    /// The token that counts: the first there is. A bad one does not give way to the next.
    pub(crate) fn preferred(&self) -> Option<&SecretString> {
        [&self.token, &self.bearer]
            .into_iter()
            .flatten()
            .find(|token| !token.expose_secret().is_empty())
    }
}

/// The `auth.deviceId` of a CONNECT packet: a string of 1 to 128 characters. Anything else names no device; a longer one
/// is not cut, since two devices could become one.
pub fn device_id(auth: Option<&Value>) -> Option<String> {
    let id = auth?.get("deviceId")?.as_str()?;
    is_device_id(id).then(|| id.to_owned())
}

/// Whether a text can be a device's id: it has 1 to 128 characters.
pub fn is_device_id(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(MAX_DEVICE_ID_CHARS).is_none()
}

/// A token without the `Bearer ` that some put in front of it, as in the header.
fn without_scheme(token: &str) -> &str {
    match token.split_at_checked(BEARER.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(BEARER) => rest.trim_start(),
        _ => token,
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1; the scheme in any case).
pub(super) fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at(value.iter().position(|byte| *byte == b' ')?);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    // What is no UTF-8 becomes a token that is refused, rather than none.
    let token = String::from_utf8_lossy(token);
    present(token.trim_start_matches(' ').to_owned())
}

fn present(token: String) -> Option<SecretString> {
    (!token.is_empty()).then(|| token.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use http::{HeaderValue, header::COOKIE};
    use serde_json::json;

    use super::*;

    fn headers(authorization: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_bytes(authorization).unwrap(),
        );
        headers
    }

    fn preferred(auth: Option<Value>, headers: &HeaderMap) -> Option<String> {
        Credentials::from_handshake(auth.as_ref(), headers)
            .preferred()
            .map(|token| token.expose_secret().to_owned())
    }

    #[test]
    fn the_packet_comes_before_the_header() {
        let headers = headers(b"Bearer from-header");
        let token = |auth| preferred(auth, &headers);

        assert_eq!(
            token(Some(json!({"token": "from-packet"}))).as_deref(),
            Some("from-packet")
        );
        for empty in [
            None,
            Some(json!({})),
            Some(json!({"token": null})),
            Some(json!({"token": ""})),
            Some(json!("token")),
            Some(json!(["token"])),
        ] {
            assert_eq!(
                token(empty.clone()).as_deref(),
                Some("from-header"),
                "{empty:?}"
            );
        }
    }

    #[test]
    fn a_token_may_have_the_scheme_in_front() {
        let token = |text: &str| {
            let auth = json!({ "token": text });
            preferred(Some(auth), &HeaderMap::new())
        };
        for with in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            assert_eq!(token(with).as_deref(), Some("a.b.c"), "{with}");
        }
        assert_eq!(token("Bearer "), None);
        for other in [
            "Bearer",
            "Basic a.b.c",
            "Bearera.b.c",
            "a.b.c",
            "é",
            "Bearer\u{a0}x",
        ] {
            assert_eq!(token(other).as_deref(), Some(other), "{other}");
        }
    }

    #[test]
    fn a_token_that_is_no_string_is_not_a_missing_one() {
        let headers = headers(b"Bearer from-header");
        for odd in [
            json!(1),
            json!(1.5),
            json!(true),
            json!(["a.b.c"]),
            json!({"a": "a.b.c"}),
        ] {
            let kept = preferred(Some(json!({"token": odd})), &headers).unwrap();
            assert_eq!(kept, odd.to_string());
        }
    }

    #[test]
    fn the_header_is_read_in_any_case_and_only_for_bearer() {
        let token = |value: &[u8]| preferred(None, &headers(value));

        assert_eq!(token(b"Bearer x").as_deref(), Some("x"));
        assert_eq!(token(b"bEARER   x").as_deref(), Some("x"));
        assert_eq!(token(b"bearer x y").as_deref(), Some("x y"));
        assert_eq!(token(b"Bearer \xff").as_deref(), Some("\u{fffd}"));
        for none in [
            &b"Bearer"[..],
            b"Bearer ",
            b"Basic eDp5",
            b"Bearerx y",
            b"x",
            b"",
        ] {
            assert_eq!(token(none), None, "{}", String::from_utf8_lossy(none));
        }
        assert_eq!(preferred(None, &HeaderMap::new()), None);
    }

    #[test]
    fn a_device_is_named_by_a_short_string_only() {
        let device = |id: Value| device_id(Some(&json!({"deviceId": id})));

        assert_eq!(device(json!("phone")).as_deref(), Some("phone"));
        let longest = "é".repeat(128);
        assert_eq!(device(json!(longest)).as_deref(), Some(&*longest));
        for none in [
            json!("é".repeat(129)),
            json!(""),
            json!(7),
            json!(null),
            json!(["a"]),
        ] {
            assert_eq!(device(none.clone()), None, "{none}");
        }
        assert_eq!(device_id(None), None);
        assert_eq!(device_id(Some(&json!("deviceId"))), None);
    }

    #[test]
    fn debug_shows_no_token() {
        let mut headers = headers(b"Bearer hush-header");
        headers.insert(COOKIE, HeaderValue::from_static("connect.sid=hush-cookie"));
        let credentials =
            Credentials::from_handshake(Some(&json!({"token": "hush-packet"})), &headers);
        assert!(credentials.cookies.is_some());
        assert!(!format!("{credentials:?}").contains("hush"));
    }
}
