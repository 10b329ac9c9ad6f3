//! S7: connections that begin and don't go on. `limits.handshake_timeout` is what they get.

use futures_util::{StreamExt, stream};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    ground::MORE_TO_REDIS,
    siege::Siege,
    support::{
        bounds::{ensure, seconds, within},
        fleet::Plan,
    },
    wire::{Session, Wire, text},
};

/// Of each kind.
const EACH: usize = 500;

/// `limits.handshake_timeout`.
const HANDSHAKE: f64 = 4.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_go_on_is_given_back() {
    let plan = Plan::of(1).with("LIMITS__HANDSHAKE_TIMEOUT", &format!("{HANDSHAKE}s"));
    let mut siege = Siege::lay_with("not going on", plan).await;
    let door = siege.door();
    let usual = siege.node().process.descriptors();
    siege.begin().await;
    let mut held = Vec::new();
    for _ in 0..EACH {
        held.push(TcpStream::connect(door).await.unwrap());
        let mut half = TcpStream::connect(door).await.unwrap();
        let head = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nUpgr";
        half.write_all(head.as_bytes()).await.unwrap();
        held.push(half);
        let mut body = TcpStream::connect(door).await.unwrap();
        let head = "POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n4";
        body.write_all(head.as_bytes()).await.unwrap();
        held.push(body);
    }
    let mute = stream::iter(0..EACH).map(|_| Wire::open(door, ""));
    let mute: Vec<_> = mute.buffered(16).collect().await;
    assert!(mute.iter().all(Result::is_ok), "WebSockets are let in");
    // Ones that left the only namespace that they had.
    let left = stream::iter(0..EACH).map(|_| async {
        let mut guest = Wire::guest(door, "").await.unwrap();
        guest.send(&text("41/public,")).await.unwrap();
        guest
    });
    let left: Vec<_> = left.buffered(16).collect().await;
    let sessions = stream::iter(0..EACH).map(|_| Session::open(door, ""));
    let sessions: Vec<_> = sessions.buffered(16).collect().await;
    assert!(sessions.iter().all(Result::is_ok), "sessions are opened");
    let look = async || {
        let now = siege.node().process.descriptors();
        ensure(now <= usual + MORE_TO_REDIS, || {
            format!("{now} descriptors, {usual} before")
        })
    };
    // Their sockets linger for at most 3 s for their peers' own end.
    let (took, ()) = within(seconds(HANDSHAKE + 6.0), "all is given back", look).await;
    siege.run.tell(format!("given back {took:.1?} later"));
    siege.toll().await.holds(0, 0);
    let known = stream::iter(sessions.iter().flatten()).map(|session| session.poll());
    let known: Vec<_> = known.buffered(16).collect().await;
    assert!(
        known.iter().all(|(status, _)| *status == 400),
        "sessions are forgotten"
    );
    drop((held, mute, left));
    siege.lift().await;
}
