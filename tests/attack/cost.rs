//! What each kind of connection costs a node, and what the two attacks of S1 do: the table of `docs/cost.md`.
//!
//! ```text
//! SWITCHBOARD_BIN=target/release/switchboard cargo test --test attack cost -- --ignored
//! ```
//!
//! With `SWITCHBOARD_TEST_COST_OF="node server.mjs"` the same is measured of another Socket.IO server: the command starts it, and it
//! prints `listening on http://ADDRESS`; it takes anybody into `/` and `/public`.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use crate::{
    ground::{alone, on_given_binary},
    support::{
        client::Hello,
        fleet::{Fleet, Plan},
        process::Process,
        run::Run,
        token::token,
    },
    wire::{SEPARATOR, Session, TEXT, Wire, frame_head, text},
};

/// Of each kind; of those that may hold a message of a megabyte.
const MANY: usize = 1_000;
const LARGE: usize = 200;

/// After which memory is what it stays.
const SETTLED: Duration = Duration::from_secs(2);

/// The server that is measured, for one row of the table.
enum Server {
    Ours(Fleet),
    Other(Process, SocketAddr),
}

impl Server {
    async fn start(run: &Run) -> Self {
        match std::env::var("SWITCHBOARD_TEST_COST_OF") {
            Ok(words) => {
                let process =
                    Process::spawn(Command::new("sh").args(["-c", &format!("exec {words}")]));
                let address = |line: &str| {
                    line.split_once("listening on http://")?
                        .1
                        .trim()
                        .parse()
                        .ok()
                };
                let door = process
                    .line("the server says where it listens", address)
                    .await;
                Self::Other(process, door)
            }
            Err(_) => {
                let plan = Plan::of(1).with("LIMITS__HANDSHAKE_TIMEOUT", "60s");
                Self::Ours(Fleet::start(run, on_given_binary(plan)).await)
            }
        }
    }

    fn process(&self) -> &Process {
        match self {
            Self::Ours(fleet) => &fleet[0].process,
            Self::Other(process, _) => process,
        }
    }

    fn door(&self) -> SocketAddr {
        match self {
            Self::Ours(fleet) => fleet[0].addr,
            Self::Other(_, door) => *door,
        }
    }
}

/// A guest or a user, let in.
async fn joined(door: SocketAddr, headers: &str, connect: &str) -> Option<Wire> {
    let mut wire = Wire::open(door, headers).await.ok()?;
    wire.send(&text(connect)).await.ok()?;
    let answer = connect.split(['{', '[']).next().unwrap_or(connect);
    wire.until(answer).await?;
    Some(wire)
}

/// A message without its last kilobyte.
fn unfinished(length: usize) -> Vec<u8> {
    let mut message = frame_head(TEXT, length);
    message.resize(message.len() + length - 1_000, b'x');
    message
}

/// Opens many of a kind on a fresh server, and tells what each costs it.
async fn row<T>(
    run: &Run,
    what: &str,
    count: usize,
    open: impl AsyncFn(SocketAddr, usize) -> Option<T>,
) {
    let server = Server::start(run).await;
    let door = server.door();
    // The first ones of each kind have code and tables loaded.
    drop(open(door, count).await);
    sleep(Duration::from_millis(300)).await;
    let before = server.process().status("VmRSS");
    let open = &open;
    let coming = (0..count).map(|number| open(door, number));
    let held: Vec<Option<T>> = stream::iter(coming).buffered(16).collect().await;
    sleep(SETTLED).await;
    let more = server.process().status("VmRSS").saturating_sub(before);
    let each = more as f64 / count as f64;
    let let_in = held.iter().flatten().count();
    run.tell(format!(
        "| {what} | {each:.1} KB | {let_in} of {count} let in: {:.1} MB |",
        more as f64 / 1024.0
    ));
    drop(held);
}

