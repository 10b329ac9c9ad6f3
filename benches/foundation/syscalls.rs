//! The system calls of the nodes for a send, counted by strace. It slows the nodes down, so that what travels together may differ a
//! little from what travels together without it.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use crate::{
    Bench,
    caller::Caller,
    crowd::Crowd,
    sends::{Shape, USERS, send},
    support::{
        bounds::{bound, ensure, seconds, within},
        fleet::Fleet,
        process::Process,
    },
};

/// Sends that are counted.
const SENDS: usize = 3_000;
/// Seconds in which it is seen what an idle fleet does.
const IDLE: u64 = 3;
/// The calls that are told.
const TOLD: [&str; 6] = [
    "epoll_wait",
    "futex",
    "write",
    "sendto",
    "writev",
    "recvfrom",
];

pub(crate) async fn measure(bench: &mut Bench<'_>) {
    if Command::new("strace").arg("-V").output().is_err() {
        bench.table.note(
            bench.column,
            "system calls are left out: there is no strace",
        );
        return;
    }
    let nodes = bench.options.nodes;
    let fleet = bench.fleet(nodes).await;
    let crowd = Crowd::of_pairs(&fleet, USERS, nodes).await;
    let caller = Caller::new(&fleet);
    send(&caller, &crowd, Shape::of(nodes), SENDS / 10).await;
    let pause = tokio::time::sleep(Duration::from_secs(IDLE));
    let (_, idle) = traced(&fleet, pause).await;
    let (took, counts) = traced(&fleet, async {
        send(&caller, &crowd, Shape::of(nodes), SENDS).await;
    })
    .await;
    let mut all = 0.0;
    for (name, count) in &counts {
        let idle = idle.get(name).copied().unwrap_or(0.0);
        let each = (count - idle * took / IDLE as f64) / SENDS as f64;
        all += each;
        if TOLD.contains(&name.as_str()) {
            bench.put(&format!("a send, {nodes} nodes: {name}"), "", each);
        }
    }
    bench.put(&format!("a send, {nodes} nodes: system calls"), "", all);
}

/// Counts the system calls of all nodes meanwhile. Returns the seconds that it took, and the calls by name.
async fn traced(fleet: &Fleet, work: impl Future<Output = ()>) -> (f64, BTreeMap<String, f64>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(file.path());
    for node in &fleet.nodes {
        command.args(["-p", &node.process.pid().to_string()]);
    }
    let mut strace = Process::spawn(&mut command);
    let look = async || {
        let traced = fleet.nodes.iter().map(|node| untraced(node.process.pid()));
        let left: usize = traced.sum();
        ensure(left == 0, || {
            format!("{left} threads, {}", strace.log().join("\n"))
        })
    };
    within(seconds(30.0), "strace is attached to every thread", look).await;
    let start = std::time::Instant::now();
    work.await;
    let took = start.elapsed().as_secs_f64();
    strace.signal("INT");
    strace.ends(bound(Duration::from_secs(30))).await;
    let text = fs::read_to_string(file.path()).unwrap();
    (took, text.lines().filter_map(count).collect())
}

/// How many threads of a process nobody traces.
fn untraced(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks
        .flatten()
        .map(|task| fs::read_to_string(task.path().join("status")));
    let free = statuses
        .flatten()
        .filter(|status| status.contains("TracerPid:\t0\n"));
    free.count()
}

/// `% time, seconds, usecs/call, calls, errors if any, name`
fn count(line: &str) -> Option<(String, f64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let calls = words.get(3)?.parse().ok()?;
    let name = *words.last()?;
    (name != "total").then(|| (name.to_owned(), calls))
}
