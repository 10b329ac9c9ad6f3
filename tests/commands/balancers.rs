//! What stands between clients and nodes, and gets it wrong.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Deals connections out to the nodes in turn, and ends each after so long; none: never.
pub(crate) async fn in_turn(nodes: Vec<SocketAddr>, patience: Option<Duration>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for node in nodes.iter().cycle() {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(node).await.unwrap();
            tokio::spawn(async move {
                let passing = copy_bidirectional(&mut client, &mut server);
                match patience {
                    Some(patience) => drop(timeout(patience, passing).await),
                    None => drop(passing.await),
                }
            });
        }
    });
    format!("http://{addr}")
}

/// Answers every request with this status, and nothing more.
pub(crate) async fn refusing(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                // The head comes in one piece here.
                let head = client.read(&mut [0; 4096]).await;
                if head.is_ok_and(|length| length > 0) {
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    client.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    format!("http://{addr}")
}
