//! A TCP proxy that can be cut, held, made to swallow, and slowed: between a node and Redis, or a client and a node.
//!
//! What a network does to packets is done to bytes here. *Held* bytes wait and come later, as after a loss that TCP mends.
//! *Swallowed* ones are gone, and so is the connection they belonged to once the proxy passes bytes again; until then either
//! side believes that it lives. Each test binary uses its part of it.

#![allow(dead_code)]

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They wait.
    Hold,
    /// They are lost, and nobody is told.
    Swallow,
}

/// What the proxy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// From the side that connects.
    pub(crate) there: Flow,
    /// From the server.
    pub(crate) back: Flow,
    /// Every piece comes so much later.
    pub(crate) delay: Duration,
    /// New connections are refused, and those that are there are reset.
    pub(crate) cut: bool,
}

impl Weather {
    /// All is well.
    pub(crate) const FAIR: Self = Self {
        there: Flow::Pass,
        back: Flow::Pass,
        delay: Duration::ZERO,
        cut: false,
    };
    /// Connections are reset and refused: both sides notice at once.
    pub(crate) const CUT: Self = Self {
        cut: true,
        ..Self::FAIR
    };
    /// Connections are accepted and stay, and nothing comes through: nobody is told.
    pub(crate) const HALF_OPEN: Self = Self {
        there: Flow::Swallow,
        back: Flow::Swallow,
        ..Self::FAIR
    };
    /// What is said arrives; the answers don't.
    pub(crate) const NO_ANSWERS: Self = Self {
        back: Flow::Swallow,
        ..Self::FAIR
    };
}

/// A proxy to one address at a time; ends with this value.
pub(crate) struct Proxy {
    addr: SocketAddr,
    target: watch::Sender<SocketAddr>,
    weather: watch::Sender<Weather>,
    accept: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to `target`, on a free port.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (weather, seen) = watch::channel(Weather::FAIR);
        let (target, aim) = watch::channel(target);
        let accept = tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                if seen.borrow().cut {
                    reset(&inbound);
                    continue;
                }
                let target = *aim.borrow();
                tokio::spawn(carry(inbound, target, seen.clone()));
            }
        });
        Self {
            addr,
            target,
            weather,
            accept,
        }
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Leads connections from here on to another address, as a name does; connections that are there stay.
    pub(crate) fn aim(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Changes what it does, for all connections.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// Makes the close of a socket a reset.
fn reset(socket: &TcpStream) {
    let socket = socket2::SockRef::from(socket);
    socket.set_linger(Some(Duration::ZERO)).ok();
}

async fn carry(inbound: TcpStream, target: SocketAddr, seen: watch::Receiver<Weather>) {
    let Ok(outbound) = TcpStream::connect(target).await else {
        return;
    };
    for socket in [&inbound, &outbound] {
        socket.set_nodelay(true).ok();
    }
    let mut cut = seen.clone();
    let both = async {
        let there = pump(&inbound, &outbound, seen.clone(), |weather| weather.there);
        let back = pump(&outbound, &inbound, seen.clone(), |weather| weather.back);
        // The end of either direction is the end of both: no user of Redis half-closes, and the client that does is done.
        tokio::select! {
            () = there => {}
            () = back => {}
        }
    };
    tokio::select! {
        () = both => {}
        _ = cut.wait_for(|weather| weather.cut) => {
            reset(&inbound);
            reset(&outbound);
        }
    }
}

/// Carries one direction until it ends, or until it has lost bytes and others pass again.
async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    mut seen: watch::Receiver<Weather>,
    flow: impl Fn(&Weather) -> Flow,
) {
    let mut buffer = vec![0; 64 * 1024];
    // What is on its way, and when each piece arrives: a long way is not a narrow one.
    let mut underway: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut lost = false;
    loop {
        let weather = *seen.borrow_and_update();
        match flow(&weather) {
            Flow::Pass if lost => {
                reset(from);
                reset(to);
                return;
            }
            Flow::Hold => {
                if seen.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Flow::Pass | Flow::Swallow => {}
        }
        tokio::select! {
            biased;
            changed = seen.changed() => if changed.is_err() { return },
            () = arrival(&underway) => {
                let Some((_, piece)) = underway.pop_front() else {
                    continue;
                };
                if write_all(to, &piece).await.is_err() {
                    return;
                }
            }
            ready = from.readable() => {
                if ready.is_err() {
                    return;
                }
                let count = match from.try_read(&mut buffer) {
                    Ok(0) => {
                        // A side that closes while nothing comes through is not heard either.
                        while flow(&seen.borrow_and_update().clone()) != Flow::Pass {
                            if seen.changed().await.is_err() {
                                return;
                            }
                        }
                        for (at, piece) in underway {
                            sleep_until(at).await;
                            if write_all(to, &piece).await.is_err() {
                                return;
                            }
                        }
                        return;
                    }
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(_) => return,
                };
                if flow(&weather) == Flow::Swallow {
                    lost = true;
                    continue;
                }
                if weather.delay.is_zero() && underway.is_empty() {
                    if write_all(to, &buffer[..count]).await.is_err() {
                        return;
                    }
                } else {
                    underway.push_back((Instant::now() + weather.delay, buffer[..count].to_vec()));
                }
            }
        }
    }
}

/// Waits until the first piece that is on its way arrives; for ever if there is none.
async fn arrival(underway: &VecDeque<(Instant, Vec<u8>)>) {
    match underway.front() {
        Some((at, _)) => sleep_until(*at).await,
        None => std::future::pending().await,
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
