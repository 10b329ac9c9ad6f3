#![allow(clippy::unwrap_used)]

use super::*;

fn gate() -> Gate {
    let namespaces = Namespaces::new(["/", "/public"].map(str::to_owned));
    Gate::new(
        Arc::new(namespaces),
        MessageSizes {
            guest: 100,
            user: 1_000,
        },
    )
}

fn judge(gate: &Gate, packet: &str) -> Result<Judged, Breach> {
    gate.packet(packet.as_bytes(), packet.len() as u64)
}

#[test]
fn a_namespace_is_joined_once_until_it_is_left_or_refused() {
    let gate = gate();
    let id = ConnectionId::from("a");
    assert_eq!(judge(&gate, "40/public,{}"), Ok(Judged::Passes));
    assert_eq!(judge(&gate, "40"), Ok(Judged::Passes));
    assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Repeated));
    gate.name("/", &"root".into());
    gate.name("/public", &id);
    assert_eq!(judge(&gate, "40/public,"), Err(Breach::SecondConnect));
    gate.refuse("/public");
    gate.leave("/public", &"another".into());
    assert_eq!(judge(&gate, "40/public,"), Err(Breach::SecondConnect));
    gate.leave("/public", &id);
    assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
    gate.refuse("/public");
    assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
    gate.name("/public", &id);
    assert_eq!(judge(&gate, "41/public,"), Ok(Judged::Passes));
    assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
    assert_eq!(judge(&gate, "40"), Err(Breach::SecondConnect), "the root");
    assert_eq!(judge(&gate, "40/nowhere,"), Ok(Judged::NoNamespace));
}

#[test]
fn connect_packets_are_bounded_also_for_namespaces_that_do_not_exist() {
    let gate = gate();
    let allowed = (0..100).take_while(|_| judge(&gate, "40/nowhere,").is_ok());
    assert_eq!(allowed.count(), 50);
    assert_eq!(judge(&gate, "40"), Err(Breach::ConnectFlood));
}

#[test]
fn all_but_events_of_joined_namespaces_is_counted() {
    for packet in [
        "3",
        "2",
        "6",
        "431[]",
        "461-1[]",
        "41",
        "42[\"a\"]",
        "42/nowhere,[\"a\"]",
        "",
        "451-[]",
        "bAAAA",
    ] {
        for (identified, allowed) in [(false, 200..250), (true, 4_000..5_000)] {
            let gate = gate();
            if identified {
                gate.set_identified();
            }
            let passed = (0..10_000).take_while(|_| judge(&gate, packet).is_ok());
            assert!(allowed.contains(&passed.count()), "{packet}");
        }
    }
    let gate = gate();
    assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
    gate.name("/public", &"a".into());
    let events = || {
        for _ in 0..10_000 {
            assert_eq!(judge(&gate, "42/public,[\"a\"]"), Ok(Judged::Passes));
            assert_eq!(judge(&gate, "452-/public,[\"a\"]"), Ok(Judged::Passes));
            assert_eq!(gate.attachment(1, Cow::default), Ok(Judged::Passes));
            assert_eq!(judge(&gate, "bAAAA"), Ok(Judged::Passes));
        }
    };
    events();
    gate.leave("/public", &"a".into());
    events();
    assert!((0..300).any(|_| gate.frame().is_err()));
}

#[test]
fn an_announcement_that_no_client_makes_is_a_breach() {
    for packet in ["45010-[]", "45-[]", "45100-[]", "4601-1[]"] {
        assert_eq!(judge(&gate(), packet), Err(Breach::Malformed), "{packet}");
    }
}

#[test]
fn attachments_that_do_not_come_are_held_and_overdue() {
    let gate = gate();
    let (now, later) = (Instant::now(), Instant::now() + PATIENCE * 2);
    assert_eq!((gate.held(), gate.is_overdue(later)), (0, false));
    assert!(gate.packet(b"461-1[]", 40).is_ok());
    gate.set_unfinished(2);
    assert_eq!((gate.held(), gate.is_overdue(now)), (42, false));
    assert!(gate.is_overdue(later));
    assert!(gate.attachment(1, Cow::default).is_ok());
    assert!(!gate.is_overdue(later));
}

