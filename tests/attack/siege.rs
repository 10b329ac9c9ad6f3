//! A node under attack: the neighbours that must not notice, and the toll that it took.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::sync::MutexGuard;

use crate::{
    ground::{alone, crowd_at, on_given_binary},
    pollers::{self, Poller},
    pulse::{Beat, Pulse},
    regulars::Doors,
    support::{
        bounds::{ensure, seconds, within},
        client::Client,
        fleet::{Fleet, Node, Plan},
        run::Run,
    },
};

/// How much more memory a node may hold under any attack of this suite, in KB.
pub(crate) const MORE_MEMORY: u64 = 64 * 1024;

/// How soon an attacker is to be ended.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// For how long the usual is looked at, and at least the attack.
const WINDOW: Duration = Duration::from_secs(2);

/// Neighbours beside the pulse's client and the poller.
const NEIGHBOURS: usize = 5;

/// Counters of what the node has refused or ended, by reason. The reasons in [`BY_THE_CLIENT`] are those of ends that a client
/// brings about by itself.
const COUNTERS: [&str; 4] = [
    "switchboard_transports_ended_total",
    "switchboard_connect_errors_total",
    "switchboard_events_refused_total",
    "switchboard_disconnects_total",
];
const BY_THE_CLIENT: [&str; 5] = [
    "transport_close",
    "transport_error",
    "client_disconnect",
    "ping_timeout",
    "timeout",
];

/// A node with neighbours, looked at from before the attack.
pub(crate) struct Siege {
    pub(crate) run: Run,
    pub(crate) fleet: Fleet,
    neighbours: Vec<Client>,
    poller: Poller,
    pulse: Pulse,
    usual: Beat,
    start: Instant,
    rss: u64,
    cpu: Duration,
    counted: BTreeMap<String, f64>,
    ends: f64,
    _alone: MutexGuard<'static, ()>,
}

/// What an attack has cost.
pub(crate) struct Toll {
    /// The most that the node held above what it held before, in KB.
    pub(crate) memory: u64,
    pub(crate) cpu: Duration,
    beat: Beat,
    usual: Beat,
    /// Counters of refusals and ends that have grown, by name and reason.
    pub(crate) counted: BTreeMap<String, f64>,
    ends: f64,
}

impl Siege {
    /// A node with the settings of the product, and some neighbours that are served for a while.
    pub(crate) async fn lay(name: &'static str) -> Self {
        Self::lay_with(name, Plan::of(1)).await
    }

    /// A node with settings of the test's own, and some neighbours that are served for a while.
    pub(crate) async fn lay_with(name: &'static str, plan: Plan) -> Self {
        let alone = alone().await;
        let run = Run::begin(name);
        let fleet = Fleet::start(&run, on_given_binary(plan)).await;
        let door = fleet[0].addr;
        let neighbours = crowd_at(door, "neighbour", NEIGHBOURS).await;
        let random = run.random("poller");
        let poller = Poller::start("poller", Doors::of(&fleet), pollers::http(), random);
        let look = async || ensure(poller.state().at.is_some(), || "on its way".into());
        within(seconds(10.0), "the polling neighbour is in", look).await;
        let pulse = Pulse::start(door, "pulse");
        let online = async || {
            let user = fleet[0].api.read("/v1/users/pulse").await?;
            ensure(user["online"] == true, || user.to_string())
        };
        within(seconds(10.0), "the pulse's client is in", online).await;
        let quiet = Instant::now();
        tokio::time::sleep(WINDOW).await;
        let start = Instant::now();
        let usual = pulse.beat(quiet, start).await;
        let mut siege = Self {
            counted: BTreeMap::new(),
            ends: 0.0,
            rss: 0,
            cpu: Duration::ZERO,
            _alone: alone,
            start,
            usual,
            run,
            fleet,
            neighbours,
            poller,
            pulse,
        };
        siege.begin().await;
        siege
    }

    pub(crate) fn node(&self) -> &Node {
        &self.fleet[0]
    }

    pub(crate) fn door(&self) -> SocketAddr {
        self.fleet[0].addr
    }

    /// From here on the toll is counted.
    pub(crate) async fn begin(&mut self) {
        (self.counted, self.ends) = counted(self.node()).await.unwrap();
        self.node().process.forget_peak();
        self.rss = self.node().process.status("VmRSS");
        self.cpu = self.node().process.cpu();
        self.start = Instant::now();
    }

