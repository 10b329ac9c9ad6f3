//! Which pages may open a session with a browser's cookies.
//!
//! A browser sends a site's cookies along with a WebSocket that any page opens to it (cross-site WebSocket hijacking,
//! CWE-1385), and CORS does not apply there. What tells is the `Origin` header, which browsers send and pages can't set, and
//! where browsers send it `Sec-Fetch-Site`.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, HOST, ORIGIN},
};

use reqwest::Url;

use crate::config::Cors;

/// The origins of pages that may: the node's own, and those of `cors.allowed_origins`.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    allowed: Vec<String>,
    /// Whether pages of any origin may, without cookies.
    anyone: bool,
    /// Whether pages of this machine's loopback addresses may, of any port.
    localhost: bool,
}

impl Origins {
    /// The policy of `cors.allowed_origins`, each as browsers send it. Its `*` lets no cookie in: it stands for pages that anybody
    /// wrote.
    pub fn new(cors: &Cors) -> Self {
        let (anyone, allowed): (Vec<_>, Vec<_>) = cors
            .allowed_origins
            .iter()
            .cloned()
            .partition(|origin| origin == "*");
        Self {
            allowed,
            anyone: !anyone.is_empty(),
            localhost: cors.localhost,
        }
    }

    /// Whether pages of an origin may, by the list.
    pub fn is_listed(&self, origin: &str) -> bool {
        let listed = self.allowed.iter().any(|allowed| allowed == origin);
        listed || self.localhost && is_localhost(origin)
    }

    /// Whether a handshake comes from a page whose browser will keep the answer from it: its origin is another, and is not in
    /// the list.
    pub fn is_unknown(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else {
            return false;
        };
        let origin = origin.to_str().unwrap_or_default();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let own = host.is_some_and(|host| is_own(origin, host))
            || headers
                .get(SEC_FETCH_SITE)
                .is_some_and(|site| site == "same-origin");
        !self.anyone && !own && !self.is_listed(origin)
    }

    /// Whether a handshake with these headers may go on. One without cookies may always: it brings nothing that the page
    /// has not got itself. More than one `Origin`, `Host` or `Sec-Fetch-Site` is refused: which of them somebody else went by
    /// is nothing to guess at.
    ///
    /// A page may use cookies whose `Origin` is in the list to the letter. Any other page has to be of the request's own
    /// origin: the browser says nothing else of it in `Sec-Fetch-Site`, and its `Origin` has the host and port of `Host`, and
    /// the scheme too where it is known, see [`is_https`]. `null` (a sandboxed frame, a file) is nobody's own.
    ///
    /// Without an `Origin` it is enough that `Sec-Fetch-Site` does not speak against it: browsers send an `Origin` with every
    /// WebSocket and with every request of a script to another origin; what comes without is a page's poll of its own origin,
    /// another site's link or image, which that header tells apart, or no browser.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(COOKIE) {
            return true;
        }
        let (Some(origin), Some(host), Some(site)) = (
            single(headers, ORIGIN),
            single(headers, HOST),
            single(headers, SEC_FETCH_SITE),
        ) else {
            return false;
        };
        let is_elsewhere = site.is_some_and(|site| site == "cross-site" || site == "same-site");
        let Some(origin) = origin else {
            return !is_elsewhere;
        };
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        if self.is_listed(origin) {
            return true;
        }
        let fits = !is_https(headers) || origin.starts_with("https://");
        let host = host.and_then(|host| host.to_str().ok());
        !is_elsewhere && fits && host.is_some_and(|host| is_own(origin, host))
    }
}

/// Whether the browser came over TLS, as the proxy says that has ended it. Without the header that is not known, and neither is
/// it with `http`: a proxy behind the one that ended TLS says that of itself. Believed from anybody: it only ever asks for more,
/// a cookie that is `Secure`, a page that came over TLS. Of several proxies the first one counts.
pub fn is_https(headers: &HeaderMap) -> bool {
    headers
        .get(X_FORWARDED_PROTO)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').next())
        .is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
}

/// How the page that a request comes from is related to the server, by the browser (W3C Fetch Metadata): `same-origin`,
/// `same-site`, `cross-site` or `none`. To a browser http://host is cross-site to https://host.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The one value of a header, or none; nothing if there are several.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<Option<&HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.next().is_none().then_some(first)
}

