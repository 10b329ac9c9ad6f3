//! The same work for each fleet, and what it cost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    caller::{Caller, another, calls},
    crowd::{Crowd, holders_of},
    figures::Measured,
    meter::{Cost, Meter},
    options::Options,
    pace::{Pace, Recorded},
    peers::{Peer, ROOM, Work},
    servers::Servers,
    support::run::Run,
};

/// Bytes of a message's data.
const PAYLOAD: usize = 128;
/// Calls at once while CPU is measured; of broadcasts, each of which is as many deliveries as there are clients.
const AT_ONCE: usize = 32;
const BROADCASTS_AT_ONCE: usize = 2;
/// How long servers are left alone before their memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// A fleet that works.
struct Bench<'a> {
    options: &'a Options,
    peer: Peer,
    nodes: usize,
    crowd: Crowd,
    caller: Arc<Caller>,
    idle: Cost,
    figures: BTreeMap<String, f64>,
    notes: Vec<String>,
}

/// Starts a fleet and measures it. Returns its figures, and what went wrong.
pub(crate) async fn fleet(
    options: &Options,
    run: &Run,
    peer: Peer,
    command: &[String],
    nodes: usize,
) -> (Measured, Vec<String>) {
    let servers = Servers::start(run, peer, command, nodes).await;
    let (addrs, processes): (Vec<_>, Vec<_>) = servers.nodes().into_iter().unzip();
    let mut meter = Meter::of(servers.redis(), processes).await;
    sleep(SETTLE).await;
    let empty = servers.memory();
    let crowd = Crowd::come(peer, &addrs, options.users).await;
    sleep(SETTLE).await;
    let memory = (servers.memory() - empty) / crowd.size as f64;
    let idle = meter.idle((options.seconds + 1) as f64).await;
    let mut bench = Bench {
        options,
        peer,
        nodes,
        crowd,
        caller: Arc::new(Caller::of(addrs.into_iter())),
        idle,
        figures: BTreeMap::new(),
        notes: Vec::new(),
    };
    let second = bench.idle.per(bench.idle.seconds);
    bench.put("idle.memory", memory);
    bench.put("idle.servers", second.nodes / nodes as f64);
    bench.put("idle.redis", second.redis);
    for work in [Work::Send, Work::Room, Work::Broadcast] {
        bench.cost(&mut meter, work).await;
        bench.latency(work).await;
    }
    bench.online(&mut meter).await;
    let gone = bench.crowd.ears.gone();
    if gone > 0 {
        bench.note(format!("{gone} connections were ended"));
    }
    let measured = Measured {
        peer,
        nodes,
        figures: bench.figures,
    };
    (measured, bench.notes)
}

