//! Which pages may open a session with a browser's cookies.
//!
//! A browser sends a site's cookies along with a WebSocket that any page opens to it (cross-site WebSocket hijacking), and
//! CORS does not apply there. What tells is the `Origin` header, which browsers send and pages can't set.

use http::{HeaderMap, HeaderValue, Uri, header};

/// The origins of pages that may: the node's own, and those of `cors.allowed_origins`.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    allowed: Vec<String>,
}

impl Origins {
    /// The policy of a list of origins, each as browsers send it.
    pub fn new(allowed: &[String]) -> Self {
        Self {
            allowed: allowed.to_vec(),
        }
    }

    /// Whether a handshake with these headers may go on. One without cookies may always: it brings nothing that the page
    /// has not got itself. One without an origin is no browser's, or comes from the node's own pages.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        match headers.get(header::ORIGIN) {
            Some(origin) if headers.contains_key(header::COOKIE) => {
                is_own(origin, headers.get(header::HOST))
                    || self
                        .allowed
                        .iter()
                        .any(|allowed| allowed.as_bytes() == origin.as_bytes())
            }
            _ => true,
        }
    }
}

/// Whether the page comes from the host that it asks. The scheme is not compared: behind a proxy that ends TLS the node
/// does not know its own.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let origin = origin
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Uri>().ok());
    let (Some(origin), Some(host)) = (origin, host.and_then(|host| host.to_str().ok())) else {
        return false;
    };
    matches!(origin.scheme_str(), Some("http" | "https"))
        && origin
            .authority()
            .is_some_and(|page| page.as_str().eq_ignore_ascii_case(host))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn allowed(origin: Option<&str>, cookie: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::HOST,
            HeaderValue::from_static("app.example.com:8080"),
        );
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        if cookie {
            headers.insert(header::COOKIE, HeaderValue::from_static("a=b"));
        }
        Origins::new(&["https://shop.example.com".into()]).allow(&headers)
    }

    #[test]
    fn without_cookies_or_without_an_origin_everyone_may() {
        assert!(allowed(None, true));
        assert!(allowed(None, false));
        assert!(allowed(Some("https://evil.example"), false));
    }

    #[test]
    fn with_cookies_the_page_must_be_ones_own_or_on_the_list() {
        for origin in [
            "http://app.example.com:8080",
            "https://app.example.com:8080",
            "https://APP.example.com:8080",
            "https://shop.example.com",
        ] {
            assert!(allowed(Some(origin), true), "{origin}");
        }
        for origin in [
            "https://evil.example",
            "null",
            "",
            "https://app.example.com",
            "https://app.example.com:8081",
            "https://app.example.com:8080.evil.example",
            "https://app.example.com.evil.example:8080",
            "https://evil@app.example.com:8080",
            "https://app.example.com.:8080",
            "ftp://app.example.com:8080",
            "https://shop.example.com.evil.example",
            "https://shop.example.com:444",
            "http://shop.example.com",
            "https://SHOP.example.com",
            "//app.example.com:8080",
            "app.example.com:8080",
        ] {
            assert!(!allowed(Some(origin), true), "{origin:?}");
        }
    }
}
