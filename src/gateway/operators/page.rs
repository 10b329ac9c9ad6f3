//! One open page: what it is told, in order, as fast as it takes it, and of a thousand connections at the most.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::{Value, json};
use socketioxide::{SendError, SocketError, extract::SocketRef};
use tokio::{
    sync::{broadcast, broadcast::error::RecvError, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Operators, fleet::FleetSockets, verbs::Verb};
use crate::{
    connection::ConnectionId,
    gateway::message::{Json, Outgoing, PageEvent},
    transport::{Session, engine::Adapter},
};

/// How many connections a page shows at the most.
pub(super) const SHOWN: usize = 1_000;

/// How long a page that does not take what it is told is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// The shortest time between two looks at all connections of the fleet.
const ANEW: Duration = Duration::from_secs(5);

/// A page, and what comes to it.
pub(super) struct Page {
    pub(super) socket: SocketRef<Adapter>,
    pub(super) session: Arc<Session>,
    /// The operator's name, for the audit.
    pub(super) who: String,
    /// What happens in the fleet.
    pub(super) told: broadcast::Receiver<Arc<PageEvent>>,
    /// What its operator asks for.
    pub(super) asked: mpsc::Receiver<(Verb, String)>,
    /// Cancelled when it is gone.
    pub(super) gone: CancellationToken,
    /// The connections that it shows.
    pub(super) shown: HashSet<ConnectionId>,
}

impl Page {
    /// Tells the page what happens, and does what its operator asks for, until it is gone.
    pub(super) async fn serve(mut self, operators: Arc<Operators>) {
        let (mut look, mut looked) = (Some(Instant::now()), None);
        let mut gaps = operators.peers.gaps();
        let mut changed = operators.changed.subscribe();
        gaps.mark_unchanged();
        let gone = self.gone.clone();
        loop {
            let limit = operators.connections.send_queue_bytes();
            let lags = self.session.unsent() > limit / 2;
            tokio::select! {
                biased;
                () = gone.cancelled() => return,
                Some((verb, asked)) = self.asked.recv() => operators.order(&self.who, verb, asked).await,
                () = tokio::time::sleep(PAUSE), if lags => continue,
                () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() && !lags => {
                    (look, looked) = (None, Some(Instant::now()));
                    if !self.show_all(&operators).await {
                        look = next_look(looked);
                    }
                }
                Ok(()) = gaps.changed() => look = next_look(looked),
                Ok(()) = changed.changed() => look = next_look(looked),
                told = self.told.recv(), if !lags => match told {
                    Ok(event) => self.tell(&operators, &event),
                    Err(RecvError::Lagged(missed)) => {
                        operators.metrics.messages_dropped("operator").increment(missed);
                        look = next_look(looked);
                    }
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Asks the fleet for its connections, and shows them. Returns whether all nodes have answered.
    async fn show_all(&mut self, operators: &Operators) -> bool {
        let FleetSockets {
            sockets,
            all,
            complete,
        } = operators.sockets().await;
        self.shown.clear();
        let all = sockets.len().max(all);
        let mut shown = Vec::new();
        for socket in sockets {
            let Ok(socket) = serde_json::from_str::<Value>(socket.text()) else {
                continue;
            };
            let id = socket["id"].as_str().map(ConnectionId::from);
            if let Some(id) = id.filter(|id| self.admit(id)) {
                shown.push(socket);
                self.shown.insert(id);
            }
        }
        for socket in &mut shown {
            mark(socket, self.shown.len(), all);
        }
        if all > SHOWN {
            tracing::info!(
                shown = shown.len(),
                connections = all,
                "an operators' page shows a sample of the connections"
            );
        }
        self.send(
            operators,
            "all_sockets",
            &Json::of(&shown).into_iter().collect::<Vec<_>>(),
        );
        complete
    }

    fn tell(&mut self, operators: &Operators, event: &PageEvent) {
        let Some(about) = &event.about else {
            return self.send(operators, &event.event, &event.args);
        };
        match &*event.event {
            "socket_connected" => {
                if !self.admit(about) {
                    return;
                }
                let is_first = self.shown.is_empty();
                self.shown.insert(about.clone());
                let Some(first) = event.args.first() else {
                    return;
                };
                if is_first {
                    // The page chooses the namespace that it shows by these alone.
                    let all = format!("[{}]", first.text());
                    self.send(
                        operators,
                        "all_sockets",
                        &Json::read(&all).into_iter().collect::<Vec<_>>(),
                    );
                }
                let fleet = operators.fleet.lock().connections as usize;
                if fleet <= SHOWN {
                    return self.send(operators, &event.event, &event.args);
                }
                let mut args = event.args.clone();
                let socket = serde_json::from_str::<Value>(first.text());
                if let Ok(mut socket) = socket {
                    mark(&mut socket, self.shown.len(), fleet);
                    args.splice(..1, Json::of(&socket));
                }
                self.send(operators, &event.event, &args);
            }
            _ if !self.shown.contains(about) => {}
            gone => {
                if gone == "socket_disconnected" {
                    self.shown.remove(about);
                }
                self.send(operators, gone, &event.args);
            }
        }
    }

    /// Whether there is a place for a connection, or it has one.
    fn admit(&self, id: &ConnectionId) -> bool {
        self.shown.len() < SHOWN || self.shown.contains(id)
    }

    /// Hands the page an event. A page that takes nothing ends as any other slow client.
    pub(super) fn send(&self, operators: &Operators, event: &str, args: &[Json]) {
        let emit = || self.socket.emit(event, &Outgoing::Text(args));
        let sent = self.session.send_by_engine(emit);
        let weight = event.len() + args.iter().map(|arg| arg.text().len()).sum::<usize>();
        let is_full = match sent {
            Ok(()) => self
                .session
                .sent(weight, operators.connections.send_queue_bytes()),
            Err(SendError::Socket(SocketError::InternalChannelFull)) => true,
            Err(_) => false,
        };
        if is_full {
            operators.metrics.messages_dropped("operator").increment(1);
            self.session.stalled();
        }
    }
}

/// When all connections are to be looked at anew.
fn next_look(looked: Option<Instant>) -> Option<Instant> {
    Some(looked.map_or_else(Instant::now, |looked| looked + ANEW))
}

/// Says on a connection that a page shows that it shows a sample, if it does.
fn mark(socket: &mut Value, shown: usize, all: usize) {
    if all > SHOWN {
        socket["data"]["sample"] = json!(format!("{shown} of {all} connections are shown"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_says_so_on_each_connection() {
        let mut socket = json!({"id": "a", "data": {"userId": "42"}});
        mark(&mut socket, SHOWN, SHOWN);
        assert_eq!(socket["data"], json!({"userId": "42"}));
        mark(&mut socket, 1_000, 25_000);
        assert_eq!(
            socket["data"]["sample"],
            "1000 of 25000 connections are shown"
        );
    }
}
