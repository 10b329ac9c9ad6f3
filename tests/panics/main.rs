//! Panics in what a node does for its clients (F16): each takes what it was about, and nothing else. No ghost is left, in the
//! node or in the registry, and the node goes on. They are injected into the calls to the registry, which every handler makes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod registry;
#[path = "../support/mod.rs"]
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, extract::Request, routing::any};
use futures_util::SinkExt;
use rand::Rng;
use switchboard::{
    auth::Authenticator,
    backend::Backends,
    bus::Bus,
    config::{Config, RunningConfig},
    connection::{Instance, UserId},
    ending::Ending,
    gateway::{Application, Delivery, Gateway, Message, Parts, Target},
    metrics::Metrics,
    registry::{Registry, memory::MemoryRegistry},
    telemetry::traces::Traces,
    transport::listener::{self, ListenerLimits},
};
use tokio::{net::TcpListener, time::sleep};
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

use registry::{Faults, INJECTED, Panicky};
use support::{
    bounds::{PATIENCE, bound, ensure, seconds, within},
    client::{Client, Hello, Socket, dial, next_text},
    returning::{Manner, Returning},
    run::Run,
    token::SECRET,
};

/// Of a thousand calls.
const ODDS: u64 = 30;

/// How long they go on.
const STORM: Duration = Duration::from_secs(6);

const CROWD: usize = 10;

/// A node in this process, whose registry may be anybody's.
struct Node {
    gateway: Gateway,
    registry: MemoryRegistry,
    addr: SocketAddr,
    stop: CancellationToken,
}

impl Node {
    async fn start(faults: Faults) -> Self {
        let mut config = Config::default();
        config.auth.jwt.secret = Some(SECRET.into());
        config.registry.heartbeat = Duration::from_millis(100);
        let instance = Instance::random();
        let (bus, inbox) = Bus::memory(&instance);
        let registry = MemoryRegistry::new(&config.registry, &config.presence);
        let running = RunningConfig::new(config.clone());
        let limits = ListenerLimits {
            config: running.clone(),
            head_timeout: None,
            door: None,
        };
        let metrics = Metrics::new().unwrap();
        metrics.bus_up().set(1);
        let (gateway, engine) = Gateway::start(Parts {
            node_id: "panics".into(),
            auth: Authenticator::new(&config.auth, &config.namespaces).unwrap(),
            registry: Arc::new(Panicky {
                inner: registry.clone(),
                faults,
            }),
            backends: Arc::new(Backends::new(&config, metrics.clone(), Traces::default()).unwrap()),
            metrics,
            config: running,
            instance,
            bus,
            inbox,
            application: Application::default(),
            traces: Traces::default(),
        })
        .await;
        let sockets = any(move |request: Request| engine.clone().handle(request));
        let router = Router::new().route("/socket.io/", sockets);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(listener::serve(listener, router, limits, stop.clone()));
        Self {
            gateway,
            registry,
            addr,
            stop,
        }
    }

    /// A gauge, over all its labels.
    fn gauge(&self, name: &str) -> f64 {
        let text = self.gateway.metrics().render();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        lines.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }
}

/// Keeps what a panic says of itself to itself, if it was injected.
fn be_quiet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        if !message.is_some_and(|text| text.starts_with(INJECTED)) {
            before(panic);
        }
    }));
}

/// Reads until a packet begins with `start`; answers pings.
async fn until(socket: &mut Socket, start: &str) {
    let reading = async {
        loop {
            let text = next_text(socket).await.expect("the transport stays");
            match text.as_str() {
                "2" => socket.send(tungstenite::Message::text("3")).await.unwrap(),
                text if text.starts_with(start) => return,
                _ => {}
            }
        }
    };
    let waited = tokio::time::timeout(bound(PATIENCE), reading).await;
    waited.unwrap_or_else(|_| panic!("no {start} has come"));
}

