use super::*;

/// Messages of this format as nodes have written them, each by a name and in hexadecimal. They are read for as long as the first
/// byte is the same; those whose names end in `+` hold something that this version does not know.
const RECORDED: &str = include_str!("recorded.txt");

fn message(data: Option<&str>) -> Message {
    Message {
        args: Vec::from_iter(data.map(|text| Json::read(text).unwrap())),
        ..Message::new("/", "order:shipped")
    }
}

fn deliver(to: Target, data: Option<&str>, ack: Option<u64>) -> PeerMessage {
    said(7, to_command(to, data, ack))
}

fn to_command(to: Target, data: Option<&str>, ack: Option<u64>) -> Command<'static> {
    Command::Deliver {
        to: Cow::Owned(to),
        message: Cow::Owned(message(data)),
        ack: ack.map(Duration::from_millis),
        trace: None,
    }
}

fn said(request: u64, command: Command<'static>) -> PeerMessage {
    PeerMessage::Command(request, command)
}

fn told(about: Option<&str>, name: &'static str, args: &[&str]) -> PeerMessage {
    let event = PageEvent {
        about: about.map(ConnectionId::from),
        event: name.into(),
        args: args.iter().map(|text| Json::read(text).unwrap()).collect(),
    };
    let event = Cow::Owned(event);
    said(0, Command::TellPages { event })
}

