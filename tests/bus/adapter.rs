//! `socketioxide`'s adapter over the bus: two nodes, a raw WebSocket client on each.

use futures_util::{SinkExt as _, StreamExt as _};
use socketioxide::{SocketIo, extract::SocketRef};
use socketioxide_redis::{
    CustomRedisAdapter, RedisAdapterConfig, RedisAdapterCtr, drivers::Driver as _,
};
use switchboard::bus::Bus;
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::timeout,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::{
    node::Node,
    server::{PATIENCE, Server, until},
};

type Io = SocketIo<CustomRedisAdapter<socketioxide::adapter::Emitter, Bus>>;

struct Gateway {
    node: Node,
    io: Io,
    url: String,
    serving: AbortHandle,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Gateway {
    async fn start(node: Node) -> Self {
        let config = RedisAdapterConfig::new().with_prefix(Bus::adapter_prefix("test"));
        let state = RedisAdapterCtr::new_with_driver(node.bus.clone(), config);
        let (layer, io): (_, Io) = SocketIo::builder().with_adapter(state).build_layer();
        io.ns("/", async |_socket: SocketRef<_>| {}).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().layer(layer);
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            node,
            io,
            url: format!("ws://{address}/socket.io/?EIO=4&transport=websocket"),
            serving: serving.abort_handle(),
        }
    }

    async fn emit(&self, event: &str) {
        let namespace = self.io.of("/").unwrap();
        namespace.emit(event, "data").await.unwrap();
    }
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn connect(gateway: &Gateway) -> Self {
        let (socket, _) = connect_async(&gateway.url).await.unwrap();
        let mut client = Self(socket);
        client.0.send(Message::text("40")).await.unwrap();
        assert!(client.next().await.starts_with("40{"));
        client
    }

    /// The next Socket.IO packet, as text; Engine.IO's open and ping are passed over.
    async fn next(&mut self) -> String {
        loop {
            let frame = timeout(PATIENCE, self.0.next()).await.expect("a frame");
            let text = frame.unwrap().unwrap().into_text().unwrap();
            match text.as_str() {
                "2" => self.0.send(Message::text("3")).await.unwrap(),
                open if open.starts_with('0') => {}
                packet => return packet.to_owned(),
            }
        }
    }
}

async fn reach_each_other(gateways: [&Gateway; 2], clients: &mut [Client; 2], round: &str) {
    for (from, gateway) in gateways.into_iter().enumerate() {
        let event = format!("{round}-{from}");
        gateway.emit(&event).await;
        for client in clients.iter_mut() {
            assert_eq!(client.next().await, format!("42[\"{event}\",\"data\"]"));
        }
    }
}

/// How many nodes listen to the adapter's requests in a namespace.
async fn listeners(gateway: &Gateway, namespace: &str) -> u16 {
    let prefix = Bus::adapter_prefix("test");
    let channel = format!("{prefix}-request#{namespace}#");
    gateway.node.bus.num_serv(&channel).await.unwrap()
}

#[tokio::test]
async fn broadcasts_reach_the_other_node_also_after_redis_has_restarted() {
    let mut server = Server::start().await;
    let a = Gateway::start(server.node_up().await).await;
    let b = Gateway::start(server.node_up().await).await;
    let mut clients = [Client::connect(&a).await, Client::connect(&b).await];
    assert_eq!(listeners(&a, "/").await, 2);
    assert_eq!(listeners(&a, "/other").await, 0);
    reach_each_other([&a, &b], &mut clients, "before").await;

    server.kill();
    a.node.down().await;
    b.node.down().await;
    assert!(a.io.of("/").unwrap().emit("lost", "data").await.is_err());
    server.launch().await;
    a.node.up().await;
    b.node.up().await;
    assert_eq!(listeners(&a, "/").await, 2);
    reach_each_other([&a, &b], &mut clients, "after").await;

    assert_eq!(a.io.fetch_sockets().await.unwrap().len(), 2);
    b.io.close().await;
    assert_eq!(listeners(&a, "/").await, 1);
}

#[tokio::test]
async fn namespaces_made_before_redis_is_there_work_once_it_is() {
    let mut server = Server::absent();
    let a = Gateway::start(server.node()).await;
    let b = Gateway::start(server.node()).await;
    let mut clients = [Client::connect(&a).await, Client::connect(&b).await];
    server.launch().await;
    until("both are up", async || {
        a.node.bus.is_up() && b.node.bus.is_up()
    })
    .await;
    reach_each_other([&a, &b], &mut clients, "first").await;
}

#[tokio::test]
async fn a_node_alone_serves_its_own() {
    let instance = switchboard::connection::Instance::random();
    let (bus, inbox) = Bus::memory(&instance);
    let node = Node {
        bus,
        inbox,
        instance,
        metrics: switchboard::metrics::Metrics::new().unwrap(),
    };
    let gateway = Gateway::start(node).await;
    let mut client = Client::connect(&gateway).await;
    gateway.emit("hi").await;
    gateway.emit("again").await;
    assert_eq!(client.next().await, "42[\"hi\",\"data\"]");
    assert_eq!(client.next().await, "42[\"again\",\"data\"]");
}
