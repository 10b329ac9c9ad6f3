//! The server side of the page of `@socket.io/admin-ui`, in a namespace of its own. Who opens a page is an operator, and no user: it
//! is in no registry, and counts in no number of connections.
//!
//! ```text
//!  CONNECT ─▶ login ─▶ page ◀── what happens: of this node, and of those that were told `Watch`   ◀── source ◀── tail
//!                       │ ▲
//!                       │ └─── all connections: `Show`, and the receipts of all nodes             ◀── source
//!                       └────▶ verbs: `Operate`, to all nodes                                     ──▶ Hands
//! ```
//!
//! `login` is who may; `page` is one of them, and `asking` its socket; `source` is what this node tells, of which `shown` are its
//! connections, `happened` is what the tail says and `stats` are its numbers; `verbs` is what operators ask for; `fleet` carries all of it.

mod asking;
mod fleet;
mod happened;
mod login;
mod page;
mod shown;
mod source;
mod stats;
mod verbs;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::json;
use socketioxide::{
    TransportType,
    extract::{SocketRef, TryData},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(super) use self::login::{LoginError, LoginPayload};
use self::{
    asking::{Asking, AskingPage, Leaving},
    login::Logins,
    page::Page,
    source::Source,
    verbs::Hands,
};
use super::{
    connections::{LocalConnections, event_limiter::EventLimiter, session_of},
    delivery::Deliverer,
    message::{Json, PageEvent},
    peers::Peers,
    rooms::RoomChanges,
    tasks::Tasks,
};
use crate::{
    config::RunningConfig,
    connection::{ConnectionId, Instance, NodeId},
    metrics::Metrics,
    registry::Registry,
    telemetry::AUDIT,
    transport::{Session, SessionId, door::Door, engine::Adapter},
};

/// Pages of a node at the most.
const PAGES: usize = 16;

/// Events that wait for a page at the most.
const QUEUE: usize = 4_096;

/// Verbs of one page that wait to be carried out at the most.
const ASKED: usize = 64;

/// Operators, their pages, and what this node does for those of other nodes.
pub(crate) struct Operators {
    config: RunningConfig,
    metrics: Metrics,
    registry: Arc<dyn Registry>,
    connections: Arc<LocalConnections>,
    peers: Arc<Peers>,
    tasks: Tasks,
    logins: Logins,
    source: Source,
    hands: Hands,
    places: Arc<Semaphore>,
    /// To the pages of this node.
    told: broadcast::Sender<Arc<PageEvent>>,
    pages: Mutex<HashMap<SessionId, OpenPage>>,
    /// A page has come.
    arrived: Notify,
    /// Changes when a node of the fleet has come or gone, with its connections.
    changed: watch::Sender<()>,
    fleet: Mutex<Fleet>,
}

/// What is known of the fleet while there is a page.
#[derive(Default)]
struct Fleet {
    nodes: HashSet<Instance>,
    connections: u32,
}

/// A page of this node, by its transport.
struct OpenPage {
    id: ConnectionId,
    session: Arc<Session>,
    socket: SocketRef<Adapter>,
    gone: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// What the middleware leaves for the connect handler, in the socket's extensions.
#[derive(Clone)]
struct Entrance {
    session: Arc<Session>,
    gone: CancellationToken,
    /// The session of a login, if one has begun.
    login: Option<String>,
}

impl Operators {
    /// Operators of a node without any, and the tasks that tell what happens.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one of its parts, given once"
    )]
    pub(super) fn start(
        node_id: NodeId,
        config: RunningConfig,
        metrics: Metrics,
        registry: Arc<dyn Registry>,
        connections: Arc<LocalConnections>,
        delivery: Arc<Deliverer>,
        rooms: Arc<RoomChanges>,
        peers: Arc<Peers>,
        door: Arc<Door>,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let told = broadcast::Sender::new(QUEUE);
        let operators = Arc::new(Self {
            logins: Logins::new(config.clone(), door),
            source: Source::new(
                node_id,
                config.clone(),
                metrics.clone(),
                connections.clone(),
                peers.clone(),
                told.clone(),
            ),
            hands: Hands::new(delivery, rooms, tasks.clone()),
            config,
            metrics,
            registry,
            connections,
            peers,
            tasks: tasks.clone(),
            places: Arc::new(Semaphore::new(PAGES)),
            told,
            pages: Mutex::default(),
            arrived: Notify::new(),
            changed: watch::Sender::new(()),
            fleet: Mutex::default(),
        });
        let (source, watching) = (operators.clone(), operators.clone());
        tasks.supervise("telling operators", move || {
            let operators = source.clone();
            async move { operators.source.run().await }
        });
        tasks.supervise("watching for operators", move || {
            let operators = watching.clone();
            async move { operators.watch().await }
        });
        operators
    }

    /// The connect middleware of the namespace.
    pub(super) async fn arrive(
        self: &Arc<Self>,
        namespace: &str,
        socket: &SocketRef<Adapter>,
        said: TryData<LoginPayload>,
    ) -> Result<(), LoginError> {
        let session = session_of(socket).ok_or(LoginError::Unavailable)?;
        session.said_connect();
        let address = session.handshake.remote_addr;
        let login = self.logins.check(address, said.0.unwrap_or_default()).await;
        let place = || {
            let place = self.places.clone().try_acquire_owned();
            place.map_err(|_| LoginError::TooMany)
        };
        let entered = login.and_then(|login| Ok((login, place()?)));
        let (login, place) = entered.inspect_err(|error| {
            self.metrics.connect_errors(error.label()).increment(1);
            tracing::warn!(%address, %error, "an operator is refused");
            session.refuse(namespace);
            session.refused();
        })?;
        let (id, gone) = (self.registry.new_id(None), CancellationToken::new());
        session.name(namespace, &id);
        session.set_identified();
        session.mark_empty();
        let page = OpenPage {
            id,
            session: session.clone(),
            socket: socket.clone(),
            gone: gone.clone(),
            _place: place,
        };
        self.pages.lock().insert(session.id, page);
        socket.on_disconnect(Leaving(Arc::downgrade(self)));
        if session.is_over() || session.is_ending() {
            self.leave(&session);
            return Err(LoginError::Unavailable);
        }
        socket.extensions.insert(Entrance {
            session,
            gone,
            login,
        });
        Ok(())
    }

    /// The connect handler of the namespace.
    pub(super) fn ready(self: &Arc<Self>, socket: SocketRef<Adapter>) {
        let entrance = socket.extensions.remove::<Entrance>();
        let Some((entrance, admin_ui)) = entrance.zip(self.config.now().admin_ui.clone()) else {
            return;
        };
        let Entrance {
            session,
            gone,
            login,
        } = entrance;
        let (asked, asking) = mpsc::channel(ASKED);
        let limiter = EventLimiter::new(&self.config.now().limits);
        socket.on_fallback(Asking(Arc::new(AskingPage {
            operators: Arc::downgrade(self),
            asked,
            limiter,
        })));
        let who = format!("admin_ui:{}", admin_ui.username);
        tracing::info!(target: AUDIT, who, what = "open_admin_ui", address = %session.handshake.remote_addr, result = "done");
        let page = Page {
            socket,
            session,
            who,
            told: self.told.subscribe(),
            asked: asking,
            gone,
            shown: HashSet::new(),
        };
        if let Some(id) = login {
            page.send(
                self,
                "session",
                &Json::of(&id).into_iter().collect::<Vec<_>>(),
            );
        }
        let verbs = [
            "EMIT",
            "JOIN",
            "LEAVE",
            "DISCONNECT",
            "MJOIN",
            "MLEAVE",
            "MDISCONNECT",
        ];
        let verbs = verbs.into_iter().filter(|_| !admin_ui.read_only);
        let features: Vec<_> = verbs.chain(["AGGREGATED_EVENTS", "ALL_EVENTS"]).collect();
        let features = Json::of(&json!({ "supportedFeatures": features }));
        page.send(self, "config", &features.into_iter().collect::<Vec<_>>());
        page.session.check_upgrade();
        self.arrived.notify_one();
        self.tasks.spawn(page.serve(self.clone()));
    }

    /// Whether a session carries a page, and the protocol has that on a WebSocket.
    pub(super) fn is_on_websocket(&self, session: SessionId) -> bool {
        let pages = self.pages.lock();
        let page = pages.get(&session);
        page.is_some_and(|page| page.socket.transport_type() == TransportType::Websocket)
    }

    /// A session is over, or its page is.
    pub(super) fn leave(&self, session: &Arc<Session>) {
        let page = self.pages.lock().remove(&session.id);
        if let Some(page) = page {
            page.gone.cancel();
            if let Some(admin_ui) = &self.config.now().admin_ui {
                session.leave(&admin_ui.namespace, &page.id);
            }
            if !session.is_ending() && self.connections.table.of_session(session.id).is_empty() {
                self.connections.clone().expire_empty(session.clone());
            }
        }
    }

    /// Sends all pages away, to come again on another node.
    pub(super) fn end_all(&self) {
        for page in self.pages.lock().values() {
            page.session.close();
        }
    }
}