impl Bench<'_> {
    fn put(&mut self, id: &str, value: f64) {
        // What is less than an idle fleet's noise is nothing.
        self.figures.insert(id.to_owned(), value.max(0.0));
    }

    fn note(&mut self, what: impl std::fmt::Display) {
        self.notes
            .push(format!("{}, nodes: {}: {what}", self.peer, self.nodes));
    }

    /// How many messages of one kind there are while CPU is measured, how many each second while latency is, and how many
    /// deliveries each is.
    fn amount(&self, work: Work) -> (usize, f64, usize) {
        let Options { sends, rate, .. } = *self.options;
        match work {
            Work::Send => (sends, rate, 2),
            Work::Room => (sends / 4, rate / 4.0, ROOM.min(self.crowd.size)),
            Work::Broadcast => ((sends / 100).max(1), rate / 40.0, self.crowd.size),
            Work::Online => (sends / 2, rate / 4.0, 0),
        }
    }

    /// The node that is asked, and the number of the user or room: by turns, and none that holds the user where there is one.
    fn whose(&self, work: Work, number: usize) -> (usize, usize) {
        let users = self.options.users;
        match work {
            Work::Send | Work::Online => {
                let user = number % users;
                let holders = holders_of(user, self.nodes);
                (another(number, self.nodes, holders), user)
            }
            Work::Room => (number % self.nodes, number % users.div_ceil(ROOM / 2)),
            Work::Broadcast => (number % self.nodes, 0),
        }
    }

    /// What each of many messages costs, so many at once.
    async fn cost(&mut self, meter: &mut Meter<'_>, work: Work) {
        let (count, _, deliveries) = self.amount(work);
        // Opens the callers' connections, and has just-in-time compilers look at what is done often.
        self.send(work, count.div_ceil(4)).await;
        let start = Instant::now();
        let ((), cost) = meter.cost(self.send(work, count)).await;
        let took = start.elapsed().as_secs_f64();
        self.take(&format!("{work:?} by {AT_ONCE} callers"));
        let cost = cost.beyond(&self.idle).per(count as f64);
        let name = name(work);
        let divisor = if work == Work::Broadcast {
            deliveries as f64
        } else {
            1.0
        };
        self.put(&format!("{name}.servers"), cost.nodes / divisor);
        self.put(&format!("{name}.redis"), cost.redis);
        if work == Work::Send {
            self.put("send.rate", count as f64 / took);
        }
    }

    /// Sends, and waits until all has come.
    async fn send(&self, work: Work, count: usize) {
        let (_, _, deliveries) = self.amount(work);
        let at_once = match work {
            Work::Broadcast => BROADCASTS_AT_ONCE,
            _ => AT_ONCE,
        };
        let ears = &self.crowd.ears;
        let expected = ears.heard() + count * deliveries;
        calls(count, at_once, async |number| {
            let (node, to) = self.whose(work, number);
            let data = ears.data(Instant::now(), PAYLOAD);
            let call = self.peer.call(work, to, &data);
            if let Err(error) = ask(&self.caller, node, call).await {
                ears.record.failed(error, 1);
            }
        })
        .await;
        self.crowd.wait(expected).await;
    }

    /// How long messages take from when each was due, which is at fixed times.
    async fn latency(&mut self, work: Work) {
        let (_, rate, deliveries) = self.amount(work);
        let pace = Pace::lasting(rate, Duration::from_secs(self.options.seconds));
        let ears = self.crowd.ears.clone();
        let expected = ears.heard() + pace.count as usize * deliveries;
        pace.run("sending", &ears.record, |number, due| {
            let (node, to) = self.whose(work, number as usize);
            let call = self.peer.call(work, to, &ears.data(due, PAYLOAD));
            let caller = self.caller.clone();
            async move { ask(&caller, node, call).await.map(drop) }
        })
        .await;
        self.crowd.wait(expected).await;
        let recorded = self.take(&format!("{work:?} at a fixed rate"));
        if let Some(delivered) = recorded.times.get("delivered") {
            let at = |quantile| delivered.value_at_quantile(quantile) as f64 / 1e3;
            let (p50, p99) = (at(0.5), at(0.99));
            self.put(&format!("{}.p50", name(work)), p50);
            self.put(&format!("{}.p99", name(work)), p99);
        }
    }

    /// Takes what is recorded, and notes what has failed.
    fn take(&mut self, what: &str) -> Recorded {
        let recorded = self.crowd.ears.record.take();
        for (why, count) in &recorded.failures {
            self.note(format!("{what}: {count} × {why}"));
        }
        recorded
    }

    /// Asks who is connected.
    async fn online(&mut self, meter: &mut Meter<'_>) {
        let (count, rate, _) = self.amount(Work::Online);
        let question = |number: usize| {
            let (node, user) = self.whose(Work::Online, number);
            let call = self.peer.call(Work::Online, user, "");
            let (caller, peer) = (self.caller.clone(), self.peer);
            async move {
                match peer.online(&ask(&caller, node, call).await?) {
                    2 => Ok(()),
                    other => Err(format!("{other} devices are connected, and not 2")),
                }
            }
        };
        let record = self.crowd.ears.record.clone();
        let ask_all = async |count| {
            calls(count, AT_ONCE, async |number| {
                if let Err(error) = question(number).await {
                    record.failed(error, 1);
                }
            })
            .await;
        };
        ask_all(count.div_ceil(4)).await;
        let ((), cost) = meter.cost(ask_all(count)).await;
        let cost = cost.beyond(&self.idle).per(count as f64);
        let pace = Pace::lasting(rate, Duration::from_secs(self.options.seconds));
        pace.run("asking", &record, |number, due| {
            let (asking, record) = (question(number as usize), record.clone());
            async move {
                asking.await?;
                record.time("answered", due.elapsed());
                Ok(())
            }
        })
        .await;
        self.put("online.servers", cost.nodes);
        self.put("online.redis", cost.redis);
        let recorded = self.take("Who is online");
        if let Some(answered) = recorded.times.get("answered") {
            self.put("online.p50", answered.value_at_quantile(0.5) as f64 / 1e3);
        }
    }
}

/// Calls a node. Returns what it says; null if that is no JSON.
async fn ask(
    caller: &Caller,
    node: usize,
    (path, body): (String, Option<Value>),
) -> Result<Value, String> {
    let method = body.as_ref().map_or(Method::GET, |_| Method::POST);
    let answer = caller.call(method, node, &path, body.as_ref()).await?;
    Ok(serde_json::from_slice(&answer).unwrap_or_default())
}

fn name(work: Work) -> &'static str {
    match work {
        Work::Send => "send",
        Work::Room => "room",
        Work::Broadcast => "broadcast",
        Work::Online => "online",
    }
}
