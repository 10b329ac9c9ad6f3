//! A WebSocket server that does nothing but hand on each message to all others: what a delivery costs without Socket.IO, rooms and a
//! fleet. A process of its own, so that its time can be told from the clients'.

use std::{
    env, io,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, UnboundedSender},
};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::process::Process;

/// Starts the server. Returns its process, and where it listens.
pub(crate) async fn start() -> (Process, SocketAddr) {
    let mut command = Command::new(env::current_exe().unwrap());
    let process = Process::spawn(command.arg("--bare"));
    let said = |line: &str| line.strip_prefix("bare on ")?.parse().ok();
    let addr = process.line("the bare server listens", said).await;
    (process, addr)
}

/// Those who are connected, by their numbers.
type Others = Arc<Mutex<Vec<(usize, UnboundedSender<Message>)>>>;

/// Serves until the process ends.
#[tokio::main]
pub(crate) async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("bare on {}", listener.local_addr()?);
    let (others, numbers) = (Others::default(), AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(attend(stream, number, Arc::clone(&others)));
    }
}

async fn attend(stream: TcpStream, number: usize, others: Others) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let (mut sink, mut messages) = tokio_tungstenite::accept_async(stream).await?.split();
    // What the clients of the bench take for the beginning of a session.
    sink.send(Message::text("0{}")).await?;
    let (sender, mut queue) = mpsc::unbounded_channel();
    others.lock().unwrap().push((number, sender));
    tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            sink.send(message).await?;
        }
        Ok::<_, Error>(())
    });
    while let Some(message) = messages.next().await {
        let message = message?;
        if message.is_text() {
            for (_, other) in others.lock().unwrap().iter().filter(|it| it.0 != number) {
                other.send(message.clone()).ok();
            }
        }
    }
    Ok(())
}