/// Runs an attack on a fresh server; tells what it took, and how long others waited for a handshake.
async fn attack<T>(run: &Run, what: &str, attack: impl AsyncFnOnce(SocketAddr) -> T) {
    let server = Server::start(run).await;
    let door = server.door();
    drop(Session::open(door, "").await);
    let before = server.process().status("VmRSS");
    server.process().forget_peak();
    let cpu = server.process().cpu();
    let waits = tokio::spawn(async move {
        let (mut longest, start) = (Duration::ZERO, Instant::now());
        while start.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            drop(Session::open(door, "").await);
            longest = longest.max(asked.elapsed());
            sleep(Duration::from_millis(20)).await;
        }
        longest
    });
    let held = attack(door).await;
    let longest = waits.await.unwrap();
    let peak = server.process().status("VmHWM").saturating_sub(before);
    let cpu = server.process().cpu() - cpu;
    run.tell(format!(
        "| {what} | {:.0} MB | others wait up to {longest:.2?}, {cpu:.1?} of CPU |",
        peak as f64 / 1024.0
    ));
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, of a release build: see the top of cost.rs"]
async fn cost() {
    let _alone = alone().await;
    let run = Run::begin("cost");
    let tcp = async |door: SocketAddr, first: Vec<u8>| {
        let mut stream = TcpStream::connect(door).await.unwrap();
        stream.write_all(&first).await.unwrap();
        Some(stream)
    };
    let cookie = format!("Cookie: other={}\r\n", "x".repeat(12 * 1024));
    let hello = async |number: usize| Hello::with(token(&format!("cost-{number}"))).packet();

    row(&run, "idle TCP", MANY, async |door, _| {
        tcp(door, Vec::new()).await
    })
    .await;
    let head = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nUpgr";
    row(&run, "half a request head", MANY, async |door, _| {
        tcp(door, head.into()).await
    })
    .await;
    let head = format!("{head}ade: websocket\r\n{cookie}").replace("Cookie: other=", "A: ");
    row(
        &run,
        "half a request head of 12 KB",
        MANY,
        async |door, _| tcp(door, head.clone().into()).await,
    )
    .await;
    row(&run, "WebSocket without CONNECT", MANY, async |door, _| {
        Wire::open(door, "").await.ok()
    })
    .await;
    row(
        &run,
        "polling session without CONNECT",
        MANY,
        async |door, _| Session::open(door, "").await.ok(),
    )
    .await;
    row(&run, "guest", MANY, async |door, _| {
        joined(door, "", "40/public,").await
    })
    .await;
    row(
        &run,
        "guest with a cookie of 12 KB",
        MANY,
        async |door, _| joined(door, &cookie, "40/public,").await,
    )
    .await;
    row(&run, "guest, polling", MANY, async |door, _| {
        let session = Session::open(door, "").await.ok()?;
        session.post("40/public,").await;
        session.until("40/public,").await.then_some(session)
    })
    .await;
    row(&run, "user", MANY, async |door, number| {
        joined(door, "", &hello(number).await).await
    })
    .await;
    for (size, name) in [(60_000, "60 KB"), (999_000, "999 KB")] {
        row(
            &run,
            &format!("guest, unfinished message of {name}"),
            LARGE,
            async |door, _| {
                let mut wire = joined(door, "", "40/public,").await?;
                wire.send(&unfinished(size)).await.ok()?;
                Some(wire)
            },
        )
        .await;
        row(
            &run,
            &format!("polling session, unfinished POST of {name}"),
            LARGE,
            async |door, _| {
                let session = Session::open(door, "").await.ok()?;
                let mut body = session.post_head(size).into_bytes();
                body.resize(body.len() + size - 1_000, b'4');
                let mut stream = TcpStream::connect(door).await.ok()?;
                stream.write_all(&body).await.ok();
                Some(stream)
            },
        )
        .await;
    }
    row(
        &run,
        "user, unfinished message of 999 KB",
        LARGE,
        async |door, number| {
            let mut wire = joined(door, "", &hello(number).await).await?;
            wire.send(&unfinished(999_000)).await.ok()?;
            Some(wire)
        },
    )
    .await;

    attack(
        &run,
        "8 polling sessions, a POST of 333,000 CONNECT packets each",
        async |door| {
            let mut sessions = Vec::new();
            for _ in 0..8 {
                sessions.extend(Session::open(door, "").await);
            }
            let body = format!("40{SEPARATOR}").repeat(332_999) + "40";
            join_all(sessions.iter().map(|session| session.post(&body))).await;
        },
    )
    .await;
    attack(
        &run,
        "4 guests repeat CONNECT, 50 MB in all",
        async |door| {
            let mut guests = Vec::new();
            for _ in 0..4 {
                guests.extend(joined(door, "", "40/public,").await);
            }
            let packets = text("40/public,").repeat(1_000);
            let limit = Duration::from_secs(2);
            let floods = guests
                .iter_mut()
                .map(|guest| guest.flood(&packets, 12_500_000, limit));
            join_all(floods).await;
            guests
        },
    )
    .await;
    attack(
        &run,
        "300 POSTs of 990 KB at once on one session",
        async |door| {
            let session = Session::open(door, "").await.ok()?;
            let body = format!("42[\"x\",\"{}\"]", "x".repeat(990_000));
            join_all((0..300).map(|_| session.post(&body))).await;
            Some(session)
        },
    )
    .await;
    attack(
        &run,
        "4 CONNECT packets with 874 KB of small objects",
        async |door| {
            let auth = format!("40[{}0]", "{\"\":0},".repeat(874_000 / 7));
            let mut wires = Vec::new();
            for _ in 0..4 {
                let mut wire = Wire::open(door, "").await.ok()?;
                wire.send(&text(&auth)).await.ok();
                wires.push(wire);
            }
            sleep(SETTLED).await;
            Some(wires)
        },
    )
    .await;
}
