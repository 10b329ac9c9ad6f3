//! The cookie `refreshToken` ([RFC 6265](https://www.rfc-editor.org/rfc/rfc6265)): scripts can't read it, and other sites'
//! pages can't have it sent.

use http::{HeaderMap, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

/// Its name.
pub const NAME: &str = "refreshToken";

/// What goes with it: it is sent to the two calls that take it, and to nothing else.
const ATTRIBUTES: &str = "Path=/api; HttpOnly; SameSite=Lax";

/// The refresh token that a request brings; none if it brings none, or an empty one. Of several with the name it is the
/// first, which browsers make the one of the longest path (RFC 6265 §5.4).
pub fn read(headers: &HeaderMap) -> Option<SecretString> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| name.trim() == NAME)
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
        .map(SecretString::from)
}

/// The `Set-Cookie` that has a browser keep a refresh token `until` it is over, to the next full second.
pub fn keep(token: &SecretString, until: Timestamp, now: Timestamp, https: bool) -> SecretString {
    let left = until.duration_since(now);
    let begun = i64::from(left.subsec_nanos() > 0);
    let seconds = left.as_secs().saturating_add(begun).max(0);
    text(token.expose_secret(), seconds, https).into()
}

/// The `Set-Cookie` that has a browser forget it.
pub fn forget(https: bool) -> SecretString {
    text("", 0, https).into()
}

fn text(value: &str, max_age: i64, https: bool) -> String {
    let secure = if https { "; Secure" } else { "" };
    format!("{NAME}={value}; {ATTRIBUTES}; Max-Age={max_age}{secure}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_static(value));
        values.map(|value| (name.clone(), value)).collect()
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        for (cookies, token) in [
            (&[][..], None),
            (&["refreshToken=a"], Some("a")),
            (&["a=b; refreshToken=a.b-c_d=="], Some("a.b-c_d==")),
            (&["a=b;refreshToken=x ;c=d"], Some("x")),
            (&["a=b", "refreshToken=x"], Some("x")),
            (&["refreshToken=x; refreshToken=y"], Some("x")),
            (&["refreshToken="], None),
            (&["refreshToken"], None),
            (&["xrefreshToken=a; refreshTokenx=b; RefreshToken=c"], None),
            (&["a=refreshToken=x"], None),
        ] {
            let found = read(&headers(header::COOKIE, cookies));
            let found = found.as_ref().map(ExposeSecret::expose_secret);
            assert_eq!(found, token, "{cookies:?}");
        }
        let mut bytes = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"refreshToken=\xff").unwrap();
        bytes.insert(header::COOKIE, value);
        assert!(read(&bytes).is_none());
    }

    #[test]
    fn it_is_kept_from_scripts_and_other_sites_for_as_long_as_it_is_good() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let kept = |until, https| keep(&"t-1".into(), at(until), at(1000), https);
        assert_eq!(
            kept(1060, false).expose_secret(),
            "refreshToken=t-1; Path=/api; HttpOnly; SameSite=Lax; Max-Age=60"
        );
        assert_eq!(
            kept(1060, true).expose_secret(),
            "refreshToken=t-1; Path=/api; HttpOnly; SameSite=Lax; Max-Age=60; Secure"
        );
        assert!(kept(900, false).expose_secret().ends_with("; Max-Age=0"));
        // The call itself takes some of the time; what is over within a second is kept for one.
        let later = at(1000) + jiff::SignedDuration::from_micros(3);
        for (until, max_age) in [(1060, "=60"), (1001, "=1"), (1000, "=0"), (999, "=0")] {
            let kept = keep(&"t-1".into(), at(until), later, false);
            assert!(kept.expose_secret().ends_with(max_age), "{until}");
        }
        assert_eq!(
            forget(true).expose_secret(),
            "refreshToken=; Path=/api; HttpOnly; SameSite=Lax; Max-Age=0; Secure"
        );
    }
}
