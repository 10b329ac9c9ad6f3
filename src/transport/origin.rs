//! Which pages may open a session with a browser's cookies.
//!
//! A browser sends a site's cookies along with a WebSocket that any page opens to it (cross-site WebSocket hijacking,
//! CWE-1385), and CORS does not apply there. What tells is the `Origin` header, which browsers send and pages can't set.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, HOST, ORIGIN},
};

/// The origins of pages that may: the node's own, and those of `cors.allowed_origins`.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    allowed: Vec<String>,
}

impl Origins {
    /// The policy of a list of origins, each as browsers send it. Its `*` lets no cookie in: it stands for pages that anybody
    /// wrote.
    pub fn new(allowed: &[String]) -> Self {
        let allowed = allowed.iter().filter(|origin| *origin != "*");
        Self {
            allowed: allowed.cloned().collect(),
        }
    }

    /// Whether a handshake with these headers may go on. One without cookies may always: it brings nothing that the page
    /// has not got itself. More than one `Origin` or `Host` is refused: which of them somebody else went by is nothing to
    /// guess at.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(COOKIE) {
            return true;
        }
        match (single(headers, ORIGIN), single(headers, HOST)) {
            (Some(origin), Some(host)) => self.allows_cookies(origin, host),
            _ => false,
        }
    }

    /// Whether a page of this `Origin` may use cookies on this `Host`.
    ///
    /// Without an `Origin` it may: browsers send one with every WebSocket and with every request of a script to another
    /// origin; what comes without is a page's poll of its own origin, or no browser. With one, it has to be in the list to
    /// the letter, or the request's own: the same host and port as in `Host`. The scheme is not compared, as behind a proxy
    /// that ends TLS it is not known. `null` (a sandboxed frame, a file) is nobody's own.
    fn allows_cookies(&self, origin: Option<&HeaderValue>, host: Option<&HeaderValue>) -> bool {
        let Some(origin) = origin else {
            return true;
        };
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        if self.allowed.iter().any(|allowed| allowed == origin) {
            return true;
        }
        host.and_then(|host| host.to_str().ok())
            .is_some_and(|host| is_own(origin, host))
    }
}

/// The one value of a header, or none; nothing if there are several.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<Option<&HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.next().is_none().then_some(first)
}