/// Whether an origin is that of a page which this machine serves, at any port: development servers choose one.
fn is_localhost(origin: &str) -> bool {
    Url::parse(origin).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
            && url.origin().ascii_serialization() == origin
    })
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
        Origins::new(&Cors {
            allowed_origins: origins,
            localhost: false,
        })
    }

    #[test]
    fn development_mode_knows_pages_of_this_machine_and_no_others() {
        let policy = Origins::new(&Cors {
            allowed_origins: Vec::new(),
            localhost: true,
        });
        let host = "127.0.0.1:3000";
        for origin in [
            "http://localhost",
            "http://localhost:5173",
            "https://localhost:8443",
            "http://127.0.0.1:8080",
            "http://[::1]:1",
        ] {
            assert!(allows(&policy, origin, host), "{origin}");
            assert!(!policy.is_unknown(&headers(origin, host)), "{origin}");
        }
        for origin in [
            "https://evil.com",
            "http://localhost.evil.com",
            "http://localhost:5173.evil.com",
            "http://localhost@evil.com",
            "http://localhost:",
            "http://evil.com:localhost",
            "null",
            "ftp://localhost",
        ] {
            assert!(!allows(&policy, origin, host), "{origin}");
            assert!(policy.is_unknown(&headers(origin, host)), "{origin}");
        }
    }

    #[test]
    fn a_page_is_unknown_whose_origin_is_neither_listed_nor_the_nodes_own() {
        let listed = policy(&["https://app.example.com"]);
        let unknown = |policy: &Origins, origin| policy.is_unknown(&headers(origin, "gateway.com"));
        assert!(!unknown(&listed, "https://app.example.com"));
        assert!(!unknown(&listed, "https://gateway.com"));
        assert!(unknown(&listed, "https://other.com"));
        assert!(!unknown(&policy(&["*"]), "https://other.com"));
        assert!(!listed.is_unknown(&HeaderMap::new()));
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

    /// `headers` with another one.
    fn with(mut headers: HeaderMap, name: &'static str, value: &'static str) -> HeaderMap {
        headers.append(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn tls_is_what_the_first_proxy_says() {
        for (value, https) in [
            ("https", true),
            ("HTTPS", true),
            ("https, http", true),
            ("http, https", false),
            ("http", false),
            ("", false),
        ] {
            let headers = with(HeaderMap::new(), "x-forwarded-proto", value);
            assert_eq!(is_https(&headers), https, "{value}");
        }
        assert!(!is_https(&HeaderMap::new()));
    }

    #[test]
    fn behind_tls_a_page_without_it_is_another_origin() {
        let some = policy(&["http://old.example.com"]);
        let at = |origin: &str, proto: &'static str| {
            let headers = headers(origin, "app.example.com");
            some.allow(&with(headers, "x-forwarded-proto", proto))
        };
        for proto in ["https", "HTTPS", "https, http"] {
            assert!(at("https://app.example.com", proto), "{proto}");
            assert!(!at("http://app.example.com", proto), "{proto}");
            assert!(at("http://old.example.com", proto), "{proto}");
        }
        // A proxy behind the one that ended TLS.
        for proto in ["http", "", "http, https"] {
            assert!(at("https://app.example.com", proto), "{proto}");
            assert!(at("http://app.example.com", proto), "{proto}");
        }
    }

    #[test]
    fn what_the_browser_says_of_the_page_counts() {
        let some = policy(&["https://friend.example"]);
        let allows = |origin: Option<&str>, site: &'static str| {
            let mut headers = headers(origin.unwrap_or("x"), "app.example.com");
            if origin.is_none() {
                headers.remove(ORIGIN);
            }
            some.allow(&with(headers, "sec-fetch-site", site))
        };
        let own = Some("https://app.example.com");
        for site in ["same-origin", "none"] {
            assert!(allows(own, site) && allows(None, site), "{site}");
            assert!(!allows(Some("https://evil.example"), site), "{site}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(!allows(None, site), "{site}");
            assert!(!allows(own, site), "{site}");
            assert!(!allows(Some("http://app.example.com"), site), "{site}");
            assert!(allows(Some("https://friend.example"), site), "{site}");
        }
        let mut twice = with(
            headers("https://app.example.com", "app.example.com"),
            "sec-fetch-site",
            "same-origin",
        );
        assert!(some.allow(&twice));
        twice = with(twice, "sec-fetch-site", "cross-site");
        assert!(!some.allow(&twice));
        twice.remove(COOKIE);
        assert!(some.allow(&twice), "without cookies everyone may");
    }
}
