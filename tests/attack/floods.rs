//! S13: packets and frames that are no events, as fast as they can be sent. Each costs the node little, and a core is full of them.

use std::time::Duration;

use crate::{
    siege::{SOON, Siege},
    support::{bounds::bound, client::Hello, token::token},
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

/// Who says that it is too much.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// The node, before the engine sees it.
    Gate,
    /// The engine, which can't parse it or finds it out of place.
    Engine,
}

struct Case {
    what: &'static str,
    who: Who,
    by: By,
    /// What comes first, once.
    begins: Vec<u8>,
    repeats: Vec<u8>,
}

fn cases() -> Vec<Case> {
    use By::{Engine, Gate};
    let case = |by, what, who, repeats: Vec<u8>| Case {
        what,
        who,
        by,
        begins: Vec::new(),
        repeats,
    };
    let mut cases = vec![
        case(Gate, "pongs of Engine.IO", Who::Stranger, text("3")),
        case(Gate, "pongs of Engine.IO", Who::Guest, text("3")),
        case(Gate, "pongs of Engine.IO", Who::User, text("3")),
        case(Gate, "pings of Engine.IO", Who::Guest, text("2")),
        case(Engine, "noops", Who::Guest, text("6")),
        case(Engine, "upgrades", Who::Guest, text("5")),
        case(Gate, "acks", Who::Guest, text("43/public,1[]")),
        case(Gate, "acks", Who::User, text("431[]")),
        case(Engine, "DISCONNECTs", Who::Guest, text("41/public,")),
        case(Gate, "CONNECTs to nowhere", Who::Guest, text("40/nowhere,")),
        case(
            Gate,
            "events to nowhere",
            Who::Guest,
            text("42/nowhere,[\"x\"]"),
        ),
        case(
            Engine,
            "events of a namespace not joined",
            Who::Guest,
            text("42[\"x\"]"),
        ),
        case(
            Engine,
            "events before CONNECT",
            Who::Stranger,
            text("42[\"x\"]"),
        ),
        case(
            Gate,
            "CONNECTs with no credentials",
            Who::Stranger,
            text("40"),
        ),
        case(Engine, "packets of no type", Who::Guest, text("9")),
        case(Engine, "empty messages", Who::Guest, text("")),
        case(
            Engine,
            "attachments of nothing",
            Who::Guest,
            frame(crate::wire::BINARY, "x"),
        ),
        case(Gate, "pings of WebSocket", Who::Stranger, frame(PING, "")),
        case(Gate, "pings of WebSocket", Who::Guest, frame(PING, "x")),
        case(Gate, "pongs of WebSocket", Who::Guest, frame(PONG, "")),
    ];
    cases.push(Case {
        what: "fragments of one byte",
        who: Who::Guest,
        by: Gate,
        begins: frame(TEXT_BEGINS, "4"),
        repeats: frame(MORE, "2"),
    });
    cases.push(Case {
        what: "fragments of no byte",
        who: Who::Guest,
        by: Gate,
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
        // A stranger has no connection yet whose end the engine could tell.
        let is_counted = match (case.by, case.who) {
            (By::Gate, _) => toll.refusals() >= 1.0,
            (By::Engine, Who::Stranger) => true,
            (By::Engine, _) => toll.ends() >= 1.0,
        };
        if !is_counted {
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
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    siege.lift().await;
}
