//! Switchboard beside its peers, doing the same work in one run: Socket.IO on Node.js with its Redis adapter, plain socketioxide with
//! socketioxide-redis (`examples/plain.rs`), and Centrifugo.
//!
//! ```text
//! CENTRIFUGO_BIN=… cargo bench --bench compare                    # 13 minutes; prints tables
//! CENTRIFUGO_BIN=… cargo bench --bench compare -- --write docs    # and writes docs/performance.md, its figures and its curves
//! cargo bench --bench compare -- --smoke --only socketioxide      # whether it works, in seconds
//! cargo bench --bench compare -- --from docs/performance.json --write docs    # the page anew, from the same figures
//! ```
//!
//! A Centrifugo is a release, or what `go install github.com/centrifugal/centrifugo/v6@v6.9.1` makes, which calls itself 0.0.0 unless
//! `-ldflags '-X github.com/centrifugal/centrifugo/v6/internal/build.Version=6.9.1'` says better.
//!
//! Each fleet is alone, with a Redis of its own. Its clients are one crowd for all: two devices of each user on different nodes, and
//! rooms of 20. CPU is of all servers' processes and of Redis, by `/proc` and `INFO`, without what an idle fleet spends in that time, of calls
//! by 32 callers at once. Latency is from when a message was due, at fixed times, to when a client has it.
//!
//! - `options`: the command line. `peers`: how each is asked. `servers`: how each is built and started.
//! - `crowd`: the clients. `measure`: the work. `figures`: what came of it. `tables`, `curves`, `page`: how it is told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "../foundation/caller.rs"]
mod caller;
mod crowd;
mod curves;
mod figures;
mod measure;
#[allow(dead_code)]
#[path = "../foundation/meter.rs"]
mod meter;
mod options;
#[allow(unused_imports)]
#[path = "../../src/cli/bench/pace.rs"]
mod pace;
mod page;
mod peers;
mod servers;
#[path = "../../tests/support/mod.rs"]
mod support;
mod tables;
#[allow(dead_code)]
#[path = "../../tests/attack/wire.rs"]
mod wire;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use figures::Results;
use options::Options;
use servers::Programs;
use support::run::Run;

fn main() {
    let options = Options::read();
    if !options.bench {
        eprintln!("compare measures, and tests nothing: cargo bench --bench compare");
        return;
    }
    let results = match &options.from {
        Some(file) => serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap(),
        None => measured(&options),
    };
    let json = serde_json::to_string_pretty(&results).unwrap() + "\n";
    match options.json {
        true => print!("{json}"),
        false => println!("{}", tables::of(&results)),
    }
    if let Some(docs) = &options.write {
        fs::write(docs.join("performance.json"), json).unwrap();
        fs::write(docs.join("performance.md"), page::of(&results)).unwrap();
        for (name, svg) in curves::of(&results) {
            fs::write(docs.join("images").join(name), svg).unwrap();
        }
    }
}

fn measured(options: &Options) -> Results {
    // A client is a descriptor here and in a server, which inherits the limit.
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let programs = Programs::build(options);
    for line in &programs.left_out {
        eprintln!("{line}");
    }
    let run = Run::begin("compare");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut results = Results::new(options, &programs);
    for size in &options.nodes {
        for (peer, command) in &programs.commands {
            run.tell(format!("{peer}, nodes: {size}"));
            let measuring = measure::fleet(options, &run, *peer, command, *size);
            // A fleet that fails is told of beside the figures of the others.
            match catch_unwind(AssertUnwindSafe(|| runtime.block_on(measuring))) {
                Ok((measured, notes)) => {
                    results.fleets.push(measured);
                    results.notes.extend(notes);
                }
                Err(_) => results
                    .notes
                    .push(format!("{peer}, nodes: {size}: the bench failed")),
            }
        }
    }
    results
}
