//! A client that comes back by itself, by the rules of the stock client: after a closed transport, a refused TCP connection
//! or a refusal by HTTP it tries again; after a `connect_error` or a DISCONNECT packet it stays away. A *stubborn* one comes
//! back whatever it was told.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Client, End, Hello, Refused};

/// How it comes back.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// Where to; one of them at each attempt, by its random numbers.
    pub(crate) doors: Vec<SocketAddr>,
    pub(crate) hello: Hello,
    /// The pause before an attempt, the first one too.
    pub(crate) pause: Range<Duration>,
    /// Whether it comes back after `connect_error` and DISCONNECT.
    pub(crate) stubborn: bool,
    /// How long it stays each time before it goes by itself; none: until it is ended.
    pub(crate) stay: Option<Range<Duration>>,
}

/// One attempt, looked back on.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// Before the attempt began.
    pub(crate) began: Instant,
    /// When it had `ready`, or was refused.
    pub(crate) answered: Instant,
    /// The connection, or why there is none.
    pub(crate) outcome: Result<Stay, Refused>,
}

/// A visit that had `ready`.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    pub(crate) id: String,
    /// When its CONNECT packet was sent.
    pub(crate) sent: Instant,
    /// None while it lasts.
    pub(crate) end: Option<End>,
}

/// The client; it stops when this is dropped.
pub(crate) struct Returning {
    shared: Arc<Shared>,
    stop: CancellationToken,
    _guard: DropGuard,
}

#[derive(Default)]
struct Shared {
    visits: Mutex<Vec<Visit>>,
    now: Mutex<Option<Arc<Client>>>,
    away: Mutex<Option<String>>,
}

impl Returning {
    /// Sets it going.
    pub(crate) fn start(manner: Manner, random: StdRng) -> Self {
        let shared = Arc::<Shared>::default();
        let stop = CancellationToken::new();
        let run = come_and_go(manner, random, shared.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(run));
        Self {
            shared,
            _guard: stop.clone().drop_guard(),
            stop,
        }
    }

    /// The connection that it has now.
    pub(crate) fn client(&self) -> Option<Arc<Client>> {
        let now = self.shared.now.lock().unwrap().clone();
        now.filter(|client| client.is_open())
    }

    /// All attempts so far, but the one that is under way.
    pub(crate) fn visits(&self) -> Vec<Visit> {
        self.shared.visits.lock().unwrap().clone()
    }

    /// Why it has given up, if it has.
    pub(crate) fn stays_away(&self) -> Option<String> {
        self.shared.away.lock().unwrap().clone()
    }

    /// Stops it, and lets go of its connection.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        *self.shared.now.lock().unwrap() = None;
    }
}

/// How many of them have not been refused yet for a revoked token, with an attempt that began after `since`. The others are
/// stopped: their client would come back for ever.
pub(crate) fn not_yet_refused(crowd: &[Returning], since: Instant) -> usize {
    let said = Refused::Connect("Token revoked".to_owned());
    let left = crowd.iter().filter(|one| {
        let is_refused = one.visits().iter().any(|visit| {
            visit.began > since && visit.outcome.as_ref().is_err_and(|why| *why == said)
        });
        if is_refused {
            one.stop();
        }
        !is_refused
    });
    left.count()
}

async fn come_and_go(
    manner: Manner,
    mut random: StdRng,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        sleep(pick(&mut random, &manner.pause)).await;
        let door = *manner.doors.choose(&mut random).unwrap();
        let began = Instant::now();
        let result = Client::connect(door, &manner.hello).await;
        let answered = Instant::now();
        let visit = |outcome| Visit {
            began,
            answered,
            outcome,
        };
        let client = match result {
            Ok(client) => Arc::new(client),
            Err(refused) => {
                let final_word = matches!(refused, Refused::Connect(_)) && !manner.stubborn;
                shared
                    .visits
                    .lock()
                    .unwrap()
                    .push(visit(Err(refused.clone())));
                if final_word {
                    *shared.away.lock().unwrap() = Some(format!("{refused:?}"));
                    return;
                }
                continue;
            }
        };
        let stay = Stay {
            id: client.id.clone(),
            sent: client.sent,
            end: None,
        };
        let at = {
            let mut visits = shared.visits.lock().unwrap();
            visits.push(visit(Ok(stay)));
            visits.len() - 1
        };
        *shared.now.lock().unwrap() = Some(client.clone());
        let end = stayed(&client, manner.stay.as_ref(), &mut random).await;
        *shared.now.lock().unwrap() = None;
        if let Ok(stay) = &mut shared.visits.lock().unwrap()[at].outcome {
            stay.end = Some(end.clone());
        }
        if end.packet && !manner.stubborn {
            *shared.away.lock().unwrap() = Some(format!("{end:?}"));
            return;
        }
    }
}

/// Stays until the client is ended, or for a time from `stay` and then goes. Returns how it ended.
pub(crate) async fn stayed(
    client: &Client,
    stay: Option<&Range<Duration>>,
    random: &mut StdRng,
) -> End {
    let ended = client.ended(Duration::from_secs(24 * 3600));
    let Some(stay) = stay else {
        return ended.await;
    };
    tokio::select! {
        end = ended => end,
        () = sleep(pick(random, stay)) => {
            client.cut();
            client.ended(Duration::from_secs(60)).await
        }
    }
}

/// A duration from a range; of an empty one its start.
pub(crate) fn pick(random: &mut StdRng, range: &Range<Duration>) -> Duration {
    if range.is_empty() {
        range.start
    } else {
        random.random_range(range.clone())
    }
}
