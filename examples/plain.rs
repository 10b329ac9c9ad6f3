//! A node of plain socketioxide with socketioxide-redis, without Switchboard: what `benches/compare` measures it beside. Clients say at
//! connect which rooms they are in, and a backend sends to a room, or to all, by HTTP.
//!
//! ```sh
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example plain      # on a free port
//! ```

use anyhow::Context;
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde::Deserialize;
use serde_json::Value;
use socketioxide::{
    SocketIo,
    adapter::Emitter,
    extract::{Data, SocketRef},
};
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr};

/// Switchboard's nodes have it too.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Io = SocketIo<RedisAdapter<Emitter>>;

/// What a client says at connect.
#[derive(Deserialize)]
struct Hello {
    rooms: Vec<String>,
}

/// What a backend sends, and to whom: a room, or all.
#[derive(Deserialize)]
struct Message {
    room: Option<String>,
    event: String,
    data: Value,
}

/// Whose sockets a backend asks for.
#[derive(Deserialize)]
struct Question {
    room: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("REDIS_URL").context("REDIS_URL is not set")?;
    let client = redis::Client::open(format!("{url}?protocol=resp3"))?;
    let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
    let (layer, io) = SocketIo::builder()
        .with_adapter::<RedisAdapter<_>>(adapter)
        .build_layer();
    io.ns(
        "/",
        async |socket: SocketRef<_>, Data(hello): Data<Hello>| {
            socket.join(hello.rooms);
        },
    )
    .await?;
    let router = Router::new()
        .route("/send", post(send))
        .route("/sockets", post(sockets))
        .with_state(io)
        .layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

async fn send(State(io): State<Io>, Json(message): Json<Message>) -> StatusCode {
    let to = match message.room {
        Some(room) => io.to(room),
        None => io.broadcast(),
    };
    match to.emit(message.event, &message.data).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn sockets(
    State(io): State<Io>,
    Json(question): Json<Question>,
) -> Result<Json<Vec<String>>, StatusCode> {
    let found = io.within(question.room).fetch_sockets().await;
    let found = found.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let ids = found.iter().map(|socket| socket.data().id.to_string());
    Ok(Json(ids.collect()))
}
