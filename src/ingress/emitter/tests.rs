use super::*;
use crate::gateway::Selection;

fn format() -> EmitterFormat {
    EmitterFormat::new("socket.io")
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().as_chunks::<2>().0;
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
    pairs.iter().map(|pair| byte(pair).unwrap()).collect()
}

fn read(channel: &str, payload: &[u8]) -> Result<Order, Refused> {
    format().read(channel, payload)
}

#[test]
fn what_the_emitter_writes_is_read() {
    // emit("hello", "world") to the room r1 by @socket.io/redis-emitter 5.1.0.
    let payload = bytes(
        "93a7656d697474657283a47479706502a46461746192a568656c6c6fa5776f726c64a36e7370a12f83a5726f6f6d7391a27231a5666c61677380a665786365707490",
    );
    let order = read("socket.io#/#r1#", &payload).unwrap();
    let message = Message::new("/", "hello").with(&"world").unwrap();
    let rooms = vec!["r1".to_owned()];
    let selection = Selection {
        rooms,
        ..Selection::default()
    };
    assert_eq!(order.selection, selection);
    assert_eq!(order.action, Action::Emit(message));
    // In a channel of another namespace it is not what it says.
    let elsewhere = read("socket.io#/chat#", &payload);
    assert_eq!(elsewhere, Err(Refused::Unreadable));
    assert!(read("socket.io#emitter", &payload).is_ok());
}

#[test]
fn a_channel_says_its_room() {
    let format = format();
    for (channel, room) in [
        ("socket.io#/#r1#", Some(("/", "r1"))),
        ("socket.io#/chat#a#b#", Some(("/chat", "a#b"))),
        ("socket.io#/#", None),
        ("socket.io#emitter", None),
        ("socket.io-request#/#", None),
        ("socket.io#/#r1", None),
    ] {
        assert_eq!(format.room(channel), room, "{channel}");
    }
}

#[test]
fn requests_are_read() {
    let request = |json: &str| read("socket.io-request#/chat#", json.as_bytes());
    let opts = r#""opts":{"rooms":["a",7],"except":["b"]}"#;
    for (json, action) in [
        (
            format!(r#"{{"type":2,{opts},"rooms":["x","y"]}}"#),
            Action::Join(vec!["x".into(), "y".into()]),
        ),
        (
            format!(r#"{{"type":3,{opts},"rooms":["x"]}}"#),
            Action::Leave(vec!["x".into()]),
        ),
        (
            format!(r#"{{"type":4,{opts},"close":true}}"#),
            Action::End { transports: true },
        ),
        (
            format!(r#"{{"type":4,{opts}}}"#),
            Action::End { transports: false },
        ),
    ] {
        let order = request(&json).unwrap();
        assert_eq!(order.namespace, "/chat");
        assert_eq!(order.selection.rooms, ["a", "7"]);
        assert_eq!(order.selection.except, ["b"]);
        assert_eq!(order.action, action, "{json}");
    }
    for (json, refused) in [
        (r#"{"type":4}"#, Refused::Unreadable),
        (r#"{"type":4,"opts":{"rooms":[{}]}}"#, Refused::Unreadable),
        (r#"{"type":6,"data":["x"]}"#, Refused::Unsupported),
        (r#"{"type":0,"requestId":"x"}"#, Refused::Unsupported),
        ("{}", Refused::Unreadable),
        ("", Refused::Unsupported),
    ] {
        assert_eq!(request(json), Err(refused), "{json}");
    }
}

#[test]
fn a_key_is_no_pattern() {
    let format = EmitterFormat::new("app[1]*");
    let subscriptions = format.subscriptions();
    assert_eq!(subscriptions[0], ("PSUBSCRIBE", r"app\[1\]\*#*".into()));
}