/// Nobody would cut a transport for a handshake that panics, as it carries somebody else: the packet waits for its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_a_handshake_that_panics_on_a_transport_that_stays_is_made_again() {
    let run = Run::begin("f16 handshake");
    be_quiet();
    let faults = Faults::new(run.random("faults"));
    let node = Node::start(faults.clone()).await;
    let ready = async || ensure(node.gateway.unready().is_empty(), || "not ready".to_owned());
    within(seconds(5.0), "the node is ready", ready).await;
    let users: Vec<_> = (0..6).map(|number| format!("user-{number}")).collect();
    let mut sockets = Vec::new();
    for _ in &users {
        let mut socket = dial(node.addr, None).await.unwrap();
        let guest = tungstenite::Message::text("40/public,");
        socket.send(guest).await.unwrap();
        until(&mut socket, r#"42/public,["ready""#).await;
        sockets.push(socket);
    }
    faults.set(400);
    let coming = users.iter().zip(&mut sockets).map(async |(user, socket)| {
        let connect = tungstenite::Message::text(Hello::user(user).packet());
        socket.send(connect).await.unwrap();
        until(socket, r#"42["ready""#).await;
    });
    futures_util::future::join_all(coming).await;
    faults.set(0);
    assert!(faults.count() > 6, "{} panics", faults.count());
    // What was left of the attempts is gone.
    let exact = async || {
        let totals = node.registry.totals().await.unwrap();
        let counted = node.gauge("switchboard_connections{");
        let all = 2 * users.len();
        let is_exact = totals.connections == all as u64 && counted == all as f64;
        ensure(is_exact, || format!("{totals:?}, {counted} here"))
    };
    within(seconds(5.0), "each is there once", exact).await;
    for user in users {
        let found = node.registry.user(&user.as_str().into()).await.unwrap();
        assert_eq!(found.connections.len(), 1, "{user}");
    }
    drop(sockets);
    node.gateway.drain().await;
    node.stop.cancel();
    node.gateway.stop().await;
}

/// The registry lists it already, so "nobody is there" would be wrong.
#[tokio::test]
async fn a_send_to_a_connection_that_is_not_ready_yet_is_unconfirmed() {
    let run = Run::begin("arriving");
    let faults = Faults::new(run.random("faults"));
    let node = Node::start(faults.clone()).await;
    let gateway = &node.gateway;
    let ready = async || ensure(gateway.unready().is_empty(), || "not ready".to_owned());
    within(seconds(5.0), "the node is ready", ready).await;
    let message = Message::new("/", "e");
    let target = Target::User("42".into());
    let sent = async || gateway.send(target.clone(), message.clone()).await.unwrap();
    assert_eq!(sent().await, Delivery::default());

    faults.hold(true);
    let mut socket = dial(node.addr, None).await.unwrap();
    let connect = tungstenite::Message::text(Hello::user("42").packet());
    socket.send(connect).await.unwrap();
    let listed = async || {
        let found = node.registry.user(&"42".into()).await.unwrap();
        ensure(found.connections.len() == 1, || "not listed".to_owned())
    };
    within(seconds(5.0), "the connection is listed", listed).await;
    let unconfirmed = Delivery {
        unconfirmed: 1,
        ..Delivery::default()
    };
    assert_eq!(sent().await, unconfirmed);

    faults.hold(false);
    until(&mut socket, r#"42["ready""#).await;
    let delivered = Delivery {
        connections: 1,
        nodes: 1,
        unconfirmed: 0,
    };
    assert_eq!(sent().await, delivered);
    until(&mut socket, r#"42["e""#).await;
    gateway.drain().await;
    node.stop.cancel();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_panics_leave_no_ghost_and_the_node_goes_on() {
    let run = Run::begin("f16");
    be_quiet();
    let faults = Faults::new(run.random("faults"));
    let node = Node::start(faults.clone()).await;
    let gateway = &node.gateway;
    let ready = async || ensure(gateway.unready().is_empty(), || "not ready".to_owned());
    within(seconds(5.0), "the node is ready", ready).await;

    let users: Vec<_> = (0..CROWD).map(|number| format!("user-{number}")).collect();
    let crowd: Vec<_> = users
        .iter()
        .map(|user| {
            let manner = Manner {
                doors: vec![node.addr],
                hello: Hello::user(user),
                pause: Duration::ZERO..Duration::from_millis(20),
                stubborn: true,
                stay: Some(Duration::from_millis(5)..Duration::from_millis(200)),
            };
            Returning::start(manner, run.random(user))
        })
        .collect();
    faults.set(ODDS);
    let mut random = run.random("verbs");
    let (start, mut asked) = (Instant::now(), 0);
    while start.elapsed() < STORM {
        asked += 1;
        for client in crowd.iter().filter_map(Returning::client) {
            client.ask(asked, "devices");
        }
        let user: UserId = users[random.random_range(0..CROWD)].as_str().into();
        // A panic in an API call is the API's, which has a layer for it.
        let call = gateway.clone();
        tokio::spawn(async move {
            let ending = Ending::of(Ending::DISCONNECTED);
            call.disconnect_user(&user, Vec::new(), &ending, false)
                .await
                .ok();
        });
        let user: UserId = users[random.random_range(0..CROWD)].as_str().into();
        let call = gateway.clone();
        tokio::spawn(async move {
            let message = Message::new("/", "e").with(&1).unwrap();
            call.send(Target::User(user), message).await.ok();
        });
        sleep(Duration::from_millis(15)).await;
    }
    faults.set(0);
    let visits: usize = crowd.iter().map(|one| one.visits().len()).sum();
    run.tell(format!(
        "measured: {} panics, {visits} attempts to come in, {asked} calls",
        faults.count()
    ));
    assert!(faults.count() > 50 && visits > 100);
    drop(crowd);

    let empty = async || {
        let totals = node.registry.totals().await.unwrap();
        ensure(totals.connections == 0, || format!("{totals:?}"))?;
        let gauges = ["switchboard_connections{", "switchboard_users"].map(|it| node.gauge(it));
        ensure(gauges == [0.0; 2], || format!("gauges {gauges:?}"))
    };
    within(seconds(15.0), "nobody is left", empty).await;
    // It works as before.
    within(seconds(5.0), "the node is ready", ready).await;
    let client = Client::of(node.addr, "user-0").await;
    let vouches = async || gateway.totals().await.map_err(|error| error.to_string());
    let (_, totals) = within(seconds(5.0), "the node answers", vouches).await;
    assert_eq!((totals.nodes, totals.connections), (1, 1));
    let ending = Ending::of(Ending::DISCONNECTED);
    let user = client.user.as_str().into();
    let done = gateway.disconnect_user(&user, Vec::new(), &ending, false);
    let done = done.await.unwrap();
    assert_eq!((done.disconnected, done.remaining.len()), (1, 0));
    assert_eq!(client.ended(seconds(1.0)).await.code(), 4500);
    within(seconds(5.0), "nobody is left", empty).await;
    gateway.drain().await;
    node.stop.cancel();
    gateway.stop().await;
}
