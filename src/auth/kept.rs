//! What is kept of a handshake's headers for as long as its session lives: each CONNECT packet looks at them anew.

use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, COOKIE},
};

use secrecy::ExposeSecret;

use super::{cookie, credentials};
use crate::config::Session;

/// The longest session cookie that is kept whole, in bytes: browsers keep none that is longer (RFC 6265 section 6.1). What is cut
/// has no good signature, and is refused as it was.
const MAX_COOKIE: usize = 4096;

/// The longest token that is kept of a header, in bytes: each session holds it for as long as it lives. A longer one is cut, which
/// leaves it no good signature. What comes in a CONNECT packet is held for that long only, and may be longer.
const MAX_BEARER: usize = 8 * 1024;

/// Picks the headers that may carry credentials: a bearer's `Authorization`, and of all cookies the session's, if session cookies are
/// on.
#[derive(Clone, Debug, Default)]
pub struct KeptHeaders {
    session_cookie: Option<String>,
}

impl KeptHeaders {
    /// What is kept where session cookies are as configured.
    pub fn new(session: &Session) -> Self {
        Self {
            session_cookie: session.is_on().then(|| session.cookie_name.clone()),
        }
    }

    /// Copies of the headers that are kept: as hyper made them they are slices of its read buffer.
    pub fn of(&self, headers: &HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::new();
        let authorization = credentials::bearer(headers).map(|token| {
            let token = token.expose_secret();
            // One byte more than a token may have, so that what is cut is refused as it was.
            format!(
                "Bearer {}",
                &token[..token.floor_char_boundary(MAX_BEARER + 1)]
            )
        });
        let session = self.session_cookie.as_ref().and_then(|name| {
            let cookies = cookie::header(headers)?;
            let value = cookie::sent(&cookies, name)?;
            let value = &value[..value.floor_char_boundary(MAX_COOKIE)];
            Some(format!("{name}={value}"))
        });
        for (name, value) in [(AUTHORIZATION, authorization), (COOKIE, session)] {
            if let Some(mut copy) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                copy.set_sensitive(true);
                kept.insert(name, copy);
            }
        }
        kept
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::header::ORIGIN;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::auth::Credentials;

    fn headers(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"));
        headers.insert(ORIGIN, HeaderValue::from_static("https://shop.example"));
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_bytes(cookie.as_bytes()).unwrap());
        }
        headers
    }

    fn kept(session_cookie: Option<&str>, cookies: &[&str]) -> HeaderMap {
        let session_cookie = session_cookie.map(str::to_owned);
        KeptHeaders { session_cookie }.of(&headers(cookies))
    }

    #[test]
    fn of_all_cookies_the_session_s_is_kept_and_none_where_none_counts() {
        let big = format!("junk={}", "x".repeat(14_000));
        let cookies = [
            big.as_str(),
            "a=1; connect.sid=s%3Aone.sig ; connect.sid=two",
            "connect.sid=three",
        ];
        let kept_none = kept(None, &cookies);
        assert_eq!(kept_none.len(), 1);
        assert_eq!(kept_none[AUTHORIZATION], "Bearer a.b.c");

        let kept = kept(Some("connect.sid"), &cookies);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[COOKIE], "connect.sid=s%3Aone.sig");
        assert!(!format!("{kept:?}").contains("one"));
    }

    #[test]
    fn of_authorization_a_bearers_is_kept_as_far_as_it_can_be_a_token() {
        let kept = |authorization: &[u8]| {
            let value = HeaderValue::from_bytes(authorization).unwrap();
            let kept = KeptHeaders::default().of(&HeaderMap::from_iter([(AUTHORIZATION, value)]));
            kept.get(AUTHORIZATION).cloned()
        };
        let long = "x".repeat(14_000);
        for scheme in ["Basic", "Digest", "Bearerx", ""] {
            assert_eq!(
                kept(format!("{scheme} {long}").as_bytes()),
                None,
                "{scheme}"
            );
        }
        for nothing in ["Bearer", "Bearer ", "Bearer    "] {
            assert_eq!(kept(nothing.as_bytes()), None);
        }
        assert_eq!(kept(b"bEaReR   a.b.c").unwrap(), "Bearer a.b.c");
        let whole = format!("Bearer {}", &long[..MAX_BEARER]);
        assert_eq!(kept(whole.as_bytes()).unwrap(), *whole);
        let cut = kept(format!("Bearer {long}").as_bytes()).unwrap();
        assert_eq!(cut.len(), "Bearer ".len() + MAX_BEARER + 1);
        // What is no token stays one that is refused.
        for junk in ["Bearer é", "Bearer \u{20ac}\u{20ac}"] {
            assert!(kept(junk.as_bytes()).is_some());
        }
        assert!(kept(b"Bearer \xff\xfe").is_some());
        let wide = format!("Bearer {}", "\u{20ac}".repeat(4_000));
        assert!(kept(wide.as_bytes()).unwrap().len() > MAX_BEARER);
    }

    #[test]
    fn what_is_kept_names_the_same_session_as_what_was_sent() {
        let long = format!("sid=s%3A{}", "x".repeat(10_000));
        for cookies in [
            &["sid=\"quoted\""][..],
            &["sid="],
            &["sid"],
            &["other=1"],
            &[" sid = spaced ;b=2"],
            &["b=2;sid=%E2%82%AC€"],
            &["x=1", "sid=second header"],
            &[],
        ] {
            let named = |headers: &HeaderMap| {
                let credentials = Credentials::from_handshake(None, headers);
                let cookies = credentials.cookies?;
                cookie::named(cookies.expose_secret(), "sid").map(|value| value.into_owned())
            };
            let kept = kept(Some("sid"), cookies);
            assert_eq!(named(&kept), named(&headers(cookies)), "{cookies:?}");
        }
        let kept = kept(Some("sid"), &[&long]);
        assert_eq!(kept[COOKIE].len(), "sid=".len() + MAX_COOKIE);
    }
}
