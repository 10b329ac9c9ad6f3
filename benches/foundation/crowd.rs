//! Clients that do nothing but listen and answer pings, many of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    support::{
        bounds::{ensure, seconds, within},
        client::Hello,
        fleet::Fleet,
    },
    wire::{Wire, text},
};

/// How many come at once, usually.
const AT_ONCE: usize = 32;
/// How many connections leave from one address of loopback: a port can be used once for each.
const PORTS: usize = 20_000;

/// Connections that are open until this is dropped.
pub(crate) struct Crowd {
    pub(crate) members: Vec<Member>,
    events: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// A connection.
pub(crate) struct Member {
    pub(crate) id: String,
    /// The number of its node.
    pub(crate) node: usize,
}

/// A client that comes.
pub(crate) struct Comer {
    /// The number of its node.
    pub(crate) node: usize,
    /// Who it is: in each namespace of [`namespace`] somebody.
    pub(crate) users: Vec<String>,
}

impl Comer {
    /// A client in `/`.
    pub(crate) fn of(node: usize, user: String) -> Self {
        Self {
            node,
            users: vec![user],
        }
    }
}

/// The path of the namespace that a client joins as its user with this number.
pub(crate) fn namespace(number: usize) -> String {
    match number {
        0 => "/".to_owned(),
        _ => format!("/n{number}"),
    }
}

impl Crowd {
    /// Users with two devices each, on two of the first `holders` nodes: see [`holders_of`].
    pub(crate) async fn of_pairs(fleet: &Fleet, users: usize, holders: usize) -> Self {
        let comers = (0..users).flat_map(|user| {
            holders_of(user, holders).map(|node| Comer::of(node, format!("user-{user}")))
        });
        let crowd = Self::come(fleet, comers).await;
        settled(fleet, crowd.members.len(), users).await;
        crowd
    }

    /// Connects everybody.
    pub(crate) async fn come(fleet: &Fleet, comers: impl IntoIterator<Item = Comer>) -> Self {
        Self::come_by(AT_ONCE, fleet, comers).await
    }

    /// Connects everybody, so many at once.
    pub(crate) async fn come_by(
        at_once: usize,
        fleet: &Fleet,
        comers: impl IntoIterator<Item = Comer>,
    ) -> Self {
        let coming = comers.into_iter().enumerate().map(|(number, comer)| {
            let door = fleet[comer.node].addr;
            async move {
                let what = format!("{:?} is let in at {door}", comer.users);
                // Closed without a word asks to come again: Redis was late, as it may be on a busy machine.
                let come = async || arrive(door, number, &comer.users).await;
                let (_, (wire, ids)) = within(seconds(60.0), &what, come).await;
                (wire, comer.node, ids)
            }
        });
        Self::of_wires(at_once, coming).await
    }

    /// Connects so many to a server that greets like a node, and lets them in without a word.
    pub(crate) async fn bare(door: SocketAddr, count: usize) -> Self {
        let coming = (0..count).map(|number| async move {
            let stream = dial(door, number).await.unwrap();
            let opened = Wire::over(stream, door, "").await;
            let wire = opened.unwrap_or_else(|status| panic!("status {status}"));
            (wire, 0, vec![number.to_string()])
        });
        Self::of_wires(AT_ONCE, coming).await
    }

    async fn of_wires(
        at_once: usize,
        coming: impl Iterator<Item = impl Future<Output = (Wire, usize, Vec<String>)>>,
    ) -> Self {
        let mut coming = stream::iter(coming).buffer_unordered(at_once);
        let (events, gone) = (Arc::default(), Arc::default());
        let (mut members, mut tasks) = (Vec::new(), JoinSet::new());
        while let Some((wire, node, ids)) = coming.next().await {
            members.extend(ids.into_iter().map(|id| Member { id, node }));
            tasks.spawn(listen(wire, Arc::clone(&events), Arc::clone(&gone)));
        }
        drop(coming);
        Self {
            members,
            events,
            gone,
            _tasks: tasks,
        }
    }

    /// Waits until so many events have come to all of it together.
    pub(crate) async fn heard(&self, count: usize) {
        let look = async || {
            let events = self.events.load(Ordering::Relaxed);
            ensure(events == count, || format!("{events} events"))
        };
        within(seconds(60.0), "all events come", look).await;
    }

    /// How many events have come to all of it together.
    pub(crate) fn events(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    /// How many of its connections and sockets the nodes have ended.
    pub(crate) fn gone(&self) -> usize {
        self.gone.load(Ordering::Relaxed)
    }
}

/// The nodes that hold a user of a crowd of pairs.
pub(crate) fn holders_of(user: usize, holders: usize) -> [usize; 2] {
    [user % holders, (user + 1) % holders]
}

/// Waits until every node says that there are so many connections and users.
pub(crate) async fn settled(fleet: &Fleet, connections: usize, users: usize) {
    let look = async || counted(fleet, connections, users).await;
    within(seconds(60.0), "every node counts everybody", look).await;
}

/// Whether every node says that there are so many connections and users.
pub(crate) async fn counted(fleet: &Fleet, connections: usize, users: usize) -> Result<(), String> {
    let should = json!({ "nodes": fleet.nodes.len(), "connections": connections, "users": users });
    for node in &fleet.nodes {
        let stats = node.api.read("/v1/stats").await?;
        let same = ["nodes", "connections", "users"]
            .iter()
            .all(|name| stats[name] == should[name]);
        ensure(same, || format!("{} says {stats}", node.name))?;
    }
    Ok(())
}

/// A client that has its `ready` in each namespace, and the ids that they say.
pub(crate) async fn arrive(
    door: SocketAddr,
    number: usize,
    users: &[String],
) -> Result<(Wire, Vec<String>), String> {
    let stream = dial(door, number)
        .await
        .map_err(|error| error.to_string())?;
    let opened = Wire::over(stream, door, "").await;
    let mut wire = opened.map_err(|status| format!("status {status}"))?;
    let mut ids = Vec::new();
    for (place, user) in users.iter().enumerate() {
        let hello = Hello {
            device: Some(format!("device-{number}")),
            namespace: namespace(place),
            ..Hello::user(user)
        };
        let sent = wire.send(&text(hello.packet())).await;
        sent.map_err(|error| error.to_string())?;
        // `40`, and then `ready`; a refusal is `44`.
        let mut answer = wire.until("4").await.ok_or("closed")?;
        if answer.starts_with(b"40") {
            answer = wire.until("42").await.ok_or("closed")?;
        }
        let text = String::from_utf8_lossy(&answer);
        let ready = text.find('[').map_or("", |at| &text[at..]);
        let ready: Value = serde_json::from_str(ready).unwrap_or_default();
        match ready[1]["connectionId"].as_str() {
            Some(id) => ids.push(id.to_owned()),
            None => panic!("{user} is refused at {door}: {text}"),
        }
    }
    Ok((wire, ids))
}

/// From an address of loopback that still has ports.
async fn dial(door: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if number >= PORTS {
        let address = [
            127,
            0,
            0,
            u8::try_from(1 + number / PORTS).unwrap_or(u8::MAX),
        ];
        socket.bind((address, 0).into())?;
    }
    socket.connect(door).await
}

/// Counts events, and whatever ends.
async fn listen(mut wire: Wire, events: Arc<AtomicUsize>, gone: Arc<AtomicUsize>) {
    while let Some(packet) = wire.until("4").await {
        match packet.starts_with(b"42") {
            true => events.fetch_add(1, Ordering::Relaxed),
            false => gone.fetch_add(1, Ordering::Relaxed),
        };
    }
    gone.fetch_add(1, Ordering::Relaxed);
}
