//! The client's address: the peer of the TCP connection, or the address that a trusted proxy names.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address. `X-Forwarded-For` counts only from a peer in `trusted`, and is read from the right: each proxy
/// appends the address it saw, so the first one that is not a trusted proxy's is the client's, and whatever stands to the
/// left of it is the client's own invention. An entry that is no address ends the walk at the last good one.
///
/// That holds where `trusted` names proxies alone. With 10.0.0.0/8 trusted, a client at 10.9.9.9 that sends `6.6.6.6` through a
/// proxy that appends is taken for 6.6.6.6: its own address looks like one more proxy's. nginx' `real_ip_recursive` and Express'
/// `trust proxy` walk the same way; a number of hops instead would be wrong for clients that come by a shorter way.
pub fn client_addr(peer: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |addr: &IpAddr| trusted.iter().any(|net| net.contains(addr));
    let mut client = canonical(peer.ip());
    if trusted.is_empty() || !is_trusted(&client) {
        return client;
    }
    let lines: Vec<&str> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .map_while(|line| line.to_str().ok())
        .collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Some(addr) = parse_hop(hop.trim()) else {
            break;
        };
        client = addr;
        if !is_trusted(&addr) {
            break;
        }
    }
    client
}

/// An IPv4 address that came in on an IPv6 socket is the IPv4 address.
fn canonical(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}

/// Proxies write addresses bare, with a port, or in brackets.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    hop.parse::<IpAddr>()
        .or_else(|_| hop.parse::<SocketAddr>().map(|addr| addr.ip()))
        .or_else(|_| {
            hop.trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<IpAddr>()
        })
        .ok()
        .map(canonical)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addr(peer: &str, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        client_addr(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn nobody_is_believed_by_default() {
        assert_eq!(addr("10.0.0.1:5", &["6.6.6.6"], &[]), "10.0.0.1");
        assert_eq!(addr("9.9.9.9:5", &["6.6.6.6"], &["10.0.0.0/8"]), "9.9.9.9");
    }

    #[test]
    fn the_walk_goes_from_the_right_over_trusted_hops() {
        let trusted = &["10.0.0.0/8", "::1/128"];
        let cases: &[(&str, &[&str], &str)] = &[
            ("10.0.0.1:5", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1:5", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1:5", &["6.6.6.6", "1.2.3.4", "10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1:5", &["6.6.6.6, garbage, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1:5", &["garbage"], "10.0.0.1"),
            ("10.0.0.1:5", &[""], "10.0.0.1"),
            ("10.0.0.1:5", &["1.2.3.4:8080"], "1.2.3.4"),
            ("[::1]:5", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("[::1]:5", &["[2001:db8::1]"], "2001:db8::1"),
            ("[::ffff:10.0.0.1]:5", &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1:5", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // A client inside a trusted network is believed like a proxy.
            ("10.0.0.1:5", &["6.6.6.6, 10.9.9.9"], "6.6.6.6"),
        ];
        for (peer, lines, client) in cases {
            assert_eq!(addr(peer, lines, trusted), *client, "{peer} {lines:?}");
        }
        let forged = &["6.6.6.6, 10.9.9.9"];
        assert_eq!(addr("10.0.0.1:5", forged, &["10.0.0.1/32"]), "10.9.9.9");
    }
}
