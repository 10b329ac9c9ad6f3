//! What each client address holds of a node, and how fast it may ask for more.
//!
//! An IPv6 client is its /64: that is what one household or one machine is given (RFC 6177, RFC 7934), and its holder may
//! take a new address of 2^64 for each connection.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use governor::{Quota, RateLimiter, clock::DefaultClock, state::keyed::HashMapStateStore};
use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};

use super::door::Refused;

/// How long an address pays for a failed API authentication, and for how many it may owe: 50 at once, 10 a second from then on.
const GUESS: Duration = Duration::from_millis(100);
const GUESSES_AT_ONCE: u32 = 50;

type Limiter = RateLimiter<Address, HashMapStateStore<Address>, DefaultClock>;

/// A client's address as it is counted: IPv4 whole, IPv6 by its /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address(IpAddr);

impl Address {
    fn of(addr: IpAddr) -> Self {
        Self(match addr.to_canonical() {
            IpAddr::V6(addr) => {
                let network = u128::from(addr) >> 64 << 64;
                Ipv6Addr::from(network).into()
            }
            v4 => v4,
        })
    }
}

/// What is counted of an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A TCP connection from it.
    Tcp,
    /// An Engine.IO session of a client there.
    Session,
}

/// What an address has open.
#[derive(Default)]
struct Open {
    tcp: u32,
    sessions: u32,
}

impl Open {
    fn of(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::Tcp => &mut self.tcp,
            Kind::Session => &mut self.sessions,
        }
    }
}

/// The table of addresses. Entries go when their address has nothing open and its bucket is full again.
pub(super) struct Addresses {
    trusted: Vec<IpNet>,
    /// `limits.connections_per_address`; 0: no limit.
    connections: AtomicU32,
    open: Mutex<HashMap<Address, Open>>,
    /// `limits.handshakes_per_second_per_address`; none: no limit.
    handshakes: RwLock<Option<Limiter>>,
    /// When an address will have paid for its failed API authentications. No [`Limiter`]: governor 0.10 can't say whether there
    /// is room without taking it.
    guesses: Mutex<HashMap<Address, Instant>>,
}

impl Addresses {
    pub(super) fn new(trusted: Vec<IpNet>) -> Self {
        Self {
            trusted,
            connections: AtomicU32::new(0),
            open: Mutex::default(),
            handshakes: RwLock::new(None),
            guesses: Mutex::default(),
        }
    }

    /// Takes other limits. What is open stays, and counts.
    pub(super) fn limit(&self, connections: u32, handshakes_per_second: u32) {
        self.connections.store(connections, Ordering::Relaxed);
        let quota = NonZeroU32::new(handshakes_per_second).map(Quota::per_second);
        *self.handshakes.write() = quota.map(RateLimiter::hashmap);
    }

    /// The networks whose `X-Forwarded-For` is believed.
    pub(super) fn trusted(&self) -> &[IpNet] {
        &self.trusted
    }

    /// The address to count; none for loopback and for trusted proxies, which many clients share.
    pub(super) fn counted(&self, addr: IpAddr) -> Option<Address> {
        let addr = addr.to_canonical();
        let shared = addr.is_loopback() || self.trusted.iter().any(|net| net.contains(&addr));
        (!shared).then(|| Address::of(addr))
    }

    /// Counts one more of `kind`. Returns whether it was counted, and is for [`Addresses::close`] in the end: not while there is
    /// no limit.
    pub(super) fn open(&self, address: Address, kind: Kind) -> Result<bool, Refused> {
        let limit = self.connections.load(Ordering::Relaxed);
        if limit == 0 {
            return Ok(false);
        }
        let mut open = self.open.lock();
        let count = open.entry(address).or_default().of(kind);
        if *count >= limit {
            return Err(Refused::AddressConnections);
        }
        *count += 1;
        Ok(true)
    }

    /// Counts one less of `kind`.
    pub(super) fn close(&self, address: Address, kind: Kind) {
        let mut open = self.open.lock();
        if let Some(counts) = open.get_mut(&address) {
            let count = counts.of(kind);
            *count = count.saturating_sub(1);
            if counts.tcp == 0 && counts.sessions == 0 {
                open.remove(&address);
            }
        }
    }

    /// Counts a handshake.
    pub(super) fn handshake(&self, address: Address) -> Result<(), Refused> {
        let refused = self
            .handshakes
            .read()
            .as_ref()
            .is_some_and(|limiter| limiter.check_key(&address).is_err());
        if refused {
            return Err(Refused::AddressRate);
        }
        Ok(())
    }

    /// Whether an address may fail an API authentication now.
    pub(super) fn may_guess(&self, address: Address) -> bool {
        let paid = self.guesses.lock().get(&address).copied();
        paid.is_none_or(|paid| {
            let owed = paid.saturating_duration_since(Instant::now());
            owed <= GUESS * (GUESSES_AT_ONCE - 1)
        })
    }

    /// Counts a failed API authentication.
    pub(super) fn guessed_wrong(&self, address: Address) {
        let now = Instant::now();
        let mut guesses = self.guesses.lock();
        let paid = guesses.entry(address).or_insert(now);
        *paid = (*paid).max(now) + GUESS;
    }

