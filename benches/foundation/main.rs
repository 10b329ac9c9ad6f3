//! What the foundation costs: Redis' time and the nodes' for sends, reads, connects and heartbeats, and for putting back what Redis
//! lost. Prints the figures as a Markdown table.
//!
//! ```text
//! cargo bench --bench foundation
//! cargo bench --bench foundation -- --bin old-switchboard --bin target/release/switchboard --repeat 3 --only sends,reads
//! ```
//!
//! Nodes are processes with the defaults of the product and no limits per user, around a `redis-server` of the bench's own. It uses
//! nothing but sockets, the HTTP API, `/proc` and Redis' `INFO`, so that the same bench measures any version: each `--bin` gets a
//! column. With `--repeat` the lowest figure of each counts, as a busy machine only adds.
//!
//! - `options`: the command line. `meter`: what Redis and the nodes spent. `table`: the figures.
//! - `crowd`: clients that do nothing but listen. `caller`: a backend that keeps its HTTP connections.
//! - `bare`: a WebSocket server without Socket.IO, which deliveries to a room are held against.
//! - `heartbeats`, `sends`, `reads`, `rooms`, `members`, `notifications`, `syscalls`, `connects`, `loss`: the parts, each with a fleet of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bare;
mod caller;
mod connects;
mod crowd;
mod heartbeats;
mod loss;
mod members;
mod meter;
mod notifications;
mod options;
mod reads;
mod rooms;
mod sends;
#[path = "../../tests/support/mod.rs"]
mod support;
mod syscalls;
mod table;
#[allow(dead_code)]
#[path = "../../tests/attack/wire.rs"]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use clap::Parser;

use options::{Options, Part};
use support::{
    fleet::{Fleet, Plan},
    run::Run,
};
use table::Table;

/// One pass over one binary.
struct Bench<'a> {
    options: &'a Options,
    run: &'a Run,
    table: &'a mut Table,
    /// The column of the binary.
    column: usize,
}

impl Bench<'_> {
    /// Starts nodes of the binary that is measured.
    async fn fleet(&self, size: usize) -> Fleet {
        self.start(Plan::of(size)).await
    }

    /// Starts nodes of the binary that is measured, with settings.
    async fn start(&self, mut plan: Plan) -> Fleet {
        if let Some(binary) = self.options.bin.get(self.column) {
            let instead = format!("shift; exec {binary} \"$@\"");
            plan.wrapper = ["sh", "-c", &instead, "sh"].map(str::to_owned).to_vec();
        }
        Fleet::start(self.run, plan).await
    }

    /// Keeps a figure.
    fn put(&mut self, what: &str, bar: &str, value: f64) {
        self.run.tell(format!("{what}: {value:.2}"));
        self.table.put(self.column, what, bar, value);
    }

    async fn pass(&mut self) {
        for part in self.options.parts() {
            self.run.tell(format!("{part:?}"));
            match part {
                Part::Heartbeats => heartbeats::measure(self).await,
                Part::Sends => sends::measure(self).await,
                Part::Reads => reads::measure(self).await,
                Part::Rooms => rooms::measure(self).await,
                Part::Members => members::measure(self).await,
                Part::Notifications => notifications::measure(self).await,
                Part::Syscalls => syscalls::measure(self).await,
                Part::Connects => connects::measure(self).await,
                Part::Loss => loss::measure(self).await,
            }
        }
    }
}

fn main() {
    let options = Options::parse();
    if options.bare {
        options.make_room();
        bare::serve().unwrap();
        return;
    }
    if !options.bench {
        eprintln!("foundation measures, and tests nothing: cargo bench --bench foundation");
        return;
    }
    options.make_room();
    let run = Run::begin("foundation");
    let mut table = Table::new(&options.columns());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..options.repeat {
        for column in 0..options.columns().len() {
            let mut bench = Bench {
                options: &options,
                run: &run,
                table: &mut table,
                column,
            };
            let pass = || runtime.block_on(bench.pass());
            if let Err(panic) = catch_unwind(AssertUnwindSafe(pass)) {
                println!("{table}\nIt ended early.");
                resume_unwind(panic);
            }
        }
    }
    println!("{table}");
}
