//! Who gets the key of development mode: the page that this node serves to a browser on the same machine, and nobody else.
//!
//! - A page of another origin can't read the answer, as it has no CORS headers; `Sec-Fetch-Site` and `Origin` refuse it all the same.
//! - A name of somebody else's that leads to this machine (DNS rebinding) makes that page one of the same origin. Its name is in
//!   `Host`, which has to be a loopback address or `localhost`, neither of which anybody else can have.
//! - A tunnel or a proxy comes from this machine and may rewrite `Host`. It adds a header that says so.
//!
//! A program on this machine can send whatever it likes. So the key is no secret from other users of the machine, like all that
//! development mode keeps.

use axum::extract::Request;
use http::{HeaderMap, HeaderName, HeaderValue, header, uri::Authority};

use crate::transport::listener::Peer;

/// What proxies add.
const FORWARDED: [&str; 6] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Whether a request comes from the page, in a browser on this machine.
pub(super) fn is_the_page(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>();
    peer.is_some_and(|Peer(address)| address.ip().is_loopback()) && is_own(request.headers())
}

fn is_own(headers: &HeaderMap) -> bool {
    let Some(host) = single(headers, &header::HOST).filter(|host| is_loopback(host)) else {
        return false;
    };
    let origin = format!("http://{host}");
    let only = |name: &HeaderName, value: &str| {
        !headers.contains_key(name) || single(headers, name) == Some(value)
    };
    only(&header::ORIGIN, &origin)
        && only(&HeaderName::from_static("sec-fetch-site"), "same-origin")
        && FORWARDED.iter().all(|name| !headers.contains_key(*name))
}

/// The value of a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(HeaderValue::to_str)?.ok()?;
    values.next().is_none().then_some(value)
}

/// Whether a `Host` is this machine's to every browser: `localhost`, or a loopback address.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn own(headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        is_own(&map)
    }

    #[test]
    fn the_page_itself_gets_it() {
        for host in [
            "127.0.0.1:3000",
            "localhost:3000",
            "[::1]:3000",
            "LOCALHOST",
        ] {
            assert!(own(&[("host", host)]), "{host}");
        }
        let host = ("host", "127.0.0.1:3000");
        assert!(own(&[host, ("sec-fetch-site", "same-origin")]));
        assert!(own(&[host, ("origin", "http://127.0.0.1:3000")]));
    }

    #[test]
    fn nobody_else_does() {
        let host = ("host", "127.0.0.1:3000");
        for headers in [
            &[][..],
            &[("host", "evil.example:3000")],
            &[("host", "127.0.0.1.evil.example:3000")],
            &[("host", "localhost.evil.example")],
            &[("host", "10.0.0.1:3000")],
            &[("host", "127.0.0.1@evil.example")],
            &[host, ("host", "evil.example")],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "http://127.0.0.1:5173")],
            &[host, ("origin", "null")],
            &[host, ("sec-fetch-site", "same-site")],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("x-forwarded-for", "192.0.2.7")],
            &[host, ("forwarded", "for=192.0.2.7")],
            &[host, ("via", "1.1 tunnel")],
        ] {
            assert!(!own(headers), "{headers:?}");
        }
    }
}
