//! What the nodes say to each other for pages: that there are some, what is there, what happens, and what operators ask for.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    Fleet, Operators,
    source::PERIOD,
    verbs::{Refused, Verb},
};
use crate::{
    connection::Instance,
    gateway::{
        message::{Json, PageEvent},
        peers::wire::Command,
    },
    telemetry::AUDIT,
};

/// How long the nodes have to say which connections they have.
const RECEIPTS: Duration = Duration::from_secs(1);

/// What nodes have answered to [`Command::Show`].
pub(super) struct FleetSockets {
    /// Connections, as pages show them.
    pub(super) sockets: Vec<Json>,
    /// How many the fleet has, by what its nodes last said.
    pub(super) all: usize,
    /// Whether all nodes have answered.
    pub(super) complete: bool,
}

impl Operators {
    /// Says to the fleet, while this node has pages, that it has some, until the node is gone.
    pub(super) async fn watch(&self) {
        loop {
            self.arrived.notified().await;
            while self.told.receiver_count() > 0 {
                self.look_at_fleet().await;
                self.say_watching().await;
                tokio::select! {
                    () = tokio::time::sleep(PERIOD) => {}
                    () = self.arrived.notified() => {}
                }
            }
            *self.fleet.lock() = Fleet::default();
        }
    }

    /// Says to all nodes that this one has pages. Returns how many connections the fleet has.
    async fn say_watching(&self) -> u32 {
        let connections = self.fleet.lock().connections;
        self.source.watch(&self.peers.instance, connections);
        self.peers.tell_all(Command::Watch { connections }).await;
        connections
    }

    /// Learns how large the fleet is, and whether a node has come or gone.
    async fn look_at_fleet(&self) {
        let nodes = self.registry.nodes().await;
        let known = self.registry.known();
        let mut fleet = self.fleet.lock();
        if let Ok(nodes) = nodes {
            let connections: u64 = nodes.iter().map(|node| node.connections).sum();
            fleet.connections = u32::try_from(connections).unwrap_or(u32::MAX);
        }
        if !fleet.nodes.is_empty() && fleet.nodes != known {
            self.changed.send_replace(());
        }
        fleet.nodes = known;
    }

    /// The connections of the fleet, or as many as pages show.
    pub(super) async fn sockets(&self) -> FleetSockets {
        self.look_at_fleet().await;
        // First: what happens from here on is told.
        let connections = self.say_watching().await;
        let (sockets, complete) = match self.peers.ask_all(&Command::Show).await {
            Ok((request, asked)) => {
                let collected = request.collect(asked, Instant::now() + RECEIPTS).await;
                let receipts = collected.receipts.into_iter();
                let sockets = receipts.flat_map(|receipt| receipt.sockets);
                (sockets.collect(), collected.unconfirmed == 0)
            }
            Err(error) => {
                tracing::warn!(%error, "can't ask the other nodes: operators see the connections of this one");
                (self.source.sockets(), false)
            }
        };
        FleetSockets {
            sockets,
            all: connections as usize,
            complete,
        }
    }

    /// A node of a fleet with so many connections has pages.
    pub(crate) fn watched_by(&self, node: &Instance, connections: u32) {
        if *node != self.peers.instance {
            self.source.watch(node, connections);
        }
    }

    /// The connections of this node, for the pages of another.
    pub(crate) fn show(&self) -> Vec<Json> {
        self.source.sockets()
    }

    /// Something has happened on another node.
    pub(crate) fn tell_pages(&self, event: PageEvent) {
        // Fails when the last page has just gone.
        self.told.send(Arc::new(event)).ok();
    }

    /// Carries out what an operator of any node has asked for.
    pub(crate) fn obey(&self, asked: &str) {
        let said: Vec<Value> = serde_json::from_str(asked).unwrap_or_default();
        match Verb::read(&said) {
            Ok(verb) => self.hands.carry_out(verb),
            Err(error) => {
                tracing::warn!(%error, "what another node's operator asks for is not carried out")
            }
        }
    }

    /// Has all nodes carry out what an operator asks for.
    pub(super) async fn order(&self, who: &str, verb: Verb, asked: String) {
        let command = Command::Operate {
            asked: asked.as_str().into(),
        };
        let (name, whom) = (verb.name(), verb.subject().to_owned());
        let told = self.peers.ask_all(&command).await.map(drop);
        let result = match told {
            Ok(()) => "done".to_owned(),
            Err(error) => {
                tracing::warn!(%error, "other nodes can't be told what an operator asks for");
                self.hands.carry_out(verb);
                Refused::Away.to_string()
            }
        };
        tracing::info!(target: AUDIT, who, what = name, %whom, result);
    }
}