/// Whether an origin as browsers write it (RFC 6454 §6.2: lower case, no default port, nothing after it) is that of `host`.
fn is_own(origin: &str, host: &str) -> bool {
    let (authority, default_port) = match (
        origin.strip_prefix("https://"),
        origin.strip_prefix("http://"),
    ) {
        (Some(authority), _) => (authority, ":443"),
        (_, Some(authority)) => (authority, ":80"),
        _ => return false,
    };
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(plain) {
        return false;
    }
    let host = host.to_ascii_lowercase();
    host == authority || host.strip_suffix(default_port) == Some(authority)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn policy(origins: &[&str]) -> Origins {
        let origins: Vec<_> = origins.iter().map(|origin| (*origin).into()).collect();
        Origins::new(&origins)
    }

    /// The headers of a handshake with a cookie.
    fn headers(origin: &str, host: &str) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("a=b"));
        headers.insert(ORIGIN, value(origin));
        headers.insert(HOST, value(host));
        headers
    }

    fn allows(policy: &Origins, origin: &str, host: &str) -> bool {
        policy.allow(&headers(origin, host))
    }

    #[test]
    fn without_cookies_everyone_may() {
        let mut headers = headers("https://evil.com", "app.example.com");
        headers.remove(COOKIE);
        assert!(policy(&[]).allow(&headers));
    }

    #[test]
    fn its_own_origin_is_the_same_host_and_port() {
        let none = policy(&[]);
        for (origin, host) in [
            ("https://app.example.com", "app.example.com"),
            ("http://app.example.com", "app.example.com"),
            ("https://app.example.com", "app.example.com:443"),
            ("http://app.example.com", "app.example.com:80"),
            ("https://app.example.com", "App.Example.COM"),
            ("https://app.example.com:8443", "app.example.com:8443"),
            ("http://localhost:3000", "localhost:3000"),
            ("http://127.0.0.1:3000", "127.0.0.1:3000"),
            ("http://[::1]:3000", "[::1]:3000"),
            ("https://xn--nxasmq6b", "xn--nxasmq6b"),
        ] {
            assert!(allows(&none, origin, host), "{origin} at {host}");
        }
    }

    #[test]
    fn any_other_origin_is_refused() {
        let none = policy(&[]);
        let host = "app.example.com";
        for origin in [
            "https://evil.com",
            "null",
            "",
            "https://",
            "app.example.com",
            "https://app.example.com.evil",
            "https://app.example.com.evil.com",
            "https://evil-app.example.com",
            "https://evilapp.example.com",
            "https://example.com",
            "https://www.app.example.com",
            "https://app.example.com.",
            "https://app.example.com:444",
            "https://app.example.com:80",
            "http://app.example.com:443",
            "https://app.example.com:",
            "https://APP.example.com",
            "HTTPS://app.example.com",
            "https://app.example.com/",
            "https://app.example.com/x",
            "https://app.example.com?x",
            "https://app.example.com#x",
            "https://app.example.com@evil.com",
            "https://evil.com@app.example.com",
            "https://evil.com#app.example.com",
            "https://evil.com/app.example.com",
            "https://evil.com\\app.example.com",
            "https:app.example.com",
            "https:/app.example.com",
            "https:///app.example.com",
            "ws://app.example.com",
            "ftp://app.example.com",
            "file://app.example.com",
            "chrome-extension://app.example.com",
            " https://app.example.com",
            "https://app.example.com ",
            "https://app.example.com https://evil.com",
            "https://app.example.com, https://evil.com",
            "https://app.example.com\u{e9}",
            "https://аpp.example.com",
        ] {
            assert!(!allows(&none, origin, host), "{origin:?}");
        }
        assert!(!allows(&none, "https://", ""));
        assert!(!allows(&none, "https://a@b", "a@b"));
        assert!(!allows(&none, "https://a/b", "a/b"));
        assert!(!allows(&none, "https://*", "app.example.com"));
        let mut headers = headers("https://app.example.com", "app.example.com");
        assert!(none.allow(&headers));
        headers.remove(HOST);
        assert!(!none.allow(&headers));
    }

    #[test]
    fn the_list_is_taken_to_the_letter() {
        let some = policy(&["https://app.example.com", "capacitor://localhost"]);
        let at = |origin: &str| allows(&some, origin, "gateway.example.com");

        assert!(at("https://app.example.com"));
        assert!(at("capacitor://localhost"));
        assert!(at("https://gateway.example.com"));
        for origin in [
            "http://app.example.com",
            "https://app.example.com:443",
            "https://app.example.com.evil",
            "https://sub.app.example.com",
            "https://example.com",
            "https://App.example.com",
            "capacitor://localhost2",
            "null",
        ] {
            assert!(!at(origin), "{origin}");
        }
    }

    #[test]
    fn a_star_lets_no_cookie_in() {
        let any = policy(&["*"]);
        assert!(!allows(&any, "https://evil.com", "app.example.com"));
        assert!(!allows(&any, "*", "app.example.com"));
        assert!(!allows(&any, "null", "app.example.com"));
        assert!(allows(&any, "https://app.example.com", "app.example.com"));
    }

    #[test]
    fn no_origin_is_allowed_and_two_are_not() {
        let none = policy(&[]);
        let mut headers = headers("https://a", "a");
        assert!(none.allow(&headers));
        headers.append(ORIGIN, HeaderValue::from_static("https://evil.com"));
        assert!(!none.allow(&headers));
        headers.insert(ORIGIN, HeaderValue::from_static("https://a"));
        headers.append(HOST, HeaderValue::from_static("evil.com"));
        assert!(!none.allow(&headers));
        headers.remove(HOST);
        headers.remove(ORIGIN);
        assert!(none.allow(&headers));
    }
}
