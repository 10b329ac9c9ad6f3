//! Redis forgets everything while clients stay connected: how long until all of them are known again; and what each takes of its
//! memory.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Bench,
    connects::leave,
    crowd::{Comer, Crowd, counted, namespace, settled},
    options::SOCKETS,
    support::{
        bounds::{ensure, seconds, within},
        fleet::{Fleet, Plan},
        redis_server::Server,
    },
};

/// An entry of `SLOWLOG GET`: number, time, microseconds, the command's words, who asked.
pub(crate) type Slow = (u64, u64, u64, Vec<Vec<u8>>, String, String);

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    let losers = bench.options.losers;
    let namespaces = bench.options.lost.div_ceil(SOCKETS);
    let sockets = bench.options.lost / namespaces;
    let lost = sockets * namespaces;
    let mut config = tempfile::NamedTempFile::new().unwrap();
    for number in 0..namespaces {
        writeln!(config, "[[namespaces]]\npath = \"{}\"", namespace(number)).unwrap();
    }
    for nodes in [1, losers] {
        let plan = Plan::of(nodes).with("CONFIG", config.path().to_str().unwrap());
        let fleet = bench.start(plan).await;
        let empty = used(&fleet.redis).await;
        let comers = (0..sockets).map(|socket| {
            let users = (0..namespaces).map(|place| format!("user-{}", socket + place * sockets));
            Comer {
                node: socket % nodes,
                users: users.collect(),
            }
        });
        let crowd = Crowd::come(&fleet, comers).await;
        settled(&fleet, lost, lost).await;
        if nodes == 1 {
            let each = (used(&fleet.redis).await - empty) / lost as f64;
            bench.put("Redis memory of a connection, bytes", "≤ 400", each);
        }

        let () = fleet
            .redis
            .run("CONFIG SET slowlog-log-slower-than 500")
            .await;
        let () = fleet.redis.run("CONFIG SET slowlog-max-len 10000").await;
        let () = fleet.redis.run("FLUSHALL").await;
        let () = fleet.redis.run("SLOWLOG RESET").await;
        let start = Instant::now();
        let pulse = Pulse::start(&fleet.redis).await;
        let look = async || everybody(&fleet, lost).await;
        within(seconds(120.0), "everybody is known again", look).await;
        let took = start.elapsed();
        let longest = pulse.finish().await;
        assert_eq!(crowd.gone(), 0, "connections were closed");

        let name = format!("{lost} put back by {nodes}");
        bench.put(&format!("{name}: s"), "", took.as_secs_f64());
        let longest = 1e3 * longest.as_secs_f64();
        bench.put(&format!("{name}: longest PING, ms"), "≤ 500", longest);
        let slow: Vec<Slow> = fleet.redis.run("SLOWLOG GET 10000").await;
        let slowest = slow.iter().max_by_key(|entry| entry.2);
        let millis = slowest.map_or(0.0, |entry| entry.2 as f64 / 1e3);
        bench.put(&format!("{name}: slowest command, ms"), "≤ 500", millis);
        if let Some((_, _, _, words, ..)) = slowest {
            let mut words = String::from_utf8_lossy(&words.join(&b' ')).into_owned();
            words.truncate(words.floor_char_boundary(120));
            let note = format!("{name}: the slowest command: {words}");
            bench.table.latest(bench.column, &name, &note);
        }
        leave(fleet);
        drop(crowd);
    }
}

/// Whether every node counts everybody, says that a thousand users are online, and lists them all.
async fn everybody(fleet: &Fleet, count: usize) -> Result<(), String> {
    counted(fleet, count, count).await?;
    let sample: Vec<_> = (0..1_000)
        .map(|number| format!("user-{}", number * count / 1_000))
        .collect();
    for node in &fleet.nodes {
        let answer = node.api.post("/v1/presence", json!({ "users": sample }));
        let users = answer.await?.ok("/v1/presence")?;
        let users = users["users"].as_object().cloned().unwrap_or_default();
        let online = users
            .values()
            .filter(|user| user["online"] == Value::Bool(true));
        let online = online.count();
        let should = sample.iter().collect::<BTreeSet<_>>().len();
        ensure(online == should, || format!("{} knows {online}", node.name))?;
    }
    let listed = fleet[0].api.everybody(1_000).await?.len();
    ensure(listed == count, || format!("{listed} are listed"))
}

async fn used(redis: &Server) -> f64 {
    let info = redis.info("memory").await;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    line.unwrap().trim().parse().unwrap()
}

/// Asks Redis all along, as anybody else would.
struct Pulse {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Duration>,
}

impl Pulse {
    async fn start(redis: &Server) -> Self {
        let mut connection = redis.connection().await;
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let task = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            while !until.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let () = redis::cmd("PING")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                longest = longest.max(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            longest
        });
        Self { over, task }
    }

    /// The longest time that an answer took.
    async fn finish(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