/// What each of the recorded messages says.
fn expected() -> Vec<(&'static str, PeerMessage)> {
    let ending = Ending::of(Ending::BANNED).because("Späm");
    let end = |ending: Ending| Command::End {
        ids: vec!["a1".into(), "b2".into()],
        ending: Cow::Owned(ending),
    };
    let several = Command::Deliver {
        to: Cow::Owned(Target::Room("orders".into())),
        message: Cow::Owned(Message {
            args: ["1", "null"].map(|text| Json::read(text).unwrap()).into(),
            except: vec!["a1".into()],
            volatile: true,
            ..message(None)
        }),
        ack: None,
        trace: None,
    };
    let repeatable = Command::Deliver {
        to: Cow::Owned(Target::Room("orders".into())),
        message: Cow::Owned(Message {
            id: Some("id-1".into()),
            ..message(Some("1"))
        }),
        ack: None,
        trace: None,
    };
    let traced = Command::Deliver {
        to: Cow::Owned(Target::User("42".into())),
        message: Cow::Owned(message(Some("1"))),
        ack: None,
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    };
    let room = || Room::new("/", "chat");
    let (user, id, name) = (
        || UserId::from("42"),
        || ConnectionId::from("a1"),
        || "chat".into(),
    );
    let until = Timestamp::from_millisecond(1_790_000_000_123).ok();
    let changes = [
        (
            "room-keep",
            RoomChange::Keep {
                user: user(),
                room: room(),
                until: None,
            },
        ),
        (
            "room-keep-until",
            RoomChange::Keep {
                user: user(),
                room: room(),
                until,
            },
        ),
        (
            "room-let-go",
            RoomChange::LetGo {
                user: user(),
                room: room(),
            },
        ),
        (
            "room-join",
            RoomChange::Join {
                id: id(),
                name: name(),
            },
        ),
        (
            "room-leave",
            RoomChange::Leave {
                id: id(),
                name: name(),
            },
        ),
        ("room-empty", RoomChange::Empty { room: room() }),
    ];
    let changes = changes.map(|(name, change)| (name, said(7, Command::Room(change))));
    let receipt = Receipt {
        request: 7,
        ..Receipt::default()
    };
    let receipts = vec![
        Receipt {
            connections: 3,
            ..receipt.clone()
        },
        Receipt {
            acks: vec![
                ("a1".into(), Answer::Given("{\"ok\":true}".into())),
                ("b2".into(), Answer::TooLarge),
            ],
            more: true,
            ..receipt.clone()
        },
        Receipt {
            withheld: true,
            ..receipt.clone()
        },
        Receipt {
            open: vec!["a1".into()],
            more: true,
            ..receipt.clone()
        },
        Receipt {
            closed: vec!["a1".into(), "b2".into()],
            ..receipt.clone()
        },
        receipt.clone(),
    ];
    let mut all = vec![
        (
            "user",
            deliver(
                Target::User("42".into()),
                Some("{\"order\":[7,null]}"),
                None,
            ),
        ),
        (
            "user+",
            deliver(
                Target::User("42".into()),
                Some("{\"order\":[7,null]}"),
                None,
            ),
        ),
        ("no-data", deliver(Target::User("42".into()), None, None)),
        (
            "null",
            deliver(Target::User("42".into()), Some("null"), None),
        ),
        (
            "device",
            deliver(
                Target::Device("42".into(), "phone".into()),
                Some("1"),
                Some(2500),
            ),
        ),
        (
            "connection",
            deliver(Target::Connection("a1".into()), Some("1"), None),
        ),
        (
            "room",
            deliver(Target::Room("orders".into()), Some("1"), None),
        ),
        ("all", deliver(Target::All, Some("1"), None)),
        ("args", said(7, several)),
        ("id", said(7, repeatable)),
        ("traced", said(7, traced)),
        ("end", said(7, end(ending.clone()))),
        ("end+", said(7, end(ending))),
        (
            "end-reconnect",
            said(7, end(Ending::of(Ending::RECONNECT_REQUESTED))),
        ),
        (
            "token",
            said(
                7,
                Command::EndToken {
                    token_id: "jti-1".into(),
                },
            ),
        ),
        ("look", said(0, Command::Look { user: "42".into() })),
        ("beat", said(0, Command::Beat)),
        ("farewell", said(0, Command::Farewell)),
        ("receipts", PeerMessage::Receipts(receipts.clone())),
        ("receipts+", PeerMessage::Receipts(receipts)),
        ("watch", said(0, Command::Watch { connections: 1_000 })),
        ("show", said(7, Command::Show)),
        (
            "tell-pages",
            told(Some("a1"), "socket_disconnected", &["\"/\"", "null"]),
        ),
        ("tell-pages-all", told(None, "server_stats", &["{}"])),
        (
            "operate",
            said(
                0,
                Command::Operate {
                    asked: r#"["_disconnect","/",true,"a1"]"#.into(),
                },
            ),
        ),
        ("operators+", PeerMessage::Unknown),
        (
            "sockets",
            PeerMessage::Receipts(vec![Receipt {
                sockets: vec![Json::read(r#"{"id":"a1"}"#).unwrap()],
                more: true,
                ..receipt
            }]),
        ),
        ("command+", PeerMessage::Unknown),
        ("recipients+", PeerMessage::Unknown),
    ];
    all.extend(changes);
    all
}

fn write(said: &PeerMessage) -> Option<Vec<u8>> {
    match said {
        PeerMessage::Command(request, this) => Some(command(*request, this)),
        PeerMessage::Receipts(these) => Some(receipts(these)),
        PeerMessage::Unknown => None,
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
    bytes.collect::<Result<_, _>>().unwrap()
}

#[test]
fn what_was_recorded_is_read_and_written_the_same() {
    let recorded: std::collections::HashMap<_, _> = RECORDED
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, hex)| (name, from_hex(hex)))
        .collect();
    let expected = expected();
    assert_eq!(recorded.len(), expected.len());
    for (name, said) in expected {
        let bytes = recorded.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(read(bytes).as_ref(), Some(&said), "{name}");
        if !name.ends_with('+') {
            assert_eq!(write(&said).as_ref(), Some(bytes), "{name}");
        }
    }
}

#[test]
fn what_is_no_message_of_this_version_is_not_read() {
    let whole = command(7, &to_command(Target::All, Some("1"), None));
    assert!(read(&whole).is_some());
    let mut other = whole.clone();
    other[0] += 1;
    for garbage in [
        &[][..],
        &[VERSION],
        &other,
        b"hello",
        &[VERSION, 0xc0],
        &[VERSION, 0x90],
    ] {
        assert!(
            !matches!(
                read(garbage),
                Some(PeerMessage::Command(..) | PeerMessage::Receipts(_))
            ),
            "{garbage:?}"
        );
    }
    for end in 1..whole.len() {
        assert_eq!(read(&whole[..end]), None, "{end} bytes");
    }
}

#[test]
fn what_is_nested_without_end_is_not_read_and_does_no_harm() {
    for depth in [MAX_DEPTH, 1023, 100_000] {
        // A field that is not known, which is skipped.
        let mut deep = vec![VERSION, 0x81, 0xa1, b'?'];
        deep.extend(std::iter::repeat_n(0x91, depth));
        deep.push(0xc0);
        assert_eq!(read(&deep), None, "{depth}");
    }
}