    /// Forgets the addresses that have nothing open and whose buckets are full again.
    pub(super) fn forget_idle(&self) {
        if let Some(limiter) = self.handshakes.read().as_ref() {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        let now = Instant::now();
        let mut guesses = self.guesses.lock();
        guesses.retain(|_, paid| *paid > now);
        if guesses.len() < guesses.capacity() / 4 {
            guesses.shrink_to_fit();
        }
        drop(guesses);
        let mut open = self.open.lock();
        if open.len() < open.capacity() / 4 {
            open.shrink_to_fit();
        }
    }

    #[cfg(test)]
    fn entries(&self) -> usize {
        let handshakes = self.handshakes.read();
        self.open.lock().len()
            + handshakes.as_ref().map_or(0, |limiter| limiter.len())
            + self.guesses.lock().len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addresses(connections: u32, handshakes: u32) -> Addresses {
        let addresses = Addresses::new(vec!["10.0.0.0/8".parse().unwrap()]);
        addresses.limit(connections, handshakes);
        addresses
    }

    fn counted(addresses: &Addresses, text: &str) -> Option<Address> {
        addresses.counted(text.parse().unwrap())
    }

    #[test]
    fn loopback_and_trusted_proxies_are_not_counted_and_ipv6_is_by_its_network() {
        let all = addresses(1, 1);
        for shared in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "10.1.2.3",
            "::ffff:10.1.2.3",
        ] {
            assert_eq!(counted(&all, shared), None, "{shared}");
        }
        let of = |text| counted(&all, text).unwrap();
        assert_eq!(of("203.0.113.7"), of("::ffff:203.0.113.7"));
        assert_ne!(of("203.0.113.7"), of("203.0.113.8"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }

    #[test]
    fn each_address_has_its_own_limit_for_tcp_and_for_sessions() {
        let all = addresses(2, 0);
        let [one, other] = ["203.0.113.7", "203.0.113.8"].map(|text| counted(&all, text).unwrap());
        for kind in [Kind::Tcp, Kind::Session] {
            assert_eq!(all.open(one, kind), Ok(true));
            assert_eq!(all.open(one, kind), Ok(true));
            assert_eq!(all.open(one, kind), Err(Refused::AddressConnections));
            assert_eq!(all.open(other, kind), Ok(true));
        }
        all.close(one, Kind::Tcp);
        assert_eq!(all.open(one, Kind::Tcp), Ok(true));
        assert_eq!(
            all.open(one, Kind::Session),
            Err(Refused::AddressConnections)
        );
        // What was open before a reload counts after it; what comes while there is no limit is not counted.
        all.limit(0, 0);
        assert_eq!(all.open(one, Kind::Tcp), Ok(false));
        all.limit(3, 0);
        assert_eq!(all.open(one, Kind::Tcp), Ok(true));
        assert_eq!(all.open(one, Kind::Tcp), Err(Refused::AddressConnections));
    }

    #[test]
    fn handshakes_and_guesses_have_a_rate_for_each_address() {
        let all = addresses(0, 5);
        let [one, other] = ["203.0.113.7", "203.0.113.8"].map(|text| counted(&all, text).unwrap());
        let passed = (0..50).filter(|_| all.handshake(one).is_ok()).count();
        assert!((5..10).contains(&passed), "{passed}");
        assert_eq!(all.handshake(one), Err(Refused::AddressRate));
        assert_eq!(all.handshake(other), Ok(()));
        all.limit(0, 0);
        assert_eq!(all.handshake(one), Ok(()));
    }

    #[test]
    fn an_address_that_guesses_is_barred_and_no_other() {
        let all = addresses(0, 0);
        let [one, other] = ["203.0.113.7", "203.0.113.8"].map(|text| counted(&all, text).unwrap());
        let mut guesses = 0;
        while all.may_guess(one) {
            all.guessed_wrong(one);
            guesses += 1;
        }
        assert!((50..60).contains(&guesses), "{guesses}");
        assert!(all.may_guess(other));
        // What is counted beyond the limit, as several calls that were let in together may be, is paid for too.
        for _ in 0..100 {
            all.guessed_wrong(one);
        }
        let owed = all.guesses.lock()[&one].saturating_duration_since(Instant::now());
        assert!(owed > Duration::from_secs(10), "{owed:?}");
        all.guesses.lock().insert(one, Instant::now());
        assert!(all.may_guess(one));
        all.forget_idle();
        assert_eq!(all.entries(), 0);
    }

    #[test]
    fn what_has_nothing_open_is_forgotten() {
        let all = addresses(10, 1_000_000);
        for n in 0..1_000_u32 {
            let address = all
                .counted(IpAddr::from(0xcb00_0000_u32.wrapping_add(n).to_be_bytes()))
                .unwrap();
            all.handshake(address).unwrap();
            all.open(address, Kind::Session).unwrap();
            if n > 0 {
                all.close(address, Kind::Session);
            }
        }
        #[expect(clippy::disallowed_methods, reason = "no runtime runs here")]
        std::thread::sleep(std::time::Duration::from_millis(5));
        all.forget_idle();
        assert_eq!(all.entries(), 1);
    }
}
