//! The Socket.IO server under the gateway: its bounds, from the configuration and never the crates' defaults, and its
//! namespaces.

use std::sync::Arc;

use engineioxide::service::NotFoundService;
use socketioxide::{
    ParserConfig, SocketIo,
    extract::{SocketRef, TryData},
    handler::ConnectHandler,
    service::SocketIoService,
};
use socketioxide_redis::{RedisAdapterConfig, RedisAdapterCtr};

use super::{Arrivals, ConnectPacket};
use crate::{
    auth::KeptHeaders,
    config::{Config, LARGEST_PAYLOAD, RunningConfig},
    gateway::{
        operators::{LoginError, LoginPayload, Operators},
        refusal::Refusal,
    },
    transport::{
        PATIENCE,
        door::Door,
        engine::{Adapter, EngineSettings, ThisNode},
        namespaces::Namespaces,
        origin::Origins,
    },
};

/// How many packets the engine queues for a client. Over a WebSocket they pass at once into the wire, which bounds them in
/// bytes; this bound is for what is sent between two runs of the engine's writer. The memory is taken as it is used.
const ENGINE_QUEUE: usize = 16 * 1024;

/// The read buffer of a WebSocket. Small: it is held for as long as the connection is (measured: 16.1 KB a connection).
const READ_BUFFER: usize = 512;

/// Binary attachments of one packet; the JavaScript server's own bound.
const MAX_ATTACHMENTS: usize = 10;

/// What the engine is to go by.
pub(crate) fn engine_settings(running: &RunningConfig, door: &Arc<Door>) -> EngineSettings {
    let config = running.now();
    EngineSettings {
        config: running.clone(),
        origins: Origins::new(&config.cors),
        namespaces: Arc::new(Namespaces::new(
            config
                .namespaces
                .iter()
                .map(|one| &one.path)
                .chain(config.admin_ui.as_ref().map(|it| &it.namespace))
                .cloned(),
        )),
        kept: KeptHeaders::new(&config.auth.session),
        door: door.clone(),
    }
}

/// Makes the Socket.IO server and mounts the configured namespaces, and that of operators.
pub(crate) async fn mount(
    arrivals: &Arc<Arrivals>,
    operators: &Arc<Operators>,
) -> SocketIoService<NotFoundService, Adapter> {
    let Config {
        limits,
        ping,
        namespaces,
        admin_ui,
        ..
    } = &**arrivals.config.now();
    // What it may be at the most: the gate holds each session to what its client was told.
    let max_payload = LARGEST_PAYLOAD.as_u64();
    let parser = ParserConfig::common()
        .max_incoming_binaries(MAX_ATTACHMENTS)
        .max_incoming_binary_buf_size(max_payload as usize)
        .packet_completion_timeout(PATIENCE);
    let adapter = RedisAdapterCtr::new_with_driver(ThisNode, RedisAdapterConfig::new());
    let (protocol, io) = SocketIo::builder()
        .req_path("/socket.io")
        .ping_interval(ping.interval)
        .ping_timeout(ping.timeout)
        .upgrade_timeout(limits.handshake_timeout)
        .connect_timeout(limits.handshake_timeout)
        .max_buffer_size(ENGINE_QUEUE)
        .max_payload(max_payload)
        .ws_read_buffer_size(READ_BUFFER)
        .ws_max_message_size(max_payload as usize)
        .ws_max_frame_size(max_payload as usize)
        .with_parser(parser)
        .with_adapter::<Adapter>(adapter)
        .build_svc();
    for namespace in namespaces {
        let path: Arc<str> = namespace.path.as_str().into();
        let (arriving, arrived) = (Arc::downgrade(arrivals), Arc::downgrade(arrivals));
        let middleware = move |socket: SocketRef<Adapter>, said: ConnectPacket| async move {
            match arriving.upgrade() {
                Some(arrivals) => arrivals.arrive(&path, socket, said).await,
                None => Err(Refusal::Unavailable),
            }
        };
        let handler = move |socket: SocketRef<Adapter>| async move {
            if let Some(arrivals) = arrived.upgrade() {
                arrivals.ready(&socket);
            }
        };
        let mounted = io.ns(namespace.path.clone(), handler.with(middleware));
        check_mounted(&namespace.path, mounted.await);
    }
    if let Some(admin_ui) = admin_ui {
        let path: Arc<str> = admin_ui.namespace.as_str().into();
        let (arriving, arrived) = (Arc::downgrade(operators), Arc::downgrade(operators));
        let middleware = move |socket: SocketRef<Adapter>, said: TryData<LoginPayload>| async move {
            match arriving.upgrade() {
                Some(operators) => operators.arrive(&path, &socket, said).await,
                None => Err(LoginError::Unavailable),
            }
        };
        let handler = move |socket: SocketRef<Adapter>| async move {
            if let Some(operators) = arrived.upgrade() {
                operators.ready(socket);
            }
        };
        let mounted = io.ns(admin_ui.namespace.clone(), handler.with(middleware));
        check_mounted(&admin_ui.namespace, mounted.await);
    }
    protocol
}

/// Says that a namespace is not there. The configuration has been validated, and the bus takes subscriptions while Redis is away.
fn check_mounted<E: std::fmt::Debug>(namespace: &str, mounted: Result<(), E>) {
    if let Err(error) = mounted {
        tracing::error!(namespace, ?error, "can't mount a namespace");
    }
}
