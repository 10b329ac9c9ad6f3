//! The composition root: builds a node from a configuration, and runs it until it is told to stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::{Path, Request, State},
    response::Response,
    routing::{any, get},
};
use http::{HeaderMap, HeaderValue, Method, request};
use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_http::{
    compression::{CompressionLayer, predicate::SizeAbove},
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};

use crate::{
    api::{self, ApiState, auth::ApiAuth},
    auth::{Authenticator, RedisSessions},
    backend::Backends,
    bus::Bus,
    config::{Config, Cors, Development, Reload, RunningConfig, Transport},
    connection::{Instance, NodeId},
    console::Console,
    gateway::{Gateway, Parts, handlers::Handlers},
    ingress::Ingress,
    link::{Link, Servers},
    metrics::Metrics,
    registry::{Registry, memory::MemoryRegistry, redis::RedisRegistry},
    telemetry::traces::Traces,
    transport::{
        Engine,
        bundle::Bundle,
        listener::{self, ListenerLimits},
        origin::Origins,
    },
};

/// Answers to polls of more bytes than this are compressed, where they are at all; the JavaScript server's own bound.
const COMPRESSED_BEYOND: u16 = 1024;

/// How often the histograms' samples are folded; without it they pile up until the next scrape.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often the log says how many connections came and went.
const SUMMARY: Duration = Duration::from_secs(10);

