//! Builds a node's parts, from the lowest up, and starts them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    Composition, Gateway, Parts,
    arriving::{Arrivals, mount},
    calls::Calls,
    clients::{admin::AdminVerbs, client_verbs::ClientVerbs, inbound::ClientEvents},
    commands::PeerCommands,
    connections::LocalConnections,
    delivery::Deliverer,
    drain::Drain,
    endings::{
        expiry::{ExpiryWatch, Watch},
        orders::EndOrders,
        recheck::SessionRecheck,
    },
    lanes::Lanes,
    lease::OwnLease,
    membership::{heartbeats::Heartbeats, registrar::Registrar, repair::Repairs},
    memory::MemoryWatch,
    notifications::Notifications,
    operators::Operators,
    peers::Peers,
    readiness::Readiness,
    rooms::RoomChanges,
    session_events::SessionListener,
    sessions::RefreshSessions,
    tasks::Tasks,
    watching::Watching,
};
use crate::transport::{Engine, door::Door};

impl Gateway {
    /// Builds the gateway and its engine, and starts its tasks. It takes nobody in before it has joined the cluster.
    pub async fn start(parts: Parts) -> (Self, Arc<Engine>) {
        let Parts {
            config,
            node_id,
            instance,
            auth,
            registry,
            bus,
            inbox,
            metrics,
            application,
            backends,
            traces,
        } = parts;
        let (bus, tasks, first) = (Arc::new(bus), Tasks::default(), config.now());
        let lease = Arc::new(OwnLease::new(
            instance.clone(),
            registry.shards(),
            config.clone(),
        ));
        let readiness = Arc::new(Readiness::new(
            registry.clone(),
            bus.clone(),
            lease.clone(),
            auth.clone(),
        ));
        let notifications = Arc::new(Notifications::new(
            instance.clone(),
            config.clone(),
            metrics.clone(),
            registry.clone(),
            backends.clone(),
        ));
        let peers = Arc::new(Peers::new(
            instance,
            metrics.clone(),
            registry.clone(),
            bus.clone(),
            lease.clone(),
            tasks.clone(),
        ));
        let (watches, watching) = mpsc::unbounded_channel();
        let departed = watches.clone();
        let (changes, changing) = mpsc::unbounded_channel();
        let connections = LocalConnections::start(
            config.clone(),
            metrics.clone(),
            registry.clone(),
            lease.clone(),
            changes,
            &tasks,
            // Fails only when the node's tasks have stopped.
            move |id| drop(departed.send(Watch::Forget(id.clone()))),
        );
        let delivery = Arc::new(Deliverer::new(
            config.clone(),
            metrics.clone(),
            lease.clone(),
            connections.clone(),
            peers.clone(),
            traces.clone(),
        ));
        let orders = Arc::new(EndOrders::new(
            registry.clone(),
            lease.clone(),
            peers.clone(),
            connections.clone(),
        ));
        let expiry = ExpiryWatch::start(
            config.clone(),
            connections.clone(),
            (watches, watching),
            &tasks,
        );
        let registrar = Arc::new(Registrar::new(
            node_id.clone(),
            config.clone(),
            registry.clone(),
            lease.clone(),
            connections.clone(),
            orders.clone(),
        ));
        let rooms = Arc::new(RoomChanges::new(
            peers.clone(),
            connections.clone(),
            registrar.clone(),
            expiry.clone(),
        ));
        let watching = Watching::start(
            config.clone(),
            registry.clone(),
            lease.clone(),
            peers.clone(),
            connections.clone(),
            changing,
            &tasks,
        );
        let repairs = Arc::new(Repairs::new(
            config.clone(),
            metrics.clone(),
            registry.clone(),
            lease.clone(),
            connections.clone(),
            registrar.clone(),
        ));
        let heartbeats = Arc::new(Heartbeats::new(
            node_id.clone(),
            config.clone(),
            registry.clone(),
            lease.clone(),
            readiness.clone(),
            peers.clone(),
            connections.clone(),
            repairs,
            tasks.clone(),
        ));
        let lanes = Arc::new(Lanes::new(
            application,
            node_id.clone(),
            config.clone(),
            metrics.clone(),
            connections.clone(),
        ));
        let calls = Arc::new(Calls::new(
            backends.clone(),
            registry.clone(),
            config.clone(),
            metrics.clone(),
            delivery.clone(),
            rooms.clone(),
        ));
        let admin_verbs = Arc::new(AdminVerbs::new(
            auth.clone(),
            registry.clone(),
            lease.clone(),
            connections.clone(),
            delivery.clone(),
            orders.clone(),
        ));
        let client_verbs = ClientVerbs::new(
            node_id.clone(),
            config.clone(),
            auth.clone(),
            registry.clone(),
            lease.clone(),
            connections.clone(),
            orders.clone(),
            registrar.clone(),
            expiry.clone(),
            rooms.clone(),
            watching.clone(),
            calls.clone(),
        );
        let events = Arc::new(ClientEvents::new(
            config.clone(),
            metrics.clone(),
            lease.clone(),
            connections.clone(),
            lanes.clone(),
            calls.clone(),
            client_verbs,
            admin_verbs.clone(),
        ));
        let arrivals = Arc::new(Arrivals::new(
            node_id.clone(),
            config.clone(),
            metrics.clone(),
            auth.clone(),
            registry.clone(),
            readiness.clone(),
            connections.clone(),
            registrar.clone(),
            expiry.clone(),
            watching.clone(),
            lanes.clone(),
            calls,
            events,
        ));
        let door = Door::new(
            &first.limits,
            first.trusted_proxies.clone(),
            metrics.clone(),
        );
        let operators = Operators::start(
            node_id.clone(),
            config.clone(),
            metrics.clone(),
            registry.clone(),
            connections.clone(),
            delivery.clone(),
            rooms.clone(),
            peers.clone(),
            door.clone(),
            &tasks,
        );
        let listener = SessionListener::new(
            metrics.clone(),
            readiness.clone(),
            connections.clone(),
            registrar,
            operators.clone(),
        );
        let engine = Engine::new(mount::engine_settings(&config, &door), Arc::new(listener));
        let protocol = mount::mount(&arrivals, &operators).await;

        let commands = Arc::new(PeerCommands::new(
            metrics.clone(),
            peers,
            connections.clone(),
            delivery.clone(),
            rooms.clone(),
            watching,
            heartbeats.clone(),
            operators.clone(),
        ));
        let sessions = RefreshSessions::new(
            config.clone(),
            metrics.clone(),
            registry.clone(),
            orders.clone(),
        );
        let drain = Drain::new(
            config.clone(),
            readiness.clone(),
            connections.clone(),
            heartbeats.clone(),
            lanes,
        );
        let cookies = &first.auth.session;
        if cookies.is_on() {
            SessionRecheck::start(auth, connections.clone(), cookies.recheck, &tasks);
        }
        MemoryWatch::start(config.clone(), door.clone(), connections.clone(), &tasks);
        drop(first);
        let inner = Arc::new(Composition {
            config,
            node_id,
            metrics,
            registry,
            bus,
            door,
            lease,
            readiness,
            connections,
            delivery,
            orders,
            expiry,
            rooms,
            heartbeats,
            admin_verbs,
            backends,
            sessions,
            drain,
            notifications,
            traces,
            operators,
            _arrivals: arrivals,
            tasks,
        });
        inner.begin_series();
        engine.mount(protocol);
        inner
            .bus
            .spawn(inner.tasks.until_stopped(commands.receive(inbox)));
        inner.tasks.spawn(engine.clone().sweep());
        inner.tasks.spawn(inner.door.clone().forget_idle());
        inner.heartbeats.begin();
        inner.notifications.start(&inner.tasks);
        (Self { inner }, engine)
    }
}
