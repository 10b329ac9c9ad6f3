//! Random bytes in what is read before a session is there.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, Request, header};
use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    frames::{CLOSE_PACKET, Frames},
    peer::client_addr,
    recoder::Recoder,
    request::{Query, cut, slim_request, websocket_accept},
};

const HOPS: [&str; 14] = [
    "1.2.3.4",
    "10.0.0.2",
    "127.0.0.1",
    "[::1]:80",
    "::ffff:10.0.0.1",
    "1.2.3.4:99999",
    "",
    " ",
    "unknown",
    "[",
    "]]",
    "é",
    "1.2.3.4 5.6.7.8",
    "fe80::1%eth0",
];

fn hop() -> impl Strategy<Value = String> {
    prop_oneof![
        select(HOPS.to_vec()).prop_map(str::to_owned),
        any::<IpAddr>().prop_map(|it| it.to_string()),
        any::<SocketAddr>().prop_map(|it| it.to_string()),
        "[ -~]{0,12}",
    ]
}

fn header_line(line: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(line.as_bytes()).ok()
}

proptest! {
    /// Whatever a client writes to the left of what its proxy saw changes nothing.
    #[test]
    fn a_client_can_not_make_up_its_address(made_up in vec(hop(), 0..4), seen in any::<IpAddr>(), proxies in vec(0..=255_u8, 0..3)) {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let seen = seen.to_canonical();
        prop_assume!(!trusted[0].contains(&seen));
        let peer = SocketAddr::from(([10, 0, 0, 1], 5));
        let hops: Vec<_> = std::iter::once(seen.to_string()).chain(proxies.iter().map(|it| format!("10.0.0.{it}"))).collect();
        let line = made_up.iter().chain(&hops).cloned().collect::<Vec<_>>().join(", ");
        let mut headers = HeaderMap::new();
        if let Some(line) = header_line(&line).filter(|line| line.to_str().is_ok()) {
            headers.append("x-forwarded-for", line);
            prop_assert_eq!(client_addr(peer, &headers, &trusted), seen);
        }
        // From somebody who is no proxy none of it counts.
        let stranger = SocketAddr::from(([9, 9, 9, 9], 5));
        prop_assert_eq!(client_addr(stranger, &headers, &trusted), stranger.ip());
        prop_assert_eq!(client_addr(peer, &headers, &[]), peer.ip());
    }

    /// Any number of lines of anything give an address.
    #[test]
    fn forwarded_headers_may_hold_anything(lines in vec(vec(any::<u8>(), 0..40), 0..4)) {
        let mut headers = HeaderMap::new();
        for line in lines {
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                headers.append("x-forwarded-for", line);
            }
        }
        let all: Vec<IpNet> = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let _ = client_addr(SocketAddr::from(([10, 0, 0, 1], 5)), &headers, &all);
    }

    /// However bytes are cut into reads, the same place in the stream is found; and no bytes panic.
    #[test]
    fn frames_are_followed_however_they_are_cut(bytes in vec(any::<u8>(), 0..400), cuts in vec(any::<prop::sample::Index>(), 0..6)) {
        let mut whole = Frames::default();
        whole.advance(&bytes);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Frames::default();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.advance(&bytes[from..cut]);
            from = cut;
        }
        prop_assert_eq!(whole.between_messages(), pieces.between_messages());
        if whole.between_messages() {
            whole.advance(CLOSE_PACKET);
            prop_assert!(whole.between_messages());
        }
    }

    /// However bytes are cut into reads, the engine reads the same; and no bytes panic.
    #[test]
    fn bytes_are_made_anew_however_they_are_cut(
        texts in vec(select(vec!["bAQID", "b", "b!", "42[1]", "42/a,7[-1,2]", "451-[1]", "2", ""]), 0..5),
        fragment in any::<bool>(),
        rest in vec(any::<u8>(), 0..100),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut bytes = Vec::new();
        for text in texts {
            let half = if fragment { text.len() / 2 } else { text.len() };
            let (begin, end) = text.split_at(half);
            bytes.extend([if fragment { 0x01 } else { 0x81 }, 0x80 | begin.len() as u8, 0, 0, 0, 0]);
            bytes.extend(begin.bytes());
            if fragment {
                bytes.extend([0x80, 0x80 | end.len() as u8, 0, 0, 0, 0]);
                bytes.extend(end.bytes());
            }
        }
        bytes.extend(rest);
        let whole = Recoder::default().recode(&bytes, 1000);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut recoder = Recoder::default();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.extend(recoder.recode(&bytes[from..cut], 1000));
            from = cut;
        }
        prop_assert_eq!(&pieces, &whole);
        prop_assert!(pieces.len() as u64 + recoder.held() <= 3 * bytes.len() as u64);
    }

    /// A message that is whole leaves the stream between messages, whatever is in it.
    #[test]
    fn whole_messages_end_where_they_end(payloads in vec((vec(any::<u8>(), 0..300), any::<bool>(), any::<[u8; 4]>()), 0..6)) {
        let mut frames = Frames::default();
        for (payload, fragmented, mask) in payloads {
            let parts: Vec<&[u8]> = if fragmented { payload.chunks(7).collect() } else { vec![&payload] };
            for (number, part) in parts.iter().enumerate() {
                let last = number + 1 == parts.len();
                let opcode = if number == 0 { 1 } else { 0 };
                let mut frame = vec![u8::from(last) << 7 | opcode];
                match part.len() {
                    length @ 0..126 => frame.push(0x80 | length as u8),
                    length => {
                        frame.push(0x80 | 126);
                        frame.extend((length as u16).to_be_bytes());
                    }
                }
                frame.extend(mask);
                frame.extend(*part);
                frames.advance(&frame);
                prop_assert_eq!(frames.between_messages(), last);
            }
        }
    }

    #[test]
    fn queries_may_hold_anything(query in "[ -~é]{0,60}", text in any::<String>(), max in 0..40_usize) {
        for query in [query, format!("EIO=4&transport=polling&sid={text}"), format!("=&&EIO&{text}=1")] {
            let uri = format!("/socket.io/?{query}");
            if let Ok(uri) = uri.parse() {
                let query = Query::of(&uri);
                let _ = (query.version, query.transport, query.sid);
            }
            let _ = slim_request(&uri);
        }
        let cut = cut(&text, max);
        prop_assert!(text.starts_with(cut) && cut.len() <= max);
    }

    /// Only a key of sixteen bytes gets a WebSocket.
    #[test]
    fn upgrades_may_ask_for_anything(key in vec(any::<u8>(), 0..40), connection in vec(any::<u8>(), 0..20), upgrade in "[a-zA-Z, ]{0,20}") {
        let mut request = Request::get("/socket.io/").body(()).unwrap();
        for (name, value) in [
            (header::SEC_WEBSOCKET_KEY, key.as_slice()),
            (header::CONNECTION, connection.as_slice()),
            (header::CONNECTION, b"keep-alive, UPGRADE"),
            (header::UPGRADE, upgrade.as_bytes()),
            (header::UPGRADE, b"websocket"),
            (header::SEC_WEBSOCKET_VERSION, b"13"),
        ] {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                request.headers_mut().append(name, value);
            }
        }
        let accepted = websocket_accept(&request).is_some();
        prop_assert!(!accepted || key.len() == 24, "a key of {} characters", key.len());
    }
}