/// Time for a request head on the internal listener, the idle time between two requests included: longer than the minute for
/// which balancers and backends keep a connection at hand, which must not be closed under the request that they send next.
const INTERNAL_HEAD_TIMEOUT: Duration = Duration::from_secs(90);

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`, 4096 on Linux.
const BACKLOG: u32 = 4_096;

/// A node that is bound to its addresses and has begun to join its cluster, and that takes nobody in yet.
pub struct App {
    node_id: NodeId,
    public: TcpListener,
    internal: Option<TcpListener>,
    config: RunningConfig,
    gateway: Gateway,
    engine: Arc<Engine>,
    auth: Authenticator,
    keys: Arc<ApiAuth>,
    bundle: Bundle,
    ingress: Ingress,
    development: Option<Development>,
}

/// Takes a new configuration over while the node runs, as far as that can be done.
#[derive(Clone)]
pub struct Reloader {
    config: RunningConfig,
    /// Held while a reload is under way: one at a time.
    turn: Arc<Mutex<()>>,
    gateway: Gateway,
    auth: Authenticator,
    keys: Arc<ApiAuth>,
}

impl Reloader {
    /// Takes over what can be: API keys and the API's limits, what verifies tokens and cookies, backends, and all other limits. Returns the
    /// keys that have changed, and those that wait for the next start.
    ///
    /// # Errors
    ///
    /// A configuration that lets nobody in, or a key file that can't be read. Nothing is changed then.
    pub fn reload(&self, new: &Config) -> anyhow::Result<Reload> {
        let _turn = self.turn.lock();
        let reload = self.config.now().reloadable_from(new)?;
        let backends = self.gateway.prepare_backends(&reload.config)?;
        self.auth
            .reload(&reload.config.auth, &reload.config.namespaces)?;
        self.keys.replace(&reload.config.api);
        self.gateway.reload(reload.config.clone(), backends);
        Ok(reload)
    }
}

impl App {
    /// Binds the addresses and builds the node, for [`Builder::bind`](crate::Builder::bind).
    pub(crate) async fn build(config: Config, handlers: Handlers) -> anyhow::Result<Self> {
        let running = RunningConfig::new(config);
        let config = running.now();
        let bundle = Bundle::read(config.transport.client_bundle.as_deref())?;
        let public = bind(config.listen)?;
        let internal = match config.internal_listen {
            Some(addr) => Some(bind(addr)?),
            None => None,
        };
        let node_id = config
            .node_id
            .clone()
            .map_or_else(made_up_node_id, NodeId::from);
        let instance = Instance::random();
        let metrics = Metrics::new().context("metrics")?;
        let mut auth = Authenticator::new(&config.auth, &config.namespaces)?;
        let servers = match config.redis.urls.as_slice() {
            [] => None,
            _ => Some(Servers::new(&config.redis)?),
        };
        if let Some(redis) = config.session_redis() {
            let store = match (&config.auth.session.redis_url, &servers) {
                (None, Some(servers)) => servers.clone(),
                _ => Servers::new(&redis).context("auth.session.redis_url")?,
            };
            let store = Link::new(&store, metrics.clone())?;
            let mut sessions = RedisSessions::new(store, &config.auth.session.key_prefix);
            if servers.is_none() {
                sessions = sessions.by_the_nodes_clock();
            }
            auth = auth.with_sessions(Arc::new(sessions));
        }

        let Config {
            registry: timing,
            presence,
            ..
        } = &**config;
        let (registry, (bus, inbox)): (Arc<dyn Registry>, _) = match &servers {
            None => {
                let registry = MemoryRegistry::new(timing, presence).telling(running.clone());
                // It hears itself, and there is nobody else.
                metrics.bus_up().set(1);
                (Arc::new(registry), Bus::memory(&instance))
            }
            Some(servers) => {
                let registry = RedisRegistry::new(servers, timing, presence, metrics.clone())?
                    .telling(running.clone());
                let secrets = config.fleet_secrets();
                let bus = Bus::redis(
                    servers,
                    &timing.prefix,
                    timing.shards,
                    &instance,
                    &secrets,
                    &metrics,
                );
                (Arc::new(registry), bus)
            }
        };
        let ingress = Ingress::new(&running, servers.as_ref(), &metrics)?;
        let traces = Traces::new(&config.traces, &node_id, &metrics)?;
        let backends = Backends::new(&config, metrics.clone(), traces.clone())?;
        let (gateway, engine) = Gateway::start(Parts {
            config: running.clone(),
            node_id: node_id.clone(),
            instance,
            auth: auth.clone(),
            registry,
            bus,
            inbox,
            metrics,
            application: handlers.application.clone(),
            backends: Arc::new(backends),
            traces,
        })
        .await;
        handlers.serve(&gateway);
        let keys = ApiAuth::new(&config.api, Arc::new(gateway.clone()));
        Ok(Self {
            node_id,
            public,
            internal,
            config: running,
            gateway,
            engine,
            auth,
            keys: Arc::new(keys),
            bundle,
            ingress,
            development: None,
        })
    }

    /// The node's name.
    pub fn node_id(&self) -> &NodeId {
        &self.node_id
    }

    /// Where clients connect; with port 0 configured, the port that was given.
    ///
    /// # Errors
    ///
    /// The socket's own.
    pub fn addr(&self) -> std::io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// Where operators connect, if that is elsewhere.
    ///
    /// # Errors
    ///
    /// The socket's own.
    pub fn internal_addr(&self) -> std::io::Result<Option<SocketAddr>> {
        self.internal
            .as_ref()
            .map(TcpListener::local_addr)
            .transpose()
    }

    /// Serves the console signed in, and at `/` too, with the key that development mode made up.
    #[must_use]
    pub fn signed_in(mut self, development: Development) -> Self {
        self.development = Some(development);
        self
    }

    /// The node's verbs, for those who embed it.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// What reloads the configuration of this node while it runs.
    pub fn reloader(&self) -> Reloader {
        Reloader {
            config: self.config.clone(),
            turn: Arc::default(),
            gateway: self.gateway.clone(),
            auth: self.auth.clone(),
            keys: self.keys.clone(),
        }
    }

    /// Serves until `shutdown`, then drains; `force` ends it at once, whatever it is at.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
        force: impl Future<Output = ()> + Send,
    ) {
        let gateway = self.gateway.clone();
        let stop = CancellationToken::new();
        let life = async {
            let mut servers = self.serve(&stop);
            shutdown.await;
            // The listeners stay while the node drains: who comes now is told to try again, and finds another node.
            gateway.drain().await;
            stop.cancel();
            while servers.join_next().await.is_some() {}
        };
        tokio::select! {
            () = life => {}
            () = force => {}
        }
        gateway.log_recent();
        gateway.stop().await;
        gateway.traces().finish().await;
    }

    fn serve(self, stop: &CancellationToken) -> JoinSet<()> {
        let state = ApiState::new(self.gateway.clone(), self.keys, self.config.clone());
        let console = Console {
            development: self.development,
            path: self.config.now().transport.path.clone(),
            clients: self
                .internal
                .as_ref()
                .and_then(|_| self.public.local_addr().ok()),
        };
        let console = console.router(self.gateway.door());
        let engine = self.engine;
        let socket_io = any(move |request: Request| engine.clone().handle(request));
        let Transport {
            path,
            http_compression,
            ..
        } = &self.config.now().transport;
        let mut sessions = Router::new()
            .route(path, socket_io.clone())
            .route(&format!("{path}/"), socket_io);
        if *http_compression {
            let beyond = SizeAbove::new(COMPRESSED_BEYOND);
            sessions = sessions.layer(CompressionLayer::new().compress_when(beyond));
        }
        let client = get(client_file).with_state(self.bundle);
        let mut sockets = sessions
            .route(&format!("{path}/{{file}}"), client)
            .merge(api::sessions(state.clone()));
        if let Some(layer) = cors_layer(&self.config.now().cors) {
            sockets = sockets.layer(layer);
        }
        let mut servers = JoinSet::new();
        let bounds = ListenerLimits {
            config: self.config,
            head_timeout: None,
            door: Some(self.gateway.door().clone()),
        };
        let public = match self.internal {
            Some(internal) => {
                let router = api::internal(state).merge(console);
                servers.spawn(listener::serve(
                    internal,
                    router,
                    ListenerLimits {
                        head_timeout: Some(INTERNAL_HEAD_TIMEOUT),
                        door: None,
                        ..bounds.clone()
                    },
                    stop.clone(),
                ));
                sockets
            }
            None => api::public(state).merge(console).merge(sockets),
        };
        servers.spawn(listener::serve(self.public, public, bounds, stop.clone()));

        self.ingress.run(&self.gateway, stop);
        let metrics = self.gateway.metrics().clone();
        let upkeep = async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                metrics.upkeep();
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(upkeep));
        let gateway = self.gateway.clone();
        let summary = async move {
            let mut ticks = tokio::time::interval(SUMMARY);
            loop {
                ticks.tick().await;
                gateway.log_recent();
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(summary));
        servers
    }
}

/// Not `TcpListener::bind`: that lets 128 connections wait. In a burst the kernel drops the SYN of every further one, those of the
/// API's callers too, who send theirs again after a second.
fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("can't listen on {addr}"))
}

/// The host's name and a random suffix.
fn made_up_node_id() -> NodeId {
    let host = gethostname::gethostname();
    let suffix: u32 = rand::rng().random_range(0x10_0000..0x100_0000);
    format!("{}-{suffix:06x}", host.to_string_lossy()).into()
}

/// A file of the client's bundle.
async fn client_file(
    State(bundle): State<Bundle>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    bundle.answer(&name, &headers)
}

/// Which pages of other origins may speak to `transport.path`; none without a list, as browsers have it.
fn cors_layer(cors: &Cors) -> Option<CorsLayer> {
    if cors.allowed_origins.is_empty() && !cors.localhost {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .max_age(Duration::from_secs(600));
    if cors.allowed_origins.iter().any(|origin| origin == "*") {
        // Credentials of a browser never go to just anybody: the Fetch standard forbids the two together.
        return Some(layer.allow_origin(AllowOrigin::any()));
    }
    let origins = Origins::new(cors);
    let listed = move |origin: &HeaderValue, _: &request::Parts| {
        origin
            .to_str()
            .is_ok_and(|origin| origins.is_listed(origin))
    };
    Some(
        layer
            .allow_origin(AllowOrigin::predicate(listed))
            .allow_credentials(true),
    )
}
