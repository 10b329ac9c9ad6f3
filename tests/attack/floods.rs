//! S13: packets and frames that are no events, as fast as they can be sent. Each costs the node little, and a core is full of them.

use std::time::Duration;

use crate::{
    siege::{SOON, Siege},
    support::{
        bounds::{bound, seconds},
        client::Hello,
        token::token,
    },
    wire::{MORE, PING, PONG, TEXT_BEGINS, Wire, frame, text},
};

/// How often each is repeated.
const TIMES: usize = 200_000;

/// What a node may compute for one of these floods, the service of its neighbours for two seconds among it.
fn cpu() -> Duration {
    bound(match std::env::var_os("SWITCHBOARD_BIN") {
        Some(_) => Duration::from_millis(1_000),
        None => Duration::from_millis(2_500),
    })
}

/// Who floods.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// A WebSocket without a CONNECT packet.
    Stranger,
    Guest,
    User,
}

struct Case {
    what: &'static str,
    who: Who,
    /// What comes first, once.
    begins: Vec<u8>,
    repeats: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let case = |what, who, repeats: Vec<u8>| Case {
        what,
        who,
        begins: Vec::new(),
        repeats,
    };
    let mut cases = vec![
        case("pongs of Engine.IO", Who::Stranger, text("3")),
        case("pongs of Engine.IO", Who::Guest, text("3")),
        case("pongs of Engine.IO", Who::User, text("3")),
        case("pings of Engine.IO", Who::Guest, text("2")),
        case("noops", Who::Guest, text("6")),
        case("upgrades", Who::Guest, text("5")),
        case("acks", Who::Guest, text("43/public,1[]")),
        case("acks", Who::User, text("431[]")),
        case("DISCONNECTs", Who::Guest, text("41/public,")),
        case("CONNECTs to nowhere", Who::Guest, text("40/nowhere,")),
        case("events to nowhere", Who::Guest, text("42/nowhere,[\"x\"]")),
        case(
            "events of a namespace not joined",
            Who::Guest,
            text("42[\"x\"]"),
        ),
        case("events before CONNECT", Who::Stranger, text("42[\"x\"]")),
        case("CONNECTs with no credentials", Who::Stranger, text("40")),
        case("packets of no type", Who::Guest, text("9")),
        case("empty messages", Who::Guest, text("")),
        case(
            "attachments of nothing",
            Who::Guest,
            frame(crate::wire::BINARY, "x"),
        ),
        case("pings of WebSocket", Who::Stranger, frame(PING, "")),
        case("pings of WebSocket", Who::Guest, frame(PING, "x")),
        case("pongs of WebSocket", Who::Guest, frame(PONG, "")),
    ];
    cases.push(Case {
        what: "fragments of one byte",
        who: Who::Guest,
        begins: frame(TEXT_BEGINS, "4"),
        repeats: frame(MORE, "2"),
    });
    cases.push(Case {
        what: "fragments of no byte",
        who: Who::Guest,
        begins: frame(TEXT_BEGINS, "4"),
        repeats: frame(MORE, ""),
    });
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_no_event_is_counted_and_ends_the_flooder() {
    let mut siege = Siege::lay("floods").await;
    let door = siege.door();
    let mut wrong = Vec::new();
    for case in cases() {
        let (who, mut wire) = match case.who {
            Who::Stranger => ("a stranger's", Wire::open(door, "").await.unwrap()),
            Who::Guest => ("a guest's", Wire::guest(door, "").await.unwrap()),
            Who::User => {
                let mut wire = Wire::open(door, "").await.unwrap();
                let hello = Hello::with(token("flooder")).packet();
                wire.send(&text(hello)).await.unwrap();
                assert!(wire.until("42[\"ready\"").await.is_some());
                ("a user's", wire)
            }
        };
        siege.begin().await;
        wire.send(&case.begins).await.unwrap();
        let total = TIMES * case.repeats.len();
        let flood = wire.flood(&case.repeats.repeat(1_000), total, SOON).await;
        let toll = siege.toll().await;
        let frames = flood.written / case.repeats.len();
        let mut saw = toll.too_much();
        if !flood.ended {
            saw.push(format!("not ended after {frames}"));
        }
        if toll.refusals() < 1.0 {
            saw.push("not counted".to_owned());
        }
        if toll.cpu > cpu() {
            saw.push(format!("{:.2?} of CPU, {:?} at most", toll.cpu, cpu()));
        }
        let what = format!("{who} {}", case.what);
        siege.run.tell(format!("{what}: {frames} taken; {saw:?}"));
        if !saw.is_empty() {
            wrong.push(format!("{what}: {}", saw.join("; ")));
        }
        drop(wire);
        tokio::time::sleep(seconds(0.1)).await;
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    siege.lift().await;
}
