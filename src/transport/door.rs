//! Which newcomers a node takes: bounds of the process (descriptors, memory), of `limits.connections`, and of each address.
//!
//! A TCP connection has a [`Place`] for as long as it is open, an Engine.IO session a [`SessionPlace`]. Of an address both are
//! counted, each up to `limits.connections_per_address`: a session that polls is no TCP connection, an idle TCP connection is no
//! session, and each costs memory. Behind a trusted proxy only sessions can be told apart by client.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Extensions, HeaderMap};
use ipnet::IpNet;
use parking_lot::Mutex;

use super::{
    addresses::{Address, Addresses, Kind},
    listener::Peer,
    peer::client_addr,
};
use crate::{config::Limits, metrics::Metrics};

/// TCP connections that may be open beside those that `limits.connections` bounds: for the API, for polls of sessions that are
/// there, for probes, and for the answer that the node is full.
const SPARE: usize = 256;

/// The descriptors that are kept back from clients, a part of all, within bounds: for the internal listener, Redis, files,
/// and connections that are being turned away. A node with Redis has some 30 open without a client.
const KEPT_BACK_PART: usize = 8;
const FEWEST_KEPT_BACK: usize = 64;
const MOST_KEPT_BACK: usize = 1024;

/// How often addresses that have nothing open are forgotten.
const FORGET: Duration = Duration::from_secs(1);

/// The shortest time between two lines of the log about addresses.
const LINES: Duration = Duration::from_secs(10);

/// Why a newcomer is not taken. Clients are answered 503 and try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The node holds as many connections as it may.
    Full,
    /// The node holds more memory than it may.
    Memory,
    /// The client's address has as many connections as it may.
    AddressConnections,
    /// The client's address begins sessions too fast.
    AddressRate,
}

impl Refused {
    /// The value of `reason` in `switchboard_connect_errors_total`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Memory => "memory",
            Self::AddressConnections => "address_connections",
            Self::AddressRate => "address_rate",
        }
    }
}

/// Takes newcomers in, or turns them away; one a node.
pub struct Door {
    addresses: Addresses,
    metrics: Metrics,
    /// TCP connections for which the process has descriptors.
    descriptors: usize,
    /// TCP connections that may be open by the configuration.
    configured: AtomicUsize,
    /// When the log last told of an address that is over its limit.
    told: Mutex<Option<Instant>>,
    /// TCP connections that may be open while the node holds too much memory; `usize::MAX` while it does not.
    by_memory: AtomicUsize,
    open: AtomicUsize,
}

impl Door {
    /// A door with the limits of a configuration, and with the descriptors that the process may open now.
    pub fn new(limits: &Limits, trusted_proxies: Vec<IpNet>, metrics: Metrics) -> Arc<Self> {
        let door = Self {
            addresses: Addresses::new(trusted_proxies),
            metrics,
            descriptors: for_clients(open_files()),
            configured: AtomicUsize::new(usize::MAX),
            told: Mutex::new(None),
            by_memory: AtomicUsize::new(usize::MAX),
            open: AtomicUsize::new(0),
        };
        door.limit(limits);
        Arc::new(door)
    }

    /// Takes other limits. What is open stays.
    pub fn limit(&self, limits: &Limits) {
        let configured = match limits.connections {
            None | Some(0) => usize::MAX,
            Some(connections) => connections as usize + SPARE,
        };
        self.configured.store(configured, Ordering::Relaxed);
        self.addresses.limit(
            limits.connections_per_address,
            limits.handshakes_per_second_per_address,
        );
    }

    /// TCP connections at which no session may begin any more, for want of descriptors.
    pub fn descriptors(&self) -> usize {
        self.descriptors - SPARE.min(self.descriptors / 4)
    }

    /// The client's address: the peer's, or what a trusted proxy says. None for a request that no listener has taken.
    pub fn client(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        let Peer(peer) = extensions.get::<Peer>()?;
        Some(client_addr(*peer, headers, self.addresses.trusted()))
    }