#[test]
fn a_guest_may_send_less_than_a_user_and_nobody_a_large_connect_packet() {
    let gate = gate();
    assert_eq!(gate.max_message(), 100);
    gate.set_identified();
    assert_eq!(gate.max_message(), 1_000);
    assert_eq!(gate.packet(b"40", 101), Err(Breach::TooLarge));
    assert_eq!(gate.packet(b"40", 100), Ok(Judged::Passes));
}

#[test]
fn an_event_with_its_attachments_is_one_message() {
    let gate = gate();
    assert_eq!(judge(&gate, "40"), Ok(Judged::Passes));
    gate.name("/", &"a".into());
    assert_eq!(gate.packet(b"452-[]", 40), Ok(Judged::Passes));
    assert_eq!((gate.next_message().0, gate.max_message()), (60, 100));
    assert_eq!(gate.attachment(50, Cow::default), Ok(Judged::Passes));
    assert_eq!(gate.next_message().0, 10);
    assert_eq!(gate.attachment(11, Cow::default), Err(Breach::TooLarge));
    assert_eq!(gate.packet(b"451-[]", 40), Ok(Judged::Passes));
    assert_eq!(gate.attachment(60, Cow::default), Ok(Judged::Passes));
    assert_eq!(gate.next_message().0, 100);
}

#[test]
fn a_client_is_told_its_connection_and_never_the_session() {
    let gate = gate();
    let engine = br#"40/public,{"sid":"credential"}"#;
    assert_eq!(gate.outgoing(engine), Outgoing::Nothing);
    assert_eq!(judge(&gate, "40/public,"), Ok(Judged::Passes));
    assert_eq!(gate.outgoing(engine), Outgoing::Nothing);
    gate.name("/public", &"mine".into());
    let told = r#"40/public,{"sid":"mine"}"#.to_owned();
    assert_eq!(gate.outgoing(engine), Outgoing::Instead(told.clone()));
    gate.leave("/public", &"mine".into());
    assert_eq!(gate.outgoing(engine), Outgoing::Instead(told), "late");
    for packet in ["42[\"40\"]", "41/public,", "44{", "0probe", "2"] {
        assert_eq!(
            gate.outgoing(packet.as_bytes()),
            Outgoing::AsItIs,
            "{packet}"
        );
    }
}

#[test]
fn a_client_is_told_the_size_that_its_session_is_held_to() {
    let engine = br#"0{"sid":"credential","upgrades":["websocket"],"pingInterval":25000,"maxPayload":64000000}"#;
    let Outgoing::Instead(told) = gate().outgoing(engine) else {
        panic!("the engine's size is told");
    };
    let told: serde_json::Value = serde_json::from_str(told.strip_prefix('0').unwrap()).unwrap();
    let expected = serde_json::json!({
        "sid": "credential", "upgrades": ["websocket"], "pingInterval": 25_000, "maxPayload": 1000,
    });
    assert_eq!(told, expected);
}

#[test]
fn the_first_ping_is_withheld_and_answered_once() {
    let gate = gate();
    gate.withhold_ping();
    assert!(!gate.takes_pong());
    assert_eq!(gate.outgoing(b"2"), Outgoing::Nothing);
    assert_eq!((gate.takes_pong(), gate.takes_pong()), (true, false));
    assert_eq!(gate.outgoing(b"2"), Outgoing::AsItIs);
    assert!(!gate.takes_pong());
}

#[test]
fn a_connect_packet_of_another_parser_is_told_from_other_attachments() {
    let packet = serde_json::json!({ "type": 0, "nsp": "/" });
    let connect = rmp_serde::to_vec_named(&packet).unwrap();
    let gate = gate();
    let attachment = |content: &[u8]| gate.attachment(1, || Cow::Owned(content.to_vec()));
    assert_eq!(attachment(&connect), Err(Breach::OtherParser));
    assert_eq!(attachment(b"40"), Ok(Judged::Passes));
    assert_eq!(judge(&gate, "451-[{}]"), Ok(Judged::Passes));
    assert_eq!(attachment(&connect), Ok(Judged::Passes));
}
