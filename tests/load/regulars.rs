//! Clients that come back by themselves, to whatever doors are open by then: as the stock client does behind a balancer.
//!
//! `support::returning` knows its doors for good; nodes that are restarted get others.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{
    client::{Client, End, Hello, Refused},
    fleet::Fleet,
    returning::{pick, stayed},
};

/// Where nodes listen; clones are the same list.
#[derive(Clone, Default)]
pub(crate) struct Doors(Arc<Mutex<Vec<(String, SocketAddr)>>>);

impl Doors {
    /// Those of the nodes that are up.
    pub(crate) fn of(fleet: &Fleet) -> Self {
        let doors = Self::default();
        doors.set(fleet);
        doors
    }

    /// The same, as of now.
    pub(crate) fn set(&self, fleet: &Fleet) {
        let doors = fleet.up().map(|node| (node.name.clone(), node.addr));
        *self.0.lock() = doors.collect();
    }

    /// A list of its own with one node.
    pub(crate) fn only(&self, name: &str) -> Self {
        let mut doors = self.0.lock().clone();
        doors.retain(|(other, _)| other == name);
        Self(Arc::new(Mutex::new(doors)))
    }

    /// Takes over another list.
    pub(crate) fn become_like(&self, other: &Self) {
        let doors = other.0.lock().clone();
        *self.0.lock() = doors;
    }

    /// One of them, not the node called `other` if there is a choice.
    pub(crate) fn pick(&self, random: &mut StdRng, other: Option<&str>) -> Option<SocketAddr> {
        let doors = self.0.lock();
        let free: Vec<_> = doors
            .iter()
            .filter(|(name, _)| Some(name.as_str()) != other)
            .collect();
        let (_, addr) = free.choose(random).copied().or(doors.first())?;
        Some(*addr)
    }
}

/// How a regular comes and stays.
#[derive(Clone)]
pub(crate) struct Manner {
    pub(crate) doors: Doors,
    pub(crate) hello: Hello,
    /// The pause before each attempt.
    pub(crate) pause: Range<Duration>,
    /// How long it stays each time before it goes by itself; none: until it is ended.
    pub(crate) stay: Option<Range<Duration>>,
    /// Whether it comes back after `connect_error` and DISCONNECT.
    pub(crate) stubborn: bool,
    /// Whether it stops reading as soon as it is connected.
    pub(crate) stalls: bool,
}

/// A connection that it had.
#[derive(Clone)]
pub(crate) struct Stay {
    pub(crate) client: Arc<Client>,
    /// When it set out for it: after the end of the one before.
    pub(crate) set_out: Instant,
}

/// A client; stops when this is dropped.
pub(crate) struct Regular {
    pub(crate) user: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Shared {
    now: Mutex<Option<Arc<Client>>>,
    /// All that it had, if its events are kept.
    stays: Mutex<Vec<Stay>>,
    ends: Mutex<Vec<End>>,
    refusals: Mutex<BTreeMap<String, u64>>,
    away: Mutex<Option<String>>,
    /// Does not come while this is set, and goes if it is there.
    resting: AtomicBool,
    /// The node that it is on, for its sibling to avoid.
    at: Mutex<Option<String>>,
    sibling: Mutex<Weak<Shared>>,
}

impl Regular {
    pub(crate) fn start(manner: Manner, random: StdRng) -> Self {
        Self::set_going(manner, random, Arc::default(), None)
    }

    /// A second one of the same user: from here on each avoids the node that the other is on.
    pub(crate) fn join(&self, manner: Manner, random: StdRng) -> Self {
        let shared = Arc::<Shared>::default();
        *self.shared.sibling.lock() = Arc::downgrade(&shared);
        let sibling = Some(&self.shared);
        Self::set_going(manner, random, shared, sibling)
    }

    fn set_going(
        manner: Manner,
        random: StdRng,
        shared: Arc<Shared>,
        sibling: Option<&Arc<Shared>>,
    ) -> Self {
        if let Some(sibling) = sibling {
            *shared.sibling.lock() = Arc::downgrade(sibling);
        }
        let user = user_of(&manner.hello);
        let stop = CancellationToken::new();
        let life = come_and_go(manner, random, shared.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(life));
        Self {
            user,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// The connection that it has.
    pub(crate) fn client(&self) -> Option<Arc<Client>> {
        let now = self.shared.now.lock().clone();
        now.filter(|client| client.is_open())
    }

    /// All connections that it had, in order.
    pub(crate) fn stays(&self) -> Vec<Stay> {
        self.shared.stays.lock().clone()
    }

    /// How they ended, in order.
    pub(crate) fn ends(&self) -> Vec<End> {
        self.shared.ends.lock().clone()
    }

    /// How often it was refused, by how.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        self.shared.refusals.lock().clone()
    }

    /// Why it has given up, if it has.
    pub(crate) fn away(&self) -> Option<String> {
        self.shared.away.lock().clone()
    }

    /// Has it go and stay away until it is told otherwise.
    pub(crate) fn rest(&self, rests: bool) {
        self.shared.resting.store(rests, Ordering::Release);
        if rests && let Some(client) = self.client() {
            client.cut();
        }
    }
}

/// The user that a greeting is for.
fn user_of(hello: &Hello) -> String {
    let claims = hello.token.as_deref().and_then(|token| {
        use base64::Engine;
        let payload = token.split('.').nth(1)?;
        let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD
            .decode(payload)
            .ok()?;
        serde_json::from_slice::<serde_json::Value>(&bytes).ok()
    });
    claims
        .and_then(|claims| Some(claims["sub"].as_str()?.to_owned()))
        .unwrap_or_default()
}

async fn come_and_go(manner: Manner, mut random: StdRng, shared: Arc<Shared>) {
    loop {
        let set_out = Instant::now();
        sleep(pick(&mut random, &manner.pause)).await;
        if shared.resting.load(Ordering::Acquire) {
            continue;
        }
        let sibling = shared.sibling.lock().upgrade();
        let other = sibling.and_then(|sibling| sibling.at.lock().clone());
        let Some(door) = manner.doors.pick(&mut random, other.as_deref()) else {
            continue;
        };
        let client = match Client::connect(door, &manner.hello).await {
            Ok(client) => Arc::new(client),
            Err(refused) => {
                let kind = match &refused {
                    Refused::Closed(_) => "closed".to_owned(),
                    other => format!("{other:?}"),
                };
                *shared.refusals.lock().entry(kind).or_default() += 1;
                if matches!(refused, Refused::Connect(_)) && !manner.stubborn {
                    *shared.away.lock() = Some(format!("{refused:?}"));
                    return;
                }
                continue;
            }
        };
        if manner.stalls {
            client.stall();
        }
        if shared.resting.load(Ordering::Acquire) {
            client.cut();
        }
        if manner.hello.keep {
            let client = client.clone();
            shared.stays.lock().push(Stay { client, set_out });
        }
        *shared.at.lock() = Some(client.node.clone());
        *shared.now.lock() = Some(client.clone());
        let end = stayed(&client, manner.stay.as_ref(), &mut random).await;
        *shared.now.lock() = None;
        let stays_away = end.packet && !manner.stubborn;
        let text = format!("{end:?}");
        let mut ends = shared.ends.lock();
        if ends.len() < 1_000 {
            ends.push(end);
        }
        drop(ends);
        if stays_away {
            *shared.away.lock() = Some(text);
            return;
        }
    }
}
