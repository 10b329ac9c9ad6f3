//! L6: clients that go at any moment of their coming. Nothing of them stays.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::SinkExt;
use rand::{Rng, rngs::StdRng};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore, time::sleep};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    ground::{alone, crowd_at, given, on_given_binary, sign},
    support::{
        bounds::seconds,
        client::{Client, Hello, dial, next_text},
        fleet::{Fleet, Plan},
        run::Run,
    },
};

/// How many come each second, and how many users they are.
const RATE: u64 = 200;
const USERS: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_at_any_moment_leaves_nothing() {
    let _alone = alone().await;
    let run = Run::begin("churn");
    let fleet = Fleet::start(&run, on_given_binary(Plan::of(2))).await;
    sign("churn", USERS as usize);
    let stays = crowd_at(fleet[0].addr, "stays", 20).await;
    let mut random = run.random("churn");
    let total = RATE * given("CHURN_SECONDS", 15);
    // On a machine that can't keep up the rate sinks; what is proved does not depend on it.
    let places = Arc::new(Semaphore::new(200));
    let start = tokio::time::Instant::now();
    let mut going = tokio::task::JoinSet::new();
    for number in 0..total {
        tokio::time::sleep_until(start + Duration::from_secs(1) / RATE as u32 * number as u32)
            .await;
        let place = places.clone().acquire_owned().await;
        let door = fleet[usize::from(random.random_bool(0.5))].addr;
        let user = format!("churn-{}", random.random_range(0..USERS));
        let random = run.random(&format!("churn {number}"));
        going.spawn(async move {
            come_and_go(door, &user, random).await;
            drop(place);
        });
    }
    while going.join_next().await.is_some() {}
    run.tell(format!("{total} came and went in {:.1?}", start.elapsed()));
    let took = fleet.exact(&stays, seconds(15.0)).await;
    run.tell(format!("exact {took:.1?} later"));
    assert!(
        stays.iter().all(Client::is_open),
        "one that stays was ended"
    );
    fleet.finish(stays, seconds(15.0)).await;
}

/// Comes as far as a random phase, waits a random moment, and is gone.
async fn come_and_go(door: SocketAddr, user: &str, mut random: StdRng) {
    let phase = random.random_range(0..8);
    let pause = Duration::from_micros(random.random_range(0..30_000));
    let hello = Hello {
        keep: false,
        ..Hello::user(user)
    };
    match phase {
        // Before a request, or in the middle of its head.
        0 | 1 => {
            let Ok(mut stream) = TcpStream::connect(door).await else {
                return;
            };
            if phase == 1 {
                let half = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost:";
                stream.write_all(half.as_bytes()).await.ok();
            }
            sleep(pause).await;
        }
        // After the upgrade, after CONNECT, after its acknowledgement.
        2..=4 => {
            let Ok(mut socket) = dial(door, None).await else {
                return;
            };
            if phase > 2 {
                socket.send(Message::text(hello.packet())).await.ok();
            }
            if phase > 3 {
                next_text(&mut socket).await;
            }
            sleep(pause).await;
        }
        // A DISCONNECT packet right behind the CONNECT.
        5 => {
            let Ok(mut socket) = dial(door, None).await else {
                return;
            };
            socket.send(Message::text(hello.packet())).await.ok();
            sleep(pause / 8).await;
            socket.send(Message::text("41")).await.ok();
            sleep(pause).await;
        }
        // After `ready`.
        _ => {
            let client = Client::connect(door, &hello).await;
            sleep(pause).await;
            drop(client);
        }
    }
}