    /// What it has cost since the last [`Siege::begin`]. The node has to answer.
    pub(crate) async fn toll(&self) -> Toll {
        tokio::time::sleep_until((self.start + WINDOW).into()).await;
        let till = Instant::now();
        let beat = self.pulse.beat(self.start, till).await;
        let look = async || counted(self.node()).await;
        let (_, (mut now, ends)) = within(seconds(30.0), "the node shows its metrics", look).await;
        for (series, before) in &self.counted {
            if let Some(value) = now.get_mut(series) {
                *value -= before;
            }
        }
        now.retain(|_, grown| *grown > 0.0);
        let process = &self.node().process;
        let toll = Toll {
            memory: process.status("VmHWM").saturating_sub(self.rss),
            cpu: process.cpu().saturating_sub(self.cpu),
            beat,
            usual: self.usual,
            counted: now,
            ends: ends - self.ends,
        };
        self.run.tell(&toll);
        toll
    }

    /// The neighbours are still there, and once they have gone too nothing is left.
    pub(crate) async fn lift(self) {
        let open = self.neighbours.iter().filter(|client| client.is_open());
        assert_eq!(open.count(), NEIGHBOURS, "a neighbour was dropped");
        let poller = self.poller.state();
        assert_eq!(
            (poller.visits, &poller.statuses, &poller.codes),
            (1, &Vec::new(), &Vec::new()),
            "the polling neighbour was dropped: {poller:?}"
        );
        self.poller.rest(true);
        self.pulse.finish();
        self.fleet.finish(self.neighbours, seconds(20.0)).await;
    }
}

impl Toll {
    /// What does not hold of memory, neighbours and the API.
    pub(crate) fn too_much(&self) -> Vec<String> {
        let mut wrong = self.beat.worse_than(self.usual);
        if self.memory > MORE_MEMORY {
            wrong.push(format!(
                "{} KB more memory, {MORE_MEMORY} KB at most",
                self.memory
            ));
        }
        wrong
    }

    /// How often the node has refused or ended somebody. One that is ended is in more than one counter if it had a connection: of
    /// the counters the one that says most.
    pub(crate) fn refusals(&self) -> f64 {
        let of = |name: &&str| {
            let series = self.counted.iter();
            let meant = series.filter(|(series, _)| series.starts_with(name));
            meant.fold(0.0, |sum, (_, grown)| sum + grown)
        };
        COUNTERS.iter().map(of).fold(0.0, f64::max)
    }

    /// How many connections have ended, for whatever reason. The engine ends by itself a client that sends what it can't parse; where more
    /// follows at once, the end of the transport may be seen before its reason (`transport_close` in place of `parse_error`).
    pub(crate) fn ends(&self) -> f64 {
        self.ends
    }

    /// Holds it to the bounds of memory and of neighbours' times. Each of the attackers must have been ended, and counted.
    pub(crate) fn holds(&self, attackers: usize, ended: usize) {
        let mut wrong = self.too_much();
        if ended < attackers {
            wrong.push(format!("{ended} of {attackers} attackers were ended"));
        }
        if self.refusals() < attackers as f64 {
            wrong.push(format!(
                "{} of {attackers} are counted: {:?}",
                self.refusals(),
                self.counted
            ));
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}

impl std::fmt::Display for Toll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} MB more, {:.2?} of CPU; usual {}; attacked {}; counted {:?}",
            self.memory as f64 / 1024.0,
            self.cpu,
            self.usual,
            self.beat,
            self.counted
        )
    }
}

/// The counters of refusals and ends, by name and reason, and how many connections have ended for whatever reason.
async fn counted(node: &Node) -> Result<(BTreeMap<String, f64>, f64), String> {
    let scrape = node.api.metrics().await?;
    let mut found = BTreeMap::new();
    for name in COUNTERS {
        for (reason, value) in scrape.reasons(name) {
            if !BY_THE_CLIENT.contains(&reason.as_str()) {
                found.insert(format!("{name} {reason}"), value);
            }
        }
    }
    Ok((found, scrape.sum("switchboard_disconnects_total", &[])))
}
