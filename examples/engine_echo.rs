//! The server that the official Engine.IO protocol suite runs against: Switchboard's transport alone, with engineioxide in place of
//! Socket.IO, which sends back what it gets. Nothing that a product is built from: [`echo`](../echo.rs) shows that.
//!
//! ```sh
//! cargo run --example engine_echo                                  # on 127.0.0.1:3000
//! SWITCHBOARD_LISTEN=127.0.0.1:4000 cargo run --example engine_echo
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use axum::{Router, extract::Request, routing::any};
use bytes::Bytes;
use engineioxide::{
    Str, TransportType,
    config::EngineIoConfig,
    handler::EngineIoHandler,
    service::EngineIoService,
    socket::{DisconnectReason, Socket},
};
use switchboard::{
    auth::KeptHeaders,
    config::{Environment, RunningConfig, Sources},
    ending::Breach,
    metrics::Metrics,
    transport::{
        Engine, Session, SessionEvents, SessionGuard, SessionId,
        door::Door,
        engine::EngineSettings,
        listener::{self, ListenerLimits},
        namespaces::Namespaces,
        origin::Origins,
    },
};
use tokio_util::sync::CancellationToken;

/// What the suite expects of the server that it tests.
const PING_INTERVAL: Duration = Duration::from_millis(300);
const PING_TIMEOUT: Duration = Duration::from_millis(200);

/// Sends back what it gets.
#[derive(Debug, Default)]
struct Echo(Mutex<HashMap<SessionId, Arc<Socket<()>>>>);

impl Echo {
    fn socket(&self, session: &Session) -> Option<Arc<Socket<()>>> {
        let sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.get(&session.id).cloned()
    }
}

impl EngineIoHandler for Echo {
    type Data = ();

    fn on_connect(self: Arc<Self>, socket: Arc<Socket<()>>) {
        if let Some(guard) = socket.req_parts.extensions.get::<Arc<SessionGuard>>() {
            let session = guard.session();
            session.said_connect();
            let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.insert(session.id, socket.clone());
        }
    }

    fn on_disconnect(&self, socket: Arc<Socket<()>>, _: DisconnectReason) {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.retain(|_, one| one.id != socket.id);
    }

    fn on_message(self: &Arc<Self>, text: Str, socket: Arc<Socket<()>>) {
        socket.emit(text).ok();
    }

    fn on_binary(self: &Arc<Self>, data: Bytes, socket: Arc<Socket<()>>) {
        socket.emit_binary(data).ok();
    }
}

/// What the gateway would do for a session.
struct Events(Arc<Echo>);

impl SessionEvents for Events {
    fn admit(&self) -> Result<(), &'static str> {
        Ok(())
    }

    fn is_websocket(&self, session: &Session) -> bool {
        let socket = self.0.socket(session);
        socket.is_some_and(|socket| socket.transport_type() == TransportType::Websocket)
    }

    fn stalled(&self, session: &Arc<Session>) {
        session.abort();
    }

    fn displaced(&self) {}
    fn other_protocol(&self) {}
    fn no_namespace(&self) {}
    fn breached(&self, _: Breach) {}
    fn lost(&self, _: u64) {}
    fn upgraded(&self, _: &Arc<Session>) {}
    fn over(&self, _: &Arc<Session>) {}
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sources = Sources {
        environment: Environment::of_process(),
        ..Sources::default()
    };
    let config = sources.load()?;
    let (listen, limits) = (config.listen, config.limits.clone());
    let settings = EngineSettings {
        origins: Origins::new(&config.cors),
        namespaces: Arc::new(Namespaces::new([])),
        kept: KeptHeaders::new(&config.auth.session),
        door: Door::new(&limits, Vec::new(), Metrics::new()?),
        config: RunningConfig::new(config),
    };
    let bounds = ListenerLimits {
        config: settings.config.clone(),
        head_timeout: None,
        door: Some(settings.door.clone()),
    };

    let echo = Arc::new(Echo::default());
    let engine = Engine::new(settings, Arc::new(Events(echo.clone())));
    let protocol = EngineIoConfig::builder()
        .req_path("/socket.io")
        .ping_interval(PING_INTERVAL)
        .ping_timeout(PING_TIMEOUT)
        .build();
    engine.mount(EngineIoService::with_config(echo, protocol));
    tokio::spawn(engine.clone().sweep());

    let router = Router::new().route(
        "/engine.io/",
        any(move |request: Request| engine.clone().handle(request)),
    );
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("can't listen on {listen}"))?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    tokio::select! {
        () = listener::serve(listener, router, bounds, stop.clone()) => {}
        _ = tokio::signal::ctrl_c() => stop.cancel(),
    }
    Ok(())
}