    /// A place for a TCP connection.
    ///
    /// # Errors
    ///
    /// Why there is none. It is counted.
    pub fn tcp(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Refused> {
        let by_memory = self.by_memory.load(Ordering::Relaxed);
        let room = self
            .configured
            .load(Ordering::Relaxed)
            .min(self.descriptors);
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        // Counted out again with this, if it is refused.
        let mut place = Place(Counted {
            door: self.clone(),
            address: None,
            kind: Kind::Tcp,
        });
        if open >= room {
            return Err(self.refused(Refused::Full));
        }
        if open >= by_memory {
            return Err(self.refused(Refused::Memory));
        }
        place.0.count(peer)?;
        Ok(place)
    }

    /// A place for a new session of a client.
    ///
    /// # Errors
    ///
    /// Why there is none. It is counted.
    pub fn session(self: &Arc<Self>, client: IpAddr) -> Result<SessionPlace, Refused> {
        if self.is_over_memory() {
            return Err(self.refused(Refused::Memory));
        }
        if self.open.load(Ordering::Relaxed) > self.descriptors() {
            return Err(self.refused(Refused::Full));
        }
        if let Some(address) = self.addresses.counted(client) {
            self.addresses
                .handshake(address)
                .map_err(|refused| self.refused_of(client, refused))?;
        }
        let mut place = SessionPlace(Counted {
            door: self.clone(),
            address: None,
            kind: Kind::Session,
        });
        place.0.count(client)?;
        Ok(place)
    }

    /// Whether a client may make a call that costs as much as a handshake, and needs no identity. Counts as one.
    pub fn may_call(&self, client: IpAddr) -> bool {
        let address = self.addresses.counted(client);
        address.is_none_or(|address| self.addresses.handshake(address).is_ok())
    }

    /// Whether a client may fail an API authentication now. Always true for loopback and trusted proxies, which many share: a
    /// stranger behind one must not keep an administrator out.
    pub fn may_guess(&self, client: IpAddr) -> bool {
        let address = self.addresses.counted(client);
        address.is_none_or(|address| self.addresses.may_guess(address))
    }

    /// Counts a failed API authentication.
    pub fn guessed_wrong(&self, client: IpAddr) {
        if let Some(address) = self.addresses.counted(client) {
            self.addresses.guessed_wrong(address);
        }
    }

    /// Says whether the node holds more memory than it may. While it does, no session begins, and no more TCP connections are
    /// open than when it began and some for the polls of sessions that are there.
    pub fn set_over_memory(&self, is_over: bool) {
        let bound = match is_over {
            true if self.is_over_memory() => return,
            true => self.open.load(Ordering::Relaxed) + SPARE,
            false => usize::MAX,
        };
        self.by_memory.store(bound, Ordering::Relaxed);
    }

    fn is_over_memory(&self) -> bool {
        self.by_memory.load(Ordering::Relaxed) != usize::MAX
    }

    /// Forgets addresses that have nothing open. Runs as long as the node does.
    pub async fn forget_idle(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(FORGET);
        loop {
            ticks.tick().await;
            self.addresses.forget_idle();
        }
    }

    fn refused(&self, refused: Refused) -> Refused {
        self.metrics.connect_errors(refused.label()).increment(1);
        refused
    }

    /// Counts a refusal for the sake of an address, and tells of it now and then: an operator whose proxy is not among
    /// `trusted_proxies` has all clients at one address.
    fn refused_of(&self, addr: IpAddr, refused: Refused) -> Refused {
        let now = Instant::now();
        let mut told = self.told.lock();
        if told.is_none_or(|told| now.duration_since(told) >= LINES) {
            *told = Some(now);
            tracing::warn!(
                address = %addr, reason = refused.label(),
                "an address is over its limit (limits.connections_per_address, .handshakes_per_second_per_address); if it is a \
                 proxy's, name it in trusted_proxies"
            );
        }
        self.refused(refused)
    }
}

/// The place of a TCP connection, free again when it is dropped.
pub struct Place(Counted);

/// The place of an Engine.IO session, free again when it is dropped.
pub struct SessionPlace(Counted);

struct Counted {
    door: Arc<Door>,
    /// The address that it is counted with.
    address: Option<Address>,
    kind: Kind,
}

impl Counted {
    fn count(&mut self, addr: IpAddr) -> Result<(), Refused> {
        let Some(address) = self.door.addresses.counted(addr) else {
            return Ok(());
        };
        match self.door.addresses.open(address, self.kind) {
            Ok(counted) => {
                self.address = counted.then_some(address);
                Ok(())
            }
            Err(refused) => Err(self.door.refused_of(addr, refused)),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if matches!(self.kind, Kind::Tcp) {
            self.door.open.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(address) = self.address {
            self.door.addresses.close(address, self.kind);
        }
    }
}

/// How many clients' connections there is room for where so many files may be open.
pub(crate) fn descriptors_for(files: u64) -> u64 {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    for_clients(files) as u64
}

/// Files that the process may open.
fn open_files() -> usize {
    let soft = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// How many of the files that the process may open are for TCP connections of clients.
fn for_clients(files: usize) -> usize {
    let kept_back = (files / KEPT_BACK_PART).clamp(FEWEST_KEPT_BACK, MOST_KEPT_BACK);
    files.saturating_sub(kept_back).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CLIENT: &str = "203.0.113.7";

    fn door(limits: &Limits, descriptors: usize) -> Arc<Door> {
        let mut door = Door::new(limits, Vec::new(), Metrics::new().unwrap());
        Arc::get_mut(&mut door).unwrap().descriptors = descriptors;
        door
    }

    fn client() -> IpAddr {
        CLIENT.parse().unwrap()
    }

    fn errors(door: &Door, reason: &str) -> String {
        let name = format!("switchboard_connect_errors_total{{reason=\"{reason}\"}} ");
        let text = door.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().to_owned()
    }

    #[test]
    fn descriptors_are_kept_back() {
        for (files, clients) in [
            (100, 36),
            (1024, 896),
            (16_384, 15_360),
            (1 << 20, (1 << 20) - 1024),
        ] {
            assert_eq!(for_clients(files), clients, "{files}");
        }
        assert_eq!(for_clients(10), 1);
        assert_eq!(door(&Limits::default(), 36).descriptors(), 27);
    }

    #[test]
    fn tcp_connections_are_bound_by_descriptors_and_configuration_and_sessions_leave_room_for_answers()
     {
        let door = door(&Limits::default(), 8);
        let mut places: Vec<_> = (0..6).map(|_| door.tcp(client()).unwrap()).collect();
        assert!(door.session(client()).is_ok());
        places.extend((0..2).map(|_| door.tcp(client()).unwrap()));
        assert_eq!(door.session(client()).err(), Some(Refused::Full));
        assert_eq!(door.tcp(client()).err(), Some(Refused::Full));
        assert_eq!(errors(&door, "full"), "2");
        places.truncate(6);
        assert!(door.session(client()).is_ok());
        assert!(door.tcp(client()).is_ok());
        drop(places);
        assert_eq!(door.open.load(Ordering::Relaxed), 0);

        let few = Limits {
            connections: Some(1),
            ..Limits::default()
        };
        let door = self::door(&few, 100_000);
        let places: Vec<_> = (0..=SPARE).map(|_| door.tcp(client()).unwrap()).collect();
        assert_eq!(door.tcp(client()).err(), Some(Refused::Full));
        door.limit(&Limits::default());
        assert!(door.tcp(client()).is_ok());
        drop(places);
    }

    #[test]
    fn an_address_gives_back_what_it_lets_go() {
        let limits = Limits {
            connections_per_address: 1,
            handshakes_per_second_per_address: 0,
            ..Limits::default()
        };
        let door = door(&limits, 100);
        let (tcp, session) = (door.tcp(client()).unwrap(), door.session(client()).unwrap());
        assert_eq!(door.tcp(client()).err(), Some(Refused::AddressConnections));
        assert_eq!(
            door.session(client()).err(),
            Some(Refused::AddressConnections)
        );
        assert_eq!(errors(&door, "address_connections"), "2");
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let _many: Vec<_> = (0..10)
            .map(|_| (door.tcp(local).unwrap(), door.session(local).unwrap()))
            .collect();
        drop((tcp, session));
        assert!(door.tcp(client()).is_ok() && door.session(client()).is_ok());
    }

    #[test]
    fn over_its_memory_a_node_begins_no_session_and_leaves_room_for_polls() {
        let door = door(&Limits::default(), 100_000);
        let there: Vec<_> = (0..10).map(|_| door.tcp(client()).unwrap()).collect();
        door.set_over_memory(true);
        assert_eq!(door.session(client()).err(), Some(Refused::Memory));
        let polls: Vec<_> = (0..SPARE).map(|_| door.tcp(client()).unwrap()).collect();
        door.set_over_memory(true);
        assert_eq!(door.tcp(client()).err(), Some(Refused::Memory));
        assert_eq!(errors(&door, "memory"), "2");
        door.set_over_memory(false);
        assert!(door.tcp(client()).is_ok() && door.session(client()).is_ok());
        drop((there, polls));
    }
}
