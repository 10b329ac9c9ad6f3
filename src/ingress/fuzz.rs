//! Random bytes, and random values, in what is published.
#![allow(clippy::unwrap_used)]

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::{Format, emitter::EmitterFormat, msgpack, python::PythonFormat};

const CHANNELS: [&str; 7] = [
    "socket.io#/#",
    "socket.io#/#room#",
    "socket.io#emitter",
    "socket.io-request#/#",
    "socket.io#",
    "socket.io",
    "#",
];

/// A value in which the words of both formats are likely.
fn value() -> impl Strategy<Value = Value> {
    let word = select(vec![
        "type",
        "data",
        "nsp",
        "rooms",
        "except",
        "flags",
        "opts",
        "method",
        "emit",
        "event",
        "binary",
        "sid",
        "room",
        "_placeholder",
        "num",
        "$base64",
        "/",
        "disconnect",
        "close",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..8_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((word.clone(), inner), 0..6).prop_map(|fields| fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

fn read_all(channel: &str, payload: &[u8]) {
    let emitter = EmitterFormat::new("socket.io");
    emitter.room(channel);
    let _ = emitter.read(channel, payload);
    let _ = PythonFormat::new("socketio").read(channel, payload);
}

proptest! {
    #[test]
    fn bytes_may_be_anything(channel in select(CHANNELS.to_vec()), bytes in vec(any::<u8>(), 0..200), made_up in ".{0,20}") {
        read_all(channel, &bytes);
        read_all(&made_up, &bytes);
        // Behind a head that leads into the packet.
        let head = [0x93, 0xa1, b'x', 0x83, 0xa4, b'd', b'a', b't', b'a', 0x92, 0xa1, b'e'];
        read_all(channel, &[&head[..], &bytes].concat());
    }

    #[test]
    fn values_may_be_anything(channel in select(CHANNELS.to_vec()), value in value(), packet in value(), options in value()) {
        for said in [value, json!(["emitter", packet, options]), json!([packet, options])] {
            read_all(channel, said.to_string().as_bytes());
            read_all(channel, &rmp_serde::to_vec(&said).unwrap());
        }
    }

    #[test]
    fn what_is_cut_off_is_refused(value in value(), cut in any::<prop::sample::Index>()) {
        let whole = rmp_serde::to_vec(&value).unwrap();
        prop_assert!(msgpack::read(&whole).is_ok());
        prop_assert!(msgpack::read(&whole[..cut.index(whole.len())]).is_err());
        prop_assert!(msgpack::read(&[whole, vec![0xc0]].concat()).is_err());
    }
}

/// On the stack of a thread of tokio's, which is 2 MB: what is nested is refused before it overflows it.
#[test]
fn depth_is_bounded() {
    let on_a_small_stack = || {
        for level in [0x91_u8, 0x81, 0xdc] {
            assert!(msgpack::read(&[level; 1_000_000]).is_err());
        }
        let nested = |depth: usize| [vec![0x91; depth], vec![0x01]].concat();
        assert!(msgpack::read(&nested(90)).is_ok());
        assert!(msgpack::read(&nested(110)).is_err());
        for open in ["[", r#"{"a":"#] {
            read_all("socket.io-request#/#", open.repeat(100_000).as_bytes());
        }
        // What claims to be long and is not takes no memory.
        for claim in [
            [0xdd, 0xff, 0xff, 0xff, 0xff],
            [0xc6, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(msgpack::read(&claim).is_err());
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    thread.spawn(on_a_small_stack).unwrap().join().unwrap();
}
