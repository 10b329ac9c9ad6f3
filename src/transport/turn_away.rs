//! Tells a TCP connection that there is no place for it: 503 and an end, for as little as it can cost.
//!
//! The answer waits for the request, for a moment: a client that has not sent it yet may take the answer for an error. How many
//! wait is bounded, and the rest are closed at once; hyper would hold tens of kilobytes for each, for as long as a request head
//! may take.

use std::{net::Shutdown, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};

/// Connections that wait for their answer; each is a file of those that are kept back from clients.
const SEATS: usize = 16;

/// How long the request, and then the client's own end, may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the stock client tries again after.
const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Turns connections away; clones share the seats.
#[derive(Clone)]
pub(super) struct TurnAway {
    seats: Arc<Semaphore>,
}

impl TurnAway {
    pub(super) fn new() -> Self {
        Self {
            seats: Arc::new(Semaphore::new(SEATS)),
        }
    }

    /// Answers 503 and closes, or just closes while too many wait for their answer.
    pub(super) fn take(&self, tcp: TcpStream) {
        let Ok(seat) = self.seats.clone().try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let _seat = seat;
            // What fails here is a client that has gone.
            timeout(PATIENCE, discard_some(&tcp)).await.ok();
            let told = tcp.try_write(ANSWER).is_ok();
            if told && SockRef::from(&tcp).shutdown(Shutdown::Write).is_ok() {
                // To close earlier would answer what is still on its way with a reset, which may take the answer along.
                timeout(PATIENCE, async { while discard_some(&tcp).await > 0 {} })
                    .await
                    .ok();
            }
        });
    }
}

/// Reads and drops what is there, or what comes next. Returns how much; 0 is the end.
async fn discard_some(tcp: &TcpStream) -> usize {
    let mut scratch = [0; 512];
    while tcp.readable().await.is_ok() {
        match tcp.try_read(&mut scratch) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            read => return read.unwrap_or(0),
        }
    }
    0
}
